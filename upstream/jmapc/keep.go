package jmapc

import (
	"context"
	"fmt"

	"git.sr.ht/~rockorager/go-jmap"

	"postern/upstream"
)

var _ upstream.Keeper = (*maildrop)(nil)

// Restore implements upstream.Keeper. A message that is in the inbox already
// needs nothing.
func (d *maildrop) Restore(ctx context.Context, kept []upstream.Removal) (done []bool, err error) {
	return d.keep(ctx, "kept messages restored", kept, d.judgeRestoring)
}

// Purge implements upstream.Keeper. A message that only was hidden goes if it
// still is: else a person has taken it back, and it is kept no longer.
func (d *maildrop) Purge(ctx context.Context, kept []upstream.Removal) (done []bool, err error) {
	return d.keep(ctx, "kept messages purged", kept, d.judgePurging)
}

func (d *maildrop) judgeRestoring(m *message, r upstream.Removal) step {
	box := jmap.ID(r.Kept.Mailbox)
	switch {
	case m == nil || m.Size != r.Size:
		return step{leave: true}
	case box == d.inbox && d.isKept(m, r.Kept):
		return step{patch: jmap.Patch{pointer("keywords", hiddenKeyword): nil}}
	case m.in(d.inbox):
		return step{}
	case box != d.inbox && m.in(box):
		return step{patch: jmap.Patch{member(d.inbox): true, member(box): nil}}
	}
	return step{patch: jmap.Patch{member(d.inbox): true}}
}

func (d *maildrop) judgePurging(m *message, r upstream.Removal) step {
	switch {
	case !d.isKept(m, r.Kept):
		return step{}
	case m.Size != r.Size:
		return step{leave: true}
	}
	return m.unlink(jmap.ID(r.Kept.Mailbox))
}

// isKept tells whether a message is where it was kept. One that stayed in the
// inbox has to be hidden there.
func (d *maildrop) isKept(m *message, at upstream.Place) bool {
	return m.in(jmap.ID(at.Mailbox)) && (at.Mailbox != string(d.inbox) || m.Keywords[hiddenKeyword])
}

// keep does something to kept messages, mailbox after mailbox. What is kept
// nowhere, or was kept by another protocol under names of its own, stays undone.
func (d *maildrop) keep(ctx context.Context, words string, kept []upstream.Removal, judge func(*message, upstream.Removal) step) (done []bool, err error) {
	done = make([]bool, len(kept))
	if d.session.readOnly {
		return done, fmt.Errorf("%w: the account is read-only", upstream.ErrRejected)
	}
	groups := make(map[string][]int) // by mailbox
	for i, r := range kept {
		if r.Kept.Mailbox != "" && r.Kept.Name != "" && r.Kept.Validity == "" {
			groups[r.Kept.Mailbox] = append(groups[r.Kept.Mailbox], i)
		}
	}
	for box, group := range groups {
		byID := make(map[string]upstream.Removal, len(group))
		var ids []string
		for _, i := range group {
			byID[kept[i].Kept.Name] = kept[i]
			ids = append(ids, kept[i].Kept.Name)
		}
		o := d.apply(ctx, distinct(ids), change{judge: func(id string, m *message) step { return judge(m, byID[id]) }})
		for _, i := range group {
			done[i] = o.done[kept[i].Kept.Name]
		}
		d.u.o.Log.Info(words, "account", d.account.User, "session", d.account.Session,
			"mailbox", printable(box), "asked", len(group), "done", len(o.done))
		err = first(err, o.err)
	}
	return done, err
}
