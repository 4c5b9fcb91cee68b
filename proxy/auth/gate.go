// Package auth decides who a client is, where their mail is, and whether they
// may try again. Its Gate is the Authenticator of the POP3 sessions: it asks the
// accounts that postern has passwords for, then the routes, whose upstreams
// check the credentials; it slows down guessing, and holds the maildrop for one
// session at a time.
//
// A stranger learns nothing: an unknown name and a wrong password are one error
// after one delay, and whether an account is in use or polled too often is told
// only to those who proved that it is theirs.
//
// RFC 1939 section 4 (exclusive access), 2449 section 6.5 (LOGIN-DELAY), 3206 (AUTH).
package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"postern/proxy/pop3"
	"postern/upstream"
)

// Options say how to let clients in. Routes and Locker are needed.
type Options struct {
	Accounts Accounts // whom postern itself has passwords for; nil: nobody
	Routes   []Route  // for everybody else, the first that matches counts
	Locker   Locker

	// LoginDelay is the least time between two logins of an account; 0 means none.
	LoginDelay time.Duration

	// MaxLogins bounds the logins under way at one upstream; 0 means 256. A
	// quarter is kept for credentials that are known to be good.
	MaxLogins int

	// HeldBack is told of each login that was refused without asking the
	// upstream: it had asked to be left alone, or had refused the same password
	// before. It may be nil.
	HeldBack func(upstream string)
}

// A Locker admits one session at a time to a maildrop. It is a courtesy to
// clients that reckon with exclusive access (RFC 1939 section 4): what may be
// removed never depends on it.
type Locker interface {
	// Lock takes the lock on a maildrop, or is upstream.ErrBusy if another
	// session has it. release gives it back; it is called once. The name is
	// unique to the maildrop and may hold any octets.
	Lock(ctx context.Context, maildrop string) (release func(), err error)
}

// A Gate implements pop3.Authenticator.
type Gate struct {
	accounts Accounts // never nil
	routes   []Route
	turns    *turnstiles
	locker   Locker
	delay    time.Duration
	throttle *throttle
	proofs   *proofs
	backoffs *backoffs
	refusals *refusals
	heldBack func(upstream string)
	nonce    func() string // for challenges; nil outside tests
}

// refusalTime is how long after the attempt a refusal is answered, whatever it
// was for. It is longer than the two seconds after which a Dovecot upstream
// answers a wrong password (its default auth_failure_delay).
const refusalTime = 3 * time.Second

// New returns a Gate.
func New(o Options) *Gate {
	if o.MaxLogins == 0 {
		o.MaxLogins = 256
	}
	g := &Gate{
		accounts: o.Accounts,
		turns:    newTurnstiles(o.MaxLogins),
		locker:   o.Locker,
		delay:    o.LoginDelay,
		throttle: newThrottle(),
		proofs:   newProofs(max(proofLife, o.LoginDelay)),
		backoffs: newBackoffs(),
		refusals: newRefusals(),
		heldBack: o.HeldBack,
	}
	if g.accounts == nil {
		g.accounts = nobody{}
	}
	if g.heldBack == nil {
		g.heldBack = func(string) {}
	}
	for _, r := range o.Routes {
		r.User = Fold(r.User)
		g.routes = append(g.routes, r)
	}
	return g
}

// Authenticate implements pop3.Authenticator. It waits as long as earlier
// failures demand before it tries, and makes each refusal take the same time.
// Either wait holds up whoever waits, and nothing else.
func (g *Gate) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	a := attempt{user: c.User, remote: c.Remote, session: c.Session, guess: g.guess(c)}
	known, proven := g.proofs.find(a.guess)
	a.proven = proven
	if proven && g.tooSoon(known) {
		return pop3.Login{}, upstream.ErrTooSoon
	}
	if !proven {
		known = g.routedTo(c.User)
	}
	if err := g.backedOff(known, proven); err != nil {
		return pop3.Login{}, err
	}
	if err := g.await(ctx, a); err != nil {
		return pop3.Login{}, err
	}
	began := time.Now()
	login, err := g.try(ctx, a, c)
	return login, g.refused(ctx, a, began, err)
}

// An attempt is one client's wish to log in.
type attempt struct {
	user, session string
	remote        netip.AddrPort
	guess         guess
	proven        bool // the same credentials were good there the last time
}

// await waits as long as the failures of this client demand.
func (g *Gate) await(ctx context.Context, a attempt) error {
	if a.proven {
		return nil
	}
	return sleep(ctx, g.throttle.delay(a.remote.Addr(), Fold(a.user)))
}

// refused remembers credentials that were not good, and makes the answer to
// those that began to be looked at then as late as any other. It returns err.
func (g *Gate) refused(ctx context.Context, a attempt, began time.Time, err error) error {
	switch {
	case errors.Is(err, upstream.ErrAuth):
		g.proofs.forget(a.guess)
	case errors.Is(err, ErrUnchecked) && !a.proven:
		// Somebody who has kept all checks busy may guess no faster than others: a
		// password that needs none would show at once.
	default:
		return err
	}
	g.throttle.failed(a.remote.Addr(), Fold(a.user), a.guess)
	sleep(ctx, refusalTime-time.Since(began))
	return err
}

// secret is what a client proves itself with.
func secret(c pop3.Credentials) upstream.Secret {
	if c.Token.Reveal() != "" {
		return c.Token
	}
	return c.Password
}

// try logs in with what may be good credentials.
func (g *Gate) try(ctx context.Context, a attempt, c pop3.Credentials) (pop3.Login, error) {
	if !plausible(c) {
		return pop3.Login{}, fmt.Errorf("not a name and a password: %w", upstream.ErrAuth)
	}
	account, err := g.accounts.Check(ctx, c)
	switch {
	case err == nil:
		return g.open(ctx, a, account)
	case !errors.Is(err, ErrUnknown):
		return pop3.Login{}, err
	}
	r := g.route(c.User)
	if r == nil || r.AccountsOnly || r.account(c).Login == "" {
		return pop3.Login{}, g.nobodys(ctx)
	}
	return g.pass(ctx, a, r.account(c))
}

// nobodys is the error for a name that nobody has and no route takes. It takes as
// long as a password that is wrong.
func (g *Gate) nobodys(ctx context.Context) error {
	if err := g.accounts.Waste(ctx); err != nil {
		return err
	}
	return fmt.Errorf("neither an account nor a route has this name: %w", upstream.ErrAuth)
}

// open opens the maildrop of a client who has proved to be its owner: who may
// therefore be told the truth, and need not ask the upstream to learn that it is
// too soon, or another session is there.
func (g *Gate) open(ctx context.Context, a attempt, account Account) (_ pop3.Login, err error) {
	g.throttle.succeeded(a.remote.Addr(), Fold(a.user))
	drop := account.maildrop()
	if err := g.backedOff(drop, true); err != nil {
		return pop3.Login{}, err
	}
	h := g.newHeld(drop)
	defer h.giveUp() // also when something panics
	if err := g.hold(ctx, h); err != nil {
		return pop3.Login{}, err
	}
	h.Maildrop, err = g.ask(ctx, a, account, true)
	if errors.Is(err, upstream.ErrAuth) {
		// The client did nothing wrong, and would forget its password.
		return pop3.Login{}, fmt.Errorf("%w: the upstream refuses the credential of the account: %v", upstream.ErrRejected, err)
	}
	if err != nil {
		return pop3.Login{}, err
	}
	return h.login(a, account), nil
}

// pass opens the maildrop of a client whose credentials the upstream checks. From
// then on the client is known to be the owner.
func (g *Gate) pass(ctx context.Context, a attempt, account Account) (_ pop3.Login, err error) {
	h := g.newHeld(account.maildrop())
	defer h.giveUp()
	if h.Maildrop, err = g.ask(ctx, a, account, a.proven); err != nil {
		return pop3.Login{}, err
	}
	g.throttle.succeeded(a.remote.Addr(), Fold(a.user))
	if err := g.hold(ctx, h); err != nil {
		return pop3.Login{}, err
	}
	return h.login(a, account), nil
}

// ask has the upstream open a maildrop, when it is its turn.
func (g *Gate) ask(ctx context.Context, a attempt, account Account, proven bool) (upstream.Maildrop, error) {
	password := g.password(account)
	if left := g.refusals.left(password); left > 0 {
		g.heldBack(account.Upstream)
		return nil, fmt.Errorf("%w by the upstream the last time, which is not asked again for %v", upstream.ErrAuth, left)
	}
	leave, err := g.turns.enter(ctx, account.Upstream, proven)
	if err != nil {
		return nil, err
	}
	defer leave()
	drop, err := account.Opener.Open(ctx, upstream.Account{
		User: account.Login, Password: account.Password, Tokens: account.Tokens, Session: a.session})
	g.backoffs.heed(account.maildrop().name, proven, err)
	g.refusals.heed(password, err)
	return drop, err
}

// hold keeps a maildrop for one session.
func (g *Gate) hold(ctx context.Context, h *held) (err error) {
	if h.unlock, err = g.locker.Lock(ctx, h.maildrop.name); err != nil {
		return err
	}
	if g.tooSoon(h.maildrop) {
		return upstream.ErrTooSoon
	}
	return nil
}

// A maildrop is where an attempt leads.
type maildrop struct {
	upstream string
	name     string // for locks and back-offs, the same for every way to write the user's name
}

func (a Account) maildrop() maildrop {
	return maildrop{a.Upstream, a.Upstream + "\x00" + Fold(a.Login)}
}

// backedOff returns an error like the upstream's if that wants to be left alone.
func (g *Gate) backedOff(m maildrop, proven bool) error {
	err := g.backoffs.check(m.name, proven)
	if err != nil {
		g.heldBack(m.upstream)
	}
	return err
}

// tooSoon tells whether the maildrop was opened less than the login delay ago.
func (g *Gate) tooSoon(m maildrop) bool {
	last, ok := g.proofs.last(m)
	return ok && time.Since(last) < g.delay
}

// Limits of what is worth showing to an upstream. Longer names and passwords
// are nobody's.
const (
	maxNameOctets     = 255
	maxPasswordOctets = 1024
	maxTokenOctets    = 8 << 10 // those of Microsoft have 2,000 and more
)

// plausible tells whether the credentials may be shown to an upstream. An empty
// password never: some servers take it for an anonymous login that succeeds.
func plausible(c pop3.Credentials) bool {
	if !plausibleName(c.User) {
		return false
	}
	if token := c.Token.Reveal(); token != "" {
		return len(token) <= maxTokenOctets && strings.IndexFunc(token, unicode.IsControl) < 0
	}
	password := c.Password.Reveal()
	return password != "" && len(password) <= maxPasswordOctets && !strings.Contains(password, "\x00")
}

func plausibleName(name string) bool {
	return name != "" && len(name) <= maxNameOctets && strings.IndexFunc(name, unicode.IsControl) < 0
}

// sleep waits for d, or for ctx to end.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
