package imapc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A lister is a listing on its way: of the whole mailbox, or of what has come
// after the listing that was kept.
type lister struct {
	kept   *listing // nil if there is none that could be right
	coming *listing // what the answer brings
	query  *query

	exists   int  // as the last EXISTS has it, less what was expunged since; -1: no EXISTS came
	late     bool // that EXISTS came after the last message of the answer: there may be another
	expunged int  // messages that went away while the answer came
	wrong    bool // kept is not what is there
}

// newLister makes the command for a listing; kept may be nil.
func (c *conn) newLister(kept *listing) *lister {
	kind := c.identityKind()
	l := &lister{coming: &listing{uidl: c.o.UIDL, identities: identities{kind: kind}}, exists: -1}
	if kept != nil && kept.Len() > 0 && kept.identities.kind == kind {
		l.kept = kept
	}
	from := uint64(l.last()) + 1
	l.query = newQuery("UID FETCH "+strconv.FormatUint(from, 10)+":* ("+listItems(kind)+")", func(line []byte) error {
		return l.learn(line, c.o.MaxMessages)
	})
	return l
}

// last is the last UID that is known, 0 if none.
func (l *lister) last() uint32 {
	if l.kept == nil {
		return 0
	}
	return l.kept.uid(l.kept.Len() - 1)
}

// learn reads one untagged response.
func (l *lister) learn(line []byte, limit int) error {
	if n, word, ok := numbered(line); ok && !hasPrefixFold(word, "FETCH") {
		switch {
		case hasPrefixFold(word, "EXPUNGE"):
			l.expunged++
			l.exists = max(-1, l.exists-1)
		case hasPrefixFold(word, "EXISTS"):
			l.exists, l.late = int(n), true
		}
		return nil
	}
	l.late = false
	var identity []byte
	uid, size, err := parseItems(line, func(name, value []byte) {
		if id := identityOf(l.coming.identities.kind, name, value); id != nil {
			identity = id
		}
	})
	if err != nil || uid == 0 || size < 0 {
		return err
	}
	if uid <= l.last() {
		// "*" is the last message, so that one is always in the answer.
		l.wrong = l.wrong || uid == l.last() && !l.isLast(size, identity)
		return nil
	}
	if len(l.coming.entries) == limit {
		return errTooLong
	}
	if len(l.coming.entries) == 0 && l.kept == nil {
		l.coming.entries = make([]uint64, 0, 1024)
	}
	l.coming.add(uid, size)
	l.coming.identities.add(identity)
	return nil
}

// isLast tells whether the last message that is known is what it was.
func (l *lister) isLast(size int64, identity []byte) bool {
	i := l.kept.Len() - 1
	was := l.kept.identities.at(i)
	return size == l.kept.Size(i) && (len(was) == 0 || len(identity) == 0 || bytes.Equal(was, identity))
}

// listed bounds the answer to a listing.
func (c *conn) listed() await {
	bounds := c.searched()
	bounds.octets = maxOctets + 256*int64(c.o.MaxMessages)
	return bounds
}

// list reads the whole mailbox, which is selected. A message that somebody
// expunges meanwhile may be in it or not; any other that is missing makes it an
// error.
func (c *conn) list(ctx context.Context) (*listing, error) {
	if c.box.messages > c.o.MaxMessages {
		return nil, fmt.Errorf("list: %d messages: %w: %w", c.box.messages, errTooLong, upstream.ErrRejected)
	}
	if known := c.snapshot; known != nil {
		c.snapshot = nil
		return known, nil
	}
	l := c.listing
	c.listing = nil
	if l == nil {
		if c.box.messages == 0 {
			return c.empty(), nil // "1:*" would be an error to some servers
		}
		l = c.newLister(nil)
		c.roundTrip()
		c.g.send(l.query)
	}
	end := c.during(ctx, c.listed())
	s, err := l.query.wait()
	end()
	c.box.messages -= l.expunged
	if l.query.news != c.heard {
		c.heard = -1 // what came or went meanwhile may be in the listing or not
	}
	switch {
	case err != nil:
		return nil, c.lost("list", err)
	case c.box.messages == 0 && l.exists <= 0 && len(l.coming.entries) == 0:
		return c.empty(), nil // whatever the server thinks of "1:*"
	case l.kept != nil:
		return c.completeKept(ctx, l, s)
	case s.kind != "OK":
		return nil, refused("list", s, upstream.ErrUnavailable)
	}
	return c.whole(ctx, l)
}

func (c *conn) empty() *listing {
	return &listing{uidValidity: c.box.uidValidity, uidl: c.o.UIDL, unsaved: true, identities: identities{kind: c.identityKind()}}
}

// whole is the listing of a mailbox of which nothing was known. Where messages
// were expunged while it came, which may be in it or not, the number does not
// tell whether another one was left out, so that the server is asked which are
// there.
func (c *conn) whole(ctx context.Context, l *lister) (*listing, error) {
	if len(l.coming.entries) < c.box.messages {
		return nil, fmt.Errorf("list: %d of %d messages: %w: %w", len(l.coming.entries), c.box.messages, errProtocol, upstream.ErrUnavailable)
	}
	l.coming.uidValidity, l.coming.unsaved = c.box.uidValidity, true
	if err := l.coming.sort(); err != nil {
		return nil, fmt.Errorf("list: %w: %w", err, upstream.ErrUnavailable)
	}
	if l.expunged == 0 || l.coming.Len() == 0 {
		return l.coming, nil
	}
	left, err := c.left(ctx, l.coming)
	if err == nil && left == nil {
		err = fmt.Errorf("list: some of %d messages were left out: %w: %w", c.box.messages, errProtocol, upstream.ErrUnavailable)
	}
	return left, err
}

// completeKept makes a listing of the one that was kept and of what has come
// since. It is right if nothing that was kept is gone: a UID is never given to a
// later message than a lower one (RFC 9051 section 2.3.1.1), so what was there
// then is among what was kept, and is all of it if the numbers are the same,
// unless the number counts a message that the answer could not have any more.
// Otherwise the server is asked which are left, and where that does not come
// out even either, for everything.
func (c *conn) completeKept(ctx context.Context, l *lister, s status) (*listing, error) {
	if l.wrong || s.kind != "OK" || l.kept.uidValidity != c.box.uidValidity || c.box.notSticky || l.coming.sort() != nil {
		return c.list(ctx)
	}
	total := c.box.messages
	if l.exists >= 0 {
		total = l.exists
	}
	kept := l.kept
	kept.uidl = c.o.UIDL
	kept.reused = true
	if l.late || kept.Len()+l.coming.Len() != total {
		left, err := c.left(ctx, kept)
		if err != nil {
			return nil, err
		}
		if left == nil || left.Len()+l.coming.Len() != total {
			return c.list(ctx)
		}
		kept = left
	}
	for i := range l.coming.Len() {
		kept.copy(l.coming, i)
	}
	return kept, nil
}

// left asks which messages of a listing are there still; nil if there are
// others among them, too.
func (c *conn) left(ctx context.Context, l *listing) (*listing, error) {
	returning := ""
	if c.caps.Has(imap.CapESearch) || c.caps.Has(imap.CapIMAP4rev2) {
		returning = "RETURN (ALL) "
	}
	var ranges []uidRange
	answered := false
	bounds := c.listed()
	command := "UID SEARCH " + returning + "UID 1:" + strconv.FormatUint(uint64(l.uid(l.Len()-1)), 10)
	s, err := c.ask(ctx, bounds, command, func(line []byte) error {
		some, ok, err := parseSearch(line)
		if ok {
			ranges, answered = append(ranges, some...), true
		}
		return err
	})
	switch {
	case err != nil:
		return nil, c.lost("list", err)
	case s.kind != "OK" || !answered:
		return nil, nil
	}
	return l.only(ranges), nil
}

// only returns the listing of those messages that are in the ranges, nil if
// there are numbers in those that are none of its messages. The ranges may be in
// any order.
func (l *listing) only(ranges []uidRange) *listing {
	slices.SortFunc(ranges, func(a, b uidRange) int { return int(int64(a.first) - int64(b.first)) })
	out := l.none()
	out.unsaved = true
	i := 0
	for _, r := range ranges {
		for i < l.Len() && l.uid(i) < r.first {
			i++
		}
		n := uint64(0)
		for i < l.Len() && l.uid(i) <= r.last {
			out.copy(l, i)
			n++
			i++
		}
		if n != uint64(r.last)-uint64(r.first)+1 {
			return nil
		}
	}
	return out
}

// copy adds message i of another listing.
func (l *listing) copy(from *listing, i int) {
	l.unsaved = true
	l.add(from.uid(i), from.Size(i))
	l.identities.add(from.identities.at(i))
}
