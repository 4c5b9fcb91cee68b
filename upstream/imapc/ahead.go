package imapc

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"

	"postern/upstream/spool"
)

const (
	// So many octets are asked for ahead at first, and twice as many with each
	// message that follows the one before, up to what the line is likely to
	// carry in a round trip.
	firstWindow   = 256 << 10
	leastWindow   = 2 << 20
	largestWindow = 16 << 20
	lineRate      = 512 << 20 // octets in a second
	headerWindow  = 1 << 20

	maxAhead    = 1 << 20 // octets of a message that is asked for ahead
	headerSize  = 4 << 10 // octets that a header is taken for
	maxBatch    = 64      // messages in one command; the library waits at 128
	maxBatchSet = 900     // octets of their UIDs, see chunkSize

	// So many octets that nobody wants are waited for: longer takes as long
	// as to connect and log in again.
	maxBehind = 4 << 20
)

// An ahead gets the next messages on their way before they are asked for: a
// client drains a maildrop by one RETR after the other, or looks at one header
// after the other, and need not wait a round trip for each.
type ahead struct {
	d     *maildrop
	share *spool.Share

	mu      sync.Mutex // Close may come at any time
	closed  bool
	parcels []*parcel // not asked for yet, in the order of messages
	header  bool      // what they are
	last    int       // the message that was asked for last; -1: none
	next    int       // the first message that is not on its way
	window  int64     // octets that may be on their way or held, beyond last
}

// take returns message i's parcel, and sees to it that those after it are on
// their way. The caller closes it.
func (a *ahead) take(ctx context.Context, i int, header bool) (*parcel, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.d.current()
	p := a.find(c, i, header)
	a.adjust(c, i, p != nil, header)
	if hook := a.d.u.o.Hooks.ReadAhead; hook != nil && a.last >= 0 {
		hook(p != nil)
	}
	a.last = i
	if len(a.parcels) == 0 {
		a.next = i + 1
	}
	if p != nil {
		p.ask(ctx)
		if c.g.broken() == nil {
			a.extend(c, p, nil)
		}
		return p, nil
	}
	if c.g.broken() != nil || c.flight.octets.Load() > maxBehind {
		a.mu.Unlock()
		var err error
		c, err = a.d.connection(ctx)
		a.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	if a.closed {
		return nil, fmt.Errorf("maildrop: %w", net.ErrClosed)
	}
	p = a.parcel(c, i)
	p.ask(ctx)
	a.extend(c, p, []*parcel{p})
	return p, nil
}

// find removes and returns message i's parcel, nil if there is none. Those
// before it the client has passed by; what will not come any more, or is of the
// other kind, is none.
func (a *ahead) find(c *conn, i int, header bool) *parcel {
	lost := c.g.broken() != nil
	a.parcels = slices.DeleteFunc(a.parcels, func(p *parcel) bool {
		useless := p.i < i || header != a.header || (lost || p.c != c) && !p.Finished()
		if useless {
			a.waste(p)
		}
		return useless
	})
	if len(a.parcels) > 0 && a.parcels[0].i == i {
		p := a.parcels[0]
		a.parcels = a.parcels[1:]
		return p
	}
	a.drop() // the guess was wrong
	return nil
}

// adjust sets how far to look ahead of message i. A guess is made for the first
// message, and for every one that follows the one before; not for a client that
// jumps, or takes turns between messages and headers.
func (a *ahead) adjust(c *conn, i int, hit, header bool) {
	switch {
	case a.last < 0:
		a.window = firstWindow
	case header != a.header, !hit && i != a.last+1:
		a.window = 0
	default:
		a.window = min(max(2*a.window, firstWindow), c.line())
	}
	a.header = header
	if header {
		a.window = min(a.window, headerWindow)
	}
}

// line is how many octets are on their way when the line is busy.
func (c *conn) line() int64 {
	return min(max(leastWindow, int64(c.rtt.Seconds()*lineRate)), largestWindow)
}

// extend asks for the messages of batch, and the next ones with them, unless
// more than half of the window is asked for already. Nothing is asked for behind a large
// message, which whoever reads it may give up.
func (a *ahead) extend(c *conn, current *parcel, batch []*parcel) {
	held := int64(0)
	for _, p := range a.parcels {
		held += a.cost(p.i)
	}
	set := 0
	for len(batch) < maxBatch && set < maxBatchSet && a.next < a.d.listing.Len() && current.coming.Load() <= maxAhead {
		if len(a.parcels) > 0 && held > a.window/2 && len(batch) == 0 {
			break
		}
		cost := a.cost(a.next)
		if held+cost > a.window || cost > maxAhead || a.d.undelivered[a.next] || cost+c.flight.octets.Load() > a.share.Room() {
			break
		}
		p := a.parcel(c, a.next)
		batch = append(batch, p)
		a.parcels = append(a.parcels, p)
		held += cost
		if a.next++; a.d.listing.uid(a.next-1) != a.d.listing.uid(a.next-2)+1 {
			set += len("4294967295:4294967295,")
		}
	}
	if len(batch) > 0 {
		section := &imap.FetchItemBodySection{Peek: true}
		if a.header {
			section.Specifier = imap.PartSpecifierHeader
		}
		c.fetchAhead(batch, section)
	}
}

// cost is how many octets message n is expected to bring.
func (a *ahead) cost(n int) int64 {
	size := a.d.listing.Size(n)
	if a.header {
		size = min(size, headerSize)
	}
	return size
}

func (a *ahead) parcel(c *conn, n int) *parcel {
	p := &parcel{c: c, i: n, uid: imap.UID(a.d.listing.uid(n)), size: -1}
	p.coming.Store(a.cost(n))
	p.Spool = a.share.New(a.cost(n))
	return p
}

// drop gives up what nobody has asked for.
func (a *ahead) drop() {
	for _, p := range a.parcels {
		a.waste(p)
	}
	a.parcels = nil
}

func (a *ahead) waste(p *parcel) {
	if hook := a.d.u.o.Hooks.Wasted; hook != nil {
		hook(max(0, a.cost(p.i)-p.coming.Load()))
	}
	p.drop()
}

// close gives everything up, for good.
func (a *ahead) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.drop()
}
