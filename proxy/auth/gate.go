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

	"golang.org/x/sync/semaphore"

	"postern/proxy/pop3"
	"postern/upstream"
)

// A Route says where the maildrops of some accounts are.
type Route struct {
	User     string // pattern for the whole name; * is any run of characters, case does not count
	Upstream string // the upstream's name in the configuration
	Opener   upstream.Opener
}

// Options say how to let clients in. Only Routes are needed.
type Options struct {
	Routes []Route // the first that matches counts

	// Locker keeps a second session out of a maildrop. Nil means one that
	// knows of the sessions of this process.
	Locker Locker

	// LoginDelay is the least time between two logins of an account; 0 means none.
	LoginDelay time.Duration

	// MaxLogins bounds the logins under way at one upstream; 0 means 256. A
	// quarter is kept for credentials that were good the last time.
	MaxLogins int
}

// A Gate implements pop3.Authenticator.
type Gate struct {
	routes   []Route
	gates    map[string]*turnstile // by upstream
	locker   Locker
	delay    time.Duration
	throttle *throttle
	proofs   *proofs
}

// refusalTime is how long after the attempt a refusal is answered, whatever it
// was for. It is longer than the two seconds after which a Dovecot upstream
// answers a wrong password (its default auth_failure_delay).
const refusalTime = 3 * time.Second

// New returns a Gate.
func New(o Options) *Gate {
	if o.Locker == nil {
		o.Locker = newLocks()
	}
	if o.MaxLogins == 0 {
		o.MaxLogins = 256
	}
	g := &Gate{
		gates:    make(map[string]*turnstile),
		locker:   o.Locker,
		delay:    o.LoginDelay,
		throttle: newThrottle(),
		proofs:   newProofs(max(proofLife, o.LoginDelay)),
	}
	for _, r := range o.Routes {
		r.User = fold(r.User)
		g.routes = append(g.routes, r)
		g.gates[r.Upstream] = newTurnstile(o.MaxLogins)
	}
	return g
}

// Authenticate implements pop3.Authenticator.
func (g *Gate) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	began := time.Now()
	login, err := g.admit(ctx, c)
	if errors.Is(err, upstream.ErrAuth) {
		// The wait holds up whoever waits for it, and nothing else. A client
		// that hangs up instead was counted already.
		sleep(ctx, refusalTime-time.Since(began))
	}
	return login, err
}

// admit waits as long as earlier failures demand, then tries.
func (g *Gate) admit(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	route, found := g.route(c.User)
	who := account(route.Upstream, c.User)
	proven := found && g.proofs.match(who, c.Password)
	if proven && g.tooSoon(who) {
		return pop3.Login{}, upstream.ErrTooSoon
	}
	if !proven {
		if err := sleep(ctx, g.throttle.delay(c.Remote.Addr(), who)); err != nil {
			return pop3.Login{}, err
		}
	}
	if !found || !plausible(c) {
		g.throttle.failed(c.Remote.Addr(), who)
		return pop3.Login{}, fmt.Errorf("no route for this name, or no password: %w", upstream.ErrAuth)
	}
	drop, err := g.open(ctx, route, c, proven)
	switch {
	case errors.Is(err, upstream.ErrAuth):
		g.proofs.forget(who, c.Password)
		g.throttle.failed(c.Remote.Addr(), who)
		return pop3.Login{}, err
	case err != nil:
		return pop3.Login{}, err
	}
	g.throttle.succeeded(c.Remote.Addr(), who)
	return g.hold(ctx, route, c, drop)
}

// open has the upstream check the credentials.
func (g *Gate) open(ctx context.Context, r Route, c pop3.Credentials, proven bool) (upstream.Maildrop, error) {
	leave, err := g.gates[r.Upstream].enter(ctx, proven)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn to log in: %w", err)
	}
	defer leave()
	return r.Opener.Open(ctx, upstream.Account{User: c.User, Password: c.Password})
}

// hold keeps a maildrop for one session. From here on the client is known to
// be the owner and may be told the truth.
func (g *Gate) hold(ctx context.Context, r Route, c pop3.Credentials, drop upstream.Maildrop) (_ pop3.Login, err error) {
	h := &held{Maildrop: drop}
	defer func() {
		if h.kept {
			return
		}
		h.Close() // also when the Locker panics
	}()
	who := account(r.Upstream, c.User)
	unlock, err := g.locker.Lock(ctx, who)
	if err != nil {
		return pop3.Login{}, err
	}
	h.unlock = unlock
	if g.tooSoon(who) {
		return pop3.Login{}, upstream.ErrTooSoon
	}
	g.proofs.keep(who, c.Password)
	h.kept = true
	return pop3.Login{Maildrop: h, Account: c.User, Upstream: r.Upstream}, nil
}

// tooSoon tells whether the account logged in less than the login delay ago.
func (g *Gate) tooSoon(who string) bool {
	last, ok := g.proofs.last(who)
	return ok && time.Since(last) < g.delay
}

// route returns the first route for a name.
func (g *Gate) route(user string) (Route, bool) {
	user = fold(user)
	for _, r := range g.routes {
		if match(r.User, user) {
			return r, true
		}
	}
	return Route{}, false
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

// account names a maildrop, the same for every way to write the user's name.
func account(upstreamName, user string) string { return upstreamName + "\x00" + fold(user) }

// fold maps ASCII letters to lower case and leaves every other octet alone: more
// folding would let a name that only looks like another stand for it.
func fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// match tells whether pattern, in which * is any run of octets, covers name. It
// remembers only the last star, so that no pattern takes long.
func match(pattern, name string) bool {
	p, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// A held maildrop belongs to one session until it is closed.
type held struct {
	upstream.Maildrop
	unlock func()
	kept   bool
	once   sync.Once
	err    error
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

// A turnstile bounds the logins under way at one upstream.
type turnstile struct{ all, strangers *semaphore.Weighted }

func newTurnstile(n int) *turnstile {
	return &turnstile{semaphore.NewWeighted(int64(n)), semaphore.NewWeighted(int64(max(1, n-n/4)))}
}

// enter waits for a turn. Those who guess, and those whose first login it is,
// cannot take every turn there is.
func (t *turnstile) enter(ctx context.Context, proven bool) (leave func(), err error) {
	if !proven {
		if err := t.strangers.Acquire(ctx, 1); err != nil {
			return nil, err
		}
	}
	if err := t.all.Acquire(ctx, 1); err != nil {
		if !proven {
			t.strangers.Release(1)
		}
		return nil, err
	}
	return func() {
		t.all.Release(1)
		if !proven {
			t.strangers.Release(1)
		}
	}, nil
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
