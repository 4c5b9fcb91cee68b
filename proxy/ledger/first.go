package ledger

import (
	"hash/maphash"
	"sync"
)

// first writes the listing into a book in which nothing stands yet: each message
// with the UIDL that the upstream shows. It comes to what bind and settle would,
// without an entry in memory for each message, as a first login to a large
// mailbox has enough to wait for. ok is false where there is more to be done.
func (b *binding) first() (l *listing, ok bool) {
	if !b.isBlank() {
		return nil, false
	}
	segments := make([]made, (b.view.Len()+segmentSize-1)/segmentSize)
	var working sync.WaitGroup
	for k := range segments {
		working.Go(func() { segments[k] = b.view.segment(k*segmentSize, min((k+1)*segmentSize, b.view.Len())) })
	}
	ok = b.canShowAll()
	working.Wait()
	if !ok {
		return nil, false
	}
	for _, m := range segments {
		r := b.book.add(m.Count, m.data)
		m.ID = r.ID
		b.book.Live = append(b.book.Live, m.reference)
		b.book.Newest = max(b.book.Newest, m.newest)
	}
	b.book.noteValidity(b.view)
	b.book.Origin, b.book.Accept = b.drop.opener.options.Origin, false
	return &listing{Listing: b.view.Listing}, true
}

// isBlank tells whether no UIDL of the account is known.
func (b *binding) isBlank() bool {
	k := b.book
	return len(k.Live)+len(k.Gone)+len(k.Learned)+len(k.Retired) == 0 && !k.Imported && !k.Forgot && len(b.headers) == 0
}

// canShowAll tells whether every UIDL that the upstream shows is one, and no two
// are equal. Two whose hashes meet count as equal here: then it takes longer.
func (b *binding) canShowAll() bool {
	seed := maphash.MakeSeed()
	seen := make(map[uint64]struct{}, b.view.Len())
	var uidl []byte
	for i := range b.view.Len() {
		uidl = b.view.AppendUIDL(uidl[:0], i)
		if !isUIDL(uidl) {
			return false
		}
		seen[maphash.Bytes(seed, uidl)] = struct{}{}
	}
	return len(seen) == b.view.Len()
}

// A made segment is one that is not in a book yet.
type made struct {
	reference
	data   []byte
	newest int64 // received date
}

// segment makes one of the messages from one to another, each with the UIDL
// that the upstream shows.
func (v view) segment(from, to int) made {
	m := made{reference: reference{Count: to - from, Natural: true, Known: true, Dated: true}}
	c, d := newEncoder(m.Count), newDigester()
	var name, uidl, identity []byte
	for i := from; i < to; i++ {
		name, uidl, identity = v.appendName(name[:0], i), v.AppendUIDL(uidl[:0], i), v.appendIdentity(identity[:0], i)
		e := entry{size: v.Size(i), received: v.received(i)}
		c.add(&e, name, uidl, identity)
		d.add(name, uidl, identity, e.size, e.received)
		m.Known = m.Known && len(identity) > 0
		m.Dated = m.Dated && e.received != 0
		m.newest = max(m.newest, e.received)
	}
	m.data, m.Digest = c.dst, d.sum()
	return m
}
