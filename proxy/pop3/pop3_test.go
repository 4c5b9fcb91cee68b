package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The maildrop of most tests. Sizes: 23, 45 and 27 octets.
var threeMessages = []string{
	"Subject: one\r\n\r\nfirst\r\n",
	"Subject: two\r\n\r\n.dot\r\n..\r\nthree\r\nlast lines\r\n",
	"Subject: three\r\n\r\n1\r\n2\r\n3\r\n",
}

const (
	testUser     = "bob"
	testPassword = "correct horse battery staple"
)

// A gateway is a Server over a mailbox in memory, with everything that it
// tells recorded.
type gateway struct {
	Server
	box *upstreamtest.Memory
	log logBuffer

	mu       sync.Mutex
	tried    []Credentials
	ended    []Summary
	commands []string // name and result
	logins   []string
	panics   string // authenticate, list: panic there
}

func newGateway(messages ...string) *gateway {
	g := &gateway{box: upstreamtest.NewMemory(testUser, testPassword)}
	for _, raw := range messages {
		g.box.Deliver(nil, raw)
	}
	g.Authenticator = g
	g.PlaintextLogin = func(netip.Addr) bool { return true }
	g.Log = slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g.Hooks = Hooks{
		Login: func(result string, _ time.Duration) { g.note(func() { g.logins = append(g.logins, result) }) },
		Command: func(name, result string, _ time.Duration) {
			g.note(func() { g.commands = append(g.commands, name+" "+result) })
		},
		Ended: func(s Summary) { g.note(func() { g.ended = append(g.ended, s) }) },
	}
	return g
}

func (g *gateway) note(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// Authenticate implements Authenticator.
func (g *gateway) Authenticate(ctx context.Context, c Credentials) (Login, error) {
	g.note(func() { g.tried = append(g.tried, c) })
	if g.panics == "authenticate" {
		panic("authenticate with " + c.Password.Reveal())
	}
	if c.Token.Reveal() == testToken {
		c.Password = upstream.NewSecret(testPassword)
	}
	d, err := g.box.Open(ctx, upstream.Account{User: c.User, Password: c.Password})
	if err != nil {
		return Login{}, err
	}
	if g.panics == "list" {
		d = panickingMaildrop{d}
	}
	return Login{Maildrop: d, Account: c.User, Upstream: "memory"}, nil
}

type panickingMaildrop struct{ upstream.Maildrop }

func (panickingMaildrop) List(context.Context) (upstream.Listing, error) { panic("list") }

// summary returns how the only session ended.
func (g *gateway) summary(t testing.TB) Summary {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ended) != 1 {
		t.Fatalf("%d sessions ended, want 1", len(g.ended))
	}
	return g.ended[0]
}

// holds checks what is left in the mailbox.
func (g *gateway) holds(t testing.TB, want ...string) {
	t.Helper()
	if got := g.box.Messages(t); !slices.Equal(got, want) {
		t.Errorf("mailbox holds %q, want %q", got, want)
	}
}

// allClosed checks that every maildrop that was opened was closed.
func (g *gateway) allClosed(t testing.TB) {
	t.Helper()
	if opened, closed := g.box.Handles(); opened != closed {
		t.Errorf("%d maildrops opened, %d closed", opened, closed)
	}
}

// A logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A client is a POP3 client that knows what it wants to hear.
type client struct {
	net.Conn
	t     testing.TB
	lines *bufio.Reader
	done  chan struct{} // closed when Serve has returned
}

// dial starts a session over net.Pipe. The test ends it.
func (g *gateway) dial(ctx context.Context, t testing.TB) *client {
	here, there := net.Pipe()
	return g.serve(ctx, t, here, there)
}

// dialTCP starts a session over a TCP connection.
func (g *gateway) dialTCP(ctx context.Context, t testing.TB) *client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return g.serve(ctx, t, here, there)
}

// longestTalk is more than any dialogue here takes.
const longestTalk = 15 * time.Second

func (g *gateway) serve(ctx context.Context, t testing.TB, here, there net.Conn) *client {
	if bubble := time.Now().Year() == 2000; !bubble { // where that is testing/synctest's today, no wait takes long
		here.SetDeadline(time.Now().Add(longestTalk))
	}
	c := &client{Conn: here, t: t, lines: bufio.NewReader(here), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		g.Serve(ctx, there)
	}()
	t.Cleanup(func() {
		here.Close()
		<-c.done
	})
	return c
}

// logIn hears the greeting and logs in.
func (c *client) logIn() *client {
	c.t.Helper()
	c.hear("+OK POP3 server ready")
	c.say("USER " + testUser)
	c.hear("+OK send the password")
	c.say("PASS " + testPassword)
	if got := c.line(); !strings.HasPrefix(got, "+OK maildrop has ") {
		c.t.Fatalf("login: got %q", got)
	}
	return c
}

// say sends one command.
func (c *client) say(line string) {
	c.t.Helper()
	c.send(line + "\r\n")
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

// line reads one line, without its CRLF.
func (c *client) line() string {
	c.t.Helper()
	text, err := c.lines.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read a line: got %q, %v", text, err)
	}
	line, found := strings.CutSuffix(text, "\r\n")
	if !found {
		c.t.Fatalf("got the line %q, want CRLF at its end", text)
	}
	return line
}

func (c *client) hear(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := c.line(); got != w {
			c.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

// ask is say and hear.
func (c *client) ask(command string, want ...string) {
	c.t.Helper()
	c.say(command)
	c.hear(want...)
}

// closed checks that the server closed the connection without another octet.
func (c *client) closed() {
	c.t.Helper()
	if rest := c.rest(); rest != "" {
		c.t.Errorf("got %.200q, want the connection closed", rest)
	}
}

// rest reads until the server closes, and waits for the session's end.
func (c *client) rest() string {
	c.t.Helper()
	text, err := io.ReadAll(c.lines)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Errorf("got %.200q, then %v; want the connection closed", text, err)
	}
	c.Conn.Close()
	<-c.done
	return string(text)
}

var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<32, 0),
		DNSNames:     []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func testTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{testCertificate()}}
}

// startTLS upgrades the client's end.
func (c *client) startTLS() {
	c.t.Helper()
	conn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true}) // who it is, is not what is tested
	if err := conn.Handshake(); err != nil {
		c.t.Fatalf("TLS handshake: %v", err)
	}
	c.Conn, c.lines = conn, bufio.NewReader(conn)
}
