package pop3

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream/upstreamtest"
)

// In these tests time passes at once, but only while everybody waits.

// A client that never logs in, however busy it looks.
func TestFaultC3LoginIsLimitedInAll(t *testing.T) {
	for name, chatter := range map[string]string{"silent": "", "trickle": "x", "commands": "CAPA\r\n", "AUTH": "AUTH PLAIN\r\n"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGateway()
				g.Limits.Errors = 1000
				c := g.dial(t.Context(), t)
				began := time.Now()
				go io.Copy(io.Discard, c)
				for chatter != "" {
					if _, err := c.Write([]byte(chatter)); err != nil {
						break
					}
					select {
					case <-c.done:
					case <-time.After(7 * time.Second):
					}
				}
				<-c.done
				if got, want := time.Since(began), time.Minute; got != want {
					t.Errorf("cut after %v, want %v", got, want)
				}
				if got := g.summary(t).Reason; got != "idle" {
					t.Errorf("ended by %q, want idle", got)
				}
			})
		})
	}
}

// TestAuthenticatorsTimeIsNotTheClients: an upstream that takes its time does
// not use up the limit of the client, which may try again.
func TestAuthenticatorsTimeIsNotTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(threeMessages...)
		g.box.Break(upstreamtest.Faults{Wait: func(_ context.Context, call string) {
			if call == "open" {
				time.Sleep(50 * time.Second)
			}
		}})
		c := g.dial(t.Context(), t)
		c.hear("+OK POP3 server ready")
		for range 2 {
			c.ask("USER bob", "+OK send the password")
			c.ask("PASS wrong", "-ERR [AUTH] wrong user name or password")
		}
		c.ask("USER bob", "+OK send the password")
		c.ask("PASS "+testPassword, "+OK maildrop has 3 messages (95 octets)")
	})
}

// TestLoginThatNeverEndsIsCut: nobody waits longer than an idle client may.
func TestLoginThatNeverEndsIsCut(t *testing.T) {
	for _, hangs := range []string{"open", "list"} {
		synctest.Test(t, func(t *testing.T) {
			g := newGateway(threeMessages...)
			g.box.Break(upstreamtest.Faults{Wait: func(ctx context.Context, call string) {
				if call == hangs {
					<-ctx.Done()
				}
			}})
			c := g.dial(t.Context(), t)
			c.hear("+OK POP3 server ready")
			c.ask("USER bob", "+OK send the password")
			began := time.Now()
			c.ask("PASS "+testPassword, "-ERR [SYS/TEMP] mail server is not available now")
			if got, want := time.Since(began), 10*time.Minute; got != want {
				t.Errorf("%s: answered after %v, want %v", hangs, got, want)
			}
			g.allClosed(t)
		})
	}
}

// The autologout says nothing and removes nothing, and neither half a
// command nor drops of one put it off. RFC 1939 section 3.
func TestFaultC4IdleSessionIsLoggedOut(t *testing.T) {
	for name, trickle := range map[string]string{"silent": "", "half a QUIT": "QUIT", "drops": strings.Repeat("x", 9)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGateway(threeMessages...)
				c := g.dial(t.Context(), t).logIn()
				c.ask("DELE 1", "+OK message 1 marked as deleted")
				began := time.Now()
				for _, octet := range []byte(trickle) {
					c.send(string(octet))
					time.Sleep(time.Minute)
				}
				c.closed()
				if got, want := time.Since(began), 10*time.Minute; got != want {
					t.Errorf("cut after %v, want %v", got, want)
				}
				if got := g.summary(t).Reason; got != "idle" {
					t.Errorf("ended by %q, want idle", got)
				}
				g.holds(t, threeMessages...)
				g.allClosed(t)
			})
		})
	}
}

// TestBusySessionStays: each command starts the ten minutes again.
func TestBusySessionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(threeMessages...)
		c := g.dial(t.Context(), t).logIn()
		for range 20 {
			time.Sleep(10*time.Minute - time.Second)
			c.ask("NOOP", "+OK nothing done")
		}
	})
}

// A client that stops reading, at any point of the dialogue.
func TestFaultC2SlowReaderIsCut(t *testing.T) {
	for name, ask := range map[string]string{"RETR": "RETR 1\r\n", "small": "STAT\r\n", "many": strings.Repeat("UIDL\r\n", 50)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGateway(upstreamtest.Letter(1, 1<<20))
				c := g.dial(t.Context(), t).logIn()
				began := time.Now()
				c.send(ask)
				<-c.done
				if got, want := time.Since(began), time.Minute; got != want {
					t.Errorf("cut after %v, want %v", got, want)
				}
				if got := g.summary(t); got.Reason != "slow" || got.Retrieved != 0 {
					t.Errorf("ended by %q with %d messages retrieved, want slow and none", got.Reason, got.Retrieved)
				}
				g.allClosed(t)
			})
		})
	}
}

// A lateConn is cut by the kernel before the session's own time is up, as soon
// as a write is larger than a line.
type lateConn struct{ net.Conn }

func (c lateConn) Write(p []byte) (int, error) {
	if len(p) > 512 {
		c.Close()
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.ETIMEDOUT)}
	}
	return c.Conn.Write(p)
}

// The kernel's verdict on a slow reader is ours.
func TestFaultC2SlowReaderIsCutByTheKernel(t *testing.T) {
	g := newGateway(upstreamtest.Letter(1, 1<<20))
	here, there := net.Pipe()
	c := g.serve(t.Context(), t, here, lateConn{there}).logIn()
	c.say("RETR 1")
	<-c.done
	if got := g.summary(t); got.Reason != "slow" || got.Retrieved != 0 {
		t.Errorf("ended by %q with %d messages retrieved, want slow and none", got.Reason, got.Retrieved)
	}
}

// TestSteadySlowReaderIsServed: a chunk in less than a minute is enough.
func TestSteadySlowReaderIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := upstreamtest.Letter(1, 400<<10)
		g := newGateway(raw)
		c := g.dial(t.Context(), t).logIn()
		c.say("RETR 1")
		want := fmt.Sprintf("+OK %d octets\r\n", len(raw)) + dotted(t, dotWriter{}, strings.NewReader(raw))
		var got strings.Builder
		for got.Len() < len(want) {
			time.Sleep(25 * time.Second)
			if _, err := io.CopyN(&got, c.lines, int64(min(chunkOctets/2, len(want)-got.Len()))); err != nil {
				t.Fatalf("after %d octets: %v", got.Len(), err)
			}
		}
		if got.String() != want {
			t.Errorf("got another message than was stored")
		}
		c.ask("NOOP", "+OK nothing done")
	})
}

// TestUpdateIsLimited: QUIT is answered even if the upstream is not.
func TestUpdateIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(threeMessages...)
		g.box.Break(upstreamtest.Faults{Wait: func(ctx context.Context, call string) {
			if call == "remove" {
				<-ctx.Done()
			}
		}})
		c := g.dial(t.Context(), t).logIn()
		c.ask("DELE 1", "+OK message 1 marked as deleted")
		began := time.Now()
		c.ask("QUIT", "-ERR [SYS/TEMP] 1 of 1 deleted messages not removed")
		if got, want := time.Since(began), 45*time.Second; got != want {
			t.Errorf("answered after %v, want %v", got, want)
		}
		c.closed()
		if got := g.summary(t); got.Reason != "quit" || got.Removed != 0 || got.Unremoved != 1 || got.Err == nil {
			t.Errorf("got %+v, want quit, 0 removed, 1 unremoved, an error", got)
		}
	})
}
