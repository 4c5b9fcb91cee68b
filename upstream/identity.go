package upstream

import "time"

// An Identified listing also tells what its messages are, apart from what they
// are called today. A Listing may implement it; adapters for stores that keep
// such things do.
type Identified interface {
	Listing

	// AppendName appends the upstream's own name for message i, which nothing
	// but a change of the mailbox's validity can give to another message: for
	// IMAP UIDVALIDITY and UID with a dot between them, for JMAP the Email id,
	// which has no dot and no validity.
	AppendName(dst []byte, i int) []byte

	// AppendIdentity appends an identity of message i that the upstream keeps
	// when the message is renamed, copied to a rebuilt mailbox or reached by
	// another protocol, with its kind before a colon: "objectid:" (RFC 8474
	// EMAILID, JMAP Email id) or "gmail:" (X-GM-MSGID). It appends nothing
	// where the upstream has none.
	AppendIdentity(dst []byte, i int) []byte

	// Received is when the upstream took message i in (IMAP INTERNALDATE, JMAP
	// receivedAt), to the second; the zero time where that was not asked.
	Received(i int) time.Time
}
