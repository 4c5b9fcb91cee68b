package imapc

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
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

// count is how many connections are kept; -1 if the books do not add up.
func (s *Stable) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	octets := 0
	for _, p := range s.parked {
		octets += p.listing.octets()
	}
	if s.order.Len() != len(s.parked) || octets != s.octets {
		return -1
	}
	return len(s.parked)
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
			time.Sleep(29 * time.Second)
		}
		if last > maxWarmLife || last < maxWarmLife-time.Minute {
			t.Errorf("the same connection for %v, want about %v", last, maxWarmLife)
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
		if err != nil || u.o.Stable.count() != 1 {
			t.Errorf("%v, %d connections kept, want the one with the password that was accepted last", err, u.o.Stable.count())
		}
		time.Sleep(time.Hour)
	})
}

// U10: a server that has too many connections of an account is given back those
// that wait, whoever's they are, and of that account only.
func TestTooManyConnectionsGiveBackWarmOnes(t *testing.T) {
	for _, said := range []string{"[LIMIT] no more", "[INUSE] in use", "[ALERT] Too many simultaneous connections. (Failure)"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Warm = time.Minute
			f.options.Stable = NewStable(10)
			u, other := f.upstream(), f.upstream() // of two routes
			for _, u := range []*Upstream{u, other} {
				if _, err := f.poll(u, ""); err != nil {
					t.Fatal(err)
				}
			}
			bobs := &parked{place: place{u, "bob"}, c: &conn{}, listing: nil, timer: time.NewTimer(time.Hour)}
			bobs.element = u.o.Stable.order.PushBack(bobs)
			u.o.Stable.parked[bobs.place] = bobs
			defer delete(u.o.Stable.parked, bobs.place)
			f.fault = onCommand("LOGIN", func(c *fakeConn) bool { c.say("%s NO %s", c.tag, said); return true })
			_, err := f.poll(u, "another password")
			wantError(t, said, err, upstream.ErrBusy)
			if n := u.o.Stable.count(); n != 1 || u.o.Stable.parked[bobs.place] != bobs {
				t.Errorf("%s: %d connections kept, want bob's alone", said, n)
			}
		})
	}
}

// There is a bound to how many connections are kept, and the oldest make room.
func TestStableIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " IDLE"
		f.options.Warm = time.Minute
		f.options.Stable = NewStable(3)
		u := f.upstream()
		open := func(k int) {
			openAndList(t, u, upstream.Account{User: fmt.Sprint("user", k), Password: upstream.NewSecret(password)}).Close()
			synctest.Wait()
			time.Sleep(2 * time.Second)
		}
		for k := range 6 {
			open(k)
			if n := u.o.Stable.count(); n != min(k+1, 3) {
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
		if got := f.sent("LOGOUT"); len(got) != 7 || u.o.Stable.count() != 0 {
			t.Errorf("%d connections said goodbye, %d are kept; want all closed", len(got), u.o.Stable.count())
		}
		open(0)
		if u.o.Stable.count() != 0 {
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
				d := openAndList(t, u, f.account())
				synctest.Wait()
				if c.leave != nil {
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

// What the server says while a connection is parked, or in answer to NOOP, has
// the mailbox selected anew, however harmless; what does not belong there at all,
// or nothing, costs the connection. In no case does the login fail.
func TestWhatIsHeardWhileParked(t *testing.T) {
	const same, selected, another = 0, 1, 2 // what the next session does
	for line, want := range map[string]int{
		"":                          same,
		"* OK still here":           same,
		"* OK [ALERT] soon":         selected,
		"* 4 EXISTS":                selected,
		"* 1 RECENT":                selected,
		"* 2 EXPUNGE":               selected,
		"* VANISHED 5":              selected,
		`* 2 FETCH (FLAGS (\Seen))`: selected,
		"* NO disk is nearly full":  selected,
		"* OK [UIDVALIDITY 78] x":   selected,
		"* SOMETHING new":           selected,
		"* BYE shutting down":       another,
		"X1 OK whatever":            another,
		"garbage":                   another,
		"cut":                       another,
		"silent":                    another,
	} {
		for _, when := range []string{"before IDLE", "in IDLE", "in NOOP"} {
			t.Run(line+" "+when, func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fake) {
					f.caps += " IDLE"
					f.options.Warm = time.Minute
					said := false
					say := func(c *fakeConn) {
						if said || line == "" {
							return
						}
						said = true
						switch line {
						case "cut":
							c.Close()
						case "* BYE shutting down":
							c.say("%s", line)
							c.Close()
						default:
							c.say("%s", line)
						}
					}
					f.fault = func(c *fakeConn, command string) bool {
						if c.n > 1 {
							return false
						}
						if line == "silent" && (command == "NOOP" && when == "in NOOP" || command == "IDLE" && when == "in IDLE") {
							return true
						}
						if command == "NOOP" && when == "in NOOP" && line != "silent" {
							say(c)
						}
						return false
					}
					u := f.upstream()
					wantPoll(t, f, u, 4, 1)
					if when == "before IDLE" && line != "silent" {
						say(f.conns[0])
					}
					time.Sleep(10 * time.Second)
					if when == "in IDLE" && line != "silent" {
						say(f.conns[0])
					}
					synctest.Wait()
					want := want
					if when == "before IDLE" {
						switch line {
						case "* VANISHED 5", "* SOMETHING new":
							want = another // which the library is not prepared for
						case "* NO disk is nearly full", `* 2 FETCH (FLAGS (\Seen))`, "silent":
							want = same // as amid the answers to a session
						}
					}
					began, connections, selects := time.Now(), 1, 1
					if want == another {
						connections = 2
					}
					if want != same {
						selects = 2
					}
					wantPoll(t, f, u, 4, connections)
					if got := len(f.sent("SELECT")); got != selects {
						t.Errorf("the mailbox was selected %d times, want %d", got, selects)
					}
					if d := passed(began); d > warmWait {
						t.Errorf("the login took %v", d)
					}
					wantPoll(t, f, u, 4, connections)
					if got := len(f.sent("SELECT")); got != selects {
						t.Errorf("and selected again after an unchanged poll")
					}
					time.Sleep(time.Hour)
				})
			})
		}
	}
}

// A server that will not idle is asked once, and its connections kept all the
// same.
func TestServerThatWillNotIdle(t *testing.T) {
	for _, answer := range []string{"NO not now", "BAD what?"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps += " IDLE"
			f.options.Warm = time.Minute
			f.fault = func(c *fakeConn, command string) bool {
				if command == "IDLE" {
					c.say("%s %s", c.tag, answer)
				}
				return command == "IDLE"
			}
			u := f.upstream()
			wantPoll(t, f, u, 4, 1)
			time.Sleep(10 * time.Second)
			f.deliver(20)
			wantPoll(t, f, u, 5, 1)
			time.Sleep(time.Hour)
		})
	}
}

// A message that arrives, or goes, while the mailbox is being listed is not
// missing from what later sessions are shown.
func TestChangeWhileListing(t *testing.T) {
	for name, change := range map[string]func(c *fakeConn){
		"arrived": func(c *fakeConn) { c.f.deliver(20); c.announce() },
		"gone":    func(c *fakeConn) { c.f.take(5); c.announce() },
		"both":    func(c *fakeConn) { c.f.take(5); c.f.deliver(20); c.announce() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.options.Warm = time.Minute
				once := true
				f.fault = func(c *fakeConn, command string) bool {
					if strings.HasPrefix(command, "UID FETCH 1:*") && once {
						once = false
						for i, m := range f.messages {
							c.say("* %d FETCH (UID %d RFC822.SIZE %d)", i+1, m.uid, m.stated())
						}
						change(c)
						c.ok("done")
						return true
					}
					return false
				}
				u := f.upstream()
				if _, err := f.poll(u, ""); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					d, err := u.Open(t.Context(), f.account())
					if err != nil {
						t.Fatal(err)
					}
					if _, err := d.List(t.Context()); err != nil {
						t.Fatal(err)
					}
					var uids []uint32
					for i, l := 0, d.(*maildrop).listing; i < l.Len(); i++ {
						uids = append(uids, l.uid(i))
					}
					if want := f.uids(); !slices.Equal(uids, want) {
						t.Errorf("UIDs %v, want %v", uids, want)
					}
					d.Close()
				}
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
		if u.o.Stable.count() != 0 {
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

// A canaryServer has a mailbox for each of some users, all with the same UIDs, in
// which every line says whose it is. Users change their passwords, and
// connections are cut, at any time.
type canaryServer struct {
	*fake
	mu       sync.Mutex
	user     map[int]string // by connection
	password map[string]string
	last     uint32 // UID
}

func canaryText(user string, uid uint32) string {
	return strings.Repeat(fmt.Sprintf("%s %d\r\n", user, uid), 1+int(uid)%7*20)
}

// canaryValidity is the UIDVALIDITY of a user's mailbox: their number.
func canaryValidity(user string) uint32 { return 100 + uint32(user[len(user)-1]-'0') }

func (s *canaryServer) answer(c *fakeConn, command string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch words := strings.Fields(command); words[0] {
	case "LOGIN":
		user := strings.Trim(words[1], `"`)
		if s.user[c.n] = user; !strings.HasSuffix(command, ` "`+s.password[user]+`"`) {
			c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
			return true
		}
	case "SELECT":
		n := c.know()
		c.say("* %d EXISTS\r\n* OK [UIDVALIDITY %d] valid\r\n%s OK [READ-WRITE] selected", n, canaryValidity(s.user[c.n]), c.tag)
		return true
	}
	return onBodies(func(c *fakeConn, messages []fakeMessage) bool {
		for _, m := range messages {
			text := canaryText(s.user[c.n], m.uid)
			c.say("* 1 FETCH (UID %d BODY[] {%d}\r\n%s)", m.uid, len(text), text)
		}
		c.ok("done")
		return true
	})(c, command)
}

// change gives a user another password.
func (s *canaryServer) change(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.password[user] += "'"
}

func (s *canaryServer) current(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.password[user]
}

// arrive delivers a message. UIDs only grow.
func (s *canaryServer) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.deliver(s.last)
}

// cut drops one of the latest connections.
func (s *canaryServer) cut(r *rand.Rand) {
	s.fake.mu.Lock()
	c := s.conns[len(s.conns)-1-r.IntN(min(len(s.conns), 12))]
	s.fake.mu.Unlock()
	c.Close()
}

// Nobody ever sees an octet of somebody else's: accounts come and go on warm
// connections, at once or after a while, leave in the middle of messages, try one
// another's passwords and change their own, while connections are cut and mail
// comes and goes. Whoever logs in sees what is there.
func TestCanary(t *testing.T) {
	retrs := int64(100_000)
	if testing.Short() {
		retrs = 5_000
	}
	const users = 8
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Warm = time.Minute
		f.options.Stable = NewStable(users - 1)
		f.caps += " IDLE"
		f.fill(40, 10)
		s := &canaryServer{fake: f, last: 1000, user: make(map[int]string), password: make(map[string]string)}
		for k := range users {
			s.password[fmt.Sprint("user", k)] = fmt.Sprint("password of user", k)
		}
		f.fault = s.answer
		u := f.upstream()
		var done, foreign, reused, late atomic.Int64
		u.o.Hooks.WarmReuse = func(hit bool) {
			if hit {
				reused.Add(1)
			}
		}
		var clients sync.WaitGroup
		for k := range users {
			clients.Go(func() {
				r := rand.New(rand.NewPCG(7, uint64(k)))
				name, other := fmt.Sprint("user", k), fmt.Sprint("user", (k+1)%users)
				for done.Load() < retrs {
					secret := s.current(name)
					switch r.IntN(200) {
					case 0:
						s.change(name) // and log in by the one before, which only a warm connection may take
					case 1:
						s.cut(r)
					case 2:
						s.arrive()
					case 3:
						if there := f.uids(); len(there) > 20 {
							f.take(there[r.IntN(len(there))])
						}
					}
					if r.IntN(10) == 0 {
						secret = s.current(other)
					}
					before := f.uids()
					d, err := u.Open(context.Background(), upstream.Account{User: name, Password: upstream.NewSecret(secret)})
					if strings.Contains(secret, other) && err == nil {
						t.Errorf("%s logs in with the %s", name, secret)
					}
					if err != nil {
						continue
					}
					if d := d.(*maildrop); !s.lists(d, before) {
						late.Add(1)
					} else if d.listing.Len() > 0 {
						canaries(d, r, name, &done, &foreign)
					}
					d.Close()
					if r.IntN(4) == 0 {
						time.Sleep(time.Duration(r.IntN(int(3 * idleAfter)))) // perhaps until the server idles
					}
				}
			})
		}
		clients.Wait()
		if foreign.Load() > 0 || late.Load() > 0 || reused.Load() == 0 {
			t.Errorf("%d messages with somebody else's octets, %d listings that are not of what was there; %d connections used again",
				foreign.Load(), late.Load(), reused.Load())
		}
		idled := len(f.sent("IDLE"))
		t.Logf("%d RETRs, %d connections, used again %d times, idle %d times", done.Load(), f.connections, reused.Load(), idled)
		if idled == 0 {
			t.Error("no connection was idle")
		}
		f.mu.Lock()
		f.commands = nil // the passwords are not those that the wire is searched for
		f.mu.Unlock()
		u.o.Stable.Close()
		synctest.Wait()
		for _, c := range f.conns {
			if !c.dropped.Load() {
				t.Errorf("connection %d is open when nobody uses it", c.n)
			}
		}
	})
}

// lists tells whether the listing is of what was there since before was: nothing
// that stayed is missing, and nothing that never was is in it.
func (s *canaryServer) lists(d *maildrop, before []uint32) bool {
	if _, err := d.List(context.Background()); err != nil {
		return true // cut off
	}
	after := s.uids()
	listed := make(map[uint32]bool)
	for i := range d.listing.Len() {
		listed[d.listing.uid(i)] = true
	}
	for _, uid := range before {
		if !listed[uid] && slices.Contains(after, uid) {
			return false
		}
		delete(listed, uid)
	}
	for uid := range listed {
		if uid < slices.Max(before) {
			return false // it went earlier
		}
	}
	return true
}

// canaries reads in one session.
func canaries(d *maildrop, r *rand.Rand, name string, done, foreign *atomic.Int64) {
	l := d.listing
	if d.listing.uidValidity != canaryValidity(name) {
		foreign.Add(1)
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
			if want := canaryText(name, d.listing.uid(i)); !strings.HasPrefix(want, string(got)) {
				foreign.Add(1)
			}
			if r.IntN(100) == 0 {
				cancel()
				break // and Close with an open message
			}
			body.Close()
		}
		cancel()
	}
}
