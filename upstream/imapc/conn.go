package imapc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"postern/upstream"
)

// A conn is one connection to the server.
type conn struct {
	o        *Options
	g        *guard
	lib      *imapclient.Client
	greeting status
	tls      *tls.ConnectionState // nil without TLS
	born     time.Time            // when it was opened

	presumed   string      // capabilities of an earlier connection, where the greeting told none; else empty
	before     imap.CapSet // those before login, presumed ones too
	caps       imap.CapSet // those after it
	told       bool        // the server told those, so that the library has nothing to ask
	identified bool        // said who we are
	proof      []byte      // of the password, see Stable; nil: not to be kept

	selected string   // the name of the mailbox that is selected
	box      mailbox  // what SELECT told about it
	listing  *lister  // of it, asked for already; nil if not
	snapshot *listing // of it, if it is known to be as it was; else nil
	heard    int      // guard.news as of its listing; -1: the listing may lack some of that

	flight flight
	trips  atomic.Int64  // round trips, see cost
	paid   cost          // what earlier sessions have taken
	rtt    time.Duration // the shortest that a round trip has taken; 0: none has
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
