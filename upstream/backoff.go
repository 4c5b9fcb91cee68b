package upstream

import (
	"errors"
	"time"
)

// WithBackoff notes in err that the upstream wants no login of this account for
// so long. It adds nothing for a wait that is not positive.
func WithBackoff(err error, wait time.Duration) error {
	if err == nil || wait <= 0 {
		return err
	}
	return &backoffError{err, wait}
}

// Backoff returns how long an upstream that answered with err wants no login of
// the account, or 0.
func Backoff(err error) time.Duration {
	if e, ok := errors.AsType[*backoffError](err); ok {
		return e.wait
	}
	return 0
}

type backoffError struct {
	err  error
	wait time.Duration
}

func (e *backoffError) Error() string { return e.err.Error() }
func (e *backoffError) Unwrap() error { return e.err }
