package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/pop3"
	"postern/upstream/upstreamtest"
)

// A pipes is a listener in memory, so that time can be virtual. Its Accept
// fails with trouble as long as there is some.
type pipes struct {
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
	trouble atomic.Pointer[error]
	accepts atomic.Int32
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	p.accepts.Add(1)
	if err := p.trouble.Load(); err != nil {
		return nil, *err
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 110} }

// A tcpLike pipe says where it comes from.
type tcpLike struct {
	net.Conn
	remote string
}

func (c tcpLike) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.remote), 50000))
}

func (p *pipes) dial(t *testing.T, remote string) *client {
	here, there := net.Pipe()
	p.conns <- tcpLike{there, remote}
	return clientOn(t, here)
}

// pipe runs a server on pipes.
func pipe(t *testing.T, o Options) (*Server, *pipes) {
	p := newPipes()
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	o.Listeners = []Listener{{Address: "pipe", PlaintextLogin: everywhere}}
	s := newServer(o, []net.Listener{p})
	run(t, s)
	return s, p
}

// shutdown begins a Shutdown that gives the sessions so long.
func shutdown(s *Server, d time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	return done
}

// Sessions that wait for a command are told and removed nothing; one in
// the UPDATE state finishes and answers.
func TestFaultH1H2Drain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		removing, finish := make(chan struct{}), make(chan struct{})
		door := doorman{faults: upstreamtest.Faults{Wait: func(_ context.Context, call string) {
			if call == "remove" {
				close(removing)
				<-finish
			}
		}}}
		s, p := pipe(t, Options{Authenticator: door})
		stranger := p.dial(t, "127.0.0.1")
		stranger.expect("+OK")
		idle := p.dial(t, "127.0.0.1")
		idle.expect("+OK")
		idle.login("idle")
		idle.say("DELE 1", "+OK")
		updating := p.dial(t, "127.0.0.1")
		updating.expect("+OK")
		updating.login("updating")
		updating.say("DELE 1", "+OK")
		io.WriteString(updating, "QUIT\r\n")
		<-removing

		done := shutdown(s, 45*time.Second)
		for _, c := range []*client{stranger, idle} {
			c.expect("-ERR [SYS/TEMP]")
			c.ended()
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("shut down with %v before the UPDATE state ended", err)
		default:
		}
		close(finish)
		updating.expect("+OK")
		updating.ended()
		if err := <-done; err != nil {
			t.Errorf("shutdown: got error %v, want none", err)
		}
		if err := <-shutdown(s, time.Second); err != nil {
			t.Errorf("second shutdown: got error %v, want none", err)
		}
	})
}

// A session that does not end in time is cut off, without removing anything.
func TestDrainRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls sync.Map
		door := doorman{faults: upstreamtest.Faults{Wait: func(ctx context.Context, call string) {
			calls.Store(call, true)
			if call == "read" {
				<-ctx.Done() // an upstream that does not answer
			}
		}}}
		var log strings.Builder
		s, p := pipe(t, Options{Authenticator: door, Log: slog.New(slog.NewTextHandler(&log, nil))})
		c := p.dial(t, "127.0.0.1")
		c.expect("+OK")
		c.login("ann")
		c.say("DELE 1", "+OK")
		c.say("RSET", "+OK")
		io.WriteString(c, "RETR 1\r\n")
		synctest.Wait()
		began := time.Now()
		go io.Copy(io.Discard, c)
		err := <-shutdown(s, 30*time.Second)
		if took := time.Since(began); took < 30*time.Second || took > 30*time.Second+cutGrace {
			t.Errorf("shutdown took %v, want 30 s and at most %v more", took, cutGrace)
		}
		if err != nil {
			t.Errorf("shutdown: got error %v, want none: nothing was left undone", err)
		}
		synctest.Wait()
		if want := `level=WARN msg="sessions cut off in the shutdown" sessions=1 `; !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
		if _, ok := calls.Load("remove"); ok {
			t.Error("a session that was cut removed something")
		}
	})
}

// A removal that does not end in time is what an operator must know of. It ends
// in the background, as long as the process lives.
func TestDrainRunsOutInUpdate(t *testing.T) {
	for n, want := range map[int]string{1: "1 removal not finished", 2: "2 removals not finished"} {
		synctest.Test(t, func(t *testing.T) {
			finish := make(chan struct{})
			door := doorman{faults: upstreamtest.Faults{Wait: func(_ context.Context, call string) {
				if call == "remove" {
					<-finish
				}
			}}}
			var log strings.Builder
			s, p := pipe(t, Options{Authenticator: door, Log: slog.New(slog.NewTextHandler(&log, nil))})
			var updating []*client
			for i := range n {
				c := p.dial(t, "127.0.0.1")
				c.expect("+OK")
				c.login(fmt.Sprint("user", i))
				c.say("DELE 1", "+OK")
				io.WriteString(c, "QUIT\r\n")
				updating = append(updating, c)
			}
			synctest.Wait()
			err := <-shutdown(s, 30*time.Second)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("shutdown: got error %v, want %s", err, want)
			}
			if strings.Contains(log.String(), "cut off") {
				t.Errorf("the log tells of sessions cut off, where there was none:\n%s", log.String())
			}
			close(finish)
			for _, c := range updating {
				c.expect("+OK")
				c.ended()
			}
		})
	}
}

func TestShutdownBeforeServe(t *testing.T) {
	s, err := Listen(Options{Authenticator: doorman{}, Listeners: []Listener{{Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: got error %v, want none", err)
	}
	s.Serve() // returns
	if conn, err := net.Dial("tcp", s.Addrs()[0].String()); err == nil {
		conn.Close()
		t.Error("connected after the shutdown")
	}
}

// Without file descriptors, accepting pauses and recovers by itself.
// Sessions that are there go on.
func TestFaultH8AcceptWithoutDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s, p := pipe(t, Options{Authenticator: doorman{}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		c := p.dial(t, "127.0.0.1")
		c.expect("+OK")
		c.login("ann")
		greeted := func() {
			t.Helper()
			c := p.dial(t, "127.0.0.1")
			c.expect("+OK")
			c.Close()
		}
		none := error(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)})
		p.trouble.Store(&none)
		greeted() // by the Accept that was under way
		before := p.accepts.Load()
		time.Sleep(time.Minute)
		if n := p.accepts.Load() - before; n < 55 || n > 75 {
			t.Errorf("attempts to accept in a minute: got %d, want about 60", n)
		}
		c.say("STAT", "+OK 1")
		p.trouble.Store(nil)
		began := time.Now()
		greeted()
		if took := time.Since(began); took > longestPause {
			t.Errorf("accepting again took %v, want at most %v", took, longestPause)
		}
		p.trouble.Store(&none)
		greeted()
		c.say("QUIT", "+OK")
		synctest.Wait() // in a pause
		if err := <-shutdown(s, time.Minute); err != nil {
			t.Errorf("shutdown: got error %v, want none", err)
		}
		for line, want := range map[string]int{"cannot accept": 2, "accepting again": 1} {
			if n := strings.Count(log.String(), line); n != want {
				t.Errorf("%q: logged %d times, want %d\n%s", line, n, want, log.String())
			}
		}
	})
}

// A client that sends an octet now and then without ever logging in has its
// connection for a minute, and no more of them than its share.
func TestFaultC3Slowloris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int32
		s, p := pipe(t, Options{Authenticator: doorman{}, Refused: func(_, limit string) {
			if limit == PerAddress {
				refused.Add(1)
			}
		}})
		began := time.Now()
		var clients sync.WaitGroup
		for range 100 {
			c := p.dial(t, "192.0.2.66")
			c.expect("+OK")
			clients.Go(func() {
				for range 600 {
					if _, err := io.WriteString(c, "U"); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				if took := time.Since(began); took < time.Minute || took > 62*time.Second {
					t.Errorf("connection closed after %v, want a minute", took)
				}
			})
		}
		excess := p.dial(t, "192.0.2.66")
		excess.expect("-ERR [SYS/TEMP] too many connections")
		excess.ended()
		honest := p.dial(t, "192.0.2.67")
		honest.expect("+OK")
		honest.login("ann")
		honest.say("QUIT", "+OK")
		clients.Wait()
		synctest.Wait()
		if open, strangers := s.Connections(); open != 0 || strangers != 0 || refused.Load() != 1 {
			t.Errorf("afterwards: got %d open, %d strangers, %d refused, want 0, 0, 1", open, strangers, refused.Load())
		}
	})
}

// Hooks of two listeners do not mix.
func TestHooksByListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := map[string]*atomic.Int32{"a": {}, "b": {}}
		a, b := newPipes(), newPipes()
		s := newServer(Options{
			Authenticator: doorman{},
			Listeners:     []Listener{{Address: "a"}, {Address: "b"}},
			Hooks: func(listener string) pop3.Hooks {
				return pop3.Hooks{Began: func() { began[listener].Add(1) }}
			},
		}, []net.Listener{a, b})
		run(t, s)
		a.dial(t, "127.0.0.1").expect("+OK")
		b.dial(t, "127.0.0.1").expect("+OK")
		b.dial(t, "127.0.0.1").expect("+OK")
		if na, nb := began["a"].Load(), began["b"].Load(); na != 1 || nb != 2 {
			t.Errorf("sessions begun: got %d at a and %d at b, want 1 and 2", na, nb)
		}
	})
}
