package jmapserver

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// A Mailbox is a place for messages.
type Mailbox struct {
	ID, Name, Parent, Role string
	// ReadOnly takes away the rights to change anything in it.
	ReadOnly bool
}

// A Destroyed is a message that Email/set destroyed.
type Destroyed struct {
	ID    string
	Boxes []string // that it was in then
}

type letter struct {
	id, blob string
	raw      string
	boxes    map[string]bool
	keywords map[string]bool
	received time.Time
	created  int // the state in which it came
	changed  int // the state in which it last changed
}

// The ids of the account and its mailboxes. The names are none that an English
// client would look for.
const (
	AccountID = "a1"
	Inbox     = "mb-1"
	Archive   = "mb-2"
	Trash     = "mb-3"
)

// SetMailboxes replaces the mailboxes. Their messages stay where they are.
func (s *Server) SetMailboxes(edit func(all []Mailbox) []Mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mailboxes = edit(slices.Clone(s.mailboxes))
}

// Mailboxes returns all of them.
func (s *Server) Mailboxes() []Mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mailboxes)
}

// Destroyed returns the messages that Email/set destroyed, in that order.
func (s *Server) Destroyed() []Destroyed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.destroyed)
}

// Deliver implements upstreamtest.Mailbox.
func (s *Server) Deliver(_ testing.TB, raw string) { s.Add(raw, Inbox) }

// Add puts a message into mailboxes, and returns its id.
func (s *Server) Add(raw string, boxes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.state++
	l := &letter{
		id: fmt.Sprintf("M%07d", s.last), blob: fmt.Sprintf("B/%07d?%%", s.last), raw: raw,
		boxes: map[string]bool{}, keywords: map[string]bool{},
		received: time.Date(2026, 1, 1, 0, 0, s.last, 0, time.UTC), created: s.state, changed: s.state,
	}
	for _, box := range boxes {
		l.boxes[box] = true
	}
	s.letters = append(s.letters, l)
	return l.id
}

// Flag sets keywords of a message.
func (s *Server) Flag(id string, keywords ...string) {
	s.change(id, func(l *letter) {
		clear(l.keywords)
		for _, k := range keywords {
			l.keywords[k] = true
		}
	})
}

// Keywords returns those of a message, sorted.
func (s *Server) Keywords(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.find(id).keywords))
}

// Date says when a message was received.
func (s *Server) Date(id string, at time.Time) {
	s.change(id, func(l *letter) { l.received = at })
}

func (s *Server) change(id string, do func(l *letter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state++
	l := s.find(id)
	l.changed = s.state
	do(l)
}

// Rename gives a message another id.
func (s *Server) Rename(id, to string) {
	s.change(id, func(l *letter) {
		s.gone[id] = s.state
		delete(s.gone, to)
		l.id, l.created = to, s.state
	})
}

// Move puts a message into exactly these mailboxes.
func (s *Server) Move(id string, boxes ...string) {
	s.change(id, func(l *letter) {
		clear(l.boxes)
		for _, box := range boxes {
			l.boxes[box] = true
		}
	})
}

// Take implements upstreamtest.Mailbox.
func (s *Server) Take(t testing.TB, raw string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.letters, func(l *letter) bool { return l.raw == raw })
	if at < 0 {
		t.Fatalf("no such message to take: %.60q", raw)
	}
	s.state++
	s.drop(at)
}

func (s *Server) drop(at int) {
	s.gone[s.letters[at].id] = s.state
	s.letters = slices.Delete(s.letters, at, at+1)
}

// Messages implements upstreamtest.Mailbox.
func (s *Server) Messages(testing.TB) []string { return s.In(Inbox) }

// In returns what a mailbox holds, oldest first.
func (s *Server) In(box string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, l := range s.letters {
		if l.boxes[box] {
			all = append(all, l.raw)
		}
	}
	return all
}

// find returns the message of that id, or nil.
func (s *Server) find(id string) *letter {
	at := slices.IndexFunc(s.letters, func(l *letter) bool { return l.id == id })
	if at < 0 {
		return nil
	}
	return s.letters[at]
}

// sorted returns all messages, the first received first.
func (s *Server) sorted() []*letter {
	return slices.SortedStableFunc(slices.Values(s.letters), func(a, b *letter) int { return a.received.Compare(b.received) })
}
