package imapc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A fakeJournal is an upstream.Journal that outlives the sessions of a test.
type fakeJournal struct {
	f *fake // nil on a real server

	mu      sync.Mutex
	last    int64
	pending []upstream.Intent
	begun   []upstream.Intent // all there ever were
	removed map[int64][]upstream.Removal
	at      []int // commands that had been sent when each intent was begun

	noBegin, noEnd, noPending error
}

// journal gives the fake a journal, and allows what resuming it sends.
func (f *fake) journal() *fakeJournal {
	j := newJournal()
	j.f, f.options.Journal = f, j
	return j
}

func newJournal() *fakeJournal { return &fakeJournal{removed: map[int64][]upstream.Removal{}} }

func (j *fakeJournal) Begin(_ context.Context, intent upstream.Intent) (int64, error) {
	sent := 0
	if j.f != nil {
		sent = len(j.f.sent(""))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.noBegin != nil {
		return 0, j.noBegin
	}
	j.last++
	intent.ID, intent.At = j.last, time.Now()
	j.pending, j.begun, j.at = append(j.pending, intent), append(j.begun, intent), append(j.at, sent)
	return j.last, nil
}

func (j *fakeJournal) End(_ context.Context, id int64, removed []upstream.Removal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.noEnd != nil {
		return j.noEnd
	}
	before := len(j.pending)
	j.pending = slices.DeleteFunc(j.pending, func(i upstream.Intent) bool { return i.ID == id })
	if len(j.pending) == before {
		return errors.New("no such intent")
	}
	j.removed[id] = removed
	return nil
}

func (j *fakeJournal) Pending(_ context.Context, account string) (found []upstream.Intent, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, i := range j.pending {
		if i.Account == account {
			found = append(found, i)
		}
	}
	return found, j.noPending
}

// all returns what the journal says was removed.
func (j *fakeJournal) all() (removed []upstream.Removal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, i := range j.begun {
		removed = append(removed, j.removed[i.ID]...)
	}
	return removed
}

func (j *fakeJournal) names() []string {
	names := []string{}
	for _, r := range j.all() {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}

func (j *fakeJournal) wantPending(names ...string) {
	j.f.t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	got := []string{}
	for _, i := range j.pending {
		got = append(got, i.Names)
	}
	if !slices.Equal(got, names) {
		j.f.t.Errorf("pending are %q, want %q", got, names)
	}
}

func (j *fakeJournal) wantNames(names ...string) {
	j.f.t.Helper()
	if got := j.names(); !slices.Equal(got, names) {
		j.f.t.Errorf("the journal says that %q were removed, want %q", got, names)
	}
}

// leave makes an intent as a session leaves it that was cut off, with the UIDs
// flagged.
func (f *fake) leave(j *fakeJournal, w way, uids ...uint32) upstream.Intent {
	var todo []entry
	for _, uid := range uids {
		f.change(uid, func(m *fakeMessage) {
			m.deleted = true
			todo = append(todo, entry{uid: uid, size: int64(m.stated())})
		})
	}
	intent := upstream.Intent{Account: "bob@example.org", Session: "s1", Policy: "expunge",
		Mailbox: "INBOX", Validity: "77", Names: formatNames(w, todo)}
	id, err := j.Begin(context.Background(), intent)
	if err != nil {
		f.t.Fatal(err)
	}
	f.resumable = append(f.resumable, uidSet(uids))
	intent.ID = id
	return intent
}

// logged sends the log into the buffer.
func (f *fake) logged() *lockedBuffer {
	var log lockedBuffer
	f.options.Log = slog.New(slog.NewTextHandler(&log, nil))
	return &log
}

func TestRemovalIsWrittenDownBefore(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j, log := f.journal(), f.logged()
		f.take(5)
		d := f.list()
		d.account.Session = "s7"
		f.mu.Lock()
		f.messages = append([]fakeMessage{{uid: 5}}, f.messages...)
		f.mu.Unlock()
		wantRemoved(t, f, d, []int{1, 0}, 2, nil, 5, 9)
		size := int64(len(upstreamtest.Letter(0, 900)))
		intent := j.begun[0]
		at := intent.At
		want := upstream.Intent{ID: 1, At: at, Account: "bob@example.org", Session: "s7", Policy: "expunge", Mailbox: "INBOX",
			Validity: "77", Names: fmt.Sprintf("expunge 3,6 %d %d", size, d.listing.Size(1))}
		if intent != want {
			t.Errorf("written down was %+v, want %+v", intent, want)
		}
		for _, command := range f.sent("")[:j.at[0]] {
			if strings.Contains(command, "STORE") {
				t.Errorf("sent %q before", command)
			}
		}
		if got, want := fmt.Sprint(j.removed[1]), fmt.Sprintf("[{3 77.3 %d {  }} {6 77.6 %d {  }}]", size, d.listing.Size(1)); got != want {
			t.Errorf("noted as removed are %s, want %s", got, want)
		}
		line := `msg="messages removed" account=bob@example.org session=s7 policy=expunge mailbox=INBOX uidvalidity=77 uids=3,6 removed=2`
		if got := strings.Count(log.String(), line); got != 1 {
			t.Errorf("logged %d times %s, want once:\n%s", got, line, log)
		}
	})
}

// What was not removed is not told as removed: it has the answer to the client.
func TestNothingRemovedIsNotLogged(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		log := f.logged()
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(c *fakeConn) bool { c.say("%s NO Permission denied", c.tag); return true })
		if n, err := d.Remove(t.Context(), []int{0}); n != 0 || err == nil {
			t.Errorf("removed %d, %v; want none, and why", n, err)
		}
		if strings.Contains(log.String(), "messages removed") {
			t.Errorf("logged is\n%s\nwant nothing of a removal", log)
		}
	})
}

// relabelled is a listing with unique-ids of somebody else's, but for the last.
type relabelled struct{ upstream.Listing }

func (l relabelled) AppendUIDL(dst []byte, i int) []byte {
	if i == l.Len()-1 {
		return l.Listing.AppendUIDL(dst, i)
	}
	return fmt.Appendf(dst, "old:%d", i)
}

// The journal has the unique-ids that the client was shown, also where a later
// session finishes the removal.
func TestRemovalsHaveTheUIDLsThatWereShown(t *testing.T) {
	for _, cut := range []bool{false, true} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.journal()
			if cut {
				j.noEnd = errors.New("disk full")
			}
			d := f.list()
			d.Shown(relabelled{d.listing})
			wantRemoved(t, f, d, []int{0, 1, 3}, 3, nil, 6)
			if cut {
				j.noEnd = nil
				f.resumable = append(f.resumable, "3,5,9")
				f.list()
			}
			uidls := []string{}
			for _, r := range j.all() {
				uidls = append(uidls, r.UIDL)
			}
			if want := []string{"old:0", "old:1", "77.9"}; !slices.Equal(uidls, want) {
				t.Errorf("cut off: %v, removed as %q, want %q", cut, uidls, want)
			}
			j.wantPending()
		})
	}
}

func TestNothingIsRemovedThatCannotBeWrittenDown(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.journal().noBegin = errors.New("disk full")
		d := f.list()
		before := len(f.sent("")) // nothing is sent at all
		wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrUnavailable, 3, 5, 6, 9)
		if got := f.sent("")[before:]; len(got) > 0 {
			t.Errorf("sent %q", got)
		}
	})
}

// What was gone before it could be removed was not removed here.
func TestOnlyOwnRemovalsAreNoted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		d := f.list()
		f.take(5)
		wantRemoved(t, f, d, []int{0, 1}, 2, nil, 6, 9)
		j.wantNames("3")
		wantRemoved(t, f, d, []int{0, 1}, 2, nil, 6, 9)
		j.wantNames("3")
		j.wantPending()
	})
}

// A refusal is an outcome: nothing waits for the next login.
func TestRefusedRemovalIsNoted(t *testing.T) {
	for _, command := range []string{"UID STORE", "UID EXPUNGE"} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.journal()
			d := f.list()
			f.fault = onCommand(command, func(c *fakeConn) bool { c.say("%s NO [NOPERM] no", c.tag); return true })
			wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrRejected, 3, 5, 6, 9)
			j.wantPending()
			j.wantNames()
		})
	}
}

// Only what cannot be looked for is open: SEARCH and FETCH are refused.
func TestUnseenOutcomeStaysPending(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "UID SEARCH") {
				c.say("%s NO not now", c.tag)
				return true
			}
			return false
		}
		wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrUnavailable, 6, 9)
		j.wantPending(j.begun[0].Names)
		f.fault = nil
		f.open()
		j.wantPending()
		j.wantNames("3", "5")
	})
}

// H3, C11, U27, U28: the program or the connection dies at every point of the
// removal, before and after the command took effect, in the first and in the
// last chunk. Then somebody takes the flag off one message, another client
// flags one of its own, and the account logs in again.
func TestEveryCrashPoint(t *testing.T) {
	const n = 400 // two chunks
	for _, point := range []string{"UID FETCH", "UID STORE", "UID EXPUNGE", "UID SEARCH", "End"} {
		for chunk := 1; chunk <= 2; chunk++ {
			for _, done := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %d %v", point, chunk, done), func(t *testing.T) {
					bubble(t, func(t *testing.T, f *fake) { crashAt(t, f, n, point, chunk, done) })
				})
			}
		}
	}
}

func crashAt(t *testing.T, f *fake, n int, point string, chunk int, done bool) {
	j := f.journal()
	f.messages = nil
	for i := range n + 2 {
		f.messages = append(f.messages, fakeMessage{uid: crowdUID(i), raw: "x: y\r\n"})
	}
	d := f.list()
	var marked []int
	for i := range n {
		marked = append(marked, i)
	}
	seen, dead := 0, false
	f.fault = func(c *fakeConn, command string) bool {
		if strings.HasPrefix(command, point) {
			seen++
		}
		dead = dead || seen == chunk && strings.HasPrefix(command, point)
		if !dead {
			return false
		}
		if seen == chunk && done {
			seen++ // once
			(&fakeConn{Conn: nowhere(), f: f}).do(command)
		}
		return drop(c)
	}
	if point == "End" {
		j.noEnd = errors.New("killed")
	}
	removed, err := d.Remove(t.Context(), marked)
	if (err == nil) != (point == "End") {
		t.Errorf("removed %d, %v", removed, err)
	}
	gone := n + 2 - len(f.uids())
	if removed > gone {
		t.Errorf("removed %d, and %d are gone", removed, gone)
	}

	f.fault, j.noEnd = nil, nil
	var stays []uint32
	for i, m := range f.messages {
		if m.deleted && len(stays) == 0 {
			f.messages[i].deleted = false // a person has changed their mind
			stays = append(stays, m.uid)
		} else if !m.deleted {
			stays = append(stays, m.uid)
		}
	}
	f.messages[len(f.messages)-1].deleted = true // another client's
	for _, i := range j.pending {
		_, todo, err := parseNames(i.Names)
		if err != nil {
			t.Fatal(err)
		}
		for part := range lines(todo, entry.name, d.c.maxSet()) {
			f.resumable = append(f.resumable, uidSet(uidsOf(part)))
			f.resumable = append(f.resumable, uidSet(without(uidsOf(part), nil)))
		}
	}
	stored := len(f.sent("UID STORE"))
	next := f.list()
	if got := f.uids(); !slices.Equal(got, stays) {
		t.Errorf("left are %d messages, want %d: what nobody had flagged, and what a person took back", len(got), len(stays))
	}
	if got := len(f.sent("UID STORE")); got != stored {
		t.Errorf("%d STOREs after the crash", got-stored)
	}
	if next.listing.Len() != len(stays) {
		t.Errorf("%d messages listed, want %d", next.listing.Len(), len(stays))
	}
	j.wantPending()
	if got := len(j.names()); got != n+2-len(stays) {
		t.Errorf("%d messages noted, want %d", got, n+2-len(stays))
	}
}

// The finished part is noted, with where it went; the rest waits.
func TestFinishedPartIsNoted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		f.options.Policy.Delete = upstream.DeleteTrash
		f.addBox("Trash", `\Trash`)
		all := f.crowd(100)
		d := f.list()
		moves, searches := 0, 0
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "UID MOVE") {
				if moves++; moves == 2 {
					c.say("%s NO not now", c.tag)
					return true
				}
			}
			if strings.HasPrefix(command, "UID SEARCH") {
				searches++
			}
			return searches > 1 && drop(c)
		}
		n, err := d.Remove(t.Context(), all)
		wantError(t, "remove", err, upstream.ErrUnavailable)
		const first = small
		if n != first || len(j.removed[1]) != first {
			t.Errorf("removed %d, noted %d; want %d", n, len(j.removed[1]), first)
		}
		if want := (upstream.Place{Mailbox: "Trash", Validity: "88", Name: "101"}); j.removed[1][0].Kept != want {
			t.Errorf("kept at %+v, want %+v", j.removed[1][0].Kept, want)
		}
		j.wantPending(j.begun[1].Names)
		if !strings.HasPrefix(j.begun[1].Names, fmt.Sprintf("move %d,%d,", crowdUID(first), crowdUID(first+1))) {
			t.Errorf("left is %q", j.begun[1].Names)
		}
		// Nothing that moves is done again.
		f.fault = nil
		f.open()
		j.wantPending()
		if len(f.uids()) != 100-first {
			t.Errorf("%d messages left, want %d", len(f.uids()), 100-first)
		}
	})
}

// What the connection was lost before is not open: it was not begun.
func TestWhatWasNotBegunIsNotLeftOpen(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		all := f.crowd(1500) // more than are removed together
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			return strings.HasPrefix(command, "UID FETCH") && drop(c)
		}
		n, err := d.Remove(t.Context(), all)
		wantError(t, "remove", err, upstream.ErrUnavailable)
		if n != 0 || len(j.begun) != 1 {
			t.Errorf("removed %d; begun: %d", n, len(j.begun))
		}
		j.wantPending()

		lost := false
		f.fault = func(c *fakeConn, command string) bool {
			lost = lost || strings.HasPrefix(command, "UID STORE")
			return lost && drop(c)
		}
		d.Remove(t.Context(), all)
		if len(j.pending) != 1 {
			t.Fatalf("%d intents are pending, want 1", len(j.pending))
		}
		_, open, err := parseNames(j.pending[0].Names)
		if err != nil || len(open) == 0 || len(open) > maxChunks*small || len(open) == len(all) {
			t.Errorf("%d messages are pending, %v; want those of the first chunks", len(open), err)
		}
	})
}

// If the rest cannot be written down, the whole stays.
func TestRestThatCannotBeWrittenDown(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		all := f.crowd(1500) // 18 chunks, of which 16 go together
		d := f.list()
		stores := 0
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "UID STORE") {
				stores++
				j.mu.Lock()
				j.noBegin = errors.New("disk full")
				j.mu.Unlock()
			}
			return stores > maxChunks && drop(c)
		}
		n, err := d.Remove(t.Context(), all)
		wantError(t, "remove", err, upstream.ErrUnavailable)
		if want := maxChunks * small; n != want {
			t.Errorf("removed %d, want %d", n, want)
		}
		j.wantPending(j.begun[0].Names)
	})
}

// No message of the journal waits for a mailbox that will not come back. That
// nothing was removed from it cannot be said, as UID EXPUNGE was sent.
func TestRemovalOfAChangedMailboxIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(c *fakeConn) bool { f.uidValidity = "78"; return drop(c) })
		n, err := d.Remove(t.Context(), []int{0})
		if n != 0 || errors.Is(err, upstream.ErrChanged) || !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("removed %d, %v", n, err)
		}
		j.wantPending()
	})
}

func TestResume(t *testing.T) {
	for name, c := range map[string]struct {
		set     func(f *fake, j *fakeJournal)
		way     way
		left    []uint32
		noted   []string
		pending bool
		warns   string
	}{
		"flagged still": {left: []uint32{6, 9}, noted: []string{"3", "5"}},
		"taken back":    {set: func(f *fake, _ *fakeJournal) { f.change(3, func(m *fakeMessage) { m.deleted = false }) }, left: []uint32{3, 6, 9}, noted: []string{"5"}},
		"gone":          {set: func(f *fake, _ *fakeJournal) { f.take(3); f.take(5) }, left: []uint32{6, 9}, noted: []string{"3", "5"}},
		"another message": {set: func(f *fake, _ *fakeJournal) {
			f.change(5, func(m *fakeMessage) { m.raw += "more" })
			f.resumable = []string{"3"}
		}, left: []uint32{5, 6, 9}, noted: []string{"3"}, warns: "another message under the same UID"},
		"UIDVALIDITY changed": {set: func(f *fake, _ *fakeJournal) { f.uidValidity = "78" }, left: []uint32{3, 5, 6, 9}, warns: "unfinished removal given up"},
		"UIDVALIDITY 0": {set: func(f *fake, j *fakeJournal) { f.uidValidity = "0"; j.pending[0].Validity = "0" },
			left: []uint32{3, 5, 6, 9}, warns: "unfinished removal given up"},
		"old":              {set: func(*fake, *fakeJournal) { time.Sleep(resumeAge + time.Second) }, left: []uint32{3, 5, 6, 9}, warns: "unfinished removal given up"},
		"almost old":       {set: func(*fake, *fakeJournal) { time.Sleep(resumeAge - time.Minute) }, left: []uint32{6, 9}, noted: []string{"3", "5"}},
		"another mailbox":  {set: func(_ *fake, j *fakeJournal) { j.pending[0].Mailbox = "Work" }, left: []uint32{3, 5, 6, 9}, pending: true},
		"malformed":        {set: func(_ *fake, j *fakeJournal) { j.pending[0].Names = "expunge 3,5 900" }, left: []uint32{3, 5, 6, 9}, warns: "unfinished removal given up"},
		"journal fails":    {set: func(_ *fake, j *fakeJournal) { j.noPending = errors.New("disk broken") }, left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removals not looked for"},
		"end fails":        {set: func(_ *fake, j *fakeJournal) { j.noEnd = errors.New("disk full") }, left: []uint32{6, 9}, pending: true, warns: "unfinished removal not settled"},
		"read-only":        {set: func(f *fake, _ *fakeJournal) { f.readOnly = true }, left: []uint32{3, 5, 6, 9}},
		"no UIDPLUS":       {set: func(f *fake, _ *fakeJournal) { f.caps = "IMAP4rev1" }, left: []uint32{3, 5, 6, 9}},
		"policy changed":   {set: func(f *fake, _ *fakeJournal) { f.options.Policy.Delete = upstream.DeleteNever }, left: []uint32{3, 5, 6, 9}},
		"moved":            {way: byMove, set: func(f *fake, _ *fakeJournal) { f.take(3) }, left: []uint32{5, 6, 9}, noted: []string{"3"}},
		"expunge alone":    {way: byExpungeAlone, left: []uint32{3, 5, 6, 9}},
		"flag":             {way: byFlag, set: func(f *fake, _ *fakeJournal) { f.change(3, func(m *fakeMessage) { m.deleted = false }) }, left: []uint32{3, 5, 6, 9}, noted: []string{"5"}},
		"hollow FETCH":     {set: func(f *fake, _ *fakeJournal) { f.fault = hollow("UID FETCH 3") }, left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"hollow SEARCH":    {set: func(f *fake, _ *fakeJournal) { f.fault = hollow("UID SEARCH") }, left: []uint32{6, 9}, pending: true, warns: "unfinished removal not settled"},
		"hollow EXPUNGE":   {set: func(f *fake, _ *fakeJournal) { f.fault = hollow("UID EXPUNGE") }, left: []uint32{3, 5, 6, 9}},
		"all hollow":       {set: func(f *fake, _ *fakeJournal) { f.fault = hollow("UID FETCH 3", "UID S", "UID E") }, left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"flag, hollow":     {way: byFlag, set: func(f *fake, _ *fakeJournal) { f.fault = hollow("UID SEARCH UID") }, left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"refused EXPUNGE":  {set: refuse("UID EXPUNGE"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"refused SEARCH":   {set: refuse("UID SEARCH"), left: []uint32{6, 9}, pending: true, warns: "unfinished removal not settled"},
		"refused FETCH":    {set: refuse("UID FETCH 3"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped EXPUNGE":  {set: lose("UID EXPUNGE"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"silent EXPUNGE":   {set: silence("UID EXPUNGE"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped FETCH":    {set: lose("UID FETCH 3"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped SEARCH":   {set: lose("UID SEARCH"), left: []uint32{6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped SELECT":   {set: loseNth(2, "SELECT"), left: []uint32{3, 5, 6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped look":     {set: loseNth(3, "SELECT"), left: []uint32{6, 9}, pending: true, warns: "unfinished removal not settled"},
		"dropped reSELECT": {set: loseNth(4, "SELECT"), left: []uint32{6, 9}, noted: []string{"3", "5"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				j, log := f.journal(), f.logged()
				f.leave(j, c.way, 3, 5)
				if c.set != nil {
					c.set(f, j)
				}
				began := time.Now()
				d, err := f.upstream().Open(t.Context(), f.account())
				if name == "dropped reSELECT" {
					wantError(t, "open", err, upstream.ErrUnavailable)
				} else if err != nil {
					t.Fatalf("open: %v", err)
				} else {
					f.opened = append(f.opened, d)
					if _, err := d.List(t.Context()); err != nil && f.options.Policy.Delete != upstream.DeleteFlag {
						t.Errorf("list: %v", err)
					}
				}
				if took := time.Since(began); took > resumeTime {
					t.Errorf("the login took %v, want at most %v more", took, resumeTime)
				}
				if got := f.uids(); !slices.Equal(got, c.left) {
					t.Errorf("left are %v, want %v", got, c.left)
				}
				if len(f.flagged) > 0 {
					t.Errorf("flagged %v", f.flagged)
				}
				j.wantNames(c.noted...)
				if got := len(j.pending) > 0; got != c.pending {
					t.Errorf("pending: %v, want %v", got, c.pending)
				}
				if c.warns != "" && !strings.Contains(log.String(), `level=WARN msg="`+c.warns) || c.warns == "" && strings.Contains(log.String(), "WARN") {
					t.Errorf("want a warning %q in the log:\n%s", c.warns, log)
				}
			})
		})
	}
}

func refuse(prefix string) func(*fake, *fakeJournal) {
	return func(f *fake, _ *fakeJournal) {
		f.fault = onCommand(prefix, func(c *fakeConn) bool { c.say("%s NO not now", c.tag); return true })
	}
}

func lose(prefix string) func(*fake, *fakeJournal) {
	return func(f *fake, _ *fakeJournal) { f.fault = onCommand(prefix, drop) }
}

func silence(prefix string) func(*fake, *fakeJournal) {
	return func(f *fake, _ *fakeJournal) { f.fault = onCommand(prefix, func(*fakeConn) bool { return true }) }
}

func loseNth(n int, prefix string) func(*fake, *fakeJournal) {
	return func(f *fake, _ *fakeJournal) {
		f.fault = onNth(n, prefix, func(c *fakeConn, _ string) bool { return drop(c) })
	}
}

// A login is not held up by more than its round trips, whatever is pending.
func TestResumeEndsWithItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j, log := f.journal(), f.logged()
		f.code = "[CAPABILITY " + f.caps + "] " // or the library would ask at a time of its own
		for _, uid := range []uint32{3, 5, 6, 9} {
			f.leave(j, byExpunge, uid)
		}
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "UID") {
				time.Sleep(time.Second)
			}
			return false
		}
		f.open()
		if len(j.pending) != 2 || !strings.Contains(log.String(), "left for the next login") {
			t.Errorf("%d intents are pending, want 2; log:\n%s", len(j.pending), log)
		}
		f.open()
		j.wantPending()
		j.wantNames("3", "5", "6", "9")
	})
}

// The client goes away while the login settles what is pending.
func TestResumeEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		f.leave(j, byExpunge, 3)
		f.fault = onCommand("UID EXPUNGE", func(*fakeConn) bool { return true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := f.upstream().Open(ctx, f.account())
		wantError(t, "open", err, context.DeadlineExceeded)
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// Two sessions find the same intent, step by step side by side.
func TestTwoSessionsResumeOneIntent(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		f.leave(j, byExpunge, 3, 5)
		f.code = "[CAPABILITY " + f.caps + "] "
		f.fault = func(*fakeConn, string) bool {
			time.Sleep(time.Millisecond) // so that the two take turns
			return false
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				d, err := f.upstream().Open(t.Context(), f.account())
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				defer d.Close()
				if l, err := d.List(t.Context()); err != nil || l.Len() != 2 {
					t.Errorf("list: %v", err)
				}
			})
		}
		both.Wait()
		synctest.Wait()
		j.wantPending()
		j.wantNames("3", "5")
		if got := f.uids(); !slices.Equal(got, []uint32{6, 9}) {
			t.Errorf("left are %v, want 6 and 9", got)
		}
	})
}

func TestNames(t *testing.T) {
	todo := []entry{{uid: 3, size: 900}, {uid: 5, uidl: "17.4"}, {uid: 6, size: 1 << 40, uidl: "a:b"}, {uid: 4294967295, size: 7}}
	text := formatNames(byExpunge, todo)
	if want := "expunge 3,5:6,4294967295 900 0:17.4 1099511627776:a:b 7"; text != want {
		t.Errorf("%q, want %q", text, want)
	}
	way, got, err := parseNames(text)
	if way != "expunge" || !slices.Equal(got, todo) || err != nil {
		t.Errorf("read again: %q %v %v", way, got, err)
	}
	for _, text := range []string{"", "expunge", "expunge 3", "expunge x 1", "expunge 3 1 2", "expunge 3:5 1 2", "expunge 3,3 1 2",
		"expunge 5,3 1 2", "expunge 3 x", "expunge 1:4294967295 1"} {
		if _, todo, err := parseNames(text); err == nil {
			t.Errorf("%q is read as %v", text, todo)
		}
	}
}

func TestLongSetsAreCutInTheLog(t *testing.T) {
	var removed []upstream.Removal
	for i := range 1000 {
		removed = append(removed, upstream.Removal{Name: fmt.Sprint(2*i + 1)})
	}
	set := setOfRemoved(removed)
	if len(set) > 1003 || !strings.HasPrefix(set, "1,3,5,") || !strings.HasSuffix(set, ",...") {
		t.Errorf("%q", set)
	}
	if _, err := parseRanges([]byte(strings.TrimSuffix(set, ",..."))); err != nil {
		t.Error(err)
	}
}

// What is written down comes before what is sent, over a connection that was
// lost before, and without a journal nothing is in the way.
func TestRemoveAfterTheConnectionWasLost(t *testing.T) {
	for _, with := range []bool{true, false} {
		bubble(t, func(t *testing.T, f *fake) {
			if with {
				f.journal()
			}
			d := f.list()
			d.c.g.Close()
			wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
		})
	}
}
