// Package proxy runs the POP3 listeners: it accepts connections, sets up TLS,
// keeps the number of connections within limits, and ends it all in order. What
// is said on a connection is package pop3's.
//
// A Server owns one goroutine for each listener, which accepts, and one for each
// connection, which runs the session. None of them outlives Shutdown, but for
// sessions that Shutdown was not given the time to wait for.
//
// RFC 8314 (implicit TLS), 2595 (STLS), 7301 (ALPN).
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"postern/proxy/pop3"
)

// TLSMode says how a listener comes to TLS.
type TLSMode int

const (
	Off      TLSMode = iota // plaintext only
	STLS                    // plaintext that the client may upgrade (RFC 2595)
	Implicit                // TLS from the first octet (RFC 8314)
)

// String returns the mode's name in the configuration.
func (m TLSMode) String() string {
	switch m {
	case STLS:
		return "stls"
	case Implicit:
		return "implicit"
	default:
		return "off"
	}
}

// A Listener is an address to accept POP3 connections at.
type Listener struct {
	Address     string // host:port; also the listener's name in logs and hooks
	TLS         TLSMode
	Certificate *Certificate // needed unless TLS is Off

	// ClientCAs are trusted to certify clients, which may then show a
	// certificate and need not; nil asks for none. A client whose certificate
	// does not come from them gets no connection.
	ClientCAs *x509.CertPool

	// PlaintextLogin holds the networks that may log in without TLS. Nil
	// means loopback alone; empty but not nil means nobody.
	PlaintextLogin []netip.Prefix

	Mechanisms []string // see pop3.Server
}

// Options say what to run. Only Listeners and Authenticator are needed.
type Options struct {
	Listeners []Listener

	// What the sessions of every listener share; see pop3.Server. On Linux a
	// client that takes nothing is cut off after 30 s, whatever Limits.Write is.
	Authenticator  pop3.Authenticator
	Limits         pop3.Limits
	Implementation string
	LoginDelay     time.Duration

	// Hooks returns the hooks for the sessions of a listener. May be nil.
	Hooks func(listener string) pop3.Hooks

	// Refused is told of every connection that a limit cost: Total, PerAddress
	// or Evicted. It may be nil and must not block.
	Refused func(listener, limit string)

	// MaxConnections bounds the connections of all listeners; 0 means 10,000.
	// When it is reached, a new connection takes the place of the one that
	// has waited longest without logging in; if there is none, it is refused.
	MaxConnections int

	// MaxPerAddress bounds the connections from one client address, or one
	// IPv6 /64, that are not logged in; 0 means 100. Devices behind one NAT
	// address are many, and in the morning they all come at once.
	MaxPerAddress int

	Log *slog.Logger // nil discards
}

// A Server accepts connections and runs their sessions.
type Server struct {
	listeners []*listener
	admission *admission
	log       *slog.Logger

	ctx      context.Context // of all sessions
	cut      context.CancelFunc
	draining chan struct{} // closed by Shutdown
	drain    sync.Once
	sessions sync.WaitGroup

	// starting guards sessions.Add against sessions.Wait: after draining is
	// closed under it, no session starts.
	starting sync.Mutex
}

// A listener is one address at work.
type listener struct {
	net.Listener
	name    string
	pop3    *pop3.Server
	wrap    *tls.Config // for implicit TLS, else nil
	refused func(listener, limit string)
	muted   map[string]muted // of each limit
}

// Listen binds the addresses of all listeners, or none if one of them cannot be
// had. Connections wait in the kernel until Serve.
func Listen(o Options) (*Server, error) {
	var bound []net.Listener
	for _, l := range o.Listeners {
		n, err := bind(l)
		if err != nil {
			for _, b := range bound {
				b.Close()
			}
			return nil, fmt.Errorf("listen on %q: %w", l.Address, err)
		}
		bound = append(bound, n)
	}
	return newServer(o, bound), nil
}

// bind opens a listener's socket.
func bind(l Listener) (net.Listener, error) {
	if l.TLS != Off && l.Certificate == nil {
		return nil, errors.New("TLS needs a certificate")
	}
	c := net.ListenConfig{KeepAliveConfig: keepAlive, Control: socketOptions}
	return c.Listen(context.Background(), "tcp", l.Address)
}

// newServer makes a server of listeners that are bound: bound[i] is where
// o.Listeners[i] accepts.
func newServer(o Options, bound []net.Listener) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		admission: newAdmission(o.MaxConnections, o.MaxPerAddress),
		log:       o.Log,
		draining:  make(chan struct{}),
	}
	s.ctx, s.cut = context.WithCancel(context.Background())
	for i, l := range o.Listeners {
		s.listeners = append(s.listeners, s.listener(o, l, bound[i]))
	}
	return s
}

func (s *Server) listener(o Options, l Listener, bound net.Listener) *listener {
	n := &listener{Listener: bound, name: l.Address, refused: o.Refused, muted: map[string]muted{}}
	n.pop3 = &pop3.Server{
		Authenticator:  admitting{o.Authenticator},
		PlaintextLogin: within(l.PlaintextLogin),
		Mechanisms:     l.Mechanisms,
		Limits:         o.Limits,
		Log:            o.Log,
		Listener:       l.Address,
		Implementation: o.Implementation,
		LoginDelay:     o.LoginDelay,
		Draining:       s.draining,
	}
	if o.Hooks != nil {
		n.pop3.Hooks = o.Hooks(l.Address)
	}
	switch l.TLS {
	case STLS:
		n.pop3.TLS = tlsConfig(l)
	case Implicit:
		n.wrap = tlsConfig(l)
	}
	return n
}

// loopback is where a login without TLS crosses no network.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// within tells whether an address is in one of networks.
func within(networks []netip.Prefix) func(netip.Addr) bool {
	if networks == nil {
		networks = loopback
	}
	return func(a netip.Addr) bool {
		a = a.Unmap().WithZone("") // a prefix contains no address with a zone
		for _, n := range networks {
			if n.Contains(a) {
				return true
			}
		}
		return false
	}
}

// tlsConfig makes a listener's own configuration. It is never shared or cloned:
// each makes its own session ticket keys, so no session is resumed at a listener
// other than the one that began it.
//
// A client that offers ALPN without pop3 is speaking to the wrong port, perhaps
// because someone redirected it there (RFC 7301 section 3.2: such a handshake
// fails). Clients without ALPN, as most are, are not affected.
//
// Client certificates are checked in the handshake: chain, dates and that they
// are for client authentication. What a session ticket brings back is checked
// against the same authorities. crypto/tls knows no renegotiation at a server.
func tlsConfig(l Listener) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: l.Certificate.get,
		NextProtos:     []string{"pop3"},
	}
	if l.ClientCAs != nil {
		c.ClientCAs, c.ClientAuth = l.ClientCAs, tls.VerifyClientCertIfGiven
	}
	return c
}

// Addrs returns the addresses that the listeners are bound to, in the order of
// the options.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Connections returns the number of connections that are open now, and how many
// of them are not logged in.
func (s *Server) Connections() (open, strangers int) { return s.admission.count() }

// Serve accepts connections at every listener until Shutdown begins. Sessions
// may still be running when it returns.
func (s *Server) Serve() {
	var accepting sync.WaitGroup
	for _, l := range s.listeners {
		accepting.Go(func() { s.accept(l) })
	}
	accepting.Wait()
}

// start runs the session of a connection that was accepted, or refuses it.
func (s *Server) start(l *listener, conn net.Conn) {
	defer s.survive(l)
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.isDraining() {
		conn.Close()
		return
	}
	ctx, cut := context.WithCancel(s.ctx)
	place, limit := s.admission.enter(remoteOf(conn), func() {
		l.tellRefused(Evicted)
		cut()
	})
	if limit != "" {
		cut()
		l.refuse(conn)
		l.tellRefused(limit)
		s.logRefused(l, limit, remoteOf(conn))
		return
	}
	s.sessions.Go(func() {
		defer cut()
		defer place.leave()
		s.session(context.WithValue(ctx, placeKey{}, place), l, conn)
	})
}

func (s *Server) session(ctx context.Context, l *listener, conn net.Conn) {
	defer conn.Close()
	defer s.survive(l)
	if l.wrap != nil {
		conn = tls.Server(conn, l.wrap)
	}
	l.pop3.Serve(ctx, conn)
}

// survive is deferred. pop3 answers for panics in a session; this catches what
// it may have missed, so that one connection never ends the others. The value
// may hold what a client sent, so that the log gets its type alone.
func (s *Server) survive(l *listener) {
	if p := recover(); p != nil {
		s.log.Error("panic outside a session", "listener", l.name, "err", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	}
}

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// cutGrace is how long a session that was cut has to end and tell its log.
const cutGrace = time.Second

// Shutdown accepts no more, tells sessions to end when they next wait for a
// command, and waits for them. When ctx ends first, the others are cut off
// without having removed anything, and the log tells how many. One that is
// removing messages then goes on in the background; the only error is that
// there are such sessions, and wraps the one of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain.Do(func() {
		s.starting.Lock()
		close(s.draining)
		s.starting.Unlock()
		for _, l := range s.listeners {
			l.Close()
		}
	})
	over := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(over)
	}()
	select {
	case <-over:
		s.cut()
		return nil
	case <-ctx.Done():
	}
	open, _ := s.Connections()
	if n := open - s.removing(); n > 0 {
		s.log.Warn("sessions cut off in the shutdown", "sessions", n, "err", ctx.Err())
	}
	s.cut()
	select {
	case <-over:
	case <-time.After(cutGrace):
	}
	switch n := s.removing(); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("1 removal not finished: %w", ctx.Err())
	default:
		return fmt.Errorf("%d removals not finished: %w", n, ctx.Err())
	}
}

// removing is how many sessions are removing messages.
func (s *Server) removing() int {
	n := 0
	for _, l := range s.listeners {
		n += l.pop3.Removing()
	}
	return n
}
