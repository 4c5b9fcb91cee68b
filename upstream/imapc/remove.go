package imapc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

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
	r := removal{d: d, width: maxChunks, sent: make(map[uint32]bool), kept: make(map[uint32]upstream.Place)}
	for _, i := range messages {
		if err := d.Removable(i); err != nil {
			r.fail(err)
		} else {
			r.todo = append(r.todo, d.entry(i))
		}
	}
	slices.SortFunc(r.todo, func(a, b entry) int { return cmp.Compare(a.uid, b.uid) })
	r.todo = slices.Compact(r.todo)
	r.run(ctx)
	r.finish(ctx)
	d.forget(r.removed, r.mistaken)
	if r.err != nil {
		r.err = fmt.Errorf("remove: %d of %d messages removed: %w", r.gone, len(messages), r.err)
	}
	return r.gone, r.err
}

// An entry is a message as it was listed.
type entry struct {
	uid      uint32
	size     int64
	uidl     string // that the client was shown, if it is not the one that u.o.UIDL makes
	identity string // with its kind; empty if it is not known
}

func (d *maildrop) entry(i int) entry {
	return entry{d.listing.uid(i), d.listing.Size(i), d.shownUIDL(i), string(d.listing.AppendIdentity(nil, i))}
}

// is tells whether the server shows the message that was listed under its UID.
func (e entry) is(now sighting) bool {
	return now.size == e.size && !contradict(now.identity, e.identity)
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
	named  int    // messages in it
	way    way    // that the journal tells
	todo   []entry
	width  int   // chunks that are removed together; fewer after a lost connection, which may be the reason
	gone   int   // messages that were seen to be gone
	err    error // the first reason why one is not

	sent     map[uint32]bool           // was named by a command that removes
	kept     map[uint32]upstream.Place // where the server says that it is now
	removed  []upstream.Removal        // what this removal was seen to have removed
	unseen   []entry                   // what became of them the server does not tell
	created  bool                      // the mailbox to
	changed  bool                      // the mailbox is another one
	mistaken bool                      // a message is another one
}

func (r *removal) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// run removes group after group.
func (r *removal) run(ctx context.Context) {
	wait := retryAfter
	for try := 1; len(r.todo) > 0; {
		left := len(r.todo)
		err := r.next(ctx)
		if len(r.todo) < left {
			try = 1
		}
		r.changed = errors.Is(err, upstream.ErrChanged)
		switch {
		case err == nil:
			r.width = min(2*r.width, maxChunks)
			continue
		case r.changed && len(r.sent) > 0:
			// ErrChanged would say that nothing was removed.
			r.fail(fmt.Errorf("%s: %w", printable([]byte(err.Error())), upstream.ErrUnavailable))
			return
		case r.changed, errors.Is(err, upstream.ErrRejected), errors.Is(err, errTooLong), errors.Is(err, errNotBegun), try == removeTries:
			r.fail(err)
			return
		}
		r.width = 1
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

// next removes the first messages of todo. An error means that the connection
// was lost, or that there is none to go on with: what was not settled before
// stays in todo. Whatever else goes wrong concerns a chunk alone.
func (r *removal) next(ctx context.Context) error {
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
	chunks := r.group(c, w)
	err = r.remove(ctx, c, w, chunks)
	r.settle(chunks)
	return err
}

// group divides the first messages of todo.
func (r *removal) group(c *conn, w way) []*chunk {
	width := 1
	if w == byExpunge || w == byMove {
		width = r.width
	}
	chunks := c.divide(r.todo)
	return chunks[:min(width, len(chunks))]
}

// settle takes the chunks that are over from todo, and notes what became of
// their messages.
func (r *removal) settle(chunks []*chunk) {
	var todo []entry
	of := 0
	for _, k := range chunks {
		of += len(k.messages)
		r.mistaken = r.mistaken || k.mistaken > 0
		switch {
		case !k.over:
			todo = append(todo, k.messages...)
			continue
		case k.unseen != nil:
			r.unseen = append(r.unseen, k.messages...)
		default:
			r.count(k)
		}
		if err := k.err(); err != nil {
			r.fail(err)
		}
	}
	r.todo = append(todo, r.todo[of:]...)
}

// remove removes the messages of some chunks, as far as they are what was
// listed. err means that the connection was lost: then not all chunks are over.
func (r *removal) remove(ctx context.Context, c *conn, w way, chunks []*chunk) error {
	if err := c.recheck(ctx, chunks); err != nil {
		return err
	}
	var there []*chunk
	for _, k := range chunks {
		if k.over {
			continue
		}
		there = append(there, k)
		for _, uid := range k.uids {
			r.sent[uid] = true
		}
	}
	if len(there) == 0 {
		return nil
	}
	switch w {
	case byExpunge:
		return c.expunge(ctx, there)
	case byMove:
		return r.move(ctx, c, there)
	}
	return r.one(ctx, c, w, there[0])
}

// one removes the messages of one chunk, by a way on which each answer decides
// what is sent next.
func (r *removal) one(ctx context.Context, c *conn, w way, k *chunk) (err error) {
	var left []uint32
	if k.refusal, err = r.act(ctx, c, w, k.uids); err == nil {
		left, err = r.left(ctx, c, w, k.uids)
	}
	return c.conclude(k, left, err)
}

// compare returns the UIDs of those messages that are what was listed, and of
// those that were not shown. The rest are not what was listed: a message of
// another size or identity is another message, whatever its UID.
func (c *conn) compare(some []entry, found map[uint32]sighting) (uids, absent []uint32) {
	for _, e := range some {
		switch now, there := found[e.uid]; {
		case !there:
			absent = append(absent, e.uid)
		case e.is(now):
			uids = append(uids, e.uid)
		default:
			c.o.Log.Warn("another message under the same UID", "uid", e.uid, "listed", e.size, "found", now.size, "identity", printable([]byte(now.identity)))
			if hook := c.o.Hooks.Mistaken; hook != nil {
				hook()
			}
		}
	}
	return uids, absent
}

// count notes which messages of a chunk are gone.
func (r *removal) count(k *chunk) {
	for _, e := range k.messages {
		if !contains(k.gone, e.uid) {
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
	uidl := e.uidl
	if uidl == "" {
		uidl = string(u.o.UIDL.append(nil, uidValidity, e.uid))
	}
	return upstream.Removal{
		Name: strconv.FormatUint(uint64(e.uid), 10),
		UIDL: uidl,
		Size: e.size,
		Kept: kept,
	}
}

// act removes exactly the messages named. refusal is the server's NO or BAD;
// err means that the connection was lost.
func (r *removal) act(ctx context.Context, c *conn, w way, uids []uint32) (refusal, err error) {
	switch w {
	case byExpungeAlone:
		return c.expungeAlone(ctx, uids)
	case byFlag:
		return c.tell(ctx, "remove", flagCommand(uidSet(uids)))
	}
	refusal, err = c.moveAway(ctx, w, uids, r.to, r.kept)
	if err != nil || !r.mayCreate(c, refusal) {
		return refusal, err
	}
	if refusal, err = r.create(ctx, c); refusal != nil || err != nil {
		return refusal, err
	}
	return c.moveAway(ctx, w, uids, r.to, r.kept)
}

// mayCreate tells whether messages were refused for want of a mailbox that is
// to be created, which is tried once.
func (r *removal) mayCreate(c *conn, refusal error) bool {
	no, ok := errors.AsType[*noMove](refusal)
	return ok && no.s.code == "TRYCREATE" && c.configuredFolder() && !r.created
}

func (r *removal) create(ctx context.Context, c *conn) (refusal, err error) {
	r.created = true
	return c.tell(ctx, "create a mailbox", "CREATE "+quote(r.to))
}

// left returns the messages that were not removed. Their presence decides, not
// the server's OK: Dovecot 2.3.19 answers so to UID EXPUNGE also where it
// removed nothing.
func (r *removal) left(ctx context.Context, c *conn, w way, uids []uint32) ([]uint32, error) {
	if w != byFlag {
		return c.present(ctx, uids)
	}
	flagged, err := c.find(ctx, uids, " DELETED")
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

// tell sends commands that are answered by a status alone, without waiting in
// between. refusal is the first NO or BAD; err means that the connection was lost.
func (c *conn) tell(ctx context.Context, doing string, commands ...string) (refusal, err error) {
	queries := make([]*query, len(commands))
	for k, command := range commands {
		queries[k] = newQuery(command, ignore)
	}
	if err := c.askAll(ctx, queries...); err != nil {
		return nil, c.lost(doing, err)
	}
	for _, q := range queries {
		if q.status.kind != "OK" {
			return refused(doing, q.status, upstream.ErrUnavailable), nil
		}
	}
	return nil, nil
}

func flagCommand(set string) string { return "UID STORE " + set + ` +FLAGS.SILENT (\Deleted)` }

// flagAndExpunge removes exactly the messages of a set: none of those that the
// server refuses to flag.
func (c *conn) flagAndExpunge(ctx context.Context, set string) (refusal, err error) {
	if refusal, err = c.tell(ctx, "remove", flagCommand(set)); refusal != nil || err != nil {
		return refusal, err
	}
	return c.expungeSet(ctx, set)
}

// expungeSet removes those messages of a set that are flagged.
func (c *conn) expungeSet(ctx context.Context, set string) (refusal, err error) {
	return c.tell(ctx, "remove", "UID EXPUNGE "+set)
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
		if refusal, err = c.tell(ctx, "remove", command); refusal != nil || err != nil {
			return refusal, err
		}
	}
	return nil, nil
}

// alone tells whether no message but these is flagged.
func (c *conn) alone(ctx context.Context, uids []uint32) (bool, error) {
	flagged, err := c.search(ctx, "DELETED")
	if err != nil {
		return false, err
	}
	for _, r := range flagged {
		for uid := uint64(r.first); uid <= uint64(r.last); uid++ {
			if !contains(uids, uint32(uid)) {
				return false, nil
			}
		}
	}
	return true, nil
}
