package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// A popClient is a POP3 client that does as it is told.
type popClient struct {
	t *testing.T
	*textproto.Conn
}

// dialPOP connects and reads the greeting.
func dialPOP(t *testing.T, address string, config *tls.Config) popClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	if config != nil {
		conn = tls.Client(conn, config)
	}
	c := popClient{t, textproto.NewConn(conn)}
	t.Cleanup(func() { c.Close() })
	c.expect("+OK")
	return c
}

// say sends a command and wants an answer that begins like that.
func (c popClient) say(command, want string) {
	c.t.Helper()
	if err := c.PrintfLine("%s", command); err != nil {
		c.t.Fatalf("%s: %v", command, err)
	}
	c.expect(want)
}

func (c popClient) expect(want string) {
	c.t.Helper()
	if got, err := c.ReadLine(); err != nil || !strings.HasPrefix(got, want) {
		c.t.Fatalf("answer %q, %v; want %q", got, err, want)
	}
}

// login logs in with USER and PASS.
func (c popClient) login(user, password, want string) {
	c.t.Helper()
	c.say("USER "+user, "+OK")
	c.say("PASS "+password, want)
}

// expectEnd wants the connection to be closed.
func (c popClient) expectEnd() {
	c.t.Helper()
	if line, err := c.ReadLine(); err != io.EOF {
		c.t.Fatalf("%q, %v; want the connection closed", line, err)
	}
}

// lines returns the lines of a command's answer.
func (c popClient) lines(command string) []string {
	c.t.Helper()
	c.say(command, "+OK")
	all, err := c.ReadDotLines()
	if err != nil {
		c.t.Fatalf("%s: %v", command, err)
	}
	return all
}

// retrieve reads a message.
func (c popClient) retrieve(number int) {
	c.t.Helper()
	c.say(fmt.Sprint("RETR ", number), "+OK")
	if _, err := c.ReadDotBytes(); err != nil {
		c.t.Fatal(err)
	}
}

// mark marks messages.
func (c popClient) mark(numbers ...int) {
	c.t.Helper()
	for _, n := range numbers {
		c.say(fmt.Sprint("DELE ", n), "+OK")
	}
}

// leave says QUIT, which must be answered like that and be the end.
func (c popClient) leave(want string) {
	c.t.Helper()
	c.say("QUIT", want)
	c.expectEnd()
}

// quit says QUIT, which must be answered by +OK, and returns when the gateway has
// closed the connection.
func (c popClient) quit() {
	c.t.Helper()
	c.leave("+OK")
}
