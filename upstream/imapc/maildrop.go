package imapc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"postern/upstream"
)

// A maildrop is a mailbox, opened for one session. It outlives a connection:
// when that is lost, the next call opens another, provided that the UIDs mean
// the same on it.
type maildrop struct {
	u           *Upstream
	account     upstream.Account
	uidValidity uint32
	refusal     error // why nothing can be removed, nil if it can
	listing     *listing
	toKeep      *listing         // the same without anything hidden
	shown       upstream.Listing // to the client; nil: listing
	undelivered map[int]bool     // messages that the server did not deliver when asked

	ahead *ahead

	life  context.Context // ends with Close
	leave context.CancelFunc

	mu     sync.Mutex // Close may come at any time
	c      *conn
	body   *body // open
	calls  int   // under way
	closed bool
	spent  cost // on connections that were lost
}

func newMaildrop(u *Upstream, account upstream.Account, c *conn) *maildrop {
	_, refusal := c.way()
	d := &maildrop{u: u, account: account, c: c, uidValidity: c.box.uidValidity, refusal: refusal,
		listing: &listing{}, toKeep: &listing{}, undelivered: make(map[int]bool)}
	d.life, d.leave = context.WithCancel(context.Background())
	d.ahead = &ahead{d: d, share: u.o.Pool.Share(), last: -1}
	return d
}

// List implements upstream.Maildrop.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	end, err := d.call()
	if err != nil {
		return nil, err
	}
	defer end()
	c := d.current()
	l, err := c.list(ctx)
	if err != nil && c.g.broken() == nil && ctx.Err() == nil {
		l, err = c.list(ctx) // somebody removed messages while they were listed
	}
	if err != nil {
		return nil, err
	}
	d.toKeep = l
	if c.o.Policy.Delete == upstream.DeleteFlag {
		if l, err = c.hideFlagged(ctx, l); err != nil {
			return nil, err
		}
	}
	d.listing = l
	if hook := d.u.o.Hooks.ListingCache; hook != nil && d.u.o.Listings != nil {
		hook(d.toKeep.reused)
	}
	return l, nil
}

var _ upstream.Recorder = (*maildrop)(nil)

// Shown implements upstream.Recorder.
func (d *maildrop) Shown(l upstream.Listing) { d.shown = l }

// shownUIDL is message i's unique-id where the client was shown another one than
// the listing has, else empty.
func (d *maildrop) shownUIDL(i int) string {
	if d.shown == nil {
		return ""
	}
	uidl := d.shown.AppendUIDL(nil, i)
	if bytes.Equal(uidl, d.listing.AppendUIDL(nil, i)) {
		return ""
	}
	return string(uidl)
}

func (d *maildrop) current() *conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.c
}

// connection returns the connection, free for another command, or a new one if
// that was lost. ErrChanged means that the mailbox there is not the one that was
// listed.
func (d *maildrop) connection(ctx context.Context) (*conn, error) {
	if d.life.Err() != nil {
		return nil, fmt.Errorf("maildrop: %w", net.ErrClosed)
	}
	c := d.current()
	if c.land(ctx); c.g.broken() == nil {
		return c, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	c, err := d.u.open(ctx, d.account)
	if errors.Is(err, upstream.ErrAuth) {
		// They were right when the session began: not the client's mistake.
		err = fmt.Errorf("%s: %w", printable([]byte(err.Error())), upstream.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("reconnect: %w", err)
	}
	if c.box.uidValidity != d.uidValidity {
		c.g.Close()
		return nil, fmt.Errorf("reconnect: UIDVALIDITY %d, was %d: %w", c.box.uidValidity, d.uidValidity, upstream.ErrChanged)
	}
	d.mu.Lock()
	d.lose(d.c)
	d.c = c
	d.mu.Unlock()
	if d.life.Err() != nil {
		c.g.Close()
	}
	return c, nil
}

// Fetch implements upstream.Maildrop.
func (d *maildrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	return d.open(&body{d: d, ctx: ctx, i: i})
}

// Top implements upstream.Maildrop.
func (d *maildrop) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	b := &body{d: d, ctx: ctx, i: i, top: n > 0}
	first := int64(topHeader) + topLine*int64(min(n, maxChunk/topLine))
	switch size := d.listing.Size(i); {
	case n == 0:
		b.header = true
	case first < size:
		b.chunk, b.lines = min(first, maxChunk), &lineCounter{left: n}
	}
	return d.open(b)
}

func (d *maildrop) open(b *body) (io.ReadCloser, error) {
	end, err := d.call()
	if err != nil {
		return nil, err
	}
	defer end()
	d.mu.Lock()
	last := d.body
	d.mu.Unlock()
	if last != nil {
		last.Close() // the caller should have
	}
	if err := b.begin(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.body = b
	d.mu.Unlock()
	if d.life.Err() != nil {
		b.Close()
	}
	return b, nil
}

// Removable implements upstream.Maildrop.
func (d *maildrop) Removable(i int) error {
	if d.refusal != nil {
		return d.refusal
	}
	if d.undelivered[i] && d.u.o.Policy.Delete != upstream.DeleteNever {
		return fmt.Errorf("UID %d: %w", d.listing.uid(i), upstream.ErrUnreadable)
	}
	return nil
}

// Close implements upstream.Maildrop. The server hears goodbye afterwards.
func (d *maildrop) Close() error {
	d.mu.Lock()
	c, b, idle, again := d.c, d.body, d.calls == 0, d.closed
	d.body, d.closed = nil, true
	if !again {
		d.lose(c)
	}
	d.mu.Unlock()
	if again {
		return nil // the connection may be another session's by now
	}
	if hook := d.u.o.Hooks.Session; hook != nil {
		hook(int(d.spent.trips), d.spent.octets)
	}
	d.leave()
	if b != nil || c.flight.octets.Load() > maxDrain {
		c.g.Close()
	}
	d.ahead.close()
	if b != nil {
		b.Close()
	}
	kept := idle && d.park(c) // at once, so that the next session finds it
	go d.retire(c, idle, kept)
	return nil
}

// park keeps the connection for the next session, if that can be.
func (d *maildrop) park(c *conn) bool {
	return d.u.o.Warm > 0 && d.u.o.Stable.park(d.u, d.account.User, c, d.toKeep)
}

// lose adds up what the session has taken of a connection that it gives up. d.mu
// is held.
func (d *maildrop) lose(c *conn) {
	took := c.cost()
	d.spent.trips += took.trips
	d.spent.octets += took.octets
}

// call counts a call under way, until the returned function is called. After
// Close it is an error.
func (d *maildrop) call() (end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("maildrop: %w", net.ErrClosed)
	}
	d.calls++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.calls--
	}, nil
}

// retire does what nobody has to wait for: a connection that is not kept yet is
// kept for the next session if no call can be using it, or the server hears
// goodbye.
func (d *maildrop) retire(c *conn, idle, kept bool) {
	if !kept {
		c.land(context.Background())
		kept = idle && d.park(c)
	}
	if idle {
		d.save()
	}
	if !kept && c.g.broken() == nil {
		c.logout()
	}
}
