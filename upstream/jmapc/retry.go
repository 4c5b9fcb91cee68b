package jmapc

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"git.sr.ht/~rockorager/go-jmap"
)

const (
	attempts = 3                      // of one read
	firstGap = 200 * time.Millisecond // before the second one, where the server names no time
	maxGap   = 5 * time.Second        // a server that asks for more gets an error
)

// again repeats a request that changes nothing while the server is only busy.
func (u *Upstream) again(ctx context.Context, read func() error) error {
	for attempt := 1; ; attempt++ {
		err := read()
		gap, ok := gapAfter(err, attempt)
		if !ok || attempt == attempts {
			return err
		}
		u.o.Log.Debug("upstream busy", "err", err, "dur", gap)
		if u.pause(ctx, gap) != nil {
			return err
		}
	}
}

// gapAfter tells how long to wait before the next attempt, if there is to be
// one. Up to half of it is chance, so that many sessions do not come back at
// the same moment.
func gapAfter(err error, attempt int) (time.Duration, bool) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return 0, false
	}
	if lostConnection(err) {
		return 0, attempt == 1
	}
	gap, ok := busy(err)
	if gap < 0 {
		gap = firstGap << (attempt - 1)
	}
	if !ok || gap > maxGap {
		return 0, false
	}
	return gap + rand.N(gap/2+firstGap/4), true
}

// busy tells whether err means that the same request may work in a moment, and
// how long the server asks to wait, or -1.
func busy(err error) (time.Duration, bool) {
	var status *httpError
	if errors.As(err, &status) {
		return status.RetryAfter, status.Status == http.StatusTooManyRequests ||
			status.Status == http.StatusServiceUnavailable ||
			status.Type == problemLimit && status.Limit == "maxConcurrentRequests"
	}
	var method *jmap.MethodError
	return -1, errors.As(err, &method) && (method.Type == "serverUnavailable" || method.Type == "rateLimit")
}

// lostConnection tells whether err is a kept connection that the server had
// closed, or one that broke: a new one may well work.
func lostConnection(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// pause waits for d, or for ctx to end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
