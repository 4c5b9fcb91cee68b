package imapc

import (
	"cmp"
	"context"
	"slices"
)

// hideFlagged returns the listing without the messages that are flagged as
// deleted: where removing a message means that, it is how they disappear.
func (c *conn) hideFlagged(ctx context.Context, l *listing) (*listing, error) {
	if l.Len() == 0 {
		return l, nil
	}
	flagged, err := c.search(ctx, "DELETED")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(flagged, func(a, b uidRange) int { return cmp.Compare(a.first, b.first) })
	shown := *l // which may be kept for other sessions
	shown.entries, shown.identities = nil, identities{kind: l.identities.kind}
	next := 0
	for i, e := range l.entries {
		uid := l.uid(i)
		for next < len(flagged) && flagged[next].last < uid {
			next++
		}
		if next == len(flagged) || uid < flagged[next].first {
			shown.entries = append(shown.entries, e)
			shown.identities.add(l.identities.at(i))
		}
	}
	return &shown, nil
}
