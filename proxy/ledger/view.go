package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strings"

	"postern/upstream"
)

// A view is an adapter's listing with what it tells of its messages.
type view struct {
	upstream.Listing
	id upstream.Identified // nil if it tells nothing
}

func newView(l upstream.Listing) view {
	id, _ := l.(upstream.Identified)
	return view{l, id}
}

// validity is what the names stand under; see upstream.Identified. It is empty
// where they stand alone, or there are none.
func (v view) validity() string {
	if v.Len() == 0 {
		return ""
	}
	validity, _, ok := strings.Cut(v.name(0), ".")
	if !ok {
		return ""
	}
	return validity
}

// appendName: a listing that has no names has UIDLs, which are as lasting.
func (v view) appendName(dst []byte, i int) []byte {
	if v.id == nil {
		return v.AppendUIDL(dst, i)
	}
	return v.id.AppendName(dst, i)
}

func (v view) name(i int) string    { return string(v.appendName(nil, i)) }
func (v view) natural(i int) string { return string(v.AppendUIDL(nil, i)) }

func (v view) identity(i int) string { return string(v.appendIdentity(nil, i)) }

func (v view) appendIdentity(dst []byte, i int) []byte {
	if v.id == nil {
		return dst
	}
	return v.id.AppendIdentity(dst, i)
}

// received is in Unix seconds, 0 if the upstream did not say.
func (v view) received(i int) int64 {
	if v.id == nil {
		return 0
	}
	if t := v.id.Received(i); !t.IsZero() {
		return t.Unix()
	}
	return 0
}

// digest identifies what the listing says of n messages from i on: a segment
// with this digest needs no further look.
func (v view) digest(i, n int) []byte {
	d := newDigester()
	var name, uidl, identity []byte
	for k := i; k < i+n; k++ {
		name, uidl, identity = v.appendName(name[:0], k), v.AppendUIDL(uidl[:0], k), v.appendIdentity(identity[:0], k)
		d.add(name, uidl, identity, v.Size(k), v.received(k))
	}
	return d.sum()
}

// A digester makes a digest of one message after the other.
type digester struct {
	hash   hash.Hash
	buffer []byte
}

func newDigester() *digester { return &digester{hash: sha256.New()} }

// add adds what is said of a message. An identity stands with its name, unless
// it is that: no name has a space.
func (d *digester) add(name, uidl, identity []byte, size, received int64) {
	if id, ok := bytes.CutPrefix(identity, []byte(objectID)); ok && bytes.Equal(id, name) {
		identity = nil
	}
	if len(identity) > 0 {
		name = append(append(name, ' '), identity...)
	}
	d.buffer = append(binary.AppendUvarint(d.buffer, uint64(len(name))), name...)
	d.buffer = append(binary.AppendUvarint(d.buffer, uint64(len(uidl))), uidl...)
	d.buffer = binary.AppendUvarint(d.buffer, uint64(size))
	d.buffer = binary.AppendVarint(d.buffer, received)
	if len(d.buffer) > 4096 {
		d.hash.Write(d.buffer)
		d.buffer = d.buffer[:0]
	}
}

func (d *digester) sum() []byte {
	d.hash.Write(d.buffer)
	return d.hash.Sum(nil)[:16]
}

// matches tells whether messages from i on are those of the segment, with
// nothing new to be learned about them.
func (v view) matches(r reference, i int) bool {
	if i+r.Count > v.Len() || len(r.Digest) == 0 || r.Removing {
		return false
	}
	if r.Count > 0 && v.id != nil {
		if !r.Known && v.identity(i) != "" || !r.Dated && v.received(i) != 0 {
			return false
		}
	}
	return bytes.Equal(r.Digest, v.digest(i, r.Count))
}

// A listing shows UIDLs as the ledger has them.
type listing struct {
	upstream.Listing
	pins []pin // in order; what lies outside of them shows its natural UIDL
}

// A pin is a run of messages from at on with UIDLs of their own.
type pin struct {
	at    int
	uidls *table
}

// AppendUIDL implements upstream.Listing.
func (l *listing) AppendUIDL(dst []byte, i int) []byte {
	low, high := 0, len(l.pins)
	for low < high { // the last pin that begins at or before i
		if middle := (low + high) / 2; l.pins[middle].at <= i {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low > 0 {
		if p := l.pins[low-1]; i-p.at < len(p.uidls.ends) {
			return append(dst, p.uidls.at(i-p.at)...)
		}
	}
	return l.Listing.AppendUIDL(dst, i)
}
