package ledger

import (
	"fmt"
	"slices"
)

// byNames binds messages to entries of the same name, wherever they stand.
func (b *binding) byNames() error {
	judge := b.isSame
	if !b.sameNames {
		judge = b.isEqual
		same, err := b.agree(named, b.view.name)
		if err == nil && !same {
			b.sameIDs, err = b.agree(identified, b.view.identity)
		}
		if err != nil || !same {
			return err
		}
		b.sameNames = true
	}
	var err error
	if b.reissued, err = b.areReissued(); err != nil {
		return err
	}
	before := len(b.open)
	err = b.pair(&b.left, named, b.view.name, judge)
	b.byName += before - len(b.open)
	return err
}

func named(e *entry) string      { return e.name }
func identified(e *entry) string { return e.identity }

const (
	// samples is how many headers are compared to know a mailbox again.
	samples = 16

	// fewKinds and manyKinds bound how many different sizes, or sizes and dates,
	// have to agree: half as many as there are messages, that is mostly
	// different ones.
	fewKinds, manyKinds = 8, 64
)

// agree tells whether names, or identities, mean what they meant although they
// come from elsewhere: the upstream may only be called otherwise now, or be
// reached by another protocol. Short ids of two servers may be equal by chance,
// but then sizes and dates differ somewhere. So nine in ten must be there
// still, all with the size and date that they had, and a sample with the header.
// It takes sizes and dates enough to tell by; an IMAP listing has no dates.
func (b *binding) agree(of func(*entry) string, to func(int) string) (bool, error) {
	at := make(map[string]int, len(b.open))
	for _, i := range b.open {
		at[to(i)] = i
	}
	entries, pairs, dated := 0, 0, 0
	kinds := map[[2]int64]bool{} // by size and date
	var known []*entry           // with a header to compare
	for _, e := range b.left {
		if e.flags&removing != 0 {
			continue
		}
		entries++
		i, ok := at[of(e)]
		if !ok || of(e) == "" {
			continue
		}
		pairs++
		if same, _ := b.isEqual(e, i); !same {
			return false, nil
		}
		if e.received != 0 && b.view.received(i) != 0 {
			dated++
			kinds[[2]int64{e.size, e.received}] = true
		} else {
			kinds[[2]int64{e.size, 0}] = true
		}
		if e.flags&hashed != 0 {
			known = append(known, e)
		}
	}
	if pairs == 0 || 10*pairs < 9*entries {
		return false, nil
	}
	enough := max(fewKinds, min(pairs/2, manyKinds))
	if dated == pairs {
		enough = min(enough, pairs) // a small mailbox will do
	}
	if len(kinds) < enough {
		return false, nil
	}
	return b.sample(known, func(e *entry) int { return at[of(e)] })
}

// areReissued tells whether it is identities that changed, and not messages: all
// that have another one under their name have the size and date that they had,
// and there are many sizes among them, and a sample has the header.
func (b *binding) areReissued() (bool, error) {
	at := make(map[string]int, len(b.open))
	for _, i := range b.open {
		at[b.view.name(i)] = i
	}
	sizes := map[int64]bool{}
	var known []*entry // with a header to compare
	for _, e := range b.left {
		i, ok := at[e.name]
		if !ok || !b.contradicts(e, i) {
			continue
		}
		if same, _ := b.isEqual(e, i); !same {
			return false, nil
		}
		sizes[e.size] = true
		if e.flags&hashed != 0 {
			known = append(known, e)
		}
	}
	if len(sizes) < fewKinds {
		return false, nil
	}
	return b.sample(known, func(e *entry) int { return at[e.name] })
}

// sample tells whether some of the entries, evenly chosen, have the header of
// their message.
func (b *binding) sample(known []*entry, at func(*entry) int) (same bool, err error) {
	n := min(samples, len(known))
	for k := range n {
		e := known[len(known)-1-k*len(known)/n]
		if same, err := b.hasHeader(e, at(e)); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (b *binding) hasHeader(e *entry, i int) (bool, error) {
	h, ok, err := b.header(i)
	return ok && h == e.header, err
}

// byFormerNames binds messages to entries that were gone and had their name: a
// listing had missed them, or another client had hidden them for a while. No
// server may give a name again (RFC 3501 section 2.3.1.1, RFC 8620 section 1.2),
// but one that was restored from a backup does. So messages that have only a
// size in common with their entries need the header, too; of many, some tell.
func (b *binding) byFormerNames(gone *[]*entry) error {
	if !b.sameOrigin {
		return nil
	}
	at := make(map[string]int, len(b.open))
	for _, i := range b.open {
		at[b.view.name(i)] = i
	}
	var known []*entry // with a header to compare
	for _, e := range *gone {
		i, ok := at[e.name]
		if ok && e.flags&hashed != 0 && e.size == b.view.Size(i) && !b.isIdentical(e, i) {
			known = append(known, e)
		}
	}
	alike, err := b.sample(known, func(e *entry) int { return at[e.name] })
	if err != nil {
		return err
	}
	return b.pair(gone, named, b.view.name, func(e *entry, i int) (bool, error) {
		switch {
		case b.isIdentical(e, i):
			return true, nil
		case b.contradicts(e, i) || e.size != b.view.Size(i) || b.isRedated(e, i):
			return false, nil
		case e.flags&hashed != 0 && !alike:
			return b.hasHeader(e, i)
		}
		return true, nil
	})
}

// isIdentical tells whether the upstream itself says that i is the same message.
func (b *binding) isIdentical(e *entry, i int) bool {
	return e.identity != "" && e.identity == b.view.identity(i)
}

// imports binds the entries of an import to whatever message they fit, before
// any other entry: theirs are the UIDLs that clients know.
func (b *binding) imports() error {
	var fresh, old []*entry
	for _, e := range b.left {
		if e.flags&imported != 0 {
			fresh = append(fresh, e)
			continue
		}
		old = append(old, e)
		if e.flags&hashed != 0 && b.sameNames {
			b.learned[e.name] = *e
		}
	}
	b.moved = true
	err := b.pair(&fresh, named, b.view.name, b.isSame)
	if err == nil {
		err = b.among(&fresh)
	}
	if err == nil {
		err = b.byDate(&fresh)
	}
	b.left = append(fresh, old...)
	return err
}

// isSame judges a message that has an entry's name: the contract says that it
// is the same, but servers were seen that give a name twice, and others that
// change their mind on a size or, restored from a backup, on a date.
func (b *binding) isSame(e *entry, i int) (bool, error) {
	otherSize, otherDate := e.size != b.view.Size(i), b.isRedated(e, i)
	switch {
	case b.contradicts(e, i) && (otherSize || otherDate || e.flags&hashed == 0):
		return false, nil
	case b.contradicts(e, i):
		return b.hasHeader(e, i)
	case !otherSize && !otherDate || b.isIdentical(e, i):
		return true, nil
	case e.flags&hashed != 0:
		return b.hasHeader(e, i)
	}
	return !otherSize || !otherDate, nil
}

// isEqual judges a message that has an entry's name or identity, but from
// another origin where all of them agree.
func (b *binding) isEqual(e *entry, i int) (bool, error) {
	return e.size == b.view.Size(i) && !b.isRedated(e, i), nil
}

// isRedated tells whether the upstream gives a message a date that the entry
// does not have.
func (b *binding) isRedated(e *entry, i int) bool {
	received := b.view.received(i)
	return e.received != 0 && received != 0 && e.received != received
}

// among binds messages to entries whose names mean nothing any more. In a
// mailbox that did not move, headers are read only for messages that have also
// the date of an entry: one that came back from another folder.
func (b *binding) among(entries *[]*entry) error {
	err := b.pair(entries, identified, b.view.identity, b.isIdentified)
	if err != nil {
		return err
	}
	wanted := map[[2]int64]bool{}
	key := func(size, received int64) [2]int64 {
		if b.moved {
			received = 0
		}
		return [2]int64{size, received}
	}
	for _, e := range *entries {
		if e.flags&hashed != 0 && (b.moved || e.received != 0) {
			wanted[key(e.size, e.received)] = true
		}
	}
	for _, i := range b.open {
		if wanted[key(b.view.Size(i), b.view.received(i))] {
			if _, _, err := b.header(i); err != nil {
				return err
			}
		}
	}
	return b.pair(entries, func(e *entry) string {
		if e.flags&hashed == 0 || !wanted[key(e.size, e.received)] {
			return ""
		}
		return sized(e.size, e.header[:])
	}, func(i int) string {
		if h, ok := b.headers[i]; ok {
			return sized(b.view.Size(i), h[:])
		}
		return ""
	}, nil)
}

func sized(size int64, more []byte) string { return fmt.Sprintf("%d %s", size, more) }

// isIdentified judges a message that has an entry's identity. An entry without
// a name was gone when the origin changed: its identity may mean another message
// today.
func (b *binding) isIdentified(e *entry, i int) (bool, error) {
	switch {
	case b.sameNames && e.gone == 0 || b.sameOrigin && e.name != "" || kind(e.identity) == "gmail":
		return true, nil
	case b.sameIDs && e.gone == 0:
		return b.isEqual(e, i)
	case e.size != b.view.Size(i) || b.isRedated(e, i):
		return false, nil
	case e.flags&hashed != 0:
		return b.hasHeader(e, i)
	}
	return e.gone != 0 && e.received != 0 && b.view.received(i) != 0, nil // by isRedated, equal
}

// byDate binds entries whose header was never seen by size and date, where
// nothing else has both: also no entry that is not to be bound. A message newer
// than the last listing could have both by chance, so the date must lie before
// the newest one listed.
func (b *binding) byDate(lists ...*[]*entry) error {
	count := map[string]int{}
	key := func(size, received int64) string {
		if received == 0 || received >= b.book.Newest {
			return ""
		}
		return fmt.Sprint(size, " ", received)
	}
	counted := map[*entry]bool{}
	for _, entries := range append(lists[:len(lists):len(lists)], &b.removed) {
		for _, e := range *entries {
			if !counted[e] {
				counted[e] = true
				count[key(e.size, e.received)]++
			}
		}
	}
	of := func(e *entry) string {
		k := key(e.size, e.received)
		if e.flags&hashed != 0 || count[k] != 1 {
			return ""
		}
		return k
	}
	for _, entries := range lists {
		err := b.pair(entries, of, func(i int) string { return key(b.view.Size(i), b.view.received(i)) }, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// pair binds open messages to entries of the same key, where there are as many
// of the one as of the other, in order. An empty key is none. agree, if not
// nil, has the last word on each pair.
func (b *binding) pair(entries *[]*entry, of func(*entry) string, to func(int) string, agree func(*entry, int) (bool, error)) error {
	type group struct {
		entries  []*entry
		messages []int
	}
	groups := map[string]*group{}
	for _, e := range *entries {
		k := of(e)
		if k == "" {
			continue
		}
		if groups[k] == nil {
			groups[k] = &group{}
		}
		groups[k].entries = append(groups[k].entries, e)
	}
	if len(groups) == 0 {
		return nil
	}
	var order []*group
	for _, i := range b.open {
		if g := groups[to(i)]; g != nil {
			if len(g.messages) == 0 {
				order = append(order, g)
			}
			g.messages = append(g.messages, i)
		}
	}
	taken := map[*entry]bool{}
	for _, g := range order {
		if len(g.entries) != len(g.messages) {
			continue
		}
		for k, e := range g.entries {
			i := g.messages[k]
			if agree != nil {
				ok, err := agree(e, i)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
			}
			b.bound[i] = e
			taken[e] = true
		}
	}
	if len(taken) == 0 {
		return nil
	}
	b.open = slices.DeleteFunc(b.open, func(i int) bool { return b.bound[i] != nil })
	*entries = slices.DeleteFunc(*entries, func(e *entry) bool { return taken[e] })
	return nil
}
