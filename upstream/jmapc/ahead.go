package jmapc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"postern/upstream"
	"postern/upstream/spool"
)

// maxAhead is how many messages are on their way at most. It grows to that by
// doubling while a client asks for one after the other.
const maxAhead = 32

// An ahead holds the next messages, or the beginnings of them, on their way or
// whole, before they are asked for: a client drains a maildrop one message at a
// time, or looks at one header after the other, and need not wait for each of
// them anew.
type ahead struct {
	hooks     *upstream.Hooks
	downloads []*download // by index, growing
	lines     int         // of the body, that they are for; whole: all
	next      int         // the message that a client which drains asks for next
	width     int         // how many may be held now
}

const (
	whole   = -1 // stands for all lines of a message
	unasked = -2 // nothing was asked for yet
)

// A download is one message on its way, or the beginning of one. Whoever cancels
// it gives back what it holds.
type download struct {
	i      int
	size   int64 // of the message
	most   int64 // of that, to be downloaded
	stream *spool.Spool
	come   atomic.Int64 // octets that have
	cancel context.CancelFunc
	asked  chan struct{} // closed when the next one may have a slot
}

// take removes and returns message i's download, and drops those before it,
// which the client has passed by. If there is none the guess was wrong: all go.
func (a *ahead) take(i int) *download {
	for len(a.downloads) > 0 {
		s := a.downloads[0]
		a.downloads = a.downloads[1:]
		if s.i == i {
			return s
		}
		a.waste(s)
		if s.i > i {
			break
		}
	}
	a.drop()
	return nil
}

// drop gives up what is held and on its way.
func (a *ahead) drop() {
	for _, s := range a.downloads {
		a.waste(s)
	}
	a.downloads = nil
}

// waste gives up what nobody has asked for.
func (a *ahead) waste(s *download) {
	s.cancel()
	if a.hooks.Wasted != nil {
		a.hooks.Wasted(s.come.Load())
	}
}

// held is how many octets there are or will be.
func (a *ahead) held() (octets int64) {
	for _, s := range a.downloads {
		octets += s.most
	}
	return octets
}

// last returns the download furthest ahead, or nil.
func (a *ahead) last() *download {
	if len(a.downloads) == 0 {
		return nil
	}
	return a.downloads[len(a.downloads)-1]
}

// turn gives up what is held if it is not for as many lines, and tells if it is.
func (a *ahead) turn(lines int) bool {
	same := lines == a.lines || a.lines == unasked
	if !same {
		a.drop()
	}
	a.lines = lines
	return same
}

// readAhead gets the messages after i on their way, as far as their number and
// size allow: none for a client that takes turns between messages and headers.
func (d *maildrop) readAhead(i int, again bool) {
	a := &d.ahead
	switch {
	case !again:
		a.width = 0
	case i == a.next:
		a.width = min(max(1, 2*a.width), maxAhead)
	default:
		a.width = 1
	}
	a.next = i + 1
	from := i + 1
	if last := a.last(); last != nil {
		from = last.i + 1
	}
	held := a.held()
	for ; from < d.listing.Len() && len(a.downloads) < a.width; from++ {
		most := d.most(from, a.lines)
		if held += most; held > d.u.o.ReadAhead || d.unreadable[from] {
			return
		}
		a.downloads = append(a.downloads, d.start(from, most, a.last()))
	}
}

// start begins to download a message, up to octet most, into a spool, not before
// the one that was started before it. The goroutine ends with the download, at
// the latest soon after it is cancelled or the maildrop closed.
func (d *maildrop) start(i int, most int64, before *download) *download {
	ctx, cancel := context.WithCancel(d.ctx)
	s := &download{i: i, size: d.listing.Size(i), most: most, cancel: cancel, asked: make(chan struct{})}
	s.stream = d.share.New(most)
	context.AfterFunc(ctx, func() { s.stream.Close() })
	session := d.session
	go func() { s.stream.Finish(d.fill(ctx, session, s, before)) }()
	return s
}

// queue waits for a slot, in the order of messages.
func (d *maildrop) queue(ctx context.Context, s, before *download) error {
	defer close(s.asked)
	if before != nil {
		select {
		case <-before.asked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.acquire(ctx)
}

func (d *maildrop) fill(ctx context.Context, from *session, s, before *download) error {
	if err := d.queue(ctx, s, before); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	b, err := d.download(ctx, stop, from, s.i, s.most)
	if err != nil {
		return err
	}
	defer b.Close()
	var r io.Reader = b // to its end, where it is checked
	if s.most < s.size {
		r = io.LimitReader(b, s.most)
	}
	_, err = s.stream.ReadFrom(counting{r, &s.come})
	if hook := d.u.o.Hooks.Spilled; hook != nil && s.stream.Spilled() > 0 {
		hook(s.stream.Spilled())
	}
	return err
}

// counting counts what is read.
type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// errMore: a beginning was downloaded, and more is wanted than of most messages.
var errMore = errors.New("end of the beginning")

// An arriving is a message that is read while it is on its way, or after. If
// that fails it is asked for once more, since the octets behind a blobId never
// change: what was read ahead may have been too much for the server, which is
// no fault of the client.
type arriving struct {
	ctx      context.Context
	d        *maildrop
	download *download
	unbind   func() bool
	at       int64
	again    io.ReadCloser // nil while the download lasts
}

// arrive hands out a download that was taken.
func (d *maildrop) arrive(ctx context.Context, s *download) (io.ReadCloser, error) {
	r := &arriving{ctx: ctx, d: d, download: s, unbind: context.AfterFunc(ctx, s.cancel)}
	if err := s.stream.Wait(); err != nil && err != io.EOF {
		if err := r.retry(err); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

func (r *arriving) Read(p []byte) (n int, err error) {
	if r.again != nil {
		return r.again.Read(p)
	}
	n, err = r.download.stream.Read(p)
	r.at += int64(n)
	switch {
	case err == nil, err == io.EOF && r.at == r.download.size:
		return n, err
	case n > 0:
		return n, nil // the error comes again
	}
	if err == io.EOF {
		err = errMore
	}
	if err := r.retry(err); err != nil {
		return 0, err
	}
	return r.again.Read(p)
}

// retry asks for the message anew, and passes over what was read of it.
func (r *arriving) retry(why error) error {
	if r.ctx.Err() != nil || r.d.ctx.Err() != nil {
		return fmt.Errorf("message %d: %w: %w", r.download.i, upstream.ErrUnavailable, first(r.ctx.Err(), r.d.ctx.Err()))
	}
	r.download.cancel()
	if why != errMore {
		r.d.ahead.drop()
	}
	again, err := r.d.open(r.ctx, r.download.i, r.download.size)
	if err != nil {
		return errors.Join(err, why)
	}
	if _, err := io.CopyN(io.Discard, again, r.at); err != nil {
		again.Close()
		return fmt.Errorf("message %d: up to octet %d again: %w", r.download.i, r.at, err)
	}
	r.again = again
	return nil
}

func (r *arriving) Close() error {
	r.unbind()
	r.download.stream.Close() // at once, where cancel takes a moment
	r.download.cancel()
	if r.again != nil {
		return r.again.Close()
	}
	return nil
}
