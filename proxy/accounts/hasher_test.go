package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/auth"
	"postern/proxy/pop3"
	"postern/upstream"
)

// No more hashes are made at once than there are processors, no more wait than
// may, and whoever gives up makes room.
func TestHashesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher()
		var leaves []func()
		for range atOnce {
			leave, err := h.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var gaveUp atomic.Int32
		var waiting sync.WaitGroup
		for range maxWaiting {
			waiting.Go(func() {
				if _, err := h.enter(ctx); errors.Is(err, context.Canceled) {
					gaveUp.Add(1)
				}
			})
		}
		synctest.Wait()
		if _, err := h.enter(t.Context()); !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("one more: %v, want ErrUnavailable at once", err)
		}
		cancel()
		waiting.Wait()
		if gaveUp.Load() != maxWaiting {
			t.Errorf("%d gave up, want all %d that waited", gaveUp.Load(), maxWaiting)
		}
		for _, leave := range leaves {
			leave()
		}
		leave, err := h.enter(t.Context())
		if err != nil {
			t.Fatalf("after all: %v", err)
		}
		leave()
		if n := len(h.inside); n != 0 {
			t.Errorf("%d inside after all have left", n)
		}
	})
}

func TestKnownPasswordsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher()
		h.remember(h.mac("ann", "password", "hash"))
		if !h.knows("ann", "password", "hash") {
			t.Error("not known at once")
		}
		for _, other := range [][3]string{{"bob", "password", "hash"}, {"ann", "Password", "hash"}, {"ann", "password", "another hash"}, {"annp", "assword", "hash"}} {
			if h.knows(other[0], other[1], other[2]) {
				t.Errorf("%q is known", other)
			}
		}
		time.Sleep(knownLife)
		if h.knows("ann", "password", "hash") {
			t.Errorf("still known after %v", knownLife)
		}
		for i := range maxKnown + 10 {
			h.remember(h.mac("ann", fmt.Sprint(i), "hash"))
		}
		if len(h.known) > maxKnown {
			t.Errorf("%d are known, want at most %d", len(h.known), maxKnown)
		}
	})
}

// A flood of wrong passwords from a thousand addresses, which is what the
// throttle lets through at first, holds up nobody whose password is generated or
// was good lately, and takes a bounded memory. (proxy/auth tests the delays.)
func TestFaultC14FloodOfHashes(t *testing.T) {
	s := newSite(t)
	generated := s.add(t, "hall", &Wanted{Label: "hall"}).Reveal()
	const chosen = "correct horse battery"
	s.add(t, "ann", &Wanted{Label: "head", Chosen: upstream.NewSecret(chosen)})
	s.wantIn(t, "chosen", with("ann", chosen))
	good := func(i int) time.Duration {
		began := time.Now()
		user, text := "hall", generated
		if i%2 == 1 {
			user, text = "ann", chosen
		}
		if _, err := s.Check(t.Context(), with(user, text)); err != nil {
			t.Errorf("a good login: %v", err)
		}
		return time.Since(began)
	}
	measure := func() (times []time.Duration) {
		for i := range 200 {
			times = append(times, good(i))
		}
		slices.Sort(times)
		return times
	}
	quiet := measure()
	s.Book.Checked = func(string) {} // the site's is for one goroutine

	var refused, unavailable atomic.Int32
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for i := range 1000 {
		flood.Go(func() {
			remote := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
			for n := 0; ctx.Err() == nil; n++ {
				c := with([]string{"ann", "hall", "nobody"}[n%3], fmt.Sprint("guess ", i, n))
				c.Remote = remote
				_, err := s.Check(ctx, c)
				if errors.Is(err, auth.ErrUnknown) {
					err = errors.Join(upstream.ErrAuth, s.Waste(ctx))
				}
				switch {
				case errors.Is(err, upstream.ErrUnavailable):
					unavailable.Add(1)
					sleep(ctx, time.Second) // as a client that is told [SYS/TEMP] has to come again
				case errors.Is(err, upstream.ErrAuth):
					refused.Add(1)
					sleep(ctx, time.Second)
				}
			}
		})
	}
	for refused.Load() < 20 {
		runtime.Gosched()
	}
	flooded := measure()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	stop()
	flood.Wait()
	t.Logf("good logins: median %v and 99th percentile %v in quiet, %v and %v in the flood; %d refused, %d turned away; %d MiB of heap",
		quiet[len(quiet)/2], quiet[len(quiet)*99/100], flooded[len(flooded)/2], flooded[len(flooded)*99/100],
		refused.Load(), unavailable.Load(), memory.HeapSys>>20)
	if unavailable.Load() == 0 {
		t.Error("nobody was turned away: was it a flood?")
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// An unknown user and a wrong password take the same time: through the Gate, which
// makes all refusals equally late, and in what it asks here before that. It is
// printed, since it cannot be promised of a machine that does other things too.
func TestTimingOfRefusals(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 12,000 hashes")
	}
	dear := cost
	cost.Memory = 64 // KiB, so that what is done besides can be seen
	defer func() { cost = dear }()
	s := newSite(t)
	s.hasher.inside = make(chan struct{}, 1<<20) // this is about time
	s.Book.Checked = func(string) {}
	s.add(t, "hall", &Wanted{Label: "hall"})
	s.add(t, "ann", &Wanted{Label: "head", Chosen: upstream.NewSecret("correct horse battery")})
	gate := auth.New(auth.Options{Accounts: s.Book, Locker: s.store, Routes: []auth.Route{{User: "*", Upstream: "office", AccountsOnly: true}}})
	for where, try := range map[string]func(c pop3.Credentials) error{
		"through the gate, 1,000 a second": func(c pop3.Credentials) error {
			_, err := gate.Authenticate(t.Context(), c)
			return err
		},
		"before it, one by one": func(c pop3.Credentials) error {
			_, err := s.Check(t.Context(), c)
			if errors.Is(err, auth.ErrUnknown) {
				err = errors.Join(upstream.ErrAuth, s.Waste(t.Context()))
			}
			return err
		},
	} {
		const samples = 2000
		users := []string{"nobody", "hall", "ann"}
		times := map[string][]time.Duration{"nobody": make([]time.Duration, samples), "hall": make([]time.Duration, samples), "ann": make([]time.Duration, samples)}
		var all sync.WaitGroup
		paced := time.NewTicker(time.Millisecond)
		defer paced.Stop()
		for i := range samples {
			for k, user := range users {
				c := with(user, fmt.Sprint("guess ", i))
				c.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(k), byte(i >> 8), byte(i)}), 1)
				one := func() {
					began := time.Now()
					if err := try(c); !errors.Is(err, upstream.ErrAuth) {
						t.Errorf("%s: %v, want ErrAuth", user, err)
					}
					times[user][i] = time.Since(began)
				}
				if strings.HasPrefix(where, "through") {
					<-paced.C
					all.Go(one)
				} else {
					one()
				}
			}
		}
		all.Wait()
		for _, user := range users {
			slices.Sort(times[user])
		}
		t.Logf("medians of %d %s: %v for nobody, %v for a generated password, %v for a chosen one", samples, where,
			times["nobody"][samples/2], times["hall"][samples/2], times["ann"][samples/2])
	}
}

func BenchmarkCheckGenerated(b *testing.B) { benchmarkCheck(b, Wanted{Label: "x"}) }

func BenchmarkCheckKnownChosen(b *testing.B) {
	benchmarkCheck(b, Wanted{Label: "x", Chosen: upstream.NewSecret("correct horse battery")})
}

func benchmarkCheck(b *testing.B, w Wanted) {
	s := newSite(b)
	s.Book.Checked = func(string) {}
	c := with("ann", s.add(b, "ann", &w).Reveal())
	for b.Loop() {
		if _, err := s.Check(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	h := newHasher()
	for b.Loop() {
		if err := h.waste(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
