package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/proxy/state"
)

// A binding finds which entry of the ledger each message of a listing is.
type binding struct {
	ctx        context.Context
	drop       *maildrop
	book       *book
	view       view
	sameOrigin bool // names come from where those in the book do
	sameNames  bool // names mean what they meant at the last login
	sameIDs    bool // identities do, although names do not
	reissued   bool // messages have the names that they had, and other identities
	moved      bool // most entries have no message under their name
	renamed    bool // names have changed meaning since the last login

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

	headers     map[int]Header   // of messages, read with TOP
	undelivered map[int]bool     // messages whose header does not come
	learned     map[string]entry // by name: headers that earlier logins read, or, if not hashed, asked for in vain
	until       time.Time        // for reading headers
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
	b.renamed = !b.sameNames || b.isRevalidated() || live >= fewMessages && b.byName == 0
	if len(b.open) == 0 {
		return nil
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
	if err := b.byFormerNames(&gone); err != nil {
		return err
	}
	lists := []*[]*entry{&b.left, &gone}
	if b.renamed {
		lists = []*[]*entry{&b.left, &b.removed, &gone}
	}
	for _, entries := range lists {
		if err := b.among(entries); err != nil {
			return err
		}
	}
	if !b.moved {
		return nil
	}
	if err := b.byDate(lists...); err != nil {
		return err
	}
	b.bySequence(lists...)
	return nil
}

// isRevalidated tells whether names have a validity, as those of IMAP have, and
// another one than when a message was listed last.
func (b *binding) isRevalidated() bool {
	now := b.view.validity()
	return b.book.Validity != "" && now != "" && b.book.Validity != now
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
	return !b.reissued && e.identity != "" && identity != "" && kind(e.identity) == kind(identity) && e.identity != identity
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
