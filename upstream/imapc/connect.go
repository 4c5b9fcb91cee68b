package imapc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"postern/upstream"
)

// A conn is one connection to the server.
type conn struct {
	o          *Options
	g          *guard
	lib        *imapclient.Client
	greeting   status
	tls        *tls.ConnectionState // nil without TLS
	before     imap.CapSet          // capabilities before login
	presumed   string               // those of an earlier connection, in place of them; empty if they were told
	caps       imap.CapSet          // and after it
	told       bool                 // the server told those, so that the library has nothing to ask
	box        mailbox              // the selected one
	listing    *lister              // of it, asked for already; nil if not
	selected   string               // its name
	born       time.Time            // when it was opened
	proof      []byte               // of the password, see Stable; nil: not to be kept
	heard      int                  // guard.news when the mailbox was selected, and when it was listed; -1: not the same
	snapshot   *listing             // of the mailbox, if it is known to be as it was
	identified bool                 // said who we are
	flight     flight
	trips      atomic.Int64  // round trips, see cost
	paid       cost          // of it, earlier sessions
	rtt        time.Duration // the shortest that a round trip has taken; 0: none has
}

// connect opens a connection, encrypted as the options say, and reads the
// greeting. Nothing of what was read before TLS is kept.
func (u *Upstream) connect(ctx context.Context) (_ *conn, err error) {
	began := time.Now()
	if hook := u.o.Hooks.Connected; hook != nil {
		defer func() { hook(time.Since(began), err) }()
	}
	limited, cancel := context.WithTimeout(ctx, u.o.ConnectTimeout)
	defer cancel()
	socket, err := u.o.Dial(limited, "tcp", u.o.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: %w", u.o.Address, err, upstream.ErrUnavailable)
	}
	stop := context.AfterFunc(limited, func() { socket.Close() })
	c := &conn{o: &u.o, born: began, presumed: u.known.capabilities()}
	stream, first, err := c.greet(limited, socket)
	if !stop() {
		err = limited.Err() // an error of the socket is its consequence
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", err, upstream.ErrUnavailable)
		}
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("connect to %s: %w", u.o.Address, unavailable(err))
	}
	c.g = newGuard(stream, socket, first, &u.o)
	c.lib = imapclient.New(c.g, &imapclient.Options{
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{Fetch: discard},
	})
	return c, nil
}

// unavailable adds ErrUnavailable to an error that says no better.
func unavailable(err error) error {
	if hasKind(err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, upstream.ErrUnavailable)
}

// hasKind tells whether err says already what it is to the client.
func hasKind(err error) bool {
	return upstream.Kind(err) != "unavailable" || errors.Is(err, upstream.ErrUnavailable)
}

// greet reads the greeting and encrypts the connection. It returns what the
// library is to read from now on, and what it is to read first.
func (c *conn) greet(ctx context.Context, socket net.Conn) (stream net.Conn, first []byte, err error) {
	stream = socket
	if c.o.TLS == TLSImplicit {
		if stream, err = c.encrypt(ctx, socket); err != nil {
			return nil, nil, err
		}
	}
	line, rest, err := readLine(stream)
	if err != nil {
		return nil, nil, fmt.Errorf("greeting: %w", err)
	}
	c.greeting, _ = parseStatus(line)
	if c.greeting.kind != "OK" || c.greeting.tag != "" {
		// PREAUTH too: a maildrop that opens without credentials is not known
		// to be the right one, and before TLS it is an attack.
		return nil, nil, fmt.Errorf("greeting %s: %w", printable(trimEOL(line)), refusal(c.greeting, upstream.ErrUnavailable))
	}
	if c.o.TLS != TLSStartTLS {
		return stream, append(c.presume(line), rest...), nil
	}
	if len(rest) > 0 {
		return nil, nil, fmt.Errorf("greeting: %w", errInjected)
	}
	if stream, err = c.startTLS(ctx, socket); err != nil {
		return nil, nil, err
	}
	return stream, c.presume([]byte("* OK encrypted\r\n")), nil // the library asks for capabilities then, unless it is told
}

var errInjected = errors.New("plaintext where there should be none")

// startTLS encrypts a plaintext connection. The one line that it accepts is
// the answer to its command, and nothing may follow it: whatever else comes
// before TLS may come from anybody. RFC 9051 section 6.2.1.
func (c *conn) startTLS(ctx context.Context, socket net.Conn) (net.Conn, error) {
	tag := "P" + rand.Text()[:8] // not to be guessed, so not to be answered early
	if _, err := socket.Write([]byte(tag + " STARTTLS\r\n")); err != nil {
		return nil, fmt.Errorf("starttls: %w", err)
	}
	line, rest, err := readLine(socket)
	if err != nil {
		return nil, fmt.Errorf("starttls: %w", err)
	}
	s, ok := parseStatus(line)
	if !ok || s.tag != tag {
		return nil, fmt.Errorf("starttls: response %s: %w", printable(trimEOL(line)), errInjected)
	}
	if s.kind != "OK" {
		return nil, fmt.Errorf("starttls: %w: %w", s, upstream.ErrUnavailable)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("starttls: %w", errInjected)
	}
	return c.encrypt(ctx, socket)
}

func (c *conn) encrypt(ctx context.Context, socket net.Conn) (net.Conn, error) {
	t := tls.Client(socket, c.o.TLSConfig)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	state := t.ConnectionState()
	c.tls = &state
	return t, nil
}

// readLine reads one line and returns what came with it. It is for the few
// lines before there is a guard.
func readLine(r io.Reader) (line, rest []byte, err error) {
	buf := make([]byte, 0, 4096)
	for len(buf) < cap(buf) {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if end := bytes.IndexByte(buf, '\n') + 1; end > 0 {
			return buf[:end:end], buf[end:], nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errTooLong
}

// during makes one operation of what follows until the returned function is
// called: it ends with ctx and within the bounds of a.
func (c *conn) during(ctx context.Context, a await) (end func()) {
	c.g.begin(a)
	stop := context.AfterFunc(ctx, func() { c.g.fail(ctx.Err()) })
	return func() {
		stop()
		c.g.end()
	}
}

// ask sends a command of ours within an operation of its own.
func (c *conn) ask(ctx context.Context, a await, command string, line func([]byte) error) (status, error) {
	defer c.during(ctx, a)()
	defer c.roundTrip()()
	return c.g.ask(command, line)
}

func ignore([]byte) error { return nil }

// A cost is what a connection or a session has taken.
type cost struct{ trips, octets int64 }

// cost is what the session has taken of the connection.
func (c *conn) cost() cost {
	return cost{c.trips.Load() - c.paid.trips, c.g.passed.Load() - c.paid.octets}
}

// roundTrip counts a round trip, and times it until the returned function is
// called.
func (c *conn) roundTrip() (end func()) {
	c.trips.Add(1)
	if c.o.Hooks.RoundTrip != nil {
		c.o.Hooks.RoundTrip()
	}
	began := time.Now()
	return func() {
		if took := time.Since(began); took < c.rtt || c.rtt == 0 {
			c.rtt = took
		}
	}
}

func (c *conn) answered() await { return await{idle: c.o.IdleTimeout} }
func (c *conn) searched() await { return await{idle: c.o.SearchTimeout} }

// lost explains an error that ended the connection.
func (c *conn) lost(doing string, err error) error {
	if ended := c.g.broken(); ended != nil && !errors.Is(ended, net.ErrClosed) {
		err = ended // the library keeps only its text
	} else if ended != nil {
		err = c.verdict(err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	words, _ := c.g.said()
	if words.kind == "BYE" {
		return fmt.Errorf("%s: %w: %w", doing, words, refusal(words, upstream.ErrUnavailable))
	}
	c.g.fail(err)
	return fmt.Errorf("%s: %w: %w", doing, bounded(err), upstream.ErrUnavailable)
}

// verdict returns the library's reason for closing the connection, if it was
// the library who did, else err.
func (c *conn) verdict(err error) error {
	select {
	case <-c.lib.Closed():
		if why := c.lib.Close(); why != nil && !errors.Is(why, net.ErrClosed) {
			return why
		}
	default: // its reader is at work still
	}
	return err
}

// bounded keeps the text of an error, which may quote the server, fit for a log.
func bounded(err error) error {
	if text := printable([]byte(err.Error())); text != err.Error() {
		return errors.New(text)
	}
	return err
}

// logout says goodbye and closes the connection, all within two seconds.
func (c *conn) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	end := c.during(ctx, c.answered())
	if c.g.endIdle(ctx, time.Second) == nil {
		c.g.ask("LOGOUT", ignore)
	}
	end()
	c.g.Close()
	<-c.lib.Closed()
}
