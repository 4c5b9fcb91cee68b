package pop3

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// skip reads a multi-line reply to its end.
func (c *client) skip(command string) {
	c.t.Helper()
	c.say(command)
	for c.line() != "." {
	}
}

// TestReadMessagesAreMarkedAtQuit: those that RETR sent whole and DELE did not
// remove, and only if the client said QUIT.
func TestReadMessagesAreMarkedAtQuit(t *testing.T) {
	for name, test := range map[string]struct {
		dialogue func(c *client)
		want     []int
	}{
		"retrieved":          {func(c *client) { c.skip("RETR 1"); c.skip("RETR 3"); c.ask("QUIT", "+OK bye") }, []int{0, 2}},
		"retrieved twice":    {func(c *client) { c.skip("RETR 1"); c.skip("RETR 1"); c.ask("QUIT", "+OK bye") }, []int{0}},
		"in one packet":      {func(c *client) { c.send("RETR 2\r\nQUIT\r\n"); io.Copy(io.Discard, c.lines) }, []int{1}},
		"only the beginning": {func(c *client) { c.skip("TOP 1 0"); c.ask("QUIT", "+OK bye") }, nil},
		"removed": {func(c *client) {
			c.skip("RETR 1")
			c.skip("RETR 2")
			c.ask("DELE 1", "+OK message 1 marked as deleted")
			c.ask("QUIT", "+OK bye, 1 message removed")
		}, []int{1}},
		"removed and reset": {func(c *client) {
			c.skip("RETR 1")
			c.ask("DELE 1", "+OK message 1 marked as deleted")
			c.ask("RSET", "+OK maildrop has 3 messages (95 octets)")
			c.ask("QUIT", "+OK bye")
		}, []int{0}},
		"no QUIT":   {func(c *client) { c.skip("RETR 1") }, nil},
		"half QUIT": {func(c *client) { c.skip("RETR 1"); c.send("QUIT\r") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(threeMessages...)
			c := g.dial(t.Context(), t).logIn()
			test.dialogue(c)
			c.Close()
			<-c.done
			var want []string
			for _, i := range test.want {
				want = append(want, threeMessages[i])
			}
			if got := g.box.Seen(); !slices.Equal(got, want) {
				t.Errorf("marked as read: %q, want %q", got, want)
			}
			g.allClosed(t)
		})
	}
}

// TestNothingReadIsNotMarked: a session that read nothing does not make the
// upstream wait for a call.
func TestNothingReadIsNotMarked(t *testing.T) {
	g := newGateway(threeMessages...)
	var calls []string
	g.box.Break(upstreamtest.Faults{Wait: func(_ context.Context, call string) { calls = append(calls, call) }})
	c := g.dial(t.Context(), t).logIn()
	c.ask("DELE 2", "+OK message 2 marked as deleted")
	c.ask("QUIT", "+OK bye, 1 message removed")
	c.closed()
	if got, want := strings.Join(calls, " "), "open list remove"; got != want {
		t.Errorf("upstream was asked for %s, want %s", got, want)
	}
}

// unmarkable fails to mark messages as read.
type unmarkable struct{ *gateway }

func (u unmarkable) Authenticate(ctx context.Context, c Credentials) (Login, error) {
	login, err := u.gateway.Authenticate(ctx, c)
	login.Maildrop = unmarkableDrop{login.Maildrop}
	return login, err
}

type unmarkableDrop struct{ upstream.Maildrop }

func (unmarkableDrop) MarkSeen(context.Context, []int) error { return errors.New("no such flag") }

// TestMarkingFailsAlone: QUIT tells of what it removed, and of nothing else.
func TestMarkingFailsAlone(t *testing.T) {
	g := newGateway(threeMessages...)
	g.Authenticator = unmarkable{g}
	c := g.dial(t.Context(), t).logIn()
	c.skip("RETR 1")
	c.ask("DELE 2", "+OK message 2 marked as deleted")
	c.ask("QUIT", "+OK bye, 1 message removed")
	c.closed()
	g.holds(t, threeMessages[0], threeMessages[2])
	if log := g.log.String(); !strings.Contains(log, "level=WARN msg=\"messages not marked as read\"") || !strings.Contains(log, "no such flag") {
		t.Errorf("log does not warn:\n%s", log)
	}
	if got := g.summary(t); got.Err != nil || got.Reason != "quit" {
		t.Errorf("session ended by %q, %v; want quit and no error", got.Reason, got.Err)
	}
}

// TestMarkingDoesNotHoldUpQuit for longer than its own time.
func TestMarkingDoesNotHoldUpQuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(threeMessages...)
		g.box.Break(upstreamtest.Faults{Wait: func(ctx context.Context, call string) {
			if call == "seen" {
				<-ctx.Done()
			}
		}})
		c := g.dial(t.Context(), t).logIn()
		c.skip("RETR 1")
		began := time.Now()
		c.ask("QUIT", "+OK bye")
		if took := time.Since(began); took != seenTime {
			t.Errorf("QUIT answered after %v, want %v", took, seenTime)
		}
		c.closed()
	})
}

// TestChangedMailboxIsNotMarked: the names of its messages mean nothing any more.
func TestChangedMailboxIsNotMarked(t *testing.T) {
	g := newGateway(threeMessages...)
	c := g.dial(t.Context(), t).logIn()
	c.skip("RETR 1")
	g.box.Break(upstreamtest.Faults{Remove: upstream.ErrChanged})
	c.ask("DELE 2", "+OK message 2 marked as deleted")
	c.ask("QUIT", "-ERR [SYS/TEMP] mailbox changed, nothing removed")
	c.closed()
	if got := g.box.Seen(); got != nil {
		t.Errorf("marked as read: %q, want nothing", got)
	}
}
