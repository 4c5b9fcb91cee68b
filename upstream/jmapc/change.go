package jmapc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/email"

	"postern/upstream"
)

const (
	// maxChunk is how many messages one request changes at most. Fewer means
	// that less is at stake if its answer is lost.
	maxChunk = 1000
	maxSets  = 3 // Email/set of one chunk, where the account keeps changing
)

// A change brings messages to where they are wanted. Nothing is believed to be
// there because it was asked for: what counts is what judge makes of a message
// that was looked at afterwards. Cyrus 3.6 reports any id that it does not know
// as destroyed (seen 2026-11).
type change struct {
	// judge tells what a message needs; now is nil if it is gone.
	judge func(id string, now *message) step
	// record describes a message that is about to be removed, for the journal;
	// nil for a change that the journal does not hold.
	record func(id string, now *message) upstream.Removal
}

// A step is what is to be done with one message: nothing, if it is zero.
type step struct {
	destroy bool
	patch   jmap.Patch
	leave   bool  // it is not what was meant, and stays as it is
	err     error // the same, as a failure
}

func (s step) done() bool { return !s.destroy && s.patch == nil && !s.leave && s.err == nil }

// An outcome is which messages are where they were wanted, and the first reason
// why one is not.
type outcome struct {
	done map[string]bool // by id
	err  error
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// apply makes a change to messages, chunk by chunk. Each chunk is looked at,
// changed on condition that nothing in the account changed since that look
// (ifInState), and looked at once more. A look that shows no state is none: the
// change would be made on no condition.
func (d *maildrop) apply(ctx context.Context, ids []string, c change) *outcome {
	o := &outcome{done: make(map[string]bool, len(ids))}
	for len(ids) > 0 {
		some := ids[:d.chunk(ids)]
		before := len(o.done)
		err := d.applyChunk(ctx, some, c, o)
		o.err = first(o.err, err)
		if err != nil && len(o.done) == before {
			break // likely to meet the rest as well
		}
		ids = ids[len(some):]
	}
	return o
}

// chunk is how many of the messages the server takes in one request.
func (d *maildrop) chunk(ids []string) int {
	l := d.session.limits
	most := min(maxChunk, l.MaxObjectsInGet, l.MaxObjectsInSet, uint64(len(ids)))
	// Each id stands in Email/set, with a patch that may name two mailboxes, and
	// in Email/get.
	left := int(min(l.MaxSizeRequest, 10_000_000)) - 1000
	for n := range int(most) {
		left -= 2*len(ids[n]) + 2*d.longestBox + 80
		if left < 0 {
			return max(1, n)
		}
	}
	return int(most)
}

// applyChunk makes a change to messages that fit in one request. What failed
// for now, or because the account changed meanwhile, is tried again after
// another look; without one nothing ever is.
func (d *maildrop) applyChunk(ctx context.Context, ids []string, c change, o *outcome) error {
	waited := false
	for sets := 1; ; sets++ {
		now, err := d.get(ctx, ids)
		if err != nil {
			return err
		}
		if now.State == "" {
			return fmt.Errorf("%w: messages were shown without a state", upstream.ErrUnavailable)
		}
		p := d.plan(now, ids, c)
		for _, id := range p.done {
			o.done[id] = true
		}
		if len(p.ids) == 0 {
			return p.wrong
		}
		err = d.carryOut(ctx, p, c, o)
		gap, soon := gapAfter(err, sets)
		switch {
		case err == nil || sets == maxSets:
			return first(p.wrong, err)
		case isMethodError(err, "stateMismatch"):
			// Nothing was done.
		case soon && !waited && !lostConnection(err) && d.u.pause(ctx, gap) == nil:
			waited = true
		default:
			return first(p.wrong, err)
		}
	}
}

// A plan is what one Email/set is to do.
type plan struct {
	set      *email.Set
	ids      []string           // of the messages that it names
	removals []upstream.Removal // the same, for the journal; none if it does not hold them
	done     []string           // messages that need nothing
	wrong    error              // why a message is left alone
}

// plan decides what to do with messages, now that they were looked at. What
// the server shows of messages that it was not asked for is passed over.
func (d *maildrop) plan(now *emails, ids []string, c change) *plan {
	p := &plan{set: &email.Set{Account: d.session.account, IfInState: now.State, Update: map[jmap.ID]jmap.Patch{}}}
	find := now.placed()
	for n, id := range ids {
		m, known := find(n, id)
		if !known {
			p.wrong = fmt.Errorf("%w: %q was neither shown in its place nor said to be gone", upstream.ErrUnavailable, id)
			continue
		}
		s := c.judge(id, m)
		switch {
		case s.done():
			p.done = append(p.done, id)
			continue
		case s.leave || s.err != nil:
			p.wrong = first(p.wrong, s.err)
			continue
		case s.destroy:
			p.set.Destroy = append(p.set.Destroy, jmap.ID(id))
		default:
			p.set.Update[jmap.ID(id)] = s.patch
		}
		p.ids = append(p.ids, id)
		if c.record != nil {
			p.removals = append(p.removals, c.record(id, m))
		}
	}
	return p
}

// carryOut sends a plan, and notes which of its messages are where they were
// wanted afterwards. The error is nil if that is all of them, no matter what
// was answered on the way.
func (d *maildrop) carryOut(ctx context.Context, p *plan, c change, o *outcome) error {
	intent, err := d.begin(ctx, p.removals)
	if err != nil {
		return err
	}
	after, certain, why := d.set(ctx, p)
	if after == nil {
		return why
	}
	var removed []upstream.Removal
	left := 0
	find := after.placed()
	for n, id := range p.ids {
		if m, known := find(n, id); !known || !c.judge(id, m).done() {
			left++
			continue
		}
		o.done[id] = true
		if c.record != nil {
			removed = append(removed, p.removals[n])
		}
	}
	if certain || left == 0 {
		d.end(ctx, intent, removed)
	}
	if left > 0 && why == nil {
		why = fmt.Errorf("%w: still there after an answer of success", upstream.ErrUnavailable)
	}
	if left == 0 {
		return nil
	}
	return why
}

// set sends a plan once, and looks at its messages in the same request. after
// is nil if nothing is known of them. certain tells whether the server is done
// with the plan; else it may still be at it. The error tells why something was
// refused.
func (d *maildrop) set(ctx context.Context, p *plan) (after *emails, certain bool, err error) {
	got, err := d.call(ctx, func() []jmap.Method { return []jmap.Method{p.set, d.getMethod(p.ids)} })
	if err == nil {
		var done *email.SetResponse
		if done, err = answer[email.SetResponse](got, 0); err == nil {
			err = refusal(done)
		}
		certain = true
		if after, lost := answer[emails](got, 1); lost == nil {
			return after, true, err
		}
	}
	// The answer is lost, or says nothing of the outcome. Sending it again could
	// hit what came in between: only look.
	after, lost := d.get(ctx, p.ids)
	if lost != nil {
		return nil, false, errors.Join(err, lost)
	}
	return after, certain, err
}

// refusal is why one of the messages was not changed, if any was not: one that
// may work in a moment before one that may not.
func refusal(r *email.SetResponse) (why error) {
	for _, refused := range []map[jmap.ID]*jmap.SetError{r.NotDestroyed, r.NotUpdated} {
		for id, e := range refused {
			if e == nil {
				e = new(jmap.SetError)
			}
			if e.Type == "notFound" {
				continue // gone already
			}
			err := methodError(&jmap.MethodError{Type: e.Type})
			if _, soon := busy(err); soon || why == nil {
				why = fmt.Errorf("%q not changed: %w", id, err)
			}
		}
	}
	return why
}

// member is the path of a patch that puts a message into a mailbox (true) or
// takes it out (null). RFC 8620 section 5.3, RFC 6901.
func member(box jmap.ID) string { return pointer("mailboxIds", string(box)) }

func pointer(property, key string) string {
	return property + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// in tells whether a message is in a mailbox; one that is gone is in none.
func (m *message) in(box jmap.ID) bool { return m != nil && m.MailboxIDs[string(box)] }

// onlyIn tells whether a message is in a mailbox and in no other.
func (m *message) onlyIn(box jmap.ID) bool {
	for other, in := range m.MailboxIDs {
		if in && other != string(box) {
			return false
		}
	}
	return m.in(box)
}

// unlink is the step that takes a message out of a mailbox. Destroying it would
// take it out of every other one too (RFC 8621 section 4.6), so that is only for
// one that is in no other; and that one cannot be taken out in another way
// (section 4.1.1).
func (m *message) unlink(box jmap.ID) step {
	if m.onlyIn(box) {
		return step{destroy: true}
	}
	return step{patch: jmap.Patch{member(box): nil}}
}

// distinct sorts out ids that are named twice.
func distinct(ids []string) []string {
	slices.Sort(ids)
	return slices.Compact(ids)
}
