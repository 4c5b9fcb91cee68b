// Package ledger keeps unique-ids from ever changing. It stands between the
// POP3 session and an adapter: a UIDL once issued for a message stays with it
// when the upstream renames its messages, when the mailbox moves to another
// server, and when a route changes from IMAP to JMAP; and no UIDL is ever
// issued for a second message. What would make a client download its mailbox
// again, or skip a message that it never saw, fails the login instead.
//
// # What a message is known by
//
// The upstream's name of it (UIDVALIDITY and UID, a JMAP id), as long as the
// names come from the same place (Options.Origin), or evidently mean the same.
// So a message that a listing missed, or another client hid for a while, is what
// it was. But what a client removed through postern, and a person brings back
// once it was gone, is a new message: clients that remember for good what they
// removed would never show it. Where names fail, in this order:
//  1. an identity that the upstream keeps (EMAILID, X-GM-MSGID); between two
//     upstreams only if all of the mailbox bears it out, since short ids of two
//     servers can be equal by chance;
//  2. its size and its header (see [Header]), which is read with TOP. Headers
//     are remembered as they pass by in RETR and TOP: a message that no client
//     ever downloaded need not be protected from being downloaded again. One
//     that does not come fails a login, once: it may come at the next;
//  3. in a mailbox that moved, and for entries whose header was never seen: size
//     and received date to the second, if no other message has both and it is
//     older than the newest that was ever listed;
//  4. in one whose names all changed, likewise: the order of the sizes, if nine
//     in ten messages keep it.
//
// Several messages with one key are bound only if there are as many entries
// with it, in order; otherwise they get new UIDLs. To show a message twice is
// better than not to show one.
//
// # What is remembered
//
// Entries of messages that were found gone are kept for at least 30 days, up to
// 131,072 of them an account; of those that were removed by postern, and of
// older ones, the UIDL alone is kept, as a hash, up to 65,536. Beyond that, and
// only if the names have changed meaning since, new messages get a UIDL in a
// form that was never issued before.
//
// # The churn breaker
//
// A login fails with upstream.ErrUnavailable if at least Options.Churn.Known
// messages were known, more than Churn.GonePercent of them would be gone, and
// as many new ones as Churn.NewPercent of those gone would be shown. Known are
// the messages of the last listing but those that postern removed, and those
// that were found gone within the last 7 days. A message does not count as new
// if it was received after the newest one ever listed and the mailbox still
// has a message under the name that it had before. So these do not trip it:
// what the client itself removed, another client emptying the mailbox, a first
// login. The login succeeds again as soon as the messages can be told, or once
// [Accept] was called.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"postern/proxy/state"
	"postern/upstream"
)

// Options say how to keep a route's ledgers. The zero value is usable.
type Options struct {
	// Origin says where the names of messages come from: they mean nothing
	// under another origin. Protocol and address of the upstream do.
	Origin string

	// Account names the ledger of an account. Nil means its user name in lower
	// case. It must be the same whichever upstream holds the account today,
	// and never that of somebody else.
	Account func(upstream.Account) string

	// RequireRetr refuses to remove a message that no session delivered whole.
	RequireRetr bool

	Churn Churn

	// Rebind bounds the time that one login spends reading headers; 0 means 20
	// seconds. The next login goes on where it ended.
	Rebind time.Duration

	Hooks Hooks
	Log   *slog.Logger     // nil discards
	Now   func() time.Time // nil means time.Now
}

// Churn is what trips the breaker; see the package comment. Zero fields mean
// the default.
type Churn struct {
	Known       int // 50; negative: never
	GonePercent int // 50
	NewPercent  int // 50
}

// Hooks tell what happens to ledgers, for metrics. Each may be nil, none may block.
type Hooks struct {
	Churned func()          // a login was refused by the breaker
	Rebound func(bound int) // so many messages kept their UIDL in a mailbox that moved
	Failed  func(err error) // a ledger could not be read or written
}

// An Opener opens maildrops whose UIDLs the ledger pins. It implements
// upstream.Opener.
type Opener struct {
	inner   upstream.Opener
	store   state.Store
	options Options

	mu      sync.Mutex
	tripped map[string]bool // accounts that were warned of
}

// New returns an Opener for the maildrops of inner.
func New(inner upstream.Opener, store state.Store, o Options) *Opener {
	if o.Account == nil {
		o.Account = func(a upstream.Account) string { return strings.ToLower(a.User) }
	}
	if o.Rebind == 0 {
		o.Rebind = 20 * time.Second
	}
	if o.Churn.Known == 0 {
		o.Churn.Known = 50
	}
	if o.Churn.GonePercent == 0 {
		o.Churn.GonePercent = 50
	}
	if o.Churn.NewPercent == 0 {
		o.Churn.NewPercent = 50
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Opener{inner: inner, store: store, options: o, tripped: map[string]bool{}}
}

// Open implements upstream.Opener.
func (o *Opener) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	inner, err := o.inner.Open(ctx, account)
	if err != nil {
		return nil, err
	}
	return &maildrop{Maildrop: inner, opener: o, account: o.options.Account(account), marks: map[int]mark{}, got: map[int]bool{}, enough: maxMarks}, nil
}

// errChurn is what a login fails with when the breaker trips.
var errChurn = fmt.Errorf("most known messages would be gone and others new: %w", upstream.ErrUnavailable)

// churned reports a login that the breaker refused: for each account once,
// until a login succeeds again.
func (o *Opener) churned(account string, known, gone, fresh int) {
	if o.options.Hooks.Churned != nil {
		o.options.Hooks.Churned()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.tripped[account] {
		o.tripped[account] = true
		o.options.Log.Warn("login refused: its client would download everything again; see postern uidl accept",
			"account", account, "known", known, "gone", gone, "new", fresh)
	}
}

func (o *Opener) recovered(account string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.tripped, account)
}

// failed reports a ledger that cannot be used, and says what a login fails
// with for it. Showing UIDLs without it is the accident that it prevents.
func (o *Opener) failed(err error) error {
	if o.options.Hooks.Failed != nil {
		o.options.Hooks.Failed(err)
	}
	if errors.Is(err, upstream.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", upstream.ErrUnavailable, err)
}

// Accept lets the next login of an account through, whatever its churn.
func Accept(ctx context.Context, store state.Store, account string) error {
	return change(ctx, store, account, func(b *book) error {
		if b.version == 0 {
			return fmt.Errorf("no UIDLs were ever issued for %q", account)
		}
		b.Accept = true
		return nil
	})
}
