package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Under the running gateway, every file comes to be as if its disk were full or
// read-only: the state, the cache and the log. What removes is refused, what
// reads goes on, lines of the log are dropped and counted; and once there is
// room again, nothing has to be done.
func TestFaultH5NothingCanBeWritten(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 3)
	p := ourselves("serve", "--config", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
upstreams: {there: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: there}]
`, server.address))
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.Stderr = log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	at := awaitAddresses(t, log.Name())
	metric := func(name string) (n int) {
		t.Helper()
		_, page := get(t, "http://"+at[1]+"/metrics")
		_, rest, found := strings.Cut(page, "\n"+name+" ")
		if _, err := fmt.Sscan(rest, &n); !found || err != nil {
			t.Errorf("no metric %s", name)
		}
		return n
	}
	session := func(quit string) {
		t.Helper()
		c := dialPOP(t, at[0], nil)
		c.login("ann", "a", "+OK")
		c.retrieve(1)
		c.mark(1)
		c.leave(quit)
	}

	mayWrite(t, p.Process.Pid, 0)
	session("-ERR [SYS/TEMP] 1 of 1 deleted messages not removed")
	session("-ERR [SYS/TEMP] 1 of 1 deleted messages not removed")
	if n := server.messages(t, "ann"); n != 3 {
		t.Errorf("%d messages left, want all 3", n)
	}
	if n := metric(`postern_removal_journal_failed_total{upstream="there"}`); n < 2 {
		t.Errorf("failures of the journal: got %d, want 2 at least", n)
	}
	if n := metric("postern_log_lines_dropped_total"); n == 0 {
		t.Error("lines of the log dropped: got none, want some")
	}

	mayWrite(t, p.Process.Pid, unix.RLIM_INFINITY)
	session("+OK")
	if n := server.messages(t, "ann"); n != 2 {
		t.Errorf("%d messages left, want 2", n)
	}
	text, err := os.ReadFile(log.Name())
	if err != nil || !strings.Contains(string(text), "log lines dropped") {
		t.Errorf("the log does not tell that lines are missing (%v):\n%s", err, text)
	}
}

// mayWrite sets how long a file may become that a process writes to.
func mayWrite(t *testing.T, pid int, octets uint64) {
	t.Helper()
	limit := unix.Rlimit{Cur: octets, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
}

// awaitAddresses waits until a log file tells where postern listens.
func awaitAddresses(t *testing.T, log string) []string {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "started") {
			return addressesIn(string(text))
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("postern does not start:\n%s", text)
		}
	}
}
