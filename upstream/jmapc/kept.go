package jmapc

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"git.sr.ht/~rockorager/go-jmap"
)

const keptVersion = 1

// A kept is a listing as an earlier session saw it. What of it still holds is
// asked for in one request: the messages that changed since, and the newest.
// Whatever does not fit together is in doubt, and the inbox is listed anew.
type kept struct {
	keptHeader
	listing *listing
}

type keptHeader struct {
	Version  int
	Account  jmap.ID
	Inbox    jmap.ID
	State    string // Email state; nothing changed before it that is not in the listing
	Total    uint64 // messages in the inbox, as the server counted them
	Messages int
}

// keptKey names the listing in the cache. What is hidden is in no listing.
func (d *maildrop) keptKey() string {
	if d.way() == byHiding {
		return "jmap hiding"
	}
	return "jmap"
}

// loadKept returns what was kept of this account, if the server can be asked
// what changed since.
func (d *maildrop) loadKept(ctx context.Context) *kept {
	if d.u.o.Listings == nil || d.session.limits.MaxCallsInRequest < 6 {
		return nil
	}
	text := d.u.o.Listings.Load(ctx, d.account.User, d.keptKey())
	k, err := parseKept(text)
	if err != nil || k.Account != d.session.account || k.Messages > d.u.o.MaxMessages {
		return nil
	}
	return k
}

// keepListing saves the listing, unless one of its dates or its state is unknown.
func (d *maildrop) keepListing(ctx context.Context) {
	l := d.listing
	if d.u.o.Listings == nil || l.state == "" || len(l.received) != l.Len() {
		return
	}
	k := &kept{keptHeader{keptVersion, d.session.account, d.inbox, l.state, d.messages, l.Len()}, l}
	d.u.o.Listings.Save(ctx, d.account.User, d.keptKey(), k.format())
}

// format writes a header, and then each message: its names and their lengths,
// its size and how much later than the one before it was received.
func (k *kept) format() []byte {
	l := k.listing
	text, _ := json.Marshal(k.keptHeader) // strings and numbers
	text = append(text, '\n')
	before := int64(0)
	for i := range l.Len() {
		for _, name := range [][]byte{l.name(2 * i), l.name(2*i + 1)} {
			text = binary.AppendUvarint(text, uint64(len(name)))
			text = append(text, name...)
		}
		text = binary.AppendUvarint(text, uint64(l.sizes[i]))
		text = binary.AppendVarint(text, l.received[i]-before)
		before = l.received[i]
	}
	return text
}

// parseKept reads what format wrote.
func parseKept(text []byte) (*kept, error) {
	header, rest, found := bytes.Cut(text, []byte("\n"))
	k := &kept{listing: new(listing)}
	if err := json.Unmarshal(header, &k.keptHeader); err != nil || !found || k.Version != keptVersion || k.Inbox == "" || k.State == "" {
		return nil, fmt.Errorf("no listing of this version: %w", err)
	}
	r := &fields{rest: rest}
	k.listing.state = k.State
	at := int64(0)
	for range k.Messages {
		id, blob, size := r.text(), r.text(), r.number()
		at += r.signed()
		if r.broken {
			return nil, fmt.Errorf("a listing of %d messages ends early", k.Messages)
		}
		if err := addTo(k.listing, id, blob, int64(size)); err != nil {
			return nil, err
		}
		k.listing.received = append(k.listing.received, at)
	}
	if len(r.rest) > 0 {
		return nil, fmt.Errorf("%d octets after the listing", len(r.rest))
	}
	return k, nil
}

// fields reads numbers and texts, one after the other.
type fields struct {
	rest   []byte
	broken bool
}

func (f *fields) advance(n int) {
	if n <= 0 || n > len(f.rest) {
		f.broken, f.rest = true, nil
		return
	}
	f.rest = f.rest[n:]
}

func (f *fields) number() uint64 {
	v, n := binary.Uvarint(f.rest)
	f.advance(n)
	return v
}

func (f *fields) signed() int64 {
	v, n := binary.Varint(f.rest)
	f.advance(n)
	return v
}

func (f *fields) text() []byte {
	n := f.number()
	if n == 0 || n > uint64(len(f.rest)) {
		f.broken, f.rest = true, nil
		return nil
	}
	text := f.rest[:n]
	f.advance(int(n))
	return text
}
