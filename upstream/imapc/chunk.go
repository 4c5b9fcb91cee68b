package imapc

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// Chunks are removed together, step by step: each step is one command for every
// chunk, sent without waiting for answers, so that a step costs a round trip
// however many chunks there are. What no step does is to send what depends on
// an answer before that is there.
const maxChunks = 16 // of one step at once: 64 KiB

// A chunk is as many messages as fit on a command line.
type chunk struct {
	messages []entry
	uids     []uint32 // of those that are what was listed, which alone are removed
	flagged  bool     // one of those was flagged before
	absent   []uint32 // of those that were gone before
	mistaken int      // of other messages under their UIDs
	hidden   int      // messages that are there, but not shown
	gone     []uint32 // of all that are gone, once it is over

	refusal error // the server's
	unseen  error // why it is not known what became of them
	over    bool  // as far as it goes
}

const maxNamed = 2000 // messages of one command, however short their set is

// maxSet is how many octets of UIDs fit on a command line for certain: 4 KiB, or
// less of the 1000 that an old server takes (RFC 7162 section 4, RFC 2683
// section 3.2.1.5).
func (c *conn) maxSet() int {
	if c.caps.Has(imap.CapCondStore) || c.caps.Has(imap.CapIMAP4rev2) {
		return 4096
	}
	return 940
}

// lines divides messages, in the order of their UIDs, into as many as fit on a
// command line each.
func lines[T any](all []T, uid func(T) uint32, maxSet int) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			n := fitting(all, uid, maxSet)
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

// fitting returns how many messages, from the first on, have a set of at most
// maxSet octets for certain. What follows the UID before it makes a range of
// that, and costs nothing more from then on.
func fitting[T any](all []T, uid func(T) uint32, maxSet int) int {
	octets, isRange := 0, false
	for n, m := range all[:min(len(all), maxNamed)] {
		follows := n > 0 && uid(m)-uid(all[n-1]) <= 1
		switch {
		case !follows:
			octets += len(strconv.FormatUint(uint64(uid(m)), 10)) + len(",")
		case !isRange:
			octets += len(":4294967295")
		}
		if isRange = follows; octets > maxSet && n > 0 {
			return n
		}
	}
	return min(len(all), maxNamed)
}

func (e entry) name() uint32 { return e.uid }

// divide makes chunks of messages.
func (c *conn) divide(messages []entry) (chunks []*chunk) {
	for some := range lines(messages, entry.name, c.maxSet()) {
		chunks = append(chunks, &chunk{messages: some})
	}
	return chunks
}

// finish ends a chunk of which it is known which messages are left.
func (k *chunk) finish(left []uint32) {
	k.gone = append(without(k.uids, left), k.absent...)
	slices.Sort(k.gone)
	k.over = true
}

// again makes a chunk one that was not tried yet.
func (k *chunk) again() { k.refusal, k.unseen, k.over = nil, nil, false }

// fail ends a chunk of which that will not be known.
func (k *chunk) fail(why error) { k.unseen, k.over = why, true }

// err is why not all messages of a chunk that is over are gone.
func (k *chunk) err() error {
	switch left := len(without(k.uids, k.gone)); {
	case k.unseen != nil:
		return k.unseen
	case left > 0 && k.refusal != nil:
		return k.refusal
	case left > 0:
		return fmt.Errorf("%d messages are still there: %w", left, upstream.ErrUnavailable)
	case k.hidden > 0:
		return k.notShown()
	case k.mistaken > 0:
		return fmt.Errorf("%d messages are not those that were listed: %w", k.mistaken, upstream.ErrRejected)
	}
	return nil
}

func (k *chunk) notShown() error {
	return fmt.Errorf("%d messages are there, but not shown: %w", k.hidden, upstream.ErrUnavailable)
}

// askAll sends commands of ours one behind the other, within an operation of
// their own, and waits for all answers. An error means that the connection was
// lost; each query knows whether before or after its answer.
func (c *conn) askAll(ctx context.Context, queries ...*query) (err error) {
	defer c.during(ctx, c.searched())()
	end := c.roundTrip()
	c.g.send(queries...)
	for k, q := range queries {
		if _, lost := q.wait(); lost != nil && err == nil {
			err = lost
		}
		if k == 0 {
			end()
		}
	}
	return err
}

// A reselection selects the mailbox anew, so that what follows it finds the
// mailbox as it is, and not as the server thinks that the session has seen it.
type reselection struct {
	*query
	box mailbox
}

func (c *conn) reselection() *reselection {
	r := &reselection{}
	r.query = newQuery("SELECT "+quote(c.selected), r.box.learn)
	return r
}

// changed tells, once it is answered, that the mailbox is not the same any more.
func (c *conn) changed(r *reselection) error {
	if r.status.kind == "OK" && r.box.uidValidity == c.box.uidValidity {
		return nil
	}
	return fmt.Errorf("mailbox selected again: %s, UIDVALIDITY %d: %w", r.status, r.box.uidValidity, errProtocol)
}

// recheck looks whether the mailbox and the messages are what was listed. Chunks
// that have none to remove are over.
func (c *conn) recheck(ctx context.Context, chunks []*chunk) error {
	found := make(map[uint32]sighting) // one for all: a server may answer one command amid the answer to another
	queries := make([]*query, len(chunks))
	for i, k := range chunks {
		queries[i] = c.newSighting(uidSet(uidsOf(k.messages)), found)
	}
	again := c.reselection()
	err := c.askAll(ctx, append([]*query{again.query}, queries...)...)
	if err := cmp.Or(err, c.changed(again)); err != nil {
		return c.lost("look at messages", err)
	}
	for i, k := range chunks {
		if s := queries[i].status; s.kind != "OK" {
			k.fail(refused("look at messages", s, upstream.ErrUnavailable))
			continue
		}
		k.uids, k.absent = c.compare(k.messages, found)
		k.mistaken = len(k.messages) - len(k.uids) - len(k.absent)
		k.flagged = slices.ContainsFunc(k.uids, func(uid uint32) bool { return found[uid].flagged })
		if err := c.confirmAbsent(ctx, k); err != nil {
			return err
		}
		if !k.over && len(k.uids) == 0 {
			k.finish(nil)
		}
	}
	return nil
}

// confirmAbsent asks once more for messages that the server did not show: an OK
// to FETCH without data is no proof that they are gone.
func (c *conn) confirmAbsent(ctx context.Context, k *chunk) error {
	if len(k.absent) == 0 {
		return nil
	}
	there, err := c.present(ctx, k.absent)
	switch {
	case err == nil:
		k.hidden = len(there)
		k.absent = without(k.absent, there)
	case c.g.broken() != nil:
		return err
	default:
		k.fail(err)
	}
	return nil
}

// look is recheck for some messages alone, where that is all that is to be known
// of them.
func (c *conn) look(ctx context.Context, some []entry) (*chunk, error) {
	k := &chunk{messages: some}
	if err := c.recheck(ctx, []*chunk{k}); err != nil {
		return nil, err
	}
	return k, k.unseen
}

// take sends the commands that remove the messages of each chunk, and behind
// them all a search for what is left. In between the mailbox is selected anew,
// or some servers would look before they have removed: Dovecot 2.3.19 puts off
// what an expunge changes in a client's view of the mailbox until no other
// command is waiting. Who looks too early all the same is asked once more.
//
// After a lost connection those chunks are over whose search was answered.
func (c *conn) take(ctx context.Context, chunks []*chunk, commands func(*chunk) []*query, refuse func(status) error) error {
	removals := make([][]*query, len(chunks))
	for i, k := range chunks {
		removals[i] = commands(k)
	}
	selected, left := c.reselection(), newLook(chunks)
	err := c.askAll(ctx, slices.Concat(slices.Concat(removals...), []*query{selected.query}, left.queries())...)
	for i, k := range chunks {
		for _, q := range removals[i] {
			if q.err == nil && q.status.kind != "OK" && k.refusal == nil {
				k.refusal = refuse(q.status)
			}
		}
	}
	var again []*chunk
	changed := c.changed(selected)
	if changed == nil {
		again = left.see()
	}
	if err := cmp.Or(err, changed); err != nil {
		return c.lost("remove", err)
	}
	return c.lookAgain(ctx, again)
}

// A look is a search for what is left of each of some chunks.
type look struct {
	of    []*sought
	there []uidRange // for all, as in recheck
}

type sought struct {
	*chunk
	*searching
}

func newLook(chunks []*chunk) *look {
	l := &look{}
	for _, k := range chunks {
		l.of = append(l.of, &sought{k, newSearching("UID "+uidSet(k.uids), &l.there)})
	}
	return l
}

func (l *look) queries() (all []*query) {
	for _, s := range l.of {
		all = append(all, s.query)
	}
	return all
}

// isMixed tells whether the server has said OK to a search that it has not
// answered. Then it is not known which answer is to which search.
func (l *look) isMixed() bool {
	return slices.ContainsFunc(l.of, func(s *sought) bool { return s.searching.err == nil && s.status.kind == "OK" && !s.answered })
}

// see ends the chunks of which the answers tell what is left. It returns those
// that are to be looked for again: the answers do not tell, or the server still
// has messages that it did not refuse to remove.
func (l *look) see() (again []*chunk) {
	mixed := l.isMixed()
	for _, s := range l.of {
		left := within(s.uids, l.there)
		switch {
		case s.searching.err != nil:
			// Lost.
		case s.status.kind != "OK":
			s.fail(refused("search", s.status, upstream.ErrUnavailable))
		case mixed || len(left) > 0 && s.refusal == nil:
			again = append(again, s.chunk)
		default:
			s.chunk.finish(left)
		}
	}
	return again
}

// lookAgain ends chunks by what is left now. Where the answers do not tell, each
// is asked for alone.
func (c *conn) lookAgain(ctx context.Context, chunks []*chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	l := newLook(chunks)
	if err := c.askAll(ctx, l.queries()...); err != nil {
		return c.lost("search", err)
	}
	l.see()
	mixed := l.isMixed()
	for _, s := range l.of {
		switch {
		case s.over:
		case !mixed:
			s.chunk.finish(within(s.uids, l.there))
		default:
			there, err := c.present(ctx, s.uids)
			if err := c.conclude(s.chunk, there, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// conclude ends a chunk, unless err means that the connection was lost.
func (c *conn) conclude(k *chunk, left []uint32, err error) (lost error) {
	switch {
	case err == nil:
		k.finish(left)
	case c.g.broken() != nil:
		return err
	default:
		k.fail(err)
	}
	return nil
}

// expunge removes the messages of some chunks. UID EXPUNGE takes what is flagged
// of what it names (RFC 4315 section 2.1), so nothing if the server has refused
// to flag it, and need not wait for STORE; unless some were flagged before.
func (c *conn) expunge(ctx context.Context, chunks []*chunk) error {
	if err := c.flagFirst(ctx, chunks); err != nil {
		return err
	}
	return c.take(ctx, chunks, func(k *chunk) []*query {
		set := uidSet(k.uids)
		store, expunge := newQuery(flagCommand(set), ignore), newQuery("UID EXPUNGE "+set, ignore)
		switch {
		case k.refusal != nil:
			return nil
		case k.flagged:
			return []*query{expunge}
		}
		return []*query{store, expunge}
	}, refusedRemoval)
}

// flagFirst flags the messages of those chunks of which another client has
// flagged some: if the server refuses that they are not to be expunged.
func (c *conn) flagFirst(ctx context.Context, chunks []*chunk) error {
	stores := make(map[*chunk]*query)
	var queries []*query
	for _, k := range chunks {
		if k.flagged {
			stores[k] = newQuery(flagCommand(uidSet(k.uids)), ignore)
			queries = append(queries, stores[k])
		}
	}
	if len(queries) == 0 {
		return nil
	}
	if err := c.askAll(ctx, queries...); err != nil {
		return c.lost("remove", err)
	}
	for k, store := range stores {
		if store.status.kind != "OK" {
			k.refusal = refusedRemoval(store.status)
		}
	}
	return nil
}

// expungeFlagged removes those messages of some chunks that are flagged already.
func (c *conn) expungeFlagged(ctx context.Context, chunks []*chunk) error {
	return c.take(ctx, chunks, func(k *chunk) []*query {
		return []*query{newQuery("UID EXPUNGE "+uidSet(k.uids), ignore)}
	}, refusedRemoval)
}

func refusedRemoval(s status) error { return refused("remove", s, upstream.ErrUnavailable) }
