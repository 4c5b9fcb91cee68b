package jmapc

import (
	"context"
	"fmt"
	"time"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/email"

	"postern/upstream"
)

const maxChanges = 500 // since a listing was kept; after more it is read anew

// changeMethods ask what changed since the listing was kept: which messages,
// where those are now, and which are the newest, in the server's own order.
func (d *maildrop) changeMethods(at int) []jmap.Method {
	limit := d.changeLimit()
	newest := d.shown()
	if after := d.kept.newest(); !after.IsZero() {
		newest.After = &after
	}
	properties := []string{"id", "mailboxIds", "receivedAt", "keywords"}
	return []jmap.Method{
		&email.Changes{Account: d.session.account, SinceState: d.kept.State, MaxChanges: limit},
		&email.Get{Account: d.session.account, Properties: properties, ReferenceIDs: resultOf(at, "Email/changes", "/created")},
		&email.Get{Account: d.session.account, Properties: properties, ReferenceIDs: resultOf(at, "Email/changes", "/updated")},
		&email.Query{Account: d.session.account, Filter: newest, Sort: oldestFirst, Limit: limit},
		&email.Get{Account: d.session.account, Properties: d.properties(), ReferenceIDs: resultOf(at+3, "Email/query", "/ids")},
	}
}

func (d *maildrop) changeLimit() uint64 { return min(maxChanges, d.session.limits.MaxObjectsInGet) }

// newest is the time from which on messages are the newest: a second before the
// last one that is kept, for servers that leave out those of that second. It is
// zero if none is kept.
func (k *kept) newest() time.Time {
	if l := k.listing; l.Len() > 0 {
		return time.Unix(l.received[l.Len()-1]-1, 0).UTC()
	}
	return time.Time{}
}

// relist returns the kept listing as it is now; nil if there is none, or if it
// is in doubt.
func (d *maildrop) relist(ctx context.Context) *listing {
	k, early := d.kept, d.early
	if k == nil {
		return nil
	}
	d.kept, d.early = nil, nil
	if early == nil {
		return nil // the inbox is another one
	}
	c, err := d.readChanges(early, 1, k)
	if err == nil {
		err = d.merge(k, c)
	}
	if err != nil {
		d.u.o.Log.Debug("kept listing in doubt", "account", d.account.User, "err", err)
		return nil
	}
	// A few changes can be told from the kept listing next time as well.
	if c.n > min(d.listing.Len()/64, maxChanges/2) {
		d.keepListing(ctx)
	}
	return d.listing
}

// The changes since a listing was kept.
type changes struct {
	state  string
	n      int                 // how many messages
	now    map[string]*message // what they are now, by id; nil for one that is gone
	newest *page
}

func doubt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{upstream.ErrUnavailable}, args...)...)
}

func (d *maildrop) readChanges(got answers, at int, k *kept) (*changes, error) {
	list, err := answer[email.ChangesResponse](got, at)
	if err != nil {
		return nil, err
	}
	if list.OldState != k.State || list.NewState == "" || list.HasMoreChanges {
		return nil, doubt("changes since %q, not %q, or more to come", brief(list.OldState), k.State)
	}
	c := &changes{state: list.NewState, now: make(map[string]*message), n: len(list.Created) + len(list.Updated) + len(list.Destroyed)}
	for _, id := range list.Destroyed {
		c.now[string(id)] = nil
	}
	for k, ids := range [][]jmap.ID{list.Created, list.Updated} {
		shown, err := answer[emails](got, at+1+k)
		if err != nil {
			return nil, err
		}
		find := shown.placed()
		for n, id := range ids {
			m, known := find(n, string(id))
			if !known {
				return nil, doubt("a changed message was neither shown nor said to be gone")
			}
			c.now[string(id)] = m
		}
	}
	c.newest = new(page)
	if c.newest.ids, err = answer[email.QueryResponse](got, at+3); err != nil {
		return nil, err
	}
	c.newest.emails, err = answer[emails](got, at+4)
	return c, err
}

// merge makes the listing of what was kept and what changed: the messages that
// are still in the inbox, in their order, and then those that are new. A message
// that came in between, as one that was moved back does, or that was received at
// another time than before, leaves the order in doubt. The latter happens on
// Cyrus 3.6 when a second copy is delivered: it then shows the date of that one,
// and sorts by that of the first (seen 2026-11).
func (d *maildrop) merge(k *kept, c *changes) error {
	if uint64(len(c.newest.ids.IDs)) >= d.changeLimit() {
		return doubt("too many new messages")
	}
	newest := make(map[string]bool, len(c.newest.ids.IDs)) // false: in the listing already
	for _, id := range c.newest.ids.IDs {
		newest[string(id)] = true
	}
	d.listing = &listing{state: c.state}
	old := k.listing
	for i := range old.Len() {
		id := old.name(2 * i)
		m, changed := c.now[string(id)]
		_, isNewest := newest[string(id)]
		switch {
		case changed && !d.isShown(m):
			if isNewest {
				return doubt("a message came back meanwhile")
			}
			continue
		case changed && !received(m).Equal(old.Received(i)):
			return doubt("a message was received at another time than before")
		case !isNewest && old.received[i] == old.received[old.Len()-1]:
			return doubt("the newest message is missing")
		case isNewest:
			newest[string(id)] = false
		}
		if changed {
			delete(c.now, string(id))
		}
		if err := addTo(d.listing, old.name(2*i), old.name(2*i+1), old.Size(i)); err != nil {
			return err
		}
		d.listing.received = append(d.listing.received, old.received[i])
	}
	for id, m := range c.now {
		if d.isShown(m) && !newest[id] {
			return doubt("a message came in between older ones")
		}
	}
	if err := d.addNewest(c.newest, newest, k.newest()); err != nil {
		return err
	}
	return d.checkMerged(k)
}

// addNewest adds those of the newest messages that are not in the listing yet.
func (d *maildrop) addNewest(p *page, isNew map[string]bool, from time.Time) error {
	find := finder(p.emails)
	began := false
	for n, id := range p.ids.IDs {
		if !isNew[string(id)] {
			if began {
				return doubt("a message came in between newer ones")
			}
			continue
		}
		began = true
		m, known := find(n, string(id))
		switch {
		case !known:
			return doubt("a message was named, but neither shown nor said to be gone")
		case m == nil:
			continue
		case received(m).Before(from):
			return doubt("a message came in between older ones")
		}
		if err := d.listing.add(m); err != nil {
			return err
		}
		isNew[string(id)] = false // if it is named twice
	}
	return nil
}

// isShown tells whether a message, nil if it is gone, belongs into the listing.
func (d *maildrop) isShown(m *message) bool { return !d.isRemoved(m) }

func received(m *message) time.Time {
	at, err := time.Parse(time.RFC3339, m.ReceivedAt)
	if err != nil {
		return time.Time{}
	}
	return at.Truncate(time.Second)
}

// checkMerged compares with how many messages the server counts in the inbox,
// and counted when the listing was kept: it may count others than it shows.
func (d *maildrop) checkMerged(k *kept) error {
	l := d.listing
	switch {
	case len(l.received) != l.Len():
		return doubt("a message without a date")
	case l.Len() > d.u.o.MaxMessages:
		return doubt("more than %d messages", d.u.o.MaxMessages)
	case d.way() != byHiding && int64(d.messages)-int64(k.Total) != int64(l.Len()-k.Messages):
		return doubt("%d messages after %d, where the server counts %d after %d", l.Len(), k.Messages, d.messages, k.Total)
	}
	return nil
}
