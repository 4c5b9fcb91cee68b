package imapc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/upstream"
)

const (
	journalTime = 10 * time.Second   // to note the outcome when the session's time is up
	resumeTime  = 10 * time.Second   // that a login spends on what an earlier session left
	resumeAge   = 7 * 24 * time.Hour // of an intent that is still acted on
)

var errNotBegun = errors.New("removal not begun")

// begin writes down what is left to do, once, before the first command that
// removes anything.
func (r *removal) begin(ctx context.Context, w way) error {
	if r.d.u.o.Journal == nil || r.intent != 0 {
		return nil
	}
	id, err := r.write(ctx, w, r.todo)
	if err != nil {
		return fmt.Errorf("%w: %w: %w", errNotBegun, err, upstream.ErrUnavailable)
	}
	r.intent, r.way, r.named = id, w, len(r.todo)
	return nil
}

func (r *removal) write(ctx context.Context, w way, todo []entry) (id int64, err error) {
	o := &r.d.u.o
	return o.Journal.Begin(ctx, upstream.Intent{
		Account:  r.d.account.User,
		Session:  r.d.account.Session,
		Policy:   o.Policy.Delete.String(),
		Mailbox:  r.d.current().listedName(),
		Validity: strconv.FormatUint(uint64(r.d.uidValidity), 10),
		Names:    formatNames(w, todo),
	})
}

// finish logs the removal, and notes its outcome. What is not known stays in
// the journal for the next login.
func (r *removal) finish(ctx context.Context) {
	r.log()
	if r.intent == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTime)
	defer cancel()
	if open := r.open(); len(open) > 0 {
		if len(open) == r.named {
			return
		}
		// Only what is open is to wait. In this order, so that a crash in
		// between forgets nothing.
		if _, err := r.write(ctx, r.way, open); err != nil {
			r.d.u.o.Log.Warn("unfinished removal not noted, the finished part neither", "account", r.d.account.User, "err", err)
			return
		}
	}
	if err := r.d.u.o.Journal.End(ctx, r.intent, r.removed); err != nil {
		// They are gone all the same. The next login tries again.
		r.d.u.o.Log.Warn("removal not noted", "account", r.d.account.User, "err", err)
	}
}

// open returns the messages of which it is not known whether they are removed.
// Under another UIDVALIDITY it never will be.
func (r *removal) open() (open []entry) {
	if r.changed {
		return nil
	}
	for _, e := range append(r.unseen, r.todo...) {
		if r.sent[e.uid] {
			open = append(open, e)
		}
	}
	slices.SortFunc(open, func(a, b entry) int { return cmp.Compare(a.uid, b.uid) })
	return open
}

// log tells of the removal in one line. Of one that removed nothing, the answer
// to the client is told.
func (r *removal) log() {
	if len(r.removed) == 0 {
		return
	}
	r.d.u.o.Log.Info("messages removed",
		"account", r.d.account.User, "session", r.d.account.Session, "policy", r.d.u.o.Policy.Delete.String(),
		"mailbox", printable([]byte(r.d.u.o.Mailbox)), "uidvalidity", r.d.uidValidity,
		"uids", setOfRemoved(r.removed), "removed", len(r.removed))
}

func setOfRemoved(removed []upstream.Removal) string {
	var uids []uint32
	for _, m := range removed {
		uids = append(uids, uidOf(m.Name))
	}
	return shortSet(uids)
}

// shortSet writes UIDs for a log line, which holds the beginning of a long set.
func shortSet(uids []uint32) string {
	const limit = 1000
	slices.Sort(uids)
	set := uidSet(uids)
	if len(set) <= limit {
		return set
	}
	return set[:strings.LastIndexByte(set[:limit], ',')+1] + "..."
}

// uidOf reads a UID, 0 if it is none.
func uidOf(name string) uint32 {
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(uid)
}

// formatNames writes the names of an intent: the way, the UIDs as a set, and the
// size of each, with the unique-id that the client was shown if it is another
// than the upstream's. "expunge 3,5:6 900 912:17.4 874".
func formatNames(w way, todo []entry) string {
	text := []byte(w.String() + " " + uidSet(uidsOf(todo)))
	for _, e := range todo {
		text = append(text, ' ')
		text = strconv.AppendInt(text, e.size, 10)
		if e.uidl != "" {
			text = append(append(text, ':'), e.uidl...)
		}
	}
	return string(text)
}

// parseNames reads what formatNames wrote.
func parseNames(names string) (way string, todo []entry, err error) {
	words := strings.Fields(names)
	malformed := fmt.Errorf("names %s: %w", printable([]byte(names)), errProtocol)
	if len(words) < 3 {
		return "", nil, malformed
	}
	ranges, err := parseRanges([]byte(words[1]))
	if err != nil {
		return "", nil, malformed
	}
	sizes := words[2:]
	for _, r := range ranges {
		for uid := uint64(r.first); uid <= uint64(r.last); uid++ {
			if len(sizes) == 0 {
				return "", nil, malformed
			}
			text, uidl, _ := strings.Cut(sizes[0], ":")
			size, err := strconv.ParseInt(text, 10, 64)
			if err != nil || len(todo) > 0 && uint32(uid) <= todo[len(todo)-1].uid {
				return "", nil, malformed
			}
			todo, sizes = append(todo, entry{uid: uint32(uid), size: size, uidl: uidl}), sizes[1:]
		}
	}
	if len(sizes) > 0 {
		return "", nil, malformed
	}
	return words[0], todo, nil
}
