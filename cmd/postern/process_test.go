package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// ourselves is postern with these arguments, not started yet.
func ourselves(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

// A process is postern running by itself.
type process struct {
	*exec.Cmd
	lines chan string   // of standard output and standard error, until they end
	said  chan struct{} // closed when they have

	mu  sync.Mutex
	all strings.Builder // of the same
}

// spawn starts postern. It is killed at the end of the test, if need be.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: ourselves(args...), lines: make(chan string, 10_000), said: make(chan struct{})}
	p.Env = append(p.Env, "TMPDIR="+t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = w, w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { p.Process.Kill(); p.Wait(); r.Close() })
	go func() {
		defer close(p.said)
		defer close(p.lines)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			p.all.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			select {
			case p.lines <- lines.Text():
			default: // nobody is waiting for that many
			}
		}
	}()
	return p
}

// output is all that was printed until now.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// await returns the next line that holds part.
func (p *process) await(t *testing.T, part string) string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("postern ended without saying %q:\n%s", part, p.output())
			}
			if strings.Contains(line, part) {
				return line
			}
		case <-deadline:
			t.Fatalf("postern does not say %q:\n%s", part, p.output())
		}
	}
}

var addressInLog = regexp.MustCompile(`\baddress"?[=:]"?([0-9.:]+)`)

// addresses returns where a process that serves listens, in the order of its
// configuration, the admin listener last.
func (p *process) addresses(t *testing.T) []string {
	t.Helper()
	p.await(t, "started")
	return addressesIn(p.output())
}

// addressesIn returns where postern listens by its log.
func addressesIn(log string) (all []string) {
	for _, m := range addressInLog.FindAllStringSubmatch(log, -1) {
		all = append(all, m[1])
	}
	return all
}

// end waits for the process, and for all that it has printed, and returns its exit
// code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		p.Wait()
		<-p.said
		close(ended)
	}()
	select {
	case <-ended:
		return p.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatalf("postern does not end:\n%s", p.output())
		return 0
	}
}
