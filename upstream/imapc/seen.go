package imapc

import (
	"context"
	"slices"

	"postern/upstream"
)

// MarkSeen implements upstream.Maildrop.
func (d *maildrop) MarkSeen(ctx context.Context, messages []int) error {
	if !d.u.o.Policy.Seen || len(messages) == 0 {
		return nil
	}
	end, err := d.call()
	if err != nil {
		return err
	}
	defer end()
	uids := make([]uint32, len(messages))
	for k, i := range messages {
		uids[k] = d.listing.uid(i)
	}
	slices.Sort(uids)
	c, err := d.connection(ctx) // checks UIDVALIDITY
	if err != nil {
		return err
	}
	if c.box.uidValidity == 0 || c.box.notSticky || c.box.readOnly {
		return rejected("mark as read")
	}
	for some := range slices.Chunk(slices.Compact(uids), c.chunkSize()) {
		s, err := c.ask(ctx, c.searched(), "UID STORE "+uidSet(some)+` +FLAGS.SILENT (\Seen)`, ignore)
		switch {
		case err != nil:
			return c.lost("mark as read", err)
		case s.kind != "OK":
			return refused("mark as read", s, upstream.ErrUnavailable)
		}
	}
	return nil
}
