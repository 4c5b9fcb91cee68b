package auth

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A busyUpstream answers its logins with busy while that is set.
type busyUpstream struct {
	*upstreamtest.Memory
	asked int
	busy  error
}

func (u *busyUpstream) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	u.asked++
	if u.busy != nil {
		return nil, u.busy
	}
	return u.Memory.Open(ctx, a)
}

func newBusyUpstream(wait time.Duration, kind error) *busyUpstream {
	said := fmt.Errorf("log in: throttled: %w", upstream.WithBackoff(kind, wait))
	return &busyUpstream{Memory: upstreamtest.NewMemory("ann", "right"), busy: said}
}

// An upstream that asked for a pause has it: every login of the account is
// answered as the first was, at once, and no sooner is the upstream asked.
func TestFaultU9BackoffIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		wait, want time.Duration
		kind       error
	}{
		"as long as it said":       {90 * time.Second, 90 * time.Second, upstream.ErrUnavailable},
		"too many logins":          {time.Minute, time.Minute, upstream.ErrTooSoon},
		"too many connections":     {15 * time.Second, 15 * time.Second, upstream.ErrBusy},
		"no longer than we credit": {50 * time.Minute, maxBackoff, upstream.ErrUnavailable},
		"forever":                  {1<<63 - 1, maxBackoff, upstream.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up, held := newBusyUpstream(c.wait, c.kind), 0
				g := New(Options{Locker: state.Off(), Routes: []Route{{User: "*", Upstream: "one", Opener: up}},
					HeldBack: func(string) { held++ }})
				_, err := try(t, g, with("ann", "right"))
				wantErr(t, "the login that the upstream answered", err, c.kind)
				up.busy = nil
				time.Sleep(c.want - 1)
				for _, who := range []string{"ann", "ANN"} {
					took, err := try(t, g, with(who, "right"))
					wantErr(t, "a login before the pause is over", err, c.kind)
					if took != 0 {
						t.Errorf("the answer took %v, want none", took)
					}
				}
				if up.asked != 1 || held != 2 {
					t.Errorf("upstream asked %d times, held back %d times, want 1 and 2", up.asked, held)
				}
				time.Sleep(time.Nanosecond)
				if took, err := try(t, g, with("ann", "right")); err != nil || took != 0 {
					t.Errorf("login after the pause: got error %v after %v, want none: a pause is no wrong password", err, took)
				}
			})
		})
	}
}

// Other accounts are not held back, and nothing is where no pause was asked for.
func TestBackoffIsOfOneAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newBusyUpstream(time.Minute, upstream.ErrUnavailable)
		g := gateTo(up)
		try(t, g, with("bob", "right"))
		up.busy = upstream.ErrUnavailable
		try(t, g, with("ann", "right"))
		up.busy = nil
		if _, err := try(t, g, with("ann", "right")); err != nil {
			t.Errorf("login of another account: got error %v, want none", err)
		}
	})
}

// Whoever does not know the password cannot keep the owner out with what they
// make the upstream say.
func TestStrangersBackoffIsTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newBusyUpstream(time.Minute, upstream.ErrTooSoon)
		asks := up.busy
		up.busy = nil
		g := gateTo(up)
		if _, err := try(t, g, with("ann", "right")); err != nil {
			t.Fatal(err)
		}
		up.busy = asks
		_, err := try(t, g, with("ann", "guess"))
		wantErr(t, "the stranger", err, upstream.ErrTooSoon)
		up.busy = nil
		if _, err := try(t, g, with("ann", "right")); err != nil {
			t.Errorf("the owner: got error %v, want none", err)
		}
		asked := up.asked
		_, err = try(t, g, with("ann", "guess"))
		wantErr(t, "the stranger again", err, upstream.ErrTooSoon)
		if up.asked != asked {
			t.Errorf("the upstream was asked %d times more about the stranger, want 0", up.asked-asked)
		}
		up.busy = asks
		try(t, g, with("ann", "right"))
		up.busy = nil
		_, err = try(t, g, with("ann", "right"))
		wantErr(t, "the owner, after the upstream had answered them", err, upstream.ErrTooSoon)
	})
}

// What the upstream said to the owner holds for strangers, but why is not theirs to
// know.
func TestStrangersDoNotHearWhatTheOwnerHeard(t *testing.T) {
	for _, said := range []error{upstream.ErrBusy, upstream.ErrTooSoon, upstream.ErrRejected} {
		synctest.Test(t, func(t *testing.T) {
			up := newBusyUpstream(time.Minute, said)
			asks := up.busy
			up.busy = nil
			g := gateTo(up)
			if _, err := try(t, g, with("ann", "right")); err != nil {
				t.Fatal(err)
			}
			up.busy = asks
			try(t, g, with("ann", "right"))
			asked := up.asked
			if _, err := try(t, g, with("ann", "guess")); !errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, said) || up.asked != asked {
				t.Errorf("a stranger, after the owner heard %q: got error %v and %d logins upstream, want %q and none", said, err, up.asked-asked, upstream.ErrUnavailable)
			}
			_, err := try(t, g, with("ann", "right"))
			wantErr(t, "the owner", err, said)
		})
	}
}

// A pause that is asked for while the mailbox is listed counts too.
func TestBackoffWhileListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := upstreamtest.NewMemory("ann", "right")
		g := gateTo(m)
		m.Break(upstreamtest.Faults{List: upstream.WithBackoff(upstream.ErrUnavailable, time.Minute)})
		login, err := g.Authenticate(t.Context(), with("ann", "right"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = login.List(t.Context())
		wantErr(t, "list", err, upstream.ErrUnavailable)
		login.Close()
		_, err = try(t, g, with("ann", "right"))
		wantErr(t, "the next login", err, upstream.ErrUnavailable)
		if opened, _ := m.Handles(); opened != 1 {
			t.Errorf("maildrops opened: got %d, want 1", opened)
		}
	})
}

// The memory for back-offs is bounded, whoever asks.
func TestBackoffsAreBounded(t *testing.T) {
	b := newBackoffs()
	for i := range maxBackoffs + 100 {
		b.heed(fmt.Sprint(i), false, upstream.WithBackoff(upstream.ErrUnavailable, time.Minute))
	}
	if got := len(b.asked.entries); got != maxBackoffs {
		t.Errorf("back-offs kept: got %d, want %d", got, maxBackoffs)
	}
}
