package upstream

import (
	"context"
	"time"
)

// A Policy is what a route wants done to the messages that its clients remove
// and read. The zero value removes for good and changes no flag.
type Policy struct {
	Delete Delete
	// Folder is where DeleteArchive moves messages: a mailbox's name, its
	// levels parted by "/". Empty means the mailbox that the upstream itself
	// marks as its archive (RFC 6154 \Archive, JMAP role "archive").
	Folder string
	// Grace, where positive, makes DeleteExpunge keep messages in the trash
	// first, and lets what was moved anywhere be purged after so long.
	Grace time.Duration
	// ExpungeAlone allows a plain EXPUNGE on an IMAP server without UID
	// EXPUNGE, provided that nothing else is flagged \Deleted at that moment.
	// Another client that flags a message in the instant between loses it.
	ExpungeAlone bool
	// Seen lets MarkSeen set \Seen.
	Seen bool
}

// Delete is what becomes of a message that a client removed.
type Delete int

const (
	DeleteExpunge Delete = iota // gone for good
	DeleteTrash                 // moved to the upstream's trash, found by its role
	DeleteArchive               // moved to Policy.Folder
	DeleteFlag                  // marked, and hidden from postern's listings from then on
	DeleteNever                 // nothing: the client is told that it is gone, and will be shown it again
)

// String is the word for it in configuration, journal and log.
func (d Delete) String() string {
	switch d {
	case DeleteExpunge:
		return "expunge"
	case DeleteTrash:
		return "trash"
	case DeleteArchive:
		return "archive"
	case DeleteFlag:
		return "flag"
	case DeleteNever:
		return "never"
	}
	return "unknown"
}

// A Keeper is a Maildrop that can still reach what its account's removals kept
// (Removal.Kept).
type Keeper interface {
	// Restore puts kept messages back into the mailbox that they were removed
	// from. done tells for each whether it was seen there afterwards.
	Restore(ctx context.Context, kept []Removal) (done []bool, err error)

	// Purge removes kept messages for good, each only if it is still what was
	// kept: same place, validity, name and size. done tells for each whether
	// it was seen to be gone. A message that somebody has moved on is done.
	Purge(ctx context.Context, kept []Removal) (done []bool, err error)
}
