package ledger

import (
	"bytes"
	"fmt"
	"slices"
)

const (
	// keepGone is how many days an entry is kept in full after its message was
	// found gone, and maxGone how many of them an account may have.
	keepGone = 30
	maxGone  = 32 * segmentSize

	// lately is for how many days a message that is gone still counts as known
	// to the churn breaker.
	lately = 7

	// maxRetired bounds the segments of UIDLs of which only a hash is kept.
	maxRetired = 16

	// smallSegment is below what size segments are merged when they change.
	smallSegment = segmentSize / 4
)

// churn counts what a login would look like to its client.
func (b *binding) churn() (known, gone, fresh int) {
	known, gone = b.known(), len(b.left)
	for _, s := range b.gone {
		for i := range s.entries {
			if e := &s.entries[i]; b.today()-e.gone <= lately {
				known++
				if !b.back[e] {
					gone++
				}
			}
		}
	}
	for _, i := range b.open {
		if !b.sameNames || b.byName == 0 || b.book.Newest == 0 || b.view.received(i) <= b.book.Newest {
			fresh++
		}
	}
	return known, gone, fresh
}

// trips tells whether these numbers trip the breaker.
func (c Churn) trips(known, gone, fresh int) bool {
	return c.Known >= 0 && known >= c.Known && 100*gone > c.GonePercent*known && fresh > 0 && 100*fresh >= c.NewPercent*gone
}

func (b *binding) today() int64 { return b.drop.opener.options.Now().Unix() / (24 * 60 * 60) }

// settle writes into the book what the listing shows from now on, and returns
// it. derivable tells whether the next login would find the same without that.
func (b *binding) settle() (l *listing, derivable bool, err error) {
	if b.renamed || b.rebound() > 0 {
		b.book.Epoch++
	}
	issued, err := b.issue()
	if err != nil {
		return nil, false, err
	}
	derivable = true
	entries := make([]*entry, b.view.Len())
	for i, e := range b.bound {
		if e != nil {
			entries[i] = b.renewed(e, i)
			derivable = derivable && e.name == entries[i].name
		}
	}
	for i, u := range issued {
		entries[i] = b.renewed(&entry{uidl: u}, i)
		derivable = derivable && u == b.view.natural(i)
	}
	l = &listing{Listing: b.view.Listing}
	if err := b.settleLive(l, entries); err != nil {
		return nil, false, err
	}
	if err := b.settleGone(); err != nil {
		return nil, false, err
	}
	b.book.noteValidity(b.view)
	b.book.remove(b.book.Learned...)
	b.book.Learned, b.book.LearnedFrom = nil, ""
	b.book.Origin, b.book.Accept, b.book.Imported = b.drop.opener.options.Origin, false, false
	return l, derivable, nil
}

// renewed is an entry as the listing has it today.
func (b *binding) renewed(e *entry, i int) *entry {
	n := *e
	n.from = e.from
	n.name, n.size, n.gone = b.view.name(i), b.view.Size(i), 0
	n.flags &^= removing | imported
	if identity := b.view.identity(i); identity != "" || !b.sameNames {
		n.identity = identity
	}
	if received := b.view.received(i); received != 0 || !b.sameNames {
		n.received = received
	}
	if h, ok := b.headers[i]; ok {
		n.header, n.flags = h, n.flags|hashed
	}
	b.book.Newest = max(b.book.Newest, n.received)
	return &n
}

// settleLive writes the segments of what is listed. entries are those of the
// messages that are in no kept run.
func (b *binding) settleLive(l *listing, entries []*entry) error {
	var live []reference
	reused := map[int64]bool{}
	at := 0
	for k := 0; at < b.view.Len() || k < len(b.kept); {
		if k < len(b.kept) && b.kept[k].at == at {
			r := b.kept[k]
			k++
			next := b.view.Len()
			if k < len(b.kept) {
				next = b.kept[k].at
			}
			if more := next - at - r.Count; more == 0 || r.Count+more > segmentSize && r.Count >= smallSegment {
				live = append(live, r.reference)
				l.pin(at, r.uidls)
				at += r.Count
				continue
			}
			if err := b.unkeep(r, entries); err != nil {
				return err
			}
		}
		end := b.view.Len()
		if k < len(b.kept) {
			end = b.kept[k].at
		}
		for at < end {
			n := cut(entries[at:end])
			ref := b.put(at, entries[at:at+n], reused)
			live = append(live, ref)
			if !ref.Natural {
				l.pin(at, newTable(entries[at:at+n]))
			}
			at += n
		}
	}
	for _, s := range b.loaded {
		if !reused[s.ID] {
			b.book.remove(s.reference)
		}
	}
	b.book.Live = live
	return nil
}

// unchanged is the listing of a mailbox that is as it was.
func (b *binding) unchanged() *listing {
	l := &listing{Listing: b.view.Listing}
	for _, r := range b.kept {
		l.pin(r.at, r.uidls)
	}
	return l
}

// pin shows these UIDLs, if any, from message at on.
func (l *listing) pin(at int, uidls *table) {
	if uidls != nil {
		l.pins = append(l.pins, pin{at, uidls})
	}
}

// unkeep makes the entries of a run ones that are written anew.
func (b *binding) unkeep(r run, entries []*entry) error {
	read, err := b.book.read(b.ctx, []reference{r.reference})
	if err != nil {
		return err
	}
	s := read[0]
	b.loaded = append(b.loaded, s)
	for i := range s.entries {
		entries[r.at+i] = b.renewed(&s.entries[i], r.at+i)
	}
	return nil
}

// cut tells how many of entries make the next segment: as many as it holds,
// but rather ending where one ended before, so that what did not change need
// not be written.
func cut(entries []*entry) int {
	for n := 1; n < min(len(entries), segmentSize); n++ {
		before, next := entries[n-1].from, entries[n].from
		if next != nil && next != before && n >= smallSegment {
			return n
		}
	}
	return min(len(entries), segmentSize)
}

// put stores a segment of what is listed from at on, unless it is stored already.
func (b *binding) put(at int, entries []*entry, reused map[int64]bool) reference {
	data := encode(entries)
	var ref reference
	if s := entries[0].from; s != nil && !reused[s.ID] && bytes.Equal(s.raw, data) {
		ref = reference{ID: s.ID, Count: s.Count}
		reused[s.ID] = true
	} else {
		ref = b.book.add(len(entries), data)
	}
	ref.Digest = b.view.digest(at, len(entries))
	ref.Natural, ref.Known, ref.Dated = true, true, true
	for i, e := range entries {
		b.drop.scratch = b.view.AppendUIDL(b.drop.scratch[:0], at+i)
		ref.Natural = ref.Natural && e.uidl == string(b.drop.scratch)
		ref.Known = ref.Known && e.identity != ""
		ref.Dated = ref.Dated && e.received != 0
	}
	return ref
}

// settleGone moves entries whose message is gone to where they are kept, and
// retires those that were kept long enough.
func (b *binding) settleGone() error {
	var retiring []string
	for _, e := range b.removed {
		retiring = append(retiring, e.uidl)
	}
	if len(b.left) > 0 || len(b.back) > 0 || b.overdue() || !b.sameOrigin && len(b.book.Gone) > 0 {
		expired, err := b.rewriteGone()
		if err != nil {
			return err
		}
		retiring = append(retiring, expired...)
	}
	return b.retire(retiring)
}

// overdue tells whether the oldest segment of what is gone was kept long enough.
func (b *binding) overdue() bool {
	return len(b.book.Gone) > 0 && b.today()-b.book.Gone[0].Latest > keepGone
}

// rewriteGone adds what is left over to what is gone, takes out what came
// back, and returns the UIDLs of what need not be kept in full any longer.
// Under another origin its names mean nothing: it has none from now on.
func (b *binding) rewriteGone() (expired []string, err error) {
	if b.gone == nil {
		if err := b.loadGone(); err != nil {
			return nil, err
		}
	}
	var refs []reference
	var tail []*entry // not in a segment yet
	total := len(b.left)
	for k, s := range b.gone {
		var still []*entry
		for i := range s.entries {
			if e := &s.entries[i]; !b.back[e] {
				still = append(still, b.goneAs(e, e.gone))
			}
		}
		total += len(still)
		last := k == len(b.gone)-1 && len(still)+len(b.left) <= segmentSize
		switch {
		case last:
			tail = still
			b.book.remove(s.reference)
		case len(still) == s.Count && b.sameOrigin:
			refs = append(refs, s.reference)
		default:
			b.book.remove(s.reference)
			refs = b.addGone(refs, still)
		}
	}
	for _, e := range b.left {
		tail = append(tail, b.goneAs(e, b.today()))
	}
	refs = b.addGone(refs, tail)
	for len(refs) > 0 && (total > maxGone || b.today()-refs[0].Latest > keepGone) {
		uidls, err := b.uidlsOf(refs[0])
		if err != nil {
			return nil, err
		}
		expired = append(expired, uidls...)
		total -= refs[0].Count
		b.book.remove(refs[0])
		refs = refs[1:]
	}
	b.book.Gone = refs
	return expired, nil
}

// goneAs is an entry as it is kept, found gone on that day.
func (b *binding) goneAs(e *entry, day int64) *entry {
	n := *e
	n.gone, n.flags = day, e.flags&^(removing|imported)
	if !b.sameOrigin {
		n.name = ""
	}
	return &n
}

func (b *binding) addGone(refs []reference, entries []*entry) []reference {
	for part := range slices.Chunk(entries, segmentSize) {
		ref := b.book.add(len(part), encode(part))
		for _, e := range part {
			ref.Latest = max(ref.Latest, e.gone)
		}
		refs = append(refs, ref)
	}
	return refs
}

// uidlsOf returns the UIDLs of a segment that is stored or about to be.
func (b *binding) uidlsOf(r reference) ([]string, error) {
	for _, p := range b.book.put {
		if p.ID == r.ID {
			entries, err := decode(p.Data)
			return uidls(entries), err
		}
	}
	read, err := b.book.read(b.ctx, []reference{r})
	if err != nil {
		return nil, err
	}
	return uidls(read[0].entries), nil
}

func uidls(entries []entry) []string {
	all := make([]string, len(entries))
	for i := range entries {
		all[i] = entries[i].uidl
	}
	return all
}

// retire keeps UIDLs as hashes.
func (b *binding) retire(uidls []string) error {
	if len(uidls) == 0 {
		return nil
	}
	refs := b.book.Retired
	var hashes []retired
	if n := len(refs); n > 0 && refs[n-1].Count < segmentSize {
		blobs, err := b.book.blobs(b.ctx, refs[n-1:])
		if err != nil {
			return err
		}
		if hashes, err = decodeRetired(blobs[0]); err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		b.book.remove(refs[n-1])
		refs = refs[:n-1]
	}
	for _, u := range uidls {
		hashes = append(hashes, retire(u))
	}
	refs = slices.Clone(refs)
	for part := range slices.Chunk(hashes, segmentSize) {
		refs = append(refs, b.book.add(len(part), encodeRetired(part)))
	}
	if n := len(refs) - maxRetired; n > 0 {
		b.book.remove(refs[:n]...)
		refs = refs[n:]
		b.book.Forgot = true
	}
	b.book.Retired = refs
	return nil
}
