package spool

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is n octets that are not the same anywhere near.
func text(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func wantHeld(t testing.TB, p *Pool, memory, disk int64) {
	t.Helper()
	if m, d := p.Held(); m != memory || d != disk {
		t.Errorf("%d octets of memory and %d of disk are held, want %d and %d", m, d, memory, disk)
	}
}

// fill fills a spool as its goroutine would.
func fill(p *Spool, r io.Reader) error {
	_, err := p.ReadFrom(r)
	p.Finish(err)
	return err
}

func TestReadAfterItIsWhole(t *testing.T) {
	for _, n := range []int{0, 1, classes[0], classes[0] + 1, maxChunk, 100000} {
		for _, expected := range []int64{0, int64(n), 1 << 40} {
			p := NewPool(Limits{Disk: -1})
			s := p.Share().New(expected)
			want := text(n)
			if err := fill(s, bytes.NewReader(want)); err != nil {
				t.Fatal(err)
			}
			if memory, _ := p.Held(); memory < int64(n) || memory > int64(n)+maxChunk {
				t.Errorf("%d octets take %d of memory", n, memory)
			}
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d octets of %d, %v", len(got), n, err)
			}
			wantHeld(t, p, 0, 0)
			s.Close()
			wantHeld(t, p, 0, 0)
		}
	}
}

func TestReadWhileItIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(Limits{})
		s := p.Share().New(0)
		r, w := io.Pipe()
		go fill(s, r)
		for _, part := range []string{"first", "second"} {
			go io.WriteString(w, part)
			got := make([]byte, len(part))
			if _, err := io.ReadFull(s, got); err != nil || string(got) != part {
				t.Errorf("%q, %v; want %q", got, err, part)
			}
		}
		w.Close()
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%d, %v at the end; want io.EOF", n, err)
		}
		s.Close()
		wantHeld(t, p, 0, 0)
	})
}

func TestErrorComesAfterWhatCame(t *testing.T) {
	broken := errors.New("broken")
	s := NewPool(Limits{}).Share().New(0)
	fill(s, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	s.Finish(nil) // too late
	if err := s.Wait(); err != nil {
		t.Errorf("wait: %v before anything was read", err)
	}
	got, err := io.ReadAll(s)
	if again := s.Wait(); again != broken {
		t.Errorf("wait: %v at the end", again)
	}
	if string(got) != "half" || err != broken {
		t.Errorf("%q, %v; want what came, and %v", got, err, broken)
	}
	if s.Finished() {
		t.Error("a broken stream is said to be whole")
	}
}

func TestWhatDoesNotFitGoesToDisk(t *testing.T) {
	dir := t.TempDir()
	p := NewPool(Limits{Share: 100 << 10, Dir: dir})
	s := p.Share().New(0)
	want := text(500 << 10)
	if err := fill(s, bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	memory, disk := p.Held()
	if memory > 100<<10 || memory+disk < int64(len(want)) || s.Spilled() != disk {
		t.Errorf("%d octets of memory, %d of disk, %d spilled", memory, disk, s.Spilled())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files with names: %v, %v", left, err)
	}
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d octets, %v; want %d", len(got), err, len(want))
	}
	wantHeld(t, p, 0, 0)
	s.Close()
}

// A share that is used up does not keep another one from memory, the pool does.
func TestSharesAndPool(t *testing.T) {
	p := NewPool(Limits{Memory: 12 * maxChunk, Share: 2 * maxChunk, Disk: -1})
	one, two := p.Share(), p.Share()
	if one.Room() != 2*maxChunk {
		t.Errorf("room for %d", one.Room())
	}
	a, b := one.New(0), two.New(0)
	defer a.Close()
	defer b.Close()
	a.ReadFrom(bytes.NewReader(text(2*classes[2] - 1)))
	if one.Room() != classesHeld(a, 2*maxChunk) || two.Room() != 2*maxChunk {
		t.Errorf("room for %d and %d", one.Room(), two.Room())
	}
}

// A session leaves room for those that come after it.
func TestRoomForEverybody(t *testing.T) {
	p := NewPool(Limits{Memory: 64 << 20, Share: 64 << 20, Disk: -1})
	for n := range 10 {
		s := p.Share()
		if s.Room() < maxChunk {
			t.Fatalf("session %d is told of %d octets", n, s.Room())
		}
		for s.Room() > 0 {
			s.force(maxChunk)
		}
	}
}

func classesHeld(s *Spool, limit int64) int64 { return limit - int64(s.held) }

// A filler without memory and disk waits, and goes on as soon as somebody reads.
func TestFillerWaitsForTheReader(t *testing.T) {
	for name, limits := range map[string]Limits{
		"nothing":       {Memory: -1, Disk: -1},
		"no directory":  {Memory: -1, Dir: "/nonexistent"},
		"a little disk": {Memory: -1, Disk: 3 * maxChunk},
		"a little":      {Memory: 50 << 10, Disk: 3 * maxChunk},
	} {
		synctest.Test(t, func(t *testing.T) {
			if limits.Dir == "" {
				limits.Dir = t.TempDir()
			}
			p := NewPool(limits)
			s := p.Share().New(0)
			want := text(1 << 20)
			r := bytes.NewReader(want)
			go fill(s, r)
			synctest.Wait()
			if r.Len() == 0 {
				t.Errorf("%s: everything was taken", name)
			}
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d octets, %v", name, len(got), err)
			}
			wantHeld(t, p, 0, 0)
			s.Close()
		})
	}
}

// A stream that is being read takes a window of memory and no disk, however
// long it is.
func TestLongStreamTakesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(Limits{Dir: "/nonexistent"})
		s := p.Share().New(1 << 30)
		defer s.Close()
		r, w := io.Pipe()
		go fill(s, r)
		go func() {
			synctest.Wait() // for the reader
			for range 1000 {
				w.Write(make([]byte, maxChunk))
			}
			w.Close()
		}()
		if err := s.Wait(); err != nil {
			t.Fatal(err)
		}
		total := 0
		for b := make([]byte, 10000); ; {
			synctest.Wait()
			if m, _ := p.Held(); m > window+maxChunk {
				t.Fatalf("%d octets of memory after %d", m, total)
			}
			n, err := s.Read(b)
			if total += n; err == io.EOF {
				break
			}
		}
		if total != 1000*maxChunk {
			t.Errorf("%d octets, want %d", total, 1000*maxChunk)
		}
	})
}

// A reader that leaves gets everything back, whatever the filler is doing.
func TestCloseAtAnyTime(t *testing.T) {
	for _, disk := range []int64{-1, 0} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPool(Limits{Memory: 64 << 10, Disk: disk, Dir: t.TempDir()})
			for _, octets := range []int{0, 1, 40 << 10, 300 << 10} {
				s := p.Share().New(0)
				r, w := io.Pipe()
				var filled error
				var done sync.WaitGroup
				done.Go(func() { filled = fill(s, r) })
				go w.Write(text(octets))
				synctest.Wait() // the filler is in r.Read, or in want of room
				s.Close()
				s.Close()
				go w.Write(text(1)) // the filler learns of it
				done.Wait()
				r.Close()
				if !errors.Is(filled, fs.ErrClosed) {
					t.Errorf("the filler got %v", filled)
				}
				if _, err := s.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("read after Close: %v", err)
				}
				wantHeld(t, p, 0, 0)
			}
		})
	}
}

// Whatever the limits, the sizes of the pieces and the order of things: what
// goes in comes out, and nothing is held afterwards.
func TestAnySchedule(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		p := NewPool(Limits{
			Memory: rapid.Int64Range(-1, 300<<10).Draw(t, "memory"),
			Share:  rapid.Int64Range(-1, 200<<10).Draw(t, "share"),
			Disk:   rapid.Int64Range(-1, 300<<10).Draw(t, "disk"),
			Dir:    dir,
		})
		share := p.Share()
		var running sync.WaitGroup
		for range rapid.IntRange(1, 4).Draw(t, "spools") {
			want := text(rapid.IntRange(0, 400<<10).Draw(t, "octets"))
			s := share.New(rapid.Int64Range(0, 500<<10).Draw(t, "expected"))
			first := rapid.IntRange(0, len(want)).Draw(t, "first")
			leave := rapid.Bool().Draw(t, "leave")
			step := rapid.IntRange(1, 70000).Draw(t, "step")
			running.Go(func() {
				_, err := s.ReadFrom(bytes.NewReader(want[:first]))
				if err == nil {
					_, err = s.ReadFrom(iotest.HalfReader(bytes.NewReader(want[first:])))
				}
				s.Finish(err)
			})
			running.Go(func() {
				defer s.Close()
				var got []byte
				for b := make([]byte, step); ; {
					n, err := s.Read(b)
					got = append(got, b[:n]...)
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Errorf("read: %v", err)
					}
					if leave && len(got) > len(want)/2 {
						return
					}
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%d octets came out of %d", len(got), len(want))
				}
			})
		}
		running.Wait()
		if m, d := p.Held(); m != 0 || d != 0 {
			t.Errorf("%d octets of memory and %d of disk are still held", m, d)
		}
	})
}

func BenchmarkThrough(b *testing.B) {
	p := NewPool(Limits{})
	share := p.Share()
	message := text(46 << 10)
	buffer := make([]byte, 32<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(message)))
	r := bytes.NewReader(message)
	for b.Loop() {
		r.Reset(message)
		s := share.New(int64(len(message)))
		fill(s, readerOnly{r})
		for {
			if _, err := s.Read(buffer); err != nil {
				break
			}
		}
		s.Close()
	}
}

type readerOnly struct{ io.Reader }
