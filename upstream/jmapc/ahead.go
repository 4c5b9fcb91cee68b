package jmapc

import (
	"context"
	"fmt"
	"io"

	"postern/upstream"
)

// maxAhead is how many messages are on their way at most. It grows to that by
// doubling while a client asks for one after the other.
const maxAhead = 16

// An ahead holds the next messages, on their way or whole, before they are
// asked for: a client drains a maildrop one message at a time, and need not
// wait for each of them anew.
type ahead struct {
	spools []*spool // by index, growing
	next   int      // the message that a client which drains asks for next
	width  int      // how many may be held now
}

// A spool is one message on its way into memory. It is handed out only whole.
type spool struct {
	i      int
	cancel context.CancelFunc
	asked  chan struct{} // closed when the next one may have a slot
	done   chan struct{} // closed when data and err stand
	data   []byte
	err    error
}

// wait waits until the message is there.
func (s *spool) wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find returns message i's spool, if there is one.
func (a *ahead) find(i int) *spool {
	for _, s := range a.spools {
		if s.i == i {
			return s
		}
	}
	return nil
}

// take removes and returns message i's spool, and drops those before it, which
// the client has passed by. If there is none the guess was wrong: all go.
func (a *ahead) take(i int) *spool {
	for len(a.spools) > 0 {
		s := a.spools[0]
		a.spools = a.spools[1:]
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
	for _, s := range a.spools {
		s.cancel()
	}
	a.spools = nil
}

// held is how many octets are or will be in memory.
func (a *ahead) held() (octets int64) {
	for _, s := range a.spools {
		octets += int64(cap(s.data))
	}
	return octets
}

// readAhead gets the messages after i on their way, as far as their number and
// size allow. current is how many octets message i itself takes in memory.
func (d *maildrop) readAhead(i int, current int64) {
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
	held := current + a.held()
	for ; from < d.listing.Len() && len(a.spools) < a.width; from++ {
		size := d.listing.Size(from)
		if held += size; held > d.u.o.ReadAhead || d.unreadable[from] {
			return
		}
		a.spools = append(a.spools, d.spool(from, a.last()))
	}
}

// last returns the spool furthest ahead, or nil.
func (a *ahead) last() *spool {
	if len(a.spools) == 0 {
		return nil
	}
	return a.spools[len(a.spools)-1]
}

// spool starts to read a message into memory, not before the one that was
// started before it. The goroutine ends with the download, at the latest soon
// after drop or Close.
func (d *maildrop) spool(i int, before *spool) *spool {
	ctx, cancel := context.WithCancel(d.ctx)
	s := &spool{
		i: i, cancel: cancel, asked: make(chan struct{}), done: make(chan struct{}),
		data: make([]byte, d.listing.Size(i)),
	}
	session := d.session
	go func() {
		defer close(s.done)
		s.err = d.fill(ctx, session, s, before)
	}()
	return s
}

// turn waits for a slot, in the order of messages.
func (d *maildrop) turn(ctx context.Context, s, before *spool) error {
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

func (d *maildrop) fill(ctx context.Context, from *session, s, before *spool) error {
	defer s.cancel()
	if err := d.turn(ctx, s, before); err != nil {
		return err
	}
	b, err := d.download(ctx, s.cancel, from, s.i, int64(len(s.data)))
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := io.ReadFull(b, s.data); err != nil {
		return err
	}
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("%w: no end after the last octet: %v", upstream.ErrUnavailable, err)
	}
	return nil
}
