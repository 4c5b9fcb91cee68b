package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/migrate"
	"postern/proxy/ledger"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/imapc"
)

func (p *program) importCommand() *cobra.Command {
	var i importing
	c := &cobra.Command{
		Use:   "import",
		Short: "Take over the unique-ids that another POP3 server gave",
		Long: `Take over the unique-ids that a user's old POP3 server gave to its clients, so that
they do not download their mail again. Import before the clients come to postern,
or as soon after as can be. It may run while the gateway does, and be repeated:
what is known already is left alone.

The map comes from one of these:
  --pop3 HOST:PORT        the old server itself, while it runs. UIDL, LIST and the
                          header of each message are read; nothing is retrieved,
                          marked or removed. A run that was broken off is continued
                          by the next one.
  --dovecot-uidlist FILE  of a Dovecot maildir
  --courier DIR           a maildir of Courier's
  --cyrus DIR             a mailbox directory of Cyrus's
  --csv FILE              a table. Its first line names the columns: uidl, and of
                          size, received, uidvalidity, uid, name, emailid and
                          gmail_msgid those that there are.

The messages are known again on the new server by their size and header, or by
what the table names. With --connect, postern logs in there at once and counts how
many are; otherwise the user's next login does that. With --dry-run nothing is
kept.`,
		Example: `  postern uidl import --user ann@example.org --pop3 old.example.org:995 --password-file secret
  postern uidl import --user ann@example.org --pop3 old.example.org:995 --connect --dry-run
  postern uidl import --user ann@example.org --dovecot-uidlist /srv/mail/ann/Maildir/dovecot-uidlist
  postern uidl import --user ann@example.org --cyrus /var/spool/cyrus/mail/a/user/ann
  postern uidl import --user ann@example.org --csv map.csv`,
		Args: func(c *cobra.Command, args []string) error {
			return errors.Join(noArgs(c, args), i.complete(c))
		},
		RunE: p.begin(func() error { return p.importMap(i) }),
	}
	i.flags(c)
	return c
}

// An importing is what the command is told.
type importing struct {
	config, user                                string
	pop3, dovecot, courier, cyrus, csv          string
	pop3TLS, pop3User, pop3CA, pop3PasswordFile string
	connections                                 int
	format                                      string
	passwordFile                                string
	connect, dryRun, delivered                  bool

	form   migrate.Form
	ledger string // of the user
}

func (i *importing) flags(c *cobra.Command) {
	configFlag(c, &i.config)
	f := c.Flags()
	f.StringVar(&i.user, "user", "", "whose mailbox, as `NAME` to log in with")
	f.StringVar(&i.pop3, "pop3", "", "read the map from the POP3 server at `HOST:PORT`")
	f.StringVar(&i.pop3TLS, "pop3-tls", "implicit", "`MODE` of TLS there: implicit, stls or off")
	f.StringVar(&i.pop3User, "pop3-user", "", "`NAME` to log in with there, if it is another one")
	f.StringVar(&i.pop3CA, "pop3-ca-file", "", "trust the authorities in `FILE` (PEM) there, not the system's")
	f.StringVar(&i.pop3PasswordFile, "pop3-password-file", "", "the password there, if it is another one: first line of `FILE`")
	f.IntVar(&i.connections, "connections", 4, "up to `N` connections to the old server at a time")
	f.StringVar(&i.dovecot, "dovecot-uidlist", "", "read the map from the dovecot-uidlist `FILE`")
	f.StringVar(&i.courier, "courier", "", "read the map from the maildir `DIR` of Courier's")
	f.StringVar(&i.cyrus, "cyrus", "", "read the map from the mailbox directory `DIR` of Cyrus's")
	f.StringVar(&i.csv, "csv", "", "read the map from the table `FILE`")
	f.StringVar(&i.format, "uidl-format", "", "`FORM` of Dovecot's or Cyrus's unique-ids, if not the usual one")
	f.BoolVar(&i.delivered, "delivered", false, "the messages count as delivered, for require_retr")
	f.BoolVar(&i.connect, "connect", false, "log in upstream, and count the messages that are known again")
	f.BoolVar(&i.dryRun, "dry-run", false, "keep nothing")
	passwordFlag(c, &i.passwordFile)
	for _, file := range []string{"pop3-ca-file", "pop3-password-file", "dovecot-uidlist", "csv"} {
		c.MarkFlagFilename(file)
	}
	for _, dir := range []string{"courier", "cyrus"} {
		c.MarkFlagDirname(dir)
	}
	c.MarkFlagsMutuallyExclusive("pop3", "dovecot-uidlist", "courier", "cyrus", "csv")
	c.MarkFlagsOneRequired("pop3", "dovecot-uidlist", "courier", "cyrus", "csv")
}

var pop3Modes = map[string]migrate.TLSMode{"implicit": migrate.Implicit, "stls": migrate.STLS, "off": migrate.Off}

// complete checks the flags.
func (i *importing) complete(c *cobra.Command) error {
	if i.user == "" {
		return errors.New("--user is missing: whose mailbox is it?")
	}
	if _, ok := pop3Modes[i.pop3TLS]; !ok {
		return fmt.Errorf("--pop3-tls: %q is not implicit, stls or off", i.pop3TLS)
	}
	if i.connections < 1 || i.connections > 32 {
		return errors.New("--connections is to be 1 to 32")
	}
	for _, only := range []string{"pop3-tls", "pop3-user", "pop3-ca-file", "pop3-password-file", "connections"} {
		if c.Flags().Changed(only) && i.pop3 == "" {
			return fmt.Errorf("--%s needs --pop3", only)
		}
	}
	if i.pop3 != "" {
		if _, _, err := net.SplitHostPort(i.pop3); err != nil {
			return fmt.Errorf("--pop3: %q is not host:port", i.pop3)
		}
	}
	if i.format != "" && i.dovecot == "" && i.cyrus == "" {
		return errors.New("--uidl-format needs --dovecot-uidlist or --cyrus")
	}
	form := i.format
	switch {
	case form == "" && i.dovecot != "":
		form = "dovecot"
	case form == "":
		form = "cyrus"
	}
	uidl, err := imapc.ParseUIDL(form)
	if err != nil {
		return fmt.Errorf("--uidl-format: %w", err)
	}
	i.form = uidl.Of
	return nil
}

// importMap reads the map, keeps it, and tells what will come of it.
func (p *program) importMap(i importing) error {
	c, err := load(i.config)
	if err != nil {
		return err
	}
	if c.State.Off {
		return errStateOff
	}
	at, err := p.place(c, i.user)
	if err != nil {
		return err
	}
	i.ledger = at.ledger(c)
	passwords, err := p.importPasswords(i, at.ours)
	if err != nil {
		return err
	}
	store, end, err := i.store(c.State)
	if err != nil {
		return err
	}
	defer end()
	sum, err := p.readMap(i, store, passwords.old)
	if err == nil || sum.added > 0 {
		p.tellMap(i, sum)
	}
	if err != nil {
		return err
	}
	if !i.connect {
		return nil
	}
	account := upstream.Account{User: at.login, Password: passwords.here}
	if at.ours {
		ours, release, err := p.credentials(c, at, "")
		defer release()
		if err != nil {
			return err
		}
		account = ours
	}
	return p.bind(c, store, at, account)
}

// passwords are that of the old server and that of the new one.
type passwords struct{ old, here upstream.Secret }

// importPasswords asks for what is needed, before any work is done.
func (p *program) importPasswords(i importing, ours bool) (w passwords, err error) {
	if i.connect && !ours || i.pop3 != "" && i.pop3PasswordFile == "" {
		if w.here, err = p.password(i.user, i.passwordFile); err != nil {
			return w, err
		}
	}
	w.old = w.here
	if i.pop3PasswordFile != "" {
		w.old, err = p.password(i.user, i.pop3PasswordFile)
	}
	return w, err
}

// store opens the state, or for a dry run one that is thrown away.
func (i importing) store(c config.State) (store state.Store, end func(), err error) {
	if !i.dryRun {
		store, err = openStateFor(c, state.Options{})
		if err != nil {
			return nil, nil, err
		}
		return store, func() { store.Close() }, nil
	}
	dir, err := os.MkdirTemp("", "postern-import-")
	if err != nil {
		return nil, nil, err
	}
	if store, err = state.Open(context.Background(), state.Options{Dir: dir}); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}, nil
}

// A summary is what became of a map.
type summary struct {
	messages int // that the old server has
	earlier  int // that the ledger had before
	added    int
	skipped  []migrate.Skip
}

// readMap reads the map and puts it into the user's ledger.
func (p *program) readMap(i importing, store state.Store, old upstream.Secret) (summary, error) {
	account := i.ledger
	var sum summary
	ctx := context.WithoutCancel(p.drain) // what was read is kept also when that was broken off
	keep := func(known []ledger.Known) error {
		for k := range known {
			known[k].Delivered = i.delivered
		}
		added, err := ledger.Import(ctx, store, account, known)
		sum.added += added
		return err
	}
	if i.pop3 != "" {
		return p.readServer(i, store, old, keep, &sum)
	}
	m, err := i.readFile()
	if err != nil {
		return sum, err
	}
	sum.messages, sum.skipped = len(m.Known)+len(m.Skipped), m.Skipped
	err = keep(m.Known)
	if err == nil {
		sum.earlier = len(m.Known) - sum.added
	}
	return sum, err
}

func (i importing) readFile() (*migrate.Map, error) {
	name := imapc.UIDL{}.Of // whose own form is the name of a message (upstream.Identified)
	switch {
	case i.dovecot != "":
		return migrate.Dovecot(i.dovecot, i.form, name)
	case i.courier != "":
		return migrate.Courier(i.courier)
	case i.cyrus != "":
		return migrate.Cyrus(i.cyrus, i.form, name)
	}
	f, err := os.Open(i.csv)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := migrate.CSV(f, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.csv, err)
	}
	return m, nil
}

// readServer reads the map of a running server.
func (p *program) readServer(i importing, store state.Store, password upstream.Secret, keep func([]ledger.Known) error, sum *summary) (summary, error) {
	have, err := ledger.Issued(p.drain, store, i.ledger)
	if err != nil {
		return *sum, err
	}
	server := migrate.OldServer{Address: i.pop3, TLS: pop3Modes[i.pop3TLS], User: i.user, Password: password, Connections: i.connections}
	if i.pop3User != "" {
		server.User = i.pop3User
	}
	if i.pop3CA != "" {
		pem, err := os.ReadFile(i.pop3CA)
		if err != nil {
			return *sum, err
		}
		server.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		if !server.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return *sum, fmt.Errorf("%s: no certificate there", i.pop3CA)
		}
	}
	report, end := p.counting("headers read from " + i.pop3)
	r, err := migrate.Fetch{
		Server:   server,
		Have:     func(uidl string) bool { return have[uidl] },
		Save:     keep,
		Progress: report,
	}.Run(p.drain)
	end()
	sum.messages, sum.earlier, sum.skipped = r.Messages, r.Earlier, r.Skipped
	err = explainOldServer(err)
	if err != nil && sum.added > 0 {
		err = fmt.Errorf("%w\nWhat was read is kept: run the command again to go on", err)
	}
	return *sum, err
}

// explainOldServer says what to do about an old server's TLS. Servers that are
// to be retired have certificates of their own more often than others.
func explainOldServer(err error) error {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return fmt.Errorf("%w\nThe old server does not speak TLS on this port: with port 110 take --pop3-tls stls, or off", err)
	}
	if _, private := errors.AsType[x509.UnknownAuthorityError](err); private {
		return fmt.Errorf("%w\nIf the old server's certificate is one of its own, or a private authority's, give it with --pop3-ca-file", err)
	}
	if _, other := errors.AsType[x509.HostnameError](err); other {
		return fmt.Errorf("%w\nCall the old server by a name that is in its certificate", err)
	}
	return err
}

// mostSkips is how many messages are named that cannot be known again.
const mostSkips = 20

// tellMap prints what is in a map.
func (p *program) tellMap(i importing, s summary) {
	for n, skip := range s.skipped {
		if n == mostSkips {
			fmt.Fprintf(p.out, "and %d more\n", len(s.skipped)-n)
			break
		}
		fmt.Fprintf(p.out, "%s: %s\n", skip.What, skip.Reason)
	}
	verb := "imported"
	if i.dryRun {
		verb = "would be imported"
	}
	fmt.Fprintf(p.out, "%d of %s %s", s.added, plural(s.messages, "unique-id"), verb)
	if s.earlier > 0 {
		fmt.Fprintf(p.out, ", %d known before", s.earlier)
	}
	if n := len(s.skipped); n > 0 {
		fmt.Fprintf(p.out, ", %d without a message to know again", n)
	}
	fmt.Fprintln(p.out, ".")
}

// bindTime is for reading headers upstream. What was read is written down
// when it is up, and the next login goes on from there.
const bindTime = time.Hour

// bind logs in upstream as a client's session would, and counts the messages
// that keep the unique-id of the old server.
func (p *program) bind(c *config.Config, store state.Store, at place, a upstream.Account) error {
	ctx, cancel := context.WithTimeout(p.drain, bindTime+connectTime)
	defer cancel()
	known, err := ledger.Issued(ctx, store, at.ledger(c))
	if err != nil {
		return err
	}
	adapter, err := at.adapter()
	if err != nil {
		return err
	}
	options := ledgerOptions(c, at.up, at.route)
	options.Rebind = bindTime
	done := p.progress("telling the messages at " + at.up.Name)
	listing, err := list(ctx, ledger.New(adapter, store, options), a)
	done()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", at.up.Name, err, advice(at.up, err))
	}
	found := 0
	var uidl []byte
	for i := range listing.Len() {
		uidl = listing.AppendUIDL(uidl[:0], i)
		if known[string(uidl)] {
			found++
		}
	}
	fmt.Fprintf(p.out, "%d of %s at %s keep their unique-id, %d are new to clients.\n", found, plural(listing.Len(), "message"), at.up.Name, listing.Len()-found)
	if missing := len(known) - found; missing > 0 {
		fmt.Fprintf(p.out, "%d that clients know are not there, or not told from others that are alike.\n", missing)
	}
	return nil
}

// list opens a maildrop for its listing alone.
func list(ctx context.Context, o upstream.Opener, a upstream.Account) (upstream.Listing, error) {
	drop, err := o.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	defer drop.Close()
	return drop.List(ctx)
}
