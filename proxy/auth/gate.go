// Package auth decides who a client is, where their mail is, and whether they
// may try again. Its Gate is the Authenticator of the POP3 sessions: it finds
// the route of a name, slows down guessing, has the upstream check the
// credentials, and holds the maildrop for one session at a time.
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
	"strings"
	"sync"
	"time"
	"unicode"

	"postern/proxy/pop3"
	"postern/upstream"
)

// Options say how to let clients in. Routes and Locker are needed.
type Options struct {
	Routes []Route // the first that matches counts
	Locker Locker

	// LoginDelay is the least time between two logins of an account; 0 means none.
	LoginDelay time.Duration

	// MaxLogins bounds the logins under way at one upstream; 0 means 256. A
	// quarter is kept for credentials that were good the last time.
	MaxLogins int

	// HeldBack is told of each login that was refused without asking the
	// upstream, which had asked to be left alone; it may be nil.
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
	routes   []Route
	turns    map[string]*turnstile // by upstream
	locker   Locker
	delay    time.Duration
	throttle *throttle
	proofs   *proofs
	backoffs *backoffs
	heldBack func(upstream string)
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
		turns:    make(map[string]*turnstile),
		locker:   o.Locker,
		delay:    o.LoginDelay,
		throttle: newThrottle(),
		proofs:   newProofs(max(proofLife, o.LoginDelay)),
		backoffs: newBackoffs(),
		heldBack: o.HeldBack,
	}
	if g.heldBack == nil {
		g.heldBack = func(string) {}
	}
	for _, r := range o.Routes {
		r.User = fold(r.User)
		g.routes = append(g.routes, r)
		g.turns[r.Upstream] = newTurnstile(o.MaxLogins)
	}
	return g
}

// Authenticate implements pop3.Authenticator. It waits as long as earlier
// failures demand before it tries, and makes each refusal take the same time.
// Either wait holds up whoever waits, and nothing else.
func (g *Gate) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	a := g.attempt(c)
	if a.proven && g.tooSoon(a.account) {
		return pop3.Login{}, upstream.ErrTooSoon
	}
	if err := g.backoffs.check(a.account, a.proven); err != nil {
		g.heldBack(a.route.Upstream)
		return pop3.Login{}, err
	}
	if !a.proven {
		if err := sleep(ctx, g.throttle.delay(c.Remote.Addr(), a.account)); err != nil {
			return pop3.Login{}, err
		}
	}
	began := time.Now()
	drop, err := g.open(ctx, a)
	if errors.Is(err, upstream.ErrAuth) {
		g.refused(a)
		sleep(ctx, refusalTime-time.Since(began))
	}
	if err != nil {
		return pop3.Login{}, err
	}
	g.throttle.succeeded(c.Remote.Addr(), a.account)
	return g.hold(ctx, a, drop)
}

// An attempt is one client's wish to log in.
type attempt struct {
	pop3.Credentials
	route   *Route // nil for none
	account string // the maildrop's name, for locks and the throttle
	proven  bool   // the same credentials were good the last time
}

func (g *Gate) attempt(c pop3.Credentials) attempt {
	a := attempt{Credentials: c, route: g.route(c.User)}
	if a.route == nil {
		a.account = accountName("", c.User)
		return a
	}
	a.account = accountName(a.route.Upstream, c.User)
	a.proven = g.proofs.match(a.account, c.Password)
	return a
}

// refused remembers that the credentials were not good.
func (g *Gate) refused(a attempt) {
	g.proofs.forget(a.account, a.Password)
	g.throttle.failed(a.Remote.Addr(), a.account)
}

// open has the upstream check the credentials.
func (g *Gate) open(ctx context.Context, a attempt) (upstream.Maildrop, error) {
	if a.route == nil {
		return nil, fmt.Errorf("no route for this name: %w", upstream.ErrAuth)
	}
	if !plausible(a.Credentials) {
		return nil, fmt.Errorf("not a name and a password: %w", upstream.ErrAuth)
	}
	leave, err := g.turns[a.route.Upstream].enter(ctx, a.proven)
	if err != nil {
		return nil, err
	}
	defer leave()
	drop, err := a.route.Opener.Open(ctx, upstream.Account{User: a.User, Password: a.Password, Session: a.Session})
	g.backoffs.heed(a.account, a.proven, err)
	return drop, err
}

// hold keeps a maildrop for one session. From here on the client is known to
// be the owner and may be told the truth.
func (g *Gate) hold(ctx context.Context, a attempt, drop upstream.Maildrop) (_ pop3.Login, err error) {
	h := &held{Maildrop: drop, failed: func(err error) { g.backoffs.heed(a.account, true, err) }}
	kept := false
	defer func() {
		if !kept { // also when the Locker panics
			h.Close()
		}
	}()
	if h.unlock, err = g.locker.Lock(ctx, a.account); err != nil {
		return pop3.Login{}, err
	}
	if g.tooSoon(a.account) {
		return pop3.Login{}, upstream.ErrTooSoon
	}
	g.proofs.keep(a.account, a.Password)
	kept = true
	return pop3.Login{Maildrop: h, Account: a.User, Upstream: a.route.Upstream}, nil
}

// tooSoon tells whether the account logged in less than the login delay ago.
func (g *Gate) tooSoon(who string) bool {
	last, ok := g.proofs.last(who)
	return ok && time.Since(last) < g.delay
}

// Limits of what is worth showing to an upstream. Longer names and passwords
// are nobody's.
const (
	maxNameOctets     = 255
	maxPasswordOctets = 1024
)

// plausible tells whether the credentials may be shown to an upstream. An empty
// password never: some servers take it for an anonymous login that succeeds.
func plausible(c pop3.Credentials) bool {
	password := c.Password.Reveal()
	return c.User != "" && len(c.User) <= maxNameOctets && strings.IndexFunc(c.User, unicode.IsControl) < 0 &&
		password != "" && len(password) <= maxPasswordOctets && !strings.Contains(password, "\x00")
}

// A held maildrop belongs to one session until it is closed.
type held struct {
	upstream.Maildrop
	failed func(error) // to be told why the login fails after all
	unlock func()      // nil until locked
	once   sync.Once
	err    error
}

// List implements upstream.Maildrop. It is part of logging in.
func (h *held) List(ctx context.Context) (upstream.Listing, error) {
	listing, err := h.Maildrop.List(ctx)
	h.failed(err)
	return listing, err
}

// Close closes the upstream, then lets the next session in, once.
func (h *held) Close() error {
	h.once.Do(func() {
		if h.unlock != nil {
			defer h.unlock()
		}
		h.err = h.Maildrop.Close()
	})
	return h.err
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
