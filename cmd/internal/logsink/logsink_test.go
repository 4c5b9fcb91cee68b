package logsink

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func tell(w io.Writer, lines int) { fmt.Fprintf(w, "lost %d\n", lines) }

// A reader is a destination that can stop taking lines, or fail.
type reader struct {
	gate  chan struct{} // nil, or closed once lines are taken again
	mu    sync.Mutex
	err   error
	lines strings.Builder
}

func (r *reader) Write(p []byte) (int, error) {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	return r.lines.Write(p)
}

func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

func TestEveryLineInOrder(t *testing.T) {
	r := &reader{}
	s := New(r, tell)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 1000 {
				fmt.Fprintf(s, "%d %d\n", w, i)
			}
		})
	}
	writers.Wait()
	s.Close(time.Minute)
	next := make([]int, 8)
	for line := range strings.Lines(r.text()) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d %d\n", &w, &i); err != nil || i != next[w] {
			t.Fatalf("line %q, want number %d of that writer", line, next[w])
		}
		next[w]++
	}
	for w, n := range next {
		if n != 1000 {
			t.Errorf("writer %d: got %d lines, want 1000", w, n)
		}
	}
	if n := s.Dropped(); n != 0 {
		t.Errorf("dropped: got %d, want none", n)
	}
}

// Nobody waits for a destination that takes nothing; what it missed is told
// where it is missing.
func TestBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{})}
		s := New(r, tell)
		fmt.Fprint(s, "under way\n")
		synctest.Wait()
		line := strings.Repeat("x", 1023) + "\n"
		for range maxOctets/len(line) + 5 {
			fmt.Fprint(s, line)
		}
		fmt.Fprint(s, "short, but after the gap\n")
		if n := s.Dropped(); n != 6 {
			t.Errorf("dropped while blocked: got %d, want 6", n)
		}
		close(r.gate)
		synctest.Wait()
		fmt.Fprint(s, "again\n")
		s.Close(0)
		synctest.Wait()
		want := "under way\n" + strings.Repeat(line, maxOctets/len(line)) + "lost 6\nagain\n"
		if got := r.text(); got != want {
			t.Errorf("got %d octets that end in %q, want %d that end in %q", len(got), tail(got), len(want), tail(want))
		}
	})
}

func tail(s string) string { return s[max(0, len(s)-40):] }

// A destination that fails for a while is told what it missed, once it works.
func TestFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{err: errors.New("no space left on device")}
		s := New(r, tell)
		for range 3 {
			fmt.Fprint(s, "missed\n")
			synctest.Wait()
		}
		if n := s.Dropped(); n != 3 {
			t.Errorf("dropped while it failed: got %d, want 3", n)
		}
		r.fail(nil)
		fmt.Fprint(s, "again\n")
		s.Close(0)
		synctest.Wait()
		if got, want := r.text(), "lost 3\nagain\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestLineLargerThanTheBound(t *testing.T) {
	r := &reader{}
	s := New(r, tell)
	fmt.Fprint(s, strings.Repeat("x", maxOctets)+"\n")
	s.Close(time.Minute)
	if got := r.text(); got != "lost 1\n" {
		t.Errorf("got %q, want that one line was lost", got)
	}
}

// Close waits as long as it was told, and no longer; what comes after it is
// dropped.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{})}
		s := New(r, tell)
		fmt.Fprint(s, "never read\n")
		began := time.Now()
		s.Close(2 * time.Second)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("close took %v, want 2 s", took)
		}
		s.Close(0)
		if n, err := fmt.Fprint(s, "late\n"); n != len("late\n") || err != nil {
			t.Errorf("write after close: got %d, %v, want 5 and no error", n, err)
		}
		if n := s.Dropped(); n != 1 {
			t.Errorf("dropped: got %d, want the late line", n)
		}
		close(r.gate)
	})
}

// A pipe of the kernel, as standard error is one: full, then read, then closed.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := New(w, tell)
	line := strings.Repeat("x", 99) + "\n"
	const lines = 50_000
	for range lines {
		fmt.Fprint(s, line)
	}
	dropped := s.Dropped()
	if dropped == 0 {
		t.Fatal("a full pipe cost no line")
	}
	var got strings.Builder
	for part := make([]byte, 1<<16); !strings.Contains(got.String(), "lost "); {
		n, err := r.Read(part)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(part[:n])
	}
	if n, want := strings.Count(got.String(), line), lines-int(dropped); n != want {
		t.Errorf("got %d lines, want %d", n, want)
	}
	r.Close()
	fmt.Fprint(s, "to nobody\n")
	s.Close(time.Minute)
	if n := s.Dropped(); n < dropped+1 {
		t.Errorf("dropped: got %d, want more than %d", n, dropped)
	}
}
