package upstream

import (
	"context"
	"time"
)

// A Journal remembers removals beyond the session that makes them. An adapter
// begins an intent before it sends the first command that removes or moves
// anything, and ends it once it has seen what became of each message.
//
// An intent that was begun and never ended belongs to a session that was cut
// off. The adapter settles it at the account's next login, by finishing only
// what that session can be proven to have begun.
type Journal interface {
	// Begin writes the intent down so that it survives a crash of the machine,
	// and returns its id. If it cannot, nothing may be removed.
	Begin(ctx context.Context, intent Intent) (id int64, err error)

	// End strikes the intent out and records, in the same transaction, which
	// of its messages were removed and where they are kept, if anywhere.
	End(ctx context.Context, id int64, removed []Removal) error

	// Pending returns the account's intents that were begun but not ended,
	// oldest first.
	Pending(ctx context.Context, account string) ([]Intent, error)
}

// An Intent names messages that a client marked and then removed by QUIT.
type Intent struct {
	ID       int64 // given by Begin
	Account  string
	Session  string    // of the client, as in the log
	At       time.Time // given by Begin
	Policy   string    // what removing means here: "expunge", "trash", "archive", "flag"
	Mailbox  string    // the mailbox listed, in the upstream's own terms
	Validity string    // under which Names mean anything: a UIDVALIDITY; empty where names are for ever
	Names    string    // the messages in the adapter's own form, such as a UID set; opaque to everybody else
}

// A Removal is one message that was removed from a mailbox.
type Removal struct {
	Name string // the upstream's name of the message in the Intent's mailbox: a UID, a JMAP id
	UIDL string // as the client was shown it; see Recorder
	Size int64
	// Kept tells where the message can still be found, for undelete and for
	// a later purge; its zero value says that it is gone for good.
	Kept Place
}

// A Recorder is a Maildrop that writes down in a Journal what it removes. Whoever
// shows its messages under other unique-ids than its own Listing has tells it
// so, for a Removal to have the one that the client knows.
type Recorder interface {
	// Shown tells which listing the client is shown: the Maildrop's own, but
	// for the unique-ids. It is called after List, and before Remove.
	Shown(l Listing)
}

// A Place is where a message is, in its upstream's terms.
type Place struct {
	Mailbox  string
	Validity string
	Name     string
}
