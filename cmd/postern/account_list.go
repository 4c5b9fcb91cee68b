package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
)

func (p *program) accountListCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the accounts",
		Long: `List the accounts, those of the configuration first: where their mail is, what
postern logs in with there, and each password that clients have, with its last use.
No password is shown; they are not kept. The last use is some minutes behind.`,
		Example: "  postern account list",
		Args:    noArgs,
		RunE:    p.begin(func() error { return p.accountList(path, asJSON) }),
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

// An accountLine is what account list tells of an account.
type accountLine struct {
	User       string         `json:"user"`
	Where      string         `json:"kept_in"` // configuration or state
	Upstream   string         `json:"upstream"`
	Login      string         `json:"login"`
	Credential string         `json:"credential"`
	State      string         `json:"state"` // fine, disabled, consent_missing or consent_lost
	Since      *time.Time     `json:"since,omitempty"`
	Passwords  []passwordLine `json:"passwords"`
}

type passwordLine struct {
	Label    string     `json:"label"`
	Kind     string     `json:"kind"`
	Networks []string   `json:"networks,omitempty"`
	Created  *time.Time `json:"created,omitempty"`
	Used     *time.Time `json:"used,omitempty"`
}

func (p *program) accountList(path string, asJSON bool) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	show, end := p.accountTable()
	if asJSON {
		encoder := json.NewEncoder(p.out)
		show, end = func(l accountLine) error { return encoder.Encode(l) }, func() error { return nil }
	}
	if err := p.eachAccount(c, show); err != nil {
		return err
	}
	return end()
}

// eachAccount calls show for every account.
func (p *program) eachAccount(c *config.Config, show func(accountLine) error) error {
	store, err := openReadable(c.State)
	if err != nil {
		return err
	}
	defer store.Close()
	lost, err := store.LostConsents(p.drain)
	if err != nil {
		return err
	}
	tell := func(l accountLine) error {
		missing, err := p.consentMissing(c, store, l)
		if err != nil {
			return err
		}
		return show(l.with(lost[auth.Fold(l.User)], missing))
	}
	for _, a := range c.Accounts {
		if err := tell(configuredLine(a)); err != nil {
			return err
		}
	}
	for a, err := range storedAccounts(p.drain, store) {
		if err != nil {
			return err
		}
		passwords, err := store.ClientPasswords(p.drain, a.Name)
		if err != nil {
			return err
		}
		if err := tell(stateLine(a, passwords)); err != nil {
			return err
		}
	}
	return nil
}

func configuredLine(a config.Account) accountLine {
	l := accountLine{User: a.User, Where: "configuration", Upstream: a.Upstream, Login: auth.Expand(a.UpstreamUser, auth.Fold(a.User)),
		Credential: accounts.Password, State: "fine"}
	if a.UpstreamPasswordFile == "" {
		l.Credential = accounts.OAuth
	}
	kind := accounts.InConfiguration
	if a.PasswordHash != "" {
		kind = accounts.Chosen
	}
	l.Passwords = []passwordLine{{Label: "configuration", Kind: kind, Networks: networkTexts(a.Networks)}}
	return l
}

func stateLine(a state.Account, passwords []state.ClientPassword) accountLine {
	l := accountLine{User: a.Name, Where: "state", Upstream: a.Upstream, Login: auth.Expand(a.Login, a.Name), Credential: a.Credential, State: "fine"}
	if a.Disabled {
		l.State = "disabled"
	}
	for _, w := range passwords {
		one := passwordLine{Label: w.Label, Kind: w.Kind, Networks: networkTexts(w.Networks), Created: instant(w.Created), Used: instant(w.Used)}
		l.Passwords = append(l.Passwords, one)
	}
	return l
}

// consentMissing tells whether an account needs somebody's consent, and never
// had it.
func (p *program) consentMissing(c *config.Config, store state.Store, l accountLine) (bool, error) {
	if l.Credential != accounts.OAuth || c.Upstream(l.Upstream).OAuth.Grant != config.ByConsent {
		return false, nil
	}
	given, err := hasGrant(p.drain, c, store, l.User)
	return !given, err
}

// with adds how an account's consent is.
func (l accountLine) with(c state.Consent, missing bool) accountLine {
	switch {
	case !c.Lost.IsZero():
		l.State, l.Since = "consent_lost", instant(c.Lost)
	case missing:
		l.State = "consent_missing"
	}
	return l
}

func networkTexts(networks []netip.Prefix) []string {
	var texts []string
	for _, n := range networks {
		texts = append(texts, n.String())
	}
	return texts
}

// instant is a time for JSON; nil if there was none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// accountTable shows accounts to a person, a line for each password.
func (p *program) accountTable() (show func(accountLine) error, end func() error) {
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	n := 0
	show = func(l accountLine) error {
		if n++; n == 1 {
			fmt.Fprintln(t, "USER\tKEPT IN\tUPSTREAM\tLOGIN\tCREDENTIAL\tSTATE\tPASSWORD\tKIND\tNETWORKS\tLAST USE")
		}
		l.State = strings.ReplaceAll(l.State, "_", " ")
		if l.Since != nil {
			l.State += " " + l.Since.Local().Format(time.DateOnly)
		}
		passwords := l.Passwords
		if len(passwords) == 0 {
			passwords = []passwordLine{{}}
		}
		for _, w := range passwords {
			used := "-"
			if w.Used != nil {
				used = w.Used.Local().Format(time.DateTime)
			}
			_, err := fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", visible(l.User), l.Where, l.Upstream, visible(l.Login), l.Credential,
				l.State, orDash(visible(w.Label)), orDash(w.Kind), orDash(strings.Join(w.Networks, " ")), used)
			if err != nil {
				return err
			}
		}
		return nil
	}
	return show, func() error {
		if n == 0 {
			fmt.Fprintln(p.err, "There are no accounts. Make one: postern account add USER")
		}
		return t.Flush()
	}
}
