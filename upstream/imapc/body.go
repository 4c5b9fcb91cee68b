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
	"github.com/emersion/go-imap/v2/imapclient"

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

// A body is a message, or the beginning of one, on its way. It carries on over
// a lost connection if the message there is provably the same one.
type body struct {
	d      *maildrop
	ctx    context.Context // of the Fetch or Top
	i      int
	header bool         // the header only
	chunk  int64        // octets to ask for next; 0: all
	lines  *lineCounter // how many are to come; nil: all

	mu      sync.Mutex // held while the message is read, so that Close can wait for that
	running *literal   // nil between two
	offset  int64      // octets delivered
	total   int64      // octets in all; -1: not known yet
	last    int64      // offset when the connection was lost last
	resumes int
	err     error // how it ended: io.EOF if whole
}

// begin asks for the message.
func (b *body) begin() error {
	b.total, b.last = -1, -1
	for try := 0; ; try++ {
		c, err := b.d.connection(b.ctx)
		if err != nil {
			return err
		}
		b.running, err = c.fetch(b.ctx, b.uid(), b.section(b.chunk))
		if err == nil && b.running.left == 0 && b.d.listing.Size(b.i) > 0 {
			b.running.close()
			err = errNoBody
		}
		switch {
		case err == nil:
			b.expect()
			return nil
		case b.ctx.Err() != nil:
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

// expect learns from the first answer how much is to come.
func (b *body) expect() {
	if b.chunk > 0 {
		return
	}
	b.total = b.running.left
	// RFC 9051 section 6.4.5 has the empty line at the end of HEADER even where
	// the message ends without one.
	if size := b.d.listing.Size(b.i); b.header && b.total == size+2 {
		b.total = size
	}
}

// refused finds out why a message did not come: it is gone, or the server does
// not deliver it. What was not delivered must not be removed either.
func (b *body) refused(c *conn, why error) error {
	found, err := c.sizes(b.ctx, fmt.Sprint(b.uid()))
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
	if err != io.EOF {
		return b.resume(err)
	}
	// The end of a chunk: of the message too if it is a short one.
	short := b.running.size < b.chunk
	if err := b.running.close(); err != nil {
		return b.resume(err)
	}
	b.running = nil
	if short || b.lines == nil || b.lines.left <= 0 {
		return io.EOF
	}
	b.chunk = min(2*b.chunk, maxChunk)
	if b.running, err = b.d.current().fetch(b.ctx, b.uid(), b.section(b.chunk)); err != nil {
		return b.resume(err)
	}
	return nil
}

// resume carries on after lost, on another connection, if UIDVALIDITY, UID,
// size and what is left of the message are what they were.
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
	found, err := c.sizes(b.ctx, fmt.Sprint(b.uid()))
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if size, there := found[b.uid()]; !there || size != b.d.listing.Size(b.i) {
		return fmt.Errorf("%s: not the same message any more: %w", doing, upstream.ErrUnavailable)
	}
	octets := b.chunk
	if b.total >= 0 {
		octets = b.total - b.offset + 1 // one more, to see that the message is no longer than before
	}
	if b.running, err = c.fetch(b.ctx, b.uid(), b.section(octets)); err != nil {
		return fmt.Errorf("%s: %w", doing, unavailable(err))
	}
	if b.total >= 0 && b.running.left != b.total-b.offset && !(b.header && b.running.left > b.total-b.offset) {
		return fmt.Errorf("%s: %d octets left, not %d: %w", doing, b.running.left, b.total-b.offset, upstream.ErrUnavailable)
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

// A literal is one FETCH of one message, whose body is being read. The
// library's reader waits until that is done: it must be closed.
type literal struct {
	c    *conn
	end  func()
	cmd  *imapclient.FetchCommand
	msg  *imapclient.FetchMessageData
	r    io.Reader
	size int64
	left int64
	err  error
}

// fetch asks for a section of one message, and never for two: of several FETCH
// answers on their way, the library cannot wait for one without the others.
func (c *conn) fetch(ctx context.Context, uid uint32, section *imap.FetchItemBodySection) (*literal, error) {
	end := c.during(ctx, await{idle: c.o.IdleTimeout, literal: c.o.MaxMessage})
	c.roundTrip()
	cmd := c.lib.Fetch(imap.UIDSetNum(imap.UID(uid)), &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}})
	for msg := cmd.Next(); msg != nil; msg = cmd.Next() {
		for item := msg.Next(); item != nil; item = msg.Next() {
			if b, ok := item.(imapclient.FetchItemDataBodySection); ok && b.Literal != nil && b.MatchCommand(section) {
				n := b.Literal.Size()
				return &literal{c: c, end: end, cmd: cmd, msg: msg, r: b.Literal, size: n, left: n}, nil
			}
		}
	}
	defer end()
	err := cmd.Close()
	var refusal *imap.Error
	switch {
	case err == nil:
		return nil, errNoBody
	case errors.As(err, &refusal):
		return nil, refused("fetch", statusOf(refusal), upstream.ErrUnreadable)
	}
	return nil, c.lost("fetch", err)
}

// Read implements io.Reader. After an error the library's decoder belongs to
// its reader again, so that nothing may be read any more.
func (l *literal) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if err == io.EOF && l.left > 0 {
		err = io.ErrUnexpectedEOF // the library does not tell
	}
	l.err = err
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// close ends the FETCH. What is left of the message is drained if it is little,
// otherwise it costs the connection.
func (l *literal) close() error {
	defer l.end()
	if l.left <= maxDrain {
		limit := time.AfterFunc(drainTime, func() { l.c.g.fail(errAbandoned) })
		defer limit.Stop()
	} else {
		l.c.g.fail(errAbandoned)
	}
	io.Copy(io.Discard, readerOnly{l})
	if l.err != io.EOF {
		l.c.g.fail(l.err)
		return l.err // touch neither msg nor cmd: the reader may be at them
	}
	for l.msg.Next() != nil {
	}
	return l.cmd.Close()
}

// readerOnly hides whatever else a reader is.
type readerOnly struct{ io.Reader }

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

// discard reads a FETCH response that nobody has asked for. The library's own
// way would go on reading after an error.
func discard(msg *imapclient.FetchMessageData) {
	for item := msg.Next(); item != nil; item = msg.Next() {
		if b, ok := item.(imapclient.FetchItemDataBodySection); ok && b.Literal != nil {
			if n, err := io.Copy(io.Discard, readerOnly{b.Literal}); err != nil || n < b.Literal.Size() {
				return
			}
		}
	}
}
