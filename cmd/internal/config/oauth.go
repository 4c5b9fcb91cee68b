package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"postern/upstream/provider"
)

// OAuth is how postern gets tokens for the accounts of an upstream. The zero
// value is not at all.
type OAuth struct {
	Grant string // ByConsent, ByClientCredentials or ByServiceAccount

	ClientID         string
	ClientSecretFile string
	Certificate, Key string // PEM files, instead of the secret
	ServiceAccount   string // Google's JSON file

	Tenant   string
	Scopes   []string
	Issuer   string // where the endpoints are looked up that are not here
	Auth     string // endpoints
	Token    string
	Device   string
	SecretBy string // PostSecret or BasicSecret
	CAFile   string // whom to trust at the endpoints; "" for the system's roots
}

// Whose word lets postern into mailboxes. A provider's profile tells which it takes.
const (
	ByConsent           = provider.Consent           // that of the owner of each
	ByClientCredentials = provider.ClientCredentials // an administrator's
	ByServiceAccount    = provider.ServiceAccount    // the same, at Google
)

// How a client secret is sent.
const (
	PostSecret  = "post"
	BasicSecret = "basic"
)

// Set tells whether there are tokens.
func (o OAuth) Set() bool { return o.Grant != "" }

// ForAll tells whether the tokens are for all mailboxes of an organisation, so
// that it is postern alone who decides who is let into which.
func (o OAuth) ForAll() bool { return o.Grant == ByClientCredentials || o.Grant == ByServiceAccount }

func (o *OAuth) read(v value) {
	o.Grant = ByConsent
	v.mapping(o.fields()...)
}

func (o *OAuth) fields() []field {
	return []field{
		{"grant", into(&o.Grant, oneOf(ByConsent, ByClientCredentials, ByServiceAccount))},
		{"client_id", into(&o.ClientID, oneWord)},
		{"client_secret_file", into(&o.ClientSecretFile, text)},
		{"certificate", into(&o.Certificate, text)},
		{"key", into(&o.Key, text)},
		{"service_account_file", into(&o.ServiceAccount, text)},
		{"tenant", into(&o.Tenant, tenant)},
		{"scopes", listInto(&o.Scopes, oneWord)},
		{"issuer", into(&o.Issuer, endpoint)},
		{"authorization_endpoint", into(&o.Auth, endpoint)},
		{"token_endpoint", into(&o.Token, endpoint)},
		{"device_endpoint", into(&o.Device, endpoint)},
		{"send_secret", into(&o.SecretBy, oneOf(PostSecret, BasicSecret))},
		{"ca_file", into(&o.CAFile, text)},
	}
}

func oneWord(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return "", errors.New("want one word without spaces")
	}
	return text, nil
}

// tenant accepts the name of an organisation at Microsoft: an id, a domain, or
// one of the words for several.
func tenant(text string) (string, error) {
	if text == "" || strings.Trim(text, labelOctets+".") != "" {
		return "", fmt.Errorf("%q is not a tenant: it is an id such as 12345678-9abc-def0-1234-56789abcdef0, or a domain", text)
	}
	return text, nil
}

// endpoint accepts a URL that may be told a secret.
func endpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || !isHost(u.Hostname()) {
		return "", fmt.Errorf("%q is not a URL, such as https://login.example.org/token", text)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()+":0")) {
		return "", errors.New("secrets are sent there: take https")
	}
	return text, nil
}

// fill gives an upstream what its provider is known for, where the file says
// nothing.
func (u *Upstream) fill(d *decoder, path string) {
	p := u.profile()
	unless := func(key string, field *string, value string) {
		if value != "" && !d.has(path+"."+key) {
			*field = value
		}
	}
	unless("protocol", &u.Protocol, p.Protocol)
	if u.Protocol == p.Protocol {
		unless("address", &u.Address, p.Address)
		unless("tls", &u.TLS, p.TLS)
		if !d.has(path + ".domain") {
			unless("url", &u.URL, p.URL)
		}
		if p.URL != "" { // an app password for JMAP is a token
			unless("credentials", &u.Credentials, Bearer)
		}
	}
	u.PreferXOAUTH2 = p.XOAUTH2
	if u.OAuth.Set() {
		u.OAuth.fill(d, path+".oauth", p.OAuth)
	}
}

func (o *OAuth) fill(d *decoder, path string, known provider.OAuth) {
	known = known.In(o.Tenant)
	unless := func(key string, field *string, value string) {
		if value != "" && !d.has(path+"."+key) {
			*field = value
		}
	}
	if o.Issuer == "" {
		unless("authorization_endpoint", &o.Auth, known.AuthURL)
		unless("token_endpoint", &o.Token, known.TokenURL)
		unless("device_endpoint", &o.Device, known.DeviceURL)
	}
	scopes, secret := known.Scopes, PostSecret
	if o.ForAll() {
		scopes = known.ServiceScopes
	}
	if known.Basic {
		secret = BasicSecret
	}
	if !d.has(path + ".scopes") {
		o.Scopes = scopes
	}
	unless("send_secret", &o.SecretBy, secret)
}

// profile is what is known of the upstream's provider; nobody's is the generic one.
func (u Upstream) profile() provider.Profile {
	p, ok := provider.Find(u.Provider)
	if !ok {
		p, _ = provider.Find("generic")
	}
	return p
}

// check looks whether the keys go together, and are enough to get a token.
func (o OAuth) check(d *decoder, path string, p provider.Profile) {
	if !o.Set() || d.blamed(path+".grant") {
		return
	}
	if !p.Takes(o.Grant) && p.Name != "generic" {
		d.fault(path+".grant", "%s gives no tokens by %s: %s", p.Title, strings.ReplaceAll(o.Grant, "_", " "), p.Help)
		return
	}
	o.checkKeys(d, path, p)
	o.checkEndpoints(d, path)
	if o.Token == "" && o.Issuer == "" && o.Grant == ByServiceAccount {
		return // the file of the service account has it
	}
	if len(o.Scopes) == 0 && !d.blamed(path+".scopes") {
		d.fault(path+".scopes", "missing: what the tokens are to be good for")
	}
}

// The keys that each grant needs, and those that it has no use for.
var oauthKeys = map[string]struct{ needs, refuses []string }{
	ByConsent:           {[]string{"client_id"}, []string{"service_account_file"}},
	ByClientCredentials: {[]string{"client_id"}, []string{"service_account_file", "authorization_endpoint", "device_endpoint"}},
	ByServiceAccount: {[]string{"service_account_file"}, []string{"client_id", "client_secret_file", "certificate", "key",
		"authorization_endpoint", "device_endpoint", "issuer", "send_secret"}},
}

func (o OAuth) checkKeys(d *decoder, path string, p provider.Profile) {
	keys := oauthKeys[o.Grant]
	required(d, path, keys.needs...)
	for _, key := range keys.refuses {
		if d.has(path + "." + key) {
			d.fault(path+"."+key, "has no use with grant: %s", o.Grant)
		}
	}
	switch secret := d.has(path + ".client_secret_file"); {
	case d.has(path+".certificate") != d.has(path+".key"):
		d.fault(path+".certificate", "goes with key: give both, or neither")
	case secret && d.has(path+".certificate"):
		d.fault(path+".certificate", "proves the application instead of client_secret_file: give one of the two")
	case o.Grant == ByClientCredentials && !secret && !d.has(path+".certificate"):
		d.fault(path+".client_secret_file", "missing: an application proves itself by client_secret_file, or by certificate and key")
	}
	microsoft := p.OAuth.Tenant != ""
	switch {
	case !microsoft && d.has(path+".tenant") && !d.blamed(path+".tenant"):
		d.fault(path+".tenant", "is for Microsoft's providers only")
	case microsoft && o.Grant == ByClientCredentials && (o.Tenant == "" && !d.blamed(path+".tenant") || slices.Contains([]string{"common", "organizations", "consumers"}, o.Tenant)):
		d.fault(path+".tenant", "missing: an application gets its tokens from one organisation, so name its id or domain")
	}
}

func (o OAuth) checkEndpoints(d *decoder, path string) {
	if o.Issuer != "" || d.blamed(path+".issuer") || o.Grant == ByServiceAccount {
		return
	}
	if o.Token == "" && !d.blamed(path+".token_endpoint") {
		d.fault(path+".token_endpoint", "missing: give it, or the issuer to look it up at, or name a provider")
	}
	if o.Grant == ByConsent && o.Auth == "" && o.Device == "" && !d.blamed(path+".authorization_endpoint") && !d.blamed(path+".device_endpoint") {
		d.fault(path+".authorization_endpoint", "missing: people give their consent there, or by device_endpoint")
	}
}

// files are those that the keys of oauth name.
func (o *OAuth) files() map[string]*string {
	return map[string]*string{
		"client_secret_file": &o.ClientSecretFile, "certificate": &o.Certificate, "key": &o.Key, "service_account_file": &o.ServiceAccount,
		"ca_file": &o.CAFile,
	}
}

// soon is how long before its end a certificate is warned of.
const soon = 30 * day

func (o OAuth) checkFiles(d *decoder, path string) {
	for key, name := range o.files() {
		if *name == "" {
			continue
		}
		content, ok := readNamed(d, path+"."+key, *name)
		if !ok {
			continue
		}
		if len(strings.TrimSpace(string(content))) == 0 {
			d.fault(path+"."+key, "%s is empty", *name)
		}
		switch key {
		case "certificate":
			checkEnd(d, path+"."+key, content)
		case "ca_file":
			if !x509.NewCertPool().AppendCertsFromPEM(content) {
				d.fault(path+"."+key, "no certificate in %s: it must hold PEM", *name)
			}
		default:
			warnOfReaders(d, path+"."+key, *name)
		}
	}
}

// checkEnd warns of a certificate that its provider will take no longer.
func checkEnd(d *decoder, path string, content []byte) {
	block, _ := pem.Decode(content)
	if block == nil {
		d.fault(path, "no certificate: it must hold PEM")
		return
	}
	c, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		d.fault(path, "no certificate: %v", err)
	case time.Until(c.NotAfter) < 0:
		d.warn(path, "expired on %s: no tokens are given for it any more", c.NotAfter.UTC().Format(time.DateOnly))
	case time.Until(c.NotAfter) < soon:
		d.warn(path, "expires on %s: register another with the provider before", c.NotAfter.UTC().Format(time.DateOnly))
	}
}

// fillPolicy gives the routes of providers whose users expect another removal
// than postern's own what they expect, where the file says nothing.
func (c *Config) fillPolicy(d *decoder) {
	for i := range c.Routes {
		r, at := &c.Routes[i], item("routes", i)+".delete"
		wanted := c.Upstream(r.Upstream).profile()
		switch {
		case wanted.Delete == "" || d.blamed(at):
		case !d.has(at):
			r.Delete = wanted.Delete
		case r.Delete == DeleteExpunge:
			d.warn(at, "%s decides by a setting of each account what expunge does there, often not more than to take the message out of the inbox: delete: %s is what it does for its own users",
				wanted.Title, wanted.Delete)
		}
	}
}
