package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/auth"
	"postern/proxy/state"
)

func (p *program) checkCommand() *cobra.Command {
	var path string
	var login login
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration, and what it leads to",
		Long: `Check a configuration file: every mistake is reported with its line, and what was
understood is printed. Whether the state can be written is tried, and whether there
are keys for what is sealed in it, so run this as the user that postern runs as.

With --connect, also log in at the upstream where the route of --user leads, and
explain what is found there. Nothing is changed in the mailbox. The password is
asked for on the terminal, unless --password-file says where it is.`,
		Example: `  postern check --config postern.yaml
  postern check --config postern.yaml --connect --user ann@example.org
  postern check --config postern.yaml --connect --user ann@example.org --password-file - <secret`,
		Args: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			return login.complete()
		},
		RunE: p.begin(func() error { return p.check(path, login) }),
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&login.connect, "connect", false, "log in at the upstream, and explain what is found")
	c.Flags().StringVar(&login.user, "user", "", "log in as `NAME`")
	passwordFlag(c, &login.passwordFile)
	return c
}

func (p *program) check(path string, login login) error {
	c, err := loaded(config.Check(path, checkUIDL))
	if err != nil {
		return err
	}
	for _, u := range c.Upstreams {
		if _, err := application(u); err != nil {
			return configError{fmt.Errorf("upstreams.%s.oauth: %w", u.Name, err)}
		}
	}
	if err := p.explain(path, c); err != nil {
		return err
	}
	if err := p.explainAccounts(c); err != nil {
		return err
	}
	if !login.connect {
		return nil
	}
	return p.connect(c, login)
}

// explain prints what a configuration says.
func (p *program) explain(path string, c *config.Config) error {
	for _, w := range c.Warnings {
		fmt.Fprintf(p.out, "warning: %v\n", w)
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s is fine\n\nlisteners\n", path)
	for _, l := range c.Listeners {
		fmt.Fprintf(t, "  %s\t%s\n", l.Address, listenerText(l))
	}
	if c.Admin.Address != "" {
		fmt.Fprintf(t, "  %s\t%s\n", c.Admin.Address, adminText(c.Consent))
	}
	fmt.Fprintf(t, "\nstate\n  %s\n", stateText(c.State))
	fmt.Fprintln(t, "\nupstreams")
	for _, u := range c.Upstreams {
		fmt.Fprintf(t, "  %s\t%s\n", u.Name, upstreamText(u))
	}
	fmt.Fprintln(t, "\nroutes, the first that matches")
	for _, r := range c.Routes {
		fmt.Fprintf(t, "  %s\t%s%s; %s\n", r.User, r.Upstream, loginText(r), policyText(r))
	}
	return t.Flush()
}

// loginText says who may use a route, and as whom, if that is not as usual.
func loginText(r config.Route) string {
	switch {
	case r.Login == config.AccountsOnly:
		return ", for accounts only"
	case r.UpstreamUser != "":
		return " as " + r.UpstreamUser
	}
	return ""
}

// explainAccounts prints what there is besides routes, and tries the keys.
func (p *program) explainAccounts(c *config.Config) error {
	store, err := openReadable(c.State)
	if errors.Is(err, state.ErrOlder) { // which is no fault of the configuration
		fmt.Fprintln(p.out, "\nThe state is of an earlier version: keys and accounts are looked at once the server has brought it up to date.")
		return nil
	}
	if err != nil {
		return err
	}
	defer store.Close()
	v, err := openVault(c.Vault, store)
	if err != nil {
		return err
	}
	if !c.HasAccounts() {
		return nil
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\naccounts, before any route")
	for _, a := range c.Accounts {
		fmt.Fprintf(t, "  %s\t%s\n", a.User, accountText(c, a))
	}
	if c.Vault.Set() {
		kept, err := countAccounts(p.drain, store)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "  in the state\t%s: postern account list; sealed under %v\n", plural(kept, "account"), v)
	}
	return t.Flush()
}

// accountText says where an account of the configuration leads.
func accountText(c *config.Config, a config.Account) string {
	text := a.Upstream + " as " + auth.Expand(a.UpstreamUser, auth.Fold(a.User))
	if a.UpstreamPasswordFile == "" {
		text += ", with tokens"
	}
	if len(a.Networks) > 0 {
		text += "; login from " + strings.Join(networkTexts(a.Networks), ", ")
	}
	return text + "; " + policyText(c.Policy(a.User, a.Upstream))
}

func countAccounts(ctx context.Context, store state.Store) (n int, err error) {
	for _, err := range storedAccounts(ctx, store) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func adminText(c config.Consent) string {
	const always = "metrics, health and status page"
	switch {
	case c.PublicURL == "":
		return always
	case c.PasswordFile == "":
		return always + "; consent, for browsers at " + c.PublicURL
	default:
		return always + "; consent, for browsers at " + c.PublicURL + ", and for you at /accounts"
	}
}

func stateText(s config.State) string {
	if s.Off {
		return "off: nothing is remembered"
	}
	return fmt.Sprintf("%s, removals kept in the log for %s", s.Path, daysText(s.RemovalsKept))
}

// policyText says what becomes of the messages that a route's clients remove
// and read.
func policyText(r config.Route) string {
	text := map[string]string{
		config.DeleteExpunge: "removed messages are gone for good",
		config.DeleteTrash:   "removed messages go to the trash",
		config.DeleteArchive: "removed messages go to the archive",
		config.DeleteFlag:    "removed messages are flagged and hidden",
		config.DeleteNever:   "nothing is ever removed",
	}[r.Delete]
	if r.ArchiveFolder != "" {
		text = "removed messages go to " + r.ArchiveFolder
	}
	if r.Grace > 0 {
		text += " after " + daysText(r.Grace)
		if r.Delete != config.DeleteExpunge {
			text = strings.Replace(text, " after", ", and are purged after", 1)
		}
	}
	if r.RequireRetr {
		text += "; only what was retrieved is removed"
	}
	if r.MarkSeen {
		text += "; retrieved messages are marked as read"
	}
	if r.UIDL != "" {
		text += "; unique-ids: " + r.UIDL
	}
	return text
}

// daysText is a length of time in days, if it is whole days, or as one would
// write it: 12h, and not 12h0m0s.
func daysText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return plural(int(d/day), "day")
	}
	text := d.String()
	for _, none := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, none) {
			text = text[:len(text)-2]
		}
	}
	return text
}

func listenerText(l config.Listener) string {
	text := map[string]string{
		config.TLSOff:      "POP3 without TLS",
		config.TLSSTLS:     "POP3, TLS on request (STLS)",
		config.TLSImplicit: "POP3 with TLS from the start",
	}[l.TLS]
	if l.Mechanisms != nil {
		text += "; login by " + strings.Join(l.Mechanisms, ", ")
	}
	if l.ClientCA != "" {
		text += "; client certificates from " + l.ClientCA
	}
	if l.TLS == config.TLSImplicit {
		return text
	}
	if len(l.PlaintextLogin) == 0 {
		return text + "; no login without TLS"
	}
	return text + "; login without TLS from " + strings.Join(networkTexts(l.PlaintextLogin), ", ")
}

func upstreamText(u config.Upstream) string {
	text := connectionText(u)
	if u.OAuth.Set() {
		text += "; tokens by " + strings.ReplaceAll(u.OAuth.Grant, "_", " ")
	}
	return text
}

func connectionText(u config.Upstream) string {
	if u.Protocol == config.JMAP {
		where := u.URL
		if where == "" {
			where = "the JMAP server of " + u.Domain
		}
		return fmt.Sprintf("JMAP, %s; %s credentials; %s", where, u.Credentials, trustText(u, !u.PlainHTTP))
	}
	protection := map[string]string{
		config.TLSImplicit: "TLS from the start",
		config.TLSStartTLS: "TLS by STARTTLS",
		config.TLSOff:      "without TLS",
	}[u.TLS]
	return fmt.Sprintf("IMAP, %s, %s; %s", u.Address, protection, trustText(u, u.TLS != config.TLSOff))
}

// trustText says how the upstream proves who it is.
func trustText(u config.Upstream, tls bool) string {
	switch {
	case !tls:
		return "passwords go in the clear"
	case u.Fingerprint != nil:
		return fmt.Sprintf("certificate %x", u.Fingerprint)
	case u.CAFile != "":
		return "certificate signed by " + u.CAFile
	default:
		return "certificate signed by an authority that this system trusts"
	}
}
