package cyrus

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/private"
)

// A Mailbox is the INBOX of one account, as an IMAP client sees it. Safe for use
// by several goroutines.
type Mailbox struct {
	imap private.IMAP

	mu        sync.Mutex
	delivered int
}

var _ upstreamtest.Mailbox = (*Mailbox)(nil)

func (s *Server) mailbox(t testing.TB, user, password string) *Mailbox {
	m := &Mailbox{imap: private.IMAP{Address: s.IMAP, User: user, Password: password}}
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
	m.DeliverAll(t, []string{raw})
}

// DeliverAll adds messages, a hundred to a command (MULTIAPPEND, RFC 3502).
// Each is a second newer than the one before: JMAP has no order of arrival, and
// Cyrus sorts the messages of one second by their hash.
func (m *Mailbox) DeliverAll(t testing.TB, raw []string) {
	t.Helper()
	for len(raw) > 0 {
		command := strings.Builder{}
		command.WriteString("APPEND INBOX")
		n := min(100, len(raw))
		for _, r := range raw[:n] {
			fmt.Fprintf(&command, " \"%s\" {%d+}\r\n%s", m.nextDate(), len(r), r)
		}
		m.imap.Do(t, command.String())
		raw = raw[n:]
	}
}

func (m *Mailbox) nextDate() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delivered++
	at := time.Date(2026, 1, 1, 0, 0, m.delivered, 0, time.UTC)
	return at.Format("_2-Jan-2006 15:04:05 -0700")
}

// Copy puts message n of the INBOX, counting from 1, into a folder too.
func (m *Mailbox) Copy(t testing.TB, n int, folder string) {
	t.Helper()
	m.imap.Do(t, "SELECT INBOX")
	m.imap.Do(t, fmt.Sprintf("COPY %d %s", n, folder))
}

// Do runs IMAP commands, as any other client might.
func (m *Mailbox) Do(t testing.TB, commands ...string) {
	t.Helper()
	for _, c := range commands {
		m.imap.Do(t, c)
	}
}

// Take implements upstreamtest.Mailbox.
func (m *Mailbox) Take(t testing.TB, raw string) {
	t.Helper()
	for n, r := range m.Messages(t) {
		if r == raw {
			m.imap.Do(t, fmt.Sprintf(`STORE %d +FLAGS.SILENT (\Deleted)`, n+1))
			m.imap.Do(t, "EXPUNGE")
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
	return m.imap.Literals(t, "UID FETCH 1:* (BODY.PEEK[])")
}
