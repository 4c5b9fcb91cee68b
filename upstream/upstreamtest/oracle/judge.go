package oracle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"postern/upstream"
)

// A Session is what one POP3 client was shown, sent and was told. Times are the
// Record's.
type Session struct {
	Name    string
	Account string
	Began   int64
	Listed  int64    // the scan listing was read; 0 if there was none
	Shown   []int    // messages, by their number less one
	UIDLs   []string // likewise; nil if they were not asked for

	Got    map[int]bool // messages: RETR brought all of it
	Asked  map[int]bool // messages: DELE was sent and not refused, and no RSET after it
	Marked map[int]bool // messages: DELE was confirmed, and no RSET sent after it

	Quit     int64  // the last octet of a QUIT line was about to be sent; 0 never
	Answer   string // to QUIT; empty if it was not read
	Answered int64
	Ended    int64 // the gateway was through with the session, or killed
	Noted    bool  // it was not killed, and could write down what it had learned
}

// Rules are what the gateway was told to do.
type Rules struct {
	Policy upstream.Policy
	// Lenient is set where the server gave the UID of one message to another:
	// unique-ids, and sizes that were kept, then do not say what is shown.
	Lenient bool
}

// A trial holds a Record against sessions.
type trial struct {
	rules    Rules
	events   []Event
	sessions []Session
	found    []string
}

// Judge returns everything that must not have happened: what was done to a
// message that no client wanted removed, and every untrue answer to QUIT.
func Judge(rules Rules, events []Event, sessions []Session) []string {
	t := &trial{rules: rules, events: events, sessions: sessions}
	for _, e := range events {
		if e.Conn != 0 {
			t.judge(e)
		}
	}
	for _, s := range sessions {
		t.judgeAnswer(s)
		if !rules.Lenient {
			t.judgeListing(s)
		}
	}
	if !rules.Lenient {
		t.judgeUIDLs()
	}
	return t.found
}

func (t *trial) fail(format string, args ...any) {
	t.found = append(t.found, fmt.Sprintf(format, args...))
}

// judge looks at one thing that the gateway did.
func (t *trial) judge(e Event) {
	switch e.Kind {
	case Forbidden:
		plain := strings.EqualFold(e.Command, "EXPUNGE")
		if !plain || !t.rules.Policy.ExpungeAlone {
			t.fail("sent what is never to be sent: %v", e)
		}
	case Flagged:
		switch {
		case e.Box == "INBOX" && !t.wanted(e, true):
			t.fail("flagged what nobody wants removed now: %v", e)
		case e.Box != "INBOX" && !t.due(e):
			t.fail("flagged what is not to be purged: %v", e)
		}
	case Left:
		t.judgeRemoval(e)
	case Unflagged:
		t.fail("a flag was taken away: %v", e)
	}
}

// judgeRemoval looks at a message that left a mailbox by the gateway's doing.
func (t *trial) judgeRemoval(e Event) {
	moved := strings.HasPrefix(e.Command, "UID MOVE") || strings.HasPrefix(e.Command, "Email/set")
	p := t.rules.Policy
	switch {
	case e.Box != "INBOX":
		if !t.due(e) {
			t.fail("purged what is not to be purged: %v", e)
		}
		return
	case p.Delete == upstream.DeleteFlag && t.due(e):
		return
	case e.Excused && p.ExpungeAlone:
	case !t.wanted(e, moved): // what was flagged before may be expunged later
		t.fail("removed what nobody wants removed: %v", e)
	}
	kept := t.keeps()
	if kept == "" && p.Delete != upstream.DeleteExpunge {
		t.fail("removed although the policy is %v: %v", p.Delete, e)
	}
	if kept != "" && !t.arrived(e.Message, kept, e.At) {
		t.fail("removed, and not kept in %s: %v", kept, e)
	}
}

// keeps is the mailbox where removed messages are kept, if they are moved.
func (t *trial) keeps() string {
	switch p := t.rules.Policy; {
	case p.Delete == upstream.DeleteTrash, p.Delete == upstream.DeleteExpunge && p.Grace > 0:
		return Trash
	case p.Delete == upstream.DeleteArchive:
		return Archive
	}
	return ""
}

// due tells whether the message of an event may be purged from where it is,
// longer than its grace after the gateway removed it: it put the message there,
// and nobody else has since; or it hid it, and it still was hidden.
func (t *trial) due(e Event) bool {
	p := t.rules.Policy
	if p.Grace <= 0 {
		return false
	}
	if e.Box == "INBOX" {
		return p.Delete == upstream.DeleteFlag && slices.ContainsFunc(t.sessions, func(s Session) bool {
			return s.Account == e.Account && s.Asked[e.Message] && s.Quit != 0 && e.Time.Sub(t.timeOf(s.Quit)) >= p.Grace
		})
	}
	due := false
	for _, v := range t.events {
		if v.At < e.At && v.Kind == Arrived && v.Account == e.Account && v.Message == e.Message && v.Box == e.Box && v.UID == e.UID {
			// By JMAP it has the same name there whoever moved it, and again.
			mine := v.Conn != 0 || e.Validity == 0 && t.wanted(v, false)
			old := e.Time.Sub(v.Time) >= p.Grace
			due = mine && old || due && e.Validity == 0
		}
	}
	return due && e.Box == t.keeps()
}

// timeOf is when the last event before a moment was.
func (t *trial) timeOf(moment int64) (last time.Time) {
	for _, e := range t.events {
		if e.At < moment {
			last = e.Time
		}
	}
	return last
}

// arrived tells whether a message came to a mailbox before a time.
func (t *trial) arrived(message int, box string, before int64) bool {
	return slices.ContainsFunc(t.events, func(e Event) bool {
		return e.Kind == Arrived && e.Message == message && e.Box == box && e.At < before
	})
}

// wanted tells whether a client wants the message of an event removed: a
// complete QUIT came before it, after a DELE that no RSET took back, in a
// session of the same account that was shown the message under the same
// UIDVALIDITY. During that session, where now is set.
func (t *trial) wanted(e Event, now bool) bool {
	return slices.ContainsFunc(t.sessions, func(s Session) bool {
		return s.Account == e.Account && s.Asked[e.Message] && s.Quit != 0 && s.Quit < e.At &&
			(!now || s.Ended == 0 || e.At < s.Ended) && slices.Contains(t.validities(s), e.Validity) &&
			t.rules.Policy.Delete != upstream.DeleteNever
	})
}

// validities are those that the INBOX had while a session began. 0, which JMAP
// has, is always one.
func (t *trial) validities(s Session) []uint32 {
	had := []uint32{0}
	last := uint32(0)
	for _, e := range t.events {
		if e.Account != s.Account || e.Box != "INBOX" || e.Validity == 0 {
			continue
		}
		if e.At < s.Began {
			last = e.Validity
		} else if e.At < s.Listed {
			had = append(had, e.Validity)
		}
	}
	return append(had, last)
}

// judgeAnswer looks for a QUIT that was answered +OK although a message is
// there still, or with a number of remaining messages that is too low.
func (t *trial) judgeAnswer(s Session) {
	if s.Answer == "" || len(s.Marked) == 0 {
		return
	}
	var there []int
	for id := range s.Marked {
		if !t.gone(s, id) {
			there = append(there, id)
		}
	}
	slices.Sort(there)
	if strings.HasPrefix(s.Answer, "+OK") {
		if len(there) > 0 {
			t.fail("%s was told %q, and messages %v are there", s.Name, s.Answer, there)
		}
		return
	}
	var left, marked int
	if n, _ := fmt.Sscanf(s.Answer[strings.Index(s.Answer, "] ")+1:], " %d of %d deleted", &left, &marked); n == 2 {
		if marked != len(s.Marked) || left < len(there) {
			t.fail("%s was told %q; it marked %d, and messages %v are there", s.Name, s.Answer, len(s.Marked), there)
		}
	}
}

// gone tells whether a message was out of the INBOX, or as good as that for the
// policy, at any moment between QUIT and its answer. By IMAP it is gone for good
// once it was: what is put back has another UID, and is not what was shown.
func (t *trial) gone(s Session, id int) bool {
	left := slices.ContainsFunc(t.events, func(e Event) bool {
		return e.Kind == Left && e.Message == id && e.Box == "INBOX" && e.Validity != 0 && s.Began < e.At && e.At < s.Answered
	})
	if left {
		return true
	}
	switch t.rules.Policy.Delete {
	case upstream.DeleteNever:
		return true
	case upstream.DeleteFlag:
		return t.was(s, id, Left, Arrived) || t.was(s, id, Flagged, Unflagged)
	}
	return t.was(s, id, Left, Arrived)
}

// was tells whether a message of an INBOX was in the state between two kinds of
// events at any moment between QUIT and its answer.
func (t *trial) was(s Session, id int, from, to Kind) bool {
	in := false
	for _, e := range t.events {
		if e.At > s.Answered || e.At > s.Quit && in {
			break
		}
		if e.Message == id && e.Account == s.Account && e.Box == "INBOX" && e.Kind != Renumbered {
			in = e.Kind == from || in && e.Kind != to
		}
	}
	return in
}

// judgeListing looks for messages that a listing left out: those that were in
// the INBOX all the time that it took.
func (t *trial) judgeListing(s Session) {
	if s.Listed == 0 {
		return
	}
	if again := slices.Compact(slices.Sorted(slices.Values(s.Shown))); len(again) < len(s.Shown) {
		t.fail("%s was shown a message twice: %v", s.Name, s.Shown)
	}
	for id, stay := range t.stays(s.Account) {
		for _, in := range stay {
			flagged := t.rules.Policy.Delete == upstream.DeleteFlag && in.flagged < s.Listed
			if in.from < s.Began && in.to > s.Listed && !flagged && !slices.Contains(s.Shown, id) {
				t.fail("%s was not shown message %d, which was there from %d to %d", s.Name, id, in.from, in.to)
			}
		}
	}
}

// A stay is from when to when a message was in an INBOX, and when it was
// flagged first.
type stay struct{ from, to, flagged int64 }

func (t *trial) stays(account string) map[int][]stay {
	all := map[int][]stay{}
	for _, e := range t.events {
		if e.Account != account || e.Box != "INBOX" {
			continue
		}
		last := len(all[e.Message]) - 1
		switch {
		case e.Kind == Arrived:
			all[e.Message] = append(all[e.Message], stay{e.At, math.MaxInt64, math.MaxInt64})
		case e.Kind == Left && last >= 0:
			all[e.Message][last].to = e.At
		case e.Kind == Flagged && last >= 0:
			all[e.Message][last].flagged = min(all[e.Message][last].flagged, e.At)
		}
	}
	return all
}

// judgeUIDLs looks for a message whose unique-id changed, and for a unique-id
// that two messages had.
func (t *trial) judgeUIDLs() {
	type message struct {
		account string
		id      int
	}
	type showing struct {
		uidl string
		in   Session
	}
	last, owners := map[message]showing{}, map[string]message{}
	inOrder := slices.SortedFunc(slices.Values(t.sessions), func(a, b Session) int { return cmp.Compare(a.Listed, b.Listed) })
	for _, s := range inOrder {
		for n, uidl := range s.UIDLs {
			m := message{s.Account, s.Shown[n]}
			if l, known := last[m]; known && l.uidl != uidl && t.lasts(m.id, l.uidl, l.in, s) {
				t.fail("%s: message %d has the unique-id %s, was %s in %s", s.Name, m.id, uidl, l.uidl, l.in.Name)
			}
			owner, known := owners[s.Account+" "+uidl]
			if known && owner != m {
				t.fail("%s: message %d has the unique-id %s, which message %d had", s.Name, m.id, uidl, owner.id)
			}
			last[m], owners[s.Account+" "+uidl] = showing{uidl, s}, m
		}
	}
}

// lasts tells whether the unique-id of a message must be the same in two
// sessions. It may change if a person brought back what a client had removed:
// clients that remember the old one are to see it. It may change, too, if a
// message was put back under another UID, or the mailbox was renumbered, and the
// gateway knows no more of the message than its size.
func (t *trial) lasts(id int, uidl string, first, second Session) bool {
	removed := slices.ContainsFunc(t.sessions, func(s Session) bool {
		return s.Account == second.Account && s.Asked[id] && s.Quit != 0 && s.Quit < second.Listed
	})
	missed := slices.ContainsFunc(t.sessions, func(s Session) bool {
		return s.Account == second.Account && s.Listed > first.Began && s.Began < second.Listed && !slices.Contains(s.Shown, id)
	})
	putBack := t.has(func(e Event) bool { return e.Kind == Left && e.Message == id && e.Validity != 0 }, second)
	if removed && (missed || t.has(func(e Event) bool { return e.Kind == Left && e.Message == id }, second)) || putBack {
		return false
	}
	return !t.has(func(e Event) bool { return e.Kind == Renumbered && !t.knows(id, uidl, e) }, second)
}

// has tells whether there was such an event in the INBOX before a session saw it.
func (t *trial) has(such func(Event) bool, s Session) bool {
	return slices.ContainsFunc(t.events, func(e Event) bool {
		return e.Account == s.Account && e.Box == "INBOX" && e.At < s.Listed && such(e)
	})
}

// knows tells whether the gateway has written down before an event which message
// it shows under a unique-id, so that it knows it by another name.
func (t *trial) knows(id int, uidl string, before Event) bool {
	return slices.ContainsFunc(t.sessions, func(s Session) bool {
		n := slices.Index(s.UIDLs, uidl)
		return s.Account == before.Account && s.Noted && s.Got[id] && s.Ended < before.At && n >= 0 && s.Shown[n] == id
	})
}
