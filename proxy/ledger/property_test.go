package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/proxy/state"
)

// A history is a mailbox under test: whatever is done to it, a client never
// sees a UIDL change its message, nor two messages share one.
type history struct {
	t      *rapid.T
	box    *mailbox
	store  state.Store
	origin string
	now    time.Time
	clock  time.Time // the upstream's
	sent   int
	sizes  int // how many there are
	moves  int

	owner     map[string]string // UIDL to the text that it was issued for
	uidl      map[string]string // text to UIDL, as last shown
	retrieved map[string]bool   // texts that were downloaded
	last      map[string]place  // of texts, when they were last shown
	hidden    []message         // by another client
}

// A place is where a message was, and when.
type place struct {
	origin, name string
	at           time.Time
}

// hide takes messages away, to be brought back. Their names must do to know them
// then: a mailbox that moved is told by what it has.
func (h *history) hide(from, to int) {
	for _, m := range h.box.messages[from:to] {
		delete(h.retrieved, m.text)
	}
	h.hidden = append(h.hidden, h.box.messages[from:to]...)
	h.box.take(from, to)
}

// bringBack undoes that. What is not known any more, or never was, is dated like
// any message that is new.
func (h *history) bringBack() {
	for _, m := range h.hidden {
		if was, known := h.last[m.text]; !known || h.now.Sub(was.at) >= keepGone*24*time.Hour {
			m.received = h.clock
		}
		h.box.messages = append(h.box.messages, m)
	}
	slices.SortFunc(h.box.messages, func(a, b message) int { return a.name - b.name })
	h.hidden = nil
}

func (h *history) opener() *Opener {
	return New(h.box, h.store, Options{Origin: h.origin, Churn: Churn{Known: -1}, Now: func() time.Time { return h.now }})
}

func (h *history) deliver(n int) {
	for range n {
		h.sent++
		h.clock = h.clock.Add(time.Duration(rapid.IntRange(0, 1).Draw(h.t, "seconds later")) * time.Second)
		// A header each, but few sizes: they and dates tell little.
		h.box.deliver(fmt.Sprintf("Subject: %06d\r\n\r\n%s\r\n", h.sent, strings.Repeat("x", 5*h.sent%h.sizes)))
		m := &h.box.messages[len(h.box.messages)-1]
		m.received = h.clock
		m.identity = fmt.Sprint(h.box.identity, h.box.last)
	}
}

// session logs in, checks what is shown, downloads some and removes some.
func (h *history) session() {
	s, err := tryLogin(h.opener())
	if err != nil {
		h.t.Fatalf("login: %v", err)
	}
	h.check(s)
	listed := slices.Clone(h.box.messages)
	var marked []int
	for i := range listed {
		switch rapid.IntRange(0, 5).Draw(h.t, "what to do") {
		case 0, 1, 2:
			h.retrieve(s, i)
			h.retrieved[listed[i].text] = true
		case 3:
			marked = append(marked, i)
		}
	}
	if rapid.Bool().Draw(h.t, "quit") {
		if _, err := s.Remove(h.t.Context(), marked); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := s.Maildrop.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Second) // mail that comes after a listing is dated later
}

func (h *history) retrieve(s *session, i int) {
	r, err := s.Fetch(h.t.Context(), i)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, _, err := HeaderOf(r); err != nil {
		h.t.Fatal(err)
	}
	r.Close()
}

func (h *history) check(s *session) {
	seen := map[string]bool{}
	for i, u := range s.uidls() {
		text := h.box.messages[i].text
		if seen[u] {
			h.t.Fatalf("UIDL %s stands for two messages", u)
		}
		seen[u] = true
		if !isUIDL(u) {
			h.t.Fatalf("%q is no UIDL", u)
		}
		if owner, ok := h.owner[u]; ok && owner != text {
			h.t.Fatalf("UIDL %s of %q was issued for %q", u, text, owner)
		}
		if was, ok := h.uidl[text]; ok && was != u && h.retrieved[text] {
			h.t.Fatalf("%q was downloaded as %s, and is %s now", text, was, u)
		}
		name := string(s.Listing.(*listing).Listing.(*mailboxListing).AppendName(nil, i))
		here := place{h.origin, name, h.now}
		was, known := h.last[text]
		if known && was.origin == here.origin && was.name == name && h.now.Sub(was.at) < keepGone*24*time.Hour && u != h.uidl[text] {
			h.t.Fatalf("%q had the name %s as %s, and has as %s", text, name, h.uidl[text], u)
		}
		h.owner[u], h.uidl[text], h.last[text] = text, u, here
	}
}

func TestNoUIDLEverChangesItsMessage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		store := &memory{ledgers: map[string]state.Ledger{}, segments: map[int64][]byte{}}
		h := &history{t: rt, box: newMailbox(0), store: store, origin: "a", now: start, clock: start,
			owner: map[string]string{}, uidl: map[string]string{}, retrieved: map[string]bool{}, last: map[string]place{}}
		h.sizes = rapid.SampledFrom([]int{2, 13, 103}).Draw(rt, "sizes")
		h.box.identity = rapid.SampledFrom([]string{"", "objectid:", "gmail:"}).Draw(rt, "identity")
		if rapid.Bool().Draw(rt, "few UIDLs") {
			h.box.uidl = func(b *mailbox, m message) string { return fmt.Sprint("u", m.name%7) }
		}
		h.deliver(rapid.IntRange(0, 12).Draw(rt, "at first"))
		rt.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { // after each of the others
				for range rapid.IntRange(0, 2).Draw(t, "sessions") {
					h.session()
				}
			},
			"deliver": func(t *rapid.T) { h.deliver(rapid.IntRange(1, 5).Draw(t, "n")) },
			"another client removes": func(t *rapid.T) {
				if n := len(h.box.messages); n > 0 {
					from := rapid.IntRange(0, n-1).Draw(t, "from")
					h.box.take(from, rapid.IntRange(from, n).Draw(t, "to"))
				}
			},
			"another client hides": func(t *rapid.T) {
				if n := len(h.box.messages); n > 0 {
					from := rapid.IntRange(0, n-1).Draw(t, "from")
					h.hide(from, rapid.IntRange(from, n).Draw(t, "to"))
				}
			},
			"and brings back": func(*rapid.T) { h.bringBack() },
			"rebuild": func(t *rapid.T) {
				h.hidden = nil
				h.box.renumber(fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "validity")))
				h.moves++
				h.box.last = 1000 * h.moves // names that none had
				for i := range h.box.messages {
					h.box.last++
					h.box.messages[i].name = h.box.last
				}
			},
			"move": func(t *rapid.T) { // to where names and identities begin anew
				h.hidden = nil
				h.moves++
				h.origin = fmt.Sprint("origin ", h.moves)
				h.box.validity = fmt.Sprint(rapid.IntRange(1, 2).Draw(t, "validity"))
				h.sizes = rapid.SampledFrom([]int{2, 13, 103}).Draw(rt, "sizes")
				h.box.identity = rapid.SampledFrom([]string{"", "objectid:"}).Draw(t, "identity")
				h.box.last = 0
				for i := range h.box.messages {
					h.box.last++
					h.box.messages[i].name = h.box.last
					h.box.messages[i].identity = fmt.Sprint(h.box.identity, h.box.last)
				}
			},
			"another name for the upstream": func(*rapid.T) { h.origin += "'" },
			"reorder":                       func(*rapid.T) { reverse(h.box) },
			"undate":                        func(t *rapid.T) { h.box.undated = rapid.Bool().Draw(t, "undated") },
			"days pass":                     func(t *rapid.T) { h.now = h.now.AddDate(0, 0, rapid.IntRange(1, 20).Draw(t, "days")) },
		})
	})
}

// memory is a store for many short histories.
type memory struct {
	state.Store
	ledgers  map[string]state.Ledger
	segments map[int64][]byte
}

func (m *memory) Ledger(ctx context.Context, account string) (state.Ledger, error) {
	return m.ledgers[account], ctx.Err()
}

func (m *memory) Segments(_ context.Context, _ string, ids []int64) ([][]byte, error) {
	var all [][]byte
	for _, id := range ids {
		data, ok := m.segments[id]
		if !ok {
			return nil, state.ErrConflict
		}
		all = append(all, data)
	}
	return all, nil
}

func (m *memory) SaveLedger(_ context.Context, account string, c state.LedgerChange) (int64, error) {
	l := m.ledgers[account]
	if l.Version != c.Version {
		return 0, state.ErrConflict
	}
	for _, p := range c.Put {
		if _, ok := m.segments[p.ID]; ok {
			return 0, errors.New("segment overwritten")
		}
		m.segments[p.ID] = p.Data
	}
	for _, id := range c.Drop {
		delete(m.segments, id)
	}
	m.ledgers[account] = state.Ledger{Version: c.Version + 1, Head: c.Head}
	return c.Version + 1, nil
}
