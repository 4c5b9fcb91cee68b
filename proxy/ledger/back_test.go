package ledger

import (
	"slices"
	"strings"
	"testing"
)

// A message that a listing did not show, and a later one shows again, has the
// UIDL that it had, unless something says that it is another one.
func TestMessagesThatComeBack(t *testing.T) {
	for _, c := range []struct {
		name     string
		identity string
		dated    bool
		seen     bool                           // downloaded before
		change   func(away []message) []message // while they are away
		tops     int                            // headers to be read, at most
		others   bool                           // those that come back are others
	}{
		{name: "never downloaded"},
		{name: "downloaded", seen: true, tops: samples},
		{name: "downloaded, with identities", identity: "objectid:", seen: true},
		{name: "with identities, of another size", identity: "objectid:", change: eachOf(func(m *message) { m.size = 7 })},
		{name: "with dates", dated: true},
		{name: "other messages", seen: true, change: eachOf(replace), tops: 40, others: true},
		{name: "other messages of other sizes", change: eachOf(func(m *message) { replace(m); m.text += "\r\n" }), others: true},
		{name: "other messages with identities", identity: "objectid:", change: eachOf(func(m *message) { replace(m); m.identity += "0" }), others: true},
		{name: "other messages with dates", dated: true, change: eachOf(func(m *message) { replace(m); m.received = m.received.Add(1e9) }), others: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			box, o := newLargeMailbox(60), New(nil, newStore(t), Options{Churn: Churn{Known: -1}})
			o.inner, box.identity, box.undated = box, c.identity, !c.dated
			identify(box)
			first := shown(t, o, box)
			if c.seen {
				drain(t, o, box)
			}
			away := slices.Clone(box.messages[10:50])
			box.take(10, 50)
			shown(t, o, box)
			if c.change != nil {
				away = c.change(away)
			}
			box.messages = slices.Insert(box.messages, 10, away...)
			box.tops = 0
			after := shown(t, o, box)
			unique(t, after)
			sameUIDLs(t, first, after)
			if box.tops > c.tops {
				t.Errorf("%d headers read, want at most %d", box.tops, c.tops)
			}
			had := map[string]bool{}
			for _, u := range first {
				had[u] = true
			}
			for _, m := range away {
				if got, want := had[after[m.text]], !c.others; got != want {
					t.Errorf("%.20q has the UIDL %s, known from before: %v, want %v", m.text, after[m.text], got, want)
				}
			}
			sameUIDLs(t, after, shown(t, o, box))
		})
	}
}

func eachOf(do func(m *message)) func([]message) []message {
	return func(all []message) []message {
		for i := range all {
			do(&all[i])
		}
		return all
	}
}

// replace makes a message another one of the same size.
func replace(m *message) { m.text = strings.Replace(m.text, "Subject: 0", "Subject: 9", 1) }

// What another server calls by a name that was known here is another message,
// also if all that had names here are gone.
func TestNamesOfGoneMessagesEndWithTheOrigin(t *testing.T) {
	box, store := newLargeMailbox(5), newStore(t)
	box.undated = true
	first := shown(t, New(box, store, Options{Origin: "a"}), box)
	gone := box.messages
	box.messages = nil
	shown(t, New(box, store, Options{Origin: "a"}), box)
	for i, m := range gone {
		m.text = short(50 + i)
		box.messages = append(box.messages, m)
	}
	after := shown(t, New(box, store, Options{Origin: "b"}), box)
	unique(t, after)
	for _, was := range first {
		for text, u := range after {
			if u == was {
				t.Errorf("%.20q has the UIDL %s of a message on the server before", text, u)
			}
		}
	}
	box.take(0, 5)
	shown(t, New(box, store, Options{Origin: "b"}), box)
	box.messages = gone
	for text, u := range shown(t, New(box, store, Options{Origin: "b"}), box) {
		if u == first[text] {
			t.Errorf("%.20q has the UIDL %s that it had on the server before, by its name alone", text, u)
		}
	}
}

// What a client removed and a person brings back once it was gone is shown as
// a new message; what never was gone is what it was.
func TestRemovedMessageComesBack(t *testing.T) {
	for _, missed := range []bool{false, true} {
		box, o := newMailbox(5), New(nil, newStore(t), Options{})
		o.inner = box
		first := drain(t, o, box)
		back := slices.Clone(box.messages)
		s := login(t, o)
		if _, err := s.Remove(t.Context(), []int{2}); err != nil {
			t.Fatal(err)
		}
		s.close()
		if missed {
			shown(t, o, box)
		}
		box.messages = back
		after := shown(t, o, box)
		unique(t, after)
		if got, was := after[letter(2)], first[letter(2)]; (got != was) != missed {
			t.Errorf("UIDL %s, was %s; a listing without it in between: %v", got, was, missed)
		}
		delete(after, letter(2))
		sameUIDLs(t, first, after)
	}
}
