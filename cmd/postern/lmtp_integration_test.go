package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// receiveMail takes what a client passes on by LMTP (RFC 2033), always to one
// recipient, and writes it to files in dir, with LF line endings. It returns its
// port, and serves until the test ends.
func receiveMail(t testing.TB, dir string) (port string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go receive(textproto.NewConn(conn), dir)
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

var received atomic.Int64

func receive(conn *textproto.Conn, dir string) {
	defer conn.Close()
	conn.PrintfLine("220 ready")
	for {
		line, err := conn.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "DATA":
			conn.PrintfLine("354 go on")
			text, err := conn.ReadDotBytes()
			if err != nil {
				return
			}
			path := filepath.Join(dir, fmt.Sprint(received.Add(1)))
			if err := os.WriteFile(path, text, 0o600); err != nil {
				conn.PrintfLine("451 %v", err)
				continue
			}
			conn.PrintfLine("250 taken")
		case "QUIT":
			conn.PrintfLine("221 bye")
			return
		case "LHLO":
			conn.PrintfLine("250-localhost\r\n250 8BITMIME")
		default:
			conn.PrintfLine("250 fine")
		}
	}
}

// batch returns the messages in a file of SMTP commands (RFC 2442). One that
// breaks off before its final dot is none.
func batch(commands []byte) (messages []string) {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(commands)))
	for {
		line, err := r.ReadLine()
		if err != nil {
			return messages
		}
		if line != "DATA" {
			continue
		}
		text, err := r.ReadDotBytes()
		if err != nil {
			return messages
		}
		messages = append(messages, string(text))
	}
}
