package imapc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// keptIn returns removals that are kept in a mailbox of the fake under these
// UIDs, as the journal would have them.
func (f *fake) keptIn(mailbox, validity string, uids ...uint32) (kept []upstream.Removal) {
	b, _ := f.find(mailbox)
	messages := f.messages
	if b != nil {
		messages = b.messages
	}
	for _, uid := range uids {
		r := upstream.Removal{Name: "1", UIDL: "77.1", Size: 5, Kept: upstream.Place{Mailbox: mailbox, Validity: validity, Name: fmt.Sprint(uid)}}
		for _, m := range messages {
			if m.uid == uid {
				r.Size = int64(m.stated())
			}
		}
		kept = append(kept, r)
	}
	return kept
}

// kept gives the fake a trash with UIDs 101, 102 and 105 in it.
func (f *fake) kept() *fakeBox {
	f.trashed()
	b, _ := f.find("Papierkorb")
	for _, uid := range []uint32{101, 102, 105} {
		b.messages = append(b.messages, fakeMessage{uid: uid, raw: strings.Repeat("x", int(uid))})
	}
	b.last = 105
	return b
}

func wantDone(t *testing.T, what string, got []bool, err, kind error, want ...bool) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: done %v, want %v", what, got, want)
	}
	if kind == nil && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if kind != nil {
		wantError(t, what, err, kind)
	}
}

// The session's connection stays as it is: the work is done on another.
func (f *fake) wantUntouched(d *maildrop, work func()) {
	f.t.Helper()
	before := d.current()
	selects := map[string]int{}
	for _, s := range f.sent("SELECT") {
		selects[s]++
	}
	work()
	if d.current() != before || before.g.broken() != nil {
		f.t.Error("the session's connection is not what it was")
	}
	for _, m := range f.messages {
		for i := range d.listing.Len() {
			if d.listing.uid(i) == m.uid {
				wantWhole(f.t, d, i, m.raw)
			}
		}
	}
}

func TestPurge(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		b, log := f.kept(), f.logged()
		d := f.list()
		kept := f.keptIn("Papierkorb", "88", 105, 101, 99, 101)
		f.wantUntouched(d, func() {
			done, err := d.Purge(t.Context(), kept)
			wantDone(t, "purge", done, err, nil, true, true, true, true) // 99 is no longer there
		})
		wantUIDs(t, "trash", f.in(b.name), 102)
		wantUIDs(t, "inbox", f.uids(), 3, 5, 6, 9)
		if want := "mailbox=Papierkorb uidvalidity=88 asked=4 uids=99,101,105 done=4"; !strings.Contains(log.String(), want) {
			t.Errorf("want %s in the log:\n%s", want, log)
		}
	})
}

// Only what is still exactly what was kept goes.
func TestPurgeLeavesWhatIsNotWhatWasKept(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		b := f.kept()
		d := f.list()
		kept := f.keptIn("Papierkorb", "88", 101, 102)
		kept[0].Size++
		other := f.keptIn("Papierkorb", "87", 101, 105)
		none := f.keptIn("Nowhere", "88", 101)
		nameless := f.keptIn("Papierkorb", "88", 105)
		nameless[0].Kept.Name = "x"
		forGood := []upstream.Removal{{Name: "1", Size: 101}}
		done, err := d.Purge(t.Context(), slices.Concat(other, none, kept, nameless, forGood))
		wantDone(t, "purge", done, err, nil, false, false, false, false, true, false, false)
		wantUIDs(t, "trash", f.in(b.name), 101, 105)

		b.uidValidity = "0"
		done, err = d.Purge(t.Context(), f.keptIn("Papierkorb", "0", 105))
		wantDone(t, "purge without UIDVALIDITY", done, err, nil, false)
		wantUIDs(t, "trash", f.in(b.name), 101, 105)
		done, err = d.Purge(t.Context(), nil)
		wantDone(t, "purge of nothing", done, err, nil)
	})
}

// U26: somebody has flagged it in the trash, and the server refuses to flag it
// for postern: it is not expunged for that.
func TestFaultU26PurgeWhereStoreIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		b := f.kept()
		b.messages[0].deleted = true
		d := f.list()
		f.fault = onCommand("UID STORE", func(c *fakeConn) bool { return refuseIt(c, "") })
		done, err := d.Purge(t.Context(), f.keptIn("Papierkorb", "88", 101))
		wantDone(t, "purge", done, err, upstream.ErrUnavailable, false)
		wantUIDs(t, "trash", f.in(b.name), 101, 102, 105)
		if got := f.sent("UID EXPUNGE"); got != nil {
			t.Errorf("sent %q after the refusal", got)
		}
	})
}

// What was only flagged goes if it still is.
func TestPurgeOfFlagged(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Policy.Delete = upstream.DeleteFlag
		d := f.list()
		f.resumable = []string{"5"}
		for _, uid := range []uint32{5, 9} {
			f.change(uid, func(m *fakeMessage) { m.deleted = true })
		}
		done, err := d.Purge(t.Context(), f.keptIn("INBOX", "77", 3, 5))
		wantDone(t, "purge", done, err, nil, true, true)
		wantUIDs(t, "inbox", f.uids(), 3, 6, 9)
		if got := f.sent("UID STORE"); got != nil {
			t.Errorf("sent %q", got)
		}
		done, err = d.Purge(t.Context(), f.keptIn("INBOX", "77", 3))
		wantDone(t, "purge of what was taken back", done, err, nil, true)
	})
}

func TestRestoreByMoveAndByCopy(t *testing.T) {
	for _, caps := range []string{"IMAP4rev1 UIDPLUS MOVE", "IMAP4rev1 UIDPLUS", "IMAP4rev1 MOVE"} {
		bubble(t, func(t *testing.T, f *fake) {
			b := f.kept()
			d := f.list()
			f.caps = caps
			kept := f.keptIn("Papierkorb", "88", 105, 101, 99)
			f.wantUntouched(d, func() {
				done, err := d.Restore(t.Context(), kept)
				wantDone(t, caps, done, err, nil, true, true, false)
			})
			wantUIDs(t, "trash", f.in(b.name), 102)
			wantUIDs(t, "inbox", f.uids(), 3, 5, 6, 9, 10, 11)
		})
	}
}

func TestRestoreOfFlagged(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Policy.Delete = upstream.DeleteFlag
		d := f.list()
		for _, uid := range []uint32{5, 9} {
			f.change(uid, func(m *fakeMessage) { m.deleted = true })
		}
		done, err := d.Restore(t.Context(), f.keptIn("inbox", "77", 5, 4))
		wantDone(t, "restore", done, err, nil, true, false)
		if f.messages[1].deleted || !f.messages[3].deleted {
			t.Errorf("%+v", f.messages)
		}
	})
}

// Whatever breaks, what was seen to be done is told, and nothing else goes.
func TestKeeperUnderFaults(t *testing.T) {
	no := func(c *fakeConn) bool { c.say("%s NO [NOPERM] no", c.tag); return true }
	nothing := func(c *fakeConn) bool { c.ok("done"); return true }
	for name, c := range map[string]struct {
		purge bool
		caps  string
		on    string
		fault func(c *fakeConn) bool
		from  string
		kind  error
		done  bool
		trash []uint32
	}{
		"purge, STORE refused":    {purge: true, on: "UID STORE", fault: no, kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"purge, EXPUNGE refused":  {purge: true, on: "UID EXPUNGE", fault: no, kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"purge, EXPUNGE ignored":  {purge: true, on: "UID EXPUNGE", fault: func(c *fakeConn) bool { c.ok("done"); return true }, trash: []uint32{101, 102, 105}},
		"purge, STORE lost":       {purge: true, on: "UID STORE", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, EXPUNGE lost":     {purge: true, on: "UID EXPUNGE", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, SEARCH lost":      {purge: true, on: "UID SEARCH", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{102, 105}},
		"purge, FETCH lost":       {purge: true, on: "UID FETCH 101 ", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, FETCH refused":    {purge: true, on: "UID FETCH 101 ", fault: no, kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"purge, SELECT lost":      {purge: true, on: `SELECT "Papierkorb"`, fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, SELECT refused":   {purge: true, on: `SELECT "Papierkorb"`, fault: no, trash: []uint32{101, 102, 105}},
		"purge, LOGIN refused":    {purge: true, on: "LOGIN", fault: func(c *fakeConn) bool { c.say("%s NO [UNAVAILABLE] no", c.tag); return true }, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, no UIDPLUS":       {purge: true, caps: "IMAP4rev1 MOVE", kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"purge, flags lost":       {purge: true, from: "INBOX", on: "UID SEARCH", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, hollow FETCH":     {purge: true, on: "UID FETCH 101 ", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"purge, hollow SEARCH":    {purge: true, on: "UID SEARCH", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{102, 105}},
		"purge, hollow flags":     {purge: true, from: "INBOX", on: "UID SEARCH", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, hollow FETCH":   {on: "UID FETCH 101 ", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, hollow SEARCH":  {on: "UID SEARCH", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{102, 105}},
		"restore, hollow flags":   {from: "INBOX", on: "UID SEARCH", fault: nothing, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, MOVE refused":   {on: "UID MOVE", fault: no, kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"restore, MOVE lost":      {on: "UID MOVE", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, FETCH lost":     {on: "UID FETCH 101 ", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, SEARCH lost":    {on: "UID SEARCH", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{102, 105}},
		"restore, inbox lost":     {on: `SELECT "INBOX"`, fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{102, 105}},
		"restore, inbox search":   {on: "UID SEARCH UID 10$", fault: no, kind: upstream.ErrRejected, trash: []uint32{102, 105}},
		"restore, not arrived":    {on: "UID SEARCH UID 10$", fault: func(c *fakeConn) bool { c.say("* SEARCH"); c.ok("done"); return true }, trash: []uint32{102, 105}},
		"restore, not told where": {on: "UID MOVE", fault: func(c *fakeConn) bool { c.box.messages = c.box.messages[1:]; c.ok("done"); return true }, done: true, trash: []uint32{102, 105}},
		"restore, no way":         {caps: "IMAP4rev1", kind: upstream.ErrRejected, trash: []uint32{101, 102, 105}},
		"restore, STORE lost":     {from: "INBOX", on: "UID STORE", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
		"restore, STORE refused":  {from: "INBOX", on: "UID STORE", fault: no, kind: upstream.ErrRejected, done: true, trash: []uint32{101, 102, 105}},
		"restore, flags lost":     {from: "INBOX", on: "UID SEARCH", fault: drop, kind: upstream.ErrUnavailable, trash: []uint32{101, 102, 105}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				b := f.kept()
				d := f.list()
				if c.caps != "" {
					f.caps = c.caps
				}
				kept := f.keptIn("Papierkorb", "88", 101)
				if c.from != "" {
					kept = f.keptIn(c.from, "77", 3)
				}
				if c.on != "" {
					f.fault = onCommand(c.on, c.fault)
					if whole, ok := strings.CutSuffix(c.on, "$"); ok {
						f.fault = func(fc *fakeConn, command string) bool { return command == whole && c.fault(fc) }
					}
				}
				do := d.Restore
				if c.purge {
					do = d.Purge
				}
				done, err := do(t.Context(), kept)
				wantDone(t, name, done, err, c.kind, c.done)
				wantUIDs(t, "trash", f.in(b.name), c.trash...)
				if d.current().g.broken() != nil {
					t.Error("the session's connection is lost")
				}
				for _, uid := range []uint32{3, 5, 6, 9} {
					if !slices.Contains(f.uids(), uid) {
						t.Errorf("UID %d is gone from the inbox", uid)
					}
				}
			})
		})
	}
}

// A server that answers everything by OK, and nothing else, has done nothing.
func TestKeeperBelievesNoEmptyAnswers(t *testing.T) {
	for name, do := range map[string]func(*maildrop, context.Context, []upstream.Removal) ([]bool, error){
		"purge": (*maildrop).Purge, "restore": (*maildrop).Restore} {
		bubble(t, func(t *testing.T, f *fake) {
			b := f.kept()
			d := f.list()
			kept := slices.Concat(f.keptIn("Papierkorb", "88", 101), f.keptIn("INBOX", "77", 3))
			f.fault = hollow("UID")
			done, err := do(d, t.Context(), kept)
			wantDone(t, name, done, err, upstream.ErrUnavailable, false, false)
			wantUIDs(t, "trash", f.in(b.name), 101, 102, 105)
			wantUIDs(t, "inbox", f.uids(), 3, 5, 6, 9)
		})
	}
}

// Many kept messages are dealt with in chunks, in several mailboxes.
func TestPurgeOfManyInSeveralMailboxes(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.trashed()
		var kept []upstream.Removal
		for k, b := range []*fakeBox{f.addBox("A", ""), f.addBox("B", "")} {
			for i := range 300 {
				b.messages = append(b.messages, fakeMessage{uid: uint32(2*i + 1), raw: strings.Repeat("y", i+k)})
			}
			b.messages = append(b.messages, fakeMessage{uid: 9999, raw: "z"})
		}
		d := f.list()
		for i := range 300 {
			kept = append(kept, f.keptIn("A", "88", uint32(2*i+1))...)
			kept = append(kept, f.keptIn("B", "88", uint32(2*i+1))...)
		}
		done, err := d.Purge(t.Context(), kept)
		if err != nil || slices.Contains(done, false) || len(done) != 600 {
			t.Errorf("%v %v", done, err)
		}
		wantUIDs(t, "A", f.in("A"), 9999)
		wantUIDs(t, "B", f.in("B"), 9999)
	})
}

// Close and the end of the context end it.
func TestKeeperEndsWithMaildropAndContext(t *testing.T) {
	for _, end := range []string{"Close", "context"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.kept()
			d := f.list()
			f.fault = onCommand("UID STORE", func(*fakeConn) bool { return true })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error)
			go func() {
				_, err := d.Purge(ctx, f.keptIn("Papierkorb", "88", 101))
				result <- err
			}()
			synctest.Wait()
			began := time.Now()
			if end == "Close" {
				d.Close()
			} else {
				cancel()
			}
			wantError(t, end, <-result, context.Canceled)
			if passed(began) > 2*time.Second {
				t.Errorf("%s: after %v", end, passed(began))
			}
		})
	}
}
