package state

import (
	"context"
	"fmt"
	"sync"

	"postern/upstream"
)

// locks are held within this process, which is enough while only one process
// serves from a store.
type locks struct {
	mu   sync.Mutex
	held map[string]bool
}

// Lock implements Store.
func (l *locks) Lock(ctx context.Context, key string) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key] {
		return nil, fmt.Errorf("lock %q: %w", key, upstream.ErrBusy)
	}
	if l.held == nil {
		l.held = map[string]bool{}
	}
	l.held[key] = true
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
	}), nil
}
