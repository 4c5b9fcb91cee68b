package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/proxy/state"
)

// A Known message is one that another server issued a UIDL for. At least one of
// the ways to know it again must be given besides: its name or identity on the
// upstream, its header, or the date when it was received.
type Known struct {
	UIDL     string
	Size     int64
	Name     string // as upstream.Identified has it; empty if not known
	Identity string // likewise
	Received time.Time
	Header   Header
	HasHeader,
	Delivered bool // to the account's client, by the other server
}

// Import adds what another server issued to an account's ledger. The next
// login binds it to the messages of the mailbox, as one does in a mailbox that
// moved; what was issued by postern meanwhile gives way to it, and is never
// issued again. UIDLs that the ledger has already are left as they are, so an
// import may be repeated. It returns how many were new.
func Import(ctx context.Context, store state.Store, account string, known []Known) (added int, err error) {
	if err := checkKnown(known); err != nil {
		return 0, err
	}
	err = change(ctx, store, account, func(b *book) error {
		had, err := b.listed(ctx)
		if err != nil {
			return err
		}
		var entries []*entry
		for _, k := range known {
			if !had[k.UIDL] {
				e := k.entry()
				entries = append(entries, e)
				b.Newest = max(b.Newest, e.received+1)
			}
		}
		added = len(entries)
		if added == 0 {
			return nil
		}
		if err := b.forgetGone(ctx, known); err != nil {
			return err
		}
		for part := range slices.Chunk(entries, segmentSize) {
			b.Live = append(b.Live, b.add(len(part), encode(part)))
		}
		b.Imported = true
		return nil
	})
	return added, err
}

// checkKnown reports all that is wrong with a map at once.
func checkKnown(known []Known) error {
	var errs []error
	seen := make(map[string]bool, len(known))
	for i, k := range known {
		switch {
		case !isUIDL(k.UIDL):
			errs = append(errs, fmt.Errorf("entry %d: %.80q is no UIDL: 1 to 70 octets from ! to ~", i+1, k.UIDL))
		case seen[k.UIDL]:
			errs = append(errs, fmt.Errorf("entry %d: UIDL %s is there twice", i+1, k.UIDL))
		case k.Size < 0 || len(k.Name) > maxOctets || len(k.Identity) > maxOctets:
			errs = append(errs, fmt.Errorf("entry %d: size, name or identity out of range", i+1))
		case k.Name == "" && k.Identity == "" && !k.HasHeader && k.Received.IsZero():
			errs = append(errs, fmt.Errorf("entry %d: UIDL %s has nothing to know its message by", i+1, k.UIDL))
		}
		seen[k.UIDL] = true
		if len(errs) == 20 {
			errs = append(errs, errors.New("and so on"))
			break
		}
	}
	return errors.Join(errs...)
}

func (k Known) entry() *entry {
	e := &entry{uidl: k.UIDL, name: k.Name, identity: k.Identity, size: k.Size, flags: imported}
	if !k.Received.IsZero() {
		e.received = k.Received.Unix()
	}
	if k.HasHeader {
		e.header, e.flags = k.Header, e.flags|hashed
	}
	if k.Delivered {
		e.flags |= delivered
	}
	return e
}

// listed returns the UIDLs of what is listed, or imported and not bound yet.
func (b *book) listed(ctx context.Context) (map[string]bool, error) {
	segments, err := b.read(ctx, b.Live)
	if err != nil {
		return nil, err
	}
	had := map[string]bool{}
	for _, s := range segments {
		for _, u := range uidls(s.entries) {
			had[u] = true
		}
	}
	return had, nil
}

// forgetGone takes imported UIDLs out of what is gone, so that no UIDL has two
// entries.
func (b *book) forgetGone(ctx context.Context, known []Known) error {
	again := make(map[string]bool, len(known))
	for _, k := range known {
		again[k.UIDL] = true
	}
	segments, err := b.read(ctx, b.Gone)
	if err != nil {
		return err
	}
	var refs []reference
	for _, s := range segments {
		var still []*entry
		for i := range s.entries {
			if e := &s.entries[i]; !again[e.uidl] {
				still = append(still, e)
			}
		}
		ref := s.reference
		if len(still) < s.Count {
			b.remove(ref)
			if len(still) == 0 {
				continue
			}
			latest := ref.Latest
			ref = b.add(len(still), encode(still))
			ref.Latest = latest
		}
		refs = append(refs, ref)
	}
	b.Gone = refs
	return nil
}
