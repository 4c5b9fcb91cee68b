package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// patience is how long the Locker of a store waits for a session that is closing.
const patience = time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opener makes a function an upstream.
type opener func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error)

func (f opener) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	return f(ctx, a)
}

// after delays what an upstream answers.
func after(d time.Duration, o upstream.Opener) upstream.Opener {
	return opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
		if err := sleep(ctx, d); err != nil {
			return nil, err
		}
		return o.Open(ctx, a)
	})
}

// everybody is an upstream where each user's password is "pw-" and the name.
func everybody() upstream.Opener {
	return opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
		return upstreamtest.NewMemory(a.User, "pw-"+a.User).Open(ctx, a)
	})
}

func gateTo(o upstream.Opener) *Gate {
	return New(Options{Locker: state.Off(), Routes: []Route{{User: "*", Upstream: "one", Opener: o}}})
}

var home = netip.MustParseAddrPort("192.0.2.1:50000")

func from(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 50000) }

func with(user, password string) pop3.Credentials {
	return pop3.Credentials{User: user, Password: upstream.NewSecret(password), Mechanism: "USER", Remote: home}
}

func at(remote netip.AddrPort, c pop3.Credentials) pop3.Credentials {
	c.Remote = remote
	return c
}

// try logs in, gives the maildrop back, and returns how it went and how long it took.
func try(t *testing.T, g *Gate, c pop3.Credentials) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	login, err := g.Authenticate(t.Context(), c)
	took := time.Since(began)
	if (err == nil) != (login.Maildrop != nil) {
		t.Fatalf("login %q: maildrop %v with error %v", c.User, login.Maildrop, err)
	}
	if err == nil {
		login.Close()
	}
	return took, err
}

// unlocked checks that a session can have the maildrop at once.
func unlocked(t *testing.T, g *Gate, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience/10)
	defer cancel()
	release, err := g.locker.Lock(ctx, Account{Upstream: "one", Login: user}.maildrop().name)
	if err != nil {
		t.Errorf("lock on the maildrop of %s: got error %v, want none", user, err)
		return
	}
	release()
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true},
		{"*", "anyone", true},
		{"", "", true},
		{"", "a", false},
		{"ann", "ann", true},
		{"ann", "anna", false},
		{"anna", "ann", false},
		{"*@example.org", "ann@example.org", true},
		{"*@example.org", "@example.org", true},
		{"*@example.org", "ann@example.org.evil", false},
		{"*@example.org", "ann@mail.example.org", false},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-b-b-c-", false},
		{"a**c", "ac", true},
		{"*ab", "aab", true},
		{"?", "a", false},
		{"[a]", "a", false},
		{"*a*a*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %q): got %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

// The first route that matches counts, case does not, and the upstream is told
// the name as the client wrote it.
func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		note := func(upstreamName string) upstream.Opener {
			return opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
				told = append(told, upstreamName+" "+a.User)
				return upstreamtest.NewMemory(a.User, "pw").Open(ctx, a)
			})
		}
		g := New(Options{Locker: state.Off(), Routes: []Route{
			{User: "*@Office.example", Upstream: "office", Opener: note("office")},
			{User: "*@*.example", Upstream: "rest", Opener: note("rest")},
			{User: "boss@office.example", Upstream: "never", Opener: note("never")},
		}})
		for user, want := range map[string]string{
			"Boss@OFFICE.example": "office",
			"ann@home.example":    "rest",
			"bob@elsewhere.test":  "",
		} {
			login, err := g.Authenticate(t.Context(), with(user, "pw"))
			if login.Upstream != want {
				t.Errorf("%s: got upstream %q (error %v), want %q", user, login.Upstream, err, want)
			}
			if want == "" {
				wantErr(t, user, err, upstream.ErrAuth)
				continue
			}
			if login.Account != user {
				t.Errorf("account: got %q, want %q", login.Account, user)
			}
			login.Close()
		}
		slices.Sort(told)
		if want := []string{"office Boss@OFFICE.example", "rest ann@home.example"}; !slices.Equal(told, want) {
			t.Errorf("upstreams told: got %q, want %q", told, want)
		}
	})
}

// What a stranger may try, over and over: no answer differs from any other, in
// kind or in time.
func TestRefusalsAreAlike(t *testing.T) {
	// The same over and over is a device that has an old password, not a guesser.
	again := []time.Duration{3, 5, 5, 5}
	// 2, 4, 8, then 15 s of waiting, before the 3 s to the answer.
	guessing := []time.Duration{3, 5, 7, 11, 18, 18}
	attempts := map[string]pop3.Credentials{
		"wrong password":    with("ann@example.org", "guess"),
		"empty password":    with("ann@example.org", ""),
		"huge password":     with("ann@example.org", string(make([]byte, 2000))),
		"no such account":   with("nobody@example.org", "guess"),
		"no route":          with("ann@elsewhere.test", "guess"),
		"empty name":        with("", "guess"),
		"control character": with("ann\x1b@example.org", "guess"),
		"C1 control":        with("ann\u0085@example.org", "guess"),
		"long name":         with(string(slices.Repeat([]byte("a"), 300))+"@example.org", "guess"),
		"another case":      with("ANN@example.org", "guess"),
	}
	for name, c := range attempts {
		for _, want := range [][]time.Duration{again, guessing} {
			if c.Password.Reveal() != "guess" && len(want) == len(guessing) {
				continue // there is but one way to do that
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := New(Options{Locker: state.Off(), Routes: []Route{{User: "*@example.org", Upstream: "one",
						Opener: after(300*time.Millisecond, upstreamtest.NewMemory("ann@example.org", "right"))}}})
					for i, seconds := range want {
						if len(want) == len(guessing) {
							c.Password = upstream.NewSecret(fmt.Sprint("guess", i))
						}
						took, err := try(t, g, c)
						wantErr(t, name, err, upstream.ErrAuth)
						if took != seconds*time.Second {
							t.Errorf("attempt %d: took %v, want %v s", i+1, took, int(seconds))
						}
					}
				})
			})
		}
	}
}

// Nothing but credentials that may be good is shown to an upstream.
func TestImplausibleStayHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(opener(func(_ context.Context, a upstream.Account) (upstream.Maildrop, error) {
			t.Errorf("upstream asked about %q", a.User)
			return nil, upstream.ErrUnavailable
		}))
		for _, c := range []pop3.Credentials{with("", "pw"), with("ann", ""), with("a\tb", "pw"), with("a\x7fb", "pw"),
			with("ann", "p\x00w"),
			with(strings.Repeat("a", maxNameOctets+1), "pw"), with("ann", strings.Repeat("p", maxPasswordOctets+1))} {
			_, err := try(t, g, c)
			wantErr(t, fmt.Sprintf("%q", c.User), err, upstream.ErrAuth)
		}
	})
}

// What is odd but somebody's reaches the upstream unchanged.
func TestOddNamesPass(t *testing.T) {
	for _, user := range []string{"ann smith", "ann:smith", "jos\u00e9", "jos\xe9", `a\b"c`, "*", "a{3}"} {
		m := upstreamtest.NewMemory(user, " pass word ")
		if _, err := try(t, gateTo(m), with(user, " pass word ")); err != nil {
			t.Errorf("login %q: got error %v, want none", user, err)
		}
	}
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := upstreamtest.NewMemory("ann", "right")
		g := New(Options{Locker: state.Off(), Routes: []Route{{User: "*", Upstream: "one", Opener: opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
			a.User = Fold(a.User) // as upstreams do
			return m.Open(ctx, a)
		})}}})
		first, err := g.Authenticate(t.Context(), with("ann", "right"))
		if err != nil {
			t.Fatalf("first login: %v", err)
		}
		if took, err := try(t, g, with("Ann", "right")); !errors.Is(err, upstream.ErrBusy) || took != patience {
			t.Errorf("second login: got error %v after %v, want %v after %v", err, took, upstream.ErrBusy, patience)
		}
		_, err = try(t, g, with("ann", "wrong"))
		wantErr(t, "a stranger while the account is in use", err, upstream.ErrAuth)
		if opened, closed := m.Handles(); opened-closed != 1 {
			t.Errorf("maildrops open: got %d, want the first session's", opened-closed)
		}
		first.Close()
		if _, err := try(t, g, with("ann", "right")); err != nil {
			t.Errorf("login after the first session: got error %v, want none", err)
		}
	})
}

// leisurely is a maildrop that takes its time to close.
type leisurely struct{ upstream.Maildrop }

func (l leisurely) Close() error {
	time.Sleep(patience / 2)
	return l.Maildrop.Close()
}

// The next session waits until the upstream of the last is closed, so a client
// that reconnects as it hangs up is let in.
func TestReconnectWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := upstreamtest.NewMemory("ann", "right")
		g := gateTo(opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
			drop, err := m.Open(ctx, a)
			return leisurely{drop}, err
		}))
		first, err := g.Authenticate(t.Context(), with("ann", "right"))
		if err != nil {
			t.Fatal(err)
		}
		go first.Close()
		second, err := g.Authenticate(t.Context(), with("ann", "right"))
		if err != nil {
			t.Fatalf("second login: %v", err)
		}
		if _, closed := m.Handles(); closed != 1 {
			t.Errorf("maildrops closed when the second session began: got %d, want the first", closed)
		}
		second.Close()
	})
}

// brittle is a maildrop that panics when it is closed.
type brittle struct{ upstream.Maildrop }

func (brittle) Close() error { panic("close") }

// failingLocker has trouble of its own.
type failingLocker struct{ trouble func() error }

func (l failingLocker) Lock(context.Context, string) (func(), error) { return nil, l.trouble() }

// Whatever becomes of a session, the next can have the maildrop, and no
// maildrop stays open.
func TestLockReleased(t *testing.T) {
	quietly := func(f func()) {
		defer func() { recover() }()
		f()
	}
	for name, spoil := range map[string]func(t *testing.T, g *Gate, m *upstreamtest.Memory){
		"open fails": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			m.Break(upstreamtest.Faults{Open: upstream.ErrUnavailable})
			_, err := try(t, g, with("ann", "right"))
			wantErr(t, "login", err, upstream.ErrUnavailable)
		},
		"list fails": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			m.Break(upstreamtest.Faults{List: upstream.ErrUnavailable})
			login, err := g.Authenticate(t.Context(), with("ann", "right"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = login.List(t.Context())
			wantErr(t, "list", err, upstream.ErrUnavailable)
			login.Close()
		},
		"panic while opening": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			m.Break(upstreamtest.Faults{Wait: func(context.Context, string) { panic("open") }})
			quietly(func() { g.Authenticate(t.Context(), with("ann", "right")) })
		},
		"panic while locking": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			sound := g.locker
			defer func() { g.locker = sound }()
			g.locker = failingLocker{func() error { panic("lock") }}
			quietly(func() { g.Authenticate(t.Context(), with("ann", "right")) })
		},
		"locking fails": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			sound := g.locker
			defer func() { g.locker = sound }()
			g.locker = failingLocker{func() error { return upstream.ErrUnavailable }}
			_, err := try(t, g, with("ann", "right"))
			wantErr(t, "login", err, upstream.ErrUnavailable)
		},
		"panic while closing": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			login, err := g.Authenticate(t.Context(), with("ann", "right"))
			if err != nil {
				t.Fatal(err)
			}
			h := login.Maildrop.(*held)
			defer h.Maildrop.Close()
			h.Maildrop = brittle{h.Maildrop}
			quietly(func() { login.Close() })
		},
		"closed twice": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			login, err := g.Authenticate(t.Context(), with("ann", "right"))
			if err != nil {
				t.Fatal(err)
			}
			login.Close()
			second, err := g.Authenticate(t.Context(), with("ann", "right"))
			if err != nil {
				t.Fatal(err)
			}
			login.Close() // must not free what is the second session's now
			_, err = try(t, g, with("ann", "right"))
			wantErr(t, "login beside the second session", err, upstream.ErrBusy)
			second.Close()
		},
		"hung up while opening": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			ctx, cancel := context.WithCancel(t.Context())
			m.Break(upstreamtest.Faults{Wait: func(ctx context.Context, _ string) { cancel(); <-ctx.Done() }})
			_, err := g.Authenticate(ctx, with("ann", "right"))
			wantErr(t, "login", err, context.Canceled)
		},
		"hung up while waiting for the lock": func(t *testing.T, g *Gate, m *upstreamtest.Memory) {
			first, err := g.Authenticate(t.Context(), with("ann", "right"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience/2)
			defer cancel()
			_, err = g.Authenticate(ctx, with("ann", "right"))
			wantErr(t, "second login", err, context.DeadlineExceeded)
			first.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := upstreamtest.NewMemory("ann", "right")
				g := gateTo(m)
				spoil(t, g, m)
				m.Break(upstreamtest.Faults{})
				if _, err := try(t, g, with("ann", "right")); err != nil {
					t.Errorf("next login: got error %v, want none", err)
				}
				if opened, closed := m.Handles(); opened != closed {
					t.Errorf("maildrops: %d opened, %d closed", opened, closed)
				}
				unlocked(t, g, "ann")
			})
		})
	}
}

func TestLoginDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		m := upstreamtest.NewMemory("ann", "right")
		g := New(Options{Locker: state.Off(), LoginDelay: time.Minute, Routes: []Route{{User: "*", Upstream: "one",
			Opener: opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
				asked++
				return m.Open(ctx, a)
			})}}})
		login := func(when, password string, want error, wantAsked int) {
			t.Helper()
			asked = 0
			_, err := try(t, g, with("ann", password))
			if !errors.Is(err, want) || asked != wantAsked {
				t.Errorf("%s: got error %v and %d upstream logins, want %v and %d", when, err, asked, want, wantAsked)
			}
		}
		login("first login", "right", nil, 1)
		time.Sleep(30 * time.Second)
		login("too soon", "right", upstream.ErrTooSoon, 0)
		login("too soon, wrong password", "wrong", upstream.ErrAuth, 1)
		time.Sleep(20 * time.Second)
		login("still too soon: a refusal for that is no login", "right", upstream.ErrTooSoon, 0)
		time.Sleep(10 * time.Second)
		login("late enough", "right", nil, 1)
		m = upstreamtest.NewMemory("ann", "changed")
		login("too soon with a new password", "changed", upstream.ErrTooSoon, 1)
		if opened, closed := m.Handles(); opened != closed {
			t.Errorf("maildrops: %d opened, %d closed", opened, closed)
		}
	})
}

// A login that was refused for another reason does not start the delay.
func TestLoginDelayNotForBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Locker: state.Off(), LoginDelay: time.Minute, Routes: []Route{{User: "*", Upstream: "one", Opener: upstreamtest.NewMemory("ann", "right")}}})
		first, err := g.Authenticate(t.Context(), with("ann", "right"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		_, err = try(t, g, with("ann", "right"))
		wantErr(t, "within the delay", err, upstream.ErrTooSoon)
		time.Sleep(time.Second)
		_, err = try(t, g, with("ann", "right"))
		wantErr(t, "beside the first session", err, upstream.ErrBusy)
		first.Close()
		if _, err := try(t, g, with("ann", "right")); err != nil {
			t.Errorf("after the first session: got error %v, want none", err)
		}
	})
}

// The logins under way at an upstream are bounded, and one upstream that does
// not answer costs the others nothing.
func TestMaxLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		slow := opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		g := New(Options{Locker: state.Off(), MaxLogins: 8, Routes: []Route{
			{User: "*@dead", Upstream: "dead", Opener: slow},
			{User: "*", Upstream: "alive", Opener: everybody()},
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				_, err := g.Authenticate(ctx, with(fmt.Sprintf("u%d@dead", i), "pw"))
				if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, upstream.ErrUnavailable) {
					t.Errorf("login at the dead upstream: got error %v, want a time-out", err)
				}
			})
		}
		synctest.Wait()
		if took, err := try(t, g, with("ann", "pw-ann")); err != nil || took != 0 {
			t.Errorf("login at the other upstream: got error %v after %v, want none at once", err, took)
		}
		began := time.Now()
		_, err := try(t, g, with("late@dead", "pw"))
		wantErr(t, "one more login at the dead upstream", err, upstream.ErrUnavailable)
		if took := time.Since(began); took != maxQueue {
			t.Errorf("it waited %v for its turn, want %v", took, maxQueue)
		}
		all.Wait()
		if got := most.Load(); got != 6 {
			t.Errorf("logins of strangers at once: got %d, want 6 of 8", got)
		}
	})
}

// A thousand clients at once each get their own mail.
func TestThousandLogins(t *testing.T) {
	g := gateTo(everybody())
	var all sync.WaitGroup
	for i := range 1000 {
		all.Go(func() {
			user := fmt.Sprintf("user%d", i)
			remote := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
			login, err := g.Authenticate(t.Context(), at(remote, with(user, "pw-"+user)))
			if err != nil || login.Account != user {
				t.Errorf("login %s: got account %q and error %v", user, login.Account, err)
				return
			}
			_, err = login.List(t.Context())
			if err := errors.Join(err, login.Close()); err != nil {
				t.Errorf("session of %s: %v", user, err)
			}
		})
	}
	all.Wait()
	for i := range 1000 {
		unlocked(t, g, fmt.Sprintf("user%d", i))
	}
}

// A thousand sessions want one maildrop: at every moment one has it.
func TestOneMaildrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateTo(after(time.Millisecond, upstreamtest.NewMemory("ann", "right")))
		var inside, served atomic.Int32
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				login, err := g.Authenticate(t.Context(), with("ann", "right"))
				if err != nil {
					wantErr(t, "login", err, upstream.ErrBusy)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("sessions on the maildrop: got %d, want 1", n)
				}
				time.Sleep(100 * time.Millisecond)
				inside.Add(-1)
				served.Add(1)
				login.Close()
			})
		}
		all.Wait()
		if got := served.Load(); got < 10 {
			t.Errorf("sessions that had their turn: got %d, want at least 10 in %v", got, patience)
		}
	})
}

// TestUpstreamLearnsTheSession, which its journal and log name.
func TestUpstreamLearnsTheSession(t *testing.T) {
	var got string
	g := gateTo(opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
		got = a.Session
		return everybody().Open(ctx, a)
	}))
	c := with("ann", "pw-ann")
	c.Session = "ABCD1234"
	if _, err := try(t, g, c); err != nil {
		t.Fatal(err)
	}
	if got != c.Session {
		t.Errorf("upstream was told of session %q, want %q", got, c.Session)
	}
}
