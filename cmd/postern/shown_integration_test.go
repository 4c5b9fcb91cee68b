package main

import (
	"strings"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

// TestRemovalsHaveTheUIDLsThatClientsKnow: what the log of removals names is
// what stands in a client's own log, whatever the upstream would call it.
func TestRemovalsHaveTheUIDLsThatClientsKnow(t *testing.T) {
	t.Parallel()
	old, c := dovecot.Start(t), cyrus.Start(t)
	renumbered := old.AddUser(t, "bob", "secret")
	for _, test := range []struct {
		name     string
		box      upstreamtest.Mailbox
		upstream string
		between  func(d *deployment, user string) (known map[string]string)
	}{
		{"Imported", old.AddUser(t, "ann", "secret"), imapAt(old.IMAP), func(d *deployment, user string) map[string]string {
			postern(t, "uidl", "import", "--config", d.config, "--user", user, "--pop3", old.POP3, "--pop3-tls", "off",
				"--password-file", passwordFile(t))
			return maildrop(t, old.POP3, user, "secret")
		}},
		{"Renumbered", renumbered, imapAt(old.IMAP), func(d *deployment, user string) map[string]string {
			known := maildrop(t, d.pop, user, "secret")
			renumbered.SetUIDValidity(t, 4_000_000_000)
			return known
		}},
		{"ByJMAPAfterIMAPWithGrace", c.AddUser(t, "ann", "secret"), imapAt(c.IMAP), func(d *deployment, user string) map[string]string {
			known := maildrop(t, d.pop, user, "secret")
			d.stop()
			d.configure(jmapAt(c), "grace: 1d")
			d.start()
			return known
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := "ann"
			if test.box == renumbered {
				user = "bob"
			}
			deliver(t, test.box, letters(0, 5))
			d := deploy(t, test.upstream, "")
			known := test.between(d, user)
			s := dialPOP(t, d.pop, nil)
			s.login(user, "secret", "+OK")
			lines := s.lines("UIDL")
			if len(lines) != 5 {
				t.Fatalf("%q, want 5 lines", lines)
			}
			_, shown, _ := strings.Cut(lines[1], " ")
			if _, ok := known[shown]; !ok {
				t.Fatalf("message 2 has the UIDL %s, which no client knows", shown)
			}
			s.say("DELE 2", "+OK")
			s.quit()
			out := postern(t, "removals", "--config", d.config, "--user", user)
			if n := strings.Count(out, " "+shown+" "); n != 1 {
				t.Errorf("UIDL %s stands there %d times, want once:\n%s", shown, n, out)
			}
		})
	}
}
