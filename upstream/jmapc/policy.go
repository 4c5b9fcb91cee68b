package jmapc

import (
	"fmt"

	"git.sr.ht/~rockorager/go-jmap"

	"postern/upstream"
)

// hiddenKeyword is what DeleteFlag marks messages with: a keyword that nobody
// else uses, without the $ of those that IANA registers (RFC 8621 section
// 4.1.1). As an IMAP keyword other clients can see it, and clear it.
const hiddenKeyword = "postern-removed"

// A way is how messages leave the inbox by the policy.
type way int

const (
	byDestroying way = iota // or out of the inbox alone, for what is elsewhere too
	byMoving                // into another mailbox
	byHiding                // by a keyword, out of postern's listings only
	byNothing
)

func wayOf(p upstream.Policy) way {
	switch p.Delete {
	case upstream.DeleteExpunge:
		if p.Grace > 0 {
			return byMoving
		}
		return byDestroying
	case upstream.DeleteTrash, upstream.DeleteArchive:
		return byMoving
	case upstream.DeleteFlag:
		return byHiding
	}
	return byNothing
}

func (d *maildrop) way() way { return wayOf(d.u.o.Policy) }

// judgeRemoval tells what it takes to remove a message that was listed with
// that size.
func (d *maildrop) judgeRemoval(m *message, listed int64) step {
	switch {
	case d.isRemoved(m):
		return step{}
	case m.Size != listed:
		return step{err: fmt.Errorf("%w: %q has %d octets, was listed with %d", upstream.ErrRejected, m.ID, m.Size, listed)}
	case d.way() == byHiding:
		return step{patch: jmap.Patch{pointer("keywords", hiddenKeyword): true}}
	case d.way() == byMoving:
		return step{patch: jmap.Patch{member(d.inbox): nil, member(d.destination.box): true}}
	}
	return m.unlink(d.inbox)
}

// isRemoved tells whether a listing would not show the message.
func (d *maildrop) isRemoved(m *message) bool {
	return !m.in(d.inbox) || d.way() == byHiding && m.Keywords[hiddenKeyword]
}

// keptPlace is where a message can be found once it is removed, if that is
// the policy's doing. What somebody had filed in the archive before stays
// theirs, and is not to be purged from there.
func (d *maildrop) keptPlace(m *message) upstream.Place {
	switch {
	case d.way() == byHiding:
		return upstream.Place{Mailbox: string(d.inbox), Name: m.ID}
	case d.way() == byMoving && !m.in(d.destination.box):
		return upstream.Place{Mailbox: string(d.destination.box), Name: m.ID}
	}
	return upstream.Place{}
}
