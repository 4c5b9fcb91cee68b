package config

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// check looks for what is wrong between values. It skips values that were
// reported already and are therefore missing.
func (c *Config) check(d *decoder) {
	c.checkLimits(d)
	c.checkListeners(d)
	c.checkConsent(d)
	for _, u := range c.Upstreams {
		u.check(d, "upstreams."+printable(u.Name))
		u.OAuth.check(d, "upstreams."+printable(u.Name)+".oauth", u.profile())
		if u.OAuth.Grant == ByConsent && !c.Vault.Set() && !d.blamed("vault") {
			d.fault("upstreams."+printable(u.Name)+".oauth", "needs a vault, where what people consent to is kept: set vault.key_file, vault.key_env or vault.credential")
		}
	}
	if len(c.Upstreams) == 0 && !d.blamed("upstreams") {
		d.fault("upstreams", "none: postern needs a server to get mail from")
	}
	c.checkVault(d)
	c.checkAccounts(d)
	c.checkProving(d)
	c.checkRoutes(d)
	c.fillPolicy(d)
	c.checkPolicies(d)
	c.checkUnused(d)
}

func (c *Config) checkLimits(d *decoder) {
	l := c.Limits
	// RFC 1939 section 3: such a timer MUST be of at least 10 minutes' duration.
	if l.IdleTimeout < 10*time.Minute {
		d.warn("limits.idle_timeout", "shorter than the 10m that RFC 1939 section 3 grants every client")
	}
	if l.ConnectionsPerAddress > l.Connections {
		d.warn("limits.connections_per_address", "more than limits.connections, %d, so without effect", l.Connections)
	}
}

func (c *Config) checkListeners(d *decoder) {
	if len(c.Listeners) == 0 && !d.blamed("listeners") {
		d.fault("listeners", "none: postern needs an address to listen on, such as 127.0.0.1:1110")
	}
	taken := map[string]string{}
	claim := func(address, path string) {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "0" {
			return // reported already, or whichever port is free
		}
		if first, ok := taken[address]; ok {
			d.fault(path, "%s is the address of %s already", address, first)
			return
		}
		taken[address] = path
	}
	for i, l := range c.Listeners {
		l.check(d, item("listeners", i))
		claim(l.Address, item("listeners", i)+".address")
	}
	claim(c.Admin.Address, "admin.address")
}

func (l Listener) check(d *decoder, path string) {
	required(d, path, "address")
	for _, file := range []string{"certificate", "key"} {
		if l.TLS != TLSOff && !d.has(path+"."+file) {
			d.fault(path+"."+file, "missing: tls: %s needs a certificate and its key", l.TLS)
		}
		if l.TLS == TLSOff && d.has(path+"."+file) {
			d.fault(path+"."+file, "has no use with tls: off: set tls to stls or implicit")
		}
	}
	switch {
	case l.TLS == TLSImplicit && d.has(path+".plaintext_login"):
		d.fault(path+".plaintext_login", "has no use with tls: implicit")
	case l.TLS == TLSOff && len(l.PlaintextLogin) == 0:
		d.fault(path+".plaintext_login", "nobody can log in: with tls: off it must name a network")
	case l.TLS == TLSOff && !d.has(path+".plaintext_login") && l.Address != "" && !isLoopback(l.Address):
		d.warn(path+".plaintext_login", "without it, and with tls: off, only this machine can log in")
	}
	l.checkMechanisms(d, path)
	for i, network := range l.PlaintextLogin {
		if network.Bits() == 0 {
			d.warn(item(path+".plaintext_login", i), "everybody may send passwords in the clear")
		}
	}
}

// required reports the keys that are not there.
func required(d *decoder, at string, keys ...string) {
	for _, key := range keys {
		if !d.has(at + "." + key) {
			d.fault(at+"."+key, "missing")
		}
	}
}

func (u Upstream) check(d *decoder, path string) {
	// The name goes into log lines and metrics.
	if u.Name == "" || len(u.Name) > 63 || strings.Trim(u.Name, labelOctets) != "" {
		d.fault(path, "a name is up to 63 letters, digits, - and _")
	}
	switch u.Protocol {
	case IMAP:
		refuse(d, path, "jmap", u.jmapFields())
		u.checkIMAP(d, path)
	case JMAP:
		refuse(d, path, "imap", u.imapFields())
		u.checkJMAP(d, path)
	default:
		required(d, path, "protocol")
	}
	if u.CAFile != "" && u.Fingerprint != nil {
		d.fault(path+".fingerprint", "trusts that one certificate whoever signed it: take it or ca_file, not both")
	}
}

// refuse reports keys that belong to the other protocol.
func refuse(d *decoder, path, protocol string, fields []field) {
	for _, f := range fields {
		if d.has(path + "." + f.key) {
			d.fault(path+"."+f.key, "is for protocol: %s only", protocol)
		}
	}
}

func (u Upstream) checkIMAP(d *decoder, path string) {
	if u.Address == "" {
		required(d, path, "address")
	}
	if u.TLS != TLSOff {
		if u.Insecure {
			d.fault(path+".insecure", "is for tls: off only")
		}
		return
	}
	for _, key := range []string{"ca_file", "fingerprint", "server_name"} {
		if d.has(path + "." + key) {
			d.fault(path+"."+key, "has no use with tls: off")
		}
	}
	if u.Address != "" && !isLoopback(u.Address) && !u.Insecure {
		d.fault(path+".tls", "off would send passwords to another machine in the clear: "+
			"take implicit or starttls, or accept that with insecure: true")
	}
}

func (u Upstream) checkJMAP(d *decoder, path string) {
	switch at := path + "."; {
	case u.URL == "" && !d.has(at+"url") && !d.has(at+"domain"):
		d.fault(path+".url", "missing: give the url of the JMAP session, or the domain to look it up for")
	case d.has(at+"url") && d.has(at+"domain"):
		d.fault(path+".domain", "is where url would come from: give one of the two")
	}
	parsed, err := url.Parse(u.URL)
	plain := err == nil && parsed.Scheme == "http"
	if plain && !u.PlainHTTP {
		d.fault(path+".url", "http would send passwords in the clear: take https, or accept that with plain_http: true")
	}
	if !plain && u.PlainHTTP {
		d.fault(path+".plain_http", "is for a url with http only")
	}
}

// isLoopback tells whether an address of host and port is on this machine.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

func (c *Config) checkRoutes(d *decoder) {
	if len(c.Routes) == 0 && !d.blamed("routes") && !c.HasAccounts() {
		d.fault("routes", `none: postern needs to know whose mail is where, such as {user: "*", upstream: NAME}`)
	}
	for i, r := range c.Routes {
		at := item("routes", i)
		required(d, at, "user", "upstream")
		if r.Upstream != "" && !c.hasUpstream(r.Upstream) {
			d.fault(at+".upstream", "there is no upstream %q%s", r.Upstream, c.upstreamHint(r.Upstream))
		}
		if r.Login == AccountsOnly && !c.HasAccounts() && !d.blamed("vault") && !d.blamed("accounts") {
			d.fault(at+".login", "nobody has an account: there are no accounts in this file, and no vault to keep others in")
		}
		if r.Login == PassThrough && c.Upstream(r.Upstream).OAuth.ForAll() {
			d.fault(at+".login", "must be account: postern is let into every mailbox of %s, and only its own accounts tell who may be let into which", r.Upstream)
		}
		if r.Login == AccountsOnly && d.has(at+".upstream_user") {
			d.fault(at+".upstream_user", "has no use with login: account: each account has its own")
		}
		for k, earlier := range c.Routes[:i] {
			if r.User != "" && earlier.User != "" && covers(earlier.User, r.User) {
				d.fault(at+".user", "%q is never reached: routes[%d] takes %q first", r.User, k, earlier.User)
				break
			}
		}
	}
}

func (c *Config) hasUpstream(name string) bool {
	for _, u := range c.Upstreams {
		if u.Name == name {
			return true
		}
	}
	return false
}

// upstreamHint is a hint at the upstream that was probably meant.
func (c *Config) upstreamHint(name string) string {
	var names []field
	for _, u := range c.Upstreams {
		names = append(names, field{key: u.Name})
	}
	if names == nil {
		return ""
	}
	return suggest(name, names)
}

// covers tells whether pattern a takes everybody whom pattern b would take. A
// star in b can only be taken by a star in a: it stands for anything.
func covers(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	parts := strings.Split(a, "*")
	if len(parts) == 1 {
		return a == b
	}
	rest, ok := strings.CutPrefix(b, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, rest, ok = strings.Cut(rest, part)
		if !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[last])
}

func (c *Config) checkUnused(d *decoder) {
	used := map[string]bool{}
	for _, r := range c.Routes {
		used[r.Upstream] = true
	}
	for _, a := range c.Accounts {
		used[a.Upstream] = true
	}
	for _, u := range c.Upstreams {
		if !used[u.Name] && !c.Vault.Set() { // with one, accounts of the state may be there
			d.warn("upstreams."+printable(u.Name), "no route leads here")
		}
	}
}
