// Package upstream is the vocabulary that both sides of postern speak: what a
// maildrop is, whose it is, and how it fails. It does nothing itself and
// imports only the standard library.
//
// The adapters imapc and jmapc implement [Opener] and [Maildrop]; proxy/pop3
// shows a [Maildrop] to a POP3 client without knowing which of them it is.
package upstream

import (
	"context"
	"io"
)

// An Opener opens the maildrop of one account on one upstream.
type Opener interface {
	// Open logs in with the account's own credentials and opens its mailbox.
	// Only a refusal of the credentials themselves is ErrAuth; see the errors
	// of this package for the rest. The caller closes the Maildrop.
	Open(ctx context.Context, account Account) (Maildrop, error)
}

// A Maildrop is one account's mailbox, opened for one POP3 session. It is used
// by one goroutine at a time. A call ends soon after its ctx does.
//
// Messages are named by their index in the Listing, 0 to Len()-1. The adapter
// maps an index to a name that the upstream can never give to another message
// (a UID under its UIDVALIDITY, a JMAP id), never to a position in the mailbox.
type Maildrop interface {
	// List takes the snapshot that the session lives on: every message,
	// oldest first, in an order that stays the same from session to session.
	// It is called once, before anything else. Later arrivals wait for the
	// next session. A listing that could not be read to its end is an error,
	// never an empty or short one.
	List(ctx context.Context) (Listing, error)

	// Fetch streams message i as the upstream stores it, without changing any
	// flag. The caller closes the reader before it makes another call. Only a
	// message that arrived whole ends in io.EOF; one that broke off ends in
	// another error, and one that is no longer there is ErrGone.
	Fetch(ctx context.Context, i int) (io.ReadCloser, error)

	// Top streams a beginning of message i that holds at least the header, the
	// empty line and the first n lines of the body (or all there is): the
	// caller cuts it to measure. Otherwise it is like Fetch.
	Top(ctx context.Context, i, n int) (io.ReadCloser, error)

	// Removable tells whether Remove would be asked in vain for message i: nil,
	// or ErrRejected (a read-only mailbox, no safe way to remove) or
	// ErrUnreadable (the upstream never delivered it). It asks nothing of the
	// upstream.
	Removable(i int) error

	// Remove removes exactly the messages named, for good, and never another
	// one. Messages that are already gone count as removed. removed tells how
	// many were seen to be gone afterwards; err is nil only if that is all of
	// them. ErrChanged says that the mailbox is not the one that was listed
	// any more; nothing was removed then.
	Remove(ctx context.Context, messages []int) (removed int, err error)

	// MarkSeen notes upstream that messages were read, if the account's policy
	// wants that noted; else it does nothing. QUIT calls it, after Remove.
	MarkSeen(ctx context.Context, messages []int) error

	// Close releases the upstream connection at once, also in the middle of a
	// Fetch. It removes nothing.
	Close() error
}

// A Listing is the frozen content of a maildrop. It never changes, and costs
// about as much memory as the numbers in it: an entry is made when asked for.
type Listing interface {
	// Len is the number of messages.
	Len() int

	// Size is message i's size in octets as the upstream states it, each line
	// ending counted as two (RFC 1939 section 11).
	Size(i int) int64

	// AppendUIDL appends message i's unique-id to dst and returns it: 1 to 70
	// octets of 0x21 to 0x7E that no other message of this maildrop ever has
	// (RFC 1939 section 7).
	AppendUIDL(dst []byte, i int) []byte
}
