package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// refuse has n wrong passwords refused.
func refuse(t *testing.T, g *Gate, user string, remote netip.AddrPort, n int) {
	t.Helper()
	for range n {
		_, err := try(t, g, at(remote, with(user, "wrong "+rand.Text())))
		wantErr(t, "wrong password", err, upstream.ErrAuth)
	}
}

func TestSuccessResetsThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		refuse(t, g, "ann", home, 3)
		if took, err := try(t, g, with("ann", "pw-ann")); err != nil || took != 8*time.Second {
			t.Errorf("right password after three wrong ones: got error %v after %v, want none after 8s", err, took)
		}
		if took, err := try(t, g, with("ann", "wrong")); took != refusalTime {
			t.Errorf("wrong password after that: got error %v after %v, want %v", err, took, refusalTime)
		}
	})
}

// Having an account of one's own does not help with guessing at others.
func TestOwnSuccessDoesNotExcuseGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		for i := range 5 {
			refuse(t, g, "victim"+strconv.Itoa(i), home, 1)
			refuse(t, g, "mallory", home, 1)
			if _, err := try(t, g, with("mallory", "pw-mallory")); err != nil {
				t.Fatalf("own login: %v", err)
			}
		}
		if took, _ := try(t, g, with("victim", "wrong")); took != longestDelay+refusalTime {
			t.Errorf("sixth guess took %v, want %v", took, longestDelay+refusalTime)
		}
	})
}

// An upstream that is down refuses nobody, however often it is asked.
func TestOutagesDoNotCount(t *testing.T) {
	for _, outage := range []error{upstream.ErrUnavailable, upstream.ErrRejected, upstream.ErrBusy, upstream.ErrTooSoon, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			m := upstreamtest.NewMemory("ann", "right")
			g := gateTo(m)
			m.Break(upstreamtest.Faults{Open: outage})
			for range 10 {
				took, err := try(t, g, with("ann", "right"))
				wantErr(t, "login", err, outage)
				if took != 0 {
					t.Errorf("%v: took %v, want no delay", outage, took)
				}
			}
		})
	}
}

// The owner does not wait for what others at the same address do, not even to
// the owner's own account; and a guesser cannot tell that account from another.
func TestProvenOwnerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		if _, err := try(t, g, with("ann", "pw-ann")); err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			refuse(t, g, "bob"+strconv.Itoa(i), home, 1)
		}
		known, _ := try(t, g, with("ann", "guess"))
		unknown, _ := try(t, g, with("nobody", "guess"))
		if known != unknown {
			t.Errorf("a guess took %v at an account in use here, %v at none", known, unknown)
		}
		refuse(t, g, "ann", home, 6)
		if took, err := try(t, g, with("ann", "pw-ann")); err != nil || took != 0 {
			t.Errorf("owner: got error %v after %v, want none at once", err, took)
		}
	})
}

// A device that nobody told the new password tries the old one every minute.
// Each time it waits as it did before, and the others behind its address hardly
// notice. A guesser who has two passwords to try is no such device.
func TestLastWrongPasswordDoesNotCountTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		for i := range 20 {
			want := firstDelay + refusalTime
			if i == 0 {
				want = refusalTime
			}
			if took, err := try(t, g, with("bob", "old")); took != want || !errors.Is(err, upstream.ErrAuth) {
				t.Errorf("attempt %d: got error %v after %v, want one after %v", i+1, err, took, want)
			}
		}
		if took, err := try(t, g, with("ann", "pw-ann")); err != nil || took != firstDelay {
			t.Errorf("neighbour: got error %v after %v, want none after %v", err, took, firstDelay)
		}
		for i := range 3 {
			try(t, g, with("bob", fmt.Sprint("guess", i%2)))
		}
		if took, _ := try(t, g, with("bob", "old")); took != longestDelay+refusalTime {
			t.Errorf("after other guesses: took %v, want %v", took, longestDelay+refusalTime)
		}
	})
}

// Whoever tries one password on many accounts waits as long as whoever tries
// many on one.
func TestSprayingIsGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		for i := range 5 {
			refuse(t, g, "victim"+strconv.Itoa(i), home, 1)
		}
		if took, _ := try(t, g, with("another", "wrong")); took != longestDelay+refusalTime {
			t.Errorf("sixth account: took %v, want %v", took, longestDelay+refusalTime)
		}
	})
}

// Credentials that the upstream no longer takes earn nothing.
func TestChangedPasswordIsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := upstreamtest.NewMemory("ann", "old")
		g := gateTo(opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) { return m.Open(ctx, a) }))
		if _, err := try(t, g, with("ann", "old")); err != nil {
			t.Fatal(err)
		}
		m = upstreamtest.NewMemory("ann", "new")
		for i, want := range []time.Duration{3, 5, 5} {
			if took, err := try(t, g, with("ann", "old")); took != want*time.Second {
				t.Errorf("attempt %d with the old password: error %v after %v, want %d s", i+1, err, took, want)
			}
		}
	})
}

func TestThrottleByNetwork(t *testing.T) {
	for _, c := range []struct {
		name, guesser, other string
		delayed              bool
	}{
		{"same address", "192.0.2.1", "192.0.2.1", true},
		{"IPv4 as IPv6", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"neighbour", "192.0.2.1", "192.0.2.2", false},
		{"same /64", "2001:db8::1", "2001:db8::ffff:1", true},
		{"with a zone", "fe80::1%eth0", "fe80::2%eth1", true},
		{"another /64", "2001:db8::1", "2001:db8:0:1::1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gateTo(everybody())
				refuse(t, g, "bob", from(c.guesser), 1)
				want := time.Duration(0)
				if c.delayed {
					want = firstDelay
				}
				if took, err := try(t, g, at(from(c.other), with("ann", "pw-ann"))); err != nil || took != want {
					t.Errorf("login: got error %v after %v, want none after %v", err, took, want)
				}
			})
		})
	}
}

func TestFailuresAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		refuse(t, g, "ann", home, 5)
		time.Sleep(failureLife)
		if took, err := try(t, g, with("ann", "pw-ann")); err != nil || took != 0 {
			t.Errorf("login: got error %v after %v, want none at once", err, took)
		}
		if n := len(g.throttle.failures.entries); n != 0 {
			t.Errorf("failures remembered: got %d, want none", n)
		}
	})
}

// A client that hangs up in a delay frees what it held at once, and a refusal
// that it did not wait for counts all the same.
func TestHangUpInDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(everybody())
		for i, wait := range []time.Duration{1, 1, 3, 5, 9} { // before, and a second into, the refusal
			ctx, hangUp := context.WithTimeout(t.Context(), wait*time.Second)
			began := time.Now()
			_, err := g.Authenticate(ctx, with("ann", fmt.Sprint("wrong", i)))
			hangUp()
			if took := time.Since(began); took != wait*time.Second || err == nil {
				t.Errorf("attempt %d: got error %v after %v, want one after %d s", i+1, err, took, wait)
			}
		}
		// The second hung up while it waited its 2 s, so it was never tried.
		if got := g.throttle.delay(home.Addr(), "ann"); got != longestDelay {
			t.Errorf("delay after four refusals: got %v, want %v", got, longestDelay)
		}
	})
}

// Guesses from a thousand addresses at once leave those who have logged
// in before as fast as they were.
func TestFaultC14FloodOfGuesses(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates 20,000 connections")
	}
	const loginTime = 300 * time.Millisecond
	for _, addresses := range []int{1, 1000} {
		t.Run(fmt.Sprint(addresses, " addresses"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gateTo(after(loginTime, everybody()))
				owner := func(i int) time.Duration {
					user := fmt.Sprint("owner", i%50)
					took, err := try(t, g, at(from("198.51.100.7"), with(user, "pw-"+user)))
					if err != nil {
						t.Errorf("owner's login: %v", err)
					}
					return took
				}
				for i := range 50 {
					owner(i)
				}
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				var everyone sync.WaitGroup
				for i := range addresses * 20 { // as many as package proxy lets in
					everyone.Go(func() {
						remote := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 20 >> 8), byte(i / 20)}), 1)
						for n := 0; ctx.Err() == nil; n++ {
							g.Authenticate(ctx, at(remote, with(fmt.Sprint("owner", n%50), "guess")))
						}
					})
				}
				times := make([]time.Duration, 500)
				for i := range times {
					time.Sleep(100 * time.Millisecond)
					everyone.Go(func() { times[i] = owner(i) })
				}
				everyone.Wait()
				slices.Sort(times)
				if p99 := times[len(times)*99/100]; p99 > 2*loginTime {
					t.Errorf("99th percentile of %d owners' logins: got %v, want at most %v", len(times), p99, 2*loginTime)
				}
			})
		})
	}
}

// Neither addresses nor names that a flood invents take more than a bounded memory.
func TestTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable[int, int](100, time.Minute)
		for i := range 1000 {
			table.put(i, i)
		}
		if len(table.entries) != 100 || table.order.Len() != 100 {
			t.Fatalf("rows: got %d and %d, want 100", len(table.entries), table.order.Len())
		}
		if _, ok := table.get(899); ok {
			t.Error("row 899 is still there, want it to have made room")
		}
		time.Sleep(30 * time.Second)
		table.put(950, 1) // put again: lives on
		time.Sleep(30 * time.Second)
		if _, ok := table.get(999); ok || len(table.entries) != 1 {
			t.Errorf("after a minute: got %d rows, want only the one put again", len(table.entries))
		}
		if v, ok := table.get(950); !ok || v != 1 {
			t.Errorf("row 950: got %d, %v, want 1", v, ok)
		}
	})
}
