package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSIGHUPIsHarmless: the session that is open goes on.
func TestSIGHUPIsHarmless(t *testing.T) {
	t.Parallel()
	p, _, pop, _ := drainable(t)
	c := dialPOP(t, pop, nil)
	c.login("ann", "a", "+OK")
	p.Process.Signal(syscall.SIGHUP)
	p.await(t, "nothing to reload")
	c.say("STAT", "+OK 3 ")
	c.say("QUIT", "+OK")
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestStateOff says at every start what that costs, and serves.
func TestStateOff(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 2)
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
state: off
`, server.address)
	p := spawn(t, "serve", "--config", path)
	at := p.addresses(t)
	if out := p.output(); strings.Count(out, "level=WARN") != 1 || !strings.Contains(out, "state is off: ") {
		t.Errorf("the log does not warn once of the state that is off:\n%s", out)
	}
	for range 2 {
		c := dialPOP(t, at[0], nil)
		c.login("ann", "a", "+OK")
		c.say("DELE 1", "+OK")
		c.say("QUIT", "+OK")
		c.expectEnd()
	}
	if n := server.messages(t, "ann"); n != 0 {
		t.Errorf("%d messages left, want none", n)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "state")); !os.IsNotExist(err) {
		t.Errorf("state is off, and was made all the same: %v", err)
	}
}

// TestFaultH7DamagedStateIsNotServed: it is reported with what to do, and left as it is.
func TestFaultH7DamagedStateIsNotServed(t *testing.T) {
	r := history(t)
	r.store.Close()
	file := filepath.Join(filepath.Dir(r.path), "state", "state.db")
	damaged := []byte(strings.Repeat("not a database. ", 1000))
	if err := os.WriteFile(file, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"serve", "removals --user ann@example.org"} {
		code, out, errors := r.run(strings.Fields(command)...)
		if code != exitFailed || !strings.Contains(errors, "damaged") || !strings.Contains(errors, "Restore it from a backup") {
			t.Errorf("%s: exit code %d, %s; want 1 and what to do", command, code, out+errors)
		}
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != string(damaged) {
		t.Errorf("the damaged file was changed: %v", err)
	}
}

// TestOneServerToAState: a second one is refused, and the first goes on.
func TestOneServerToAState(t *testing.T) {
	r := remember(t, nowhere)
	r.store.Close()
	p := spawn(t, "serve", "--config", r.path)
	p.await(t, "started")
	code, _, errors := r.run("serve")
	if code != exitFailed || !strings.Contains(errors, "state in ") {
		t.Errorf("exit code %d, %s; want 1 and that the state is in use", code, errors)
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code of the first %d, want 0", code)
	}
}
