// Package provider knows what mail providers are like: where their servers are,
// whom to ask for tokens and for which, and what has to be done at them by
// hand. It is data, with the source of each fact and when it was looked up. It
// talks to nobody and imports nothing of postern's.
package provider

import (
	"slices"
	"strings"
)

// The ways in which an account proves itself to a provider.
const (
	Consent           = "consent"            // OAuth 2.0, by the mailbox's owner
	ClientCredentials = "client_credentials" // OAuth 2.0, by the organisation's administrator
	ServiceAccount    = "service_account"    // the same, as Google has it
	AppPassword       = "app_password"       // a password for this program alone
	Password          = "password"           // the account's own
)

// A Profile is one provider. What is empty has no default.
type Profile struct {
	Name  string // in the configuration
	Title string // as people call it

	Protocol string // imap or jmap
	Address  string // IMAP: host and port
	TLS      string // IMAP: implicit unless it says starttls
	URL      string // JMAP: of the session

	Logins []string // how accounts can prove themselves, best first
	OAuth  OAuth

	// Delete is what becomes of removed messages where a route does not say;
	// empty means postern's own default.
	Delete string
	// XOAUTH2 says that tokens go by that, though another mechanism is offered.
	XOAUTH2 bool
	// Help is what a person who cannot log in is told first.
	Help string
	// Docs is the page in docs/ that has all steps; empty if there is none.
	Docs string
}

// OAuth is how a provider gives tokens. {tenant} in its addresses is the
// organisation's, as the configuration has it.
type OAuth struct {
	AuthURL, TokenURL, DeviceURL string
	Scopes                       []string          // for the consent of a person
	ServiceScopes                []string          // for the organisation's credential
	Parameters                   map[string]string // of the authorization request
	Tenant                       string            // default; empty: there are none
	Loopback                     string            // host of the redirect to this machine; empty: 127.0.0.1
	Basic                        bool              // the client secret goes by HTTP Basic
}

// Find returns the profile of that name.
func Find(name string) (Profile, bool) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return profiles[i], true
}

// Names returns the names of all profiles.
func Names() []string {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.Name
	}
	return names
}

// For returns the profile of the provider whose server that is. A server on this
// machine is nobody's.
func For(host string) (Profile, bool) {
	host = strings.ToLower(host)
	i := slices.IndexFunc(profiles, func(p Profile) bool {
		server, _, _ := strings.Cut(p.Address, ":")
		return server != "" && server == host && !strings.HasPrefix(host, "127.")
	})
	if i < 0 {
		return Profile{}, false
	}
	return profiles[i], true
}

// Takes tells whether accounts can prove themselves in that way.
func (p Profile) Takes(login string) bool { return slices.Contains(p.Logins, login) }

// In returns the endpoints and scopes of an organisation; empty means the default.
func (o OAuth) In(tenant string) OAuth {
	if tenant == "" {
		tenant = o.Tenant
	}
	fill := strings.NewReplacer("{tenant}", tenant)
	o.AuthURL, o.TokenURL, o.DeviceURL = fill.Replace(o.AuthURL), fill.Replace(o.TokenURL), fill.Replace(o.DeviceURL)
	return o
}
