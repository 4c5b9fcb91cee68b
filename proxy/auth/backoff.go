package auth

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"postern/upstream"
)

// backoffs remember which accounts an upstream wants to hear nothing of for a
// while. POP3 clients come back every minute whatever they were told, and most
// providers count each of their logins against the account.
//
// What an upstream said to somebody whose credentials it had not found good
// before holds for such clients only. A stranger with a name and no password
// could keep its owner out otherwise.
type backoffs struct {
	mu    sync.Mutex
	asked *table[heard, backoff]
}

// heard is what a back-off is known by.
type heard struct {
	account string
	proven  bool // whether credentials came with it that are good
}

type backoff struct {
	until time.Time
	kind  error // what the upstream said, of the errors of package upstream
}

const (
	// maxBackoff is as long as the upstream's word is taken for. Microsoft 365
	// asks for five minutes as a rule, for more at times, and forgives earlier.
	maxBackoff  = 5 * time.Minute
	maxBackoffs = 1 << 16
)

func newBackoffs() *backoffs {
	return &backoffs{asked: newTable[heard, backoff](maxBackoffs, maxBackoff)}
}

// heed remembers how long an upstream that answered with err is to be left alone.
func (b *backoffs) heed(account string, proven bool, err error) {
	wait := min(upstream.Backoff(err), maxBackoff)
	if wait <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked.put(heard{account, proven}, backoff{time.Now().Add(wait), kindOf(err)})
}

// kindOf keeps of err what the client is to be told.
func kindOf(err error) error {
	for _, kind := range []error{upstream.ErrBusy, upstream.ErrTooSoon, upstream.ErrRejected} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return upstream.ErrUnavailable
}

// check returns an error like the upstream's while a login would come too early.
// What the owner heard, such as that the account is in use, a stranger does not.
func (b *backoffs) check(account string, proven bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	last, ok := b.asked.get(heard{account, true})
	if !proven {
		last.kind = upstream.ErrUnavailable
		if !ok || time.Until(last.until) <= 0 {
			last, ok = b.asked.get(heard{account, false})
		}
	}
	if left := time.Until(last.until); ok && left > 0 {
		return fmt.Errorf("the upstream wants no login for another %v: %w", left.Round(time.Second), last.kind)
	}
	return nil
}
