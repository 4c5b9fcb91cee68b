package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

// maildrop reads all that a POP3 server shows to a user: messages by unique-id.
func maildrop(t *testing.T, address, user, password string) map[string]string {
	t.Helper()
	c := dialPOP(t, address, nil)
	c.login(user, password, "+OK")
	all := map[string]string{}
	for _, line := range c.lines("UIDL") {
		number, uidl, _ := strings.Cut(line, " ")
		c.say("RETR "+number, "+OK")
		text, err := c.ReadDotBytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[uidl]; twice {
			t.Fatalf("unique-id %s is there twice", uidl)
		}
		all[uidl] = string(text)
	}
	c.quit()
	return all
}

// postern runs a command that must end well, and returns what it printed.
func postern(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errors := runHere("", args...)
	if code != exitFine {
		t.Fatalf("postern %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errors)
	}
	return out
}

// TestImportFromDovecotToCyrus: clients of an old Dovecot find their messages
// on a new Cyrus, behind postern, under the unique-ids that they know.
func TestImportFromDovecotToCyrus(t *testing.T) {
	t.Parallel()
	old, here := dovecot.Start(t), cyrus.Start(t)
	from, to := old.AddUser(t, "ann", "secret"), here.AddUser(t, "ann", "secret")
	const n = 60
	for i := range n {
		from.Deliver(t, upstreamtest.Letter(i, 400))
	}
	// The new mailbox has them in another order, not all, and others besides.
	for i := n + 2; i > 1; i-- {
		to.Deliver(t, upstreamtest.Letter(i, 400))
	}
	known := maildrop(t, old.POP3, "ann", "secret")
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {new: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: new}]
`, here.IMAP)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := []string{"uidl", "import", "--config", path, "--user", "ann", "--pop3", old.POP3, "--pop3-tls", "off", "--password-file", password}
	out := postern(t, append(with, "--dry-run", "--connect")...)
	for _, want := range []string{
		"60 of 60 unique-ids would be imported.\n",
		"58 of 61 messages at new keep their unique-id, 3 are new to clients.\n",
		"2 that clients know are not there",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the dry run says\n%swant %s", out, want)
		}
	}
	if out := postern(t, with...); out != "60 of 60 unique-ids imported.\n" {
		t.Errorf("the import says %q", out)
	}
	if out := postern(t, with...); out != "0 of 60 unique-ids imported, 60 known before.\n" {
		t.Errorf("the import says the second time %q", out)
	}
	address := spawn(t, "serve", "--config", path).addresses(t)[0]
	for range 2 {
		now := maildrop(t, address, "ann", "secret")
		if len(now) != 61 {
			t.Errorf("%d messages, want 61", len(now))
		}
		same := 0
		for uidl, text := range now {
			if before, ok := known[uidl]; ok && before != text {
				t.Errorf("unique-id %s is another message now", uidl)
			} else if ok {
				same++
			}
		}
		if same != 58 {
			t.Errorf("%d messages under the unique-id that clients know, want 58", same)
		}
	}
}

// A deployment is a gateway whose upstream can be changed behind it: when it is
// started again, it has the state and for its clients the address that it had.
type deployment struct {
	t       *testing.T
	config  string // path
	process *process
	pop     string // where clients connect
	front   *relay
	metrics string // URL
}

// deploy starts a gateway. Lines of configuration describe its upstream, and
// say what else its route has.
func deploy(t *testing.T, upstream, route string) *deployment {
	t.Helper()
	d := &deployment{t: t, config: writeConfig(t, ""), front: newRelay(t, "")}
	d.pop = d.front.address
	d.configure(upstream, route)
	d.start()
	return d
}

// configure writes what the gateway is to do when it is started next.
func (d *deployment) configure(upstream, route string) {
	d.t.Helper()
	text := fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
state: {path: state}
upstreams: {there: {%s}}
routes: [{user: "*", upstream: there, %s}]
`, upstream, route)
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployment) start() {
	d.t.Helper()
	p := spawn(d.t, "serve", "--config", d.config)
	d.process = p
	d.t.Cleanup(func() {
		if d.t.Failed() {
			d.t.Logf("postern's log:\n%s", p.output())
		}
	})
	at := d.process.addresses(d.t)
	d.front.lead(at[0])
	d.metrics = "http://" + at[1] + "/metrics"
}

func (d *deployment) stop() {
	d.t.Helper()
	d.process.Process.Signal(syscall.SIGTERM)
	if code := d.process.end(d.t); code != exitFine {
		d.t.Errorf("exit code %d, want 0:\n%s", code, d.process.output())
	}
}

// move restarts the gateway in front of another upstream.
func (d *deployment) move(upstream string) {
	d.t.Helper()
	d.stop()
	d.configure(upstream, "")
	d.start()
}

// state is the path of a file of the gateway's state.
func (d *deployment) state(name string) string {
	return filepath.Join(filepath.Dir(d.config), "state", name)
}

// counts checks the value of a metric.
func (d *deployment) counts(metric string, want int) {
	d.t.Helper()
	_, text := get(d.t, d.metrics)
	if line := fmt.Sprintf("%s %d\n", metric, want); !strings.Contains(text, line) {
		_, got, _ := strings.Cut(text, "\n"+metric)
		got, _, _ = strings.Cut(got, "\n")
		d.t.Errorf("%s is%s, want %d", metric, got, want)
	}
}

// login logs a user of these tests in.
func (d *deployment) login(want string) popClient {
	d.t.Helper()
	c := dialPOP(d.t, d.pop, nil)
	c.login("ann", "secret", want)
	return c
}

// uidls is what a client sees that retrieves nothing.
func (d *deployment) uidls() (uidls []string) {
	d.t.Helper()
	c := d.login("+OK")
	for _, line := range c.lines("UIDL") {
		_, uidl, _ := strings.Cut(line, " ")
		uidls = append(uidls, uidl)
	}
	c.quit()
	return uidls
}

// download is what a client sees that retrieves everything.
func (d *deployment) download() map[string]string {
	d.t.Helper()
	return maildrop(d.t, d.pop, "ann", "secret")
}

// downloadsAgain compares what a client sees with what it has already: known
// messages that are still there have to have the unique-id that they had, and
// others one that no message had.
func downloadsAgain(t *testing.T, now, known map[string]string, again, fresh int) {
	t.Helper()
	uidls := map[string]string{} // of known messages
	for uidl, text := range known {
		uidls[text] = uidl
	}
	gotAgain, gotFresh := 0, 0
	for uidl, text := range now {
		before, isKnown := known[uidl]
		_, had := uidls[text]
		switch {
		case isKnown && before != text:
			t.Errorf("unique-id %s is another message now", uidl)
		case !isKnown && had:
			gotAgain++
		case !isKnown:
			gotFresh++
		}
	}
	if gotAgain != again || gotFresh != fresh {
		t.Errorf("the client downloads %d messages again and %d new ones, want %d and %d", gotAgain, gotFresh, again, fresh)
	}
}

func imapAt(address string) string {
	return fmt.Sprintf("protocol: imap, address: %q, tls: off", address)
}

func jmapAt(c *cyrus.Server) string {
	return fmt.Sprintf("protocol: jmap, url: %q, ca_file: %q", c.JMAPS, c.CAFile)
}

// letters are messages of about one size.
func letters(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, upstreamtest.Letter(i, 400))
	}
	return all
}

func deliver(t *testing.T, to upstreamtest.Mailbox, raw []string) {
	t.Helper()
	for _, r := range raw {
		to.Deliver(t, r)
	}
}

// loseIndexes takes all that Dovecot knows of a maildir, but for the messages.
func loseIndexes(t *testing.T, s *dovecot.Server, user string) {
	t.Helper()
	home := strings.TrimSpace(s.Doveadm(t, "user", "-f", "home", user))
	lost := 0
	for _, name := range []string{"dovecot.index*", "dovecot-uidlist"} {
		files, err := filepath.Glob(filepath.Join(home, "maildir", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			lost++
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lost < 2 {
		t.Fatalf("%d index files, want some", lost)
	}
}

// TestRenumberedMailbox: Dovecot gives its messages new UIDs, and the client
// that has downloaded them does not notice.
func TestRenumberedMailbox(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	const n = 60
	for _, test := range []struct {
		name         string
		renumber     func(t *testing.T, box *dovecot.Mailbox, user string)
		fresh, bound int
	}{
		{"NewUIDVALIDITY", func(t *testing.T, box *dovecot.Mailbox, _ string) {
			box.SetUIDValidity(t, 4_000_000_000)
		}, 0, n},
		{"IndexesLost", func(t *testing.T, _ *dovecot.Mailbox, user string) {
			loseIndexes(t, s, user)
		}, 0, n},
		{"SomeGoneAndOthersNew", func(t *testing.T, box *dovecot.Mailbox, _ string) {
			for _, raw := range letters(10, 30) {
				box.Take(t, raw)
			}
			deliver(t, box, letters(n, n+15))
			box.SetUIDValidity(t, 4_000_000_000)
		}, 15, n - 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			user := newUser()
			box := s.AddUser(t, user, "secret")
			deliver(t, box, letters(0, n))
			d := deploy(t, imapAt(s.IMAP), "")
			known := maildrop(t, d.pop, user, "secret")
			test.renumber(t, box, user)
			for range 2 {
				downloadsAgain(t, maildrop(t, d.pop, user, "secret"), known, 0, test.fresh)
			}
			d.counts(`postern_uidls_rebound_total{upstream="there"}`, test.bound)
			d.stop()
			d.start()
			downloadsAgain(t, maildrop(t, d.pop, user, "secret"), known, 0, test.fresh)
		})
	}
}

// TestMessagesComeBack: a person moves some away, and later back, where they
// get other UIDs.
func TestMessagesComeBack(t *testing.T) {
	t.Parallel()
	d, c := dovecot.Start(t), cyrus.Start(t)
	for _, test := range []struct {
		name     string
		accounts func(t testing.TB) account
		imap     string // where the person does that
		upstream string
		away     int // of 60
	}{
		{"AllByIMAP", dovecotAccounts(d), d.IMAP, imapAt(d.IMAP), 60},
		{"SomeByIMAPWithEMAILID", cyrusAccounts(c), c.IMAP, imapAt(c.IMAP), 3},
		{"SomeByJMAP", cyrusAccounts(c), c.IMAP, jmapAt(c), 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := test.accounts(t)
			deliver(t, a, letters(0, 60))
			d := deploy(t, test.upstream, "")
			known := maildrop(t, d.pop, a.user, a.password)
			person := newOtherClient(t, test.imap, a.user)
			person.do("CREATE Elsewhere")
			person.do("SELECT INBOX")
			person.do(fmt.Sprintf("MOVE 1:%d Elsewhere", test.away))
			if n := len(maildrop(t, d.pop, a.user, a.password)); n != 60-test.away {
				t.Errorf("%d messages, want %d", n, 60-test.away)
			}
			person.do("SELECT Elsewhere")
			person.do("MOVE 1:* INBOX")
			downloadsAgain(t, maildrop(t, d.pop, a.user, a.password), known, 0, 0)
		})
	}
}

// TestChurnIsRefused: messages that cannot be told are not shown as new ones,
// until the operator says so, and then once.
func TestChurnIsRefused(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	deliver(t, box, letters(0, 60))
	d := deploy(t, imapAt(s.IMAP), "")
	before := d.uidls() // no header passes

	box.SetUIDValidity(t, 4_000_000_000)
	for range 3 {
		c := d.login("-ERR [SYS/TEMP]")
		c.quit()
	}
	d.counts(`postern_uidl_churn_refused_total{upstream="there"}`, 3)
	if n := strings.Count(d.process.output(), "postern uidl accept"); n != 1 {
		t.Errorf("the log tells of it %d times, want once:\n%s", n, d.process.output())
	}
	if n := len(box.Messages(t)); n != 60 {
		t.Errorf("%d messages upstream, want 60", n)
	}
	postern(t, "uidl", "accept", "--config", d.config, "--user", "ann")
	now := d.uidls()
	if len(now) != 60 {
		t.Errorf("%d messages once accepted, want 60", len(now))
	}
	for _, uidl := range now {
		if slices.Contains(before, uidl) {
			t.Errorf("unique-id %s was issued a second time", uidl)
		}
	}
	d.login("+OK").quit()

	box.SetUIDValidity(t, 4_000_000_001)
	d.login("-ERR [SYS/TEMP]").quit()
	d.counts(`postern_uidl_churn_refused_total{upstream="there"}`, 4)
}

// TestMoveToAnotherServer: clients that leave their mail on the server do not
// notice that it is copied from Dovecot to Cyrus.
func TestMoveToAnotherServer(t *testing.T) {
	t.Parallel()
	from, to := dovecot.Start(t), cyrus.Start(t)
	eachClient(t, func(t *testing.T, c client) {
		if !c.remembers {
			t.Skip("it does not remember what it fetched")
		}
		t.Parallel()
		user := newUser()
		old, here := from.AddUser(t, user, "secret"), to.AddUser(t, user, "secret")
		raw := letters(0, 60)
		deliver(t, old, raw)
		d := deploy(t, imapAt(from.IMAP), "")
		run := run{address: d.pop, transport: plaintext, user: user, password: "secret", dir: t.TempDir(), messages: len(raw)}
		c.mustDownload(t, run)
		c.got(t, run.dir, raw)

		backwards := slices.Clone(raw)
		slices.Reverse(backwards)
		deliver(t, here, backwards)
		d.move(imapAt(to.IMAP))
		for range 2 {
			c.mustDownload(t, run)
			c.got(t, run.dir, raw)
		}
		d.counts(`postern_uidls_rebound_total{upstream="there"}`, len(raw))

		late := letters(60, 63)
		deliver(t, here, late)
		c.mustDownload(t, run)
		c.got(t, run.dir, append(raw, late...))
	})
}

// TestIMAPAndJMAP: one Cyrus mailbox has the same unique-ids by either protocol.
func TestIMAPAndJMAP(t *testing.T) {
	t.Parallel()
	s := cyrus.Start(t)
	for name, order := range map[string][]string{
		"IMAPFirst": {imapAt(s.IMAP), jmapAt(s), imapAt(s.IMAP)},
		"JMAPFirst": {jmapAt(s), imapAt(s.IMAP), jmapAt(s)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := newUser()
			box := s.AddUser(t, user, "secret")
			box.DeliverAll(t, letters(0, 60))
			d := deploy(t, order[0], "")
			known := maildrop(t, d.pop, user, "secret")
			for i, upstream := range order[1:] {
				d.move(upstream)
				box.DeliverAll(t, letters(60+i, 61+i))
				now := maildrop(t, d.pop, user, "secret")
				downloadsAgain(t, now, known, 0, 1)
				if len(now) != 61+i {
					t.Errorf("%d messages, want %d", len(now), 61+i)
				}
				d.counts(`postern_uidls_rebound_total{upstream="there"}`, 60+i)
				known = now
			}
		})
	}
}

// TestUnseenMessages: what a client has listed and not retrieved through the
// gateway, as after a move with a template, is known again too where the
// upstream says enough of it.
func TestUnseenMessages(t *testing.T) {
	t.Parallel()
	d, c := dovecot.Start(t), cyrus.Start(t)
	var raw []string
	for i := range 60 {
		raw = append(raw, upstreamtest.Letter(i, 400)+strings.Repeat("x", i)+"\r\n")
	}
	for _, test := range []struct {
		name  string
		box   upstreamtest.Mailbox
		first string
		then  []string
	}{
		{"OneMailboxByIMAPAndJMAP", c.AddUser(t, "ann", "secret"), imapAt(c.IMAP), []string{jmapAt(c), imapAt(c.IMAP), jmapAt(c)}},
		{"OneServerByTwoNames", d.AddUser(t, "ann", "secret"), imapAt(d.IMAP),
			[]string{fmt.Sprintf("protocol: imap, address: %q, ca_file: %q", d.IMAPS, d.CAFile)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			deliver(t, test.box, raw)
			d := deploy(t, test.first, "")
			known := d.uidls()
			for _, upstream := range test.then {
				d.move(upstream)
				if now := d.uidls(); !slices.Equal(now, known) {
					t.Errorf("unique-ids at %s are\n%q\nwere\n%q", upstream, now, known)
				}
			}
		})
	}
}

// TestUnseenMessagesOfARenumberedMailbox: a Dovecot without EMAILID has no more
// to tell them by than the order of their sizes.
func TestUnseenMessagesOfARenumberedMailbox(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	var raw []string
	for i := range 60 {
		raw = append(raw, upstreamtest.Letter(i, 400)+strings.Repeat("x", i*i*31%61)+"\r\n")
	}
	for name, renumber := range map[string]func(box *dovecot.Mailbox, user string){
		"NewUIDVALIDITY": func(box *dovecot.Mailbox, _ string) { box.SetUIDValidity(t, 4_000_000_000) },
		"IndexesLost":    func(_ *dovecot.Mailbox, user string) { loseIndexes(t, s, user) },
	} {
		t.Run(name, func(t *testing.T) {
			user := newUser()
			box := s.AddUser(t, user, "secret")
			deliver(t, box, raw)
			d := deploy(t, imapAt(s.IMAP), "")
			list := func() []string {
				c := dialPOP(t, d.pop, nil)
				c.login(user, "secret", "+OK")
				lines := c.lines("UIDL")
				c.quit()
				return lines
			}
			known := list()
			renumber(box, user)
			if now := list(); !slices.Equal(now, known) {
				t.Errorf("unique-ids are\n%q\nwere\n%q", now, known)
			}
			d.counts(`postern_uidls_rebound_total{upstream="there"}`, 60)
		})
	}
}
