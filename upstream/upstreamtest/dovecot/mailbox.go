package dovecot

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
	"postern/upstream/upstreamtest"
)

// A Mailbox is the INBOX of one account, as a second IMAP client sees it. Safe
// for use by several goroutines.
type Mailbox struct {
	server         *Server
	user, password string

	mu     sync.Mutex
	conn   net.Conn // nil before the first command
	reader *bufio.Reader
}

var _ upstreamtest.Mailbox = (*Mailbox)(nil)

// A Response is one untagged answer: its text, with literals taken out of it.
type Response struct {
	Text     string
	Literals []string
}

// Account returns the credentials that open the mailbox.
func (m *Mailbox) Account() upstream.Account {
	return upstream.Account{User: m.user, Password: upstream.NewSecret(m.password)}
}

// Deliver implements upstreamtest.Mailbox.
func (m *Mailbox) Deliver(t testing.TB, raw string) {
	t.Helper()
	m.do(t, fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(raw), raw))
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
	m.do(t, "SELECT "+folder)
	all := []string{}
	for _, r := range m.do(t, "UID FETCH 1:* (UID BODY.PEEK[])") {
		all = append(all, r.Literals...)
	}
	return all
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
	m.server.Doveadm(t, "mailbox", "update", "-u", m.user, "--uid-validity", fmt.Sprint(value), "INBOX")
}

// Do runs one IMAP command on the INBOX, which is selected anew before it, and
// returns the untagged answers. Any answer but OK ends the test.
func (m *Mailbox) Do(t testing.TB, command string) []Response {
	t.Helper()
	m.do(t, "SELECT INBOX")
	return m.do(t, command)
}

func (m *Mailbox) do(t testing.TB, command string) []Response {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		m.login(t)
	}
	return m.send(t, command)
}

// login connects, for all commands to come.
func (m *Mailbox) login(t testing.TB) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", m.server.IMAP, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	m.conn, m.reader = conn, bufio.NewReader(conn)
	m.response(t) // the greeting
	m.send(t, fmt.Sprintf("LOGIN {%d+}\r\n%s {%d+}\r\n%s", len(m.user), m.user, len(m.password), m.password))
}

func (m *Mailbox) disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

func (m *Mailbox) send(t testing.TB, command string) []Response {
	t.Helper()
	m.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(m.conn, "a "+command+"\r\n"); err != nil {
		t.Fatalf("%.60q: %v", command, err)
	}
	var untagged []Response
	for {
		r := m.response(t)
		if status, tagged := strings.CutPrefix(r.Text, "a "); tagged {
			if !strings.HasPrefix(status, "OK") {
				t.Fatalf("%.60q: %s", command, status)
			}
			return untagged
		}
		untagged = append(untagged, r)
	}
}

// response reads one answer with its literals.
func (m *Mailbox) response(t testing.TB) (r Response) {
	t.Helper()
	for {
		line, err := m.reader.ReadString('\n')
		if err != nil {
			t.Fatalf("after %.60q: %v", r.Text+line, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		size, isLiteral := literalSize(line)
		if !isLiteral {
			r.Text += line
			return r
		}
		literal := make([]byte, size)
		if _, err := io.ReadFull(m.reader, literal); err != nil {
			t.Fatalf("in a literal of %d octets after %.60q: %v", size, line, err)
		}
		r.Text += line[:strings.LastIndexByte(line, '{')]
		r.Literals = append(r.Literals, string(literal))
	}
}

// literalSize tells whether a line announces a literal, and of how many octets.
func literalSize(line string) (int, bool) {
	at := strings.LastIndexByte(line, '{')
	if at < 0 || !strings.HasSuffix(line, "}") {
		return 0, false
	}
	size, err := strconv.Atoi(line[at+1 : len(line)-1])
	return size, err == nil
}

func uidOf(t testing.TB, r Response) string {
	t.Helper()
	_, rest, found := strings.Cut(r.Text, "UID ")
	if !found {
		t.Fatalf("no UID in %q", r.Text)
	}
	return strings.FieldsFunc(rest, func(c rune) bool { return c == ' ' || c == ')' })[0]
}
