package imapc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

const (
	// What is left of an abandoned message is read and thrown away up to this
	// many octets: that takes less time than to connect and log in again.
	maxDrain  = 1 << 20
	drainTime = 5 * time.Second

	maxResumes = 5 // of one message, each with progress since the last

	// TOP asks for so much first, and then for twice as much each time.
	topHeader = 4 << 10
	topLine   = 80
	maxChunk  = 1 << 20
)

var (
	errNoBody    = errors.New("no body in the answer")
	errAbandoned = errors.New("message abandoned")
)

// A stream is what the octets of a body come from.
type stream interface {
	io.Reader      // io.EOF only after all of length
	length() int64 // in octets
	close() error  // before the connection is used for anything else
}

// A body is a message, or the beginning of one, on its way. It carries on over
// a lost connection if the message there is provably the same one.
type body struct {
	d      *maildrop
	ctx    context.Context // of the Fetch or Top
	i      int
	header bool         // the header only
	top    bool         // a few lines of it, though it may be fetched whole
	chunk  int64        // octets to ask for next; 0: all
	lines  *lineCounter // how many are to come; nil: all

	mu      sync.Mutex // held while the message is read, so that Close can wait for that
	running stream     // nil between two
	offset  int64      // octets delivered
	total   int64      // octets in all; -1: not known yet
	last    int64      // offset when the connection was lost last
	resumes int
	err     error // how it ended: io.EOF if whole
}

// begin asks for the message: first together with those that are likely to be
// asked for next, if it is not on its way already, and then, should it not come,
// alone.
func (b *body) begin() error {
	b.total, b.last = -1, -1
	try := 0
	if b.chunk == 0 && !b.top {
		p, err := b.d.ahead.take(b.ctx, b.i, b.header)
		if err != nil {
			return err
		}
		if err = b.expect(p, p.wait()); err == nil || b.ctx.Err() != nil {
			return err
		}
		try = 1
	}
	for ; ; try++ {
		c, err := b.d.connection(b.ctx)
		if err != nil {
			return err
		}
		l, err := c.fetch(b.ctx, b.uid(), b.section(b.chunk))
		err = b.expect(l, err)
		switch {
		case err == nil || b.ctx.Err() != nil:
			return err
		case c.g.broken() != nil && try < 2:
		case errors.Is(err, errNoBody) && try == 0: // news of its flags took its place
		case c.g.broken() != nil:
			return err
		default:
			return b.refused(c, err)
		}
	}
}

// expect learns from the first answer how much is to come. A message that is
// not empty does not come empty.
func (b *body) expect(s stream, err error) error {
	if err == nil && s.length() == 0 && b.d.listing.Size(b.i) > 0 {
		err = errNoBody
		s.close()
	}
	if err != nil {
		return err
	}
	b.running = s
	if b.chunk > 0 {
		return nil
	}
	b.total = s.length()
	// RFC 9051 section 6.4.5 has the empty line at the end of HEADER even where
	// the message ends without one.
	if size := b.d.listing.Size(b.i); b.header && b.total == size+2 {
		b.total = size
	}
	return nil
}

func (b *body) uid() uint32 { return b.d.listing.uid(b.i) }

// section names what is to be read from offset on, at most octets of it where
// that is not 0.
func (b *body) section(octets int64) *imap.FetchItemBodySection {
	s := &imap.FetchItemBodySection{Peek: true}
	if b.header {
		s.Specifier = imap.PartSpecifierHeader
	}
	if octets > 0 {
		s.Partial = &imap.SectionPartial{Offset: b.offset, Size: octets}
	}
	return s
}

// refused finds out why a message did not come: it is gone, or the server does
// not deliver it. What was not delivered must not be removed either.
func (b *body) refused(c *conn, why error) error {
	found, err := c.sight(b.ctx, fmt.Sprint(b.uid()))
	if err != nil {
		return err
	}
	if _, there := found[b.uid()]; !there {
		return fmt.Errorf("fetch UID %d: %w", b.uid(), upstream.ErrGone)
	}
	b.d.undelivered[b.i] = true
	b.d.u.o.Log.Warn("message not delivered", "account", b.d.account.User, "uid", b.uid(), "err", why)
	if !hasKind(why) {
		why = fmt.Errorf("%w: %w", why, upstream.ErrUnreadable)
	}
	return fmt.Errorf("fetch UID %d: %w", b.uid(), why)
}

// Read implements io.Reader. It returns io.EOF only after the whole message.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil {
		if b.total >= 0 {
			p = p[:min(int64(len(p)), b.total-b.offset)]
			if b.offset == b.total {
				b.err = io.EOF
				break
			}
		}
		n, err := b.running.Read(p)
		b.offset += int64(n)
		if b.lines != nil {
			b.lines.count(p[:n])
		}
		if n > 0 {
			return n, nil
		}
		if len(p) == 0 {
			return 0, nil
		}
		b.err = b.proceed(err)
	}
	if b.err == io.EOF {
		delete(b.d.undelivered, b.i)
	}
	return 0, b.err
}

// proceed goes on after the end of what was asked for, or after an error.
func (b *body) proceed(err error) error {
	if err == io.EOF && b.offset < b.total {
		err = io.ErrUnexpectedEOF // whatever the stream takes for its end
	}
	if err != io.EOF {
		return b.resume(err)
	}
	// The end of a chunk: of the message too if it is a short one.
	short := b.running.length() < b.chunk
	if err := b.running.close(); err != nil {
		return b.resume(err)
	}
	b.running = nil
	if short || b.lines == nil || b.lines.left <= 0 {
		return io.EOF
	}
	b.chunk = min(2*b.chunk, maxChunk)
	l, err := b.d.current().fetch(b.ctx, b.uid(), b.section(b.chunk))
	if err != nil {
		return b.resume(err)
	}
	b.running = l
	return nil
}

// resume carries on after lost, on another connection, if UIDVALIDITY, UID,
// size, identity and what is left of the message are what they were.
func (b *body) resume(lost error) error {
	if ended := b.d.current().g.broken(); ended != nil {
		lost = ended // the library keeps only its text
	}
	if b.running != nil {
		b.running.close()
		b.running = nil
	}
	b.resumes++
	switch {
	case errors.Is(lost, errSilent):
		b.resumes = max(b.resumes, maxResumes) // it has cost the client time enough
	case errors.Is(lost, errSlow):
		b.resumes = maxResumes + 1 // it would be no faster
	}
	if b.ctx.Err() != nil || b.d.life.Err() != nil || b.offset <= b.last || b.resumes > maxResumes {
		return b.d.current().lost(fmt.Sprintf("fetch UID %d at octet %d", b.uid(), b.offset), lost)
	}
	b.last = b.offset
	c, err := b.d.connection(b.ctx)
	if err != nil {
		return err
	}
	doing := fmt.Sprintf("resume UID %d at octet %d", b.uid(), b.offset)
	found, err := c.sight(b.ctx, fmt.Sprint(b.uid()))
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if now, there := found[b.uid()]; !there || !b.d.entry(b.i).is(now) {
		return fmt.Errorf("%s: not the same message any more: %w", doing, upstream.ErrUnavailable)
	}
	octets := b.chunk
	if b.total >= 0 {
		octets = b.total - b.offset + 1 // one more, to see that the message is no longer than before
	}
	l, err := c.fetch(b.ctx, b.uid(), b.section(octets))
	if err != nil {
		return fmt.Errorf("%s: %w", doing, unavailable(err))
	}
	b.running = l
	if b.total >= 0 && l.left != b.total-b.offset && !(b.header && l.left > b.total-b.offset) {
		return fmt.Errorf("%s: %d octets left, not %d: %w", doing, l.left, b.total-b.offset, upstream.ErrUnavailable)
	}
	b.d.u.o.Log.Info("message resumed", "account", b.d.account.User, "uid", b.uid(), "octets", b.offset, "err", lost)
	return nil
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil {
		b.running.close()
		b.running = nil
	}
	if b.err == nil {
		b.err = net.ErrClosed
	}
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if b.d.body == b {
		b.d.body = nil
	}
	return nil
}

// A lineCounter counts the lines of a message's body as it passes.
type lineCounter struct {
	left   int // lines of the body that are still wanted
	inBody bool
	text   bool // the current line of the header is not empty
}

func (c *lineCounter) count(p []byte) {
	for _, b := range p {
		switch {
		case c.inBody && b == '\n':
			c.left--
		case c.inBody || b == '\r':
		case b == '\n':
			c.inBody, c.text = !c.text, false
		default:
			c.text = true
		}
	}
}
