package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/cmd/internal/config"
)

// TestFaultH14LogWithoutReader: when standard error is a pipe that nobody reads, and
// when its reader goes away, sessions go on and the process ends in order.
func TestFaultH14LogWithoutReader(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 1)
	p := ourselves("serve", "--config", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
log: {level: debug}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
`, server.address))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { p.Process.Kill(); r.Close() })
	var at []string
	log := bufio.NewReader(r)
	for line := ""; !strings.Contains(line, "started"); {
		if line, err = log.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		at = append(at, addressesIn(line)...)
	}

	c := dialPOP(t, at[0], nil)
	c.login("ann", "a", "+OK")
	noops := func() { // each a line of the log, at this level
		t.Helper()
		if _, err := c.W.WriteString(strings.Repeat("NOOP\r\n", 1000)); err != nil {
			t.Fatal(err)
		}
		if err := c.W.Flush(); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			c.expect("+OK")
		}
	}
	dropped := func() (n int) {
		t.Helper()
		_, metrics := get(t, "http://"+at[1]+"/metrics")
		_, rest, _ := strings.Cut(metrics, "\npostern_log_lines_dropped_total ")
		fmt.Sscan(rest, &n)
		return n
	}
	for i := 0; dropped() == 0; i++ {
		if i == 100 {
			t.Fatal("no line was dropped after 100,000 commands")
		}
		noops()
	}
	if status, _ := get(t, "http://"+at[1]+"/readyz"); status != http.StatusOK {
		t.Errorf("readyz with a log that nobody reads: %d, want 200", status)
	}
	before := dropped()
	var line string
	for !strings.Contains(line, "log lines dropped") {
		if line, err = log.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if want := fmt.Sprintf("level=WARN msg=\"log lines dropped\" lines=%d\n", before); !strings.HasSuffix(line, want) {
		t.Errorf("line %q, want %q", line, want)
	}

	r.Close()
	noops()
	if after := dropped(); after <= before {
		t.Errorf("dropped after the reader went away: %d, want more than %d", after, before)
	}
	c.say("QUIT", "+OK")
	p.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the process ended with %v, want exit code 0", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the process does not end")
	}
}

// TestLogDurations: what reads the log has units, or is told of them.
func TestLogDurations(t *testing.T) {
	for format, want := range map[string]string{"text": " dur=1.5ms", "json": `,"dur":0.0015}`} {
		var log bytes.Buffer
		newLogger(&log, config.Log{Level: "info", Format: format}).Info("session ended", "dur", 1500*time.Microsecond)
		if got := strings.TrimSpace(log.String()); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want it to end with %s", format, got, want)
		}
	}
}

// TestEndWithBlockedLog: the end of the process does not wait for its reader.
func TestEndWithBlockedLog(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: "127.0.0.1:1", tls: off}}
routes: [{user: "*", upstream: office}]
state: {path: /dev/null/nowhere}
`)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fillPipe(t, w)
	p := ourselves("serve", "--config", path)
	p.Stderr = w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended := make(chan struct{})
	go func() { p.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		p.Process.Kill()
		t.Fatal("the process does not end")
	}
	if code := p.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("exit code %d, want 1", code)
	}
}

// fillPipe writes to a pipe until it takes no more.
func fillPipe(t *testing.T, w *os.File) {
	t.Helper()
	if err := w.SetWriteDeadline(time.Now().Add(time.Second / 10)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}
