package imapc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

const (
	removeTime  = 45 * time.Second // where ctx has no deadline
	removeTries = 6
	retryAfter  = 100 * time.Millisecond // doubled each time
)

// Remove implements upstream.Maildrop. Each message is named by its UID under
// the UIDVALIDITY that was listed, has still the size that was listed, and was
// looked for afterwards. Whatever fails, nothing else is removed; a lost
// connection begins again, which every step allows.
func (d *maildrop) Remove(ctx context.Context, messages []int) (removed int, err error) {
	if len(messages) == 0 {
		return 0, nil
	}
	if d.u.o.Policy.Delete == upstream.DeleteNever {
		return len(messages), nil
	}
	end, err := d.call()
	if err != nil {
		return 0, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	r := removal{d: d, sent: make(map[uint32]bool), kept: make(map[uint32]upstream.Place)}
	for _, i := range messages {
		if err := d.Removable(i); err != nil {
			r.fail(err)
		} else {
			r.todo = append(r.todo, entry{d.listing.uid(i), d.listing.Size(i)})
		}
	}
	slices.SortFunc(r.todo, func(a, b entry) int { return cmp.Compare(a.uid, b.uid) })
	r.todo = slices.Compact(r.todo)
	r.run(ctx)
	r.finish(ctx)
	if r.err != nil {
		r.err = fmt.Errorf("remove: %d of %d messages removed: %w", r.gone, len(messages), r.err)
	}
	return r.gone, r.err
}

// An entry is a message to be removed, as it was listed.
type entry struct {
	uid  uint32
	size int64
}

func uidsOf(entries []entry) []uint32 {
	uids := make([]uint32, len(entries))
	for k, e := range entries {
		uids[k] = e.uid
	}
	return uids
}

// A removal is on its way from todo to gone.
type removal struct {
	d      *maildrop
	to     string // the mailbox that messages are moved to, empty before it was looked for
	intent int64  // in the journal, 0 before it is written
	way    way    // that the journal tells
	todo   []entry
	gone   int   // messages that were seen to be gone
	err    error // the first reason why one is not

	sent    map[uint32]bool           // was named by a command that removes
	kept    map[uint32]upstream.Place // where the server says that it is now
	removed []upstream.Removal        // what this removal was seen to have removed
	unseen  []entry                   // what became of them the server does not tell
	created bool                      // the mailbox to
	changed bool                      // the mailbox is another one
}

func (r *removal) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// run removes chunk after chunk.
func (r *removal) run(ctx context.Context) {
	wait := retryAfter
	for try := 1; len(r.todo) > 0; {
		err := r.chunk(ctx)
		r.changed = errors.Is(err, upstream.ErrChanged)
		switch {
		case err == nil:
			try = 1
			continue
		case r.changed && r.gone > 0:
			// ErrChanged would say that nothing was removed.
			r.fail(fmt.Errorf("%s: %w", printable([]byte(err.Error())), upstream.ErrUnavailable))
			return
		case r.changed, errors.Is(err, upstream.ErrRejected), errors.Is(err, errTooLong), errors.Is(err, errNotBegun), try == removeTries:
			r.fail(err)
			return
		}
		r.d.u.o.Log.Info("removal interrupted", "account", r.d.account.User, "err", err)
		select {
		case <-ctx.Done():
			r.fail(err)
			return
		case <-r.d.life.Done():
			r.fail(err)
			return
		case <-time.After(wait):
		}
		wait *= 2
		try++
	}
}

// chunk removes the first messages of todo. An error means that the connection
// was lost, or that there is none to go on with: todo is as it was. Whatever
// else goes wrong concerns the chunk alone.
func (r *removal) chunk(ctx context.Context) error {
	c, err := r.d.connection(ctx) // checks UIDVALIDITY
	if err != nil {
		return err
	}
	w, err := c.way()
	if err != nil {
		return err
	}
	if (w == byMove || w == byCopy) && r.to == "" {
		if r.to, err = c.destination(ctx); err != nil {
			return err
		}
	}
	if err := r.begin(ctx, w); err != nil {
		return err
	}
	some := r.todo[:min(len(r.todo), c.chunkSize())]
	seen, failure := r.remove(ctx, c, w, some)
	if failure != nil && c.g.broken() != nil {
		return failure
	}
	if failure != nil {
		r.fail(failure)
	}
	if !seen {
		r.unseen = append(r.unseen, some...)
	}
	r.todo = r.todo[len(some):]
	return nil
}

// chunkSize is how many UIDs fit on a command line for certain: 4 KiB, or 1000
// octets for an old server (RFC 7162 section 4, RFC 2683 section 3.2.1.5).
func (c *conn) chunkSize() int {
	const longestUID = len("4294967295,")
	if c.caps.Has(imap.CapCondStore) || c.caps.Has(imap.CapIMAP4rev2) {
		return 4096 / longestUID
	}
	return 940 / longestUID
}

// remove removes messages and counts those that it saw to be gone; err is nil
// if that is all of them. seen tells whether it could look.
func (r *removal) remove(ctx context.Context, c *conn, w way, some []entry) (seen bool, err error) {
	uids, absent, err := c.unchanged(ctx, some)
	if err != nil {
		return false, err
	}
	if others := len(some) - len(absent) - len(uids); others > 0 {
		err = fmt.Errorf("%d messages are not those that were listed: %w", others, upstream.ErrRejected)
	}
	if len(uids) == 0 {
		r.count(some, absent)
		return true, err
	}
	refusal, lost := r.act(ctx, c, w, uids)
	if lost != nil {
		return false, lost
	}
	left, unknown := r.left(ctx, c, w, uids)
	if unknown != nil {
		return false, unknown
	}
	r.count(some, append(absent, without(uids, left)...))
	switch {
	case len(left) > 0 && refusal != nil:
		err = refusal
	case len(left) > 0:
		err = fmt.Errorf("%d messages are still there: %w", len(left), upstream.ErrUnavailable)
	}
	return true, err
}

// unchanged returns the UIDs of those messages that are what was listed, and of
// those that are gone already. The rest are not what was listed: a message of
// another size is another message, whatever its UID.
func (c *conn) unchanged(ctx context.Context, some []entry) (uids, absent []uint32, err error) {
	found, err := c.sizes(ctx, uidSet(uidsOf(some)))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range some {
		switch size, there := found[e.uid]; {
		case !there:
			absent = append(absent, e.uid)
		case size == e.size:
			uids = append(uids, e.uid)
		default:
			c.o.Log.Warn("another message under the same UID", "uid", e.uid, "listed", e.size, "found", size)
		}
	}
	return uids, absent, nil
}

// count notes which messages of some are gone.
func (r *removal) count(some []entry, gone []uint32) {
	for _, e := range some {
		if !slices.Contains(gone, e.uid) {
			continue
		}
		r.gone++
		if r.sent[e.uid] {
			r.removed = append(r.removed, r.d.u.removal(r.d.uidValidity, e, r.kept[e.uid]))
		}
	}
}

// removal describes a message that was removed.
func (u *Upstream) removal(uidValidity uint32, e entry, kept upstream.Place) upstream.Removal {
	return upstream.Removal{
		Name: strconv.FormatUint(uint64(e.uid), 10),
		UIDL: string(u.o.UIDL.append(nil, uidValidity, e.uid)),
		Size: e.size,
		Kept: kept,
	}
}

// act removes exactly the messages named. refusal is the server's NO or BAD;
// err means that the connection was lost.
func (r *removal) act(ctx context.Context, c *conn, w way, uids []uint32) (refusal, err error) {
	for _, uid := range uids {
		r.sent[uid] = true
	}
	switch w {
	case byExpunge:
		return c.flagAndExpunge(ctx, uidSet(uids))
	case byExpungeAlone:
		return c.expungeAlone(ctx, uids)
	case byFlag:
		return c.tell(ctx, flagCommand(uidSet(uids)))
	}
	refusal, err = c.moveAway(ctx, w, uids, r.to, r.kept)
	no, ok := errors.AsType[*noMove](refusal)
	if !ok || no.s.code != "TRYCREATE" || !c.configuredFolder() || r.created {
		return refusal, err
	}
	r.created = true
	if refusal, err = c.tell(ctx, "CREATE "+quote(r.to)); refusal != nil || err != nil {
		return refusal, err
	}
	return c.moveAway(ctx, w, uids, r.to, r.kept)
}

// left returns the messages that were not removed. Their presence decides, not
// the server's OK: Dovecot 2.3.19 answers so to UID EXPUNGE also where it
// removed nothing.
func (r *removal) left(ctx context.Context, c *conn, w way, uids []uint32) ([]uint32, error) {
	if w != byFlag {
		return c.present(ctx, uids)
	}
	flagged, _, err := c.find(ctx, uids, " DELETED")
	if err != nil {
		return nil, err
	}
	for _, uid := range flagged {
		r.kept[uid] = c.here(uid)
	}
	if uids = without(uids, flagged); len(uids) == 0 {
		return nil, nil
	}
	return c.present(ctx, uids)
}

// here is the place of a message that stays in the selected mailbox.
func (c *conn) here(uid uint32) upstream.Place {
	return upstream.Place{
		Mailbox:  c.listedName(),
		Validity: strconv.FormatUint(uint64(c.box.uidValidity), 10),
		Name:     strconv.FormatUint(uint64(uid), 10),
	}
}

// tell sends a command that is answered by a status alone. refusal is a NO or
// BAD; err means that the connection was lost.
func (c *conn) tell(ctx context.Context, command string) (refusal, err error) {
	s, err := c.ask(ctx, c.searched(), command, ignore)
	if err != nil {
		return nil, c.lost("remove", err)
	}
	if s.kind != "OK" {
		return refused("remove", s, upstream.ErrUnavailable), nil
	}
	return nil, nil
}

func flagCommand(set string) string { return "UID STORE " + set + ` +FLAGS.SILENT (\Deleted)` }

// flagAndExpunge removes exactly the messages of a set. RFC 4315 section 2.1.
func (c *conn) flagAndExpunge(ctx context.Context, set string) (refusal, err error) {
	if refusal, err = c.tell(ctx, flagCommand(set)); refusal != nil || err != nil {
		return refusal, err
	}
	return c.tell(ctx, "UID EXPUNGE "+set)
}

// expungeAlone removes messages from a server that cannot be told which, by the
// one EXPUNGE without UIDs that is ever sent: where nothing else is flagged
// both before and after these messages are. What another client flags after
// that and before the server has the EXPUNGE is lost, which is why a policy
// must allow this.
func (c *conn) expungeAlone(ctx context.Context, uids []uint32) (refusal, err error) {
	for _, command := range []string{flagCommand(uidSet(uids)), "EXPUNGE"} {
		alone, err := c.alone(ctx, uids)
		if err != nil {
			return nil, err
		}
		if !alone {
			return fmt.Errorf("other messages are flagged: %w", upstream.ErrUnavailable), nil
		}
		if refusal, err = c.tell(ctx, command); refusal != nil || err != nil {
			return refusal, err
		}
	}
	return nil, nil
}

// alone tells whether no message but these is flagged.
func (c *conn) alone(ctx context.Context, uids []uint32) (bool, error) {
	flagged, answered, err := c.search(ctx, "DELETED")
	if err != nil {
		return false, err
	}
	for _, r := range flagged {
		for uid := uint64(r.first); uid <= uint64(r.last); uid++ {
			if _, found := slices.BinarySearch(uids, uint32(uid)); !found {
				return false, nil
			}
		}
	}
	return answered, nil
}
