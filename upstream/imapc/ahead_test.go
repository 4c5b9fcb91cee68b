package imapc

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/spool"
	"postern/upstream/upstreamtest"
)

// fill puts messages of that size into the mailbox, UIDs from 1 on but for a few.
func (f *fake) fill(messages, octets int) {
	f.messages = nil
	for i := range messages {
		f.messages = append(f.messages, fakeMessage{uid: uint32(i + i/10 + 1), raw: upstreamtest.Letter(i, octets)})
	}
}

// The time that a drain takes is that of a few round trips, however many
// messages there are.
func TestDrainTakesFewRoundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	for name, fetch := range map[string]func(d *maildrop, i int) (io.ReadCloser, error){
		"RETR":    func(d *maildrop, i int) (io.ReadCloser, error) { return d.Fetch(context.Background(), i) },
		"TOP n 0": func(d *maildrop, i int) (io.ReadCloser, error) { return d.Top(context.Background(), i, 0) },
	} {
		bubble(t, func(t *testing.T, f *fake) {
			f.fill(500, 5000)
			f.delay = rtt
			d := f.list()
			began := time.Now()
			for i, m := range f.messages {
				r, err := fetch(d, i)
				if err != nil {
					t.Fatalf("%s: message %d: %v", name, i, err)
				}
				got, err := read(r)
				if err != nil || !strings.HasPrefix(m.raw, got) || got == "" || name == "RETR" && got != m.raw {
					t.Fatalf("%s: message %d: %d octets, %v", name, i, len(got), err)
				}
			}
			if took := time.Since(began); took > 6*rtt {
				t.Errorf("%s: took %v, want at most 6 round trips of %v", name, took, rtt)
			}
			for _, c := range f.sent("UID FETCH") {
				if strings.HasPrefix(name, "TOP") && strings.Contains(c, "BODY.PEEK[]") {
					t.Errorf("%s: sent %q", name, c)
				}
			}
		})
	}
}

// A client that takes messages as fast as a machine can waits for the first of
// them, and then no more; one that takes its time has little held for it.
func TestDrainNeverStalls(t *testing.T) {
	const octets = 46_000
	for _, c := range []struct {
		rtt    time.Duration
		pace   float64 // octets a second that the client takes
		trips  float64 // at most, beside what the client takes
		memory int64   // at most, in the second half
	}{
		{20 * time.Millisecond, 400e6, 1, 16 << 20},
		{100 * time.Millisecond, 400e6, 1, 64 << 20},
		{20 * time.Millisecond, 2e6, 4, 1 << 20},
		{time.Millisecond, 2e6, 4, 1 << 20},
	} {
		bubble(t, func(t *testing.T, f *fake) {
			raw := upstreamtest.Letter(1, octets)
			f.messages = nil
			for i := range 2000 {
				f.messages = append(f.messages, fakeMessage{uid: uint32(i + 1), raw: raw})
			}
			f.delay = c.rtt
			pool := spool.NewPool(spool.Limits{})
			f.options.Pool = pool
			d := f.list()
			began, held := time.Now(), int64(0)
			for i := range f.messages {
				wantWhole(t, d, i, raw)
				time.Sleep(time.Duration(octets / c.pace * 1e9))
				if memory, _ := pool.Held(); i > len(f.messages)/2 {
					held = max(held, memory)
				}
			}
			waited := time.Since(began) - time.Duration(len(f.messages))*time.Duration(octets/c.pace*1e9)
			if trips := waited.Seconds() / c.rtt.Seconds(); trips > c.trips+0.01 {
				t.Errorf("%v, %.0f MB/s: the client waits for %.2f round trips, want at most %.0f", c.rtt, c.pace/1e6, trips, c.trips)
			}
			if held > c.memory {
				t.Errorf("%v, %.0f MB/s: %d octets of memory are held", c.rtt, c.pace/1e6, held)
			}
		})
	}
}

// A client that gets one message by each session is not read ahead of for long.
func TestWasteIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(1000, 20000)
		var wasted atomic.Int64
		f.options.Hooks.Wasted = func(n int64) { wasted.Add(n) }
		u := f.upstream()
		session := func(messages int) int64 {
			wasted.Store(0)
			d := openAndList(t, u, f.account())
			for i := range messages {
				wantWhole(t, d, i, f.messages[i].raw)
			}
			synctest.Wait()
			d.Close()
			synctest.Wait()
			return wasted.Load()
		}
		for k, c := range []struct {
			messages    int
			least, most int64
		}{
			{1, leastLine / 2, leastLine},
			{1, 1, firstWindow},
			{1, 1, firstWindow},
			{1000, 0, 0}, // all of them are wanted: believe it from now on
			{1, leastLine / 2, leastLine},
		} {
			if n := session(c.messages); n < c.least || n > c.most {
				t.Errorf("session %d, of %d messages, wastes %d octets, want %d to %d", k+1, c.messages, n, c.least, c.most)
			}
		}
	})
}

// What is read ahead of a client that reads one message is little, and what is
// held is given back.
func TestReadAheadIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(1000, 20000)
		pool := spool.NewPool(spool.Limits{})
		var wasted, hits, misses atomic.Int64
		f.options.Pool = pool
		f.options.Hooks.Wasted = func(n int64) { wasted.Add(n) }
		f.options.Hooks.ReadAhead = func(hit bool) {
			if hit {
				hits.Add(1)
			} else {
				misses.Add(1)
			}
		}
		d := f.list()
		wantWhole(t, d, 500, f.messages[500].raw)
		synctest.Wait()
		if memory, disk := pool.Held(); memory > 2*firstWindow || memory == 0 || disk != 0 {
			t.Errorf("%d octets of memory and %d of disk are held after one message", memory, disk)
		}
		for i := 501; i < 600; i++ {
			wantWhole(t, d, i, f.messages[i].raw)
		}
		synctest.Wait()
		if memory, _ := pool.Held(); memory > 2*leastLine {
			t.Errorf("%d octets of memory are held after a hundred messages", memory)
		}
		wantWhole(t, d, 3, f.messages[3].raw)
		d.Close()
		synctest.Wait()
		if memory, disk := pool.Held(); memory != 0 || disk != 0 {
			t.Errorf("%d octets of memory and %d of disk are held after Close", memory, disk)
		}
		if w := wasted.Load(); w == 0 || w > 2*leastLine {
			t.Errorf("%d octets are said to be wasted", w)
		}
		if hits.Load() != 99 || misses.Load() != 1 {
			t.Errorf("%d hits and %d misses, want 99 and 1", hits.Load(), misses.Load())
		}
	})
}

// Whatever order a client asks in, it gets the message that it asks for.
func TestAnyOrder(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(60, 3000)
		f.messages[20].raw = upstreamtest.Letter(20, 3*maxAhead)
		f.messages[21].raw = upstreamtest.Letter(21, 3*maxAhead)
		f.messages[22].raw = upstreamtest.Letter(22, 2*maxAhead)
		d := f.list()
		r := rand.New(rand.NewPCG(1, 2))
		i := 0
		for range 600 {
			if i++; r.IntN(4) == 0 || i == len(f.messages) {
				i = r.IntN(len(f.messages))
			}
			ctx, cancel := context.WithCancel(t.Context())
			kind := r.IntN(6)
			var body io.ReadCloser
			var err error
			if kind == 0 {
				body, err = d.Top(ctx, i, r.IntN(3))
			} else {
				body, err = d.Fetch(ctx, i)
			}
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if kind == 1 { // leave early
				io.CopyN(io.Discard, body, int64(r.IntN(2000)))
				if r.IntN(2) == 0 {
					cancel()
				}
				body.Close()
				cancel()
				continue
			}
			got, err := read(body)
			if err != nil || !strings.HasPrefix(f.messages[i].raw, got) || kind > 1 && got != f.messages[i].raw {
				t.Fatalf("message %d: %d octets, %v", i, len(got), err)
			}
			cancel()
		}
	})
}

// Messages may come in any order and in the answer to any command.
func TestMessagesOutOfOrder(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(50, 3000)
		f.fault = onBodies(func(c *fakeConn, messages []fakeMessage) bool {
			for i := len(messages) - 1; i >= 0; i-- {
				m := messages[i]
				c.say("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(m.raw), m.raw)
			}
			c.ok("done")
			return true
		})
		d := f.list()
		for i, m := range f.messages {
			wantWhole(t, d, i, m.raw)
		}
	})
}

// onBodies makes a fault for a FETCH of whole messages.
func onBodies(fault func(c *fakeConn, messages []fakeMessage) bool) func(*fakeConn, string) bool {
	return func(c *fakeConn, command string) bool {
		args, ok := strings.CutPrefix(command, "UID FETCH ")
		if !ok || !strings.HasSuffix(command, "BODY.PEEK[])") {
			return false
		}
		var some []fakeMessage
		c.f.mu.Lock()
		for _, m := range c.f.messages {
			if setOf(args).has(m.uid) {
				some = append(some, m)
			}
		}
		c.f.mu.Unlock()
		return fault(c, some)
	}
}

// A connection that is lost in the middle of what is read ahead costs nothing
// but time: never a cut message as a whole one.
func TestReadAheadIsLostAnywhere(t *testing.T) {
	for _, cut := range []int{0, 1, 30, 1000, 2960, 3020, 3060, 6000, 20000} {
		bubble(t, func(t *testing.T, f *fake) {
			f.fill(30, 3000)
			var lost sync.Once
			f.fault = onBodies(func(c *fakeConn, messages []fakeMessage) (answered bool) {
				lost.Do(func() {
					var all strings.Builder
					for i, m := range messages {
						fmt.Fprintf(&all, "* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n", i+1, m.uid, len(m.raw), m.raw)
					}
					io.WriteString(c, all.String()[:min(cut, all.Len())])
					c.Close()
					answered = true
				})
				return answered
			})
			d := f.list()
			for i, m := range f.messages {
				wantWhole(t, d, i, m.raw)
			}
			if f.connections != 2 {
				t.Errorf("cut after %d octets: %d connections, want 2", cut, f.connections)
			}
		})
	}
}

// One message that the server refuses, gives late or not at all takes none of
// its neighbours with it.
func TestFaultyNeighbour(t *testing.T) {
	for name, fault := range map[string]func(c *fakeConn, messages []fakeMessage) bool{
		"NO to all": func(c *fakeConn, messages []fakeMessage) bool {
			if len(messages) > 1 {
				c.say("%s NO some of them cannot be read", c.tag)
			}
			return len(messages) > 1
		},
		"one missing": func(c *fakeConn, messages []fakeMessage) bool {
			for i, m := range messages {
				if m.uid != 5 || len(messages) == 1 {
					c.say("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(m.raw), m.raw)
				}
			}
			c.ok("done")
			return true
		},
		"news of flags": func(c *fakeConn, messages []fakeMessage) bool {
			for i, m := range messages {
				if len(messages) > 1 {
					c.say(`* %d FETCH (UID %d FLAGS (\Seen))`, i+1, m.uid)
				}
				c.say("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(m.raw), m.raw)
			}
			c.ok("done")
			return true
		},
		"UID last": func(c *fakeConn, messages []fakeMessage) bool {
			for i, m := range messages {
				if m.uid == 5 && len(messages) > 1 {
					c.say("* %d FETCH (BODY[] {%d}\r\n%s UID %d)", i+1, len(m.raw), m.raw, m.uid)
				} else {
					c.say("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(m.raw), m.raw)
				}
			}
			c.ok("done")
			return true
		},
		"twice": func(c *fakeConn, messages []fakeMessage) bool {
			for i, m := range messages {
				for range 2 {
					c.say("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(m.raw), m.raw)
				}
			}
			c.ok("done")
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.fault = onBodies(fault)
				d := f.list()
				for i, m := range f.messages {
					wantWhole(t, d, i, m.raw)
				}
				if f.connections != 1 {
					t.Errorf("%d connections, want 1", f.connections)
				}
			})
		})
	}
}

// A server that states sizes far below the true ones fills memory and disk up
// to their limits and no further, and everything arrives all the same.
func TestSizesThatAreLies(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(8, 400000)
		for i := range f.messages {
			f.messages[i].size = 1000
		}
		pool := spool.NewPool(spool.Limits{Memory: 1 << 20, Disk: 512 << 10, Dir: t.TempDir()})
		f.options.Pool = pool
		d := f.list()
		for i, m := range f.messages {
			wantWhole(t, d, i, m.raw)
			synctest.Wait()
			if memory, disk := pool.Held(); memory > 1<<20 || disk > 512<<10 {
				t.Errorf("%d octets of memory and %d of disk are held", memory, disk)
			}
		}
		wantWhole(t, d, 1, f.messages[1].raw)
		synctest.Wait()
		if _, err := d.Remove(t.Context(), []int{2}); err != nil {
			t.Errorf("remove while the rest waits for room: %v", err)
		}
	})
}

// Large messages one after the other: none waits in memory.
func TestLargeMessagesTakeLittleMemory(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(5, 12<<20)
		pool := spool.NewPool(spool.Limits{Disk: -1})
		f.options.Pool = pool
		d := f.list()
		for i, m := range f.messages {
			r, err := d.Fetch(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			at := 0
			for b := make([]byte, 100000); err == nil; {
				var n int
				if n, err = r.Read(b); string(b[:n]) != m.raw[at:at+n] {
					t.Fatalf("message %d is wrong from octet %d on", i, at)
				}
				at += n
				if memory, _ := pool.Held(); memory > 2<<20 {
					t.Fatalf("%d octets of memory are held", memory)
				}
			}
			r.Close()
			if err != io.EOF || at != len(m.raw) {
				t.Errorf("message %d: %d octets, %v", i, at, err)
			}
		}
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// MarkSeen, Remove and TOP with lines go in between.
func TestOtherCommandsInBetween(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fill(100, 3000)
		f.options.Policy = upstream.Policy{Seen: true}
		d := f.list()
		for i := range 50 {
			wantWhole(t, d, i, f.messages[i].raw)
			switch i % 10 {
			case 3:
				if err := d.MarkSeen(t.Context(), []int{i}); err != nil {
					t.Error(err)
				}
			case 6:
				r, err := d.Top(t.Context(), i, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := read(r); err != nil || got != f.messages[i].raw {
					t.Errorf("%d octets, %v", len(got), err)
				}
			}
		}
		raw := f.messages[60].raw
		if n, err := d.Remove(t.Context(), []int{0, 1, 2}); n != 3 || err != nil {
			t.Errorf("removed %d, %v", n, err)
		}
		wantWhole(t, d, 60, raw)
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// A connection that ends as the next message is asked for brings none, and not
// an empty one.
func TestFaultU11EndOfTheConnectionIsNoEmptyMessage(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		p := d.ahead.parcel(d.c, 0)
		p.ask(t.Context())
		d.c.g.fail(io.EOF) // after it was seen to be there
		d.c.fetchAhead([]*parcel{p}, d.ahead.section())
		if err := p.wait(); err == nil || err == io.EOF {
			t.Errorf("got error %v, want that the connection was lost", err)
		}
		p.close()
	})
}
