package dovecot

import (
	"fmt"
	"strings"
	"testing"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/private"
)

// A Mailbox is the INBOX of one account, as a second IMAP client sees it. Safe
// for use by several goroutines.
type Mailbox struct {
	server *Server
	imap   private.IMAP
}

var _ upstreamtest.Mailbox = (*Mailbox)(nil)

func (s *Server) mailbox(t testing.TB, user, password string) *Mailbox {
	m := &Mailbox{server: s, imap: private.IMAP{Address: s.IMAP, User: user, Password: password}}
	t.Cleanup(m.imap.Close)
	return m
}

// Account returns the credentials that open the mailbox.
func (m *Mailbox) Account() upstream.Account {
	return upstream.Account{User: m.imap.User, Password: upstream.NewSecret(m.imap.Password)}
}

// Deliver implements upstreamtest.Mailbox.
func (m *Mailbox) Deliver(t testing.TB, raw string) {
	t.Helper()
	m.imap.Do(t, fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(raw), raw))
}

// Take implements upstreamtest.Mailbox.
func (m *Mailbox) Take(t testing.TB, raw string) {
	t.Helper()
	for _, r := range m.Do(t, "UID FETCH 1:* (UID BODY.PEEK[])") {
		if len(r.Literals) == 1 && r.Literals[0] == raw {
			uid := uidOf(t, r)
			m.Do(t, fmt.Sprintf(`UID STORE %s +FLAGS.SILENT (\Deleted)`, uid))
			m.Do(t, "UID EXPUNGE "+uid)
			return
		}
	}
	t.Fatalf("no such message to take: %.60q", raw)
}

// Messages implements upstreamtest.Mailbox.
func (m *Mailbox) Messages(t testing.TB) []string {
	t.Helper()
	return m.In(t, "INBOX")
}

// In returns what a folder holds, oldest first.
func (m *Mailbox) In(t testing.TB, folder string) []string {
	t.Helper()
	m.imap.Do(t, "SELECT "+folder)
	return m.imap.Literals(t, "UID FETCH 1:* (UID BODY.PEEK[])")
}

// UIDs returns the UIDs of all messages, oldest first.
func (m *Mailbox) UIDs(t testing.TB) []string {
	t.Helper()
	all := []string{}
	for _, r := range m.Do(t, "UID FETCH 1:* (UID)") {
		all = append(all, uidOf(t, r))
	}
	return all
}

// SetUIDValidity renumbers the mailbox: no UID means what it did before.
func (m *Mailbox) SetUIDValidity(t testing.TB, value uint32) {
	t.Helper()
	m.server.Doveadm(t, "mailbox", "update", "-u", m.imap.User, "--uid-validity", fmt.Sprint(value), "INBOX")
}

// Do runs one IMAP command on the INBOX, which is selected anew before it, and
// returns the untagged answers. Any answer but OK ends the test.
func (m *Mailbox) Do(t testing.TB, command string) []private.Response {
	t.Helper()
	m.imap.Do(t, "SELECT INBOX")
	return m.imap.Do(t, command)
}

func uidOf(t testing.TB, r private.Response) string {
	t.Helper()
	_, rest, found := strings.Cut(r.Text, "UID ")
	if !found {
		t.Fatalf("no UID in %q", r.Text)
	}
	return strings.FieldsFunc(rest, func(c rune) bool { return c == ' ' || c == ')' })[0]
}
