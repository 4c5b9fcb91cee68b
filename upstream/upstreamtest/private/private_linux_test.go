package private_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/private"
)

// stubborn is a program that does not end when asked to, nor does its child,
// and that has told so before ready is said. Its name is in both command lines.
const stubborn = `trap "" TERM
sh -c 'trap "" TERM; while :; do sleep 1; done' "$0" &
echo ready
while :; do sleep 1; done`

func newServer(t *testing.T) *private.Server {
	t.Helper()
	s, err := private.New("", "private", "mail")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a shell script until it has said ready.
func start(t *testing.T, s *private.Server, script string) {
	t.Helper()
	if err := s.Start(s.Command("/bin/sh", "-c", script, s.Dir)); err != nil {
		t.Fatal(err)
	}
	err := s.Await(t.Context(), func() error {
		if log := s.Log(); !strings.Contains(log, "ready") {
			return fmt.Errorf("it said %q", log)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// groups are the process groups that have a process with dir in its command line.
func groups(t *testing.T, dir string) []int {
	t.Helper()
	var all []int
	each(t, func(pid string, group int) {
		line, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")) // none of a process that has ended
		if strings.Contains(string(line), dir) && !slices.Contains(all, group) {
			all = append(all, group)
		}
	})
	return all
}

// members are the processes of groups.
func members(t *testing.T, groups []int) (pids []string) {
	t.Helper()
	each(t, func(pid string, group int) {
		if slices.Contains(groups, group) {
			pids = append(pids, pid)
		}
	})
	return pids
}

// each calls do for every process that has not ended.
func each(t *testing.T, do func(pid string, group int)) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f)
		_, rest, _ := strings.Cut(string(text), ") ") // state, parent, group: proc(5)
		fields := strings.Fields(rest)
		if len(fields) < 3 || fields[0] == "Z" {
			continue
		}
		group, _ := strconv.Atoi(fields[2])
		do(filepath.Base(filepath.Dir(f)), group)
	}
}

// awaitGone waits until nothing is left of a server.
func awaitGone(t *testing.T, dir string, groups []int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		left := members(t, groups)
		_, err := os.Stat(dir)
		if len(left) == 0 && os.IsNotExist(err) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("processes left: %q; directory: %v", left, err)
		}
	}
}

func TestEndLeavesNothing(t *testing.T) {
	s := newServer(t)
	start(t, s, `echo ready; sleep 1000 & sleep 1000`)
	all := groups(t, s.Dir)
	if got := members(t, all); len(all) != 2 || len(got) < 4 {
		t.Errorf("groups and processes: got %v and %v, want two, and the guard, the program and its two", all, got)
	}
	s.End()
	awaitGone(t, s.Dir, all)
}

// servers start one each, and return its directory.
var servers = map[string]func(t *testing.T) string{
	"stubborn": func(t *testing.T) string {
		s := newServer(t)
		start(t, s, stubborn)
		return s.Dir
	},
	"Dovecot": func(t *testing.T) string { return filepath.Dir(dovecot.Start(t).CAFile) },
	"Cyrus":   func(t *testing.T) string { return filepath.Dir(cyrus.Start(t).CAFile) },
}

const helper = "POSTERN_TEST_PRIVATE_HELPER"

// Whoever started a server may be killed: the server ends all the same, with
// everything it has started, however stubborn.
func TestEndWithWhoeverStartedIt(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(helper) != "" {
				fmt.Println(directory + start(t))
				select {} // to be killed
			}
			dir, groups := killedAfterStart(t)
			awaitGone(t, dir, groups)
		})
	}
}

const directory = "directory: "

// killedAfterStart runs this test in another process, which it kills when the
// server is up. It returns what there was of the server.
func killedAfterStart(t *testing.T) (dir string, all []int) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	c.Env = append(os.Environ(), helper+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); said += lines.Text() + "\n" {
		dir, _ = strings.CutPrefix(lines.Text(), directory)
		if dir == lines.Text() {
			dir = ""
		}
	}
	if dir != "" {
		all = groups(t, dir)
	}
	c.Process.Kill()
	c.Wait()
	switch {
	case os.Getenv("POSTERN_REAL") != "1" && strings.Contains(said, " no "+t.Name()[strings.Index(t.Name(), "/")+1:]+" here"):
		t.Skip(said)
	case dir == "":
		t.Fatalf("the helper started nothing; it said:\n%s", said)
	case len(all) < 2:
		t.Errorf("process groups: got %v, want that of the program and that of its guard", all)
	}
	return dir, all
}

func TestAwaitTellsOfAnEarlyEnd(t *testing.T) {
	s := newServer(t)
	defer s.End()
	if err := s.Start(s.Command("/bin/sh", "-c", "echo no such option >&2; exit 1")); err != nil {
		t.Fatal(err)
	}
	err := s.Await(t.Context(), func() error { return fmt.Errorf("nothing listens") })
	if err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("got error %v, want one with what the program said", err)
	}
}

// A port that is held is nobody else's, and the server's.
func TestHeldPorts(t *testing.T) {
	s := newServer(t)
	defer s.End()
	var a, b string
	if err := s.Hold(&a, &b); err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Fatalf("one port, %s, for two", a)
	}
	for range 2 { // as a server that is started again
		l, err := net.Listen("tcp4", a)
		if err != nil {
			t.Fatalf("the server listens: %v", err)
		}
		if err := private.Greets(a, "", ""); err != nil {
			t.Errorf("connect: got error %v, want none", err)
		}
		l.Close()
	}
	plain := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0) })
	}}
	if l, err := plain.Listen(t.Context(), "tcp4", b); err == nil {
		l.Close()
		t.Error("a held port is free for whoever does not know that it is held")
	}
}
