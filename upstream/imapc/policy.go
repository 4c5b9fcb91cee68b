package imapc

import (
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A way is how messages leave the selected mailbox on one connection, by the
// policy and by what the server can do.
type way int

const (
	byExpunge      way = iota // UID STORE, then UID EXPUNGE
	byExpungeAlone            // UID STORE, then EXPUNGE if nothing else is flagged
	byMove                    // UID MOVE
	byCopy                    // UID COPY, then as byExpunge
	byFlag                    // UID STORE, and hidden from listings
	byNothing
)

// String is the way's word in the journal.
func (w way) String() string {
	return [...]string{"expunge", "expunge-alone", "move", "copy", "flag", "nothing"}[w]
}

// way tells how messages are removed on this connection, or why they cannot be.
func (c *conn) way() (way, error) {
	p := c.o.Policy
	if p.Delete == upstream.DeleteNever {
		return byNothing, nil
	}
	switch {
	case c.box.uidValidity == 0 || c.box.notSticky:
		return byNothing, rejected("UIDs do not last")
	case c.box.readOnly:
		return byNothing, rejected("mailbox is read-only")
	}
	switch p.Delete {
	case upstream.DeleteExpunge:
		switch {
		case p.Grace > 0:
			return c.mover()
		case c.uidPlus():
			return byExpunge, nil
		case p.ExpungeAlone:
			return byExpungeAlone, nil
		}
		return byNothing, rejected("the server has no UIDPLUS")
	case upstream.DeleteTrash:
		return c.mover()
	case upstream.DeleteArchive:
		if c.isListed(c.mailboxName(p.Folder)) {
			return byNothing, rejected("the archive is the mailbox itself")
		}
		return c.mover()
	case upstream.DeleteFlag:
		return byFlag, nil
	}
	return byNothing, rejected("no such policy")
}

func rejected(why string) error { return fmt.Errorf("%s: %w", why, upstream.ErrRejected) }

// mover tells how messages are moved to another mailbox. The library's Move is
// no way: without MOVE it flags and expunges whatever became of the copies.
func (c *conn) mover() (way, error) {
	switch {
	case c.caps.Has(imap.CapMove) || c.caps.Has(imap.CapIMAP4rev2):
		return byMove, nil
	case c.uidPlus():
		return byCopy, nil
	}
	return byNothing, rejected("the server has neither MOVE nor UIDPLUS")
}

// uidPlus tells whether UIDs can be expunged one by one, and copies be traced.
func (c *conn) uidPlus() bool {
	return c.caps.Has(imap.CapUIDPlus) || c.caps.Has(imap.CapIMAP4rev2)
}

// listedName is the mailbox of the options in the server's own terms.
func (c *conn) listedName() string { return c.mailboxName(c.o.Mailbox) }

// isListed tells whether name is the mailbox of the options. INBOX is the one
// name that may be written in any case (RFC 9051 section 5.1).
func (c *conn) isListed(name string) bool {
	listed := c.listedName()
	return name == listed || strings.EqualFold(name, "INBOX") && strings.EqualFold(listed, "INBOX")
}

func (c *conn) gmail() bool { return c.caps.Has("X-GM-EXT-1") }
