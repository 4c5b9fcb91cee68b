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

func TestWarmConnectionIsUsedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var trips, hits atomic.Int64
		f.options.Warm = time.Minute
		f.options.Hooks.RoundTrip = func() { trips.Add(1) }
		f.options.Hooks.WarmReuse = func(hit bool) {
			if hit {
				hits.Add(1)
			}
		}
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		for k := range 5 {
			time.Sleep(59 * time.Second)
			before := trips.Load()
			wantPoll(t, f, u, 4+k, 1)
			if n := trips.Load() - before; n != 1 {
				t.Errorf("%d round trips, want 1", n)
			}
			f.deliver(uint32(20 + k))
		}
		if hits.Load() != 5 {
			t.Errorf("%d hits", hits.Load())
		}
		f.take(3)
		wantPoll(t, f, u, 8, 1)
		time.Sleep(61 * time.Second)
		wantPoll(t, f, u, 8, 2)
		if got := f.sent("LOGOUT"); len(got) != 1 {
			t.Errorf("%d connections said goodbye, want the one that was not used again", len(got))
		}
		time.Sleep(time.Hour)
	})
}

// A password may be withdrawn: nobody stays logged in for ever by coming often.
func TestWarmConnectionGrowsOld(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		u := f.upstream()
		began := time.Now()
		for f.connections < 2 {
			if _, err := f.poll(u, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
		}
		if passed(began) > maxWarmLife+time.Minute {
			t.Errorf("the same connection for %v", passed(began))
		}
		time.Sleep(time.Hour)
	})
}

// A wrong password neither opens the warm connection nor closes it.
func TestWarmConnectionAsksForThePassword(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "LOGIN") && !strings.Contains(command, password) {
				c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
				return true
			}
			return false
		}
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		for _, wrong := range []string{"wrong", password[1:], password[:5], " "} {
			_, err := f.poll(u, wrong)
			wantError(t, wrong, err, upstream.ErrAuth)
		}
		wantPoll(t, f, u, 4, 5)
		if n, err := u.Open(t.Context(), upstream.Account{User: "eve@example.org", Password: upstream.NewSecret(password)}); err != nil || f.connections != 6 {
			t.Errorf("another account: %v, %v on connection %d", n, err, f.connections)
		} else {
			n.Close()
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
		if len(u.warm.parked) != 0 {
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
