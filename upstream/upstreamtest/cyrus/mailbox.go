package cyrus

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/upstream"
)

// A Mailbox is the INBOX of one account, as an IMAP client sees it
// (upstreamtest.Mailbox). Safe for use by several goroutines.
type Mailbox struct {
	server         *Server
	user, password string

	mu        sync.Mutex
	conn      net.Conn // nil before the first command
	reader    *bufio.Reader
	delivered int
}

// Account returns the credentials that open the mailbox.
func (m *Mailbox) Account() upstream.Account {
	return upstream.Account{User: m.user, Password: upstream.NewSecret(m.password)}
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
		m.command(t, command.String())
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
	m.command(t, "SELECT INBOX")
	m.command(t, fmt.Sprintf("COPY %d %s", n, folder))
}

// Do runs IMAP commands, as any other client might.
func (m *Mailbox) Do(t testing.TB, commands ...string) {
	t.Helper()
	for _, c := range commands {
		m.command(t, c)
	}
}

// Take implements upstreamtest.Mailbox.
func (m *Mailbox) Take(t testing.TB, raw string) {
	t.Helper()
	for n, r := range m.Messages(t) {
		if r == raw {
			m.command(t, fmt.Sprintf(`STORE %d +FLAGS.SILENT (\Deleted)`, n+1))
			m.command(t, "EXPUNGE")
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
	m.command(t, "SELECT "+folder)
	return m.command(t, "UID FETCH 1:* (BODY.PEEK[])")
}

func (m *Mailbox) disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// command runs one IMAP command, and returns the literals of its answer.
func (m *Mailbox) command(t testing.TB, command string) []string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		m.login(t)
	}
	return m.send(t, command)
}

func (m *Mailbox) login(t testing.TB) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", m.server.IMAP, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	m.conn, m.reader = conn, bufio.NewReaderSize(conn, 64<<10)
	m.send(t, fmt.Sprintf("LOGIN {%d+}\r\n%s {%d+}\r\n%s", len(m.user), m.user, len(m.password), m.password))
}

func (m *Mailbox) send(t testing.TB, command string) (literals []string) {
	t.Helper()
	m.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(m.conn, "a "+command+"\r\n"); err != nil {
		t.Fatalf("%.60q: %v", command, err)
	}
	for {
		line, err := m.reader.ReadString('\n')
		if err != nil {
			t.Fatalf("%.60q: %v", command, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		if status, tagged := strings.CutPrefix(line, "a "); tagged {
			if !strings.HasPrefix(status, "OK") {
				t.Fatalf("%.60q: %s", command, status)
			}
			return literals
		}
		at := strings.LastIndexByte(line, '{')
		if at < 0 || !strings.HasSuffix(line, "}") {
			continue
		}
		size, err := strconv.Atoi(line[at+1 : len(line)-1])
		if err != nil {
			continue
		}
		literal := make([]byte, size)
		if _, err := io.ReadFull(m.reader, literal); err != nil {
			t.Fatalf("%.60q: in a literal of %d octets: %v", command, size, err)
		}
		literals = append(literals, string(literal))
	}
}
