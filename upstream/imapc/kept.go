package imapc

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"

	"postern/upstream"
)

// A listing is kept as a version, UIDVALIDITY, the kind of identities, the number
// of messages, then for each the step from the UID before, the size and the
// identity with its length; all numbers as varints; at last a SHA-256 sum of
// this and of whose it is. Anything but that is no listing.
const keptVersion = 1

// kept loads what was kept of the account's mailbox, or nil.
func (u *Upstream) kept(ctx context.Context, account string) *listing {
	if u.o.Listings == nil {
		return nil
	}
	return decodeListing(u.o.Listings.Load(ctx, account, u.listingKey()), u.listingSalt(account), u.o.MaxMessages)
}

func (u *Upstream) listingKey() string { return "imap listing " + u.o.Mailbox }

func (u *Upstream) listingSalt(account string) string {
	return u.o.Address + "\x00" + account + "\x00" + u.o.Mailbox
}

// save keeps the listing of the session for the next one, without what the
// session has removed.
func (d *maildrop) save() {
	l := d.toKeep
	if d.u.o.Listings == nil || !l.unsaved || l.uidValidity == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d.u.o.Listings.Save(ctx, d.account.User, d.u.listingKey(), encodeListing(l, d.u.listingSalt(d.account.User)))
}

// forget takes out of the listing that is to be kept what was removed. What was
// only flagged is still there, but the next session will find that out. Of a
// listing that was disproved nothing is kept.
func (d *maildrop) forget(removed []upstream.Removal, disproved bool) {
	d.current().heard = -1 // whatever the server tells of that
	if disproved {
		d.toKeep = d.toKeep.none()
		d.toKeep.unsaved = true
		return
	}
	if len(removed) == 0 || d.u.o.Policy.Delete == upstream.DeleteFlag {
		return
	}
	gone := make(map[string]bool, len(removed))
	for _, r := range removed {
		gone[r.Name] = true
	}
	all := d.toKeep
	left := all.none()
	for i := range all.Len() {
		if !gone[strconv.FormatUint(uint64(all.uid(i)), 10)] {
			left.copy(all, i)
		}
	}
	left.unsaved = true
	d.toKeep = left
}

// none is the listing without its messages.
func (l *listing) none() *listing {
	return &listing{uidValidity: l.uidValidity, uidl: l.uidl, reused: l.reused, identities: identities{kind: l.identities.kind}}
}

func encodeListing(l *listing, salt string) []byte {
	out := make([]byte, 0, 64+6*l.Len()+len(l.identities.text)+len(l.identities.ends))
	out = append(out, keptVersion, max(l.identities.kind, noIdentity))
	out = binary.AppendUvarint(out, uint64(l.uidValidity))
	out = binary.AppendUvarint(out, uint64(l.Len()))
	before := uint32(0)
	for i := range l.Len() {
		uid := l.uid(i)
		out = binary.AppendUvarint(out, uint64(uid-before))
		out = binary.AppendUvarint(out, uint64(l.Size(i)))
		before = uid
		if len(l.identities.ends) > 0 {
			id := l.identities.at(i)
			out = append(append(out, byte(len(id))), id...)
		}
	}
	sum := keptSum(out, salt)
	return append(out, sum[:]...)
}

func keptSum(data []byte, salt string) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(data)
	h.Write([]byte(salt))
	h.Sum(sum[:0])
	return sum
}

// decodeListing returns nil if data is not whole, not this mailbox's, or not a
// listing of at most limit messages.
func decodeListing(data []byte, salt string, limit int) *listing {
	if len(data) < sha256.Size+2 || data[0] != keptVersion {
		return nil
	}
	text := data[:len(data)-sha256.Size]
	if sum := keptSum(text, salt); string(sum[:]) != string(data[len(text):]) {
		return nil
	}
	r := keptReader{rest: text[2:]}
	l := &listing{identities: identities{kind: text[1]}}
	l.uidValidity = uint32(r.number(1<<32 - 1))
	n := r.number(uint64(limit))
	if r.bad || n > uint64(len(r.rest)/2) {
		return nil
	}
	l.entries = make([]uint64, 0, n)
	for uid := uint64(0); n > 0 && !r.bad; n-- {
		step := r.number(1<<32 - 1 - uid)
		r.bad = r.bad || step == 0
		uid += step
		l.add(uint32(uid), int64(r.number(maxSize)))
		if l.identities.kind != noIdentity {
			l.identities.add(r.text())
		}
	}
	if r.bad || len(r.rest) > 0 {
		return nil
	}
	return l
}

// A keptReader reads the parts of a kept listing until something is wrong.
type keptReader struct {
	rest []byte
	bad  bool
}

func (r *keptReader) number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > limit {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *keptReader) text() []byte {
	if len(r.rest) == 0 || int(r.rest[0]) >= len(r.rest) {
		r.bad = true
		return nil
	}
	n := 1 + int(r.rest[0])
	text := r.rest[1:n]
	r.rest = r.rest[n:]
	return text
}
