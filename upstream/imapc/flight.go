package imapc

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"postern/upstream/spool"
)

// A flight is what was asked for ahead on a connection and is not there yet:
// any number of FETCH commands, each with a goroutine that takes in whatever
// its answer brings. So no literal waits for another one to be read, and the
// order in which they come does not matter.
type flight struct {
	octets atomic.Int64 // still to come, about

	mu       sync.Mutex
	commands int
	landed   chan struct{} // closed when commands is 0 again
	sent     chan struct{} // closed when the last command is sent
}

// A parcel is a message, or its header, on its way into a spool.
type parcel struct {
	*spool.Spool
	c      *conn
	i      int // the message
	uid    imap.UID
	size   int64                     // octets in all, once the first has come
	coming atomic.Int64              // octets still to come, about
	landed atomic.Pointer[time.Time] // when all of it was there; nil: it is not

	ctx  context.Context // of whoever has asked for it
	stop func() bool
	late func() // asks for what comes after a large message; nil if that is done
}

// fetchAhead asks for sections of several messages, which their parcels are
// going to hold.
func (c *conn) fetchAhead(parcels []*parcel, section *imap.FetchItemBodySection) {
	want := make(map[imap.UID]*parcel, len(parcels))
	var set imap.UIDSet
	for _, p := range parcels {
		want[p.uid] = p
		set.AddNum(p.uid)
		c.flight.octets.Add(p.coming.Load())
	}
	before, sent := c.takeOff()
	c.roundTrip()
	go func() {
		defer c.touchDown()
		if before != nil {
			<-before
		}
		// A server that does not read while it sends makes this wait, but not
		// whoever reads what it sends.
		cmd := c.lib.Fetch(set, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}})
		close(sent)
		err := receive(cmd, want, section)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the end of the connection is not that of a message
		}
		for _, p := range parcels {
			p.arrived(p.coming.Load())
			p.Finish(err)
		}
	}()
}

// receive takes in the answer to a FETCH. Its error is that of the parcels that
// did not come.
func receive(cmd *imapclient.FetchCommand, want map[imap.UID]*parcel, section *imap.FetchItemBodySection) error {
	for msg := cmd.Next(); msg != nil; msg = cmd.Next() {
		var p *parcel
		for item := msg.Next(); item != nil; item = msg.Next() {
			switch item := item.(type) {
			case imapclient.FetchItemDataUID:
				p = want[item.UID]
			case imapclient.FetchItemDataBodySection:
				if item.Literal == nil {
					continue
				}
				to := p
				if !item.MatchCommand(section) {
					to = nil
				}
				if err := to.receive(item.Literal); err != nil {
					return err // touch neither msg nor cmd: the reader may be at them
				}
				if to != nil {
					delete(want, to.uid)
				}
			}
		}
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	return errNoBody
}

// receive takes in a literal, and throws it away if p is nil or nobody wants it
// any more. An error means that the connection has ended in it.
func (p *parcel) receive(literal imap.LiteralReader) error {
	l := &counted{r: literal, left: literal.Size(), p: p}
	var err error = fs.ErrClosed
	if p != nil {
		p.arrived(p.coming.Load() - l.left) // now it is known
		p.size = l.left
		_, err = p.ReadFrom(l)
	}
	if l.err == nil {
		io.Copy(io.Discard, readerOnly{l})
	}
	if l.err != io.EOF {
		return l.err
	}
	if p != nil {
		p.Finish(err)
		now := time.Now()
		p.landed.Store(&now)
	}
	return nil
}

// lay is for how long all of the parcel has lain there; negative if it is not
// all there.
func (p *parcel) lay() time.Duration {
	at := p.landed.Load()
	if at == nil {
		return -1
	}
	return time.Since(*at)
}

// counted reads a literal to its end, which the library does not tell from the
// end of the connection.
type counted struct {
	r    io.Reader
	left int64
	p    *parcel // nil: nobody's
	err  error
}

func (l *counted) Read(b []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(b)
	l.left -= int64(n)
	if l.p != nil {
		l.p.arrived(int64(n))
	}
	if err == io.EOF && l.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	l.err = err
	return n, err
}

// arrived counts octets that need not be waited for any more.
func (p *parcel) arrived(octets int64) {
	p.coming.Add(-octets)
	p.c.flight.octets.Add(-octets)
}

// ask makes the parcel one that somebody waits for, until ctx ends.
func (p *parcel) ask(ctx context.Context) {
	p.ctx, p.stop = ctx, context.AfterFunc(ctx, func() { p.Spool.Close() })
}

// wait waits for the first octet.
func (p *parcel) wait() error {
	err := p.Spool.Wait()
	if err == io.EOF && p.size == 0 {
		return nil // after no octets at all
	}
	if err == io.EOF {
		return errNoBody
	}
	return p.explain(err)
}

func (p *parcel) explain(err error) error {
	if errors.Is(err, fs.ErrClosed) && p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	return err
}

func (p *parcel) Read(b []byte) (int, error) {
	if p.late != nil && p.coming.Load() <= p.c.line() {
		p.late()
		p.late = nil
	}
	n, err := p.Spool.Read(b)
	if err != nil && err != io.EOF {
		err = p.explain(err)
	}
	return n, err
}

func (p *parcel) length() int64 { return p.size }

// close gives a parcel up that was asked for. What is left of the message is
// drained if it is little, otherwise it costs the connection.
func (p *parcel) close() error {
	p.stop()
	p.drop()
	switch left := p.coming.Load(); {
	case left > maxDrain:
		p.c.g.fail(errAbandoned)
	case left > 0:
		time.AfterFunc(drainTime, func() {
			if p.coming.Load() > 0 {
				p.c.g.fail(errAbandoned)
			}
		})
	}
	return nil
}

// drop frees what the parcel holds.
func (p *parcel) drop() {
	p.Spool.Close()
	if hook := p.c.o.Hooks.Spilled; hook != nil {
		if n := p.Spilled(); n > 0 {
			hook(n)
		}
	}
}

// takeOff counts a command that is to be sent after the one before, and returns
// the signals for both. An answer is awaited as long as there are any.
func (c *conn) takeOff() (before, sent chan struct{}) {
	f := &c.flight
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commands == 0 {
		f.landed = make(chan struct{})
	}
	f.commands++
	c.g.begin(await{idle: c.o.IdleTimeout, literal: c.o.MaxMessage})
	before, f.sent = f.sent, make(chan struct{})
	return before, f.sent
}

func (c *conn) touchDown() {
	c.flight.mu.Lock()
	defer c.flight.mu.Unlock()
	if c.flight.commands--; c.flight.commands == 0 {
		c.g.end()
		close(c.flight.landed)
		c.flight.landed = nil
	}
}

// flying returns a channel that is closed when nothing that was asked for ahead
// is to come any more; nil if nothing is.
func (c *conn) flying() <-chan struct{} {
	c.flight.mu.Lock()
	defer c.flight.mu.Unlock()
	return c.flight.landed
}

// land waits for what was asked for ahead, so that other commands can be sent.
// If that would take long, it costs the connection.
func (c *conn) land(ctx context.Context) {
	landed := c.flying()
	if landed == nil {
		return
	}
	if c.flight.octets.Load() > maxBehind {
		c.g.fail(errAbandoned)
		return
	}
	late := time.NewTimer(drainTime)
	defer late.Stop()
	select {
	case <-landed:
	case <-ctx.Done():
	case <-late.C:
		c.g.fail(errAbandoned)
	}
}
