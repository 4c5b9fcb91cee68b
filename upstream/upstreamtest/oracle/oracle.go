// Package oracle is a mail store in memory that knows of every message it ever
// held what became of it, and by whose command. It is spoken to by IMAP
// ([Server]) or JMAP ([JMAP]), breaks wherever a test tells it to, and at last
// holds what was done against what POP3 clients asked for ([Judge]).
//
// Every message has a size of its own, so that a scan listing (LIST) says which
// messages a client was shown, whatever the gateway thinks of their names.
//
// RFC 3501 (IMAP), 4315 (UIDPLUS), 4731 (ESEARCH), 6154 (SPECIAL-USE), 6851 (MOVE).
package oracle

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// A Message never changes; it may be in several mailboxes.
type Message struct {
	ID  int
	Raw string
}

// Sizes: smallest is that of message 0, and every large-th message is so much
// longer that it takes several writes on its way.
const (
	smallest = 320
	large    = 7
	longer   = 1 << 16
)

func sizeOf(id int) int {
	if id%large == large-1 {
		return smallest + id + longer
	}
	return smallest + id
}

// IDOf tells which message has that size.
func IDOf(size int) int {
	if size > longer {
		size -= longer
	}
	return size - smallest
}

// RawOf returns message id.
func RawOf(id int) string { return newMessage(id).Raw }

// newMessage makes message id.
func newMessage(id int) *Message {
	var b strings.Builder
	fmt.Fprintf(&b, "Message-ID: <%d@oracle.example>\r\nDate: Mon, 02 Nov 2026 15:04:05 +0000\r\n"+
		"From: ann@example.org\r\nTo: bob@example.org\r\nSubject: message %d\r\n\r\n", id, id)
	line := "." + strings.Repeat(string(rune('a'+id%26)), 60) + "\r\n"
	for sizeOf(id)-b.Len() > 80 {
		b.WriteString(line)
	}
	b.WriteString(strings.Repeat("x", sizeOf(id)-b.Len()-2) + "\r\n")
	return &Message{id, b.String()}
}

// A Kind is a kind of Event.
type Kind string

// The kinds of events. A message that is moved leaves one mailbox and arrives
// in another.
const (
	Arrived    Kind = "arrived"
	Left       Kind = "left"
	Flagged    Kind = "flagged \\Deleted" // or hidden, by JMAP
	Unflagged  Kind = "unflagged"
	Renumbered Kind = "renumbered" // the mailbox, of all messages
	Forbidden  Kind = "forbidden"  // a command that must never be sent
	Refused    Kind = "credentials refused"
)

// An Event is what became of a message, and why.
type Event struct {
	At       int64 // of the Record's clock
	Time     time.Time
	Kind     Kind
	Account  string
	Box      string
	Message  int
	Validity uint32 // of the mailbox, before Left and after Renumbered
	UID      uint32
	Conn     int    // the connection that did it; 0 is another client
	Command  string // that did it
	Others   []string
	Excused  bool // of Left: by a plain EXPUNGE, flagged after the last look at what is flagged
}

func (e Event) String() string {
	who := fmt.Sprintf("connection %d", e.Conn)
	if e.Conn == 0 {
		who = "another client"
	}
	return fmt.Sprintf("%5d %s: message %d in %s %s (%d.%d) by %s: %s", e.At, e.Account, e.Message, e.Box, e.Kind, e.Validity, e.UID, who, e.Command)
}

// A Record is everything that happened, in order. Its clock counts events and
// the questions for the time.
type Record struct {
	mu     sync.Mutex
	clock  int64
	events []Event
}

// Now returns a time that no event and no other call has.
func (r *Record) Now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	return r.clock
}

func (r *Record) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	e.At, e.Time = r.clock, time.Now()
	r.events = append(r.events, e)
}

// Events returns what happened so far.
func (r *Record) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}
