package imapc

import (
	"strings"
	"testing"
	"time"

	"postern/upstream"
)

// A server whose greeting does not tell its capabilities is asked for them once.
func TestCapabilitiesAreAskedForOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.code = "[CAPABILITY " + f.caps + "] "
		u := f.upstream()
		for n := range 4 {
			wantPoll(t, f, u, 4, n+1)
			if got := len(f.sent("CAPABILITY")); got != 1 {
				t.Errorf("login %d: asked %d times, want once", n+1, got)
			}
		}
		time.Sleep(foreknownFor + time.Minute)
		wantPoll(t, f, u, 4, 5)
		if got := len(f.sent("CAPABILITY")); got != 2 {
			t.Errorf("an hour later: asked %d times, want twice", got)
		}
	})
}

// A server that has changed meanwhile is asked again, and nobody's password is
// blamed for it.
func TestForeknowledgeThatIsWrong(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.code = "[CAPABILITY IMAP4rev1 UIDPLUS] "
		f.fault = func(c *fakeConn, command string) bool {
			if disabled := strings.Contains(f.caps, "LOGINDISABLED"); disabled && strings.HasPrefix(command, "LOGIN") {
				c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
				return true
			}
			if strings.HasPrefix(command, "AUTHENTICATE PLAIN") {
				c.say("+ ")
				c.line()
				c.ok("[CAPABILITY IMAP4rev1 UIDPLUS] logged in")
				return true
			}
			return false
		}
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		f.caps = "IMAP4rev1 LOGINDISABLED AUTH=PLAIN"
		_, err := f.poll(u, "")
		wantError(t, "login by what was offered before", err, upstream.ErrUnavailable)
		wantPoll(t, f, u, 4, 3)
		wantPoll(t, f, u, 4, 4)
	})
}

// A wrong password is one, also where the capabilities are presumed.
func TestWrongPasswordWithForeknowledge(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		right := password
		f.fault = refuseOthers(&right)
		u := f.upstream()
		wantPoll(t, f, u, 4, 1)
		for range 2 {
			_, err := f.poll(u, "wrong")
			wantError(t, "wrong password", err, upstream.ErrAuth)
		}
		wantPoll(t, f, u, 4, 4)
	})
}
