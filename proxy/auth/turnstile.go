package auth

import (
	"context"

	"golang.org/x/sync/semaphore"
)

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
