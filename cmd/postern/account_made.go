package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/upstream"
)

// A made is what a command made for an account: told once, to a person or to a
// script.
type made struct {
	user     string
	upstream config.Upstream
	want     *accounts.Wanted // nil without a password
	text     upstream.Secret  // of the password, if postern made it
}

func (m made) generated() bool { return m.want != nil && m.want.Chosen == (upstream.Secret{}) }

// A madeLine tells a script what was made.
type madeLine struct {
	User     string       `json:"user"`
	Upstream string       `json:"upstream"`
	State    string       `json:"state,omitempty"` // of a new account: fine or consent_missing
	Label    string       `json:"label,omitempty"`
	Password string       `json:"password,omitempty"` // unless it was chosen
	Networks []string     `json:"networks,omitempty"`
	Servers  []serverLine `json:"servers,omitempty"`
}

type serverLine struct {
	Host     string `json:"host"`
	Port     string `json:"port"`
	Security string `json:"security"`
}

func (m made) line(c *config.Config) madeLine {
	l := madeLine{User: m.user, Upstream: m.upstream.Name}
	if m.want == nil {
		return l
	}
	l.Label, l.Networks = m.want.Label, networkTexts(m.want.Networks)
	if m.generated() {
		l.Password = m.text.Reveal()
	}
	for _, s := range servers(c) {
		l.Servers = append(l.Servers, serverLine{s.name, s.port, s.security})
	}
	return l
}

// tellAdded says what there is now, and what to type into the client.
func (p *program) tellAdded(c *config.Config, m made, credential string, asJSON bool) error {
	asks := credential == accounts.OAuth && m.upstream.OAuth.Grant == config.ByConsent
	if asJSON {
		l := m.line(c)
		if l.State = "fine"; asks {
			l.State = "consent_missing"
		}
		return json.NewEncoder(p.out).Encode(l)
	}
	fmt.Fprintf(p.out, "The account %s is made, at %s.\n", m.user, m.upstream.Name)
	if m.want != nil {
		p.tellPassword(c, m)
	}
	if asks {
		how := "connect"
		if c.Consent.PublicURL != "" {
			how = "invite"
		}
		fmt.Fprintf(p.out, "\nIts mail can be read once its owner has consented: postern account %s %s\n", how, m.user)
	}
	return nil
}

func (p *program) tellPassword(c *config.Config, m made) {
	fmt.Fprintln(p.out, "Type into the client:")
	fmt.Fprintln(p.out)
	password := "the one you chose"
	if m.generated() {
		password = accounts.Groups(m.text)
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, s := range servers(c) {
		fmt.Fprintf(t, "  server\t%s, port %s, %s\n", s.name, s.port, s.security)
	}
	fmt.Fprintf(t, "  user name\t%s\n  password\t%s\n", m.user, password)
	t.Flush()
	if m.generated() {
		fmt.Fprintln(p.out, "\nThe password is not shown again. Its spaces need not be typed, and capitals do not matter.")
		if c.ProvesPasswords() {
			fmt.Fprintln(p.out, "Clients that prove it without sending it (SCRAM, CRAM-MD5, APOP) need it without spaces, in small letters.")
		}
	}
	if len(m.want.Networks) > 0 {
		fmt.Fprintf(p.out, "It is good only from %s.\n", strings.Join(networkTexts(m.want.Networks), ", "))
	}
}
