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
}

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

func (l *listing) add(m *message) error {
	for _, name := range []string{m.ID, m.BlobID} {
		if name == "" || len(name) > maxIDOctets {
			return fmt.Errorf("%w: a name of %d octets in the listing", upstream.ErrUnavailable, len(name))
		}
		l.names = append(l.names, name...)
		l.ends = append(l.ends, uint32(len(l.names)))
	}
	if m.Size < 0 || m.Size > maxSize || len(l.names) > math.MaxUint32-2*maxIDOctets {
		return fmt.Errorf("%w: a size of %d octets in the listing", upstream.ErrUnavailable, m.Size)
	}
	l.sizes = append(l.sizes, m.Size)
	return nil
}

// errMoved: the mailbox changed between two pages of its listing.
var errMoved = fmt.Errorf("%w: mailbox kept changing while it was listed", upstream.ErrUnavailable)

// List implements upstream.Maildrop. The pages count only if all of them show
// the same query state.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	err := errMoved
	for attempt := 0; attempt < listings && errors.Is(err, errMoved); attempt++ {
		d.listing = new(listing)
		err = d.list(ctx)
	}
	if err != nil {
		d.listing = new(listing)
		return nil, fmt.Errorf("list: %w", err)
	}
	return d.listing, nil
}

func (d *maildrop) list(ctx context.Context) error {
	limit := min(d.session.limits.MaxObjectsInGet, maxPage)
	seen := map[jmap.ID]bool{}
	state, position, total := "", uint64(0), uint64(0)
	for {
		ids, got, err := d.page(ctx, position, limit)
		if tooLarge(err) && limit > minPage {
			limit /= 2
			continue
		}
		if err != nil {
			return err
		}
		if position == 0 {
			state, total = ids.QueryState, ids.Total
		}
		if state == "" {
			// Else an answer that says nothing would be an empty mailbox.
			return fmt.Errorf("%w: a query without a state", upstream.ErrUnavailable)
		}
		if ids.QueryState != state || len(ids.IDs) == 0 && position < total {
			return errMoved
		}
		if len(ids.IDs) == 0 {
			return nil
		}
		if err := d.listing.addPage(ids.IDs, got, seen); err != nil {
			return err
		}
		if d.listing.Len() > d.u.o.MaxMessages {
			return fmt.Errorf("%w: more than %d messages", upstream.ErrRejected, d.u.o.MaxMessages)
		}
		position += uint64(len(ids.IDs))
		if ids.Limit > 0 {
			limit = min(limit, ids.Limit) // the server's own limit was lower
		}
		// Without both signs of the end the next page has to be empty.
		if total > 0 && position >= total && uint64(len(ids.IDs)) < limit {
			return nil
		}
	}
}

// page asks for one page of the inbox, oldest first. How messages of the same
// second are ordered is the server's choice, but always the same one (RFC 8620
// section 5.5).
func (d *maildrop) page(ctx context.Context, position, limit uint64) (*email.QueryResponse, *emails, error) {
	got, err := d.read(ctx, func() []jmap.Method {
		return []jmap.Method{
			&email.Query{
				Account:        d.session.account,
				Filter:         &email.FilterCondition{InMailbox: d.inbox},
				Sort:           []*email.SortComparator{{Property: "receivedAt", IsAscending: true}},
				Position:       int64(position),
				Limit:          limit,
				CalculateTotal: position == 0,
			},
			&email.Get{
				Account:      d.session.account,
				Properties:   []string{"id", "blobId", "size"},
				ReferenceIDs: &jmap.ResultReference{ResultOf: "0", Name: "Email/query", Path: "/ids"},
			},
		}
	})
	if err != nil {
		return nil, nil, err
	}
	ids, err := answer[email.QueryResponse](got, 0)
	if err != nil {
		return nil, nil, err
	}
	properties, err := answer[emails](got, 1)
	return ids, properties, err
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
func (l *listing) addPage(ids []jmap.ID, got *emails, seen map[jmap.ID]bool) error {
	find := finder(got)
	before := len(seen)
	for n, id := range ids {
		if seen[id] {
			continue
		}
		seen[id] = true
		m, ok := find(n, string(id))
		if !ok {
			return fmt.Errorf("%w: a message was named, but neither shown nor said to be gone", upstream.ErrUnavailable)
		}
		if m == nil {
			continue // removed between the two methods
		}
		if err := l.add(m); err != nil {
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
