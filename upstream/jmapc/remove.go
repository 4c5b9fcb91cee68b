package jmapc

import (
	"context"
	"fmt"

	"postern/upstream"
)

// Remove implements upstream.Maildrop.
func (d *maildrop) Remove(ctx context.Context, messages []int) (removed int, err error) {
	if d.way() == byNothing {
		return len(messages), nil
	}
	d.ahead.drop()
	byID := make(map[string]int, len(messages))
	var may []int
	for _, i := range messages {
		if refused := d.Removable(i); refused != nil {
			err = first(err, refused)
			continue
		}
		byID[d.listing.id(i)] = i
		may = append(may, i)
	}
	if len(may) > 0 {
		o := d.removeAll(ctx, d.idsOf(may), byID)
		removed, err = len(o.done), first(err, o.err)
	}
	if err != nil {
		return removed, fmt.Errorf("remove: %d of %d gone: %w", removed, len(messages), err)
	}
	return removed, nil
}

var _ upstream.Recorder = (*maildrop)(nil)

// Shown implements upstream.Recorder.
func (d *maildrop) Shown(l upstream.Listing) { d.labels = l }

// shownUIDL is message i's unique-id as the client was shown it.
func (d *maildrop) shownUIDL(i int) string {
	if d.labels != nil {
		return string(d.labels.AppendUIDL(nil, i))
	}
	return string(d.listing.AppendUIDL(nil, i))
}

// idsOf returns the ids of messages, each once.
func (d *maildrop) idsOf(messages []int) []string {
	ids := make([]string, len(messages))
	for n, i := range messages {
		ids[n] = d.listing.id(i)
	}
	return distinct(ids)
}

func (d *maildrop) removeAll(ctx context.Context, ids []string, byID map[string]int) *outcome {
	if err := d.makeDestination(ctx); err != nil {
		return &outcome{err: err}
	}
	return d.apply(ctx, ids, change{
		judge: func(id string, m *message) step { return d.judgeRemoval(m, d.listing.Size(byID[id])) },
		record: func(id string, m *message) upstream.Removal {
			i := byID[id]
			return upstream.Removal{
				Name: id,
				UIDL: d.shownUIDL(i),
				Size: d.listing.Size(i),
				Kept: d.keptPlace(m),
			}
		},
	})
}
