package oracle

import (
	"slices"
	"time"
)

// An account is one user's mailboxes.
type account struct {
	name, password string
	boxes          []*box
}

// A box is a mailbox. Its entries are never changed but for their flags, so a
// connection may hold on to them.
type box struct {
	name, use string // use is the SPECIAL-USE attribute
	validity  uint32
	next      uint32
	entries   []*entry
}

type entry struct {
	*Message
	uid       uint32
	deleted   bool
	flagTime  int64 // when deleted was set last
	flaggedBy int   // by which connection
	seen      bool
	received  time.Time
}

func (a *account) box(name string) *box {
	for _, b := range a.boxes {
		if b.name == name {
			return b
		}
	}
	return nil
}

func (b *box) find(id int) *entry {
	for _, e := range b.entries {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// AddAccount adds an account with the mailboxes INBOX, Trash and Archive. The
// names of the latter two say nothing: their attributes do.
func (s *Server) AddAccount(name, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[name] = &account{name: name, password: password, boxes: []*box{
		{name: "INBOX", validity: 1000, next: 1},
		{name: "Trash", validity: 4000, next: 1}, // not the trash
		{name: Trash, use: `\Trash`, validity: 2000, next: 1},
		{name: Archive, use: `\Archive`, validity: 3000, next: 1},
	}}
}

// The mailboxes beside INBOX.
const (
	Trash   = "Papierkorb"
	Archive = "Ablage"
)

// Deliver adds n messages to an INBOX, and returns their ids.
func (s *Server) Deliver(user string, n int) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int
	b := s.accounts[user].box("INBOX")
	for range n {
		m := newMessage(s.made)
		s.made++
		b.next += uint32(s.made % 3) // gaps
		s.put(user, b, m, cause{})
		ids = append(ids, m.ID)
	}
	return ids
}

// A cause is who did something, and by which command.
type cause struct {
	conn    int
	command string
}

// put adds a message to a mailbox.
func (s *Server) put(user string, b *box, m *Message, by cause) *entry {
	e := &entry{Message: m, uid: b.next, received: s.now()}
	b.next++
	b.entries = append(b.entries, e)
	s.note(Arrived, user, b, e, by)
	return e
}

func (s *Server) now() time.Time { return time.Now().Truncate(time.Second) }

func (s *Server) note(k Kind, user string, b *box, e *entry, by cause) {
	s.Record.add(s.event(k, user, b, e, by))
}

func (s *Server) event(k Kind, user string, b *box, e *entry, by cause) Event {
	v := Event{Kind: k, Account: user, Box: b.name, Validity: b.validity, Conn: by.conn, Command: by.command}
	if e != nil {
		v.Message, v.UID = e.ID, e.uid
	}
	return v
}

// drop takes a message out of a mailbox.
func (s *Server) drop(user string, b *box, e *entry, by cause, excused bool) {
	b.entries = slices.DeleteFunc(slices.Clone(b.entries), func(o *entry) bool { return o == e })
	v := s.event(Left, user, b, e, by)
	v.Excused = excused
	for _, other := range s.accounts[user].boxes {
		if other != b && other.find(e.ID) != nil {
			v.Others = append(v.Others, other.name)
		}
	}
	s.Record.add(v)
}

// flag sets or clears \Deleted.
func (s *Server) flag(user string, b *box, e *entry, deleted bool, by cause) {
	if e.deleted == deleted {
		return
	}
	e.deleted = deleted
	kind := Unflagged
	if deleted {
		kind = Flagged
		e.flaggedBy, e.flagTime = by.conn, s.Record.Now()
	}
	s.note(kind, user, b, e, by)
}

// What other clients do to message id of an INBOX, if it is there.

// Flag flags it \Deleted.
func (s *Server) Flag(user string, id int) { s.other(user, id, s.flagAs(true)) }

// Unflag takes that back.
func (s *Server) Unflag(user string, id int) { s.other(user, id, s.flagAs(false)) }

func (s *Server) flagAs(deleted bool) func(string, *box, *entry) {
	return func(user string, b *box, e *entry) { s.flag(user, b, e, deleted, cause{command: "STORE"}) }
}

// Take expunges it.
func (s *Server) Take(user string, id int) {
	s.other(user, id, func(user string, b *box, e *entry) { s.drop(user, b, e, cause{command: "EXPUNGE"}, false) })
}

// Discard moves it to the trash.
func (s *Server) Discard(user string, id int) { s.carry(user, "INBOX", Trash, id) }

// Restore moves it from the trash back to where it was.
func (s *Server) Restore(user string, id int) { s.carry(user, Trash, "INBOX", id) }

func (s *Server) carry(user, from, to string, id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := s.accounts[user].box(from), s.accounts[user].box(to)
	if e := a.find(id); e != nil && b.find(id) == nil {
		s.put(user, b, e.Message, cause{command: "MOVE"})
		s.drop(user, a, e, cause{command: "MOVE"}, false)
	}
}

// Swap puts another message in its place, under its UID and with its flag: what
// no server may do. It returns the other's id, or -1.
func (s *Server) Swap(user string, id int) int {
	other := -1
	s.other(user, id, func(user string, b *box, e *entry) {
		m := newMessage(s.made)
		s.made++
		other = m.ID
		at := slices.Index(b.entries, e)
		s.drop(user, b, e, cause{command: "swap"}, false)
		changed := &entry{Message: m, uid: e.uid, received: e.received}
		b.entries = slices.Insert(b.entries, at, changed)
		s.note(Arrived, user, b, changed, cause{command: "swap"})
		s.flag(user, b, changed, e.deleted, cause{command: "swap"})
	})
	return other
}

func (s *Server) other(user string, id int, do func(user string, b *box, e *entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.accounts[user].box("INBOX")
	if e := b.find(id); e != nil {
		do(user, b, e)
	}
}

// Renumber gives an INBOX another UIDVALIDITY and its messages other UIDs, some
// of which belonged to other messages before. Connections that know the old ones
// are closed.
func (s *Server) Renumber(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.accounts[user].box("INBOX")
	b.validity++
	b.next = 2
	entries := b.entries
	b.entries = nil
	for _, e := range entries {
		changed := *e
		changed.uid = b.next
		b.next++
		b.entries = append(b.entries, &changed)
	}
	s.Record.add(s.event(Renumbered, user, b, nil, cause{command: "rebuild"}))
	s.cut(func(c *conn) bool { return c.box == b })
}

// IDs returns the messages in a mailbox, oldest first.
func (s *Server) IDs(user, name string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []int{}
	for _, e := range s.accounts[user].box(name).entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// Pending returns the messages of an INBOX that are flagged \Deleted, and were
// flagged so by a connection.
func (s *Server) Pending(user string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int
	for _, e := range s.accounts[user].box("INBOX").entries {
		if e.deleted && e.flaggedBy != 0 {
			ids = append(ids, e.ID)
		}
	}
	return ids
}
