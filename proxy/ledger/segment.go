package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"postern/proxy/state"
)

// An entry is what is known of one message that a UIDL was issued for.
type entry struct {
	uidl     string
	name     string // the upstream's, at the last listing; empty if imported and never met
	identity string // with its kind; empty if the upstream has none
	size     int64
	received int64  // Unix seconds; 0 if unknown
	header   Header // if hashed
	flags    flags
	gone     int64 // the day it was found gone, since 1970; 0 while it is there

	from *segment // that it was read from; nil if new
}

type flags byte

const (
	hashed    flags = 1 << iota // header is known
	delivered                   // a client got the whole message
	removing                    // Remove was asked for it
	imported                    // from another server's map, and never met yet
	uidlIsName
	identityIsName // "objectid:" and the name
)

const (
	// segmentSize is how many entries are read and written together.
	segmentSize = 4096

	// maxOctets bounds each string of an entry: far more than any name is.
	maxOctets = 1024

	// formatVersion is the first octet of a segment.
	formatVersion = 1

	objectID = "objectid:"
)

// A segment is a run of entries, as read.
type segment struct {
	reference
	raw     []byte
	entries []entry
}

// encode writes entries as a segment.
func encode(entries []*entry) []byte {
	c := newEncoder(len(entries))
	var name, uidl, identity []byte
	for _, e := range entries {
		name, uidl, identity = append(name[:0], e.name...), append(uidl[:0], e.uidl...), append(identity[:0], e.identity...)
		c.add(e, name, uidl, identity)
	}
	return c.dst
}

// An encoder writes a segment. Names and UIDLs share beginnings with those
// before them, and dates are close, so that an entry takes about 12 octets, and
// as many again for the header.
type encoder struct {
	dst                  []byte
	name, uidl, identity []byte // of the entry before
	received, gone       int64
}

// newEncoder begins a segment of n entries.
func newEncoder(n int) *encoder {
	dst := make([]byte, 0, 16+12*n)
	return &encoder{dst: binary.AppendUvarint(append(dst, formatVersion), uint64(n))}
}

// add writes an entry, its strings apart, as scan reads it.
func (c *encoder) add(e *entry, name, uidl, identity []byte) {
	f := e.flags &^ (uidlIsName | identityIsName)
	if bytes.Equal(uidl, name) {
		f |= uidlIsName
	}
	if id, ok := bytes.CutPrefix(identity, []byte(objectID)); ok && bytes.Equal(id, name) {
		f |= identityIsName
	}
	c.dst = append(c.dst, byte(f))
	c.dst = appendShared(c.dst, c.name, name)
	if f&uidlIsName == 0 {
		c.dst = appendShared(c.dst, c.uidl, uidl)
	}
	if f&identityIsName == 0 {
		c.dst = appendShared(c.dst, c.identity, identity)
	}
	c.dst = binary.AppendUvarint(c.dst, uint64(e.size))
	c.dst = binary.AppendVarint(c.dst, e.received-c.received)
	c.dst = binary.AppendVarint(c.dst, e.gone-c.gone)
	if f&hashed != 0 {
		c.dst = append(c.dst, e.header[:]...)
	}
	c.name, c.uidl, c.identity = append(c.name[:0], name...), append(c.uidl[:0], uidl...), append(c.identity[:0], identity...)
	c.received, c.gone = e.received, e.gone
}

// appendShared writes s as what it shares with the string before it, and the rest.
func appendShared(dst, before, s []byte) []byte {
	n := 0
	for n < min(len(before), len(s)) && before[n] == s[n] {
		n++
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = binary.AppendUvarint(dst, uint64(len(s)-n))
	return append(dst, s[n:]...)
}

// decode reads what encode wrote, or tells that it is damaged.
func decode(src []byte) ([]entry, error) {
	var entries []entry
	var ends []int // of each entry's name, UIDL and identity in the arena
	arena := make([]byte, 0, 2*len(src))
	err := scan(src, func(e *entry, name, uidl, identity []byte) {
		entries = append(entries, *e)
		for _, s := range [][]byte{name, uidl, identity} {
			arena = append(arena, s...)
			ends = append(ends, len(arena))
		}
	})
	if err != nil {
		return nil, err
	}
	text, from := string(arena), 0
	for i := range entries {
		e := &entries[i]
		for k, s := range []*string{&e.name, &e.uidl, &e.identity} {
			end := ends[3*i+k]
			*s, from = text[from:end], end
		}
	}
	return entries, nil
}

// decodeUIDLs reads the UIDLs alone.
func decodeUIDLs(src []byte) (*table, error) {
	t := &table{}
	err := scan(src, func(_ *entry, _, uidl, _ []byte) { t.add(uidl) })
	return t, err
}

// scan goes through a segment. What it hands over is good until the next entry.
func scan(src []byte, do func(e *entry, name, uidl, identity []byte)) error {
	if len(src) == 0 || src[0] != formatVersion {
		return fmt.Errorf("segment of an unknown format: %w", state.ErrDamaged)
	}
	d := &decoder{src: src[1:]}
	n := d.uint()
	if n > uint64(len(d.src)) || n > 2*segmentSize {
		return fmt.Errorf("segment of %d entries: %w", n, state.ErrDamaged)
	}
	var e entry
	var name, uidl, identity []byte
	for i := range n {
		f := flags(d.octet())
		name = d.shared(name)
		if f&uidlIsName == 0 {
			uidl = d.shared(uidl)
		} else {
			uidl = append(uidl[:0], name...)
		}
		if f&identityIsName == 0 {
			identity = d.shared(identity)
		} else {
			identity = append(append(identity[:0], objectID...), name...)
		}
		e.size = int64(d.uint())
		e.received += d.int()
		e.gone += d.int()
		e.header = Header{}
		if f&hashed != 0 {
			copy(e.header[:], d.take(len(e.header)))
		}
		e.flags = f &^ (uidlIsName | identityIsName)
		if d.bad || e.size < 0 {
			return fmt.Errorf("segment breaks off at entry %d: %w", i, state.ErrDamaged)
		}
		do(&e, name, uidl, identity)
	}
	if len(d.src) > 0 {
		return fmt.Errorf("segment goes on after its end: %w", state.ErrDamaged)
	}
	return nil
}

// A decoder reads the parts of a segment. Once bad, what it returns is nothing.
type decoder struct {
	src []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.src) {
		d.bad, n = true, 0
	}
	part := d.src[:n]
	d.src = d.src[n:]
	return part
}

func (d *decoder) octet() byte {
	if one := d.take(1); len(one) == 1 {
		return one[0]
	}
	return 0
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.src)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.src = d.src[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.src)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.src = d.src[n:]
	return v
}

// shared turns the string before it into the one that is read.
func (d *decoder) shared(before []byte) []byte {
	keep, more := d.uint(), d.uint()
	if keep > uint64(len(before)) || more > maxOctets || keep+more > maxOctets {
		d.bad = true
		return before
	}
	return append(before[:keep], d.take(int(more))...)
}

// Retired UIDLs are kept as hashes: all that is asked of them is whether they
// were ever issued. A chance match costs a new message its usual form of UIDL.
type retired uint64

func encodeRetired(hashes []retired) []byte {
	dst := make([]byte, 0, 8*len(hashes))
	for _, h := range hashes {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(h))
	}
	return dst
}

func decodeRetired(src []byte) ([]retired, error) {
	if len(src)%8 != 0 {
		return nil, fmt.Errorf("retired UIDLs break off: %w", state.ErrDamaged)
	}
	hashes := make([]retired, 0, len(src)/8)
	for part := range slices.Chunk(src, 8) {
		hashes = append(hashes, retired(binary.LittleEndian.Uint64(part)))
	}
	return hashes, nil
}

// A table holds the UIDLs of a run of messages.
type table struct {
	text []byte
	ends []uint32
}

func newTable(entries []*entry) *table {
	t := &table{}
	for _, e := range entries {
		t.add([]byte(e.uidl))
	}
	return t
}

func (t *table) add(uidl []byte) {
	t.text = append(t.text, uidl...)
	t.ends = append(t.ends, uint32(len(t.text)))
}

func (t *table) at(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = t.ends[i-1]
	}
	return t.text[from:t.ends[i]]
}
