package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// recordCalls notes every call of the maildrop.
func (g *gateway) recordCalls() (calls func() []string) {
	var mu sync.Mutex
	var all []string
	g.box.Break(upstreamtest.Faults{Wait: func(_ context.Context, call string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, call)
	}})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// reset closes a TCP connection the rude way.
func (c *client) reset() {
	c.t.Helper()
	if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		c.t.Fatal(err)
	}
	c.Close()
}

// TestOnlyQuitReachesTheUpstream: DELE, RSET and the like ask nothing of it,
// and QUIT with nothing marked does not either.
func TestOnlyQuitReachesTheUpstream(t *testing.T) {
	g := newGateway(threeMessages...)
	calls := g.recordCalls()
	c := g.dial(t.Context(), t).logIn()
	for _, command := range []string{"DELE 1", "DELE 2", "LIST 3", "STAT", "UIDL 3", "NOOP"} {
		c.say(command)
		c.line()
	}
	if got, want := calls(), []string{"open", "list"}; !slices.Equal(got, want) {
		t.Errorf("before QUIT the upstream was asked %q, want %q", got, want)
	}
	c.ask("QUIT", "+OK bye, 2 messages removed")
	c.closed()
	if got, want := calls(), []string{"open", "list", "remove"}; !slices.Equal(got, want) {
		t.Errorf("the upstream was asked %q, want %q", got, want)
	}
}

// A client that resets the connection in the middle of a message.
func TestFaultC1ResetInMidMessage(t *testing.T) {
	g := newGateway(upstreamtest.Letter(1, 32<<20), threeMessages[0])
	c := g.dialTCP(t.Context(), t).logIn()
	c.ask("DELE 2", "+OK message 2 marked as deleted")
	c.say("RETR 1")
	c.line()
	c.reset()
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the session goes on after a reset")
	}
	if got := g.summary(t); got.Reason != "disconnect" || got.Retrieved != 0 {
		t.Errorf("ended by %q, %d retrieved; want disconnect and none", got.Reason, got.Retrieved)
	}
	if got := len(g.box.Messages(t)); got != 2 {
		t.Errorf("%d messages left, want 2", got)
	}
	g.allClosed(t)
}

// What is not the complete line QUIT after DELE removes nothing.
func TestFaultC5C6C10NothingIsRemovedWithoutQuit(t *testing.T) {
	for name, sent := range map[string]string{
		"DELE":                 "DELE 1\r\nDELE 2\r\n",
		"half a QUIT":          "DELE 1\r\nQUI",
		"QUIT without an end":  "DELE 1\r\nQUIT",
		"QUIT with half a end": "DELE 1\r\nQUIT\r",
		"RSET":                 "DELE 1\r\nRSET\r\nQUIT\r\n",
		"QUIT with more":       "DELE 1\r\nQUIT now\r\n",
		"QUIT with NUL":        "DELE 1\r\nQUIT\x00\r\n",
		"QUIT in a long line":  "DELE 1\r\n" + strings.Repeat("x", 20000) + "\r\nQUIT\r\n",
	} {
		g := newGateway(threeMessages...)
		calls := g.recordCalls()
		c := g.dialTCP(t.Context(), t).logIn()
		c.send(sent)
		c.Conn.(*net.TCPConn).CloseWrite()
		c.rest()
		g.holds(t, threeMessages...)
		if slices.Contains(calls(), "remove") {
			t.Errorf("%s: the upstream was asked to remove something", name)
		}
		g.allClosed(t)
	}
}

// C7 is testdata/pipelining.txt. Here the octets after QUIT are many, and may
// not make the kernel reset the connection before the client has its replies.
func TestFaultC7LastReplySurvivesUnreadOctets(t *testing.T) {
	g := newGateway(threeMessages...)
	c := g.dialTCP(t.Context(), t).logIn()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.send("DELE 1\r\nQUIT\r\n" + strings.Repeat("DELE 2\r\n", 10000))
	c.hear("+OK message 1 marked as deleted", "+OK bye, 1 message removed")
	c.closed()
	g.holds(t, threeMessages[1:]...)
}

// Ten megabytes without a line end are answered at the limit.
func TestFaultC9EndlessLine(t *testing.T) {
	g := newGateway(threeMessages...)
	c := g.dialTCP(t.Context(), t).logIn()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		c.Write([]byte(strings.Repeat("DELE 1 ", 10<<20/7)))
	}()
	c.hear("-ERR line too long")
	c.Close()
	<-wrote
	<-c.done
	if got := g.summary(t).Reason; got != "errors" {
		t.Errorf("ended by %q, want errors", got)
	}
	if got := len(g.log.String()); got > 4000 {
		t.Errorf("%d octets of log, want less than 4000", got)
	}
}

// Once QUIT is complete, the client is not needed any more.
func TestFaultC11ResetAfterQuit(t *testing.T) {
	g := newGateway(threeMessages...)
	removing, gone := make(chan struct{}), make(chan struct{})
	g.box.Break(upstreamtest.Faults{Wait: func(_ context.Context, call string) {
		if call == "remove" {
			close(removing)
			<-gone
		}
	}})
	c := g.dialTCP(t.Context(), t).logIn()
	c.ask("DELE 2", "+OK message 2 marked as deleted")
	c.say("QUIT")
	<-removing
	c.reset()
	close(gone)
	<-c.done
	g.holds(t, threeMessages[0], threeMessages[2])
	if got := g.summary(t); got.Reason != "quit" || got.Removed != 1 {
		t.Errorf("ended by %q, %d removed; want quit and 1", got.Reason, got.Removed)
	}
}

// TestUnsentMessageIsNotRemoved: RETR, DELE and QUIT in one go by a client that
// is not there to receive the message.
func TestUnsentMessageIsNotRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(threeMessages...)
		c := g.dial(t.Context(), t).logIn()
		c.send("RETR 1\r\nDELE 1\r\nQUIT\r\n")
		<-c.done // since nothing is read
		g.holds(t, threeMessages...)
		if got := g.summary(t); got.Reason != "slow" || got.Retrieved != 0 {
			t.Errorf("ended by %q, %d retrieved; want slow and none", got.Reason, got.Retrieved)
		}
		g.allClosed(t)
	})
}

// Without a lock, each session removes what it marked, by name, and each
// numbering stays what it was.
func TestFaultC12TwoSessionsWithoutALock(t *testing.T) {
	g := newGateway(threeMessages...)
	one, two := g.dial(t.Context(), t).logIn(), g.dial(t.Context(), t).logIn()
	one.ask("DELE 1", "+OK message 1 marked as deleted")
	one.ask("QUIT", "+OK bye, 1 message removed")
	one.closed()
	two.ask("RETR 1", "-ERR message is gone")
	two.ask("UIDL 2", "+OK 2 m2")
	two.ask("DELE 1", "+OK message 1 marked as deleted")
	two.ask("DELE 2", "+OK message 2 marked as deleted")
	two.ask("QUIT", "+OK bye, 2 messages removed")
	two.closed()
	g.holds(t, threeMessages[2])
}

// TestMessageThatBreaksOffNeverLooksWhole: once part of it was sent, there is
// no way but to close, and no final dot.
func TestMessageThatBreaksOffNeverLooksWhole(t *testing.T) {
	raw := "Subject: dots\r\n\r\n" + strings.Repeat(".\r\n", 40000)
	for _, command := range []string{"RETR 1", "TOP 1 50000"} {
		for cut := 2*chunkOctets - 40; cut < 2*chunkOctets; cut++ {
			g := newGateway(raw, threeMessages[0])
			g.box.Break(upstreamtest.Faults{Cut: map[int]int{0: cut}})
			c := g.dial(t.Context(), t).logIn()
			c.ask("DELE 2", "+OK message 2 marked as deleted")
			go c.Write([]byte(command + "\r\nQUIT\r\n"))
			got := c.rest()
			if !strings.HasPrefix(got, "+OK") || strings.Contains(got, "\r\n.\r\n") || strings.HasSuffix(got, "\r\n.") {
				t.Errorf("%s cut at %d: got the end %q, want +OK and no end", command, cut, got[max(0, len(got)-20):])
			}
			if got := g.summary(t); got.Reason != "upstream" || got.Retrieved != 0 || !errors.Is(got.Err, io.ErrUnexpectedEOF) {
				t.Errorf("%s cut at %d: got %+v, want upstream, none retrieved, unexpected EOF", command, cut, got)
			}
			g.holds(t, raw, threeMessages[0])
		}
	}
}

// TestTopOfAFetchStopsReading: a maildrop may deliver more than was asked for,
// and what is behind the cut may even be broken.
func TestTopOfAFetchStopsReading(t *testing.T) {
	g := newGateway(threeMessages...)
	r := &overdelivery{}
	g.Authenticator = authenticatorFunc(func(ctx context.Context, c Credentials) (Login, error) {
		d, err := g.box.Open(ctx, g.box.Account())
		return Login{Maildrop: overdelivering{d, r}}, err
	})
	c := g.dial(t.Context(), t).logIn()
	c.ask("TOP 1 2", "+OK top of message follows", "Subject: endless", "", "..", "..", ".")
	c.ask("QUIT", "+OK bye")
	c.closed()
	if r.reads != 1 || !r.closed {
		t.Errorf("%d reads, closed %v; want 1 and true", r.reads, r.closed)
	}
}

type authenticatorFunc func(context.Context, Credentials) (Login, error)

func (f authenticatorFunc) Authenticate(ctx context.Context, c Credentials) (Login, error) {
	return f(ctx, c)
}

type overdelivering struct {
	upstream.Maildrop
	r *overdelivery
}

func (d overdelivering) Top(context.Context, int, int) (io.ReadCloser, error) { return d.r, nil }

type overdelivery struct {
	reads  int
	closed bool
}

func (r *overdelivery) Read(p []byte) (int, error) {
	if r.reads++; r.reads > 1 {
		return 0, errors.New("read on after the cut")
	}
	return copy(p, "Subject: endless\n\n"+strings.Repeat(".\n", 100)), nil
}

func (r *overdelivery) Close() error { r.closed = true; return nil }

// A panic ends its own session, tells the log where it was and nothing of
// what was being said, and gives the maildrop back.
func TestFaultH4PanicEndsOneSessionOnly(t *testing.T) {
	for _, where := range []string{"authenticate", "list"} {
		g := newGateway(threeMessages...)
		other := g.dial(t.Context(), t).logIn()
		g.panics = where
		c := g.dial(t.Context(), t)
		c.hear("+OK POP3 server ready")
		c.ask("USER bob", "+OK send the password")
		c.say("PASS " + testPassword)
		c.closed()
		g.endedByPanic(t)
		other.ask("STAT", "+OK 3 95")
		other.ask("QUIT", "+OK bye")
		other.closed()
		g.allClosed(t)
		log := g.log.String()
		if !strings.Contains(log, "session panicked") || !strings.Contains(log, "pop3_test.go") {
			t.Errorf("%s: the log lacks the panic and its stack:\n%s", where, log)
		}
		if strings.Contains(log, testPassword) {
			t.Errorf("%s: the log holds the password", where)
		}
	}
}

func (g *gateway) endedByPanic(t *testing.T) {
	t.Helper()
	if got := g.summary(t).Reason; got != "panic" {
		t.Errorf("ended by %q, want panic", got)
	}
}

// TestPanicInMidMessage: half a message is not sent with what was buffered.
func TestPanicInMidMessage(t *testing.T) {
	g := newGateway(threeMessages...)
	g.box.Break(upstreamtest.Faults{Wait: func(_ context.Context, call string) {
		if call == "read" {
			panic("read")
		}
	}})
	c := g.dial(t.Context(), t).logIn()
	c.say("RETR 1")
	c.closed()
	g.endedByPanic(t)
	g.allClosed(t)
}

// TestRemoveThatPromisesTooMuch: the count is believed only where it can be.
func TestRemoveThatPromisesTooMuch(t *testing.T) {
	for _, c := range []struct {
		removed int
		err     error
		want    string
	}{
		{2, nil, "+OK bye, 2 messages removed"},
		{1, nil, "-ERR [SYS/TEMP] 1 of 2 deleted messages not removed"},
		{9, nil, "+OK bye, 2 messages removed"},
		{-1, upstream.ErrUnavailable, "-ERR [SYS/TEMP] 2 of 2 deleted messages not removed"},
		{2, upstream.ErrUnavailable, "-ERR [SYS/TEMP] removal not confirmed"},
		{1, upstream.ErrChanged, "-ERR [SYS/TEMP] 1 of 2 deleted messages not removed"},
		{1, fmt.Errorf("%w: %w", upstream.ErrRejected, upstream.ErrUnavailable), "-ERR [SYS/PERM] 1 of 2 deleted messages not removed"},
		{0, upstream.ErrAuth, "-ERR [SYS/TEMP] 2 of 2 deleted messages not removed"},
		{0, upstream.ErrGone, "-ERR [SYS/TEMP] 2 of 2 deleted messages not removed"},
	} {
		g := newGateway(threeMessages...)
		g.Authenticator = authenticatorFunc(func(ctx context.Context, _ Credentials) (Login, error) {
			d, err := g.box.Open(ctx, g.box.Account())
			return Login{Maildrop: removing{d, c.removed, c.err}}, err
		})
		s := g.dial(t.Context(), t).logIn()
		s.ask("DELE 1", "+OK message 1 marked as deleted")
		s.ask("DELE 3", "+OK message 3 marked as deleted")
		s.ask("QUIT", c.want)
		s.closed()
	}
}

// removing answers Remove as it was told.
type removing struct {
	upstream.Maildrop
	removed int
	err     error
}

func (d removing) Remove(_ context.Context, messages []int) (int, error) {
	if !slices.Equal(messages, []int{0, 2}) {
		return 0, fmt.Errorf("asked to remove %v, want [0 2]", messages)
	}
	return d.removed, d.err
}

// TestMaildropIsFreeBeforeTheAnswerToQuit: a client may come back at once.
func TestMaildropIsFreeBeforeTheAnswerToQuit(t *testing.T) {
	for _, command := range []string{"NOOP", "DELE 1"} {
		g := newGateway(threeMessages...)
		c := g.dial(t.Context(), t).logIn()
		c.say(command)
		c.line()
		c.say("QUIT")
		if got, err := c.lines.ReadByte(); got != '+' || err != nil {
			t.Fatalf("got %q, %v; want +OK", got, err)
		}
		g.allClosed(t)
		c.rest()
	}
}

// TestRepliesGoOutTogether: a small message and its +OK are one write, and so
// are the replies to commands that came together.
func TestRepliesGoOutTogether(t *testing.T) {
	g := newGateway(threeMessages...)
	here, there := net.Pipe()
	counted := &countedConn{Conn: there}
	c := g.serve(t.Context(), t, here, counted).logIn()
	before := counted.writes.Load()
	c.ask("RETR 1", "+OK 23 octets", "Subject: one", "", "first", ".")
	c.send("DELE 1\r\nDELE 2\r\nRETR 3\r\nSTAT\r\n")
	c.hear("+OK message 1 marked as deleted", "+OK message 2 marked as deleted",
		"+OK 27 octets", "Subject: three", "", "1", "2", "3", ".", "+OK 1 27")
	if got := counted.writes.Load() - before; got != 2 {
		t.Errorf("%d writes, want 2", got)
	}
}

// TestOctetsAreThoseSent: what was taken back, because the upstream failed before
// anything of it had left, does not count; half of a large message does.
func TestOctetsAreThoseSent(t *testing.T) {
	large := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("x", 98)+"\r\n", 1000)
	g := newGateway(threeMessages[0], threeMessages[1], large)
	g.box.Break(upstreamtest.Faults{Cut: map[int]int{1: 20, 2: 2*chunkOctets + 100}})
	c := g.dial(t.Context(), t).logIn()
	c.ask("RETR 2", "-ERR [SYS/TEMP] mail server is not available now")
	c.ask("TOP 1 0", "+OK top of message follows", "Subject: one", "", ".")
	c.send("RETR 3\r\n")
	got := int64(len(c.rest()) - len(fmt.Sprintf("+OK %d octets\r\n", len(large))))
	want := int64(len("Subject: one\r\n\r\n")) + got
	if s := g.summary(t); s.Octets != want || s.Retrieved != 0 {
		t.Errorf("counted %d octets and %d messages, want %d and none", s.Octets, s.Retrieved, want)
	}
	if got < chunkOctets {
		t.Errorf("only %d octets of the large message came, want a chunk at least", got)
	}
}

// TestIdleSessionHoldsNoChunk: memory is for sessions that do something.
func TestIdleSessionHoldsNoChunk(t *testing.T) {
	s := newSession(&Server{}, &countedConn{Conn: nopConn{}})
	s.wire.out.WriteString("+OK\r\n")
	s.wire.out.flush()
	if s.wire.out.buf != nil {
		t.Error("the session holds a chunk after it was sent")
	}
	if s.marks.bits != nil {
		t.Error("the session holds marks before any DELE")
	}
}

// A countedConn counts writes.
type countedConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A nopConn takes everything.
type nopConn struct{ net.Conn }

func (nopConn) Write(p []byte) (int, error)      { return len(p), nil }
func (nopConn) SetWriteDeadline(time.Time) error { return nil }
func (nopConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// TestFailuresUpstreamAreWarnedOfOnce: an operator sees the first, with its
// cause, and a client that repeats its command does not flood the log.
func TestFailuresUpstreamAreWarnedOfOnce(t *testing.T) {
	g := newGateway(threeMessages...)
	g.Log = slog.New(slog.NewTextHandler(&g.log, nil)) // Info and above
	g.box.Break(upstreamtest.Faults{Fetch: map[int]error{0: upstream.ErrGone, 1: errors.New("upstream: NO [SERVERBUG] oops")}})
	c := g.dial(t.Context(), t).logIn()
	c.ask("RETR 1", "-ERR message is gone")
	c.ask("RETR 9", "-ERR no such message, maildrop has 3 messages")
	if log := g.log.String(); log != "" {
		t.Errorf("logged what is no trouble:\n%s", log)
	}
	for range 5 {
		c.ask("RETR 2", "-ERR [SYS/TEMP] mail server is not available now")
	}
	log := g.log.String()
	if got := strings.Count(log, "SERVERBUG"); got != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "account=bob") {
		t.Errorf("got %d lines of the failure, want one at WARN with the account:\n%s", got, log)
	}
}

// What is no line of POP3 is refused, and a client that goes on so is let go.
func TestFaultC9OddOctets(t *testing.T) {
	for name, line := range map[string]string{
		"NUL": "DELE \x001\r\n", "bare CR": "DELE\r 1\r\n", "8-bit": "D\xc9L\xc9 1\r\n", "only NULs": strings.Repeat("\x00", 200) + "\r\n",
	} {
		g := newGateway(threeMessages...)
		c := g.dialTCP(t.Context(), t).logIn()
		go c.Write([]byte(strings.Repeat(line, 1000)))
		got := strings.SplitAfter(c.rest(), "\r\n")
		if n := len(got) - 1; n != 20 || strings.Count(strings.Join(got, ""), "-ERR ") != 20 {
			t.Errorf("%s: got %d answers, the last %q, want 20 times -ERR and the end", name, n, got[max(0, n-1)])
		}
		if got := g.summary(t).Reason; got != "errors" {
			t.Errorf("%s: ended by %q, want errors", name, got)
		}
		if got := len(g.log.String()); got > 20_000 {
			t.Errorf("%s: %d octets of log, want less than 20,000", name, got)
		}
		g.holds(t, threeMessages...)
	}
}
