package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/pop3"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// doorman lets anyone in whose password is "right", each to a mailbox of one message.
type doorman struct {
	faults upstreamtest.Faults
	ask    func(ctx context.Context, user string) // called in Authenticate
}

func (d doorman) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	if d.ask != nil {
		d.ask(ctx, c.User)
	}
	m := upstreamtest.NewMemory(c.User, "right")
	m.Deliver(nil, "Subject: one\r\n\r\nbody\r\n")
	m.Break(d.faults)
	drop, err := m.Open(ctx, upstream.Account{User: c.User, Password: c.Password})
	return pop3.Login{Maildrop: drop, Account: c.User, Upstream: "memory"}, err
}

// serve runs a server on loopback until the test ends.
func serve(t *testing.T, o Options) *Server {
	t.Helper()
	for i := range o.Listeners {
		o.Listeners[i].Address = "127.0.0.1:0"
	}
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s
}

func run(t *testing.T, s *Server) {
	over := make(chan struct{})
	go func() {
		s.Serve()
		close(over)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		<-over
		if open, strangers := s.Connections(); open != 0 || strangers != 0 {
			t.Errorf("connections at the end: got %d open, %d strangers, want none", open, strangers)
		}
	})
}

// A client is the other end of a session.
type client struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func clientOn(t *testing.T, conn net.Conn) *client {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Hour)) // of virtual time, or no time at all
	return &client{t, conn, bufio.NewReader(conn)}
}

func dial(t *testing.T, s *Server, listener int) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addrs()[listener].String())
	if err != nil {
		t.Fatal(err)
	}
	return clientOn(t, conn)
}

// dialTLS connects to a listener of implicit TLS, or uses STLS.
func dialTLS(t *testing.T, s *Server, listener int, config *tls.Config) (*client, error) {
	t.Helper()
	c := dial(t, s, listener)
	if s.listeners[listener].pop3.TLS != nil {
		c.expect("+OK")
		c.say("STLS", "+OK")
	}
	conn := tls.Client(c.Conn, config)
	return clientOn(t, conn), conn.Handshake()
}

// line returns the next line, or how the connection ended.
func (c *client) line() string {
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return "<" + err.Error() + ">"
	}
	return strings.TrimRight(line, "\r\n")
}

func (c *client) expect(prefix string) {
	c.t.Helper()
	if got := c.line(); !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("got line %q, want %q", got, prefix)
	}
}

func (c *client) say(line, answer string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\r\n"); err != nil {
		c.t.Fatalf("send %q: %v", line, err)
	}
	if got := c.line(); !strings.HasPrefix(got, answer) {
		c.t.Fatalf("%s: got line %q, want %q", line, got, answer)
	}
}

func (c *client) login(user string) {
	c.t.Helper()
	c.say("USER "+user, "+OK")
	c.say("PASS right", "+OK")
}

// ended reads to the end of the connection.
func (c *client) ended() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.lines); len(rest) > 0 || errors.Is(err, context.DeadlineExceeded) {
		c.t.Errorf("end of connection: got %q and error %v, want nothing more", rest, err)
	}
}

// eventually waits for what follows from an event on another goroutine.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestListenAllOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	_, err = Listen(Options{Listeners: []Listener{{Address: address}, {Address: taken.Addr().String()}}})
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got error %v, want one that names %s", err, taken.Addr())
	}
	if _, err := Listen(Options{Listeners: []Listener{{Address: address, TLS: Implicit}}}); err == nil {
		t.Error("implicit TLS without a certificate: got no error")
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the free address was kept: %v", err)
	}
	again.Close()
}

func TestEveryTLSMode(t *testing.T) {
	cert, trust := certificate(t, "one")
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{
		{TLS: Off}, {TLS: STLS, Certificate: cert}, {TLS: Implicit, Certificate: cert},
	}})
	for i, mode := range []TLSMode{Off, STLS, Implicit} {
		t.Run(mode.String(), func(t *testing.T) {
			c := dial(t, s, i)
			if mode != Off {
				c.Close()
				var err error
				if c, err = dialTLS(t, s, i, trust.client()); err != nil {
					t.Fatal(err)
				}
			}
			if mode != STLS {
				c.expect("+OK")
			}
			c.login("ann")
			c.say("STAT", "+OK 1 ")
			c.say("QUIT", "+OK")
			c.ended()
		})
	}
}

func TestTLSRefuses(t *testing.T) {
	cert, trust := certificate(t, "one")
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{{TLS: Implicit, Certificate: cert}}})
	for name, spoil := range map[string]func(*tls.Config){
		"TLS 1.1":          func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"another protocol": func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} },
	} {
		config := trust.client()
		spoil(config)
		if _, err := dialTLS(t, s, 0, config); err == nil {
			t.Errorf("%s: got a handshake, want it to fail", name)
		}
	}
	for _, protocols := range [][]string{nil, {"pop3"}} {
		config := trust.client()
		config.NextProtos, config.MaxVersion = protocols, tls.VersionTLS12
		if _, err := dialTLS(t, s, 0, config); err != nil {
			t.Errorf("TLS 1.2, ALPN %q: got error %v, want none", protocols, err)
		}
	}
}

// A TLS session resumes at the listener that began it, and at no other.
func TestResumptionStaysAtItsListener(t *testing.T) {
	cert, trust := certificate(t, "one")
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{
		{TLS: Implicit, Certificate: cert}, {TLS: Implicit, Certificate: cert}, {TLS: STLS, Certificate: cert},
	}})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for i, want := range map[int]bool{0: true, 1: false, 2: false} {
			config := trust.client()
			config.MaxVersion = version
			config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			first, err := dialTLS(t, s, 0, config)
			if err != nil {
				t.Fatal(err)
			}
			first.expect("+OK") // TLS 1.3 sends the ticket before it
			first.Close()
			second, err := dialTLS(t, s, i, config)
			if err != nil {
				t.Fatal(err)
			}
			if got := second.Conn.(*tls.Conn).ConnectionState().DidResume; got != want {
				t.Errorf("%s: session of listener 0 resumed at listener %d: got %v, want %v", tls.VersionName(version), i, got, want)
			}
		}
	}
}

func TestPlaintextLogin(t *testing.T) {
	for _, c := range []struct {
		networks []netip.Prefix
		address  string
		want     bool
	}{
		{nil, "127.0.0.1", true},
		{nil, "127.1.2.3", true},
		{nil, "::ffff:127.0.0.1", true},
		{nil, "::1", true},
		{nil, "192.0.2.1", false},
		{nil, "fe80::1%eth0", false},
		{[]netip.Prefix{}, "127.0.0.1", false},
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "192.0.2.9", true},
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "::ffff:192.0.2.9", true},
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "127.0.0.1", false},
		{[]netip.Prefix{netip.MustParsePrefix("fe80::/10")}, "fe80::1%eth0", true},
	} {
		if got := within(c.networks)(netip.MustParseAddr(c.address)); got != c.want {
			t.Errorf("%s in %v: got %v, want %v", c.address, c.networks, got, c.want)
		}
	}
	if within(nil)(netip.Addr{}) {
		t.Error("an unknown address is not on loopback")
	}
}

// A panic that no session answers for ends one connection.
func TestPanicEndsOneConnection(t *testing.T) {
	var once sync.Once
	hooks := func(string) pop3.Hooks {
		return pop3.Hooks{Began: func() { once.Do(func() { panic("began") }) }}
	}
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{{}}, Hooks: hooks})
	dial(t, s, 0).ended()
	c := dial(t, s, 0)
	c.expect("+OK")
	c.login("ann")
	c.say("QUIT", "+OK")
}

// Nor does a panic on the way to a session end the listener.
func TestPanicDoesNotEndListener(t *testing.T) {
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{{}}, MaxPerAddress: 1,
		Refused: func(string, string) { panic("refused") }})
	first := dial(t, s, 0)
	first.expect("+OK")
	dial(t, s, 0).expect("-ERR")
	first.login("ann")
	dial(t, s, 0).expect("+OK")
}

// Many clients come and go at once; each gets its session and leaves nothing.
func TestManyConnections(t *testing.T) {
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{{}}, MaxPerAddress: 1000})
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			conn, err := net.Dial("tcp", s.Addrs()[0].String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "USER u%d\r\nPASS right\r\nSTAT\r\nQUIT\r\n", i)
			said, err := io.ReadAll(conn)
			if n := strings.Count(string(said), "+OK"); n != 5 {
				t.Errorf("client %d: got %q and error %v, want five +OK", i, said, err)
			}
		})
	}
	all.Wait()
	eventually(t, "all places given back", func() bool { open, _ := s.Connections(); return open == 0 })
}
