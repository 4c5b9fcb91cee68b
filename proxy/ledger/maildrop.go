package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"postern/proxy/state"
	"postern/upstream"
)

// A maildrop shows what another shows, with the ledger's UIDLs. What it learns
// in passing (headers, what was delivered) is written before anything is
// removed, when it is closed, and now and then before.
type maildrop struct {
	upstream.Maildrop
	opener  *Opener
	account string
	view    view
	version int64 // of the ledger when it was listed; -1 if that could not be written
	scratch []byte

	mu     sync.Mutex // Close may come while a reader is being closed
	marks  map[int]mark
	enough int          // so many marks are written
	got    map[int]bool // delivered by this session
	before []bool       // delivered by an earlier session; nil until asked for
}

// A mark is what a session learned of a message.
type mark struct {
	flags  flags // hashed, delivered, removing
	not    flags // removing, where it turned out otherwise
	header Header
}

// maxMarks is how many marks are kept before they are written.
const maxMarks = 1024

// List implements upstream.Maildrop.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	inner, err := d.Maildrop.List(ctx)
	if err != nil {
		return nil, err
	}
	d.view = newView(inner)
	pinned, err := d.pin(ctx)
	switch {
	case errors.Is(err, errStore):
		return nil, d.opener.failed(err)
	case err != nil:
		return nil, err
	}
	d.opener.recovered(d.account)
	if r, ok := d.Maildrop.(upstream.Recorder); ok {
		r.Shown(pinned)
	}
	return pinned, nil
}

// pin finds the UIDLs of the listing and writes down what is new, again if
// another session's change came between.
func (d *maildrop) pin(ctx context.Context) (pinned *listing, err error) {
	headers := map[int]Header{}
	until := time.Now().Add(d.opener.options.Rebind)
	for range attempts {
		pinned, err = d.pinOnce(ctx, headers, until)
		if !errors.Is(err, state.ErrConflict) {
			return pinned, err
		}
	}
	return nil, err
}

func (d *maildrop) pinOnce(ctx context.Context, headers map[int]Header, until time.Time) (*listing, error) {
	b, err := d.newBinding(ctx)
	if err != nil {
		return nil, err
	}
	b.headers, b.until = headers, until
	if err := b.recall(); err != nil {
		return nil, err
	}
	if err := b.walk(); err != nil {
		return nil, err
	}
	if b.isUnchanged() {
		d.version = b.book.version
		return b.unchanged(), nil
	}
	if pinned, ok := b.first(); ok {
		return pinned, d.save(ctx, b, true)
	}
	b.mustBind()
	err = b.bind()
	if err == nil && b.isIncomplete() {
		err = errUndelivered
	}
	if err != nil {
		if !errors.Is(err, errStore) {
			b.remember()
		}
		return nil, err
	}
	b.noteBack()
	known, gone, fresh := b.churn()
	if d.opener.options.Churn.trips(known, gone, fresh) && !b.book.Accept {
		d.opener.churned(d.account, known, gone, fresh)
		b.remember()
		return nil, errChurn
	}
	pinned, derivable, err := b.settle()
	if err != nil {
		return nil, err
	}
	return pinned, d.save(ctx, b, derivable)
}

func (d *maildrop) newBinding(ctx context.Context) (*binding, error) {
	k, err := openBook(ctx, d.opener.store, d.account)
	if err != nil {
		return nil, err
	}
	same := k.Origin == "" || k.Origin == d.opener.options.Origin
	return &binding{
		ctx: ctx, drop: d, book: k, view: d.view,
		sameOrigin:  same,
		sameNames:   same,
		undelivered: map[int]bool{},
		learned:     map[string]entry{},
	}, nil
}

// save writes the change that a listing made. A store that cannot be written
// does not keep a client out if the next login finds the same UIDLs anyway.
func (d *maildrop) save(ctx context.Context, b *binding, derivable bool) error {
	err := b.book.save(ctx)
	switch {
	case err == nil:
		d.version = b.book.version
		if n := b.rebound(); n > 0 && d.opener.options.Hooks.Rebound != nil {
			d.opener.options.Hooks.Rebound(n)
		}
		return nil
	case errors.Is(err, state.ErrConflict) || !derivable || ctx.Err() != nil:
		return err
	}
	d.version = -1
	d.opener.failed(err)
	d.opener.options.Log.Warn("UIDLs not written down, going on with those that the upstream gives", "account", d.account, "err", err)
	return nil
}

// Fetch implements upstream.Maildrop.
func (d *maildrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	d.flushSome(ctx)
	r, err := d.Maildrop.Fetch(ctx, i)
	if err != nil {
		return nil, err
	}
	return &passing{ReadCloser: r, drop: d, i: i, whole: delivered, hasher: newHasher()}, nil
}

// Top implements upstream.Maildrop.
func (d *maildrop) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	d.flushSome(ctx)
	r, err := d.Maildrop.Top(ctx, i, n)
	if err != nil {
		return nil, err
	}
	return &passing{ReadCloser: r, drop: d, i: i, hasher: newHasher()}, nil
}

// A passing message tells its header, and whether all of it passed.
type passing struct {
	io.ReadCloser
	drop   *maildrop
	i      int
	whole  flags // what it means to have been read to the end
	hasher *hasher
	ended  bool
}

func (p *passing) Read(to []byte) (int, error) {
	n, err := p.ReadCloser.Read(to)
	p.hasher.Write(to[:n])
	p.ended = p.ended || err == io.EOF
	return n, err
}

func (p *passing) Close() error {
	err := p.ReadCloser.Close()
	m := mark{}
	if p.ended && err == nil {
		m.flags = p.whole
	}
	if p.hasher.done || p.ended {
		if h, ok := p.hasher.sum(); ok {
			m.flags, m.header = m.flags|hashed, h
		}
	}
	p.drop.mark(p.i, m)
	return err
}

func (d *maildrop) mark(i int, m mark) {
	if m.flags|m.not == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.marks[i]
	if m.flags&hashed == 0 {
		m.header = old.header
	}
	if m.flags&delivered != 0 {
		d.got[i] = true
	}
	m.flags, m.not = m.flags|old.flags&^m.not, m.not|old.not&^m.flags
	d.marks[i] = m
}

// Removable implements upstream.Maildrop.
func (d *maildrop) Removable(i int) error {
	if err := d.Maildrop.Removable(i); err != nil {
		return err
	}
	return d.retrieved(i)
}

// retrieved refuses a message that was never delivered, if that is asked for.
func (d *maildrop) retrieved(i int) error {
	if !d.opener.options.RequireRetr {
		return nil
	}
	d.mu.Lock()
	now := d.got[i]
	d.mu.Unlock()
	if now {
		return nil
	}
	if d.before == nil {
		before, err := d.deliveredBefore()
		if err != nil {
			return d.opener.failed(err)
		}
		d.before = before
	}
	if !d.before[i] {
		return fmt.Errorf("message was never retrieved: %w", upstream.ErrRejected)
	}
	return nil
}

// deliveredBefore reads which messages of the listing the ledger has as delivered.
func (d *maildrop) deliveredBefore() ([]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	before := make([]bool, d.view.Len())
	err := change(ctx, d.opener.store, d.account, func(b *book) error {
		return d.each(ctx, b, b.Live, func(i int, e *entry) { before[i] = e.flags&delivered != 0 })
	})
	return before, err
}

// each goes through the listed messages that segments of the book hold.
func (d *maildrop) each(ctx context.Context, b *book, refs []reference, do func(int, *entry)) error {
	segments, err := b.read(ctx, refs)
	if err != nil {
		return err
	}
	at := d.positions(b)
	for _, s := range segments {
		for k := range s.entries {
			if i, ok := at(s, k); ok {
				do(i, &s.entries[k])
			}
		}
	}
	return nil
}

// positions returns how to find an entry's message: by where it stands while
// the book is the one that was listed, by its name after that.
func (d *maildrop) positions(b *book) func(s *segment, k int) (int, bool) {
	if b.version == d.version {
		starts, at := map[int64]int{}, 0
		for _, r := range b.Live {
			starts[r.ID] = at
			at += r.Count
		}
		return func(s *segment, k int) (int, bool) { return starts[s.ID] + k, true }
	}
	names := map[string]int{}
	if b.Origin == d.opener.options.Origin {
		for i := range d.view.Len() {
			names[d.view.name(i)] = i
		}
	}
	return func(s *segment, k int) (int, bool) {
		i, ok := names[s.entries[k].name]
		return i, ok
	}
}

// Remove implements upstream.Maildrop. That messages are to be removed is
// written down before: if the gateway dies in the middle of it, the next login
// must know why so many are gone. Those that stay are found and unmarked then.
// All else that the session learned is written with it, so that Close need not.
func (d *maildrop) Remove(ctx context.Context, messages []int) (int, error) {
	for _, i := range messages {
		if err := d.retrieved(i); err != nil {
			return 0, err
		}
	}
	for _, i := range messages {
		d.mark(i, mark{flags: removing})
	}
	d.flush(context.WithoutCancel(ctx))
	removed, err := d.Maildrop.Remove(ctx, messages)
	if errors.Is(err, upstream.ErrChanged) {
		for _, i := range messages {
			d.mark(i, mark{not: removing})
		}
	}
	return removed, err
}

// Close implements upstream.Maildrop. What could not be written down is
// missed only if the mailbox moves, and by RequireRetr.
func (d *maildrop) Close() error {
	err := d.Maildrop.Close()
	d.flush(context.Background())
	return err
}

// flushSome writes the marks when there are many.
func (d *maildrop) flushSome(ctx context.Context) {
	d.mu.Lock()
	many := len(d.marks) >= d.enough
	d.mu.Unlock()
	if many {
		d.flush(context.WithoutCancel(ctx))
	}
}

// flush writes the marks into the ledger.
func (d *maildrop) flush(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.marks) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	var last *book
	asListed := false // the same entries in the same places
	err := change(ctx, d.opener.store, d.account, func(b *book) error {
		last, asListed = b, b.version == d.version
		return d.apply(ctx, b)
	})
	if err != nil {
		d.enough = len(d.marks) + maxMarks
		d.opener.failed(err)
		d.opener.options.Log.Warn("what a session learned of its messages is not written down", "account", d.account, "err", err)
		return
	}
	if asListed {
		d.version = last.version
	}
	d.enough = maxMarks
	clear(d.marks)
}

// apply puts the marks on the entries of a book.
func (d *maildrop) apply(ctx context.Context, b *book) error {
	at := d.positions(b)
	for n, r := range b.Live {
		if b.version == d.version && !d.marked(b, n) {
			continue
		}
		read, err := b.read(ctx, b.Live[n:n+1])
		if err != nil {
			return err
		}
		s := read[0]
		if !d.applyTo(s, at) {
			continue
		}
		all := make([]*entry, len(s.entries))
		r.Removing = false
		for k := range s.entries {
			all[k] = &s.entries[k]
			r.Removing = r.Removing || s.entries[k].flags&removing != 0
		}
		b.remove(r)
		r.ID = b.add(len(all), encode(all)).ID
		b.Live[n] = r
	}
	return nil
}

// marked tells whether a message of the nth segment has a mark.
func (d *maildrop) marked(b *book, n int) bool {
	from := 0
	for _, r := range b.Live[:n] {
		from += r.Count
	}
	for i := range d.marks {
		if i >= from && i < from+b.Live[n].Count {
			return true
		}
	}
	return false
}

func (d *maildrop) applyTo(s *segment, at func(*segment, int) (int, bool)) (changed bool) {
	for k := range s.entries {
		i, ok := at(s, k)
		if !ok {
			continue
		}
		e := &s.entries[k]
		m, ok := d.marks[i]
		after := e.flags&^m.not | m.flags
		if !ok || after == e.flags && (m.flags&hashed == 0 || m.header == e.header) {
			continue
		}
		e.flags = after
		if m.flags&hashed != 0 {
			e.header = m.header
		}
		changed = true
	}
	return changed
}
