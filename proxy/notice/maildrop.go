package notice

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/upstream"
)

// A maildrop is what is known of a mailbox that cannot be reached, and the
// notice, which is its last message.
type maildrop struct {
	desk    Desk
	account upstream.Account
	lost    Lost
	listing listing
}

func newMaildrop(desk Desk, account upstream.Account, lost Lost, known upstream.Listing) *maildrop {
	return &maildrop{desk, account, lost, listing{known, lost.uidl(), lost.message()}}
}

// List implements upstream.Maildrop.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	return d.listing, ctx.Err()
}

// Fetch implements upstream.Maildrop.
func (d *maildrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	if err := d.Removable(i); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(d.listing.message)), ctx.Err()
}

// Top implements upstream.Maildrop.
func (d *maildrop) Top(ctx context.Context, i, _ int) (io.ReadCloser, error) { return d.Fetch(ctx, i) }

// Removable implements upstream.Maildrop: nothing is but the notice.
func (d *maildrop) Removable(i int) error {
	if i != d.listing.notice() {
		return fmt.Errorf("%w: no consent to reach it", upstream.ErrUnreadable)
	}
	return nil
}

// Remove implements upstream.Maildrop.
func (d *maildrop) Remove(ctx context.Context, messages []int) (int, error) {
	for _, i := range messages {
		if err := d.Removable(i); err != nil {
			return 0, err
		}
	}
	if len(messages) == 0 {
		return 0, nil
	}
	if err := d.desk.Told(ctx, d.account, d.lost); err != nil {
		return 0, err
	}
	return len(messages), nil
}

// MarkSeen implements upstream.Maildrop: a client that leaves its messages on
// the server has the notice, too.
func (d *maildrop) MarkSeen(ctx context.Context, messages []int) error {
	if !slices.Contains(messages, d.listing.notice()) {
		return nil
	}
	return d.desk.Told(ctx, d.account, d.lost)
}

// Close implements upstream.Maildrop.
func (d *maildrop) Close() error { return nil }

// A listing is what is known and, after it, the notice.
type listing struct {
	known   upstream.Listing
	uidl    string
	message string
}

func (l listing) notice() int { return l.known.Len() }

// Len implements upstream.Listing.
func (l listing) Len() int { return l.known.Len() + 1 }

// Size implements upstream.Listing.
func (l listing) Size(i int) int64 {
	if i == l.notice() {
		return int64(len(l.message))
	}
	return l.known.Size(i)
}

// AppendUIDL implements upstream.Listing.
func (l listing) AppendUIDL(dst []byte, i int) []byte {
	if i == l.notice() {
		return append(dst, l.uidl...)
	}
	return l.known.AppendUIDL(dst, i)
}
