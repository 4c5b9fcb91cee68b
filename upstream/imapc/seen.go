package imapc

import (
	"cmp"
	"context"
	"slices"
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
	var commands []string
	for some := range lines(slices.Compact(uids), func(uid uint32) uint32 { return uid }, c.maxSet()) {
		commands = append(commands, "UID STORE "+uidSet(some)+` +FLAGS.SILENT (\Seen)`)
	}
	for some := range slices.Chunk(commands, maxChunks) {
		if refusal, err := c.tell(ctx, "mark as read", some...); refusal != nil || err != nil {
			return cmp.Or(err, refusal)
		}
	}
	return nil
}
