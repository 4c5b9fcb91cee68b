package jmapc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/spool"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// downloads has every download answered by serve, the nth by serve(n, ...),
// unless that says that it did not.
func downloads(s *jmapserver.Server, serve func(n int, w http.ResponseWriter, r *http.Request) bool) {
	var mu sync.Mutex
	n := 0
	s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/download/") {
			return false
		}
		mu.Lock()
		n++
		now := n
		mu.Unlock()
		return serve(now, w, r)
	}
}

// cut sends the beginning of an answer and drops the connection.
func cut(w http.ResponseWriter, status int, header, body string) {
	c, b, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Fprintf(b, "HTTP/1.1 %d X\r\n%s\r\n%s", status, header, body)
	b.Flush()
}

// TestDownload: only what is whole ends in io.EOF, whatever the server does.
func TestDownload(t *testing.T) {
	raw := upstreamtest.Letter(1, 5000)
	size := len(raw)
	lengthOf := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	for _, c := range []struct {
		name  string
		serve func(n int, w http.ResponseWriter, r *http.Request) bool
		want  error // nil: the whole message
	}{
		{"as stored", func(int, http.ResponseWriter, *http.Request) bool { return false }, nil},
		{"without a length", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.(http.Flusher).Flush()
			io.WriteString(w, raw)
			return true
		}, nil},
		{"short body", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			cut(w, 200, lengthOf(size), raw[:100])
			return true
		}, upstream.ErrUnavailable},
		{"short without a length", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.(http.Flusher).Flush()
			io.WriteString(w, raw[:size-1])
			return true
		}, upstream.ErrUnavailable},
		{"short until the connection closes", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			cut(w, 200, "Connection: close\r\n", raw[:size-1])
			return true
		}, upstream.ErrUnavailable},
		{"shorter by its own length", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(size-1))
			io.WriteString(w, raw[:size-1])
			return true
		}, upstream.ErrUnreadable},
		{"longer by its own length", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			io.WriteString(w, raw+"x")
			return true
		}, upstream.ErrUnreadable},
		{"longer without a length", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.(http.Flusher).Flush()
			io.WriteString(w, raw+"x")
			return true
		}, upstream.ErrUnreadable},
		{"empty", func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(204); return true }, upstream.ErrUnavailable},
		{"compressed", func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if got := r.Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("asked for encoding %q, want identity", got)
			}
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, raw)
			return true
		}, upstream.ErrUnavailable},
		{"404 with the message there", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			jmapserver.Problem(w, 404, "notFound", "")
			return true
		}, upstream.ErrUnreadable},
		{"403", func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true }, upstream.ErrUnreadable},
		{"500", func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }, upstream.ErrUnavailable},
		{"429 once", func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n > 1 {
				return false
			}
			w.WriteHeader(429)
			return true
		}, nil},
		{"401 once", func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n > 1 {
				return false
			}
			w.WriteHeader(401)
			return true
		}, nil},
		{"broken, ranges unknown", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				cut(w, 200, lengthOf(size), raw[:100])
				return true
			}
			io.WriteString(w, raw) // 200 from the start
			return true
		}, upstream.ErrUnavailable},
		{"broken, no ranges", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				t.Error("asked again although the server knows no ranges")
			}
			cut(w, 200, "Accept-Ranges: none\r\n"+lengthOf(size), raw[:100])
			return true
		}, upstream.ErrUnavailable},
		{"broken and resumed", func(n int, w http.ResponseWriter, r *http.Request) bool {
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			switch n {
			case 1:
				cut(w, 200, lengthOf(size), raw[:1000])
			case 2:
				cut(w, 206, fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\n", from, size-1, size)+lengthOf(size-from), raw[from:2000])
			default:
				cut(w, 206, fmt.Sprintf("Content-Range: bytes %d-%d/*\r\n", from, size-1)+lengthOf(size-from), raw[from:])
			}
			return true
		}, nil},
		{"broken for ever", func(n int, w http.ResponseWriter, r *http.Request) bool {
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			if n > 10 {
				t.Error("resumed for ever")
			}
			if n == 1 {
				cut(w, 200, lengthOf(size), raw[:1])
				return true
			}
			cut(w, 206, fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\n", from, size-1, size)+lengthOf(size-from), raw[from:from+1])
			return true
		}, upstream.ErrUnavailable},
		{"resumed elsewhere", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				cut(w, 200, lengthOf(size), raw[:1000])
				return true
			}
			cut(w, 206, fmt.Sprintf("Content-Range: bytes 0-%d/%d\r\n", size-1, size)+lengthOf(size), raw)
			return true
		}, upstream.ErrUnavailable},
		{"resumed in another message", func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				cut(w, 200, lengthOf(size), raw[:1000])
				return true
			}
			cut(w, 206, fmt.Sprintf("Content-Range: bytes 1000-%d/%d\r\n", size+9, size+10)+lengthOf(size-990), raw[990:])
			return true
		}, upstream.ErrUnavailable},
		{"a range nobody asked for", func(n int, w http.ResponseWriter, r *http.Request) bool {
			cut(w, 206, "Content-Range: bytes 5-9223372036854775807/9223372036854775807\r\n", raw)
			return true
		}, upstream.ErrUnavailable},
		{"octets without end", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			io.Copy(w, spaces{})
			return true
		}, upstream.ErrUnreadable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			s.Deliver(t, raw)
			downloads(s, c.serve)
			u := newUpstream(t, Options{URL: serve(t, s)})
			d, _ := open(t, u, bob)
			text, err := fetch(d, 0)
			if upstream.Kind(err) != upstream.Kind(c.want) {
				t.Fatalf("%d of %d octets, then %v; want %v", len(text), size, err, c.want)
			}
			if err == nil && text != raw {
				t.Errorf("%d octets that are not the message", len(text))
			}
			if got := d.Removable(0); errors.Is(got, upstream.ErrUnreadable) != errors.Is(c.want, upstream.ErrUnreadable) {
				t.Errorf("after %v it is removable: %v", err, got)
			}
		})
	}
}

func fetch(d upstream.Maildrop, i int) (string, error) {
	r, err := d.Fetch(context.Background(), i)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return string(text), err
}

func TestFetchOfAGoneMessage(t *testing.T) {
	for _, moved := range []bool{false, true} {
		s := jmapserver.New("bob", "secret")
		raw := upstreamtest.Letter(1, 600)
		id := s.Add(raw, jmapserver.Inbox)
		downloads(s, func(_ int, w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true })
		d, _ := open(t, newUpstream(t, Options{URL: serve(t, s)}), bob)
		if moved {
			s.Move(id, jmapserver.Archive)
		} else {
			s.Take(t, raw)
		}
		if _, err := fetch(d, 0); !errors.Is(err, upstream.ErrGone) {
			t.Errorf("got %v, want ErrGone", err)
		}
		if err := d.Removable(0); err != nil {
			t.Errorf("removable: %v, want nil", err)
		}
	}
}

// TestMessageNotShownIsNotGone: that the server says nothing of a message tells
// nothing.
func TestMessageNotShownIsNotGone(t *testing.T) {
	for name, list := range map[string][]any{"nothing": nil, "no mailboxes": {dict{"id": "M0000001", "size": sizeOf(0)}}} {
		s, u, _ := letters5(t, Options{})
		downloads(s, func(_ int, w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true })
		d, _ := open(t, u, bob)
		looks(s, func(bool) *jmapserver.Answer { return emailsOf(list...) })
		if _, err := fetch(d, 0); upstream.Kind(err) != "unavailable" {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
}

// TestTopByRange: a server that knows ranges sends little of a big message.
func TestTopByRange(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Ranges = true
	raw := upstreamtest.Letter(1, 1<<20)
	s.Deliver(t, raw)
	var received int64
	var mu sync.Mutex
	u := newUpstream(t, Options{URL: serve(t, s), Hooks: upstream.Hooks{Octets: func(in, _ int) {
		mu.Lock()
		defer mu.Unlock()
		received += int64(in)
	}}})
	d, _ := open(t, u, bob)
	r, err := d.Top(t.Context(), 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 1000)
	if _, err := io.ReadFull(r, part); err != nil || string(part) != raw[:1000] {
		t.Errorf("%q, %v", part, err)
	}
	r.Close()
	mu.Lock()
	if received > 64<<10 {
		t.Errorf("%d octets for the top of a message", received)
	}
	mu.Unlock()
	// Whoever reads on gets all of it.
	r, err = d.Top(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if all, err := io.ReadAll(r); err != nil || string(all) != raw {
		t.Errorf("%d of %d octets, %v", len(all), len(raw), err)
	}
}

// TestTopReadsAhead: the beginnings of the next messages are under way, too.
func TestTopReadsAhead(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Ranges = true
	var raw []string
	for i := range 40 {
		raw = append(raw, upstreamtest.Letter(i, 200_000))
		if i == 17 { // a longer header than most
			raw[i] = "X-Long: " + strings.Repeat("x\r\n ", 3*topHeader/4) + "\r\n" + raw[i]
		}
		s.Deliver(t, raw[i])
	}
	var received, hits, misses, wasted, wastes atomic.Int64
	u := newUpstream(t, Options{URL: serve(t, s), Hooks: upstream.Hooks{
		Octets:    func(in, _ int) { received.Add(int64(in)) },
		ReadAhead: func(hit bool) { map[bool]*atomic.Int64{true: &hits, false: &misses}[hit].Add(1) },
		Wasted:    func(n int64) { wasted.Add(n); wastes.Add(1) },
	}})
	d, _ := open(t, u, bob)
	m := d.(*maildrop)
	top := func(i, lines int) {
		t.Helper()
		r, err := d.Top(t.Context(), i, lines)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		head, _, _ := strings.Cut(raw[i], "\r\n\r\n")
		got := make([]byte, len(head)+4)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != head+"\r\n\r\n" {
			t.Errorf("message %d: %.100q, %v", i, got, err)
		}
	}
	for i := range 30 {
		top(i, 0)
		if i == 10 && len(m.ahead.downloads) < 8 {
			t.Errorf("%d beginnings under way, want more", len(m.ahead.downloads))
		}
	}
	if got, most := received.Load(), int64(75*topHeader); got > most {
		t.Errorf("%d octets received, want at most %d", got, most)
	}
	// The rest of the long one may need the place of what is read ahead.
	if hits.Load()+misses.Load() != 29 || misses.Load() > 1 {
		t.Errorf("%d hits and %d misses, want 29 hits or one less", hits.Load(), misses.Load())
	}
	// Whoever takes turns is not read ahead of.
	for i := 30; i < 33; i++ {
		top(i, 0)
		if got := read(t, d, i); got != raw[i] {
			t.Errorf("message %d came wrong", i)
		}
		if n := len(m.ahead.downloads); n != 0 && i > 30 {
			t.Errorf("%d messages under way behind a message and its header", n)
		}
	}
	if n := wasted.Load(); wastes.Load() == 0 || n > maxAhead*topHeader {
		t.Errorf("%d octets in %d messages are said to be wasted", n, wastes.Load())
	}
}

// TestReadAheadRunsSideBySide: the next downloads are under way before they are
// asked for, in order, and no more of them than the server takes.
func TestReadAheadRunsSideBySide(t *testing.T) {
	for _, most := range []int{1, 2, 4, 100} {
		s := jmapserver.New("bob", "secret")
		s.MaxConcurrentRequests = most
		for i := range 20 {
			s.Deliver(t, upstreamtest.Letter(i, 600))
		}
		arrived, release := make(chan string, 20), make(chan struct{})
		var mu sync.Mutex
		now, busiest := 0, 0
		downloads(s, func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			now++
			busiest = max(busiest, now)
			mu.Unlock()
			if !strings.Contains(r.URL.Path, "B/0000001") { // that one opens the window
				arrived <- r.URL.Path
				<-release
			}
			mu.Lock()
			now-- // before the client can know that it is over
			mu.Unlock()
			return false
		})
		d, l := open(t, newUpstream(t, Options{URL: serve(t, s)}), bob)
		d.(*maildrop).ahead.width = maxAhead // as if a client had drained for long
		read(t, d, 0)
		most = min(most, maxConcurrent)
		seen := map[string]bool{}
		for range most {
			seen[<-arrived] = true
		}
		for i := range most {
			if want := fmt.Sprintf("/download/a1/B/%07d?%%/message.eml", i+2); !seen[want] {
				t.Errorf("%d at once: %s is not among %v", most, want, seen)
			}
		}
		close(release)
		for i := 1; i < l.Len(); i++ {
			if got := read(t, d, i); got != upstreamtest.Letter(i, 600) {
				t.Errorf("%d at once: message %d came wrong", most, i)
			}
		}
		mu.Lock()
		if busiest != most {
			t.Errorf("%d requests at once, want %d", busiest, most)
		}
		mu.Unlock()
	}
}

// TestReadAheadKeepsItsBudget: not too many octets, and none at all if so set.
func TestReadAheadKeepsItsBudget(t *testing.T) {
	for _, c := range []struct {
		budget int64
		want   int // downloads after the first message was read
	}{{2500, 3}, {900, 1}, {-1, 1}} {
		s := jmapserver.New("bob", "secret")
		for i := range 10 {
			s.Deliver(t, strings.Repeat("x", 1000)+fmt.Sprint(i))
		}
		pool := spool.NewPool(spool.Limits{})
		d, _ := open(t, newUpstream(t, Options{URL: serve(t, s), ReadAhead: c.budget, Pool: pool}), bob)
		m := d.(*maildrop)
		for range 5 { // as if a client had drained for long
			m.ahead.width = maxAhead
			m.ahead.next = 0
			read(t, d, 0)
			if held := m.ahead.held(); held > max(0, c.budget) {
				t.Errorf("budget %d: %d octets held", c.budget, held)
			}
			if got := 1 + len(m.ahead.downloads); got != c.want {
				t.Errorf("budget %d: %d messages under way, want %d", c.budget, got, c.want)
			}
		}
	}
}

// TestReadAheadFailureIsNotTheClients: a message is asked for again when its
// turn comes.
func TestReadAheadFailureIsNotTheClients(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	for i := range 20 {
		s.Deliver(t, upstreamtest.Letter(i, 5000))
	}
	downloads(s, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		switch n % 3 {
		case 1:
			return false
		case 2:
			cut(w, 200, "Content-Length: 5000\r\n", "half a message")
		case 0:
			jmapserver.Problem(w, 429, "limit", "requests")
		}
		return true
	})
	u := newUpstream(t, Options{URL: serve(t, s)})
	d, _ := open(t, u, bob)
	for i := range 20 {
		for attempt := 0; ; attempt++ {
			text, err := fetch(d, i)
			if err == nil {
				if text != upstreamtest.Letter(i, 5000) {
					t.Errorf("message %d came wrong", i)
				}
				break
			}
			if attempt == 20 {
				t.Fatal(err)
			}
		}
	}
}

// TestCloseEndsWhatIsReadAhead: TestMain looks for goroutines left behind.
func TestCloseEndsWhatIsReadAhead(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	for i := range 10 {
		s.Deliver(t, upstreamtest.Letter(i, 600))
	}
	stuck := make(chan struct{}, 10)
	downloads(s, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			stuck <- struct{}{}
			<-r.Context().Done()
		}
		return false
	})
	d, _ := open(t, newUpstream(t, Options{URL: serve(t, s)}), bob)
	read(t, d, 0)
	<-stuck
	ahead := d.(*maildrop).ahead.downloads
	d.Close()
	for _, a := range ahead {
		if err := a.stream.Wait(); !errors.Is(err, context.Canceled) && !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v, want cancelled", err)
		}
	}
	if _, err := d.Fetch(t.Context(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch after close: %v, want cancelled", err)
	}
}

// TestNobodySeesAnothersMail: accounts share connections, and break off at
// random; every octet that arrives is their own.
func TestNobodySeesAnothersMail(t *testing.T) {
	const accounts, messages, rounds = 8, 12, 60
	servers := map[string]*jmapserver.Server{}
	for a := range accounts {
		user := fmt.Sprint("user", a)
		s := jmapserver.New(user, "secret")
		s.Ranges = a%2 == 0
		servers[user] = s
		for i := range messages {
			s.Deliver(t, letterOf(a, i))
		}
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		if s := servers[user]; s != nil {
			s.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, "/session", http.StatusFound)
	}))
	defer web.Close()
	u := newUpstream(t, Options{URL: web.URL})
	var all sync.WaitGroup
	for a := range accounts {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(a), 7))
			d, _ := open(t, u, upstream.Account{User: fmt.Sprint("user", a), Password: upstream.NewSecret("secret")})
			for range rounds {
				i := random.IntN(messages)
				for i < messages && random.IntN(5) > 0 {
					fetchSome(t, d, random, i, letterOf(a, i))
					i++
				}
			}
		})
	}
	all.Wait()
}

func letterOf(account, i int) string {
	return fmt.Sprintf("X-Owner: %d\r\n", account) + upstreamtest.Letter(1000*account+i, 2000+9000*(i%3))
}

// fetchSome reads a message, or some of it until it is closed or cancelled.
func fetchSome(t *testing.T, d upstream.Maildrop, random *rand.Rand, i int, want string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := d.Fetch(ctx, i)
	if err != nil {
		t.Errorf("message %d: %v", i, err)
		return
	}
	defer r.Close()
	most := len(want) + 1
	if random.IntN(2) == 0 {
		most = random.IntN(len(want))
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(most)))
	if !strings.HasPrefix(want, string(text)) {
		t.Errorf("message %d: foreign octets: %.60q", i, text)
	}
	if most > len(want) && (err != nil || len(text) != len(want)) {
		t.Errorf("message %d: %d of %d octets, %v", i, len(text), len(want), err)
	}
	if random.IntN(2) == 0 {
		cancel()
	}
}

// TestSilenceEnds: a server that says nothing more is given up.
func TestSilenceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := newPromptConn(here, silence)
		defer c.Close()
		began := time.Now()
		go there.Write([]byte("x"))
		for range 2 { // the second one waits
			if _, err := c.Read(make([]byte, 1)); err != nil {
				var late net.Error
				if !errors.As(err, &late) || !late.Timeout() || time.Since(began) != silence {
					t.Errorf("after %v: %v, want a time-out after %v", time.Since(began), err, silence)
				}
				return
			}
		}
		t.Error("nothing read successfully")
	})
}

// TestRequestGivesAReadNewTime: the answer to it may take as long as ever, even
// if the connection had been idle for a while.
func TestRequestGivesAReadNewTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := newPromptConn(here, silence)
		defer c.Close()
		answer := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			answer <- err
		}()
		time.Sleep(silence - time.Second)
		go there.Read(make([]byte, 1))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(silence - time.Second)
		go there.Write([]byte("x"))
		if err := <-answer; err != nil {
			t.Errorf("the answer was cut off: %v", err)
		}
	})
}

func TestResolve(t *testing.T) {
	for _, c := range []struct{ base, ref, want string }{
		{"https://a.example/.well-known/jmap", "/jmap/{x}", "https://a.example/jmap/{x}"},
		{"https://a.example/jmap/session", "api", "https://a.example/jmap/api"},
		{"https://a.example:8443", "api", "https://a.example:8443/api"},
		{"https://a.example/", "//b.example/{x}", "https://b.example/{x}"},
		{"https://a.example/", "https://b.example/{x}?y={z}", "https://b.example/{x}?y={z}"},
	} {
		base, err := http.NewRequest(http.MethodGet, c.base, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := resolve(base.URL, c.ref); got != c.want {
			t.Errorf("%s at %s: got %s, want %s", c.ref, c.base, got, c.want)
		}
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"id": "a/b?c&d=%+ \xc3\xbc~", "n": "x"}
	for _, c := range []struct{ template, want string }{
		{"/{id}/{n}?q={id}", "/a%2Fb%3Fc%26d%3D%25%2B%20%C3%BC~/x?q=a%2Fb%3Fc%26d%3D%25%2B%20%C3%BC~"},
		{"/none", "/none"},
		{"/{+id}", ""},
		{"/{unknown}", ""},
		{"/{id", ""},
	} {
		got, err := expand(c.template, values)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: got %q and %v, want %q", c.template, got, err, c.want)
		}
	}
}
