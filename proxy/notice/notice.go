// Package notice tells the owner of an account, by POP3 itself, that postern
// can no longer reach the mailbox because the consent for it has ended. Where
// nobody looks at logs, such as behind a scanner or a ticket system, it is the
// one thing that somebody will see.
//
// A login that fails with upstream.ErrConsent gets a maildrop instead: what
// the client was shown the last time, so that it forgets no unique-id, and the
// notice as the newest message. Of the others none can be retrieved or
// removed. Once a client has the notice, logins fail until consent is given,
// and a later loss of it is told anew.
package notice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"postern/upstream"
)

// A Desk knows the accounts. It is asked by several sessions at once.
type Desk interface {
	// Lost tells what to say about an account whose login failed for want of
	// consent: false if its client has been told.
	Lost(ctx context.Context, account upstream.Account) (Lost, bool, error)

	// Told notes that a client has the notice of this loss.
	Told(ctx context.Context, account upstream.Account, lost Lost) error

	// Remembered returns what the account's clients were shown the last time.
	Remembered(ctx context.Context, account upstream.Account) (upstream.Listing, error)
}

// Lost says what has become of an account's consent.
type Lost struct {
	Account  string // the name that its client logs in with
	Provider string // who has to be asked, such as Gmail
	Since    time.Time
	Link     string // where consent is given; "" if an administrator must be asked
}

// An Opener opens the maildrops of another one, or notices in their place. It
// implements upstream.Opener.
type Opener struct {
	inner upstream.Opener
	desk  Desk
}

// New returns an Opener around the one that everything else is around.
func New(inner upstream.Opener, desk Desk) *Opener { return &Opener{inner, desk} }

// Open implements upstream.Opener.
func (o *Opener) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	drop, err := o.inner.Open(ctx, account)
	if !errors.Is(err, upstream.ErrConsent) {
		return drop, err
	}
	lost, ok, lostErr := o.desk.Lost(ctx, account)
	if lostErr != nil || !ok {
		return nil, errors.Join(err, lostErr)
	}
	known, knownErr := o.desk.Remembered(ctx, account)
	if knownErr != nil {
		return nil, fmt.Errorf("%w: %w", err, knownErr)
	}
	return newMaildrop(o.desk, account, lost, known), nil
}
