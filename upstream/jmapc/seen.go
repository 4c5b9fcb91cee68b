package jmapc

import (
	"context"
	"fmt"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/email"

	"postern/upstream"
)

// MarkSeen implements upstream.Maildrop. Setting a keyword twice does no harm,
// so that it needs no look before, and may be repeated.
func (d *maildrop) MarkSeen(ctx context.Context, messages []int) error {
	if !d.u.o.Policy.Seen {
		return nil
	}
	if d.session.readOnly || !d.maySeen {
		return fmt.Errorf("mark as read: %w: not allowed in the inbox", upstream.ErrRejected)
	}
	d.ahead.drop()
	ids := d.idsOf(messages)
	for len(ids) > 0 {
		some := ids[:d.chunk(ids)]
		if err := d.markSeen(ctx, some); err != nil {
			return fmt.Errorf("mark as read: %w", err)
		}
		ids = ids[len(some):]
	}
	return nil
}

func (d *maildrop) markSeen(ctx context.Context, ids []string) error {
	got, err := d.read(ctx, func() []jmap.Method {
		set := &email.Set{Account: d.session.account, Update: make(map[jmap.ID]jmap.Patch, len(ids))}
		for _, id := range ids {
			set.Update[jmap.ID(id)] = jmap.Patch{"keywords/$seen": true}
		}
		return []jmap.Method{set}
	})
	if err != nil {
		return err
	}
	set, err := answer[email.SetResponse](got, 0)
	if err != nil {
		return err
	}
	return refusal(set)
}
