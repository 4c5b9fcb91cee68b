package jmapc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/email"

	"postern/upstream"
)

const (
	maxPage     = 4096    // messages asked for at once
	minPage     = 16      // not halved any further
	listings    = 4       // attempts at one that does not change meanwhile
	maxIDOctets = 255     // RFC 8620 section 1.2
	maxSize     = 1 << 40 // octets of one message that a sane server states
)

// A listing keeps one array for each thing to remember and nothing per message
// (upstream.Listing): a mailbox of 100,000 costs a few allocations.
type listing struct {
	names []byte   // id, blobId, id, blobId, ...
	ends  []uint32 // where each of them ends in names
	sizes []int64

	// For the next session, where listings are kept.
	state    string  // Email state before the messages were looked at
	received []int64 // Unix time; shorter than sizes if one of them is not known
}

var _ upstream.Identified = (*listing)(nil)

func (l *listing) Len() int         { return len(l.sizes) }
func (l *listing) Size(i int) int64 { return l.sizes[i] }

func (l *listing) id(i int) string   { return string(l.name(2 * i)) }
func (l *listing) blob(i int) string { return string(l.name(2*i + 1)) }

func (l *listing) name(k int) []byte {
	from := uint32(0)
	if k > 0 {
		from = l.ends[k-1]
	}
	return l.names[from:l.ends[k]]
}

// AppendUIDL implements upstream.Listing: the Email id, or a hash of one that
// POP3 cannot carry. No id that is shown as it is begins with a dot, so none
// can be taken for a hash.
func (l *listing) AppendUIDL(dst []byte, i int) []byte {
	id := l.name(2 * i)
	if len(id) <= 70 && id[0] != '.' && !slices.ContainsFunc(id, func(c byte) bool { return c < 0x21 || c > 0x7E }) {
		return append(dst, id...)
	}
	sum := sha256.Sum256(id)
	return hex.AppendEncode(append(dst, '.'), sum[:])
}

// AppendName implements upstream.Identified.
func (l *listing) AppendName(dst []byte, i int) []byte { return append(dst, l.name(2*i)...) }

// AppendIdentity implements upstream.Identified. RFC 8474 section 7 lets the
// same server show the Email id as EMAILID over IMAP; Cyrus does.
func (l *listing) AppendIdentity(dst []byte, i int) []byte {
	return append(append(dst, "objectid:"...), l.name(2*i)...)
}

// Received implements upstream.Identified.
func (l *listing) Received(i int) time.Time {
	if len(l.received) < len(l.sizes) {
		return time.Time{}
	}
	return time.Unix(l.received[i], 0)
}

func (l *listing) add(m *message) error {
	if at, err := time.Parse(time.RFC3339, m.ReceivedAt); err == nil {
		l.received = append(l.received, at.Unix())
	}
	return addTo(l, m.ID, m.BlobID, m.Size)
}

// addTo adds a message, as the wire names it or another listing.
func addTo[name string | []byte](l *listing, id, blob name, size int64) error {
	for _, name := range [...]name{id, blob} {
		if len(name) == 0 || len(name) > maxIDOctets {
			return fmt.Errorf("%w: a name of %d octets in the listing", upstream.ErrUnavailable, len(name))
		}
		l.names = append(l.names, name...)
		l.ends = append(l.ends, uint32(len(l.names)))
	}
	if size < 0 || size > maxSize || len(l.names) > math.MaxUint32-2*maxIDOctets {
		return fmt.Errorf("%w: a size of %d octets in the listing", upstream.ErrUnavailable, size)
	}
	l.sizes = append(l.sizes, size)
	return nil
}

// errMoved: the mailbox changed between two pages of its listing.
var errMoved = fmt.Errorf("%w: mailbox kept changing while it was listed", upstream.ErrUnavailable)

// List implements upstream.Maildrop. The pages count only if all of them show
// the same query state.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	l := d.relist(ctx)
	if hook := d.u.o.Hooks.ListingCache; hook != nil && d.u.o.Listings != nil {
		hook(l != nil)
	}
	if l != nil {
		return l, nil
	}
	err := errMoved
	for attempt := 0; attempt < listings && errors.Is(err, errMoved); attempt++ {
		d.listing = new(listing)
		err = d.list(ctx)
	}
	if err != nil {
		d.listing = new(listing)
		return nil, fmt.Errorf("list: %w", err)
	}
	d.keepListing(ctx)
	return d.listing, nil
}

func (d *maildrop) list(ctx context.Context) error {
	limit := d.firstLimit()
	seen := map[jmap.ID]bool{}
	state, position, total := "", uint64(0), uint64(0)
	ctx, done := d.bound(ctx)
	defer done() // with the pages that are on their way
	ahead := pagesAhead{d: d}
	for {
		p, err := ahead.page(ctx, position, limit)
		if tooLarge(err) && limit > minPage {
			limit /= 2
			continue
		}
		if err != nil {
			return err
		}
		if position == 0 {
			state, total, d.listing.state = p.ids.QueryState, p.ids.Total, p.before
		}
		if state == "" {
			// Else an answer that says nothing would be an empty mailbox.
			return fmt.Errorf("%w: a query without a state", upstream.ErrUnavailable)
		}
		if p.ids.QueryState != state || len(p.ids.IDs) == 0 && position < total {
			return errMoved
		}
		if len(p.ids.IDs) == 0 {
			return nil
		}
		if err := d.addPage(p, seen); err != nil {
			return err
		}
		if d.listing.Len() > d.u.o.MaxMessages {
			return fmt.Errorf("%w: more than %d messages", upstream.ErrRejected, d.u.o.MaxMessages)
		}
		position += uint64(len(p.ids.IDs))
		if p.ids.Limit > 0 {
			limit = min(limit, p.ids.Limit) // the server's own limit was lower
		}
		// Without both signs of the end the next page has to be empty.
		if total > 0 && position >= total && uint64(len(p.ids.IDs)) < limit {
			return nil
		}
		ahead.ask(ctx, position, limit, total)
	}
}

// listMethods ask for the listing, or for what changed since it was kept. They
// are none if the inbox is not known. at is how many methods stand before them.
func (d *maildrop) listMethods(at int) []jmap.Method {
	switch {
	case d.kept != nil:
		return d.changeMethods(at)
	case d.inbox != "":
		return d.pageMethods(at, 0, d.firstLimit())
	}
	return nil
}

var oldestFirst = []*email.SortComparator{{Property: "receivedAt", IsAscending: true}}

// shown is the filter for what the listing is to show.
func (d *maildrop) shown() *email.FilterCondition {
	f := &email.FilterCondition{InMailbox: d.inbox}
	if d.way() == byHiding {
		f.NotKeyword = hiddenKeyword
	}
	return f
}

// properties are what the listing wants to know of a message.
func (d *maildrop) properties() []string {
	all := []string{"id", "blobId", "size"}
	if d.u.o.Listings != nil {
		all = append(all, "receivedAt")
	}
	if d.way() == byHiding {
		all = append(all, "keywords")
	}
	return all
}

// tooLarge tells whether asking for less may help.
func tooLarge(err error) bool {
	var status *httpError
	if errors.As(err, &status) {
		return status.Type == problemLimit || status.Status == http.StatusRequestEntityTooLarge
	}
	return isMethodError(err, "requestTooLarge") || errors.Is(err, errTooLong)
}

// addPage appends the messages of a page, in the order of ids. A page that
// holds nothing new would never come to an end.
func (d *maildrop) addPage(p *page, seen map[jmap.ID]bool) error {
	find := finder(p.emails)
	before := len(seen)
	for n, id := range p.ids.IDs {
		if seen[id] {
			continue
		}
		seen[id] = true
		m, ok := find(n, string(id))
		if !ok {
			return fmt.Errorf("%w: a message was named, but neither shown nor said to be gone", upstream.ErrUnavailable)
		}
		if m == nil || d.way() == byHiding && m.Keywords[hiddenKeyword] {
			continue // removed between the two methods
		}
		if err := d.listing.add(m); err != nil {
			return err
		}
	}
	if len(seen) == before {
		return errMoved
	}
	return nil
}

// finder returns a function that finds the message with that id, nil for one
// that was not found. Most servers answer in the order of ids, though none has
// to: only then is position n of any use.
func finder(got *emails) func(n int, id string) (*message, bool) {
	var byID map[string]*message
	return func(n int, id string) (*message, bool) {
		if n < len(got.List) && got.List[n].ID == id {
			return &got.List[n], true
		}
		if byID == nil {
			byID = make(map[string]*message, len(got.List)+len(got.NotFound))
			for _, gone := range got.NotFound {
				byID[gone] = nil
			}
			for i := range got.List {
				byID[got.List[i].ID] = &got.List[i]
			}
		}
		m, ok := byID[id]
		return m, ok
	}
}
