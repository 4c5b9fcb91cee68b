package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/upstream"
)

// errUnfinished says that headers remain to be read.
var errUnfinished = fmt.Errorf("the messages of a mailbox that moved are being told apart: %w", upstream.ErrUnavailable)

// header returns the header of a message, reading it if need be; ok is false
// if the message cannot be identified by one.
func (b *binding) header(i int) (h Header, ok bool, err error) {
	if h, ok := b.headers[i]; ok {
		return h, true, nil
	}
	if e, ok := b.learned[b.view.name(i)]; ok && e.size == b.view.Size(i) {
		b.headers[i] = e.header
		return e.header, true, nil
	}
	if time.Now().After(b.until) {
		return Header{}, false, errUnfinished
	}
	h, ok, err = b.fetchHeader(i)
	switch {
	case errors.Is(err, upstream.ErrGone), errors.Is(err, upstream.ErrUnreadable):
		return Header{}, false, nil
	case err != nil:
		return Header{}, false, fmt.Errorf("header of message %d: %w", i, err)
	case ok:
		b.headers[i] = h
	}
	return h, ok, nil
}

func (b *binding) fetchHeader(i int) (h Header, ok bool, err error) {
	r, err := b.drop.Maildrop.Top(b.ctx, i, 0)
	if err != nil {
		return Header{}, false, err
	}
	defer r.Close()
	return HeaderOf(r)
}

// remember keeps the headers that were read for the next login, since this one
// fails. It works although ctx may have ended.
func (b *binding) remember() {
	learned := false
	for i, h := range b.headers {
		name := b.view.name(i)
		if e, ok := b.learned[name]; !ok || e.header != h {
			b.learned[name], learned = entry{name: name, size: b.view.Size(i), header: h}, true
		}
	}
	if !learned {
		return
	}
	var all []*entry
	for _, e := range b.learned {
		all = append(all, &entry{name: e.name, size: e.size, header: e.header, flags: hashed})
	}
	slices.SortFunc(all, func(x, y *entry) int { return strings.Compare(x.name, y.name) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), storeTime)
	defer cancel()
	err := change(ctx, b.book.store, b.book.account, func(k *book) error {
		k.remove(k.Learned...)
		k.Learned, k.LearnedFrom = nil, b.drop.opener.options.Origin
		for part := range slices.Chunk(all, segmentSize) {
			k.Learned = append(k.Learned, k.add(len(part), encode(part)))
		}
		return nil
	})
	if err != nil {
		b.drop.opener.failed(err)
	}
}

// recall reads the headers that earlier logins read.
func (b *binding) recall() error {
	if b.book.LearnedFrom != b.drop.opener.options.Origin {
		return nil // other names
	}
	segments, err := b.book.read(b.ctx, b.book.Learned)
	if err != nil {
		return err
	}
	for _, s := range segments {
		for _, e := range s.entries {
			b.learned[e.name] = e
		}
	}
	return nil
}

// storeTime bounds what is written after a session's own time is up.
const storeTime = 5 * time.Second
