package imapc

import (
	"context"
	"fmt"
	"slices"
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
	for chunks := range slices.Chunk(c.divide(todo), maxChunks) {
		if err := c.complete(ctx, way, chunks); err != nil {
			return true, err
		}
		for _, k := range chunks {
			for _, e := range k.messages {
				if contains(k.gone, e.uid) {
					removed = append(removed, u.removal(c.box.uidValidity, e, c.place(way, k, e.uid)))
				}
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

// complete finishes the removal of some chunks, where that takes UID EXPUNGE
// alone, and finds out which of their messages are gone.
func (c *conn) complete(ctx context.Context, begun string, chunks []*chunk) error {
	if err := c.recheck(ctx, chunks); err != nil {
		return err
	}
	there := slices.DeleteFunc(slices.Clone(chunks), func(k *chunk) bool { return k.over })
	if err := c.completeThere(ctx, begun, there); err != nil {
		return err
	}
	for _, k := range chunks {
		switch left := len(without(k.uids, k.gone)); {
		case k.unseen != nil:
			return k.unseen
		case left > 0 && k.refusal != nil:
			return k.refusal
		case k.hidden > 0:
			return k.notShown()
		}
	}
	return nil
}

func (c *conn) completeThere(ctx context.Context, begun string, chunks []*chunk) error {
	now, unable := c.way()
	if len(chunks) > 0 && begun == byExpunge.String() && now == byExpunge && unable == nil {
		return c.expungeFlagged(ctx, chunks)
	}
	for _, k := range chunks {
		left := k.uids
		if begun == byFlag.String() {
			flagged, err := c.find(ctx, k.uids, " DELETED")
			if err != nil {
				return err
			}
			left = without(k.uids, flagged)
		}
		k.finish(left)
	}
	return nil
}

// place is where a message is that was removed by the way that the journal tells.
func (c *conn) place(begun string, k *chunk, uid uint32) upstream.Place {
	if begun == byFlag.String() && !contains(k.absent, uid) {
		return c.here(uid)
	}
	return upstream.Place{}
}
