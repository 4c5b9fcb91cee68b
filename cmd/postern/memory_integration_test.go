package main

import (
	"bytes"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
)

// TestMemory tells how much memory the gateway takes in front of Dovecot, by
// IMAP. It judges nothing, since figures differ from machine to machine.
func TestMemory(t *testing.T) {
	if os.Getenv("POSTERN_MEMORY") != "1" {
		t.Skip("it measures, and takes long: make memory")
	}
	d := dovecot.Start(t)
	open := func(t *testing.T) service {
		return gatewayTo(t, d, dovecotAccounts(d), "protocol: imap, address: %q, tls: off", d.IMAP)
	}
	t.Run("IdleSessions", func(t *testing.T) { memoryOfIdleSessions(t, open(t)) })
	t.Run("LargeMessage", func(t *testing.T) { memoryOfLargeMessage(t, open(t)) })
}

func memoryOfIdleSessions(t *testing.T, s service) {
	const sessions = 1000
	idle := func(n int) {
		for range n {
			a := s.account(t)
			c := dialPOP(t, s.address[plaintext], nil)
			c.login(a.user, a.password, "+OK")
			c.say("STAT", "+OK 0 0")
		}
	}
	idle(20) // what is paid once is no session's
	before := s.memory(t, "VmRSS")
	idle(sessions)
	after := s.memory(t, "VmRSS")
	t.Logf("%d idle sessions over plaintext, each with its IMAP connection: %d kB resident before, %d kB after, %.1f kB each",
		sessions, before, after, float64(after-before)/sessions)
}

func memoryOfLargeMessage(t *testing.T, s service) {
	const size = 1 << 30
	a := s.account(t)
	a.Deliver(t, upstreamtest.Letter(1, 1<<20))
	a.Deliver(t, upstreamtest.Letter(2, 1000)+strings.Repeat(strings.Repeat("x", 74)+"\r\n", size/76))
	conn, err := net.Dial("tcp", s.address[plaintext])
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Minute))
	c := popClient{t, textproto.NewConn(conn)}
	t.Cleanup(func() { c.Close() })
	c.expect("+OK")
	c.login(a.user, a.password, "+OK")
	c.discardMessage(1)

	before := s.memory(t, "VmRSS")
	// From here on, VmHWM is the peak (proc_pid_clear_refs(5)).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.process.Process.Pid), []byte("5"), 0); err != nil {
		t.Skip(err)
	}
	began := time.Now()
	octets := c.discardMessage(2)
	t.Logf("a message of %d octets in %v: %d kB resident before, %d kB at the peak, %d kB afterwards",
		octets, time.Since(began).Round(time.Millisecond), before, s.memory(t, "VmHWM"), s.memory(t, "VmRSS"))
}

// discardMessage retrieves a message and returns how long it was on the wire.
// Its last line is the first to consist of one dot.
func (c popClient) discardMessage(n int) (octets int) {
	c.t.Helper()
	c.say(fmt.Sprint("RETR ", n), "+OK")
	buf := make([]byte, 256<<10)
	kept := 0
	for {
		got, err := c.R.Read(buf[kept:])
		if err != nil {
			c.t.Fatalf("after %d octets: %v", octets, err)
		}
		octets += got
		kept += got
		if bytes.HasSuffix(buf[:kept], []byte("\r\n.\r\n")) {
			return octets
		}
		kept = copy(buf, buf[max(0, kept-4):kept])
	}
}

// memory returns a figure of the gateway's process in kB.
func (s service) memory(t *testing.T, field string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(text), field+":")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kB
}
