package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"postern/proxy/state"
)

// A head is what an account's ledger is made of. It is stored as JSON.
type head struct {
	Origin string `json:"origin,omitempty"` // Options.Origin under which the names were given
	Next   int64  `json:"next"`             // ID of the next segment
	Newest int64  `json:"newest,omitempty"` // latest received date ever listed, Unix seconds

	Validity string `json:"validity,omitempty"` // of the names, when a message was listed last

	// Epoch counts how often names lost their meaning: until then the
	// upstream itself sees to it that no UIDL is issued twice.
	Epoch int `json:"epoch,omitempty"`
	// Forgot: retired UIDLs were dropped, so that an old one may come again.
	Forgot bool `json:"forgot,omitempty"`
	// Accept: an operator lets the next login through, whatever is gone.
	Accept bool `json:"accept,omitempty"`
	// Imported: Import added entries that no login has bound yet.
	Imported bool `json:"imported,omitempty"`

	Live        []reference `json:"live,omitempty"`         // as listed, in order
	Gone        []reference `json:"gone,omitempty"`         // no longer listed, oldest first
	Learned     []reference `json:"learned,omitempty"`      // headers read for a re-binding under way
	LearnedFrom string      `json:"learned_from,omitempty"` // the Origin that they were read under
	Retired     []reference `json:"retired,omitempty"`      // hashes of UIDLs, oldest first
}

// A reference is a segment, and what is to be known without reading it.
type reference struct {
	ID       int64  `json:"id"`
	Count    int    `json:"n"`
	Digest   []byte `json:"digest,omitempty"`   // of what the listing says of these messages
	Natural  bool   `json:"natural,omitempty"`  // each UIDL is the one that the upstream's listing shows
	Known    bool   `json:"known,omitempty"`    // each has an identity
	Dated    bool   `json:"dated,omitempty"`    // each has a received date
	Removing bool   `json:"removing,omitempty"` // one was to be removed
	Latest   int64  `json:"latest,omitempty"`   // day when the last of them was found gone
}

// A book is an account's ledger, opened to be changed.
type book struct {
	store   state.Store
	account string
	version int64
	before  []byte // the head as read
	head
	put  []state.Segment
	drop []int64
}

func openBook(ctx context.Context, store state.Store, account string) (*book, error) {
	l, err := store.Ledger(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	b := &book{store: store, account: account, version: l.Version, before: l.Head}
	if l.Version == 0 {
		return b, nil
	}
	if err := json.Unmarshal(l.Head, &b.head); err != nil {
		return nil, fmt.Errorf("%w: head: %w: %w", errStore, state.ErrDamaged, err)
	}
	return b, nil
}

// read reads the segments referred to.
func (b *book) read(ctx context.Context, refs []reference) ([]*segment, error) {
	blobs, err := b.blobs(ctx, refs)
	if err != nil {
		return nil, err
	}
	segments := make([]*segment, len(refs))
	for i, blob := range blobs {
		s := &segment{reference: refs[i], raw: blob}
		if s.entries, err = decode(blob); err != nil {
			return nil, fmt.Errorf("%w: %w", errStore, err)
		}
		if len(s.entries) != s.Count {
			return nil, fmt.Errorf("%w: segment of %d entries, not %d: %w", errStore, len(s.entries), s.Count, state.ErrDamaged)
		}
		for k := range s.entries {
			s.entries[k].from = s
		}
		segments[i] = s
	}
	return segments, nil
}

func (b *book) blobs(ctx context.Context, refs []reference) ([][]byte, error) {
	ids := make([]int64, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	blobs, err := b.store.Segments(ctx, b.account, ids)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStore, err)
	}
	return blobs, nil
}

// add stores a new segment and returns its reference.
func (b *book) add(count int, data []byte) reference {
	r := reference{ID: b.Next, Count: count}
	b.Next++
	b.put = append(b.put, state.Segment{ID: r.ID, Data: data})
	return r
}

// remove drops stored segments.
func (b *book) remove(refs ...reference) {
	for _, r := range refs {
		b.drop = append(b.drop, r.ID)
	}
}

// noteValidity keeps the last one that is known.
func (b *book) noteValidity(v view) { b.Validity = cmp.Or(v.validity(), b.Validity) }

// save writes the change, if there is one.
func (b *book) save(ctx context.Context) error {
	head, err := json.Marshal(b.head)
	if err != nil {
		return err
	}
	if len(b.put) == 0 && len(b.drop) == 0 && bytes.Equal(head, b.before) {
		return nil
	}
	version, err := b.store.SaveLedger(ctx, b.account, state.LedgerChange{Version: b.version, Head: head, Put: b.put, Drop: b.drop})
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	b.version, b.before, b.put, b.drop = version, head, nil, nil
	return nil
}

// errStore: what failed is the ledger, not the upstream.
var errStore = errors.New("UIDL ledger")

// attempts bounds how often a change is made again because another session's
// came first.
const attempts = 8

// change opens the ledger and makes a change to it, again if somebody else's
// came between.
func change(ctx context.Context, store state.Store, account string, do func(*book) error) error {
	var err error
	for range attempts {
		var b *book
		if b, err = openBook(ctx, store, account); err != nil {
			return err
		}
		if err = do(b); err == nil {
			err = b.save(ctx)
		}
		if !errors.Is(err, state.ErrConflict) {
			return err
		}
	}
	return err
}
