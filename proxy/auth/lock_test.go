package auth

import (
	"context"
	"fmt"
	"sync"
	"time"

	"postern/upstream"
)

// locks are a Locker with the patience of the one that the program uses.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when released
}

func newLocks() *locks { return &locks{held: make(map[string]chan struct{})} }

// patience lets a client in that reconnects as it hangs up, while its last
// session is still closing.
const patience = time.Second

func (l *locks) Lock(ctx context.Context, maildrop string) (release func(), err error) {
	patient, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		release, released := l.try(maildrop)
		if release != nil {
			return release, nil
		}
		select {
		case <-released:
		case <-patient.Done():
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("locked by another session: %w", upstream.ErrBusy)
		}
	}
}

// try takes the lock, or returns the channel that tells of its release.
func (l *locks) try(maildrop string) (release func(), released <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, taken := l.held[maildrop]; taken {
		return nil, c
	}
	c := make(chan struct{})
	l.held[maildrop] = c
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, maildrop)
		close(c)
	}, nil
}
