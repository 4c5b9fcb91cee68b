package upstream

import "context"

// A ListingCache keeps what an adapter knows of a mailbox from one session to
// the next. It is bound to one upstream. What it returns is what the adapter
// saved under that account and key, whole; or nil, at any time.
type ListingCache interface {
	Load(ctx context.Context, account, key string) []byte
	Save(ctx context.Context, account, key string, listing []byte)
}
