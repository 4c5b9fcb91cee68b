package config

import (
	"crypto/x509"
	"slices"
	"strings"
)

// The ways to log in that a listener may name.
const (
	LoginUser        = "user" // USER and PASS
	LoginPlain       = "plain"
	LoginLogin       = "login"
	LoginSCRAM       = "scram-sha-256"
	LoginCRAM        = "cram-md5"
	LoginAPOP        = "apop"
	LoginExternal    = "external" // a client certificate
	LoginXOAuth2     = "xoauth2"
	LoginOAuthBearer = "oauthbearer"
)

var mechanism = oneOf(LoginUser, LoginPlain, LoginLogin, LoginSCRAM, LoginCRAM, LoginAPOP, LoginExternal, LoginXOAuth2, LoginOAuthBearer)

// checkMechanisms looks whether what a listener names can be.
func (l Listener) checkMechanisms(d *decoder, path string) {
	at := path + ".mechanisms"
	external := slices.Contains(l.Mechanisms, LoginExternal)
	blamed := slices.ContainsFunc(d.faults, func(f Fault) bool { return strings.HasPrefix(f.Key, at) })
	switch {
	case d.has(at) && len(l.Mechanisms) == 0 && !blamed:
		d.fault(at, "none: nobody could log in")
	case external && l.ClientCA == "":
		d.fault(at, "external needs client_ca, which says whose certificates count")
	case l.ClientCA != "" && l.TLS == TLSOff:
		d.fault(path+".client_ca", "has no use with tls: off: set tls to stls or implicit")
	case l.ClientCA != "" && d.has(at) && !external:
		d.fault(path+".client_ca", "has no use without external in mechanisms")
	}
	for i, m := range l.Mechanisms {
		switch {
		case slices.Contains(l.Mechanisms[:i], m):
			d.fault(item(at, i), "%s stands there already", m)
		case m == LoginCRAM || m == LoginAPOP:
			d.warn(item(at, i), "%s takes passwords that are kept as they are (--keep-text), not just what checks them: "+
				"who comes by the state and the key of the vault has them. Name it for devices that know nothing else", m)
		}
	}
}

// checkProving warns of ways to log in that nobody can use: by which a password
// is proved, and not sent on.
func (c *Config) checkProving(d *decoder) {
	if c.HasAccounts() {
		return
	}
	const none = "%s is for accounts, and there are none: neither here, nor a vault for them in the state"
	for i, l := range c.Listeners {
		at := item("listeners", i)
		if l.ClientCA != "" && l.Mechanisms == nil {
			d.warn(at+".client_ca", none, "a certificate")
		}
		for k, m := range l.Mechanisms {
			if slices.Contains([]string{LoginSCRAM, LoginCRAM, LoginAPOP, LoginExternal}, m) {
				d.warn(item(at+".mechanisms", k), none, m)
			}
		}
	}
}

// checkClientCA looks whether there are certificates in the file.
func (l Listener) checkClientCA(d *decoder, path string) {
	if l.ClientCA == "" {
		return
	}
	at := path + ".client_ca"
	if pem, ok := readNamed(d, at, l.ClientCA); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		d.fault(at, "no certificate in %s: it must hold PEM", l.ClientCA)
	}
}

// ProvesPasswords tells whether a listener lets clients prove their passwords
// without sending them.
func (c *Config) ProvesPasswords() bool {
	return slices.ContainsFunc(c.Listeners, func(l Listener) bool {
		return slices.Contains(l.Mechanisms, LoginSCRAM) || slices.Contains(l.Mechanisms, LoginCRAM) || slices.Contains(l.Mechanisms, LoginAPOP)
	})
}
