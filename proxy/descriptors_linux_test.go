package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fewDescriptors, in the environment, makes the test binary the gateway of
// TestFaultH8OutOfDescriptors.
const fewDescriptors = "POSTERN_TEST_FEW_DESCRIPTORS"

// A process that really has no file descriptors left goes on serving those it
// has let in, and lets others in when some have left.
func TestFaultH8OutOfDescriptors(t *testing.T) {
	if os.Getenv(fewDescriptors) != "" {
		serveWithFewDescriptors(t)
		return
	}
	address := startWithFewDescriptors(t)
	connect := func() *client {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return clientOn(t, conn)
	}
	first := connect()
	first.expect("+OK")
	first.login("ann")
	var others []*client
	waiting := connect()
	for ; greeted(waiting, time.Second); waiting = connect() {
		if others = append(others, waiting); len(others) > 100 {
			t.Fatal("the gateway does not run out of descriptors")
		}
	}
	first.say("STAT", "+OK 1")
	for _, c := range others {
		c.Close()
	}
	next := connect()
	if !greeted(next, 10*time.Second) {
		t.Fatal("nobody was let in after others had left")
	}
	next.login("bob")
	first.say("QUIT", "+OK")
}

// greeted tells whether the client is greeted within d.
func greeted(c *client, d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	defer c.SetReadDeadline(time.Time{})
	return strings.HasPrefix(c.line(), "+OK")
}

// startWithFewDescriptors runs the gateway in a process of its own and returns
// its address. It ends with the test.
func startWithFewDescriptors(t *testing.T) (address string) {
	t.Helper()
	gateway := exec.Command(os.Args[0], "-test.run=^TestFaultH8OutOfDescriptors$")
	gateway.Env = append(os.Environ(), fewDescriptors+"=1")
	stdin, err := gateway.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	t.Cleanup(func() {
		stdin.Close()
		rest, _ := io.ReadAll(lines)
		if err := gateway.Wait(); err != nil {
			t.Errorf("the gateway ended with %v:\n%s", err, rest)
		}
	})
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the gateway did not start: %q, %v", line, err)
	}
	return strings.TrimSpace(line)
}

// serveWithFewDescriptors is the gateway. It ends with its standard input.
func serveWithFewDescriptors(t *testing.T) {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(Options{Authenticator: doorman{}, MaxPerAddress: 1000, Listeners: []Listener{{Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		s.Serve()
		close(over)
	}()
	fmt.Println(s.Addrs()[0])
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: got error %v, want none", err)
	}
	<-over
}
