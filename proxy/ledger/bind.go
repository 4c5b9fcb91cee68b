package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/proxy/state"
	"postern/upstream"
)

// A binding finds which entry of the ledger each message of a listing is.
type binding struct {
	ctx       context.Context
	drop      *maildrop
	book      *book
	view      view
	sameNames bool // names mean what they meant in the book
	sameIDs   bool // identities do, although names do not
	moved     bool // most entries have no message under their name
	renamed   bool // names have changed meaning since the last login

	kept    []run           // segments that are as they were, in order
	all     bool            // that is every message, and every segment
	loaded  []*segment      // live segments that were read, but for kept ones
	bound   []*entry        // by message; nil if it is in a kept run, or open
	byName  int             // messages bound to the name that they had
	left    []*entry        // entries that have no message yet
	open    []int           // messages that have no entry yet, in order
	removed []*entry        // entries whose message postern removed
	gone    []*segment      // entries that had no message at the last login
	back    map[*entry]bool // those of them that have one now

	headers map[int]Header   // of messages, read with TOP
	learned map[string]entry // by name: headers that were read by earlier logins
	until   time.Time        // for reading headers
}

// A run is a segment whose messages are listed from at on as they were.
type run struct {
	reference
	at    int
	uidls *table // nil if they are natural
}

// fewMessages can be gone together by chance.
const fewMessages = 10

// bind finds what walk did not. The book is not changed.
func (b *binding) bind() error {
	b.listOpen()
	live := b.known()
	if b.book.Imported {
		if err := b.imports(); err != nil {
			return err
		}
	}
	if err := b.byNames(); err != nil {
		return err
	}
	b.setRemovedAside()
	if b.book.Imported {
		b.setDisplacedAside()
	}
	b.moved = !b.sameNames || 2*len(b.left) > live || live == 0
	b.renamed = !b.sameNames || live >= fewMessages && b.byName == 0
	if len(b.open) == 0 {
		return nil
	}
	if err := b.among(&b.left); err != nil {
		return err
	}
	if b.renamed {
		if err := b.among(&b.removed); err != nil {
			return err
		}
	}
	if err := b.loadGone(); err != nil {
		return err
	}
	var gone []*entry
	for _, s := range b.gone {
		for i := range s.entries {
			gone = append(gone, &s.entries[i])
		}
	}
	return b.among(&gone)
}

// listOpen notes the messages that walk did not bind.
func (b *binding) listOpen() {
	i := 0
	for _, r := range append(b.kept[:len(b.kept):len(b.kept)], run{at: b.view.Len()}) {
		for ; i < r.at; i++ {
			if b.bound[i] == nil {
				b.open = append(b.open, i)
			}
		}
		i = r.at + r.Count
	}
}

// walk goes through the listing and the ledger side by side, which finds all
// that is as it was, and all that is but for messages that are gone.
func (b *binding) walk() error {
	at := 0
	for _, r := range b.book.Live {
		if b.sameNames && !b.book.Imported && b.view.matches(r, at) {
			uidls, err := b.pinned(r)
			if err != nil {
				return err
			}
			b.kept = append(b.kept, run{r, at, uidls})
			b.byName += r.Count
			at += r.Count
			continue
		}
		b.mustBind()
		read, err := b.book.read(b.ctx, []reference{r})
		if err != nil {
			return err
		}
		b.loaded = append(b.loaded, read[0])
		for k := range read[0].entries {
			e := &read[0].entries[k]
			if b.sameNames && !b.book.Imported && at < b.view.Len() && e.name != "" && b.isNamed(e, at) {
				if e.size == b.view.Size(at) && !b.contradicts(e, at) && !b.isRedated(e, at) {
					b.bound[at] = e
					b.byName++
				} else {
					b.left = append(b.left, e)
				}
				at++
				continue
			}
			b.left = append(b.left, e)
		}
	}
	b.all = len(b.loaded) == 0 && at == b.view.Len()
	return nil
}

// pinned reads the UIDLs of a kept segment, if they are not natural.
func (b *binding) pinned(r reference) (*table, error) {
	if r.Natural {
		return nil, nil
	}
	blobs, err := b.book.blobs(b.ctx, []reference{r})
	if err != nil {
		return nil, err
	}
	t, err := decodeUIDLs(blobs[0])
	if err != nil || len(t.ends) != r.Count {
		return nil, fmt.Errorf("%w: segment of %d entries, not %d: %w", errStore, len(t.ends), r.Count, errors.Join(err, state.ErrDamaged))
	}
	return t, nil
}

// mustBind makes room for what is bound, which an unchanged mailbox does not need.
func (b *binding) mustBind() {
	if b.bound == nil {
		b.bound = make([]*entry, b.view.Len())
	}
}

// isUnchanged tells after walk whether nothing needs to be written.
func (b *binding) isUnchanged() bool {
	k := b.book
	return b.all && k.version > 0 && k.Origin == b.drop.opener.options.Origin &&
		!k.Accept && !k.Imported && len(k.Learned) == 0 && !b.overdue()
}

func (b *binding) isNamed(e *entry, i int) bool {
	b.drop.scratch = b.view.appendName(b.drop.scratch[:0], i)
	return string(b.drop.scratch) == e.name
}

// contradicts tells whether the upstream itself says that i is another message.
func (b *binding) contradicts(e *entry, i int) bool {
	identity := b.view.identity(i)
	return e.identity != "" && identity != "" && kind(e.identity) == kind(identity) && e.identity != identity
}

func kind(identity string) string {
	for i := range len(identity) {
		if identity[i] == ':' {
			return identity[:i]
		}
	}
	return ""
}

// known is how many messages were listed the last time and not removed since.
func (b *binding) known() int {
	n := 0
	for _, r := range b.kept {
		n += r.Count
	}
	for _, s := range b.loaded {
		for i := range s.entries {
			if s.entries[i].flags&removing == 0 {
				n++
			}
		}
	}
	return n
}

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

// samples is how many headers are compared to know a mailbox again.
const samples = 16

// agree tells whether names, or identities, mean what they meant although they
// come from elsewhere: the upstream may only be called otherwise now, or be
// reached by another protocol. Short ids of two servers may be equal by chance,
// but then sizes and dates differ somewhere. So nine in ten must be there
// still, all with the size and date that they had, and a sample with the header.
func (b *binding) agree(of func(*entry) string, to func(int) string) (bool, error) {
	at := make(map[string]int, len(b.open))
	for _, i := range b.open {
		at[to(i)] = i
	}
	entries, pairs := 0, 0
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
		if e.flags&hashed != 0 {
			known = append(known, e)
		}
	}
	if pairs == 0 || 10*pairs < 9*entries {
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
// another origin.
func (b *binding) isEqual(e *entry, i int) (bool, error) {
	return e.size == b.view.Size(i) && e.received != 0 && e.received == b.view.received(i), nil
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
	err = b.pair(entries, func(e *entry) string {
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
	if err != nil || !b.moved {
		return err
	}
	return b.byDate(entries)
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
// nothing else has both. A message newer than the last listing could have both
// by chance, so the date must lie before the newest one listed.
func (b *binding) byDate(entries *[]*entry) error {
	count := map[string]int{}
	key := func(size, received int64) string {
		if received == 0 || received >= b.book.Newest {
			return ""
		}
		return fmt.Sprint(size, " ", received)
	}
	for _, e := range *entries {
		count[key(e.size, e.received)]++
	}
	return b.pair(entries, func(e *entry) string {
		k := key(e.size, e.received)
		if e.flags&hashed != 0 || count[k] != 1 {
			return ""
		}
		return k
	}, func(i int) string { return key(b.view.Size(i), b.view.received(i)) }, nil)
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

// noteBack notes the entries that were gone and have a message again.
func (b *binding) noteBack() {
	b.back = map[*entry]bool{}
	for _, e := range b.bound {
		if e != nil && e.gone != 0 {
			b.back[e] = true
		}
	}
}

// rebound counts the messages that keep their UIDL under another name.
func (b *binding) rebound() int {
	n := 0
	for i, e := range b.bound {
		if e != nil && e.name != b.view.name(i) {
			n++
		}
	}
	return n
}

// setRemovedAside: an entry whose message was to be removed is bound to nothing,
// unless the mailbox moved. An equal message that turns up was put there by a
// person, for the client to see.
func (b *binding) setRemovedAside() {
	for _, e := range b.left {
		if e.flags&removing != 0 {
			b.removed = append(b.removed, e)
		}
	}
	b.left = slices.DeleteFunc(b.left, func(e *entry) bool { return e.flags&removing != 0 })
}

// setDisplacedAside: an entry whose message took the UIDL of an import is not
// one whose message is gone.
func (b *binding) setDisplacedAside() {
	if !b.sameNames {
		return
	}
	there := map[string]bool{}
	for i, e := range b.bound {
		if e != nil {
			there[b.view.name(i)] = true
		}
	}
	displaced := func(e *entry) bool { return e.flags&imported == 0 && there[e.name] }
	for _, e := range b.left {
		if displaced(e) {
			b.removed = append(b.removed, e)
		}
	}
	b.left = slices.DeleteFunc(b.left, displaced)
}

func (b *binding) loadGone() (err error) {
	b.gone, err = b.book.read(b.ctx, b.book.Gone)
	return err
}

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
