package pop3

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A step is a line of a transcript.
type step struct {
	at   string // file:line
	kind string // C, S, Given, Then
	text string // C, S: the octets, with their line end
}

func readTranscript(t testing.TB, file string) []step {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	for i, line := range strings.Split(string(text), "\n") {
		kind, rest, _ := strings.Cut(line, ": ")
		at := fmt.Sprintf("%s:%d", file, i+1)
		switch kind {
		case "C", "S":
			if quoted, err := strconv.Unquote(rest); err == nil {
				rest = quoted
			} else {
				rest += "\r\n"
			}
		case "Given", "Then":
		default:
			continue // commentary
		}
		steps = append(steps, step{at, kind, rest})
	}
	return steps
}

func transcripts(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: found %d, %v", len(files), err)
	}
	return files
}

// TestTranscripts plays testdata/*.txt. Lines that begin with C and S are what
// client and server send, exactly; one in Go quotes has no other line end than
// it says. C lines in a row go out together. The client is logged in from the
// start, unless the transcript is Given otherwise.
func TestTranscripts(t *testing.T) {
	for _, file := range transcripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			play(t, readTranscript(t, file))
		})
	}
}

func play(t *testing.T, steps []step) {
	g := newGateway(threeMessages...)
	loggedIn := true
	var faults upstreamtest.Faults
	for _, s := range steps {
		if s.kind != "Given" {
			continue
		}
		if s.text == "nobody is logged in" {
			loggedIn = false
		} else if err := given(g, &faults, s.text); err != nil {
			t.Fatalf("%s: %v", s.at, err)
		}
	}
	g.box.Break(faults)
	c := g.dial(context.Background(), t)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if loggedIn {
		c.logIn()
	}
	for i := 0; i < len(steps); i++ {
		switch s := steps[i]; s.kind {
		case "C":
			batch := s.text
			for ; i+1 < len(steps) && steps[i+1].kind == "C"; i++ {
				batch += steps[i+1].text
			}
			go c.Write([]byte(batch)) // an error shows in what is heard
		case "S":
			got, err := c.lines.ReadString('\n')
			if err != nil || got != s.text {
				t.Fatalf("%s: got %q (%v), want %q", s.at, got, err, s.text)
			}
		case "Then":
			then(t, g, c, s)
		}
	}
}

var faultWords = map[string]error{
	"auth": upstream.ErrAuth, "busy": upstream.ErrBusy, "too soon": upstream.ErrTooSoon,
	"gone": upstream.ErrGone, "unreadable": upstream.ErrUnreadable, "changed": upstream.ErrChanged,
	"rejected": upstream.ErrRejected, "unavailable": upstream.ErrUnavailable,
	"hostile": errors.New("upstream said\r\n.\r\n+OK [AUTH] \x1b[2J\xff"),
}

// given sets up what a transcript takes for granted.
func given(g *gateway, f *upstreamtest.Faults, text string) error {
	what, how, _ := strings.Cut(text, ": ")
	fault := fmt.Errorf("test: %w", faultWords[how])
	var n, octets int
	switch {
	case text == "TLS is available":
		g.TLS = testTLS()
	case text == "login needs TLS":
		g.PlaintextLogin = func(netip.Addr) bool { return false }
	case what == "implementation":
		g.Implementation = how
	case what == "login delay":
		g.LoginDelay, _ = time.ParseDuration(how)
	case what == "mechanisms":
		g.Mechanisms = strings.Fields(how)
	case what == "accounts offer":
		g.offer(strings.Fields(how)...)
	case what == "attempts":
		g.Limits.Attempts, _ = strconv.Atoi(how)
	case what == "errors":
		g.Limits.Errors, _ = strconv.Atoi(how)
	case what == "open fails":
		f.Open = fault
	case what == "list fails":
		f.List = fault
	case what == "remove fails":
		f.Remove = fault
	case scan(what, "remove fails after %d", &n):
		f.Remove, f.RemoveFirst = fault, n
	case scan(what, "message %d fails", &n):
		f.Fetch = map[int]error{n - 1: fault}
	case scan(what, "message %d breaks off after %d octets", &n, &octets):
		f.Cut = map[int]int{n - 1: octets}
		f.Fetch = map[int]error{n - 1: fault}
	case scan(what, "message %d stays", &n):
		f.Removable = map[int]error{n - 1: fault}
	default:
		return fmt.Errorf("not understood: %q", text)
	}
	return nil
}

func scan(text, format string, args ...any) bool {
	n, err := fmt.Sscanf(text, format, args...)
	return err == nil && n == len(args)
}

// then checks what a transcript leads to.
func then(t *testing.T, g *gateway, c *client, s step) {
	t.Helper()
	var n int
	switch {
	case s.text == "closed":
		c.closed()
	case s.text == "TLS":
		c.startTLS()
	case scan(s.text, "%d in the mailbox", &n):
		if got := len(g.box.Messages(t)); got != n {
			t.Errorf("%s: got %d messages in the mailbox, want %d", s.at, got, n)
		}
	case scan(s.text, "%d logins tried", &n):
		g.note(func() {
			if got := len(g.tried); got != n {
				t.Errorf("%s: got %d logins tried, want %d", s.at, got, n)
			}
		})
	default:
		t.Fatalf("%s: not understood: %q", s.at, s.text)
	}
}
