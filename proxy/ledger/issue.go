package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// maxUIDL is how long a UIDL may be (RFC 1939 section 7).
const maxUIDL = 70

// isUIDL tells whether a client may be shown s as a UIDL.
func isUIDL[text string | []byte](s text) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= maxUIDL
}

func retire(uidl string) retired {
	h := sha256.Sum256([]byte(uidl))
	return retired(binary.LittleEndian.Uint64(h[:]))
}

// issue gives each open message a UIDL that no message of the account ever
// had: the upstream's own, or one made of it where that was issued before or
// appears twice.
func (b *binding) issue() (map[int]string, error) {
	if len(b.open) == 0 {
		return nil, nil
	}
	taken := make(map[string]bool, len(b.open))
	hashes := make(map[retired]string, len(b.open))
	for _, i := range b.open {
		u := b.view.natural(i)
		taken[u] = false
		hashes[retire(u)] = u
	}
	if err := b.everIssued(func(uidl []byte) {
		if _, ok := taken[string(uidl)]; ok {
			taken[string(uidl)] = true
		}
	}, func(h retired) {
		if u, ok := hashes[h]; ok {
			taken[u] = true
		}
	}); err != nil {
		return nil, err
	}
	r := renamer{binding: b, wanted: taken, next: map[string]int{}}
	issued := make(map[int]string, len(b.open))
	for _, i := range b.open {
		u := b.view.natural(i)
		if taken[u] || !isUIDL(u) || b.book.Forgot && b.book.Epoch > 0 {
			other, err := r.rename(u)
			if err != nil {
				return nil, err
			}
			issued[i] = other
			continue
		}
		taken[u] = true
		issued[i] = u
	}
	return issued, nil
}

// everIssued tells each UIDL that was ever issued, in full or as a hash.
func (b *binding) everIssued(full func([]byte), hash func(retired)) error {
	var scratch []byte
	for _, r := range b.kept {
		for i := range r.Count {
			if r.uidls != nil {
				full(r.uidls.at(i))
				continue
			}
			scratch = b.view.AppendUIDL(scratch[:0], r.at+i)
			full(scratch)
		}
	}
	for _, segments := range [][]*segment{b.loaded, b.gone} {
		for _, s := range segments {
			for i := range s.entries {
				scratch = append(scratch[:0], s.entries[i].uidl...)
				full(scratch)
			}
		}
	}
	blobs, err := b.book.blobs(b.ctx, b.book.Retired)
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		hashes, err := decodeRetired(blob)
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		for _, h := range hashes {
			hash(h)
		}
	}
	return nil
}

// A renamer makes UIDLs of others. The same listing and ledger give the same.
type renamer struct {
	*binding
	wanted map[string]bool      // what other messages may be given unchanged
	issued map[retired]struct{} // nil until it is needed
	next   map[string]int       // number to try for a UIDL
}

func (r *renamer) rename(u string) (string, error) {
	if r.issued == nil {
		r.issued = map[retired]struct{}{}
		add := func(h retired) { r.issued[h] = struct{}{} }
		if err := r.everIssued(func(uidl []byte) { add(retire(string(uidl))) }, add); err != nil {
			return "", err
		}
	}
	for n := max(2, r.next[u]); ; n++ {
		other := r.form(u, n)
		h := retire(other)
		if _, ok := r.issued[h]; ok {
			continue
		}
		if _, ok := r.wanted[other]; ok {
			continue
		}
		r.issued[h] = struct{}{}
		r.next[u] = n + 1
		return other, nil
	}
}

// form is u with a number, as Dovecot's pop3_uidl_duplicates=rename has it, or
// a hash of u where that makes no UIDL or may have been issued and forgotten.
func (r *renamer) form(u string, n int) string {
	if other := fmt.Sprintf("%s-%d", u, n); isUIDL(other) && !r.book.Forgot {
		return other
	}
	h := sha256.Sum256([]byte(u))
	return fmt.Sprintf("%s.%d-%d", hex.EncodeToString(h[:16]), r.book.Epoch, n)
}
