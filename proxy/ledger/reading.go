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

// errUndelivered says that a header did not come that may come at the next login.
var errUndelivered = fmt.Errorf("a header is not delivered: %w", upstream.ErrUnavailable)

// header returns the header of a message, reading it if need be; ok is false
// if the message cannot be identified by one.
func (b *binding) header(i int) (h Header, ok bool, err error) {
	if h, ok := b.headers[i]; ok {
		return h, true, nil
	}
	e, tried := b.isLearned(i)
	if tried && e.flags&hashed != 0 {
		b.headers[i] = e.header
		return e.header, true, nil
	}
	if b.undelivered[i] {
		return Header{}, false, nil
	}
	if time.Now().After(b.until) {
		return Header{}, false, errUnfinished
	}
	h, ok, err = b.fetchHeader(i)
	switch {
	case errors.Is(err, upstream.ErrGone):
		return Header{}, false, nil
	case errors.Is(err, upstream.ErrUnreadable):
		b.undelivered[i] = true
		return Header{}, false, nil
	case err != nil:
		return Header{}, false, fmt.Errorf("header of message %d: %w", i, err)
	case ok:
		b.headers[i] = h
	}
	return h, ok, nil
}

// isLearned tells what earlier logins learned of a message's header.
func (b *binding) isLearned(i int) (e entry, tried bool) {
	e, tried = b.learned[b.view.name(i)]
	return e, tried && e.size == b.view.Size(i)
}

// isIncomplete tells whether a message has no entry, and its header, which could
// change that, was asked for in vain for the first time. A UIDL that is given up
// for that never comes back, and a login that fails does.
func (b *binding) isIncomplete() bool {
	for i := range b.undelivered {
		if _, tried := b.isLearned(i); b.bound[i] == nil && !tried {
			return true
		}
	}
	return false
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
	note := func(e entry) {
		old, tried := b.learned[e.name]
		if !tried || old.size != e.size || old.flags&hashed != e.flags || old.header != e.header {
			b.learned[e.name], learned = e, true
		}
	}
	for i, h := range b.headers {
		note(entry{name: b.view.name(i), size: b.view.Size(i), header: h, flags: hashed})
	}
	for i := range b.undelivered {
		note(entry{name: b.view.name(i), size: b.view.Size(i)})
	}
	if !learned {
		return
	}
	var all []*entry
	for _, e := range b.learned {
		all = append(all, &entry{name: e.name, size: e.size, header: e.header, flags: e.flags & hashed})
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
