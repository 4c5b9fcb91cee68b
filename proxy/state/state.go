// Package state keeps what outlives a session: intents to remove and the log
// of what was removed, each account's UIDL ledger, cached listings, who holds a
// maildrop, and the accounts that have a password of postern's own, with their
// sealed secrets. It stores and orders; what the octets of a ledger, a listing or
// a sealed secret mean is known to the packages that wrote them.
//
// [Open] keeps it in two SQLite files: state.db, which must last (every write
// is on disk before the call returns), and cache.db, which may be deleted at
// any time. [Off] keeps nothing. Both pass the suite in statetest, and so does
// whatever else is to stand behind [Store].
package state

import (
	"context"
	"errors"
	"time"

	"postern/upstream"
)

// A Store is what postern remembers. It is safe for use by several goroutines;
// the durable part of it also by several processes.
type Store interface {
	// Journal returns the removal journal of one upstream: accounts of
	// different upstreams are different even if they share a name.
	Journal(upstreamName string) upstream.Journal

	// Removals lists what Journals recorded, oldest first.
	Removals(ctx context.Context, q Query) ([]Removed, error)

	// Settle records what became of messages that a removal kept, by their
	// Removed.ID. One that is settled already stays as it is.
	Settle(ctx context.Context, fate Fate, ids ...int64) error

	// Ledger reads the head of an account's UIDL ledger. Accounts are named by
	// whose mail it is, not by where it is held today: the ledger follows an
	// account to another upstream. An account that has none yet gets the zero
	// Ledger.
	Ledger(ctx context.Context, account string) (Ledger, error)

	// Segments reads segments of an account's ledger, in the order asked for.
	// ErrConflict says that one is no longer there because a later SaveLedger
	// replaced it: the head must be read again.
	Segments(ctx context.Context, account string, ids []int64) ([][]byte, error)

	// SaveLedger makes a change to a ledger, all of it or nothing, and returns
	// the new version. ErrConflict says that the ledger is not at the version
	// that the change started from.
	SaveLedger(ctx context.Context, account string, change LedgerChange) (version int64, err error)

	// Listing returns the listing cached under key, or nil. Whatever is wrong
	// with it or with the cache makes it nil.
	Listing(ctx context.Context, key ListingKey) []byte

	// SaveListing caches a listing, as far as the cache works and has room.
	SaveListing(ctx context.Context, key ListingKey, listing []byte)

	// Lock takes the exclusive use of what key names and returns how to give
	// it back, or upstream.ErrBusy if somebody else keeps it for another
	// second. It is courtesy: the lock of a process that died or was cut off
	// ends by itself, so nothing that must be safe may rest on it.
	Lock(ctx context.Context, key string) (release func(), err error)

	Accounts
	Secrets
	Consents
	Invitations

	// Close ends the use of the store. Its other methods fail afterwards.
	Close() error
}

var (
	// ErrConflict: somebody else changed the ledger, account or secret first.
	ErrConflict = errors.New("changed meanwhile")

	// ErrNotFound: there is no such account, password or invitation.
	ErrNotFound = errors.New("not found")

	// ErrExists: the name or label is taken.
	ErrExists = errors.New("there already")

	// ErrDamaged: what is stored is not what was written. It is never mended
	// or replaced by anything empty: a person must restore it.
	ErrDamaged = errors.New("stored state is damaged")

	// ErrNewer: the state was written by a later version of postern.
	ErrNewer = errors.New("state belongs to a later version of postern")

	// ErrOlder: the state was written by an earlier version of postern, and was
	// opened for reading only.
	ErrOlder = errors.New("state belongs to an earlier version of postern")

	// ErrReadOnly: the store was opened for reading.
	ErrReadOnly = errors.New("state is open for reading only")

	// ErrOff: what must last cannot be kept with the state off.
	ErrOff = errors.New("state is off")
)

// A Query selects removals. Zero fields select everything.
type Query struct {
	Upstream string
	Account  string
	Since    time.Time
	Before   time.Time
	Kept     bool  // only messages that are kept somewhere and not settled yet
	After    int64 // an ID: only later ones, for paging
	Limit    int   // at most so many; 0 means 1,000
}

const defaultLimit = 1000

// Removed is one message that was removed, and what became of it.
type Removed struct {
	ID int64 // rises with time
	upstream.Removal
	Upstream string
	Account  string
	Session  string
	At       time.Time // when the outcome was recorded
	Policy   string
	Mailbox  string
	Validity string
	Fate     Fate
	FateAt   time.Time // zero unless settled
}

// A Fate is what became of a message after its removal.
type Fate string

const (
	Unsettled Fate = ""       // where Removal.Kept says, or gone
	Undone    Fate = "undone" // back in its mailbox
	Purged    Fate = "purged" // gone for good after having been kept
)

// A Ledger is the head of an account's UIDL ledger.
type Ledger struct {
	Version int64 // 0: there is none
	Head    []byte
}

// A LedgerChange replaces a ledger's head and some of its segments. Segments
// are never overwritten: one that changes is put under a new ID and its old ID
// dropped, so that a reader never sees a segment newer than its head.
type LedgerChange struct {
	Version int64 // that the change starts from
	Head    []byte
	Put     []Segment
	Drop    []int64
}

// A Segment is a part of a ledger.
type Segment struct {
	ID   int64 // chosen by the writer, never used again in this ledger
	Data []byte
}

// A ListingKey names a cached listing.
type ListingKey struct {
	Upstream string
	Account  string
	Name     string // the adapter's own, such as a mailbox
}
