package jmapc

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"postern/upstream"
)

// resume settles removals that earlier sessions of the account left open: it
// finds out which of their messages are gone, and removes nothing, since an
// Email/set either was carried out or was not. A failure costs the login no
// more than its time, and waits for the next one.
func (d *maildrop) resume(ctx context.Context) {
	if d.u.o.Journal == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	pending, err := d.u.o.Journal.Pending(ctx, d.account.User)
	if err != nil {
		d.u.o.Log.Warn("unfinished removals not looked for", "account", d.account.User, "err", err)
		return
	}
	for _, intent := range pending {
		if err := d.settle(ctx, intent); err != nil {
			d.u.o.Log.Warn("unfinished removal not settled", "account", d.account.User, "session", intent.Session, "err", err)
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// settle finds out what became of one intent, and strikes it out.
func (d *maildrop) settle(ctx context.Context, intent upstream.Intent) error {
	old := time.Since(intent.At) > resumeAge
	if !old && intent.Mailbox != string(d.inbox) {
		return nil // another route's
	}
	var begun []upstream.Removal
	if err := json.Unmarshal([]byte(intent.Names), &begun); old || err != nil {
		d.u.o.Log.Warn("unfinished removal given up", "account", d.account.User, "session", intent.Session, "begun", intent.At, "err", err)
		return d.u.o.Journal.End(ctx, intent.ID, nil)
	}
	removed, err := d.carriedOut(ctx, begun)
	if err != nil {
		return err
	}
	d.u.o.Log.Info("unfinished removal settled", d.about(intent.Session, removed)...)
	if err := d.u.o.Journal.End(ctx, intent.ID, removed); err != nil {
		return fmt.Errorf("note it: %w", err)
	}
	return nil
}

// carriedOut returns the removals whose messages left the inbox.
func (d *maildrop) carriedOut(ctx context.Context, begun []upstream.Removal) (removed []upstream.Removal, err error) {
	for len(begun) > 0 {
		ids := make([]string, len(begun))
		for n, r := range begun {
			ids[n] = r.Name
		}
		ids = ids[:d.chunk(ids)]
		now, err := d.get(ctx, ids)
		if err != nil {
			return nil, err
		}
		find := now.placed()
		for n, r := range begun[:len(ids)] {
			m, known := find(n, r.Name)
			if !known {
				return nil, fmt.Errorf("%w: a message was neither shown nor said to be gone", upstream.ErrUnavailable)
			}
			hidden := r.Kept.Mailbox == string(d.inbox) && d.isKept(m, r.Kept)
			if m.in(d.inbox) && !hidden {
				continue
			}
			if !d.isKept(m, r.Kept) {
				r.Kept = upstream.Place{}
			}
			removed = append(removed, r)
		}
		begun = begun[len(ids):]
	}
	return removed, nil
}
