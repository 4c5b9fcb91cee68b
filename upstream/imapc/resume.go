package imapc

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"postern/upstream"
)

// settled returns the connection with nothing of earlier sessions unfinished
// that can be finished. If that has lost it, it returns another one: whoever
// asks a server for what it cannot stand must still be able to log in.
func (u *Upstream) settled(ctx context.Context, c *conn, account upstream.Account) (*conn, error) {
	touched, err := u.resume(ctx, c, account)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("unfinished removal: %w", err)
	case err != nil:
		return u.open(ctx, account)
	case touched:
		// The number of messages is no longer what SELECT said.
		if c.box, err = c.selectMailbox(ctx); err != nil {
			c.g.Close()
			return nil, err
		}
	}
	return c, nil
}

// resume settles the removals that earlier sessions of the account left
// unfinished in this mailbox. Whether messages are still flagged decides: the
// flags are not set again, so what a person has un-deleted stays. Messages that
// were to be moved or only flagged are only looked at. Two sessions may do this
// at once, as each step names the same messages.
//
// touched tells whether the mailbox may have changed. Whatever goes wrong is
// logged, and waits for the next login; err means that the connection is lost.
func (u *Upstream) resume(ctx context.Context, c *conn, account upstream.Account) (touched bool, err error) {
	if u.o.Journal == nil {
		return false, nil
	}
	log := u.o.Log.With("account", account.User)
	pending, err := u.o.Journal.Pending(ctx, account.User)
	if err != nil {
		// It threatens no mail: the login goes on.
		log.Warn("unfinished removals not looked for", "err", err)
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	began := time.Now()
	for _, intent := range pending {
		if time.Since(began) > resumeTime/2 {
			log.Warn("unfinished removals left for the next login")
			return touched, nil
		}
		used, err := u.settle(ctx, c, intent)
		touched = touched || used
		if err != nil {
			log.Warn("unfinished removal not settled", "session", intent.Session, "err", err)
		}
		if broken := c.g.broken(); broken != nil {
			return touched, broken
		}
	}
	return touched, nil
}

// settle finds out what became of one intent, and strikes it out.
func (u *Upstream) settle(ctx context.Context, c *conn, intent upstream.Intent) (touched bool, err error) {
	validity := strconv.FormatUint(uint64(c.box.uidValidity), 10)
	old := time.Since(intent.At) > resumeAge
	if !old && intent.Mailbox != c.listedName() {
		return false, nil // another route's
	}
	way, todo, err := parseNames(intent.Names)
	if old || intent.Validity != validity || c.box.uidValidity == 0 || c.box.notSticky || err != nil {
		u.o.Log.Warn("unfinished removal given up", "account", intent.Account, "session", intent.Session,
			"begun", intent.At, "uidvalidity", intent.Validity, "now", validity, "err", err)
		return false, u.o.Journal.End(ctx, intent.ID, nil)
	}
	var removed []upstream.Removal
	for len(todo) > 0 {
		some := todo[:min(len(todo), c.chunkSize())]
		todo = todo[len(some):]
		gone, err := c.complete(ctx, way, some)
		if err != nil {
			return true, err
		}
		for _, e := range some {
			if kept, ok := gone[e.uid]; ok {
				removed = append(removed, u.removal(c.box.uidValidity, e, kept))
			}
		}
	}
	u.o.Log.Info("unfinished removal settled", "account", intent.Account, "session", intent.Session, "policy", intent.Policy,
		"mailbox", printable([]byte(u.o.Mailbox)), "uidvalidity", c.box.uidValidity,
		"uids", setOfRemoved(removed), "removed", len(removed))
	if err := u.o.Journal.End(ctx, intent.ID, removed); err != nil {
		return true, fmt.Errorf("note it: %w", err)
	}
	return true, nil
}

// complete finishes the removal of some messages, where that takes UID EXPUNGE
// alone, and tells which are gone, with the place where they are kept.
func (c *conn) complete(ctx context.Context, begun string, some []entry) (map[uint32]upstream.Place, error) {
	k, err := c.look(ctx, some)
	if err != nil {
		return nil, err
	}
	if k.hidden > 0 {
		return nil, k.notShown()
	}
	uids, gone := k.uids, make(map[uint32]upstream.Place)
	for _, uid := range k.absent {
		gone[uid] = upstream.Place{}
	}
	if len(uids) == 0 {
		return gone, nil
	}
	switch now, unable := c.way(); {
	case begun == byFlag.String():
		flagged, err := c.find(ctx, uids, " DELETED")
		for _, uid := range flagged {
			gone[uid] = c.here(uid)
		}
		return gone, err
	case begun == byExpunge.String() && now == byExpunge && unable == nil:
		refusal, err := c.tell(ctx, "UID EXPUNGE "+uidSet(uids))
		if err != nil {
			return nil, err
		}
		left, err := c.present(ctx, uids)
		if err != nil {
			return nil, err
		}
		if refusal != nil && len(left) > 0 {
			return nil, refusal
		}
		for _, uid := range without(uids, left) {
			gone[uid] = upstream.Place{}
		}
	}
	return gone, nil
}
