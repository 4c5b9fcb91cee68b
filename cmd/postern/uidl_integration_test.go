package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/jmapserver"
)

// maildrop reads all that a POP3 server shows to a user: messages by unique-id.
func maildrop(t *testing.T, address, user, password string) map[string]string {
	t.Helper()
	c := dialPOP(t, address, nil)
	c.login(user, password, "+OK")
	c.say("UIDL", "+OK")
	lines, err := c.ReadDotLines()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, line := range lines {
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
	c.say("QUIT", "+OK")
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

// keeping starts a gateway to a Dovecot with a trash, and an account ann of
// three messages.
func keeping(t *testing.T, policy string) (box *dovecot.Mailbox, p *process, path, password string) {
	t.Helper()
	s := dovecot.Start(t, "namespace inbox {\ninbox = yes\nmailbox Rubbish {\nspecial_use = \\Trash\nauto = create\n}\n}")
	box = s.AddUser(t, "ann", "secret")
	for i := range 3 {
		box.Deliver(t, upstreamtest.Letter(i, 400))
	}
	path = writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office, %s}]
`, s.IMAP, policy)
	password = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return box, spawn(t, "serve", "--config", path), path, password
}

// rubbish is how many messages are in the trash.
func rubbish(t *testing.T, box *dovecot.Mailbox) int {
	t.Helper()
	for _, r := range box.Do(t, "STATUS Rubbish (MESSAGES)") {
		var n int
		if _, after, ok := strings.Cut(r.Text, "(MESSAGES "); ok {
			fmt.Sscanf(after, "%d", &n)
			return n
		}
	}
	t.Fatal("no answer to STATUS")
	return 0
}

func removeTwo(t *testing.T, address string) {
	t.Helper()
	c := dialPOP(t, address, nil)
	c.login("ann", "secret", "+OK")
	c.say("DELE 1", "+OK")
	c.say("DELE 3", "+OK")
	c.say("QUIT", "+OK")
	c.expectEnd()
}

func TestUndelete(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"delete: trash", "delete: expunge, grace: 30d", "delete: flag"} {
		t.Run(policy, func(t *testing.T) {
			box, p, path, password := keeping(t, policy)
			address := p.addresses(t)[0]
			removeTwo(t, address)
			if got := len(maildrop(t, address, "ann", "secret")); got != 1 {
				t.Fatalf("%d messages after the removal, want 1", got)
			}
			if out := postern(t, "removals", "--config", path, "--user", "ann"); strings.Count(out, "kept\n") != 2 {
				t.Errorf("removals, want 2 that are kept:\n%s", out)
			}
			undelete := []string{"undelete", "--config", path, "--user", "ann", "--password-file", password}
			if out := postern(t, undelete...); out != "2 messages brought back.\n" {
				t.Errorf("undelete says %q", out)
			}
			if got := len(maildrop(t, address, "ann", "secret")); got != 3 {
				t.Errorf("%d messages after undelete, want 3", got)
			}
			if n := rubbish(t, box); n != 0 {
				t.Errorf("%d messages in the trash, want none", n)
			}
			if code, _, errors := runHere("", undelete...); code != exitFailed || !strings.Contains(errors, "nothing of ann can be brought back") {
				t.Errorf("the second time: exit code %d, %s", code, errors)
			}
		})
	}
}

// TestUndeleteByJMAP: the same with mailboxes that a message is in, or not.
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

// TestGraceEnds: what was kept goes for good after the session that finds its
// time up, and is not brought back any more.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	box, p, path, _ := keeping(t, "delete: expunge, grace: 1ms")
	address := p.addresses(t)[0]
	removeTwo(t, address)
	maildrop(t, address, "ann", "secret")
	p.await(t, "grace=1ms")
	if out := postern(t, "removals", "--config", path, "--user", "ann"); strings.Count(out, "purged") != 2 {
		t.Errorf("removals, want 2 that are purged:\n%s", out)
	}
	if n := rubbish(t, box); n != 0 {
		t.Errorf("%d messages in the trash, want none", n)
	}
	if n := len(box.Messages(t)); n != 1 {
		t.Errorf("%d messages in the mailbox, want 1", n)
	}
}

func TestReadMessagesAreMarkedUpstream(t *testing.T) {
	t.Parallel()
	box, p, _, _ := keeping(t, "mark_seen: true")
	c := dialPOP(t, p.addresses(t)[0], nil)
	c.login("ann", "secret", "+OK")
	c.say("RETR 2", "+OK")
	if _, err := c.ReadDotBytes(); err != nil {
		t.Fatal(err)
	}
	c.say("QUIT", "+OK")
	c.expectEnd()
	for _, r := range box.Do(t, "UID SEARCH SEEN") {
		if numbers, ok := strings.CutPrefix(r.Text, "SEARCH"); ok && strings.TrimSpace(numbers) != "2" {
			t.Errorf("messages marked as read:%s, want 2", numbers)
		}
	}
}
