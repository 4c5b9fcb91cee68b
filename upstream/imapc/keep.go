package imapc

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"postern/upstream"
)

var _ upstream.Keeper = (*maildrop)(nil)

// Restore implements upstream.Keeper. A server that does not tell by COPYUID
// where messages are after a move is believed that they are there.
func (d *maildrop) Restore(ctx context.Context, kept []upstream.Removal) (done []bool, err error) {
	return d.keep(ctx, "kept messages restored", kept, (*keeper).restore)
}

// Purge implements upstream.Keeper. A message that only was flagged goes if it
// still is: else a person has taken it back, and it is kept no longer.
func (d *maildrop) Purge(ctx context.Context, kept []upstream.Removal) (done []bool, err error) {
	return d.keep(ctx, "kept messages purged", kept, (*keeper).purge)
}

// A keeper works on kept messages, on a connection of its own: the session's
// stays with its mailbox.
type keeper struct {
	*conn
	place upstream.Place // what is selected, without a name
	done  []bool
	err   error // the first refusal

	arriving []arrival // of the mailbox at hand
}

// An arrival is a message that was put back, by its UID there.
type arrival struct {
	index int
	uid   uint32
}

func (a arrival) name() uint32 { return a.uid }

func (k *keeper) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

// A chosen is a kept message: its index, and what it is in its place.
type chosen struct {
	index int
	entry
}

// keep does something to kept messages, mailbox after mailbox.
func (d *maildrop) keep(ctx context.Context, words string, kept []upstream.Removal, do func(*keeper, context.Context, []chosen) error) ([]bool, error) {
	k := &keeper{done: make([]bool, len(kept))}
	if len(kept) == 0 {
		return k.done, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	c, err := d.u.login(ctx, d.account)
	if err != nil {
		return k.done, err
	}
	k.conn = c
	defer c.logout()
	for _, group := range places(kept) {
		if err := k.in(ctx, group, kept, do); err != nil {
			return k.done, err
		}
		var settled []uint32
		for _, i := range group {
			if k.done[i] {
				settled = append(settled, uidOf(kept[i].Kept.Name))
			}
		}
		d.u.o.Log.Info(words, "account", d.account.User, "session", d.account.Session,
			"mailbox", printable([]byte(k.place.Mailbox)), "uidvalidity", k.place.Validity,
			"asked", len(group), "uids", shortSet(settled), "done", len(settled))
	}
	return k.done, k.err
}

// places sorts the indexes of messages that are somewhere by where they are.
func places(kept []upstream.Removal) (groups [][]int) {
	index := make(map[upstream.Place]int)
	for i, r := range kept {
		where := r.Kept
		where.Name = ""
		at, known := index[where]
		if !known {
			at = len(groups)
			index[where] = at
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], i)
	}
	return groups
}

// in selects the mailbox of a group, and hands on what is there under its
// UIDVALIDITY. What is not where it was kept is no error: it stays undone.
func (k *keeper) in(ctx context.Context, group []int, kept []upstream.Removal, do func(*keeper, context.Context, []chosen) error) (err error) {
	k.place = upstream.Place{Mailbox: kept[group[0]].Kept.Mailbox, Validity: kept[group[0]].Kept.Validity}
	if k.place.Mailbox == "" {
		return nil // nothing is kept
	}
	if k.box, err = k.selectNamed(ctx, k.place.Mailbox); err != nil {
		if k.g.broken() != nil {
			return err
		}
		k.o.Log.Warn("mailbox of kept messages not opened", "mailbox", printable([]byte(k.place.Mailbox)), "err", err)
		return nil
	}
	if now := strconv.FormatUint(uint64(k.box.uidValidity), 10); now != k.place.Validity || k.box.uidValidity == 0 || k.box.notSticky {
		k.o.Log.Warn("mailbox of kept messages changed", "mailbox", printable([]byte(k.place.Mailbox)), "uidvalidity", k.place.Validity, "now", now)
		return nil
	}
	var all []chosen
	for _, i := range group {
		if uid := uidOf(kept[i].Kept.Name); uid != 0 {
			all = append(all, chosen{i, entry{uid: uid, size: kept[i].Size}})
		}
	}
	slices.SortFunc(all, func(a, b chosen) int { return cmp.Compare(a.uid, b.uid) })
	for some := range lines(all, chosen.name, k.maxSet()) {
		if err := do(k, ctx, some); err != nil {
			if k.g.broken() != nil {
				return err
			}
			k.fail(err)
		}
	}
	return k.arrive(ctx)
}

// still returns the UIDs of those messages that are what was kept, and of those
// that are gone.
func (k *keeper) still(ctx context.Context, some []chosen) (uids, absent []uint32, err error) {
	entries := make([]entry, len(some))
	for i, m := range some {
		entries[i] = m.entry
	}
	now, err := k.look(ctx, entries)
	if err != nil {
		return nil, nil, err
	}
	if now.hidden > 0 {
		k.fail(now.notShown())
	}
	return slices.Compact(now.uids), now.absent, nil
}

func (k *keeper) finish(some []chosen, uids []uint32) {
	for _, m := range some {
		if slices.Contains(uids, m.uid) {
			k.done[m.index] = true
		}
	}
}

// purge removes messages for good.
func (k *keeper) purge(ctx context.Context, some []chosen) error {
	uids, absent, err := k.still(ctx, some)
	if err != nil {
		return err
	}
	k.finish(some, absent)
	if !k.uidPlus() {
		return rejected("the server has no UIDPLUS")
	}
	hidden := k.isListed(k.place.Mailbox)
	if hidden {
		flagged, err := k.find(ctx, uids, " DELETED")
		if err != nil {
			return err
		}
		k.finish(some, without(uids, flagged))
		uids = flagged
	}
	if len(uids) == 0 {
		return nil
	}
	remove := k.flagAndExpunge
	if hidden {
		remove = k.expungeSet
	}
	refusal, err := remove(ctx, uidSet(uids))
	if err != nil {
		return err
	}
	left, err := k.present(ctx, uids)
	if err != nil {
		return err
	}
	k.finish(some, without(uids, left))
	return refusal
}

// restore puts messages back into the mailbox of the options.
func (k *keeper) restore(ctx context.Context, some []chosen) error {
	uids, _, err := k.still(ctx, some)
	if err != nil || len(uids) == 0 {
		return err
	}
	if k.isListed(k.place.Mailbox) {
		return k.unflag(ctx, some, uids)
	}
	w, err := k.mover()
	if err != nil {
		return err
	}
	now := make(map[uint32]upstream.Place)
	refusal, err := k.moveAway(ctx, w, uids, k.listedName(), now)
	if err != nil {
		return err
	}
	left, err := k.present(ctx, uids)
	if err != nil {
		return err
	}
	moved := without(uids, left)
	k.finish(some, notIn(moved, now))
	for _, m := range some {
		if p, told := now[m.uid]; told && slices.Contains(moved, m.uid) {
			k.arriving = append(k.arriving, arrival{m.index, uidOf(p.Name)})
		}
	}
	return refusal
}

// unflag takes the flag off messages that are in their mailbox still.
func (k *keeper) unflag(ctx context.Context, some []chosen, uids []uint32) error {
	refusal, err := k.tell(ctx, "take back", "UID STORE "+uidSet(uids)+` -FLAGS.SILENT (\Deleted)`)
	if err != nil {
		return err
	}
	back, err := k.find(ctx, uids, " UNDELETED")
	if err != nil {
		return err
	}
	k.finish(some, back)
	return refusal
}

// arrive looks for what was put back from one mailbox.
func (k *keeper) arrive(ctx context.Context) (err error) {
	all := k.arriving
	k.arriving = nil
	if len(all) == 0 {
		return nil
	}
	if k.box, err = k.selectNamed(ctx, k.listedName()); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b arrival) int { return cmp.Compare(a.uid, b.uid) })
	for some := range lines(all, arrival.name, k.maxSet()) {
		uids := make([]uint32, len(some))
		for i, a := range some {
			uids[i] = a.uid
		}
		there, err := k.present(ctx, uids)
		if err != nil {
			return err
		}
		for _, a := range some {
			k.done[a.index] = k.done[a.index] || slices.Contains(there, a.uid)
		}
	}
	return nil
}
