package jmapc

import (
	"context"
	"fmt"
	"strings"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/mailbox"

	"postern/upstream"
)

// A destination is where the policy moves messages to.
type destination struct {
	box jmap.ID // empty if the policy moves none, if err is set, or while levels are missing
	// missing are the levels of the path that have to be made, below parent.
	missing []string
	parent  jmap.ID // empty at the top level
	err     error   // why no message can be moved
}

// findDestination looks for it among all mailboxes: the trash by its role,
// never by its name, which is for people; an archive by its role or the path
// that the policy names.
func (d *maildrop) findDestination(boxes []*mailbox.Mailbox) destination {
	p := d.u.o.Policy
	switch {
	case d.way() != byMoving:
		return destination{}
	case p.Delete != upstream.DeleteArchive:
		return d.role(boxes, mailbox.RoleTrash)
	case p.Folder == "":
		return d.role(boxes, mailbox.RoleArchive)
	}
	return d.path(boxes, strings.Split(p.Folder, "/"))
}

func (d *maildrop) role(boxes []*mailbox.Mailbox, role mailbox.Role) destination {
	for _, m := range boxes {
		if m != nil && m.Role == role {
			return d.accept(m)
		}
	}
	return destination{err: fmt.Errorf("%w: no mailbox has the role %s", upstream.ErrRejected, role)}
}

// accept checks that messages can be moved into a mailbox.
func (d *maildrop) accept(m *mailbox.Mailbox) destination {
	switch {
	case m.ID == d.inbox || m.ID == "":
		return destination{err: fmt.Errorf("%w: the archive is the inbox itself", upstream.ErrRejected)}
	case m.Rights != nil && !m.Rights.MayAddItems:
		return destination{err: fmt.Errorf("%w: nothing may be added to the mailbox %q", upstream.ErrRejected, brief(m.Name))}
	}
	return destination{box: m.ID}
}

// path follows the names of levels as far as there are mailboxes.
func (d *maildrop) path(boxes []*mailbox.Mailbox, levels []string) destination {
	var at *mailbox.Mailbox
	for n, name := range levels {
		next := child(boxes, at, name)
		if next != nil {
			at = next
			continue
		}
		if !d.mayCreateIn(at) {
			return destination{err: fmt.Errorf("%w: the mailbox %q is missing, and may not be made", upstream.ErrRejected, d.u.o.Policy.Folder)}
		}
		missing := destination{missing: levels[n:]}
		if at != nil {
			missing.parent = at.ID
		}
		return missing
	}
	return d.accept(at)
}

// child returns the mailbox of that name in another one, or at the top level if
// that is nil.
func child(boxes []*mailbox.Mailbox, parent *mailbox.Mailbox, name string) *mailbox.Mailbox {
	for _, m := range boxes {
		if m != nil && m.Name == name && (parent == nil && m.ParentID == "" || parent != nil && m.ParentID == parent.ID) {
			return m
		}
	}
	return nil
}

func (d *maildrop) mayCreateIn(parent *mailbox.Mailbox) bool {
	if parent == nil {
		return d.session.mayCreate
	}
	return parent.Rights == nil || parent.Rights.MayCreateChild
}

// makeDestination makes what is missing of the path, once.
func (d *maildrop) makeDestination(ctx context.Context) error {
	for len(d.destination.missing) > 0 {
		id, err := d.create(ctx, d.destination.parent, d.destination.missing[0])
		if err != nil {
			// Another session may have been faster, or the answer is lost.
			boxes, lost := d.mailboxes(ctx)
			if lost != nil {
				return fmt.Errorf("make mailbox %q: %w", d.u.o.Policy.Folder, lost)
			}
			if d.destination = d.findDestination(boxes); d.destination.box != "" {
				return nil
			}
			return fmt.Errorf("make mailbox %q: %w", d.u.o.Policy.Folder, err)
		}
		d.destination.parent, d.destination.missing = id, d.destination.missing[1:]
		if len(d.destination.missing) == 0 {
			d.destination = destination{box: id}
		}
	}
	return d.destination.err
}

// create makes a mailbox. RFC 8621 section 2.5.
func (d *maildrop) create(ctx context.Context, parent jmap.ID, name string) (jmap.ID, error) {
	const key = "new"
	got, err := d.call(ctx, func() []jmap.Method {
		return []jmap.Method{&mailbox.Set{
			Account: d.session.account,
			Create:  map[jmap.ID]*mailbox.Mailbox{key: {Name: name, ParentID: parent}},
		}}
	})
	if err != nil {
		return "", err
	}
	made, err := answer[mailbox.SetResponse](got, 0)
	if err != nil {
		return "", err
	}
	if m := made.Created[key]; m != nil && m.ID != "" {
		return m.ID, nil
	}
	if e := made.NotCreated[key]; e != nil {
		return "", methodError(&jmap.MethodError{Type: e.Type})
	}
	return "", fmt.Errorf("%w: neither created nor not", upstream.ErrUnavailable)
}
