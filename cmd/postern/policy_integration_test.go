package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/jmapserver"
)

// A keeper is a server with a mailbox of the user ann, and places to keep what
// is removed from it.
type keeper struct {
	upstreamtest.Mailbox
	upstream       string // lines of configuration
	trash, archive string
	in             func(t *testing.T, folder string) int // messages
}

// keepers are those that the tests of policies are run with. Dovecot's folders
// have names that say nothing.
var keepers = []struct {
	name  string
	start func(t *testing.T) keeper
}{
	{"DovecotByIMAP", func(t *testing.T) keeper {
		s := dovecot.Start(t, `namespace inbox {
inbox = yes
mailbox Rubbish {
special_use = \Trash
auto = create
}
mailbox Depot {
special_use = \Archive
auto = create
}
}`)
		box := s.AddUser(t, "ann", "secret")
		return keeper{box, imapAt(s.IMAP), "Rubbish", "Depot", func(t *testing.T, folder string) int {
			return statusMessages(t, box, folder)
		}}
	}},
	{"CyrusByIMAP", func(t *testing.T) keeper {
		s := cyrus.Start(t)
		box := s.AddUser(t, "ann", "secret")
		return keeper{box, imapAt(s.IMAP), "Trash", "Archive", func(t *testing.T, folder string) int { return len(box.In(t, folder)) }}
	}},
	{"CyrusByJMAP", func(t *testing.T) keeper {
		s := cyrus.Start(t)
		box := s.AddUser(t, "ann", "secret")
		return keeper{box, jmapAt(s), "Trash", "Archive", func(t *testing.T, folder string) int { return len(box.In(t, folder)) }}
	}},
}

func statusMessages(t *testing.T, box *dovecot.Mailbox, folder string) (n int) {
	t.Helper()
	for _, r := range box.Do(t, "STATUS "+folder+" (MESSAGES)") {
		if _, after, ok := strings.Cut(r.Text, "(MESSAGES "); ok {
			fmt.Sscanf(after, "%d", &n)
			return n
		}
	}
	t.Fatal("no answer to STATUS")
	return 0
}

// eachKeeper runs a test with a gateway in front of each server, with what
// there is to say of its route, and three messages.
func eachKeeper(t *testing.T, route string, test func(t *testing.T, k keeper, d *deployment)) {
	for _, one := range keepers {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			k := one.start(t)
			deliver(t, k, letters(0, 3))
			test(t, k, deploy(t, k.upstream, route))
		})
	}
}

// removeTwo has a client remove the first and the third message of ann's.
func removeTwo(t *testing.T, address string) {
	t.Helper()
	c := dialPOP(t, address, nil)
	c.login("ann", "secret", "+OK")
	c.say("DELE 1", "+OK")
	c.say("DELE 3", "+OK")
	c.quit()
}

func passwordFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUndelete(t *testing.T) {
	t.Parallel()
	for _, policy := range []struct {
		name, route             string
		inbox, inTrash, archive int // messages after two were removed
	}{
		{"Trash", "delete: trash", 1, 2, 0},
		{"Archive", "delete: archive", 1, 0, 2},
		{"ExpungeWithGrace", "delete: expunge, grace: 30d", 1, 2, 0},
		{"Flag", "delete: flag", 3, 0, 0},
	} {
		t.Run(policy.name, func(t *testing.T) {
			eachKeeper(t, policy.route, func(t *testing.T, k keeper, d *deployment) {
				before := d.download()
				removeTwo(t, d.pop)
				for folder, want := range map[string]int{"INBOX": policy.inbox, k.trash: policy.inTrash, k.archive: policy.archive} {
					if got := k.in(t, folder); got != want {
						t.Errorf("%d messages in %s, want %d", got, folder, want)
					}
				}
				if got := len(d.uidls()); got != 1 {
					t.Errorf("the client sees %d messages, want 1", got)
				}
				if out := postern(t, "removals", "--config", d.config, "--user", "ann"); strings.Count(out, "kept\n") != 2 {
					t.Errorf("removals, want 2 that are kept:\n%s", out)
				}

				undelete := []string{"undelete", "--config", d.config, "--user", "ann", "--password-file", passwordFile(t)}
				if out := postern(t, append(undelete, "--dry-run")...); out != "2 messages would be brought back.\n" {
					t.Errorf("undelete --dry-run says %q", out)
				}
				if out := postern(t, undelete...); out != "2 messages brought back.\n" {
					t.Errorf("undelete says %q", out)
				}
				if got := k.in(t, k.trash) + k.in(t, k.archive); got != 0 {
					t.Errorf("%d messages in trash and archive, want none", got)
				}
				now := d.download()
				sameMessages(t, now, before)
				downloadsAgain(t, now, before, 2, 0) // or the client would not show them
				if code, _, errors := runHere("", undelete...); code != exitFailed || !strings.Contains(errors, "nothing of ann can be brought back") {
					t.Errorf("the second time: exit code %d, %s", code, errors)
				}
			})
		})
	}
}

// TestUndeleteByJMAP: the same without a real server.
func TestUndeleteByJMAP(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"delete: trash", "delete: expunge, grace: 30d", "delete: archive"} {
		server := jmapserver.New("ann", "secret")
		for i := range 3 {
			server.Deliver(t, upstreamtest.Letter(i, 400))
		}
		web := httptest.NewServer(server)
		t.Cleanup(web.Close)
		path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {fast: {protocol: jmap, url: %q, plain_http: true}}
routes: [{user: "*", upstream: fast, %s}]
`, web.URL+"/.well-known/jmap", policy)
		address := spawn(t, "serve", "--config", path).addresses(t)[0]
		removeTwo(t, address)
		if got := len(server.Messages(t)); got != 1 {
			t.Fatalf("%s: %d messages after the removal, want 1", policy, got)
		}
		code, out, errors := runHere("secret\n", "undelete", "--config", path, "--user", "ann", "--password-file", "-")
		if code != exitFine || out != "2 messages brought back.\n" {
			t.Errorf("%s: undelete: exit code %d, %s", policy, code, out+errors)
		}
		if got := len(server.Messages(t)); got != 3 {
			t.Errorf("%s: %d messages after undelete, want 3", policy, got)
		}
	}
}

// sameMessages compares maildrops, but for the unique-ids.
func sameMessages(t *testing.T, got, want map[string]string) {
	t.Helper()
	texts := func(drop map[string]string) (all []string) {
		for _, text := range drop {
			all = append(all, text)
		}
		slices.Sort(all)
		return all
	}
	same(t, "the maildrop has", texts(got), texts(want))
}

// TestGraceEnds: what was kept goes for good after the session that finds its
// time up, and is not brought back any more.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	eachKeeper(t, "delete: expunge, grace: 1ms", func(t *testing.T, k keeper, d *deployment) {
		removeTwo(t, d.pop)
		d.uidls()
		d.process.await(t, "grace=1ms")
		if out := postern(t, "removals", "--config", d.config, "--user", "ann"); strings.Count(out, "purged") != 2 {
			t.Errorf("removals, want 2 that are purged:\n%s", out)
		}
		if n := k.in(t, k.trash); n != 0 {
			t.Errorf("%d messages in the trash, want none", n)
		}
		if n := k.in(t, "INBOX"); n != 1 {
			t.Errorf("%d messages in the mailbox, want 1", n)
		}
		code, out, errors := runHere("", "undelete", "--config", d.config, "--user", "ann", "--password-file", passwordFile(t))
		if code != exitFailed || strings.Count(out, "and then purged") != 2 {
			t.Errorf("undelete: exit code %d, want 1 and two reasons:\n%s%s", code, out, errors)
		}
	})
}

// TestGraceSparesWhatWasMoved: a message that a person took out of the trash is theirs.
func TestGraceSparesWhatWasMoved(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t, "namespace inbox {\ninbox = yes\nmailbox Rubbish {\nspecial_use = \\Trash\nauto = create\n}\n}")
	box := s.AddUser(t, "ann", "secret")
	deliver(t, box, letters(0, 3))
	d := deploy(t, imapAt(s.IMAP), "delete: trash, grace: 1h")
	removeTwo(t, d.pop)
	s.Doveadm(t, "move", "-u", "ann", "INBOX", "mailbox", "Rubbish", "header", "subject", "letter 2")
	d.stop()
	d.configure(imapAt(s.IMAP), "delete: trash, grace: 1ms")
	d.start()
	d.uidls()
	d.process.await(t, "grace=1ms")
	same(t, "the mailbox holds", box.Messages(t), letters(1, 3))
	if n := statusMessages(t, box, "Rubbish"); n != 0 {
		t.Errorf("%d messages in the trash, want none", n)
	}
}

// TestNeverRemoves: the client is told that it removed something, and nothing is.
func TestNeverRemoves(t *testing.T) {
	t.Parallel()
	eachKeeper(t, "delete: never", func(t *testing.T, k keeper, d *deployment) {
		before := d.uidls()
		removeTwo(t, d.pop)
		same(t, "the client sees", d.uidls(), before)
		if n := k.in(t, "INBOX"); n != 3 {
			t.Errorf("%d messages in the mailbox, want 3", n)
		}
	})
}

// TestRequireRetr: only what was delivered whole is removed, also by a later
// session and a later process.
func TestRequireRetr(t *testing.T) {
	t.Parallel()
	eachKeeper(t, "require_retr: true", func(t *testing.T, k keeper, d *deployment) {
		c := d.login("+OK")
		c.lines("TOP 1 1")
		c.say("DELE 1", "-ERR [SYS/PERM]")
		c.retrieve(1)
		c.retrieve(2)
		c.say("DELE 1", "+OK")
		c.quit()
		d.stop()
		d.start()
		c = d.login("+OK")
		c.say("DELE 1", "+OK") // the second of three
		c.say("DELE 2", "-ERR [SYS/PERM]")
		c.quit()
		same(t, "the mailbox holds", k.Messages(t), letters(2, 3))
	})
}

// TestRequireRetrAfterImport: what the old server delivered counts, if the
// import says so.
func TestRequireRetrAfterImport(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	for _, test := range []struct {
		flag, answer string
	}{
		{"--delivered", "+OK"},
		{"--delivered=false", "-ERR [SYS/PERM]"},
	} {
		user := newUser()
		deliver(t, s.AddUser(t, user, "secret"), letters(0, 3))
		d := deploy(t, imapAt(s.IMAP), "require_retr: true")
		out := postern(t, "uidl", "import", "--config", d.config, "--user", user, "--pop3", s.POP3, "--pop3-tls", "off",
			"--password-file", passwordFile(t), test.flag)
		if out != "3 of 3 unique-ids imported.\n" {
			t.Errorf("the import says %q", out)
		}
		c := dialPOP(t, d.pop, nil)
		c.login(user, "secret", "+OK")
		c.say("DELE 2", test.answer)
		c.quit()
	}
}

// TestReadMessagesAreMarkedUpstream: at QUIT, and no other message.
func TestReadMessagesAreMarkedUpstream(t *testing.T) {
	t.Parallel()
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	deliver(t, box, letters(0, 3))
	seen := func() string {
		for _, r := range box.Do(t, "UID SEARCH SEEN") {
			if numbers, ok := strings.CutPrefix(r.Text, "* SEARCH"); ok {
				return strings.TrimSpace(numbers)
			}
		}
		t.Fatal("no answer to SEARCH")
		return ""
	}
	d := deploy(t, imapAt(s.IMAP), "mark_seen: true")
	c := d.login("+OK")
	c.retrieve(2)
	if got := seen(); got != "" {
		t.Errorf("marked as read before QUIT: %s, want none", got)
	}
	c.quit()
	if got := seen(); got != "2" {
		t.Errorf("marked as read: %q, want 2", got)
	}
	d.stop()
	d.configure(imapAt(s.IMAP), "")
	d.start()
	c = d.login("+OK")
	c.retrieve(3)
	c.quit()
	if got := seen(); got != "2" {
		t.Errorf("marked as read, although the route does not say so: %q, want 2", got)
	}
}
