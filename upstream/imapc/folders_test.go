package imapc

import (
	"fmt"
	"slices"
	"strings"
)

// A fakeBox is a mailbox of a fake beside its INBOX.
type fakeBox struct {
	name        string
	attributes  string
	uidValidity string
	messages    []fakeMessage
	last        uint32 // UID
}

// addBox adds a mailbox, whose UIDs begin at 101 under UIDVALIDITY 88.
func (f *fake) addBox(name, attributes string) *fakeBox {
	b := &fakeBox{name: name, attributes: attributes, uidValidity: "88", last: 100}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boxes = append(f.boxes, b)
	return b
}

// find returns a mailbox; ok is false where there is none. The INBOX is nil.
func (f *fake) find(name string) (b *fakeBox, ok bool) {
	if strings.EqualFold(name, "INBOX") {
		return nil, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.boxes {
		if b.name == name {
			return b, true
		}
	}
	return nil, f.options.Mailbox != "" // which is that one then
}

// in returns the UIDs in a mailbox.
func (f *fake) in(name string) []uint32 {
	b, ok := f.find(name)
	if !ok {
		f.t.Fatalf("no mailbox %q", name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	uids := []uint32{}
	for _, m := range b.messages {
		uids = append(uids, m.uid)
	}
	return uids
}

// messages is the selected mailbox's; f.mu is held.
func (c *fakeConn) messages() *[]fakeMessage {
	if c.box != nil {
		return &c.box.messages
	}
	return &c.f.messages
}

func (c *fakeConn) selectBox(name string) {
	b, ok := c.f.find(name)
	if !ok {
		c.say("%s NO [NONEXISTENT] no such mailbox", c.tag)
		return
	}
	c.box = b
	c.selected()
}

func (c *fakeConn) store(args string) {
	f := c.f
	named := setOf(args)
	on := strings.Contains(args, " +FLAGS")
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range *c.messages() {
		m := &(*c.messages())[i]
		switch {
		case !named.has(m.uid):
		case strings.Contains(args, `\Seen`):
			m.seen = on
		default:
			m.deleted = on
			if on && c.box == nil {
				f.flagged = append(f.flagged, m.uid)
			}
		}
	}
	c.ok("done")
}

func (c *fakeConn) expunge(named set) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	var kept []fakeMessage
	for _, m := range *c.messages() {
		switch {
		case !m.deleted || !named.has(m.uid):
			kept = append(kept, m)
		case c.box == nil:
			f.expunged = append(f.expunged, m.uid)
		}
	}
	*c.messages() = kept
	c.ok("done")
}

func (c *fakeConn) search(args string) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := "* SEARCH"
	named := set{{1, 4294967295}}
	if strings.HasPrefix(args, "UID ") {
		named = setOf(args)
	}
	for _, m := range *c.messages() {
		if named.has(m.uid) && (m.deleted || !strings.HasSuffix(args, " DELETED") && args != "DELETED") &&
			!(m.deleted && strings.HasSuffix(args, "UNDELETED")) {
			answer += fmt.Sprint(" ", m.uid)
		}
	}
	c.say("%s", answer)
	c.ok("done")
}

// transfer answers MOVE and COPY, with COPYUID where there is UIDPLUS.
func (c *fakeConn) transfer(word, args string) {
	f := c.f
	name := strings.Trim(args[strings.Index(args, " ")+1:], `"`)
	to, ok := f.find(name)
	if !ok {
		c.say("%s NO [TRYCREATE] no such mailbox", c.tag)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	named, inbox := setOf(args), fakeBox{uidValidity: f.uidValidity, messages: f.messages, last: f.last()}
	into := to
	if to == nil {
		into = &inbox
	}
	var from, there []string
	var kept []fakeMessage
	for _, m := range *c.messages() {
		if !named.has(m.uid) {
			kept = append(kept, m)
			continue
		}
		into.last++
		from, there = append(from, fmt.Sprint(m.uid)), append(there, fmt.Sprint(into.last))
		into.messages = append(slices.Clone(into.messages), fakeMessage{uid: into.last, raw: m.raw, size: m.size, seen: m.seen})
		if word == "UID COPY" {
			kept = append(kept, m)
		}
	}
	*c.messages() = kept
	if to == nil {
		f.messages = inbox.messages
	}
	code := ""
	if len(from) > 0 && strings.Contains(f.caps, "UIDPLUS") {
		code = fmt.Sprintf("[COPYUID %s %s %s] ", into.uidValidity, strings.Join(from, ","), strings.Join(there, ","))
	}
	if word == "UID MOVE" && code != "" {
		c.say("* OK %smoved", code)
		code = ""
	}
	c.ok(code + "done")
}

func (f *fake) last() (uid uint32) {
	for _, m := range f.messages {
		uid = max(uid, m.uid)
	}
	return uid
}

func (c *fakeConn) listFolders(args string) {
	if args == `"" ""` {
		c.say(`* LIST (\Noselect) "." ""`)
		c.ok("done")
		return
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	special := strings.HasPrefix(args, "(SPECIAL-USE)")
	if !special {
		c.say(`* LIST (\HasNoChildren) "." INBOX`)
	}
	for _, b := range c.f.boxes {
		if b.attributes != "" || !special {
			c.say(`* LIST (%s) "." "%s"`, b.attributes, b.name)
		}
	}
	c.ok("done")
}
