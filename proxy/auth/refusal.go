package auth

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"postern/upstream"
)

// refusals remember which passwords of accounts their upstreams refused, and let
// them be tried ever more seldom. A device polls every minute whatever it is
// told, and a provider that hears the same wrong password as often locks the
// account. A new password is tried at once.
type refusals struct {
	mu      sync.Mutex
	refused *table[guess, refusal]
}

type refusal struct {
	wait  time.Duration
	until time.Time
}

const (
	firstRefusal = 5 * time.Minute
	maxRefusal   = time.Hour
	maxRefusals  = 1 << 16
)

func newRefusals() *refusals {
	return &refusals{refused: newTable[guess, refusal](maxRefusals, 2*maxRefusal)}
}

// ours stands for the password that postern has for an account. Where it has
// tokens there is none: who keeps those knows when they are no good any more.
func (g *Gate) ours(a Account) guess {
	if a.Tokens != nil {
		return guess{}
	}
	return g.proofs.guess(a.maildrop().name, a.Password)
}

// check returns an error while it is too soon to try a password again.
func (r *refusals) check(ours guess) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.refused.get(ours)
	if left := time.Until(last.until); ok && left > 0 {
		return fmt.Errorf("%w: the upstream refused the credential of the account, and is not asked again for %v",
			upstream.ErrRejected, left.Round(time.Second))
	}
	return nil
}

// heed remembers what came of a login with a password.
func (r *refusals) heed(ours guess, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ours == (guess{}):
	case err == nil:
		r.refused.remove(ours)
	case errors.Is(err, upstream.ErrAuth):
		last, _ := r.refused.get(ours)
		wait := min(max(2*last.wait, firstRefusal), maxRefusal)
		r.refused.put(ours, refusal{wait, time.Now().Add(wait)})
	}
}
