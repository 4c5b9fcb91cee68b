package imapc

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"postern/upstream"
)

// A listing holds the UID and the size of every message in 8 octets: the UID
// above the size, oldest first. It is an upstream.Listing.
type listing struct {
	uidValidity uint32
	uidl        UIDL
	entries     []uint64
	large       map[uint32]int64 // by UID, the sizes that are marked as large
	identities  identities       // in the order of entries

	reused  bool // made of what was kept of an earlier session
	unsaved bool // not what is kept now
}

const maxSize = 1 << 40 // octets; so many messages of this size can be added up

const large = math.MaxUint32 // stands for a size of 4 GiB and more

func (l *listing) add(uid uint32, size int64) {
	low := uint64(large)
	if size < large {
		low = uint64(size)
	} else {
		if l.large == nil {
			l.large = make(map[uint32]int64)
		}
		l.large[uid] = size
	}
	l.entries = append(l.entries, uint64(uid)<<32|low)
}

func (l *listing) uid(i int) uint32 { return uint32(l.entries[i] >> 32) }

// sort brings the messages into the order of their UIDs, and tells of the first
// UID that is there twice.
func (l *listing) sort() error {
	if !slices.IsSorted(l.entries) {
		l.identities.sort(l.entries)
		slices.Sort(l.entries) // by UID, as that is above
	}
	for i := 1; i < len(l.entries); i++ {
		if l.uid(i) == l.uid(i-1) {
			return fmt.Errorf("two messages with UID %d: %w", l.uid(i), errProtocol)
		}
	}
	return nil
}

// Len implements upstream.Listing.
func (l *listing) Len() int { return len(l.entries) }

// Size implements upstream.Listing.
func (l *listing) Size(i int) int64 {
	if size := uint32(l.entries[i]); size != large {
		return int64(size)
	}
	return l.large[l.uid(i)]
}

// AppendUIDL implements upstream.Listing.
func (l *listing) AppendUIDL(dst []byte, i int) []byte {
	return l.uidl.append(dst, l.uidValidity, l.uid(i))
}

// A sighting is what the server shows of a message.
type sighting struct {
	size     int64
	identity string // with its kind; empty if it has none
	flagged  bool   // \Deleted
}

// sight asks which messages of a set are there, and what they are.
func (c *conn) sight(ctx context.Context, set string) (map[uint32]sighting, error) {
	found := make(map[uint32]sighting)
	q := c.newSighting(set, found)
	if err := c.askAll(ctx, q); err != nil {
		return nil, c.lost("look at messages", err)
	}
	if q.status.kind != "OK" {
		return nil, refused("look at messages", q.status, upstream.ErrUnavailable)
	}
	return found, nil
}

// newSighting makes the command that asks for that.
func (c *conn) newSighting(set string, found map[uint32]sighting) *query {
	kind := c.identityKind()
	return newQuery("UID FETCH "+set+" ("+listItems(kind)+" FLAGS)", func(line []byte) error {
		var s sighting
		uid, size, err := parseItems(line, func(name, value []byte) {
			if id := identityOf(kind, name, value); len(id) > 0 {
				s.identity = label(kind) + string(id)
			}
			s.flagged = s.flagged || isFlagged(name, value)
		})
		if s.size = size; uid != 0 && size >= 0 {
			found[uid] = s
		}
		return err
	})
}

// isFlagged tells whether a FETCH item says that the message is flagged as
// deleted: FLAGS (\Seen \Deleted).
func isFlagged(name, value []byte) bool {
	const item, flag = "FLAGS", `\DELETED`
	return len(name) == len(item) && hasPrefixFold(name, item) &&
		slices.ContainsFunc(fieldsOf(bytes.Trim(value, "()")), func(f []byte) bool { return len(f) == len(flag) && hasPrefixFold(f, flag) })
}

// numbered splits "* 12 EXISTS" and its like.
func numbered(line []byte) (n uint32, rest []byte, ok bool) {
	if len(line) < 2 || line[0] != '*' || line[1] != ' ' {
		return 0, nil, false
	}
	line = bytes.TrimLeft(line[2:], " ") // DavMail sends two spaces
	v, digits := number(line)
	if digits == 0 || v > math.MaxUint32 || digits == len(line) || line[digits] != ' ' {
		return 0, nil, false
	}
	return uint32(v), bytes.TrimLeft(line[digits:], " "), true
}

// number reads the digits at the beginning of text. A number that does not fit
// comes out as the highest.
func number(text []byte) (v uint64, digits int) {
	for digits < len(text) && '0' <= text[digits] && text[digits] <= '9' {
		if v > (math.MaxUint64-9)/10 {
			v = math.MaxUint64
		} else {
			v = v*10 + uint64(text[digits]-'0')
		}
		digits++
	}
	return v, digits
}

// parseItems reads the UID and RFC822.SIZE of a FETCH response, in any order
// and among whatever else the server puts there, and hands every other item and
// its value to other. uid is 0 and size is -1 where the response does not tell,
// as in news of flags.
func parseItems(line []byte, other func(name, value []byte)) (uid uint32, size int64, err error) {
	_, rest, ok := numbered(line)
	if !ok || !hasPrefixFold(rest, "FETCH ") {
		return 0, -1, nil
	}
	size = -1
	rest = bytes.TrimLeft(rest[len("FETCH "):], " ")
	if len(rest) == 0 || rest[0] != '(' {
		return 0, -1, malformed(line)
	}
	for rest = trimSpace(rest[1:]); len(rest) > 0 && rest[0] != ')'; rest = trimSpace(rest) {
		name := itemName(rest)
		value := trimSpace(rest[len(name):])
		v, digits := number(value)
		switch {
		case len(name) == len("UID") && hasPrefixFold(name, "UID"):
			if digits == 0 || v == 0 || v > math.MaxUint32 {
				return 0, -1, malformed(line)
			}
			uid = uint32(v)
		case len(name) == len("RFC822.SIZE") && hasPrefixFold(name, "RFC822.SIZE"):
			if digits == 0 || v > maxSize {
				return 0, -1, malformed(line)
			}
			size = int64(v)
		default:
			if digits = valueLen(value); digits > 0 {
				other(name, value[:digits])
			}
		}
		if digits <= 0 || len(name) == 0 {
			return 0, -1, malformed(line)
		}
		rest = value[digits:]
		if len(rest) > 0 && rest[0] != ' ' && rest[0] != ')' {
			return 0, -1, malformed(line)
		}
	}
	if len(rest) == 0 {
		return 0, -1, malformed(line)
	}
	return uid, size, nil
}

func malformed(line []byte) error {
	return fmt.Errorf("response %s: %w", printable(line), errProtocol)
}

func trimSpace(text []byte) []byte {
	for len(text) > 0 && text[0] == ' ' {
		text = text[1:]
	}
	return text
}

// itemName is the name of a FETCH item with its section: BODY[HEADER.FIELDS (A
// B)]<0> is one.
func itemName(text []byte) []byte {
	section := false
	for i, b := range text {
		switch {
		case b == '[':
			section = true
		case b == ']':
			section = false
		case !section && (b == ' ' || b == '(' || b == ')'):
			return text[:i]
		}
	}
	return text
}

// valueLen is the length of the atom, quoted string or list that text begins
// with, 0 if it does not end.
func valueLen(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '(':
			depth++
		case depth == 0 && (b == ' ' || b == ')'):
			return i
		case b == ')':
			depth--
		}
	}
	return 0
}
