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
	before := len(b.open)
	err := b.pair(&b.left, named, b.view.name, judge)
	b.byName += before - len(b.open)
	return err
}

func named(e *entry) string      { return e.name }
func identified(e *entry) string { return e.identity }

const (
	// samples is how many headers are compared to know a mailbox again.
	samples = 16

	// fewSizes and manySizes bound how many sizes have to agree where no dates
	// can: half as many as there are messages, that is mostly different ones.
	fewSizes, manySizes = 8, 64
)

// agree tells whether names, or identities, mean what they meant although they
// come from elsewhere: the upstream may only be called otherwise now, or be
// reached by another protocol. Short ids of two servers may be equal by chance,
// but then sizes and dates differ somewhere. So nine in ten must be there
// still, all with the size and date that they had, and a sample with the header.
// An IMAP listing has no dates: then it takes sizes enough to tell by.
func (b *binding) agree(of func(*entry) string, to func(int) string) (bool, error) {
	at := make(map[string]int, len(b.open))
	for _, i := range b.open {
		at[to(i)] = i
	}
	entries, pairs, dated := 0, 0, 0
	sizes := map[int64]bool{}
	var known []*entry // with a header to compare
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
		sizes[e.size] = true
		if e.received != 0 && b.view.received(i) != 0 {
			dated++
		}
		if e.flags&hashed != 0 {
			known = append(known, e)
		}
	}
	if pairs == 0 || 10*pairs < 9*entries {
		return false, nil
	}
	if dated < pairs && len(sizes) < max(fewSizes, min(pairs/2, manySizes)) {
		return false, nil
	}
	n := min(samples, len(known))
	for k := range n {
		e := known[len(known)-1-k*len(known)/n]
		if h, ok, err := b.header(at[of(e)]); err != nil || !ok || h != e.header {
			return false, err
		}
	}
	return true, nil
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
	case b.contradicts(e, i):
		return false, nil
	case !otherSize && !otherDate || e.identity != "" && e.identity == b.view.identity(i):
		return true, nil
	case e.flags&hashed != 0:
		h, ok, err := b.header(i)
		return ok && h == e.header, err
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

// isIdentified judges a message that has an entry's identity. An entry that was
// gone before may be from another origin than its like today.
func (b *binding) isIdentified(e *entry, i int) (bool, error) {
	switch {
	case b.sameNames && e.gone == 0 || kind(e.identity) == "gmail":
		return true, nil
	case b.sameIDs && e.gone == 0:
		return b.isEqual(e, i)
	case e.size != b.view.Size(i) || b.isRedated(e, i):
		return false, nil
	case e.flags&hashed != 0:
		h, ok, err := b.header(i)
		return ok && h == e.header, err
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
