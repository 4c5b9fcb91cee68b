package imapc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
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
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	r := removal{d: d}
	for _, i := range messages {
		if err := d.Removable(i); err != nil {
			r.fail(err)
		} else {
			r.todo = append(r.todo, entry{d.listing.uid(i), d.listing.Size(i)})
		}
	}
	slices.SortFunc(r.todo, func(a, b entry) int { return cmp.Compare(a.uid, b.uid) })
	r.todo = slices.Compact(r.todo)
	// From here to the end of run the removal is under way: what is to outlive
	// a crash of this program is written down before, and crossed out after.
	r.run(ctx)
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

// A removal is on its way from todo to gone.
type removal struct {
	d    *maildrop
	todo []entry // by UID
	gone int     // messages that were seen to be gone
	err  error   // the first reason why one is not
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
		switch {
		case err == nil:
			try = 1
			continue
		case errors.Is(err, upstream.ErrChanged) && r.gone > 0:
			// ErrChanged would say that nothing was removed.
			r.fail(fmt.Errorf("%s: %w", printable([]byte(err.Error())), upstream.ErrUnavailable))
			return
		case errors.Is(err, upstream.ErrChanged), errors.Is(err, upstream.ErrRejected), errors.Is(err, errTooLong), try == removeTries:
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
// was lost, or that there is none: todo is as it was. Whatever else goes wrong
// concerns the chunk alone.
func (r *removal) chunk(ctx context.Context) error {
	c, err := r.d.connection(ctx) // checks UIDVALIDITY
	if err != nil {
		return err
	}
	if err := c.removal(); err != nil {
		return err
	}
	some := r.todo[:min(len(r.todo), c.chunkSize())]
	gone, failure := c.remove(ctx, some)
	if failure != nil && c.g.broken() != nil {
		return failure
	}
	r.gone += gone
	if failure != nil {
		r.fail(failure)
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

// remove removes messages and tells how many it saw to be gone; err is nil if
// that is all of them.
func (c *conn) remove(ctx context.Context, some []entry) (gone int, err error) {
	uids, others, err := c.unchanged(ctx, some)
	if err != nil {
		return 0, err
	}
	gone = len(some) - len(uids) - others
	if others > 0 {
		err = fmt.Errorf("%d messages are not those that were listed: %w", others, upstream.ErrRejected)
	}
	if len(uids) == 0 {
		return gone, err
	}
	refusal, lost := c.flagAndExpunge(ctx, uidSet(uids))
	if lost != nil {
		return 0, lost
	}
	left, lost := c.present(ctx, uids)
	if lost != nil {
		return 0, lost
	}
	gone += len(uids) - left
	switch {
	case left > 0 && refusal != nil:
		err = refusal
	case left > 0:
		err = fmt.Errorf("%d messages are still there: %w", left, upstream.ErrUnavailable)
	}
	return gone, err
}

// unchanged returns the UIDs of those messages that are what was listed, and
// how many are not: a message of another size is another message, whatever its
// UID. The rest are gone already.
func (c *conn) unchanged(ctx context.Context, some []entry) (uids []uint32, others int, err error) {
	all := make([]uint32, len(some))
	for k, e := range some {
		all[k] = e.uid
	}
	found, err := c.sizes(ctx, uidSet(all))
	if err != nil {
		return nil, 0, err
	}
	for _, e := range some {
		switch size, there := found[e.uid]; {
		case !there:
		case size == e.size:
			uids = append(uids, e.uid)
		default:
			others++
			c.o.Log.Warn("another message under the same UID", "uid", e.uid, "listed", e.size, "found", size)
		}
	}
	return uids, others, nil
}

// flagAndExpunge removes exactly the messages of a set. refusal is the server's
// NO or BAD to one of the two; err means that the connection was lost.
func (c *conn) flagAndExpunge(ctx context.Context, set string) (refusal, err error) {
	for _, command := range []string{
		"UID STORE " + set + ` +FLAGS.SILENT (\Deleted)`,
		"UID EXPUNGE " + set, // RFC 4315 section 2.1
	} {
		s, err := c.ask(ctx, c.searched(), command, ignore)
		if err != nil {
			return nil, c.lost("remove", err)
		}
		if s.kind != "OK" {
			return refused("remove", s, upstream.ErrUnavailable), nil
		}
	}
	return nil, nil
}

// present tells how many of the messages are there. The OK to UID EXPUNGE does
// not: Dovecot 2.3.19 answers so also where it removed nothing.
func (c *conn) present(ctx context.Context, uids []uint32) (int, error) {
	var found []uidRange
	answered := false
	s, err := c.ask(ctx, c.searched(), "UID SEARCH UID "+uidSet(uids), func(line []byte) error {
		ranges, ok, err := parseSearch(line)
		if ok {
			found, answered = append(found, ranges...), true
		}
		return err
	})
	switch {
	case err != nil:
		return 0, c.lost("look for removed messages", err)
	case s.kind != "OK":
		return 0, refused("look for removed messages", s, upstream.ErrUnavailable)
	case !answered: // no news is not an answer
		sizes, err := c.sizes(ctx, uidSet(uids))
		return len(sizes), err
	}
	n := 0
	for _, uid := range uids {
		if slices.ContainsFunc(found, func(r uidRange) bool { return r.first <= uid && uid <= r.last }) {
			n++
		}
	}
	return n, nil
}

// uidSet writes UIDs, which are sorted, as a set that holds no other number.
func uidSet(uids []uint32) string {
	var set []byte
	for k := 0; k < len(uids); {
		end := k
		for end+1 < len(uids) && uids[end+1]-uids[end] <= 1 {
			end++
		}
		if k > 0 {
			set = append(set, ',')
		}
		set = strconv.AppendUint(set, uint64(uids[k]), 10)
		if uids[end] != uids[k] {
			set = append(set, ':')
			set = strconv.AppendUint(set, uint64(uids[end]), 10)
		}
		k = end + 1
	}
	return string(set)
}

type uidRange struct{ first, last uint32 }

// parseSearch reads the UIDs in a SEARCH or ESEARCH response; ok tells whether
// the line is one that answers. Ranges stay ranges, however wide. An ESEARCH
// without UID holds sequence numbers, and counts as no answer.
func parseSearch(line []byte) (found []uidRange, ok bool, err error) {
	fields := fieldsOf(line)
	if len(fields) < 2 {
		return nil, false, nil
	}
	switch {
	case hasPrefixFold(fields[1], "SEARCH") && len(fields[1]) == len("SEARCH"):
		for _, f := range fields[2:] {
			if f[0] == '(' {
				break // (MODSEQ n), RFC 7162
			}
			r, err := parseRanges(f)
			if err != nil {
				return nil, false, err
			}
			found = append(found, r...)
		}
		return found, true, nil
	case hasPrefixFold(fields[1], "ESEARCH") && len(fields[1]) == len("ESEARCH"):
		uid := false
		for k, f := range fields[2:] {
			if hasPrefixFold(f, "UID") && len(f) == len("UID") {
				uid = true
			}
			if hasPrefixFold(f, "ALL") && len(f) == len("ALL") && k+3 < len(fields) {
				if found, err = parseRanges(fields[k+3]); err != nil {
					return nil, false, err
				}
			}
		}
		return found, uid, nil
	}
	return nil, false, nil
}

// fieldsOf splits a line at its spaces.
func fieldsOf(line []byte) (fields [][]byte) {
	for line = trimSpace(line); len(line) > 0; line = trimSpace(line) {
		end := 0
		for end < len(line) && line[end] != ' ' {
			end++
		}
		fields = append(fields, line[:end])
		line = line[end:]
	}
	return fields
}

func parseRanges(set []byte) (found []uidRange, err error) {
	for len(set) > 0 {
		first, n := number(set)
		last := first
		set = set[n:]
		if n > 0 && len(set) > 0 && set[0] == ':' {
			last, n = number(set[1:])
			set = set[1+n:]
		}
		if n == 0 || first > math.MaxUint32 || last > math.MaxUint32 || len(set) > 0 && set[0] != ',' {
			return nil, fmt.Errorf("set %s: %w", printable(set), errProtocol)
		}
		if len(set) > 0 {
			set = set[1:]
		}
		found = append(found, uidRange{uint32(min(first, last)), uint32(max(first, last))})
	}
	return found, nil
}
