package imapc

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// The identities that a server may have for its messages, beside their UIDs.
const (
	noIdentity    = ' '
	objectID      = 'o' // RFC 8474 EMAILID
	gmailID       = 'g' // X-GM-MSGID
	maxIdentity   = 255 // octets of an EMAILID, RFC 8474 section 4
	objectIDItem  = "EMAILID"
	gmailItem     = "X-GM-MSGID"
	capObjectID   = imap.Cap("OBJECTID")
	capGmail      = imap.Cap("X-GM-EXT-1")
	objectIDLabel = "objectid:"
	gmailLabel    = "gmail:"
)

// identityKind is the kind that the server offers.
func (c *conn) identityKind() byte {
	switch {
	case c.caps.Has(capObjectID):
		return objectID
	case c.caps.Has(capGmail):
		return gmailID
	}
	return noIdentity
}

// listItems is what a listing asks of each message. INTERNALDATE is not among
// it: it would double the octets, and has Dovecot open the file of every message
// that it has not cached the date of.
func listItems(kind byte) string {
	switch kind {
	case objectID:
		return "UID RFC822.SIZE " + objectIDItem
	case gmailID:
		return "UID RFC822.SIZE " + gmailItem
	}
	return "UID RFC822.SIZE"
}

// identities are those of all messages of a listing, in one piece of memory.
type identities struct {
	kind byte     // 0 counts as noIdentity
	text []byte   // one behind the other
	ends []uint32 // of each in text; empty without identities
}

// add adds the next message's, which may be empty.
func (d *identities) add(text []byte) {
	if d.kind == noIdentity || d.kind == 0 {
		return
	}
	if len(text) > maxIdentity || len(d.text) > 1<<31 {
		text = nil
	}
	d.text = append(d.text, text...)
	d.ends = append(d.ends, uint32(len(d.text)))
}

func (d *identities) at(i int) []byte {
	if i >= len(d.ends) {
		return nil
	}
	from := uint32(0)
	if i > 0 {
		from = d.ends[i-1]
	}
	return d.text[from:d.ends[i]]
}

// sort brings the identities into the order in which entries will be.
func (d *identities) sort(entries []uint64) {
	if len(d.ends) == 0 {
		return
	}
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case entries[a] < entries[b]:
			return -1
		case entries[a] > entries[b]:
			return 1
		}
		return 0
	})
	sorted := identities{kind: d.kind, text: make([]byte, 0, len(d.text)), ends: make([]uint32, 0, len(d.ends))}
	for _, i := range order {
		sorted.add(d.at(i))
	}
	*d = sorted
}

// identityOf takes an identity out of a FETCH item, nil if it is none: EMAILID
// (M123), X-GM-MSGID 123.
func identityOf(kind byte, name, value []byte) []byte {
	switch {
	case kind == objectID && len(name) == len(objectIDItem) && hasPrefixFold(name, objectIDItem):
		if len(value) < 2 || value[0] != '(' {
			return nil // NIL
		}
		value = value[1 : len(value)-1]
	case kind == gmailID && len(name) == len(gmailItem) && hasPrefixFold(name, gmailItem):
	default:
		return nil
	}
	for _, b := range value {
		if b <= ' ' || b > '~' || b == '(' || b == ')' {
			return nil
		}
	}
	return value
}

// label names a kind in an identity; see upstream.Identified.
func label(kind byte) string {
	if kind == gmailID {
		return gmailLabel
	}
	return objectIDLabel
}

// contradict tells whether two identities, of which either may be empty, are of
// one kind and not the same.
func contradict(a, b string) bool {
	kindA, _, _ := strings.Cut(a, ":")
	kindB, _, _ := strings.Cut(b, ":")
	return a != "" && b != "" && kindA == kindB && a != b
}

// AppendName implements upstream.Identified.
func (l *listing) AppendName(dst []byte, i int) []byte {
	dst = strconv.AppendUint(dst, uint64(l.uidValidity), 10)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, uint64(l.uid(i)), 10)
}

// AppendIdentity implements upstream.Identified.
func (l *listing) AppendIdentity(dst []byte, i int) []byte {
	text := l.identities.at(i)
	if len(text) == 0 {
		return dst
	}
	return append(append(dst, label(l.identities.kind)...), text...)
}

// Received implements upstream.Identified: it is not asked, see listItems.
func (l *listing) Received(int) time.Time { return time.Time{} }
