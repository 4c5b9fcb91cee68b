// Package pop3 speaks the POP3 protocol on one connection: lines, the command
// table, the three states, replies. Whose mail it shows comes from an
// Authenticator, what it shows from an upstream.Maildrop; it knows no IMAP,
// JMAP, configuration or metrics.
//
// A session runs in the goroutine that calls Serve. One more goroutine watches
// Server.Draining on behalf of all sessions, as long as there are any.
//
// RFC 1939 (POP3), 2449 (CAPA, response codes), 2595 (STLS), 3206 (SYS and AUTH
// codes), 5034 (AUTH), 4616 (PLAIN), 7628 (OAUTHBEARER), 6856 (UTF8, LANG), 8314
// (implicit TLS).
package pop3

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"postern/upstream"
)

// A Server speaks POP3 on the connections handed to it. Its fields are set
// before the first Serve and not changed afterwards.
type Server struct {
	Authenticator Authenticator

	// TLS makes STLS available; nil offers none. Implicit TLS is not this
	// package's: the connection is then a *tls.Conn already.
	TLS *tls.Config

	// PlaintextLogin tells whether a client at this address may log in without
	// TLS; nil means that nobody may.
	PlaintextLogin func(netip.Addr) bool

	// Mechanisms names the ways in which clients may log in: USER, APOP, and
	// SASL mechanisms in upper case. Nil allows those that suit every client.
	Mechanisms []string

	Limits Limits
	Hooks  Hooks
	Log    *slog.Logger // nil discards

	// Listener names where connections come from, for the log.
	Listener string

	// Implementation is the text of the IMPLEMENTATION capability; empty hides it.
	Implementation string

	// LoginDelay is the least time between two logins of an account that the
	// Authenticator enforces, for the LOGIN-DELAY capability; 0 means none.
	LoginDelay time.Duration

	// Draining, once closed, ends every session as soon as it waits for a
	// command: it is told so, and nothing is removed. A login or TLS handshake
	// under way is given up; a session in the UPDATE state finishes. Nil never
	// drains.
	Draining <-chan struct{}

	timestamp func() string // for the greeting; nil outside tests

	drain    drain
	removing atomic.Int32 // sessions
}

// Removing returns how many sessions are removing messages now: those that the
// end of their context does not cut off.
func (s *Server) Removing() int { return int(s.removing.Load()) }

// Limits bound what one client may cost. A zero field means the default.
type Limits struct {
	Login    time.Duration // from the greeting to a successful login, what the Authenticator needs not counted; 1 minute
	Idle     time.Duration // waiting for a command (RFC 1939 section 3: at least 10 minutes); 10 minutes
	Write    time.Duration // for a client to take the next 32 KiB; 1 minute
	TLS      time.Duration // for a TLS handshake; 15 seconds
	Update   time.Duration // for the UPDATE state; 45 seconds
	Errors   int           // commands refused in a row, for what they are, before the connection is closed; 20
	Attempts int           // logins refused before the connection is closed; 3
}

// An Authenticator turns credentials into a maildrop. It is called once for
// every attempt to log in, by several sessions at once.
type Authenticator interface {
	// Authenticate finds the account, opens and locks its maildrop. Its errors
	// are those of package upstream. The session closes the Login.
	Authenticate(ctx context.Context, c Credentials) (Login, error)
}

// Credentials are what a client sent to log in, and from where.
type Credentials struct {
	User      string // as sent; any octets but NUL, CR and LF
	Password  upstream.Secret
	Token     upstream.Secret // instead of a password: an OAuth 2.0 access token of the client's own
	Mechanism string          // "USER", or the SASL mechanism: "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"
	Remote    netip.AddrPort  // invalid where the connection has no such address
	TLS       bool
	Session   string // the session's id in the log
}

// A Login is an account's maildrop, held for one session. Its Close releases
// the maildrop and whatever else was taken for the session.
type Login struct {
	upstream.Maildrop
	Account  string // for the log
	Upstream string // the upstream's name in the configuration, for log and metrics
}

// Hooks tell what happens in sessions, for metrics. Each may be nil; none may
// block.
type Hooks struct {
	// Began: a session is about to be greeted. Each is Ended once.
	Began func()
	// TLS: a handshake ended; version is a tls.VersionTLS constant, 0 if it failed.
	TLS func(version uint16)
	// Login: an attempt to log in ended; result is "ok" or a word of upstream.Kinds.
	Login func(result string, took time.Duration)
	// Command: a command was answered; name is a known command in upper case
	// or "unknown", result is "ok", "err" or "cut" (broken off in mid-reply).
	Command func(name, result string, took time.Duration)
	// Ended: the session is over.
	Ended func(Summary)
}

// A Summary is what a session came to.
type Summary struct {
	Account   string // empty if nobody logged in
	Upstream  string
	Retrieved int   // messages sent whole by RETR
	Octets    int64 // sent in message bodies, by RETR and TOP
	Removed   int
	Unremoved int // marked, but not removed by QUIT
	Took      time.Duration
	Reason    string // one of Reasons
	Err       error  // what ended it, if not the client
}

// Reasons are the ways in which a session ends: Summary.Reason is one of them.
var Reasons = []string{"quit", "disconnect", "idle", "slow", "drain", "errors", "auth", "tls", "upstream", "panic"}

// Serve runs one session on conn to its end and closes conn. If conn is a
// *tls.Conn (or embeds one), Serve runs its handshake first. When ctx ends the
// session is cut off at once, unless it is in the UPDATE state. A conn with a
// CloseWrite method is closed so that the last reply arrives, which takes up to
// a second more with a client that does not close its side.
func (s *Server) Serve(ctx context.Context, conn net.Conn) {
	session := newSession(s, conn)
	defer context.AfterFunc(ctx, session.wire.cut)()
	defer s.drain.join(s.Draining, session.wire.drain)()
	session.run(ctx)
	session.wire.close(session.told())
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (l Limits) orDefaults() Limits {
	return Limits{
		Login:    cmp.Or(l.Login, time.Minute),
		Idle:     cmp.Or(l.Idle, 10*time.Minute),
		Write:    cmp.Or(l.Write, time.Minute),
		TLS:      cmp.Or(l.TLS, 15*time.Second),
		Update:   cmp.Or(l.Update, 45*time.Second),
		Errors:   cmp.Or(l.Errors, 20),
		Attempts: cmp.Or(l.Attempts, 3),
	}
}
