package ledger

import "slices"

// bySequence binds entries whose header was never seen in a mailbox whose names
// all changed, by the order of their sizes: nine in ten messages have to stand
// in the order that they had, which nothing but the same mailbox comes to. A
// message is bound if no other one has its size, or if all between two that are
// bound have the sizes that were there. The last is not, as it may be a new one,
// unless there are as many messages as there were.
func (b *binding) bySequence(lists ...*[]*entry) {
	if !b.renamed || b.book.Imported {
		return
	}
	entries := b.listedLast()
	pairs := b.sequence(entries)
	if !b.isSequence(entries, pairs) {
		return
	}
	at := make(map[*entry]int, len(pairs))
	for _, p := range pairs {
		at[entries[p.entry]] = p.message
	}
	for _, list := range lists {
		*list = slices.DeleteFunc(*list, func(e *entry) bool {
			i, ok := at[e]
			if ok {
				b.bound[i] = e
			}
			return ok
		})
	}
	b.open = slices.DeleteFunc(b.open, func(i int) bool { return b.bound[i] != nil })
}

// sequence couples entries with the messages that they seem to be.
func (b *binding) sequence(entries []*entry) []couple {
	pairs := inOrder(b.alike(entries))
	if end := len(entries); end == b.view.Len() {
		pairs = b.between(entries, append(pairs, couple{end, end}))
		return pairs[:len(pairs)-1]
	}
	if n := len(pairs); n > 0 && b.bound[pairs[n-1].message] == nil {
		pairs = pairs[:n-1]
	}
	return b.between(entries, pairs)
}

// A couple is an entry and a message that may be the same, by their places.
type couple struct{ entry, message int }

// listedLast returns all entries of the last listing, in order.
func (b *binding) listedLast() (entries []*entry) {
	for _, s := range b.loaded {
		for i := range s.entries {
			entries = append(entries, &s.entries[i])
		}
	}
	return entries
}

// alike couples entries with messages that are bound to them, or alone have
// their size; in the order of entries.
func (b *binding) alike(entries []*entry) (pairs []couple) {
	bound := make(map[*entry]int, len(b.bound))
	for i, e := range b.bound {
		if e != nil {
			bound[e] = i
		}
	}
	type group struct{ entries, messages, last int }
	sizes := make(map[int64]*group, len(entries))
	for _, e := range entries {
		if sizes[e.size] == nil {
			sizes[e.size] = &group{}
		}
		sizes[e.size].entries++
	}
	for i := range b.view.Len() {
		if g := sizes[b.view.Size(i)]; g != nil {
			g.messages, g.last = g.messages+1, i
		}
	}
	for k, e := range entries {
		g := sizes[e.size]
		if i, ok := bound[e]; ok {
			pairs = append(pairs, couple{k, i})
		} else if g.entries == 1 && g.messages == 1 && b.mayBe(e, g.last) {
			pairs = append(pairs, couple{k, g.last})
		}
	}
	return pairs
}

// mayBe tells whether nothing but a size is known of an entry, and nothing
// speaks against a message of that size. Where the header is known, that decides.
func (b *binding) mayBe(e *entry, i int) bool {
	return b.bound[i] == nil && e.flags&hashed == 0 && e.size == b.view.Size(i) && !b.isRedated(e, i) && !b.contradicts(e, i)
}

// inOrder returns as many of the couples as can be whose messages stand in the
// order of their entries.
func inOrder(pairs []couple) []couple {
	var ends []int // by length of a run less one, the couple with the lowest message that ends one
	before := make([]int, len(pairs))
	for k, p := range pairs {
		n, _ := slices.BinarySearchFunc(ends, p.message, func(end, message int) int { return pairs[end].message - message })
		before[k] = -1
		if n > 0 {
			before[k] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, k)
		} else {
			ends[n] = k
		}
	}
	run := make([]couple, len(ends))
	if len(ends) > 0 {
		for n, k := len(ends)-1, ends[len(ends)-1]; k >= 0; n, k = n-1, before[k] {
			run[n] = pairs[k]
		}
	}
	return run
}

// between adds what stands between two couples, or before the first, where that
// has the same sizes in the same order.
func (b *binding) between(entries []*entry, pairs []couple) (all []couple) {
	last := couple{-1, -1}
	for _, p := range pairs {
		n := p.entry - last.entry
		same := n == p.message-last.message
		for k := 1; k < n && same; k++ {
			same = b.mayBe(entries[last.entry+k], last.message+k)
		}
		for k := 1; k < n && same; k++ {
			all = append(all, couple{last.entry + k, last.message + k})
		}
		all = append(all, p)
		last = p
	}
	return all
}

// isSequence tells whether the couples show that the mailbox is the same.
func (b *binding) isSequence(entries []*entry, pairs []couple) bool {
	sizes := map[int64]bool{}
	for _, p := range pairs {
		sizes[entries[p.entry].size] = true
	}
	return 10*len(pairs) >= 9*min(len(entries), b.view.Len()) &&
		len(sizes) >= max(fewKinds, min(len(pairs)/2, manyKinds))
}
