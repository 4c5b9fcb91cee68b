package imapc

import (
	"context"
	"fmt"

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
	absent   []uint32 // of those that were gone before
	hidden   int      // messages that are there, but not shown
	gone     []uint32 // of all that are gone, once it is over

	refusal error // the server's
	unseen  error // why it is not known what became of them
	over    bool  // as far as it goes
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

// finish ends a chunk of which it is known which messages are left.
func (k *chunk) finish(left []uint32) {
	k.gone = append(without(k.uids, left), k.absent...)
	k.over = true
}

// again makes a chunk one that was not tried yet.
func (k *chunk) again() { k.refusal, k.unseen, k.over = nil, nil, false }

// fail ends a chunk of which that will not be known.
func (k *chunk) fail(why error) { k.unseen, k.over = why, true }

// err is why not all messages of a chunk that is over are gone.
func (k *chunk) err() error {
	others := len(k.messages) - len(k.gone)
	switch left := len(without(k.uids, k.gone)); {
	case k.unseen != nil:
		return k.unseen
	case left > 0 && k.refusal != nil:
		return k.refusal
	case left > 0:
		return fmt.Errorf("%d messages are still there: %w", left, upstream.ErrUnavailable)
	case k.hidden > 0:
		return k.notShown()
	case others > 0:
		return fmt.Errorf("%d messages are not those that were listed: %w", others, upstream.ErrRejected)
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

// recheck looks whether the messages are what was listed. Chunks that have none
// to remove are over.
func (c *conn) recheck(ctx context.Context, chunks []*chunk) error {
	found := make(map[uint32]int64) // one for all: a server may answer one command amid the answer to another
	queries := make([]*query, len(chunks))
	for i, k := range chunks {
		queries[i] = newSizes(uidSet(uidsOf(k.messages)), found)
	}
	if err := c.askAll(ctx, queries...); err != nil {
		return c.lost("look at messages", err)
	}
	for i, k := range chunks {
		if s := queries[i].status; s.kind != "OK" {
			k.fail(refused("look at messages", s, upstream.ErrUnavailable))
			continue
		}
		k.uids, k.absent = c.compare(k.messages, found)
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

// flag is the step before UID EXPUNGE. A chunk that is refused is not expunged:
// somebody else may have flagged its messages.
func (c *conn) flag(ctx context.Context, chunks []*chunk) error {
	queries := make([]*query, len(chunks))
	for i, k := range chunks {
		queries[i] = newQuery(flagCommand(uidSet(k.uids)), ignore)
	}
	if err := c.askAll(ctx, queries...); err != nil {
		return c.lost("remove", err)
	}
	for i, k := range chunks {
		if s := queries[i].status; s.kind != "OK" {
			k.refusal = refused("remove", s, upstream.ErrUnavailable)
		}
	}
	return nil
}

// take is the last step: it sends the command that command makes for each chunk
// that was not refused before, and right behind it a search for what is left.
// That need not wait, as messages do not come back: if the server did it too
// early, some are still there, and are looked for again.
//
// After a lost connection those chunks are over whose search was answered.
func (c *conn) take(ctx context.Context, chunks []*chunk, command func(*chunk) *query, refuse func(status) error) error {
	removals := make([]*query, len(chunks))
	searches := make([]*searching, len(chunks))
	var there []uidRange // for all, as in recheck
	var queries []*query
	for i, k := range chunks {
		if k.refusal == nil {
			removals[i] = command(k)
			queries = append(queries, removals[i])
		}
		searches[i] = newSearching("UID "+uidSet(k.uids), &there)
		queries = append(queries, searches[i].query)
	}
	err := c.askAll(ctx, queries...)
	if err != nil {
		err = c.lost("remove", err)
	}
	for i, k := range chunks {
		if removals[i] != nil && removals[i].err == nil && removals[i].status.kind != "OK" {
			k.refusal = refuse(removals[i].status)
		}
		if again := c.see(k, searches[i], there); again && err == nil {
			err = c.seeAgain(ctx, k)
		}
	}
	return err
}

// see ends a chunk by the answer to its search, unless there is none that
// settles it.
func (c *conn) see(k *chunk, s *searching, there []uidRange) (again bool) {
	if s.err != nil {
		return false // lost
	}
	if s.status.kind != "OK" {
		k.fail(refused("search", s.status, upstream.ErrUnavailable))
		return false
	}
	left := within(k.uids, there)
	if !s.answered || len(left) > 0 && k.refusal == nil {
		return true
	}
	k.finish(left)
	return false
}

func (c *conn) seeAgain(ctx context.Context, k *chunk) error {
	left, err := c.present(ctx, k.uids)
	return c.conclude(k, left, err)
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

// expunge removes the messages of some chunks. RFC 4315 section 2.1.
func (c *conn) expunge(ctx context.Context, chunks []*chunk) error {
	if err := c.flag(ctx, chunks); err != nil {
		return err
	}
	return c.take(ctx, chunks, func(k *chunk) *query {
		return newQuery("UID EXPUNGE "+uidSet(k.uids), ignore)
	}, func(s status) error { return refused("remove", s, upstream.ErrUnavailable) })
}
