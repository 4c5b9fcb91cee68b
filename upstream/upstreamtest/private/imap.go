package private

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
)

// An IMAP is another client of an account: it sends a command and reads what
// comes back, and knows no more of the protocol. Whatever goes wrong ends the
// test. Safe for use by several goroutines.
type IMAP struct {
	Address, User, Password string

	mu     sync.Mutex
	conn   net.Conn // nil before the first command
	reader *bufio.Reader
}

// A Response is one untagged answer: its text, with literals taken out of it.
type Response struct {
	Text     string
	Literals []string
}

// Do runs one command and returns the untagged answers. Any answer but OK ends
// the test.
func (c *IMAP) Do(t testing.TB, command string) []Response {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		c.login(t)
	}
	return c.send(t, command)
}

// Literals runs one command and returns the literals of all answers to it.
func (c *IMAP) Literals(t testing.TB, command string) []string {
	t.Helper()
	all := []string{}
	for _, r := range c.Do(t, command) {
		all = append(all, r.Literals...)
	}
	return all
}

// Close ends the connection; the next command opens another.
func (c *IMAP) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// login connects, for all commands to come.
func (c *IMAP) login(t testing.TB) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.Address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.conn, c.reader = conn, bufio.NewReaderSize(conn, 64<<10)
	c.send(t, fmt.Sprintf("LOGIN {%d+}\r\n%s {%d+}\r\n%s", len(c.User), c.User, len(c.Password), c.Password))
}

func (c *IMAP) send(t testing.TB, command string) (untagged []Response) {
	t.Helper()
	c.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(c.conn, "a "+command+"\r\n"); err != nil {
		t.Fatalf("%.60q: %v", command, err)
	}
	for {
		r, err := c.response()
		if err != nil {
			t.Fatalf("%.60q: %v", command, err)
		}
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
func (c *IMAP) response() (r Response, err error) {
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return r, fmt.Errorf("after %.60q: %w", r.Text+line, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		text, size, isLiteral := cutLiteral(line)
		r.Text += text
		if !isLiteral {
			return r, nil
		}
		literal := make([]byte, size)
		if _, err := io.ReadFull(c.reader, literal); err != nil {
			return r, fmt.Errorf("in a literal of %d octets after %.60q: %w", size, line, err)
		}
		r.Literals = append(r.Literals, string(literal))
	}
}

// cutLiteral tells whether a line announces a literal, and of how many octets.
func cutLiteral(line string) (text string, size int, isLiteral bool) {
	at := strings.LastIndexByte(line, '{')
	if at < 0 || !strings.HasSuffix(line, "}") {
		return line, 0, false
	}
	size, err := strconv.Atoi(line[at+1 : len(line)-1])
	if err != nil {
		return line, 0, false
	}
	return line[:at], size, true
}
