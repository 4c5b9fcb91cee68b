package config

import (
	"net/url"
	"strings"
	"time"
)

// Consent is how the owners of mailboxes are asked for it.
type Consent struct {
	PublicURL    string        // under which browsers reach the admin listener; "" for no pages
	PasswordFile string        // the administrator's password for the page of accounts; "" for no such page
	Invitations  time.Duration // how long a link is good
	Notice       bool          // tell an account by POP3 that its consent has ended
}

func defaultConsent() Consent { return Consent{Invitations: 7 * day, Notice: true} }

func (c *Consent) fields() []field {
	return []field{
		{"public_url", into(&c.PublicURL, webAddress)},
		{"password_file", into(&c.PasswordFile, text)},
		{"invitations", into(&c.Invitations, days)},
		{"notice", into(&c.Notice, boolean)},
	}
}

func (c *Config) checkConsent(d *decoder) {
	if c.Consent.PublicURL == "" {
		if d.has("consent.password_file") && !d.blamed("consent.public_url") {
			d.fault("consent.public_url", "missing: the page that password_file is for needs the address that browsers reach it under")
		}
		return
	}
	if c.Admin.Address == "" && !d.blamed("admin.address") {
		d.fault("consent.public_url", "needs admin.address, where the pages are served")
	}
	if c.State.Off {
		d.fault("consent.public_url", "needs the state that state: off does without")
	}
	at, err := url.Parse(c.Consent.PublicURL)
	switch {
	case err != nil:
	case at.RawQuery != "" || at.Fragment != "" || at.User != nil:
		d.fault("consent.public_url", "is where the pages are: without ?, # and a user name")
	case at.Scheme == "http" && !isLoopback(at.Host) && !isLoopback(at.Host+":80"):
		d.fault("consent.public_url", "http would send passwords in the clear: take https, or an address on this machine")
	}
}

// minPassword is fewer characters than an administrator's password should have.
const minPassword = 12

func (c *Config) checkConsentFiles(d *decoder) {
	if c.Consent.PasswordFile == "" {
		return
	}
	const at = "consent.password_file"
	content, ok := readNamed(d, at, c.Consent.PasswordFile)
	line, _, _ := strings.Cut(string(content), "\n")
	if ok && len(strings.TrimSuffix(line, "\r")) < minPassword {
		d.fault(at, "the first line of %s is to be a password of %d characters or more", c.Consent.PasswordFile, minPassword)
	}
	warnOfReaders(d, at, c.Consent.PasswordFile)
}
