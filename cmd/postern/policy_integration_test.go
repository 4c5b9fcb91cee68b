package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/jmapserver"
)

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
