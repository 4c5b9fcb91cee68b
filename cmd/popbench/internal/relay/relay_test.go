package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// An end is one end of a connection in memory that can be half closed and
// lives in a synctest bubble.
type end struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (e end) Write(b []byte) (int, error) { return e.w.Write(b) }
func (e end) CloseWrite() error           { return e.w.Close() }
func (e end) Close() error {
	e.w.CloseWithError(net.ErrClosed)
	return e.PipeReader.CloseWithError(net.ErrClosed)
}

func connection() (one, other end) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return end{r1, w2}, end{r2, w1}
}

// over starts r between the two ends that it returns.
func over(t *testing.T, r *Relay) (client, server end) {
	client, inner := connection()
	outer, server := connection()
	r.sleeper = func() sleeper { return plainSleeper{} }
	done := make(chan struct{})
	go func() { r.join(t.Context(), inner, outer); close(done) }()
	t.Cleanup(func() { client.Close(); server.Close(); <-done })
	return client, server
}

func receive(t *testing.T, from io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Errorf("received %q, %v; want %q", got, err, want)
	}
}

func TestOctetsTakeHalfTheRoundTripEachWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := over(t, New("", 100*time.Millisecond, 0))
		begin := time.Now()
		io.WriteString(client, "question")
		receive(t, server, "question")
		if took := time.Since(begin); took != 50*time.Millisecond {
			t.Errorf("to the server in %v, want 50ms", took)
		}
		io.WriteString(server, "answer")
		receive(t, client, "answer")
		if took := time.Since(begin); took != 100*time.Millisecond {
			t.Errorf("there and back in %v, want 100ms", took)
		}
	})
}

func TestOneDelayForAllThatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := over(t, New("", 200*time.Millisecond, 0))
		begin := time.Now()
		go func() {
			for range 50 {
				client.Write([]byte("x"))
				time.Sleep(time.Millisecond)
			}
		}()
		for i := range 50 {
			receive(t, server, "x")
			if got, want := time.Since(begin), 100*time.Millisecond+time.Duration(i)*time.Millisecond; got != want {
				t.Fatalf("octet %d after %v, want %v", i, got, want)
			}
		}
	})
}

func TestBothDirectionsEndApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := over(t, New("", 20*time.Millisecond, 0))
		begin := time.Now()
		client.CloseWrite()
		if n, err := server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want the end", n, err)
		}
		if took := time.Since(begin); took != 10*time.Millisecond {
			t.Errorf("the end arrived after %v, want 10ms", took)
		}
		io.WriteString(server, "still here")
		receive(t, client, "still here")
		server.CloseWrite()
		if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want the end", n, err)
		}
	})
}

func TestBrokenConnectionEndsBothDirections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := over(t, New("", 20*time.Millisecond, 0))
		server.w.CloseWithError(errors.New("reset"))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("client reads %v, want a broken connection, not its end", err)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("server reads %v, want a broken connection", err)
		}
	})
}

func TestReceiverThatTakesNothingHoldsUpTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := over(t, New("", 0, 4*bufferOctets))
		sent := 0
		go func() {
			for {
				n, err := client.Write(make([]byte, bufferOctets))
				sent += n
				if err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if most := 6 * bufferOctets; sent > most {
			t.Errorf("%d octets accepted that nobody reads, want at most %d", sent, most)
		}
		_ = server
	})
}

func TestCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New("", 10*time.Millisecond, 0)
		client, server := over(t, r)
		io.WriteString(server, "hello\r\n")
		receive(t, client, "hello\r\n")
		for range 3 {
			io.WriteString(client, "one ") // a flight of two
			io.WriteString(client, "two")
			receive(t, server, "one two")
			io.WriteString(server, "yes")
			receive(t, client, "yes")
		}
		synctest.Wait()
		if got, want := r.Counters(), (Counters{RoundTrips: 3, Up: 21, Down: 16}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

// TestOverTCP uses real sockets and the real clock: order, content and end are
// checked, the time is only shown.
func TestOverTCP(t *testing.T) {
	for name, r := range map[string]*Relay{
		"0 ms": New("", 0, 0), "bare": NewBare(""), "100 ms": New("", 100*time.Millisecond, 0),
	} {
		t.Run(name, func(t *testing.T) {
			echo := listen(t)
			go func() {
				for {
					c, err := echo.Accept()
					if err != nil {
						return
					}
					go func() { io.Copy(c, c); c.(*net.TCPConn).CloseWrite(); c.Close() }()
				}
			}()
			r.to = echo.Addr().String()
			front := listen(t)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- r.Serve(ctx, front) }()

			sent := make([]byte, 32<<20)
			random := rand.NewChaCha8([32]byte{1})
			random.Read(sent)
			begin := time.Now()
			c, err := net.Dial("tcp", front.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			go func() { c.Write(sent); c.(*net.TCPConn).CloseWrite() }()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d octets came back (%v), want the %d sent", len(got), err, len(sent))
			}
			took := time.Since(begin)
			t.Logf("%v there and back for %d MiB, %.0f MB/s", took, len(sent)>>20, float64(len(sent))/took.Seconds()/1e6)
			if rtt := time.Duration(r.rtt.Load()); took < rtt {
				t.Errorf("back after %v, sooner than the round-trip time", took)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
			if n := r.Counters().Open; n != 0 {
				t.Errorf("%d connections open after the end", n)
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// BenchmarkRoundTrip shows how true the delay is: b.N times one octet there
// and back over a relay of 20 ms.
func BenchmarkRoundTrip(b *testing.B) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err == nil {
			io.Copy(c, c)
		}
	}()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	const rtt = 20 * time.Millisecond
	r := New(echo.Addr().String(), rtt, 0)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Serve(ctx, front) }()
	defer func() { cancel(); <-done }()
	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	octet := []byte{1}
	for b.Loop() {
		if _, err := c.Write(octet); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, octet); err != nil {
			b.Fatal(err)
		}
	}
	late := b.Elapsed()/time.Duration(b.N) - rtt
	b.ReportMetric(float64(late.Microseconds()), "µs-late/op")
}
