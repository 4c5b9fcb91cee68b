package imapc

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

// A service is a real server with an account that holds five letters.
type service struct {
	address string
	account upstream.Account
	journal *fakeJournal
	in      func(t *testing.T, folder string) []string // messages
	deliver func(t *testing.T, raw string)
	raw     []string // delivered at first
}

const specialUse = `namespace inbox {
  inbox = yes
  separator = .
  mailbox Bin {
    auto = create
    special_use = \Trash
  }
  mailbox Old {
    auto = create
    special_use = \Archive
  }
}`

func onDovecot(t *testing.T, config ...string) *service {
	server := dovecot.Start(t, config...)
	return serviceOf(t, server.IMAP, server.AddUser(t, "bob", "secret"))
}

func onCyrus(t *testing.T, config ...string) *service {
	server := cyrus.Start(t, config...)
	return serviceOf(t, server.IMAP, server.AddUser(t, "bob", "secret"))
}

// serviceOf delivers five messages to a mailbox that is served at address.
func serviceOf(t *testing.T, address string, mailbox interface {
	upstreamtest.Mailbox
	Account() upstream.Account
	In(t testing.TB, folder string) []string
}) *service {
	s := &service{address: address, account: mailbox.Account(), journal: newJournal()}
	for i := range 5 {
		s.raw = append(s.raw, upstreamtest.Letter(i, 400))
		mailbox.Deliver(t, s.raw[i])
	}
	s.deliver = func(t *testing.T, raw string) {
		t.Helper()
		mailbox.Deliver(t, raw)
	}
	s.in = func(t *testing.T, folder string) []string {
		t.Helper()
		return mailbox.In(t, folder)
	}
	return s
}

func (s *service) open(t *testing.T, policy upstream.Policy) upstream.Maildrop {
	t.Helper()
	u := New(Options{Address: s.address, TLS: TLSOff, Policy: policy, Journal: s.journal})
	d := openAndList(t, u, s.account)
	t.Cleanup(func() { d.Close() })
	return d
}

func (s *service) wantIn(t *testing.T, folder string, letters ...int) {
	t.Helper()
	want := []string{}
	for _, i := range letters {
		want = append(want, s.raw[i])
	}
	if got := s.in(t, folder); !slices.Equal(got, want) {
		t.Errorf("%s holds %d messages %.30q, want %d: letters %v", folder, len(got), got, len(want), letters)
	}
}

// remove has letters removed, and returns the session that did it.
func (s *service) remove(t *testing.T, policy upstream.Policy, messages ...int) upstream.Maildrop {
	t.Helper()
	d := s.open(t, policy)
	if n, err := d.Remove(t.Context(), messages); n != len(messages) || err != nil {
		t.Fatalf("removed %d, %v; want %d", n, err, len(messages))
	}
	if len(s.journal.pending) > 0 {
		t.Errorf("pending: %v", s.journal.pending)
	}
	return d
}

// Trash, restore and purge, by MOVE and by COPY: on Dovecot by whose own list
// of capabilities, on Cyrus as it is.
func TestKeptMessagesOnRealServers(t *testing.T) {
	for name, c := range map[string]struct {
		start  func(t *testing.T) *service
		policy upstream.Policy
		folder string
	}{
		"Dovecot, trash":          {func(t *testing.T) *service { return onDovecot(t, specialUse) }, upstream.Policy{Delete: upstream.DeleteTrash}, "Bin"},
		"Dovecot, grace":          {func(t *testing.T) *service { return onDovecot(t, specialUse) }, upstream.Policy{Grace: time.Hour}, "Bin"},
		"Dovecot, archive":        {func(t *testing.T) *service { return onDovecot(t, specialUse) }, upstream.Policy{Delete: upstream.DeleteArchive}, "Old"},
		"Dovecot, created folder": {func(t *testing.T) *service { return onDovecot(t, specialUse) }, upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Ablage/Müll & Co"}, `"Ablage.M&APw-ll &- Co"`},
		"Dovecot without MOVE": {func(t *testing.T) *service { return onDovecot(t, specialUse, dovecot.Without("MOVE")) },
			upstream.Policy{Delete: upstream.DeleteTrash}, "Bin"},
		"Dovecot without MOVE, created folder": {func(t *testing.T) *service { return onDovecot(t, dovecot.Without("MOVE")) },
			upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}, "Old"},
		"Cyrus, trash":          {func(t *testing.T) *service { return onCyrus(t) }, upstream.Policy{Delete: upstream.DeleteTrash}, "Trash"},
		"Cyrus, archive":        {func(t *testing.T) *service { return onCyrus(t) }, upstream.Policy{Delete: upstream.DeleteArchive}, "Archive"},
		"Cyrus, created folder": {func(t *testing.T) *service { return onCyrus(t) }, upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Ablage/2026"}, "Ablage/2026"},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.start(t)
			d := s.remove(t, c.policy, 3, 1, 0)
			s.wantIn(t, "INBOX", 2, 4)
			s.wantIn(t, c.folder, 0, 1, 3)

			kept := s.journal.all()
			if len(kept) != 3 || kept[0].Kept.Name == "" || kept[0].Size != int64(len(s.raw[0])) {
				t.Fatalf("noted: %+v", kept)
			}
			keeper := d.(upstream.Keeper)
			done, err := keeper.Restore(t.Context(), kept[:1])
			wantDone(t, "restore", done, err, nil, true)
			s.wantIn(t, "INBOX", 2, 4, 0)
			s.wantIn(t, c.folder, 1, 3)

			done, err = keeper.Purge(t.Context(), kept[:2])
			wantDone(t, "purge", done, err, nil, true, true)
			s.wantIn(t, "INBOX", 2, 4, 0)
			s.wantIn(t, c.folder, 3)

			if got, err := fetchAll(t, d.(*maildrop), 2); got != s.raw[2] || err != nil {
				t.Errorf("fetched %.20q, %v", got, err)
			}
			changed := slices.Clone(kept[2:])
			changed[0].Kept.Validity = "1"
			done, err = keeper.Purge(t.Context(), changed)
			wantDone(t, "purge of another mailbox", done, err, nil, false)
			s.wantIn(t, c.folder, 3)
		})
	}
}

func realServers(t *testing.T, test func(t *testing.T, s *service)) {
	t.Run("Dovecot", func(t *testing.T) { test(t, onDovecot(t, specialUse)) })
	t.Run("Cyrus", func(t *testing.T) { test(t, onCyrus(t)) })
}

func TestFlagOnRealServers(t *testing.T) {
	realServers(t, func(t *testing.T, s *service) {
		policy := upstream.Policy{Delete: upstream.DeleteFlag, Seen: true}
		d := s.remove(t, policy, 0, 2)
		s.wantIn(t, "INBOX", 0, 1, 2, 3, 4)
		if n := s.open(t, policy).(*maildrop).listing.Len(); n != 3 {
			t.Errorf("%d messages listed, want 3", n)
		}
		if err := d.MarkSeen(t.Context(), []int{1}); err != nil {
			t.Error(err)
		}
		keeper := d.(upstream.Keeper)
		done, err := keeper.Restore(t.Context(), s.journal.all()[:1])
		wantDone(t, "restore", done, err, nil, true)
		done, err = keeper.Purge(t.Context(), s.journal.all())
		wantDone(t, "purge, one taken back", done, err, nil, true, true)
		s.wantIn(t, "INBOX", 0, 1, 3, 4)
	})
}

// A server without UIDPLUS and MOVE: what is said is refused, and the opt-in.
func TestExpungeAloneOnDovecot(t *testing.T) {
	s := onDovecot(t, dovecot.Without("UIDPLUS", "MOVE"))
	wantError(t, "removable", s.open(t, upstream.Policy{}).Removable(0), upstream.ErrRejected)
	wantError(t, "removable", s.open(t, upstream.Policy{Delete: upstream.DeleteTrash}).Removable(0), upstream.ErrRejected)
	s.remove(t, upstream.Policy{ExpungeAlone: true}, 0, 2)
	s.wantIn(t, "INBOX", 1, 3, 4)

	other := s.open(t, upstream.Policy{Delete: upstream.DeleteFlag})
	if n, err := other.Remove(t.Context(), []int{2}); n != 1 || err != nil {
		t.Fatalf("flagged %d, %v", n, err)
	}
	n, err := s.open(t, upstream.Policy{ExpungeAlone: true}).Remove(t.Context(), []int{0})
	wantError(t, "remove beside a flagged message", err, upstream.ErrUnavailable)
	if n != 0 {
		t.Errorf("removed %d", n)
	}
	s.wantIn(t, "INBOX", 1, 3, 4)
}

// A session dies after the STORE: the next login removes what still is flagged.
func TestResumeOnRealServers(t *testing.T) {
	realServers(t, func(t *testing.T, s *service) {
		d := s.open(t, upstream.Policy{}).(*maildrop)
		todo := []entry{}
		for _, i := range []int{0, 1, 3} {
			todo = append(todo, entry{uid: d.listing.uid(i), size: d.listing.Size(i)})
		}
		r := &removal{d: d, todo: todo}
		if err := r.begin(t.Context(), byExpunge); err != nil {
			t.Fatal(err)
		}
		for _, change := range []string{"+FLAGS.SILENT (\\Deleted)", "-FLAGS.SILENT (\\Deleted)"} {
			uids := uidsOf(todo)
			if change[0] == '-' {
				uids = uids[1:2] // taken back
			}
			if refusal, err := d.c.tell(t.Context(), "flag", "UID STORE "+uidSet(uids)+" "+change); refusal != nil || err != nil {
				t.Fatal(refusal, err)
			}
		}
		d.c.g.Close()
		if n := s.open(t, upstream.Policy{}).(*maildrop).listing.Len(); n != 3 {
			t.Errorf("%d messages listed, want 3", n)
		}
		s.wantIn(t, "INBOX", 1, 2, 4)
		var names []string
		for _, m := range s.journal.all() {
			names = append(names, m.Name)
		}
		if want := []string{fmt.Sprint(todo[0].uid), fmt.Sprint(todo[2].uid)}; len(s.journal.pending) > 0 || !slices.Equal(names, want) {
			t.Errorf("noted %v, pending %v; want %v", names, s.journal.pending, want)
		}
	})
}

// One connection serves poll after poll, whether the server idles on it or not,
// and each sees what is there.
func TestWarmOnRealServers(t *testing.T) {
	realServers(t, func(t *testing.T, s *service) {
		var trips, connections atomic.Int64
		u := New(Options{Address: s.address, TLS: TLSOff, Warm: time.Minute, Hooks: upstream.Hooks{
			RoundTrip: func() { trips.Add(1) },
			Connected: func(time.Duration, error) { connections.Add(1) },
		}})
		defer u.o.Stable.Close()
		poll := func(messages int) (took int64) {
			t.Helper()
			before := trips.Load()
			d, err := u.Open(t.Context(), s.account)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			l, err := d.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if l.Len() != messages || connections.Load() != 1 {
				t.Errorf("%d messages on connection %d, want %d on the first", l.Len(), connections.Load(), messages)
			}
			return trips.Load() - before
		}
		idle := func() {
			u.o.Stable.mu.Lock()
			p := u.o.Stable.parked[place{u, s.account.User}]
			u.o.Stable.mu.Unlock()
			p.timer.Stop()
			u.o.Stable.settle(p)
		}
		unchanged := func(messages int) {
			t.Helper()
			if took := poll(messages); took != 1 {
				t.Errorf("an unchanged poll took %d round trips, want 1", took)
			}
		}
		poll(5)
		unchanged(5)
		s.deliver(t, upstreamtest.Letter(6, 400))
		poll(6)
		unchanged(6)
		idle()
		unchanged(6)
		idle()
		s.deliver(t, upstreamtest.Letter(7, 400))
		poll(7)
		idle()
		s.remove(t, upstream.Policy{}, 0, 3)
		poll(5)
		idle()
		unchanged(5)
	})
}

// How a real server's trash is found, and named in its own terms.
func TestDescribeRemovalOnRealServers(t *testing.T) {
	for name, want := range map[string]string{"Dovecot": `UID MOVE to "Bin", verified`, "Cyrus": `UID MOVE to "Trash", verified`} {
		t.Run(name, func(t *testing.T) {
			start := onCyrus
			config := []string(nil)
			if name == "Dovecot" {
				start, config = onDovecot, []string{specialUse}
			}
			s := start(t, config...)
			u := New(Options{Address: s.address, TLS: TLSOff, Policy: upstream.Policy{Delete: upstream.DeleteTrash}})
			r, err := u.Describe(t.Context(), s.account)
			if err != nil || r.Removal != want || !r.Removable {
				t.Errorf("%q %v, %v; want %q", r.Removal, r.Removable, err, want)
			}
			if !strings.HasPrefix(r.Sizes, "true") {
				t.Errorf("sizes: %s", r.Sizes)
			}
		})
	}
}
