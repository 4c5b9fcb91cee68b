package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/sync/semaphore"

	"postern/proxy/auth"
	"postern/upstream"
)

// A hasher checks passwords that people chose. That takes memory and time on
// purpose, so only so many are checked at once, and only so many wait for it. A
// password that was good is known again for a while.
type hasher struct {
	turns  *semaphore.Weighted
	inside chan struct{} // one for each at work or waiting; its room is all there is

	key [32]byte // lives as long as the process

	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time // until when
}

var (
	// cost is what OWASP recommends at least (Password Storage Cheat Sheet,
	// 2025): 19 MiB and two passes.
	cost = argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

	// atOnce leaves a processor to those who need no hash, and keeps all that is
	// hashed below 256 MiB.
	atOnce = min(max(runtime.GOMAXPROCS(0)-1, 1), 12)
)

const (
	maxWaiting = 64
	knownLife  = 10 * time.Minute
	maxKnown   = 1 << 16
)

func newHasher() *hasher {
	h := &hasher{turns: semaphore.NewWeighted(int64(atOnce)), inside: make(chan struct{}, atOnce+maxWaiting), known: make(map[[sha256.Size]byte]time.Time)}
	rand.Read(h.key[:])
	return h
}

// check tells whether hash is of this password.
func (h *hasher) check(ctx context.Context, account, password, hash string) (bool, error) {
	leave, err := h.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	ok, err := argon2id.ComparePasswordAndHash(password, hash)
	if err != nil {
		return false, fmt.Errorf("%w: hash of a client password: %w", upstream.ErrUnavailable, err)
	}
	if ok {
		h.remember(h.mac(account, password, hash))
	}
	return ok, nil
}

// waste does the work of a check for nothing.
func (h *hasher) waste(ctx context.Context) error {
	leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = argon2id.CreateHash("", &cost)
	return err
}

// enter waits for a turn, if not too many do.
func (h *hasher) enter(ctx context.Context) (leave func(), err error) {
	select {
	case h.inside <- struct{}{}:
	default:
		return nil, auth.ErrUnchecked
	}
	if err := h.turns.Acquire(ctx, 1); err != nil {
		<-h.inside
		return nil, err
	}
	return func() {
		h.turns.Release(1)
		<-h.inside
	}, nil
}

// knows tells whether this password was good lately. A hash that was replaced
// makes it another question.
func (h *hasher) knows(account, password, hash string) bool {
	mac := h.mac(account, password, hash)
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.known[mac])
}

func (h *hasher) remember(mac [sha256.Size]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known) >= maxKnown {
		clear(h.known) // they are checked once more
	}
	h.known[mac] = time.Now().Add(knownLife)
}

func (h *hasher) mac(account, password, hash string) (mac [sha256.Size]byte) {
	m := hmac.New(sha256.New, h.key[:])
	for _, part := range []string{account, hash, password} {
		fmt.Fprintf(m, "%d:%s", len(part), part)
	}
	m.Sum(mac[:0])
	return mac
}
