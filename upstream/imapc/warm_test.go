package imapc

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// poll is one session that lists, and the number of messages in it.
func (f *fake) poll(u *Upstream, password string) (int, error) {
	a := f.account()
	if password != "" {
		a.Password = upstream.NewSecret(password)
	}
	d, err := u.Open(f.t.Context(), a)
	if err != nil {
		return 0, err
	}
	defer synctest.Wait() // until it is kept
	defer d.Close()
	l, err := d.List(f.t.Context())
	if err != nil {
		return 0, err
	}
	return l.Len(), nil
}

func wantPoll(t *testing.T, f *fake, u *Upstream, messages, connections int) {
	t.Helper()
	n, err := f.poll(u, "")
	if n != messages || err != nil || f.connections != connections {
		t.Errorf("%d messages on connection %d, %v; want %d on %d", n, f.connections, err, messages, connections)
	}
}

// What a session on a warm connection sees is what is there, and costs a round
// trip where the server has told of every change before.
func TestWarmConnectionIsUsedAgain(t *testing.T) {
	for caps, changed := range map[string]int64{" IDLE": 1, "": 2} {
		t.Run("with"+caps, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps += caps
				var trips, hits, took atomic.Int64
				f.options.Warm = time.Minute
				f.options.Hooks.RoundTrip = func() { trips.Add(1) }
				f.options.Hooks.WarmReuse = func(hit bool) {
					if hit {
						hits.Add(1)
					}
				}
				f.options.Hooks.Session = func(trips int, octets int64) {
					took.Add(int64(trips))
					if octets < 20*int64(trips) || octets > 500*int64(trips) {
						t.Errorf("a session of %d octets in %d round trips", octets, trips)
					}
				}
				u := f.upstream()
				poll := func(messages, connection int, cost int64) {
					t.Helper()
					before := trips.Load()
					wantPoll(t, f, u, messages, connection)
					if n := trips.Load() - before; n != cost && cost > 0 {
						t.Errorf("%d round trips, want %d", n, cost)
					}
				}
				poll(4, 1, 0)
				for k := range 5 {
					time.Sleep(50 * time.Second)
					poll(4+k, 1, 1)
					f.deliver(uint32(20 + k)) // before the server idles
					time.Sleep(10 * time.Second)
					poll(5+k, 1, changed)
				}
				time.Sleep(10 * time.Second)
				f.take(3)
				time.Sleep(10 * time.Second)
				poll(8, 1, changed+1) // which are left is asked
				poll(8, 1, 1)
				if hits.Load() != 12 {
					t.Errorf("%d hits, want 12", hits.Load())
				}
				if trips.Load() != took.Load() {
					t.Errorf("%d round trips, and the sessions took %d", trips.Load(), took.Load())
				}
				if got := f.sent("SELECT"); len(got) != 7 {
					t.Errorf("the mailbox was selected %d times, want once for each change and once before", len(got))
				}
				time.Sleep(61 * time.Second)
				poll(8, 2, 0)
				if got := f.sent("LOGOUT"); len(got) != 1 {
					t.Errorf("%d connections said goodbye, want the one that was not used again", len(got))
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

// A password may be withdrawn: nobody stays logged in for ever by coming often.
func TestWarmConnectionGrowsOld(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " IDLE"
		f.options.Warm = time.Minute
		u := f.upstream()
		began, last := time.Now(), time.Duration(0)
		for {
			if _, err := f.poll(u, ""); err != nil {
				t.Fatal(err)
			}
			if f.connections > 1 {
				break
			}
			last = passed(began)
			time.Sleep(30 * time.Second)
		}
		if last != maxWarmLife {
			t.Errorf("the same connection for %v, want %v", last, maxWarmLife)
		}
		time.Sleep(time.Hour)
	})
}

// refuseOthers is a fault: LOGIN with any password but *right is refused.
func refuseOthers(right *string) func(c *fakeConn, command string) bool {
	return func(c *fakeConn, command string) bool {
		if strings.HasPrefix(command, "LOGIN") && !strings.HasSuffix(command, ` "`+*right+`"`) {
			c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
			return true
		}
		return false
	}
}

// A wrong password does not open the warm connection, and ends it: which of them
// is right is for the server to say.
func TestWarmConnectionAsksForThePassword(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " IDLE"
		f.options.Warm = time.Minute
		right := password
		f.fault = refuseOthers(&right)
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		for _, wrong := range []string{"wrong", password[1:], password[:5], " "} {
			_, err := f.poll(u, wrong)
			wantError(t, wrong, err, upstream.ErrAuth)
		}
		wantPoll(t, f, u, 4, 6)
		wantPoll(t, f, u, 4, 6)
		if n, err := u.Open(t.Context(), upstream.Account{User: "eve@example.org", Password: upstream.NewSecret(password)}); err != nil || f.connections != 7 {
			t.Errorf("another account: %v, %v on connection %d", n, err, f.connections)
		} else {
			n.Close()
		}
		other := f.upstream() // of another configuration, with the same stable
		other.o.Stable = u.o.Stable
		wantPoll(t, f, other, 4, 8)
		wantPoll(t, f, u, 4, 8)
		time.Sleep(time.Hour)
	})
}

// A changed password is noticed when the new one is used, and at the latest when
// the connection has grown old.
func TestChangedPasswordIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		right := password
		f.fault = refuseOthers(&right)
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		right = "n3w-Passw0rd"
		changed, last := time.Now(), time.Duration(0)
		for {
			_, err := f.poll(u, "")
			if err != nil {
				wantError(t, "old password", err, upstream.ErrAuth)
				break
			}
			last = passed(changed)
			time.Sleep(20 * time.Second)
		}
		if last > maxWarmLife {
			t.Errorf("the old password was good for %v, want at most %v", last, maxWarmLife)
		}
		if _, err := f.poll(u, right); err != nil || f.connections != 3 {
			t.Fatalf("new password: %v on connection %d, want 3", err, f.connections)
		}
		right = password
		_, err := f.poll(u, password) // opens connection 4
		if err != nil || len(u.o.Stable.parked) != 1 {
			t.Errorf("%v, %d connections kept, want the one with the password that was accepted last", err, len(u.o.Stable.parked))
		}
		time.Sleep(time.Hour)
	})
}

// There is a bound to how many connections are kept, and the oldest make room.
func TestStableIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " IDLE"
		f.options.Warm = time.Minute
		f.options.Stable = NewStable(3)
		u := f.upstream()
		open := func(k int) {
			d, err := u.Open(t.Context(), upstream.Account{User: fmt.Sprint("user", k), Password: upstream.NewSecret(password)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.Close()
			synctest.Wait()
			time.Sleep(2 * time.Second)
		}
		for k := range 6 {
			open(k)
			if n := len(u.o.Stable.parked); n != min(k+1, 3) || n != u.o.Stable.order.Len() {
				t.Errorf("%d connections kept, want %d", n, min(k+1, 3))
			}
		}
		open(3)
		open(5)
		if f.connections != 6 {
			t.Errorf("%d connections, want those that came last to be kept", f.connections)
		}
		open(0)
		if f.connections != 7 {
			t.Errorf("%d connections, want the first to have made room", f.connections)
		}
		if got := f.sent("LOGOUT"); len(got) != 4 {
			t.Errorf("%d connections said goodbye, want 4", len(got))
		}
		if err := u.o.Stable.Close(); err != nil {
			t.Error(err)
		}
		if got := f.sent("LOGOUT"); len(got) != 7 || len(u.o.Stable.parked) != 0 || u.o.Stable.octets != 0 {
			t.Errorf("%d connections said goodbye, %d are kept with %d octets; want all closed", len(got), len(u.o.Stable.parked), u.o.Stable.octets)
		}
		open(0)
		if len(u.o.Stable.parked) != 0 {
			t.Error("a connection is kept after Close")
		}
		time.Sleep(time.Hour)
	})
}

// Whatever is wrong with a warm connection, the login does not notice.
func TestDoubtfulConnectionIsNotUsed(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(f *fake, d *maildrop)             // how the first session ends
		fault func(c *fakeConn, command string) bool // what awaits the second
	}{
		"open message": {leave: func(f *fake, d *maildrop) {
			if _, err := d.Fetch(f.t.Context(), 0); err != nil {
				f.t.Fatal(err)
			}
			d.Close()
		}},
		"on their way": {leave: func(f *fake, d *maildrop) {
			f.fault = onBodies(func(c *fakeConn, _ []fakeMessage) bool { return true })
			ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
			defer cancel()
			d.Fetch(ctx, 0)
			synctest.Wait()
			f.fault = nil
			d.Close()
		}},
		"broken":           {leave: func(f *fake, d *maildrop) { d.c.g.Close(); d.Close() }},
		"never listed":     {leave: func(f *fake, d *maildrop) { d.c.listing = d.c.newLister(nil); d.Close() }},
		"another mailbox":  {leave: func(f *fake, d *maildrop) { d.c.selectNamed(f.t.Context(), "Trash"); d.Close() }},
		"refused":          {fault: func(c *fakeConn, _ string) bool { c.say("%s NO go away", c.tag); return true }},
		"dropped":          {fault: func(c *fakeConn, _ string) bool { return drop(c) }},
		"BYE":              {fault: func(c *fakeConn, _ string) bool { c.say("* BYE idle for too long"); return drop(c) }},
		"silent":           {fault: func(*fakeConn, string) bool { return true }},
		"answer too early": {fault: func(c *fakeConn, _ string) bool { c.say("T1 OK done"); return true }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.options.Warm = time.Minute
				u := f.upstream()
				opened, err := u.Open(t.Context(), f.account())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := opened.List(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if d := opened.(*maildrop); c.leave != nil {
					c.leave(f, d)
				} else {
					d.Close()
				}
				synctest.Wait()
				if c.fault != nil {
					f.fault = func(conn *fakeConn, command string) bool { return conn.n == 1 && c.fault(conn, command) }
				}
				wantPoll(t, f, u, 4, 2)
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestCloseTwiceKeepsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		u := f.upstream()
		first, err := u.Open(t.Context(), f.account())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.Close()
		synctest.Wait()
		second, err := u.Open(t.Context(), f.account())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.Close()
		synctest.Wait()
		if len(u.o.Stable.parked) != 0 {
			t.Error("a connection in use is kept for another session")
		}
		for what, call := range map[string]func() error{
			"List":   func() error { _, err := first.List(t.Context()); return err },
			"Fetch":  func() error { _, err := first.Fetch(t.Context(), 0); return err },
			"Remove": func() error { _, err := first.Remove(t.Context(), []int{0}); return err },
		} {
			if err := call(); err == nil {
				t.Errorf("%s works after Close", what)
			}
		}
		second.Close()
		time.Sleep(time.Hour)
	})
}

// Nobody ever sees an octet of somebody else's: accounts come and go on warm
// connections, leave in the middle of messages, and try one another's passwords.
func TestCanary(t *testing.T) {
	retrs := int64(100_000)
	if testing.Short() {
		retrs = 5_000
	}
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		f.fill(40, 10)
		user := make(map[int]string) // by connection
		var mu sync.Mutex
		canary := func(user string, uid uint32) string {
			return strings.Repeat(fmt.Sprintf("%s %d\r\n", user, uid), 1+int(uid)%7*20)
		}
		f.fault = func(c *fakeConn, command string) bool {
			mu.Lock()
			defer mu.Unlock()
			if words := strings.Fields(command); words[0] == "LOGIN" {
				user[c.n] = strings.Trim(words[1], `"`)
				if !strings.Contains(words[2], "password of "+user[c.n]) && !strings.Contains(command, `"password of `+user[c.n]) {
					c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
					return true
				}
				return false
			}
			return onBodies(func(c *fakeConn, messages []fakeMessage) bool {
				for _, m := range messages {
					text := canary(user[c.n], m.uid)
					c.say("* 1 FETCH (UID %d BODY[] {%d}\r\n%s)", m.uid, len(text), text)
				}
				c.ok("done")
				return true
			})(c, command)
		}
		u := f.upstream()
		var done, foreign, reused atomic.Int64
		u.o.Hooks.WarmReuse = func(hit bool) {
			if hit {
				reused.Add(1)
			}
		}
		var clients sync.WaitGroup
		for k := range 8 {
			clients.Go(func() {
				r := rand.New(rand.NewPCG(7, uint64(k)))
				for done.Load() < retrs {
					name := fmt.Sprint("user", k)
					secret := "password of " + name
					if r.IntN(10) == 0 {
						secret = fmt.Sprint("password of user", (k+1)%8)
					}
					d, err := u.Open(context.Background(), upstream.Account{User: name, Password: upstream.NewSecret(secret)})
					if (err == nil) != (secret == "password of "+name) {
						t.Errorf("%s with the %s: %v", name, secret, err)
					}
					if err != nil {
						continue
					}
					canaries(d, r, name, canary, &done, &foreign)
					d.Close()
					time.Sleep(time.Millisecond) // until it is kept
				}
			})
		}
		clients.Wait()
		if foreign.Load() > 0 || reused.Load() == 0 {
			t.Errorf("%d messages with somebody else's octets; %d connections used again", foreign.Load(), reused.Load())
		}
		t.Logf("%d RETRs, %d connections, used again %d times", done.Load(), f.connections, reused.Load())
		f.mu.Lock()
		f.commands = nil // the passwords are not those that the wire is searched for
		f.mu.Unlock()
		time.Sleep(time.Hour)
	})
}

func canaries(d upstream.Maildrop, r *rand.Rand, name string, canary func(string, uint32) string, done, foreign *atomic.Int64) {
	l, err := d.List(context.Background())
	if err != nil {
		return
	}
	i := 0
	for range r.IntN(60) {
		if i++; r.IntN(10) == 0 || i >= l.Len() {
			i = r.IntN(l.Len())
		}
		ctx, cancel := context.WithCancel(context.Background())
		body, err := d.Fetch(ctx, i)
		done.Add(1)
		if err == nil {
			var got []byte
			if r.IntN(5) == 0 {
				got = make([]byte, r.IntN(200))
				n, _ := io.ReadFull(body, got)
				got = got[:n]
				if r.IntN(3) == 0 {
					cancel()
				}
			} else {
				got, _ = io.ReadAll(body)
			}
			if want := canary(name, d.(*maildrop).listing.uid(i)); !strings.HasPrefix(want, string(got)) {
				foreign.Add(1)
			}
			if r.IntN(100) == 0 {
				cancel()
				return // and Close with an open message
			}
			body.Close()
		}
		cancel()
	}
}
