package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What was never downloaded, in a mailbox that tells neither dates nor
// identities, is known after a rebuild by the order of the sizes; and not taken
// for another message where these do not tell enough.
func TestSequencesOfSizes(t *testing.T) {
	add := func(b *mailbox, n int) { // of 60 sizes that are not there
		for i := range n {
			b.deliver(short(900+i) + strings.Repeat("y", 1000+i))
		}
	}
	for _, c := range []struct {
		name   string
		before func(b *mailbox)
		after  func(b *mailbox)
		origin string // of the second login; empty: the same
		same   int
	}{
		{name: "Renumbered", before: vary, same: 60},
		{name: "SizesInPairs", before: pairUp, same: 60},
		{name: "SomeGone", before: vary, after: func(b *mailbox) { b.take(3, 9); b.take(40, 41) }, same: 52}, // but for the last
		{name: "SomeNew", before: vary, after: func(b *mailbox) { add(b, 10) }, same: 59},
		{name: "SomeGoneAndOthersNew", before: vary, after: func(b *mailbox) { b.take(3, 9); add(b, 3) }, same: 53},
		{name: "SomeOfAPairGone", before: pairUp, after: func(b *mailbox) { b.take(4, 5); b.take(9, 10) }},
		{name: "OneGoneAndOneOfItsSizeNew", before: vary, after: func(b *mailbox) {
			size := len(b.messages[20].text)
			b.take(20, 21)
			b.deliver(short(900) + strings.Repeat("y", size-len(short(900))))
		}, same: 59},
		{name: "LastGoneAndOneOfItsSizeNew", before: vary, after: func(b *mailbox) {
			size := len(b.messages[59].text)
			b.take(59, 60)
			b.take(3, 4)
			b.deliver(short(900) + strings.Repeat("y", size-len(short(900))))
		}, same: 58},
		{name: "Moved", before: vary, origin: "imap://new", same: 60},
		{name: "SomeDownloaded", before: vary, after: func(b *mailbox) { b.messages[0].text = strings.Replace(b.messages[0].text, "00000", "10000", 1) }, same: 59},
		{name: "Reversed", before: vary, after: reverse},
		{name: "Shuffled", before: vary, after: func(b *mailbox) {
			slices.SortFunc(b.messages, func(x, y message) int { return x.name*17%61 - y.name*17%61 })
		}},
		{name: "MostGone", before: vary, after: func(b *mailbox) { b.take(3, 50) }, same: 12},
		{name: "TooFewLeft", before: vary, after: func(b *mailbox) { b.take(3, 55) }},
		{name: "OneSize", before: func(*mailbox) {}},
		{name: "AnotherMailbox", before: vary, after: func(b *mailbox) {
			b.take(0, 60)
			for i := range 60 {
				b.deliver(short(900+i) + strings.Repeat("y", i*i*31%61))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			box, store := newLargeMailbox(60), newStore(t)
			box.undated = true
			c.before(box)
			s := login(t, New(box, store, Options{Origin: "imap://old"}))
			if c.name == "SomeDownloaded" {
				s.retrieve(0, 7, 8, 50)
			}
			first := byText(s, box)
			s.close()
			if c.after != nil {
				c.after(box)
			}
			rename(box)
			box.validity = "18"
			box.tops = 0
			if c.origin == "" {
				c.origin = "imap://old"
			}
			o := New(box, store, Options{Origin: c.origin, Churn: Churn{Known: -1}})
			after := shown(t, o, box)
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
			sameUIDLs(t, after, shown(t, o, box))
		})
	}
}

// pairUp gives every two messages a size of their own.
func pairUp(b *mailbox) {
	for i := range b.messages {
		b.messages[i].text += strings.Repeat("x", i/2)
	}
}

// As long a run as there is, whatever stands in its way.
func TestInOrder(t *testing.T) {
	for _, c := range []struct {
		messages []int
		want     string
	}{
		{nil, "[]"},
		{[]int{4}, "[4]"},
		{[]int{1, 2, 3}, "[1 2 3]"},
		{[]int{3, 2, 1}, "[1]"},
		{[]int{9, 1, 2, 8, 3, 4, 0, 5}, "[1 2 3 4 5]"},
		{[]int{1, 90, 2, 3}, "[1 2 3]"},
	} {
		var pairs []couple
		for k, m := range c.messages {
			pairs = append(pairs, couple{k, m})
		}
		got := []int{}
		for _, p := range inOrder(pairs) {
			got = append(got, p.message)
			if c.messages[p.entry] != p.message {
				t.Errorf("%v: %v is no couple of it", c.messages, p)
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v: got %v, want %s", c.messages, got, c.want)
		}
	}
}
