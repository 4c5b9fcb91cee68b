package state

import (
	"context"
	"fmt"
	"sync"
	"time"

	"postern/upstream"
)

// locks are held within this process, which is enough while only one process
// serves from a store.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when given back
}

// patience lets a client in that comes back while its last session is closing.
const patience = time.Second

// Lock implements Store.
func (l *locks) Lock(ctx context.Context, key string) (func(), error) {
	patient, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		release, released := l.try(key)
		if release != nil {
			return release, nil
		}
		select {
		case <-released:
		case <-patient.Done():
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("lock of a maildrop: %w", upstream.ErrBusy)
		}
	}
}

// try takes the lock, or returns the channel that tells of its release.
func (l *locks) try(key string) (release func(), released <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if holder, ok := l.held[key]; ok {
		return nil, holder
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	mine := make(chan struct{})
	l.held[key] = mine
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
		close(mine)
	}), nil
}
