// Package relay carries TCP connections over a distance that is not there:
// octets arrive half a round-trip time after they were sent, in order, at
// whatever rate the two ends manage. It counts octets and round trips.
//
// Setting up a connection is not delayed: what is added is what the protocol
// inside costs, so that a protocol's round trips can be told from TCP's.
//
// BenchmarkRoundTrip says how true the distance is: 0.4 ms too long at 20 ms
// where there is a processor for it, and longer by what it has to wait for one.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultWindow is how many octets may be under way in one direction of one
// connection: 640 MB/s at a round-trip time of 200 ms.
const DefaultWindow = 64 << 20

// A Relay connects every client of its listener to one server.
type Relay struct {
	to      string
	rtt     atomic.Int64 // time.Duration
	window  int
	bare    bool
	sleeper func() sleeper

	connections, open, roundTrips, up, down atomic.Int64
}

// New returns a relay to a server, host:port, a round-trip time away. At most
// window octets are under way in each direction of a connection; 0 means
// DefaultWindow.
func New(to string, rtt time.Duration, window int) *Relay {
	if window <= 0 {
		window = DefaultWindow
	}
	r := &Relay{to: to, window: window, sleeper: newSleeper}
	r.SetRTT(rtt)
	return r
}

// NewBare returns a relay that copies and does nothing else, neither delay nor
// count: the least that a program between two connections can cost.
func NewBare(to string) *Relay { return &Relay{to: to, bare: true} }

// SetRTT changes the distance, for what is read from now on.
func (r *Relay) SetRTT(rtt time.Duration) { r.rtt.Store(int64(rtt)) }

// due is when something read now is to arrive.
func (r *Relay) due() time.Time { return time.Now().Add(time.Duration(r.rtt.Load()) / 2) }

// Counters are what a Relay saw so far.
type Counters struct {
	Connections int64 `json:"connections"` // accepted
	Open        int64 `json:"open"`
	// RoundTrips counts how often clients spoke after the server had been
	// heard, or for the first time on their connection.
	RoundTrips int64 `json:"round_trips"`
	Up         int64 `json:"octets_to_server"`
	Down       int64 `json:"octets_to_client"`
}

// Counters returns the counters as they are now.
func (r *Relay) Counters() Counters {
	return Counters{r.connections.Load(), r.open.Load(), r.roundTrips.Load(), r.up.Load(), r.down.Load()}
}

// Since returns what was counted between before and c.
func (c Counters) Since(before Counters) Counters {
	return Counters{
		c.Connections - before.Connections, c.Open,
		c.RoundTrips - before.RoundTrips, c.Up - before.Up, c.Down - before.Down,
	}
}

// Serve relays every connection that l accepts until ctx ends, closes l and
// all connections, and waits for their goroutines.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		client, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				client.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		connections.Go(func() { r.serve(ctx, client) })
	}
}

func (r *Relay) serve(ctx context.Context, client net.Conn) {
	r.connections.Add(1)
	r.open.Add(1)
	defer r.open.Add(-1)
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", r.to)
	if err != nil {
		return
	}
	defer server.Close()
	if r.bare {
		r.join(ctx, client.(*net.TCPConn), server.(*net.TCPConn))
		return
	}
	r.join(ctx, prompt(client), prompt(server))
}

// A conn is what is needed of a *net.TCPConn.
type conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// join relays between two connections until both directions have ended.
func (r *Relay) join(ctx context.Context, client, server conn) {
	cut := func() { client.Close(); server.Close() }
	defer context.AfterFunc(ctx, cut)()
	var heard atomic.Bool // the server, by the client, since it last spoke
	heard.Store(true)
	up := &lane{relay: r, from: client, to: server, cut: cut, read: func(n int) {
		r.up.Add(int64(n))
		if heard.Swap(false) {
			r.roundTrips.Add(1)
		}
	}}
	down := &lane{relay: r, from: server, to: client, cut: cut,
		writing: func() { heard.Store(true) }, // before the client can answer
		written: func(n int) { r.down.Add(int64(n)) },
	}
	var both sync.WaitGroup
	both.Go(up.run)
	both.Go(down.run)
	both.Wait()
}

// A lane is one direction of one connection.
type lane struct {
	relay *Relay
	from  conn
	to    conn
	cut   func() // ends both directions at once

	// What is told of the octets that pass; each may be nil.
	read, written func(octets int)
	writing       func()
}

// run carries octets until they end. An orderly end is passed on as one; any
// other cuts the connection.
func (l *lane) run() {
	var err error
	if l.relay.bare {
		_, err = io.Copy(l.to, l.from)
	} else {
		err = l.carry()
	}
	if err != nil || l.to.CloseWrite() != nil {
		l.cut()
	}
}

// carry reads into a queue and writes from it when the time has come.
func (l *lane) carry() error {
	q := newQueue(l.relay.window)
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed = l.deliver(q)
		if failed != nil {
			q.abandon()
			l.cut() // so that the Read below ends
		}
	}()
	err := l.collect(q)
	q.end(l.relay.due())
	<-done
	return errors.Join(err, failed)
}

// collect fills q with what arrives until there is no more.
func (l *lane) collect(q *queue) error {
	for {
		b := newBuffer()
		n, err := l.from.Read(b)
		if n > 0 && l.read != nil {
			l.read(n)
		}
		if !q.put(shrink(b, n), l.relay.due()) {
			return nil // deliver knows why
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// deliver writes what q holds, each octet no sooner than it is due.
func (l *lane) deliver(q *queue) error {
	s := l.relay.sleeper()
	defer s.close()
	for {
		due, more := q.next()
		s.sleep(due)
		if !more {
			return nil
		}
		parcels := q.take(time.Now())
		for _, b := range parcels {
			if l.writing != nil {
				l.writing()
			}
			n, err := l.to.Write(b)
			if l.written != nil {
				l.written(n)
			}
			if err != nil {
				return err
			}
			q.done(b)
		}
	}
}
