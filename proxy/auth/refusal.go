package auth

import (
	"errors"
	"sync"
	"time"

	"postern/upstream"
)

// refusals remember which passwords an upstream refused, and let each be tried
// ever more seldom. A device polls every minute whatever it is told, and a
// provider that hears the same wrong password as often locks the account, or
// shuts out everybody who comes from here. Another password is tried at once.
type refusals struct {
	mu      sync.Mutex
	refused *table[guess, refusal]
}

type refusal struct {
	wait  time.Duration
	until time.Time
}

// Many lock an account that was refused five times in half an hour.
const (
	firstRefusal = 2 * time.Minute
	maxRefusal   = 16 * time.Minute
	maxRefusals  = 1 << 16
)

func newRefusals() *refusals {
	return &refusals{refused: newTable[guess, refusal](maxRefusals, 2*maxRefusal)}
}

// password stands for one at an upstream, under the name there. Tokens have none:
// who keeps those knows when they are no good any more.
func (g *Gate) password(a Account) guess {
	if a.Tokens != nil {
		return guess{}
	}
	return g.proofs.guess(a.Upstream+"\x00"+a.Login, a.Password)
}

// left is how long it is too soon to try a password again.
func (r *refusals) left(g guess) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, _ := r.refused.get(g)
	return time.Until(last.until).Round(time.Second)
}

// heed remembers what came of a login with a password.
func (r *refusals) heed(g guess, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case g == (guess{}):
	case err == nil:
		r.refused.remove(g)
	case errors.Is(err, upstream.ErrAuth):
		last, _ := r.refused.get(g)
		wait := min(max(2*last.wait, firstRefusal), maxRefusal)
		r.refused.put(g, refusal{wait, time.Now().Add(wait)})
	}
}
