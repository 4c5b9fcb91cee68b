package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMaildropSuite(t *testing.T) {
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		m := upstreamtest.NewMemory("bob", "secret")
		return upstreamtest.Fixture{Opener: New(m, newStore(t), Options{}), Account: m.Account(), Mailbox: m}
	})
}

func TestMaildropSuiteWithoutState(t *testing.T) {
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		m := upstreamtest.NewMemory("bob", "secret")
		return upstreamtest.Fixture{Opener: New(m, state.Off(), Options{}), Account: m.Account(), Mailbox: m}
	})
}

// Each case changes the upstream between two logins of a client that
// downloaded everything. No message that is still there changes its UIDL.
func TestUIDLsStay(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(b *mailbox)
		after  func(b *mailbox)
		origin string // of the second login
		tops   int    // headers to be read, at most
	}{
		{name: "nothing", after: func(*mailbox) {}},
		{name: "new mail", after: func(b *mailbox) { b.deliver(letter(900)) }},
		{name: "first gone", after: func(b *mailbox) { b.take(0, 1) }},
		{name: "some gone, some new", after: func(b *mailbox) { b.take(3, 9); b.deliver(letter(900)); b.deliver(letter(901)) }},
		{name: "another order", after: func(b *mailbox) { reverse(b) }},
		{name: "another template", after: func(b *mailbox) {
			b.uidl = func(_ *mailbox, m message) string { return fmt.Sprintf("%08x", m.name) }
		}},
		{name: "validity changed, identities", before: func(b *mailbox) { b.identity = "objectid:"; identify(b) },
			after: func(b *mailbox) { b.renumber("18") }},
		{name: "validity changed, no identities", after: func(b *mailbox) { b.renumber("18") }, tops: 60},
		{name: "validity changed, no dates", before: func(b *mailbox) { b.undated = true },
			after: func(b *mailbox) { b.renumber("18") }, tops: 60},
		{name: "validity changed, another order", after: func(b *mailbox) { b.renumber("18"); reverse(b) }, tops: 60},
		{name: "validity changed, some gone and some new", after: func(b *mailbox) {
			b.renumber("18")
			b.take(10, 30)
			b.deliver(letter(900))
		}, tops: 60},
		{name: "names given again to others", after: func(b *mailbox) {
			b.take(0, 5)
			for i := range b.messages {
				b.messages[i].name = i + 1
			}
		}, tops: 200},
		{name: "moved to another server", after: func(b *mailbox) { b.renumber("900") }, origin: "imap://new", tops: 60},
		{name: "moved, names equal by chance", after: func(b *mailbox) {
			b.take(0, 5)
			for i := range b.messages {
				b.messages[i].name = i + 1
			}
		}, origin: "imap://new", tops: 200},
		{name: "IMAP to JMAP", before: func(b *mailbox) { b.identity = "objectid:"; identify(b) },
			after: func(b *mailbox) { b.validity = "jmap" }, origin: "jmap://old", tops: samples},
		{name: "moved, identities equal by chance", before: func(b *mailbox) { b.identity = "objectid:"; identify(b) },
			after: func(b *mailbox) {
				b.renumber("900")
				for i := range b.messages {
					b.messages[i].identity = fmt.Sprintf("objectid:E%04d", len(b.messages)-i)
				}
			}, origin: "imap://new", tops: 60},
		{name: "only called otherwise", after: func(*mailbox) {}, origin: "imap://alias", tops: samples},
		{name: "only called otherwise, no dates", before: func(b *mailbox) { b.undated = true },
			after: func(*mailbox) {}, origin: "imap://alias", tops: 60},
		{name: "only called otherwise, sizes for dates", before: func(b *mailbox) { b.undated = true; vary(b) },
			after: func(*mailbox) {}, origin: "imap://alias", tops: samples},
		{name: "Gmail moved to a label's names", before: func(b *mailbox) { b.identity = "gmail:"; identify(b) },
			after: func(b *mailbox) { b.renumber("900") }, origin: "imap://gmail", tops: samples},
	} {
		t.Run(c.name, func(t *testing.T) {
			box, store := newMailbox(60), newStore(t)
			if c.before != nil {
				c.before(box)
			}
			first := drain(t, New(box, store, Options{Origin: "imap://old"}), box)
			c.after(box)
			box.tops = 0
			if c.origin == "" {
				c.origin = "imap://old"
			}
			second := New(box, store, Options{Origin: c.origin})
			after := shown(t, second, box)
			sameUIDLs(t, first, after)
			unique(t, after)
			if box.tops > c.tops {
				t.Errorf("%d headers read, want at most %d", box.tops, c.tops)
			}
			box.tops = 0
			sameUIDLs(t, after, shown(t, second, box))
			if box.tops > 0 {
				t.Errorf("%d headers read by a login that found nothing new", box.tops)
			}
		})
	}
}

func reverse(b *mailbox) {
	for i, j := 0, len(b.messages)-1; i < j; i, j = i+1, j-1 {
		b.messages[i], b.messages[j] = b.messages[j], b.messages[i]
	}
}

// rename gives every message the name of its place.
func rename(b *mailbox) {
	for i := range b.messages {
		b.messages[i].name = i + 1
	}
}

// vary gives every message a size of its own.
func vary(b *mailbox) {
	for i := range b.messages {
		b.messages[i].text += strings.Repeat("x", i)
	}
}

func identify(b *mailbox) {
	for i := range b.messages {
		b.messages[i].identity = fmt.Sprintf("%sE%04d", b.identity, i)
	}
}

func unique(t testing.TB, uidls map[string]string) {
	t.Helper()
	seen := map[string]bool{}
	for _, u := range uidls {
		if seen[u] {
			t.Errorf("UIDL %s stands for two messages", u)
		}
		if !isUIDL(u) {
			t.Errorf("%q is no UIDL", u)
		}
		seen[u] = true
	}
}

// Messages that the client never downloaded are bound by size and date, where
// these tell, and not bound to a wrong one where they do not.
func TestNeverDownloadedMessages(t *testing.T) {
	box, store := newMailbox(0), newStore(t)
	text := strings.Repeat("x", 40)
	for i := range 30 {
		box.deliver(fmt.Sprintf("Subject: %02d\r\n\r\n%s\r\n", i, text)) // all of one size
	}
	for i := 10; i < 20; i++ {
		box.messages[i].received = box.messages[10].received // and ten of one date
	}
	o := New(box, store, Options{Churn: Churn{Known: -1}})
	first := shown(t, o, box)
	box.renumber("18")
	box.take(12, 13)
	after := shown(t, o, box)
	unique(t, after)
	same := 0
	for text, u := range after {
		for other, was := range first {
			if u == was && text != other {
				t.Errorf("UIDL %s of %.12q was that of %.12q", u, text, other)
			}
		}
		if u == first[text] {
			same++
		}
	}
	if same != 19 { // but for the ten, and the newest
		t.Errorf("%d messages kept their UIDL, want 19", same)
	}
}

// A size and a date that a removed message had too tell nothing.
func TestDateOfARemovedMessage(t *testing.T) {
	box, store := newLargeMailbox(10), newStore(t)
	for i := range 9 {
		box.messages[i].received = start
	}
	s := login(t, New(box, store, Options{Origin: "a"}))
	first := byText(s, box)
	s.retrieve(0, 1, 2, 3, 4, 5, 7, 9)
	if _, err := s.Remove(t.Context(), []int{6}); err != nil {
		t.Fatal(err)
	}
	s.close()
	box.take(0, 1)
	for text, u := range shown(t, New(box, store, Options{Origin: "b"}), box) {
		if u == first[short(6)] {
			t.Errorf("%.20q has UIDL %s of a message that was removed", text, u)
		}
	}
}

// Messages that the client never downloaded are known at an upstream that is
// called otherwise by their names, and by another protocol by their identities:
// where there are no dates, if their sizes differ enough to tell. If they do not
// all agree, the order of the sizes may still tell.
func TestSizesForDates(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(b *mailbox)
		after  func(b *mailbox)
		same   int
	}{
		{"Alias", vary, func(*mailbox) {}, 60},
		{"OneSize", func(*mailbox) {}, func(*mailbox) {}, 0},
		{"OtherOrder", vary, func(b *mailbox) { reverse(b); rename(b) }, 0},
		{"TwoOfOtherSize", vary, func(b *mailbox) { b.messages[3].size, b.messages[50].size = 7, 8 }, 58},
		{"MostGone", vary, func(b *mailbox) { b.take(10, 60) }, 9},
		{"IMAPToJMAP", func(b *mailbox) { b.identity = "objectid:"; identify(b); vary(b) },
			func(b *mailbox) { b.renumber(""); b.undated = false }, 60},
		{"IMAPToJMAPInOtherOrder", func(b *mailbox) { b.identity = "objectid:"; identify(b); vary(b) },
			func(b *mailbox) { b.renumber(""); b.undated = false; reverse(b); identify(b) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			box, store := newLargeMailbox(60), newStore(t)
			box.undated = true
			c.before(box)
			first := shown(t, New(box, store, Options{Origin: "a", Churn: Churn{Known: -1}}), box)
			c.after(box)
			after := shown(t, New(box, store, Options{Origin: "b", Churn: Churn{Known: -1}}), box)
			unique(t, after)
			same := 0
			texts := map[string]string{}
			for text, u := range first {
				texts[u] = text
			}
			for text, u := range after {
				if was, ok := texts[u]; ok && was != text {
					t.Errorf("UIDL %s of %.20q was that of %.20q", u, text, was)
				} else if ok {
					same++
				}
			}
			if same != c.same {
				t.Errorf("%d messages kept their UIDL, want %d", same, c.same)
			}
		})
	}
}

// Equal messages are bound in order if there are as many as before, and get
// new UIDLs if not.
func TestEqualMessages(t *testing.T) {
	for _, c := range []struct {
		gone int
		want int // how many of the equal ones keep a UIDL
	}{{0, 4}, {1, 0}} {
		box, store := newMailbox(6), newStore(t)
		for range 4 {
			box.deliver("Subject: the same\r\n\r\nagain\r\n")
		}
		o := New(box, store, Options{})
		s := login(t, o)
		before := s.uidls()
		s.retrieveAll()
		s.close()
		box.renumber("18")
		box.take(6, 6+c.gone)
		s = login(t, o)
		after := s.uidls()
		s.close()
		kept := 0
		for i, u := range after[6:] {
			if u == before[6+i] {
				kept++
			} else if strings.Contains(strings.Join(before, " ")+" ", u+" ") {
				t.Errorf("%d gone: UIDL %s went from one of the equal messages to another", c.gone, u)
			}
		}
		if kept != c.want || strings.Join(before[:6], " ") != strings.Join(after[:6], " ") {
			t.Errorf("%d gone: %q, want %d of the last four as in %q", c.gone, after, c.want, before)
		}
	}
}

// The adapter, which writes down what it removes, is told what clients know it as.
func TestAdapterIsToldWhatIsShown(t *testing.T) {
	box, store := newMailbox(6), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.renumber("18")
	box.deliver(letter(50))
	s := login(t, o)
	defer s.close()
	told := s.Maildrop.(*maildrop).Maildrop.(*mailboxDrop).shown
	for i, u := range s.uidls() {
		if got := string(told.AppendUIDL(nil, i)); got != u || i < 6 && u != first[letter(i)] {
			t.Errorf("message %d is shown as %s, the adapter is told %s, and it was %s", i, u, got, first[letter(i)])
		}
	}
}

func TestDuplicateUIDLsAreToldApart(t *testing.T) {
	box, store := newMailbox(9), newStore(t)
	box.uidl = func(_ *mailbox, m message) string {
		if m.name == 7 {
			return "same-3" // what a renaming would come to
		}
		if m.name == 8 {
			return strings.Repeat("long", 20)
		}
		if m.name == 9 {
			return "not\ra UIDL"
		}
		return "same"
	}
	o := New(box, store, Options{})
	s := login(t, o)
	if got, want := strings.Join(s.uidls()[:7], " "), "same same-2 same-4 same-5 same-6 same-7 same-3"; got != want {
		t.Errorf("UIDLs %s, want %s", got, want)
	}
	before := byText(s, box)
	s.close()
	unique(t, before)
	box.take(0, 1)
	box.deliver(letter(99))
	after := shown(t, o, box)
	unique(t, after)
	sameUIDLs(t, before, after)
	for _, u := range after {
		if u == "same" {
			t.Error("the UIDL of the message that is gone was issued again")
		}
	}
}

// Whatever became of a message, its UIDL is not issued again.
func TestUIDLsOfGoneMessagesAreNotIssuedAgain(t *testing.T) {
	for name, remove := range map[string]func(t *testing.T, o *Opener, box *mailbox){
		"removed by the client": func(t *testing.T, o *Opener, _ *mailbox) {
			s := login(t, o)
			s.retrieve(4)
			if _, err := s.Remove(t.Context(), []int{4}); err != nil {
				t.Fatal(err)
			}
			s.close()
		},
		"removed by another client": func(_ *testing.T, _ *Opener, box *mailbox) { box.take(4, 5) },
	} {
		box, store := newMailbox(5), newStore(t)
		box.uidl = func(_ *mailbox, m message) string { return fmt.Sprint("u", m.name) }
		o := New(box, store, Options{})
		shown(t, o, box)
		remove(t, o, box)
		shown(t, o, box)
		box.renumber("18") // and a server that counts from the beginning
		box.last = 4
		for i := range box.messages {
			box.messages[i].name = 100 + i
		}
		box.deliver(letter(50))
		if u := shown(t, o, box)[letter(50)]; u != "u5-2" {
			t.Errorf("%s: the new message has UIDL %s, want u5-2", name, u)
		}
	}
}

// What is kept of old UIDLs is bounded. Beyond it, UIDLs take a form that was
// never used, once the names have changed meaning.
func TestRetiredUIDLsAreBounded(t *testing.T) {
	box, store := newMailbox(5), newStore(t)
	now := start
	o := New(box, store, Options{Now: func() time.Time { return now }, Churn: Churn{Known: -1}})
	shown(t, o, box)
	rounds := (maxRetired+1)*segmentSize/2000 + 1
	for round := range rounds {
		b, err := openBook(t.Context(), store, "bob")
		if err != nil {
			t.Fatal(err)
		}
		many := make([]string, 2000)
		for i := range many {
			many[i] = fmt.Sprint("old ", round, i)
		}
		if err := (&binding{ctx: t.Context(), book: b}).retire(many); err != nil {
			t.Fatal(err)
		}
		if err := b.save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := openBook(t.Context(), store, "bob")
	if err != nil || len(b.Retired) > maxRetired || !b.Forgot {
		t.Fatalf("%d segments, forgot %v, %v; want %d at most", len(b.Retired), b.Forgot, err, maxRetired)
	}
	box.deliver(letter(70))
	if u := shown(t, o, box)[letter(70)]; u != "17.6" {
		t.Errorf("UIDL %s while names mean what they meant, want 17.6", u)
	}
	drain(t, o, box)
	box.renumber("18")
	box.deliver(letter(71))
	if u := shown(t, o, box)[letter(71)]; u == "18.507" || !isUIDL(u) {
		t.Errorf("UIDL %q may have been issued and forgotten", u)
	}
}

// A mailbox that its client leaves empty each time may be renumbered while
// nothing is in it that would show that.
func TestEmptyMailboxIsRenumbered(t *testing.T) {
	box, store := newMailbox(3), newStore(t)
	o := New(box, store, Options{})
	epoch := func() int {
		b, err := openBook(t.Context(), store, "bob")
		if err != nil {
			t.Fatal(err)
		}
		return b.Epoch
	}
	leave := func() {
		s := login(t, o)
		defer s.close()
		for i := range s.Len() {
			s.retrieve(i)
			if _, err := s.Remove(t.Context(), []int{i}); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave()
	shown(t, o, box) // nothing
	box.deliver(letter(50))
	leave()
	if got := epoch(); got != 0 {
		t.Errorf("epoch %d while names mean what they meant, want 0", got)
	}
	shown(t, o, box)
	box.renumber("18")
	box.deliver(letter(51))
	shown(t, o, box)
	if got := epoch(); got != 1 {
		t.Errorf("epoch %d after the names changed their meaning, want 1", got)
	}
}

// An entry whose message is gone is kept in full for a while, then as a hash.
func TestGoneEntriesExpire(t *testing.T) {
	box, store := newMailbox(20), newStore(t)
	now := start
	o := New(box, store, Options{Now: func() time.Time { return now }, Churn: Churn{Known: -1}})
	first := drain(t, o, box)
	taken := box.messages[3]
	box.take(3, 4)
	shown(t, o, box)
	gone := func() (gone, retired int) {
		b, err := openBook(t.Context(), store, "bob")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Gone {
			gone += r.Count
		}
		for _, r := range b.Retired {
			retired += r.Count
		}
		return gone, retired
	}
	if g, r := gone(); g != 1 || r != 0 {
		t.Errorf("%d gone, %d retired; want 1 and 0", g, r)
	}
	now = now.AddDate(0, 0, 10)
	taken.name = 77 // it comes back from another folder
	box.messages = append(box.messages, taken)
	sameUIDLs(t, first, shown(t, o, box))
	if g, r := gone(); g != 0 || r != 0 {
		t.Errorf("after it came back %d gone, %d retired; want none", g, r)
	}
	box.take(5, 7)
	shown(t, o, box)
	now = now.AddDate(0, 0, keepGone+1)
	shown(t, o, box)
	if g, r := gone(); g != 0 || r != 2 {
		t.Errorf("much later %d gone, %d retired; want 0 and 2", g, r)
	}
}

func TestChurnBreaker(t *testing.T) {
	move := func(b *mailbox) { // to a server that changes every header
		b.renumber("18")
		for i := range b.messages {
			b.messages[i].text = "X-Moved: " + fmt.Sprint(i) + "\r\n" + b.messages[i].text
			b.messages[i].received = b.messages[i].received.Add(time.Hour)
		}
	}
	for _, c := range []struct {
		name  string
		n     int
		churn Churn
		do    func(t *testing.T, o *Opener, b *mailbox)
		trips bool
	}{
		{name: "moved past telling", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) { move(b) }, trips: true},
		{name: "a small mailbox", n: 49, do: func(_ *testing.T, _ *Opener, b *mailbox) { move(b) }},
		{name: "a lower threshold", n: 20, churn: Churn{Known: 20}, do: func(_ *testing.T, _ *Opener, b *mailbox) { move(b) }, trips: true},
		{name: "off", n: 60, churn: Churn{Known: -1}, do: func(_ *testing.T, _ *Opener, b *mailbox) { move(b) }},
		{name: "half of it moved", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) { b.take(30, 60); move(b) }, trips: true},
		{name: "a fifth of it moved", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) { b.take(12, 60); move(b) }},
		{name: "emptied by another client", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) { b.take(0, 60) }},
		{name: "emptied, and some new mail", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) {
			b.take(0, 60)
			for i := range 20 {
				b.deliver(letter(900 + i))
			}
		}},
		{name: "nearly emptied, and much new mail", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) {
			b.take(0, 59)
			for i := range 200 {
				b.deliver(letter(900 + i))
			}
		}},
		{name: "removed by the client, and much new mail", n: 60, do: func(t *testing.T, o *Opener, b *mailbox) {
			s := login(t, o)
			if _, err := s.Remove(t.Context(), all(s)); err != nil {
				t.Fatal(err)
			}
			s.close()
			b.renumber("18")
			for i := range 200 {
				b.deliver(letter(900 + i))
			}
		}},
		{name: "not removed since the mailbox changed", n: 60, do: func(t *testing.T, o *Opener, b *mailbox) {
			b.stuck = upstream.ErrChanged
			s := login(t, o)
			if _, err := s.Remove(t.Context(), all(s)); !errors.Is(err, upstream.ErrChanged) {
				t.Fatal(err)
			}
			s.close()
			b.stuck = nil
			move(b)
		}, trips: true},
		{name: "empty for one login, then moved", n: 60, do: func(t *testing.T, o *Opener, b *mailbox) {
			all := b.messages
			b.messages = nil
			shown(t, o, b)
			b.messages = all
			move(b)
		}, trips: true},
		{name: "much new mail", n: 60, do: func(_ *testing.T, _ *Opener, b *mailbox) {
			for i := range 500 {
				b.deliver(letter(900 + i))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logged bytes.Buffer
			counted := 0
			box, store := newMailbox(c.n), newStore(t)
			o := New(box, store, Options{Churn: c.churn, Log: slog.New(slog.NewTextHandler(&logged, nil)),
				Hooks: Hooks{Churned: func() { counted++ }}})
			drain(t, o, box)
			c.do(t, o, box)
			for range 3 {
				s, err := tryLogin(o)
				if err == nil {
					s.t = t
					s.close()
				}
				if tripped := errors.Is(err, upstream.ErrUnavailable); tripped != c.trips || err != nil && !tripped {
					t.Fatalf("login: %v; want it to trip: %v", err, c.trips)
				}
			}
			if !c.trips {
				return
			}
			if n := strings.Count(logged.String(), "level=WARN"); n != 1 || counted != 3 {
				t.Errorf("warned %d times and counted %d, want 1 and 3:\n%s", n, counted, logged.String())
			}
			if err := Accept(t.Context(), store, "bob"); err != nil {
				t.Fatal(err)
			}
			accepted := shown(t, o, box)
			unique(t, accepted)
			sameUIDLs(t, accepted, shown(t, o, box))
			move(box)
			if c.name == "moved past telling" {
				if _, err := tryLogin(o); !errors.Is(err, upstream.ErrUnavailable) {
					t.Errorf("the next move: %v; what was accepted holds for one login", err)
				}
			}
		})
	}
}

func TestAcceptOfAnUnknownAccount(t *testing.T) {
	if err := Accept(t.Context(), newStore(t), "nobody"); err == nil {
		t.Error("no error")
	}
}

// Reading headers is bounded in time, goes on at the next login, and survives
// upstream errors in between.
func TestRebindingGoesOnWhereItEnded(t *testing.T) {
	box, store := newMailbox(80), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.renumber("18")
	box.tops, box.topErr = 0, map[int]error{31: upstream.ErrUnavailable, 62: errors.New("connection reset")}
	for range 2 {
		if _, err := tryLogin(o); err == nil {
			t.Fatal("login with headers unread: no error")
		}
	}
	sameUIDLs(t, first, shown(t, o, box))
	if box.tops != 82 {
		t.Errorf("%d headers asked for, want 80 and the 2 that failed", box.tops)
	}

	box.renumber("19")
	hasty := New(box, store, Options{Rebind: time.Nanosecond})
	if _, err := tryLogin(hasty); !errors.Is(err, errUnfinished) {
		t.Errorf("login without time to read headers: %v, want errUnfinished", err)
	}
	sameUIDLs(t, first, shown(t, o, box))
}

func TestMessageGoneWhileHeadersAreRead(t *testing.T) {
	box, store := newMailbox(80), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.renumber("18")
	box.tops, box.topErr = 0, map[int]error{5: upstream.ErrGone}
	after := shown(t, o, box)
	unique(t, after)
	delete(after, box.messages[4].text)
	sameUIDLs(t, first, after)
}

// A server that does not deliver a header may do so at the next login, which is
// worth waiting for: a UIDL that was given up does not come back. What it does
// not deliver then either keeps nobody out any longer.
func TestHeaderThatIsNotDelivered(t *testing.T) {
	for _, again := range []bool{false, true} {
		box, store := newMailbox(80), newStore(t)
		o := New(box, store, Options{})
		first := drain(t, o, box)
		box.renumber("18")
		box.tops, box.topErr = 0, map[int]error{5: upstream.ErrUnreadable, 6: upstream.ErrUnreadable}
		if _, err := tryLogin(o); !errors.Is(err, upstream.ErrUnavailable) || box.tops != 80 {
			t.Fatalf("login after %d of 80 headers: %v, want unavailable after all", box.tops, err)
		}
		if again {
			box.topErr[81], box.topErr[82] = upstream.ErrUnreadable, upstream.ErrUnreadable
		}
		after := shown(t, o, box)
		unique(t, after)
		if box.tops != 82 {
			t.Errorf("%d headers asked for, want 80 and 2 once more", box.tops)
		}
		if again {
			for _, i := range []int{4, 5} {
				delete(after, box.messages[i].text)
			}
		}
		sameUIDLs(t, first, after)
	}
}

// A size that the upstream corrects is no other message; a name that it gives
// to another message is one.
func TestSizeOfANameChanges(t *testing.T) {
	box, store := newMailbox(20), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.messages[3].size = 12345
	sameUIDLs(t, first, shown(t, o, box))
	box.undated = true
	box.messages[4].size = 12345
	sameUIDLs(t, first, shown(t, o, box))
	box.messages[5].text = letter(77)
	after := shown(t, o, box)
	if after[letter(77)] == first[letter(5)] {
		t.Errorf("another message under the old name has its UIDL %s", after[letter(77)])
	}
	unique(t, after)
}

// A name and a size that the upstream gives to another message do not make it the
// one that a client knows: mail that machines send is often of one size.
func TestIdentityOfANameChanges(t *testing.T) {
	for _, undated := range []bool{true, false} {
		box, store := newLargeMailbox(20), newStore(t)
		box.identity, box.undated = "objectid:", undated
		for i := range box.messages {
			box.messages[i].identity = fmt.Sprintf("objectid:E%d", i)
		}
		o := New(box, store, Options{})
		first := drain(t, o, box)
		box.messages[5].text, box.messages[5].identity = short(77), "objectid:E77"
		after := shown(t, o, box)
		unique(t, after)
		sameUIDLs(t, first, after)
		if after[short(77)] == first[short(5)] {
			t.Errorf("undated %v: another message under the old name has its UIDL %s", undated, after[short(77)])
		}
	}
}

// An upstream that gives all its messages other identities, as a new release of
// it may do, has the same messages still.
func TestIdentitiesAreIssuedAnew(t *testing.T) {
	for _, c := range []struct {
		messages  int
		delivered bool
		most      int // headers that are read
	}{{200, true, samples}, {200, false, 0}, {5, true, 5}} {
		box, store := newMailbox(c.messages), newStore(t)
		box.identity, box.undated = "objectid:", true
		for i := range box.messages {
			box.messages[i].identity = fmt.Sprintf("objectid:M%d", i)
		}
		o := New(box, store, Options{})
		first := shown(t, o, box)
		if c.delivered {
			first = drain(t, o, box)
		}
		for i := range box.messages {
			box.messages[i].identity = fmt.Sprintf("objectid:S%d", i)
		}
		box.tops = 0
		for range 2 {
			sameUIDLs(t, first, shown(t, o, box))
		}
		if box.tops > c.most {
			t.Errorf("%+v: %d headers read", c, box.tops)
		}
	}
}

// Two sessions that find the same new mail at once issue the same UIDLs, and
// neither loses what the other wrote.
func TestTwoSessionsAtOnce(t *testing.T) {
	box, store := newMailbox(10), newStore(t)
	box.uidl = func(*mailbox, message) string { return "same" }
	o := New(box, store, Options{RequireRetr: true})
	shown(t, o, box)
	box.deliver(letter(50))
	box.deliver(letter(51))
	results := make(chan []string, 2)
	for range 2 {
		go func() {
			s, err := tryLogin(o)
			if err != nil {
				results <- []string{err.Error()}
				return
			}
			results <- s.uidls()
		}()
	}
	if one, two := fmt.Sprint(<-results), fmt.Sprint(<-results); one != two {
		t.Errorf("one session shows %s, the other %s", one, two)
	}
	a, b := login(t, o), login(t, o)
	a.retrieve(0)
	b.retrieve(1)
	a.close()
	box.take(3, 4)
	box.deliver(letter(52))
	shown(t, o, box) // a third, with the ledger changed in between
	b.close()
	s := login(t, o)
	defer s.close()
	for i, want := range []bool{true, true, false} {
		if got := s.Removable(i) == nil; got != want {
			t.Errorf("message %d removable: %v, want %v", i, got, want)
		}
	}
}

// A mark finds its message also when other sessions changed the ledger
// between any two writes.
func TestMarksFindTheirMessage(t *testing.T) {
	box, store := newMailbox(8), newStore(t)
	o := New(box, store, Options{RequireRetr: true})
	a := login(t, o)
	box.take(0, 1)
	box.deliver(letter(50))
	shown(t, o, box)
	for _, i := range []int{3, 5, 7} {
		a.Maildrop.(*maildrop).enough = 1 // what is marked is written at the next RETR
		a.retrieve(i)
	}
	a.close()
	s := login(t, o)
	defer s.close()
	for i := range s.Len() { // the first is gone
		if got, want := s.Removable(i) == nil, i == 2 || i == 4 || i == 6; got != want {
			t.Errorf("message %d removable: %v, want %v", i, got, want)
		}
	}
}

// Messages that could not be removed keep their UIDLs like any others.
func TestRemovalThatFailed(t *testing.T) {
	box, store := newMailbox(30), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.stuck = upstream.ErrUnavailable
	s := login(t, o)
	if _, err := s.Remove(t.Context(), all(s)); !errors.Is(err, upstream.ErrUnavailable) {
		t.Fatal(err)
	}
	s.close()
	sameUIDLs(t, first, shown(t, o, box))
	box.renumber("18")
	sameUIDLs(t, first, shown(t, o, box))
}

// A removal that a changed UIDVALIDITY has stopped leaves what it was, also
// where there is little to tell that by, and where the gateway died of it.
func TestRemovalStoppedByANewValidity(t *testing.T) {
	box, store := newMailbox(4), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.stuck = errDied
	s := login(t, o) // never closed
	if _, err := s.Remove(t.Context(), []int{0, 1, 2}); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	box.renumber("18")
	sameUIDLs(t, first, shown(t, o, box))
}

// all are the messages of a session.
func all(s *session) []int {
	numbers := make([]int, s.Len())
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// A gateway that dies in the removal of most of a mailbox leaves word of what
// was to be removed. What was not is what it was.
func TestDeathInARemoval(t *testing.T) {
	box, store := newMailbox(100), newStore(t)
	box.undated = true // or new mail would be known as new
	o := New(box, store, Options{})
	first := drain(t, o, box)
	box.removes = 90
	s := login(t, o) // never closed
	if _, err := s.Remove(t.Context(), all(s)[:95]); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	for i := range 200 {
		box.deliver(letter(900 + i))
	}
	after := shown(t, New(box, store, Options{}), box)
	sameUIDLs(t, first, after)
	unique(t, after)
	box.take(0, 10)
	box.removes = 0
	sameUIDLs(t, after, shown(t, o, box))
}

// What a session learned and what it removes are written at once.
func TestRemovalIsWrittenWithTheRest(t *testing.T) {
	const plenty = 1000
	box, store := newMailbox(30), &faulty{newStore(t), plenty, plenty}
	o := New(box, store, Options{})
	shown(t, o, box)
	store.writes = plenty
	s := login(t, o)
	s.retrieveAll()
	if _, err := s.Remove(t.Context(), []int{3, 4, 5}); err != nil {
		t.Fatal(err)
	}
	s.close()
	if n := plenty - store.writes; n != 1 {
		t.Errorf("written %d times, want once", n)
	}
}

// Everything is gone for a while, more than a segment of it, and comes back.
func TestAllGoneAndBack(t *testing.T) {
	box, store := newLargeMailbox(2*segmentSize+10), newStore(t)
	box.identity = "objectid:"
	identify(box)
	o := New(box, store, Options{})
	first := shown(t, o, box)
	all := box.messages
	box.messages = nil
	shown(t, o, box)
	box.messages = all
	box.renumber("18")
	sameUIDLs(t, first, shown(t, o, box))
	b, err := openBook(t.Context(), store, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Gone) != 0 || len(b.Live) != 3 {
		t.Errorf("%d segments gone and %d live, want 0 and 3", len(b.Gone), len(b.Live))
	}
}

// Identities and headers that were noted under one origin say nothing of what
// bears the same name under another.
func TestOriginsAreApart(t *testing.T) {
	box, store := newLargeMailbox(20), newStore(t)
	first := drain(t, New(box, store, Options{Origin: "a"}), box)
	box.renumber("900")
	box.tops, box.topErr = 0, map[int]error{15: upstream.ErrUnavailable}
	if _, err := tryLogin(New(box, store, Options{Origin: "b"})); err == nil {
		t.Fatal("login with headers unread: no error")
	}
	reverse(box)
	box.renumber("900") // the same names for others
	sameUIDLs(t, first, shown(t, New(box, store, Options{Origin: "c"}), box))

	box.identity = "objectid:"
	identify(box)
	o := New(box, store, Options{Origin: "c"})
	shown(t, o, box)
	lost := box.messages[0]
	box.take(0, 1)
	shown(t, o, box)
	box.deliver(short(50))
	moved := New(box, store, Options{Origin: "d"})
	box.messages[len(box.messages)-1].identity = lost.identity
	if u := shown(t, moved, box)[short(50)]; u == first[lost.text] {
		t.Errorf("the new message has UIDL %s of one that is gone on another server", u)
	}
	box.take(len(box.messages)-1, len(box.messages))
	shown(t, moved, box)
	box.deliver(short(51))
	box.messages[len(box.messages)-1].identity = lost.identity
	if u := shown(t, moved, box)[short(51)]; u == first[lost.text] {
		t.Errorf("later, the new message has UIDL %s of one that is gone on another server", u)
	}
}

func TestRequireRetr(t *testing.T) {
	box, store := newMailbox(5), newStore(t)
	o := New(box, store, Options{RequireRetr: true})
	s := login(t, o)
	if err := s.Removable(0); !errors.Is(err, upstream.ErrRejected) {
		t.Errorf("before RETR: %v, want ErrRejected", err)
	}
	if n, err := s.Remove(t.Context(), []int{0}); n != 0 || !errors.Is(err, upstream.ErrRejected) || len(box.messages) != 5 {
		t.Errorf("Remove before RETR: %d, %v; want ErrRejected", n, err)
	}
	r, err := s.Fetch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := s.Removable(0); !errors.Is(err, upstream.ErrRejected) {
		t.Errorf("after half a RETR: %v, want ErrRejected", err)
	}
	top, err := s.Top(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = top.Read(make([]byte, 1000))
	}
	top.Close()
	if err := s.Removable(0); !errors.Is(err, upstream.ErrRejected) {
		t.Errorf("after TOP: %v, want ErrRejected", err)
	}
	s.retrieve(0, 2)
	if err := s.Removable(0); err != nil {
		t.Errorf("after RETR: %v", err)
	}
	s.close()
	s = login(t, o)
	defer s.close()
	for i := range 5 {
		if got, want := s.Removable(i) == nil, i == 0 || i == 2; got != want {
			t.Errorf("message %d in a later session removable: %v, want %v", i, got, want)
		}
	}
	box.denied = upstream.ErrUnreadable
	if err := s.Removable(2); !errors.Is(err, upstream.ErrUnreadable) {
		t.Errorf("where the adapter refuses: %v, want its error", err)
	}
}

// A faulty store fails calls from the nth on.
type faulty struct {
	state.Store
	reads, writes int // that still work
}

var errDisk = errors.New("disk full")

func (f *faulty) Ledger(ctx context.Context, account string) (state.Ledger, error) {
	if f.reads--; f.reads < 0 {
		return state.Ledger{}, errDisk
	}
	return f.Store.Ledger(ctx, account)
}

func (f *faulty) Segments(ctx context.Context, account string, ids []int64) ([][]byte, error) {
	if f.reads--; f.reads < 0 {
		return nil, errDisk
	}
	return f.Store.Segments(ctx, account, ids)
}

func (f *faulty) SaveLedger(ctx context.Context, account string, c state.LedgerChange) (int64, error) {
	if f.writes--; f.writes < 0 {
		return 0, errDisk
	}
	return f.Store.SaveLedger(ctx, account, c)
}

// A ledger that cannot be read fails the login; one that cannot be written
// does so only if the UIDLs would be others the next time.
func TestStoreFails(t *testing.T) {
	const plenty = 1000
	for _, c := range []struct {
		name   string
		reads  int
		writes int
		do     func(b *mailbox)
		fails  bool
	}{
		{"head not read", 0, plenty, func(*mailbox) {}, true},
		{"segment not read", 1, plenty, func(b *mailbox) { b.take(0, 1) }, true},
		{"second segment not read", 2, plenty, func(b *mailbox) { b.renumber("18") }, true},
		{"nothing to write", plenty, 0, func(*mailbox) {}, false},
		{"new mail not written", plenty, 0, func(b *mailbox) { b.deliver(short(9999)) }, false},
		{"renamed UIDL not written", plenty, 0, func(b *mailbox) {
			b.deliver(short(9999))
			b.uidl = func(_ *mailbox, m message) string { return "17.1" }
		}, true},
		{"re-binding not written", plenty, 0, func(b *mailbox) { b.renumber("18") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			box, store := newLargeMailbox(segmentSize+10), &faulty{newStore(t), plenty, plenty}
			failures := 0
			o := New(box, store, Options{Hooks: Hooks{Failed: func(error) { failures++ }}})
			first := drain(t, o, box)
			c.do(box)
			store.reads, store.writes = c.reads, c.writes
			s, err := tryLogin(o)
			switch {
			case c.fails:
				if !errors.Is(err, upstream.ErrUnavailable) || !errors.Is(err, errDisk) || failures == 0 {
					t.Errorf("login: %v, reported %d times; want ErrUnavailable", err, failures)
				}
			case err != nil:
				t.Errorf("login: %v, want none", err)
			default:
				s.t = t
				sameUIDLs(t, first, byText(s, box))
				s.retrieve(0)
				s.close() // what it learned is lost, no more
			}
			store.reads, store.writes = plenty, plenty
			after := shown(t, o, box)
			sameUIDLs(t, first, after)
			if err == nil {
				sameUIDLs(t, byText(s, box), after)
			}
		})
	}
}

func TestDamagedLedgerFailsTheLogin(t *testing.T) {
	box, store := newMailbox(3), newStore(t)
	o := New(box, store, Options{})
	shown(t, o, box)
	l, err := store.Ledger(t.Context(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.SaveLedger(t.Context(), "bob", state.LedgerChange{Version: l.Version, Head: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if _, err := tryLogin(o); !errors.Is(err, upstream.ErrUnavailable) || !errors.Is(err, state.ErrDamaged) {
		t.Errorf("login: %v, want ErrUnavailable for ErrDamaged", err)
	}
}

// An import is bound at the next login, before or after which clients may have
// been shown other UIDLs.
func TestImport(t *testing.T) {
	box := newMailbox(40)
	var known []Known
	want := map[string]string{}
	for i, m := range box.messages {
		h, ok, err := HeaderOf(strings.NewReader(strings.ReplaceAll(m.text, "\r\n", "\n")))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		k := Known{UIDL: fmt.Sprintf("old-%d", i), Size: int64(len(m.text))}
		switch i % 3 {
		case 0:
			k.Header, k.HasHeader = h, true
		case 1:
			k.Received = m.received
		case 2:
			k.Name = fmt.Sprint("17.", m.name)
		}
		known = append(known, k)
		want[m.text] = k.UIDL
	}
	for _, seen := range []bool{false, true} {
		store := newStore(t)
		o := New(box, store, Options{})
		var before map[string]string
		if seen {
			before = drain(t, o, box)
		}
		n, err := Import(t.Context(), store, "bob", known)
		if err != nil || n != 40 {
			t.Fatalf("imported %d, %v; want 40", n, err)
		}
		after := shown(t, o, box)
		if b, err := openBook(t.Context(), store, "bob"); err != nil || len(b.Gone) > 0 || b.Imported {
			t.Errorf("after the import %d segments are gone, %v", len(b.Gone), err)
		}
		sameUIDLs(t, want, after)
		unique(t, after)
		if n, err := Import(t.Context(), store, "bob", known); err != nil || n != 0 {
			t.Errorf("imported again: %d, %v; want none", n, err)
		}
		sameUIDLs(t, want, shown(t, o, box))
		box.uidl = func(*mailbox, message) string { return "17.1" }
		box.deliver(letter(50))
		u := shown(t, o, box)[letter(50)]
		if seen && u == before[box.messages[0].text] {
			t.Errorf("UIDL %s was issued a second time, to a new message", u)
		}
		box.uidl = nil
		box.take(40, 41)
	}
}

// A UIDL of a message that is gone may be imported for one that is there: the
// map may name what was moved out of the way.
func TestImportOfWhatIsGone(t *testing.T) {
	box, store := newMailbox(6), newStore(t)
	o := New(box, store, Options{})
	first := drain(t, o, box)
	text := box.messages[2].text
	box.take(2, 4)
	shown(t, o, box)
	box.deliver(letter(50))
	n, err := Import(t.Context(), store, "bob", []Known{{UIDL: first[text], Name: "17.7"}})
	if err != nil || n != 1 {
		t.Fatalf("imported %d, %v; want 1", n, err)
	}
	after := shown(t, o, box)
	if after[letter(50)] != first[text] {
		t.Errorf("UIDL %s, want the imported %s", after[letter(50)], first[text])
	}
	box.deliver(text)
	after = shown(t, o, box)
	unique(t, after)
	delete(after, letter(50))
	delete(after, text)
	sameUIDLs(t, first, after)
}

func TestImportRefusesWhatIsWrong(t *testing.T) {
	_, err := Import(t.Context(), newStore(t), "bob", []Known{
		{UIDL: "a", Name: "1.1"}, {UIDL: "a", Name: "1.2"}, {UIDL: "no UIDL", Name: "1.3"}, {UIDL: "b"}, {UIDL: "c", Name: "1.4", Size: -1},
	})
	if err == nil {
		t.Fatal("no error")
	}
	want := `entry 2: UIDL a is there twice
entry 3: "no UIDL" is no UIDL: 1 to 70 octets from ! to ~
entry 4: UIDL b has nothing to know its message by
entry 5: size, name or identity out of range`
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// An import that does not fit the mailbox is not let through.
func TestImportOfAnotherMailboxTripsTheBreaker(t *testing.T) {
	box, store := newMailbox(100), newStore(t)
	var known []Known
	for i := range 100 {
		known = append(known, Known{UIDL: fmt.Sprint("old-", i), Size: int64(i), Received: start})
	}
	if _, err := Import(t.Context(), store, "bob", known); err != nil {
		t.Fatal(err)
	}
	if _, err := tryLogin(New(box, store, Options{})); !errors.Is(err, upstream.ErrUnavailable) {
		t.Errorf("login: %v, want ErrUnavailable", err)
	}
}
