package auth

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"postern/upstream"
)

// turnstiles are one for each upstream.
type turnstiles struct {
	logins int

	mu sync.Mutex
	of map[string]*turnstile
}

func newTurnstiles(logins int) *turnstiles {
	return &turnstiles{logins: logins, of: make(map[string]*turnstile)}
}

// enter waits for a turn at an upstream of the configuration.
func (t *turnstiles) enter(ctx context.Context, upstreamName string, proven bool) (leave func(), err error) {
	t.mu.Lock()
	one, ok := t.of[upstreamName]
	if !ok {
		one = newTurnstile(t.logins)
		t.of[upstreamName] = one
	}
	t.mu.Unlock()
	return one.enter(ctx, proven)
}

// A turnstile bounds the logins under way at one upstream.
type turnstile struct{ all, strangers *semaphore.Weighted }

func newTurnstile(n int) *turnstile {
	return &turnstile{semaphore.NewWeighted(int64(n)), semaphore.NewWeighted(int64(max(1, n-n/4)))}
}

// maxQueue is how long a client is kept waiting for a turn. An upstream that
// answers so slowly is as good as down.
const maxQueue = 20 * time.Second

// enter waits for a turn. Those who guess, and those whose first login it is,
// cannot take every turn there is.
func (t *turnstile) enter(ctx context.Context, proven bool) (leave func(), err error) {
	queue, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	leave, err = t.wait(queue, proven)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("too many logins under way: %w", upstream.ErrUnavailable)
	}
	return leave, err
}

func (t *turnstile) wait(ctx context.Context, proven bool) (leave func(), err error) {
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
