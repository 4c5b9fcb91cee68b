package ledger

import (
	"context"
	"errors"

	"postern/proxy/state"
)

// Issued returns the UIDLs of the messages that an account's ledger has: of
// those that were listed last, and those imported that no login has met yet.
func Issued(ctx context.Context, store state.Store, account string) (issued map[string]bool, err error) {
	for range attempts {
		var b *book
		if b, err = openBook(ctx, store, account); err == nil {
			issued, err = b.listed(ctx)
		}
		if !errors.Is(err, state.ErrConflict) {
			return issued, err
		}
	}
	return nil, err
}
