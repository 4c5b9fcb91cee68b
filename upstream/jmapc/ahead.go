package jmapc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"postern/upstream"
	"postern/upstream/spool"
)

// maxAhead is how many messages are on their way at most. It grows to that by
// doubling while a client asks for one after the other.
const maxAhead = 32

// An ahead holds the next messages, on their way or whole, before they are
// asked for: a client drains a maildrop one message at a time, and need not
// wait for each of them anew.
type ahead struct {
	downloads []*download // by index, growing
	next      int         // the message that a client which drains asks for next
	width     int         // how many may be held now
}

// A download is one message on its way. Whoever cancels it gives back what it
// holds.
type download struct {
	i      int
	size   int64
	stream *spool.Spool
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
		s.cancel()
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
		s.cancel()
	}
	a.downloads = nil
}

// held is how many octets there are or will be.
func (a *ahead) held() (octets int64) {
	for _, s := range a.downloads {
		octets += s.size
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

// readAhead gets the messages after i on their way, as far as their number and
// size allow.
func (d *maildrop) readAhead(i int) {
	a := &d.ahead
	if i == a.next {
		a.width = min(max(1, 2*a.width), maxAhead)
	} else {
		a.width = 1
	}
	a.next = i + 1
	from := i + 1
	if last := a.last(); last != nil {
		from = last.i + 1
	}
	held := a.held()
	for ; from < d.listing.Len() && len(a.downloads) < a.width; from++ {
		if held += d.listing.Size(from); held > d.u.o.ReadAhead || d.unreadable[from] {
			return
		}
		a.downloads = append(a.downloads, d.start(from, a.last()))
	}
}

// start begins to download a message into a spool, not before the one that was
// started before it. The goroutine ends with the download, at the latest soon
// after it is cancelled or the maildrop closed.
func (d *maildrop) start(i int, before *download) *download {
	ctx, cancel := context.WithCancel(d.ctx)
	s := &download{i: i, size: d.listing.Size(i), cancel: cancel, asked: make(chan struct{})}
	s.stream = d.share.New(s.size)
	context.AfterFunc(ctx, func() { s.stream.Close() })
	session := d.session
	go func() { s.stream.Finish(d.fill(ctx, session, s, before)) }()
	return s
}

// turn waits for a slot, in the order of messages.
func (d *maildrop) turn(ctx context.Context, s, before *download) error {
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
	if err := d.turn(ctx, s, before); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	b, err := d.download(ctx, stop, from, s.i, s.size)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = s.stream.ReadFrom(b)
	return err
}

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
	case err == nil || err == io.EOF:
		return n, err
	case n > 0:
		return n, nil // the error comes again
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
	r.d.ahead.drop()
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
