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

// maxChunk is how many messages one request removes at most. Fewer means that
// less is at stake if its answer is lost.
const maxChunk = 500

// Remove implements upstream.Maildrop. A message whose only mailbox is the inbox
// is destroyed; one that is in others too is taken out of the inbox alone,
// since destroying it would remove it there as well (RFC 8621 section 4.6).
//
// Each chunk is looked at again, removed on condition that nothing in the
// account changed since that look (ifInState), and looked at once more: what
// counts is what is seen to be gone, not what was answered. Cyrus 3.6 reports
// any id that it does not know as destroyed (seen 2026-11).
func (d *maildrop) Remove(ctx context.Context, messages []int) (removed int, err error) {
	d.ahead.drop()
	messages = slices.Compact(slices.Sorted(slices.Values(messages)))
	var failed error // the first one that concerns single messages
	may := messages[:0:0]
	for _, i := range messages {
		if err := d.Removable(i); err != nil {
			failed = first(failed, err)
			continue
		}
		may = append(may, i)
	}
	for len(may) > 0 {
		n := d.chunk(may)
		done, err := d.removeChunk(ctx, may[:n])
		removed += done
		failed = first(failed, err)
		if done == 0 && err != nil {
			break // likely to meet the rest as well
		}
		may = may[n:]
	}
	if failed != nil {
		return removed, fmt.Errorf("remove: %d of %d gone: %w", removed, len(messages), failed)
	}
	return removed, nil
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// chunk is how many of messages the server takes in one request.
func (d *maildrop) chunk(messages []int) int {
	l := d.session.limits
	most := min(maxChunk, l.MaxObjectsInGet, l.MaxObjectsInSet, uint64(len(messages)))
	// Each id stands in Email/set, with a patch, and in Email/get.
	left := int(min(l.MaxSizeRequest, 10_000_000)) - 1000
	for n := range int(most) {
		left -= 2*len(d.listing.id(messages[n])) + 2*len(d.inbox) + 60
		if left < 0 {
			return max(1, n)
		}
	}
	return int(most)
}

// removeChunk removes messages that fit in one request, and returns how many
// were seen to be gone.
func (d *maildrop) removeChunk(ctx context.Context, messages []int) (int, error) {
	ids := make([]string, len(messages))
	for n, i := range messages {
		ids[n] = d.listing.id(i)
	}
	for attempt := 1; ; attempt++ {
		before, err := d.get(ctx, ids)
		if err != nil {
			return 0, err
		}
		set, wrong := d.plan(before, messages)
		if set == nil {
			return d.countGone(before, ids, wrong)
		}
		after, err := d.set(ctx, set, ids)
		if isMethodError(err, "stateMismatch") && attempt == 1 {
			continue // nothing was done; look again, once
		}
		if after == nil {
			// The answer is lost, or says nothing of the outcome. Asking again
			// for the removal could hit what came in between: only look.
			var lost error
			if after, lost = d.get(ctx, ids); lost != nil {
				return 0, errors.Join(err, lost)
			}
		}
		return d.countGone(after, ids, first(wrong, err))
	}
}

// plan makes the method that removes what is still as it was listed; nil if
// there is nothing to do. wrong tells of a message that is left alone.
func (d *maildrop) plan(now *emails, messages []int) (set *email.Set, wrong error) {
	out := "mailboxIds/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(string(d.inbox)) // RFC 6901
	set = &email.Set{Account: d.session.account, IfInState: now.State, Update: map[jmap.ID]jmap.Patch{}}
	size := make(map[string]int64, len(messages))
	for _, i := range messages {
		size[d.listing.id(i)] = d.listing.Size(i)
	}
	for _, m := range now.List {
		listed, asked := size[m.ID]
		switch {
		case !asked || !m.MailboxIDs[string(d.inbox)]:
			// Not ours, or no longer in the inbox.
		case m.Size != listed:
			wrong = fmt.Errorf("%w: %q has %d octets, was listed with %d", upstream.ErrRejected, m.ID, m.Size, listed)
		case onlyIn(m.MailboxIDs, string(d.inbox)):
			set.Destroy = append(set.Destroy, jmap.ID(m.ID))
		default:
			set.Update[jmap.ID(m.ID)] = jmap.Patch{out: nil}
		}
	}
	if len(set.Destroy)+len(set.Update) == 0 {
		return nil, wrong
	}
	return set, wrong
}

func onlyIn(boxes map[string]bool, inbox string) bool {
	for box, in := range boxes {
		if in && box != inbox {
			return false
		}
	}
	return boxes[inbox]
}

// set sends the removal once, and looks at the messages in the same request.
// The look is nil if there was none. The error tells why something was refused.
func (d *maildrop) set(ctx context.Context, set *email.Set, ids []string) (*emails, error) {
	got, err := d.call(ctx, func() []jmap.Method { return []jmap.Method{set, d.getMethod(ids)} })
	if err != nil {
		return nil, err
	}
	done, err := answer[email.SetResponse](got, 0)
	if err != nil {
		return nil, err
	}
	after, err := answer[emails](got, 1)
	return after, first(refusal(done), err)
}

// refusal is why one of the messages was not removed, if any was not.
func refusal(r *email.SetResponse) error {
	for _, refused := range []map[jmap.ID]*jmap.SetError{r.NotDestroyed, r.NotUpdated} {
		for id, e := range refused {
			switch {
			case e == nil:
				return fmt.Errorf("%w: %q not removed", upstream.ErrUnavailable, id)
			case e.Type == "notFound":
				// Gone already.
			case e.Type == "forbidden" || e.Type == "invalidProperties" || e.Type == "accountReadOnly":
				return fmt.Errorf("%w: %q not removed: %q", upstream.ErrRejected, id, e.Type)
			default:
				return fmt.Errorf("%w: %q not removed: %q", upstream.ErrUnavailable, id, brief(e.Type))
			}
		}
	}
	return nil
}

// countGone counts the messages that are not in the inbox. If all are gone, no
// matter what was answered on the way.
func (d *maildrop) countGone(now *emails, ids []string, why error) (int, error) {
	state := make(map[string]bool, len(ids)) // id: is gone
	for _, id := range now.NotFound {
		state[id] = true
	}
	for _, m := range now.List {
		state[m.ID] = !m.MailboxIDs[string(d.inbox)]
	}
	gone := 0
	for _, id := range ids {
		if state[id] {
			gone++
		}
	}
	if gone == len(ids) {
		return gone, nil
	}
	if why == nil {
		why = fmt.Errorf("%w: still there after an answer of success", upstream.ErrUnavailable)
	}
	return gone, why
}
