package ledger

import "hash/maphash"

// first writes the listing into a book in which nothing stands yet: each message
// with the UIDL that the upstream shows. It comes to what bind and settle would,
// without an entry in memory for each message, as a first login to a large
// mailbox has enough to wait for. ok is false where there is more to be done.
func (b *binding) first() (l *listing, ok bool) {
	if !b.isBlank() || !b.canShowAll() {
		return nil, false
	}
	for at := 0; at < b.view.Len(); at += segmentSize {
		b.book.Live = append(b.book.Live, b.putFirst(at, min(segmentSize, b.view.Len()-at)))
	}
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

// putFirst stores a segment of n messages from at on.
func (b *binding) putFirst(at, n int) reference {
	c, d := newEncoder(n), newDigester()
	natural := reference{Natural: true, Known: true, Dated: true}
	var name, uidl, identity []byte
	for i := at; i < at+n; i++ {
		name, uidl, identity = b.view.appendName(name[:0], i), b.view.AppendUIDL(uidl[:0], i), b.view.appendIdentity(identity[:0], i)
		e := entry{size: b.view.Size(i), received: b.view.received(i)}
		c.add(&e, name, uidl, identity)
		d.add(name, uidl, e.size, e.received)
		natural.Known = natural.Known && len(identity) > 0
		natural.Dated = natural.Dated && e.received != 0
		b.book.Newest = max(b.book.Newest, e.received)
	}
	r := b.book.add(n, c.dst)
	natural.ID, natural.Count, natural.Digest = r.ID, r.Count, d.sum()
	return natural
}
