package imapc

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream/spool"
)

const (
	// So many octets are asked for ahead at first, and twice as many with each
	// message that follows the one before, up to what the line is likely to
	// carry in a round trip, within these bounds.
	firstWindow = 256 << 10
	leastLine   = 2 << 20
	largestLine = 64 << 20
	lineRate    = 512 << 20 // octets in a second

	// The same for headers, each of which is taken for headerSize.
	headerSize        = 4 << 10
	leastHeaderLine   = 128 * headerSize
	largestHeaderLine = 2048 * headerSize
	headerRate        = 20_000 * headerSize

	// More is asked for when there is room for this much, or for an eighth of
	// the window where that is more: fewer commands for whoever is near, and no
	// gaps for whoever is far away.
	leastStep = 1 << 20

	// So many messages in a row are believed to go on like that. Beyond them the
	// window grows only for a client that has to wait, and shrinks for one that
	// leaves messages lying for this long and two round trips.
	slowStart = 8
	longLay   = 10 * time.Millisecond

	maxAhead    = 1 << 20 // octets of a message that is asked for ahead
	leastSize   = 2 << 10 // octets that a message is taken for at least: it costs memory, too
	maxParcels  = 4096    // messages that are on their way or held
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
	asked   int64     // octets that were asked for, about
	wasted  int64     // octets that came and nobody asked for, about
	run     int       // so many were asked for in order before it
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
	if len(a.parcels) == 0 {
		a.next = i + 1
	}
	a.adjust(c, i, p, header)
	if hook := a.d.u.o.Hooks.ReadAhead; hook != nil && a.last >= 0 {
		hook(p != nil)
	}
	a.last = i
	a.asked += a.weight(i)
	if p != nil {
		p.ask(ctx)
		if c.g.broken() == nil {
			a.follow(c, p, nil)
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
	a.follow(c, p, []*parcel{p})
	return p, nil
}

// follow asks for the messages of batch, and sees to those that come after p.
// Behind a large message, which may be given up, they are asked for when the
// rest of it is as much as the line carries.
func (a *ahead) follow(c *conn, p *parcel, batch []*parcel) {
	if a.weight(p.i) <= maxAhead {
		a.extend(c, batch)
		return
	}
	if len(batch) > 0 {
		c.fetchAhead(batch, a.section())
	}
	p.late = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.closed || c.g.broken() != nil || a.last != p.i || a.window == 0 {
			return
		}
		if a.extend(c, nil); len(a.parcels) == 0 && (a.run > 0 || a.window >= c.line()) && a.next < a.d.listing.Len() && !a.d.undelivered[a.next] {
			// Another large one. It waits on the line, not in memory.
			next := a.parcel(c, a.next)
			next.Begin()
			a.parcels = append(a.parcels, next)
			a.next++
			c.fetchAhead([]*parcel{next}, a.section())
		}
	}
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

// adjust sets how far to look ahead of message i, whose parcel is p if it has
// one. A guess is made for the first message, and for every one that follows the
// one before; not for a client that jumps, or takes turns between messages and
// headers. Whoever begins with the first message of all is going to drain the
// maildrop, unless it is known not to.
func (a *ahead) adjust(c *conn, i int, p *parcel, header bool) {
	if a.run++; a.last < 0 || header != a.header || i != a.last+1 {
		a.run = 0
	}
	most := c.line()
	if header {
		most = c.headerLine()
	}
	switch {
	case a.last < 0 && i == 0 && !a.d.u.habits.leaves(a.d.account.User):
		a.window = most
	case a.last < 0:
		a.window = firstWindow
	case header != a.header, p == nil && i != a.last+1:
		a.window = 0
	case a.run <= slowStart || p == nil || p.lay() < 0:
		a.window = min(max(2*a.window, firstWindow), most)
	case p.lay() > longLay+2*c.rtt: // the client takes its time: less will do
		a.window = max(a.window-a.weight(i), firstWindow)
	}
	a.header = header
}

// line is how many octets are under way when the line is busy.
func (c *conn) line() int64 {
	return min(max(leastLine, int64(c.rtt.Seconds()*lineRate)), largestLine)
}

// headerLine is the same where headers are under way.
func (c *conn) headerLine() int64 {
	return min(max(leastHeaderLine, int64(c.rtt.Seconds()*headerRate)), largestHeaderLine)
}

// extend asks for the messages of batch, and for the next ones as far as the
// window goes, unless there is little room in it. They end before a large one.
func (a *ahead) extend(c *conn, batch []*parcel) {
	room := a.window
	for _, p := range a.parcels {
		room -= a.weight(p.i)
	}
	if len(batch) == 0 && room < max(a.window/8, min(a.window/2, leastStep)) {
		return
	}
	set := 0
	for a.next < a.d.listing.Len() && len(a.parcels) < maxParcels {
		weight := a.weight(a.next)
		if room -= weight; room < 0 || weight > maxAhead || a.d.undelivered[a.next] || weight+c.flight.octets.Load() > max(a.share.Room(), firstWindow) {
			break
		}
		p := a.parcel(c, a.next)
		a.parcels = append(a.parcels, p)
		if set += a.step(a.next); len(batch) == maxBatch || set > maxBatchSet {
			c.fetchAhead(batch, a.section())
			batch, set = nil, 0
		}
		batch = append(batch, p)
		a.next++
	}
	if len(batch) > 0 {
		c.fetchAhead(batch, a.section())
	}
}

// step is how many octets message n adds to a set of UIDs that ends before it.
func (a *ahead) step(n int) int {
	if n > 0 && a.d.listing.uid(n) == a.d.listing.uid(n-1)+1 {
		return 0
	}
	return len("4294967295:4294967295,")
}

func (a *ahead) section() *imap.FetchItemBodySection {
	s := &imap.FetchItemBodySection{Peek: true}
	if a.header {
		s.Specifier = imap.PartSpecifierHeader
	}
	return s
}

// weight is how many octets message n is taken for.
func (a *ahead) weight(n int) int64 {
	if a.header {
		return headerSize
	}
	return max(a.d.listing.Size(n), leastSize)
}

func (a *ahead) parcel(c *conn, n int) *parcel {
	p := &parcel{c: c, i: n, uid: imap.UID(a.d.listing.uid(n)), size: -1}
	p.coming.Store(a.weight(n))
	p.Spool = a.share.New(a.weight(n))
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
	n := max(0, a.weight(p.i)-p.coming.Load())
	a.wasted += n
	if hook := a.d.u.o.Hooks.Wasted; hook != nil {
		hook(n)
	}
	p.drop()
}

// close gives everything up, for good.
func (a *ahead) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.drop()
	a.d.u.habits.note(a.d.account.User, a.asked, a.wasted)
}
