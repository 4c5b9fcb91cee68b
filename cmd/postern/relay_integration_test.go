package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A relay stands between a client and the POP3 service under test. It comes
// from an address of its own, so that what one test does wrong slows down no
// other, and can do something at one point of a download.
type relay struct {
	address string

	mu     sync.Mutex
	target string // the service's address
	passed int    // octets to clients so far
	point  int    // when then is due
	then   func() // nil: nothing
	open   map[net.Conn]bool
}

var relays atomic.Int32

// newRelay serves until the test ends.
func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := relays.Add(1)
	from := &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}
	r := &relay{address: l.Addr().String(), target: target, open: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); r.cut() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			service, err := (&net.Dialer{LocalAddr: from}).Dial("tcp4", r.service())
			if err != nil {
				client.Close()
				continue
			}
			r.join(client, service)
		}
	}()
	return r
}

// lead leads connections to another service from now on.
func (r *relay) lead(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

func (r *relay) service() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.target
}

// after has f called once n more octets have gone to clients: what follows
// waits until f returns.
func (r *relay) after(n int, f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.point, r.then = r.passed+n, f
}

// cut resets every connection.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		reset(c)
		delete(r.open, c)
	}
}

func (r *relay) join(client, service net.Conn) {
	r.mu.Lock()
	r.open[client], r.open[service] = true, true
	r.mu.Unlock()
	pass := func(to net.Conn, w io.Writer, from net.Conn) {
		if _, err := io.Copy(w, from); err != nil {
			reset(to, from) // as one side was
			return
		}
		to.(*net.TCPConn).CloseWrite()
	}
	go pass(service, service, client)
	go pass(client, writerFunc(func(p []byte) (int, error) {
		r.due(len(p))
		return client.Write(p)
	}), service)
}

// reset closes connections so that their other ends see no orderly end.
func reset(conns ...net.Conn) {
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// due counts octets on their way to a client.
func (r *relay) due(n int) {
	r.mu.Lock()
	r.passed += n
	f := r.then
	if f != nil && r.passed >= r.point {
		r.then = nil
	} else {
		f = nil
	}
	r.mu.Unlock()
	if f != nil {
		f()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// mustHaveCome checks that the point which after named was reached.
func (r *relay) mustHaveCome(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.then != nil {
		t.Fatalf("only %d octets passed, the test needs %d", r.passed, r.point)
	}
}
