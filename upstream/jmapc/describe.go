package jmapc

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"git.sr.ht/~rockorager/go-jmap/mail/mailbox"

	"postern/upstream"
)

// A Report is what a server says of itself and of an account, for the operator
// who sets it up. It holds no secret, and no octet that a terminal obeys.
type Report struct {
	SessionURL   string // after discovery and redirects
	Account      string // the account's id
	Capabilities []string
	ReadOnly     bool // messages cannot be removed

	MaxConcurrentRequests uint64
	MaxObjectsInGet       uint64
	MaxObjectsInSet       uint64
	MaxSizeRequest        uint64 // octets

	Mailboxes []Mailbox
	Messages  uint64 // in the inbox
}

// A Mailbox is one line of a Report.
type Mailbox struct {
	Name     string
	Role     string // empty if it has none
	Messages uint64
}

// Describe logs in and reports what is there. Its errors are those of Open.
func (u *Upstream) Describe(ctx context.Context, account upstream.Account) (Report, error) {
	p, err := u.o.Scheme.proof(account)
	if err != nil {
		return Report{}, fmt.Errorf("jmap login: %w", err)
	}
	d, err := u.login(ctx, account, p)
	if err != nil {
		return Report{}, fmt.Errorf("jmap login: %w", err)
	}
	defer d.Close()
	boxes, err := d.mailboxes(ctx)
	if err != nil {
		return Report{}, err
	}
	s := d.session
	r := Report{
		SessionURL:            s.url.Redacted(),
		Account:               printable(string(s.account)),
		ReadOnly:              d.readOnly || s.readOnly,
		MaxConcurrentRequests: s.limits.MaxConcurrentRequests,
		MaxObjectsInGet:       s.limits.MaxObjectsInGet,
		MaxObjectsInSet:       s.limits.MaxObjectsInSet,
		MaxSizeRequest:        s.limits.MaxSizeRequest,
	}
	for uri := range s.capabilities {
		r.Capabilities = append(r.Capabilities, printable(string(uri)))
	}
	slices.Sort(r.Capabilities)
	for _, m := range boxes {
		if m == nil {
			continue
		}
		if m.Role == mailbox.RoleInbox {
			r.Messages = m.TotalEmails
		}
		r.Mailboxes = append(r.Mailboxes, Mailbox{printable(m.Name), printable(string(m.Role)), m.TotalEmails})
	}
	return r, nil
}

// printable shows what cannot be printed as an escape.
func printable(s string) string {
	quoted := strconv.QuoteToGraphic(s)
	return quoted[1 : len(quoted)-1]
}
