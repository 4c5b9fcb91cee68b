package ledger

import (
	"context"
	"errors"

	"postern/proxy/state"
	"postern/upstream"
)

// Issued returns the UIDLs of the messages that an account's ledger has: of
// those that were listed last, and those imported that no login has met yet.
func Issued(ctx context.Context, store state.Store, account string) (issued map[string]bool, err error) {
	err = look(ctx, store, account, func(b *book) error {
		issued, err = b.listed(ctx)
		return err
	})
	return issued, err
}

// Remembered returns what the clients of an account know: the UIDLs and sizes
// of the messages that [Issued] tells of, but for those that they had removed.
// No upstream is asked. An account without a ledger has an empty listing.
func Remembered(ctx context.Context, store state.Store, account string) (upstream.Listing, error) {
	var l remembered
	err := look(ctx, store, account, func(b *book) error {
		segments, err := b.read(ctx, b.Live)
		if err != nil {
			return err
		}
		l = remembered{}
		for _, s := range segments {
			l.add(s.entries)
		}
		return nil
	})
	return &l, err
}

// A remembered listing implements upstream.Listing.
type remembered struct {
	uidls table
	sizes []int64
}

func (r *remembered) add(entries []entry) {
	for i := range entries {
		if e := &entries[i]; e.flags&removing == 0 {
			r.uidls.add([]byte(e.uidl))
			r.sizes = append(r.sizes, e.size)
		}
	}
}

func (r *remembered) Len() int                            { return len(r.sizes) }
func (r *remembered) Size(i int) int64                    { return r.sizes[i] }
func (r *remembered) AppendUIDL(dst []byte, i int) []byte { return append(dst, r.uidls.at(i)...) }

// look opens the ledger to read it, again if a change came between.
func look(ctx context.Context, store state.Store, account string, do func(*book) error) error {
	var err error
	for range attempts {
		var b *book
		if b, err = openBook(ctx, store, account); err == nil {
			err = do(b)
		}
		if !errors.Is(err, state.ErrConflict) {
			break
		}
	}
	return err
}
