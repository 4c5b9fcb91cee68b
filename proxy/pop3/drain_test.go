package pop3

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

const farewell = "-ERR [SYS/TEMP] shutting down"

// drainable is a gateway and what starts its drain.
func drainable(messages ...string) (g *gateway, drain func()) {
	g = newGateway(messages...)
	draining := make(chan struct{})
	g.Draining = draining
	return g, func() { close(draining) }
}

// ended checks the end that a drained session comes to.
func (g *gateway) endedBy(t *testing.T, reason string) {
	t.Helper()
	if got := g.summary(t).Reason; got != reason {
		t.Errorf("ended by %q, want %q", got, reason)
	}
	g.allClosed(t)
}

// A session that waits for a command is told and closed, in whatever state
// it is, and nothing is removed.
func TestFaultH1DrainOfWaitingSessions(t *testing.T) {
	for name, prepare := range map[string]func(c *client){
		"greeted":        func(c *client) { c.hear("+OK POP3 server ready") },
		"USER":           func(c *client) { c.hear("+OK POP3 server ready"); c.ask("USER bob", "+OK send the password") },
		"SASL":           func(c *client) { c.hear("+OK POP3 server ready"); c.ask("AUTH PLAIN", "+ ") },
		"TRANSACTION":    func(c *client) { c.logIn() },
		"marked":         func(c *client) { c.logIn().ask("DELE 1", "+OK message 1 marked as deleted") },
		"half a command": func(c *client) { c.logIn().ask("DELE 1", "+OK message 1 marked as deleted"); c.send("QUIT\r") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, drain := drainable(threeMessages...)
				c := g.dial(t.Context(), t)
				prepare(c)
				synctest.Wait()
				drain()
				c.hear(farewell)
				c.closed()
				g.holds(t, threeMessages...)
				g.endedBy(t, "drain")
			})
		})
	}
}

func TestDrainBeforeTheFirstSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, drain := drainable()
		drain()
		c := g.dial(t.Context(), t)
		c.hear("+OK POP3 server ready", farewell)
		c.closed()
		g.endedBy(t, "drain")
	})
}

// TestDrainInsideTLS: the reply comes through TLS, like every other.
func TestDrainInsideTLS(t *testing.T) {
	g, drain := drainable(threeMessages...)
	g.TLS = testTLS()
	c := g.dial(t.Context(), t)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.hear("+OK POP3 server ready")
	c.ask("STLS", "+OK begin TLS")
	c.startTLS()
	c.ask("NOOP", "-ERR log in first")
	drain()
	c.hear(farewell)
	c.closed()
	g.endedBy(t, "drain")
}

// TestDrainGivesUpLogins: neither a throttled login nor a slow listing is waited
// for, and what was opened is closed. A password that turns out to be wrong in
// that moment is refused as ever.
func TestDrainGivesUpLogins(t *testing.T) {
	for _, held := range []string{"authenticate", "list"} {
		for _, password := range []string{testPassword, "wrong"} {
			if held == "list" && password == "wrong" {
				continue // never gets there
			}
			t.Run(held+" with "+password, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g, drain := drainable(threeMessages...)
					hold := func(ctx context.Context, call string) {
						if call == held {
							<-ctx.Done()
						}
					}
					g.box.Break(upstreamtest.Faults{Wait: hold})
					g.Authenticator = slowly{g.Authenticator, hold}
					c := g.dial(t.Context(), t)
					c.hear("+OK POP3 server ready")
					c.ask("USER bob", "+OK send the password")
					c.send("PASS " + password + "\r\n")
					synctest.Wait()
					began := time.Now()
					drain()
					if password == "wrong" {
						c.hear("-ERR [AUTH] wrong user name or password")
					}
					c.hear(farewell)
					c.closed()
					if took := time.Since(began); took != 0 {
						t.Errorf("closed after %v, want at once", took)
					}
					g.holds(t, threeMessages...)
					g.endedBy(t, "drain")
					if log := g.log.String(); strings.Contains(log, "login refused") != (password == "wrong") {
						t.Errorf("the log tells of a refused login, or does not, with the password %s:\n%s", password, log)
					}
				})
			})
		}
	}
}

// slowly is an Authenticator that is held up, as by a throttle.
type slowly struct {
	Authenticator
	hold func(ctx context.Context, call string)
}

func (a slowly) Authenticate(ctx context.Context, c Credentials) (Login, error) {
	a.hold(ctx, "authenticate")
	if c.Password.Reveal() == "wrong" {
		return Login{}, upstream.ErrAuth // known before the wait, as a throttle's is
	}
	return a.Authenticator.Authenticate(ctx, c)
}

// TestDrainGivesUpHandshakes: a client that never ends its own holds nothing up.
func TestDrainGivesUpHandshakes(t *testing.T) {
	testCertificate() // outside the bubble
	for name, implicit := range map[string]bool{"STLS": false, "implicit": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, drain := drainable()
				g.TLS = testTLS()
				here, there := net.Pipe()
				var c *client
				if implicit {
					c = g.serve(t.Context(), t, here, tls.Server(there, testTLS()))
				} else {
					c = g.serve(t.Context(), t, here, there)
					c.hear("+OK POP3 server ready")
					c.ask("STLS", "+OK begin TLS")
				}
				synctest.Wait()
				began := time.Now()
				drain()
				c.closed()
				if took := time.Since(began); took != 0 {
					t.Errorf("closed after %v, want at once", took)
				}
				synctest.Wait()
				if log := g.log.String(); !strings.Contains(log, "reason=drain") {
					t.Errorf("the log lacks the reason:\n%s", log)
				}
			})
		})
	}
}

// TestDrainWaitsForTheCommandUnderWay, a big RETR to a slow client included.
func TestDrainWaitsForTheCommandUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := upstreamtest.Letter(1, 1<<20)
		g, drain := drainable(raw)
		c := g.dial(t.Context(), t).logIn()
		c.say("RETR 1")
		c.hear(fmt.Sprintf("+OK %d octets", len(raw)))
		drain()
		want := dotted(t, dotWriter{}, strings.NewReader(raw)) + farewell + "\r\n"
		if got := c.rest(); got != want {
			t.Errorf("got %d octets, want the message, its end and the farewell: %d", len(got), len(want))
		}
		if got := g.summary(t).Retrieved; got != 1 {
			t.Errorf("%d messages retrieved, want 1", got)
		}
		g.endedBy(t, "drain")
	})
}

// What a client asked for by QUIT is done and answered, even after the
// grace period, which ends with the context.
func TestFaultH2UpdateOutlivesDrainAndContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, drain := drainable(threeMessages...)
		removing := make(chan struct{})
		g.box.Break(upstreamtest.Faults{Wait: func(ctx context.Context, call string) {
			if call == "remove" {
				close(removing)
				time.Sleep(30 * time.Second)
			}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := g.dial(ctx, t).logIn()
		c.ask("DELE 1", "+OK message 1 marked as deleted")
		c.say("QUIT")
		<-removing
		drain()
		cancel()
		c.hear("+OK bye, 1 message removed")
		c.closed()
		g.holds(t, threeMessages[1:]...)
		g.endedBy(t, "quit")
	})
}

// TestContextCutsAtOnce in every phase but UPDATE; nothing is removed.
func TestContextCutsAtOnce(t *testing.T) {
	wait := func(call string) upstreamtest.Faults {
		return upstreamtest.Faults{Wait: func(ctx context.Context, c string) {
			if c == call {
				<-ctx.Done()
			}
		}}
	}
	for name, p := range map[string]struct {
		faults  upstreamtest.Faults
		prepare func(c *client)
	}{
		"greeting":    {prepare: func(c *client) {}},
		"waiting":     {prepare: func(c *client) { c.logIn().ask("DELE 1", "+OK message 1 marked as deleted") }},
		"slow reader": {prepare: func(c *client) { c.logIn().say("RETR 4") }},
		"opening": {wait("open"), func(c *client) {
			c.hear("+OK POP3 server ready")
			c.ask("USER bob", "+OK send the password")
			c.say("PASS " + testPassword)
		}},
		"listing": {wait("list"), func(c *client) {
			c.hear("+OK POP3 server ready")
			c.ask("USER bob", "+OK send the password")
			c.say("PASS " + testPassword)
		}},
		"reading": {wait("read"), func(c *client) { c.logIn().say("RETR 4") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				messages := append(threeMessages[:3:3], upstreamtest.Letter(1, 1<<20))
				g := newGateway(messages...)
				g.box.Break(p.faults)
				ctx, cancel := context.WithCancel(t.Context())
				c := g.dial(ctx, t)
				p.prepare(c)
				synctest.Wait()
				began := time.Now()
				cancel()
				<-c.done
				if took := time.Since(began); took != 0 {
					t.Errorf("cut after %v, want at once", took)
				}
				g.holds(t, messages...)
				g.endedBy(t, "drain")
			})
		})
	}
}

// TestManySessionsDrainTogether, and one watcher is enough for them.
func TestManySessionsDrainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, drain := drainable(threeMessages...)
		var clients []*client
		for range 100 {
			clients = append(clients, g.dial(t.Context(), t).logIn())
		}
		synctest.Wait()
		drain()
		for _, c := range clients {
			c.hear(farewell)
			c.closed()
		}
		if opened, closed := g.box.Handles(); opened != 100 || closed != 100 {
			t.Errorf("%d maildrops opened, %d closed; want 100 of each", opened, closed)
		}
	})
}

// TestWatcherEndsWithTheSessions: a server that is never drained leaves
// nothing behind (TestMain looks), and can be used again.
func TestWatcherEndsWithTheSessions(t *testing.T) {
	g, drain := drainable(threeMessages...)
	for range 3 {
		c := g.dial(t.Context(), t).logIn()
		c.ask("QUIT", "+OK bye")
		c.closed()
	}
	here, there := net.Pipe()
	c := g.serve(t.Context(), t, here, there).logIn()
	drain()
	c.hear(farewell)
	c.closed()
}
