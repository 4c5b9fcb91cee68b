package jmapc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/email"

	"postern/upstream"
)

// What Top asks for at first: most headers are shorter, and lines are at most
// 78 characters where anybody cares (RFC 5322 section 2.1.1).
const (
	topHeader = 16 << 10
	topLine   = 80
)

// Fetch implements upstream.Maildrop.
func (d *maildrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	return d.next(ctx, i, whole)
}

// Top implements upstream.Maildrop. A server that knows ranges sends no more
// than is likely to be needed; from another one the rest is not read.
func (d *maildrop) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	return d.next(ctx, i, n)
}

// next hands out message i, or a beginning of it, and has those that are likely
// to be asked for next on their way.
func (d *maildrop) next(ctx context.Context, i, lines int) (r io.ReadCloser, err error) {
	first := d.ahead.lines == unasked
	again := d.ahead.turn(lines)
	s := d.ahead.take(i)
	if hook := d.u.o.Hooks.ReadAhead; hook != nil && !first {
		hook(s != nil)
	}
	if s != nil {
		d.readAhead(i, again)
		return d.arrive(ctx, s)
	}
	if r, err = d.open(ctx, i, d.most(i, lines)); err != nil {
		return nil, err
	}
	d.readAhead(i, again)
	return r, nil
}

// most is how many octets of message i are likely to be needed for its header
// and so many lines.
func (d *maildrop) most(i, lines int) int64 {
	size := d.listing.Size(i)
	if lines == whole || int64(lines) >= size/topLine { // no overflow for any number
		return size
	}
	return min(size, topHeader+int64(lines)*topLine)
}

// open starts a download that somebody waits for. It asks for the first octets,
// up to most.
func (d *maildrop) open(ctx context.Context, i int, most int64) (io.ReadCloser, error) {
	var b *blob
	err := d.u.again(ctx, func() (err error) {
		b, err = d.fetch(ctx, i, most)
		return err
	})
	var status *httpError
	if errors.As(err, &status) {
		b, err = d.refused(ctx, i, most, status)
	}
	if errors.Is(err, upstream.ErrUnreadable) {
		d.unreadable[i] = true
		d.u.o.Log.Warn("message not delivered by the upstream", "blob", d.listing.blob(i), "err", err)
	}
	if err != nil {
		return nil, fmt.Errorf("message %d: %w", i, err)
	}
	b.spoiled = func() { d.unreadable[i] = true }
	return b, nil
}

func (d *maildrop) fetch(ctx context.Context, i int, most int64) (*blob, error) {
	ctx, done := d.bound(ctx)
	if err := d.claim(ctx); err != nil {
		done()
		return nil, err
	}
	return d.download(ctx, done, d.session, i, most)
}

// refused finds out what an error status means for a message.
func (d *maildrop) refused(ctx context.Context, i int, most int64, status *httpError) (*blob, error) {
	switch {
	case status.Status == http.StatusUnauthorized:
		if d.refresh(ctx) != nil {
			return nil, status
		}
		return d.fetch(ctx, i, most)
	case status.Status >= 500, status.Status == http.StatusTooManyRequests, status.Status == http.StatusRequestTimeout:
		return nil, status
	}
	got, err := d.get(ctx, []string{d.listing.id(i)})
	if err != nil {
		return nil, err
	}
	switch m, known := got.placed()(0, d.listing.id(i)); {
	case !known:
		return nil, status
	case !m.in(d.inbox):
		return nil, fmt.Errorf("%w: %v", upstream.ErrGone, status)
	}
	return nil, fmt.Errorf("%w: %v", upstream.ErrUnreadable, status)
}

// get asks which mailboxes these messages are in now, and for their size. At
// least one id has to be given: an empty list is sent as none, which means all.
func (d *maildrop) get(ctx context.Context, ids []string) (*emails, error) {
	answers, err := d.read(ctx, func() []jmap.Method { return []jmap.Method{d.getMethod(ids)} })
	if err != nil {
		return nil, err
	}
	return answer[emails](answers, 0)
}

func (d *maildrop) getMethod(ids []string) *email.Get {
	get := &email.Get{Account: d.session.account, Properties: []string{"id", "size", "mailboxIds", "keywords"}}
	for _, id := range ids {
		get.IDs = append(get.IDs, jmap.ID(id))
	}
	return get
}
