package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fixed is a Status that never changes.
type fixed struct {
	trouble  error
	overview Overview
}

func (f fixed) Ready() error       { return f.trouble }
func (f fixed) Overview() Overview { return f.overview }

var busy = fixed{overview: Overview{
	Version:  "1.2.3",
	Started:  time.Now().Add(-90 * time.Minute),
	Sessions: 42,
	Listeners: []Listener{
		{Address: "127.0.0.1:1110", TLS: "off"},
		{Address: ":995", TLS: "implicit", CertificateExpires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
	},
	Upstreams: []Upstream{
		{Name: "office", Protocol: "imap", LastSuccess: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)},
		{Name: "<script>", Protocol: "jmap", LastFailure: time.Date(2026, 6, 7, 8, 9, 10, 0, time.UTC), Failure: "unavailable"},
	},
}}

var metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "postern_build_info 1") })

func ask(status Status, method, path string) *http.Response {
	w := httptest.NewRecorder()
	handler(status, metrics, nil).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("x")))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPaths(t *testing.T) {
	draining := fixed{trouble: errors.New("draining")}
	for _, c := range []struct {
		status       Status
		method, path string
		code         int
		body         string
	}{
		{busy, "GET", "/healthz", 200, "ok\n"},
		{busy, "GET", "/readyz", 200, "ok\n"},
		{busy, "GET", "/metrics", 200, "postern_build_info 1\n"},
		{busy, "HEAD", "/healthz", 200, "ok\n"}, // net/http drops the body
		{draining, "GET", "/healthz", 200, "ok\n"},
		{draining, "GET", "/readyz", 503, "draining\n"},
		{busy, "POST", "/", 405, "only GET and HEAD\n"},
		{busy, "DELETE", "/healthz", 405, "only GET and HEAD\n"},
		{busy, "PUT", "/metrics", 405, "only GET and HEAD\n"},
		{busy, "GET", "/nothing", 404, "404 page not found\n"},
		{busy, "GET", "/debug/pprof/", 404, "404 page not found\n"},
	} {
		r := ask(c.status, c.method, c.path)
		if got := body(t, r); r.StatusCode != c.code || got != c.body {
			t.Errorf("%s %s: got %d %q, want %d %q", c.method, c.path, r.StatusCode, got, c.code, c.body)
		}
	}
}

// The pages for consent take forms, and nothing else does because of them.
func TestConsentPages(t *testing.T) {
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "consent ", r.Method) })
	h := handler(busy, metrics, site)
	for path, want := range map[string]string{
		"/accounts": "consent POST", "/connect/abc": "consent POST",
		"/": "only GET and HEAD\n", "/accounts/x": "only GET and HEAD\n", "/metrics": "only GET and HEAD\n",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", path, nil))
		if got := w.Body.String(); got != want {
			t.Errorf("POST %s: got %q, want %q", path, got, want)
		}
	}
}

// Every answer, also a refusal, lets a browser do nothing but show it.
func TestHeaders(t *testing.T) {
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz", "/nothing"} {
		for _, method := range []string{"GET", "POST"} {
			h := ask(busy, method, path).Header
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff",
				"Cache-Control":          "no-store",
				"Referrer-Policy":        "no-referrer",
			} {
				if got := h.Get(name); got != want {
					t.Errorf("%s %s: %s: got %q, want %q", method, path, name, got, want)
				}
			}
			policy := h.Get("Content-Security-Policy")
			for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
				if !strings.Contains(policy, want) {
					t.Errorf("%s %s: policy %q lacks %q", method, path, policy, want)
				}
			}
			if strings.Contains(policy, "unsafe") {
				t.Errorf("%s %s: policy %q allows something unsafe", method, path, policy)
			}
		}
	}
}

func TestPage(t *testing.T) {
	r := ask(busy, "GET", "/")
	page := body(t, r)
	if got := r.Header.Get("Content-Type"); r.StatusCode != 200 || got != "text/html; charset=utf-8" {
		t.Errorf("got status %d and type %q", r.StatusCode, got)
	}
	for _, want := range []string{
		"postern 1.2.3", "Ready", "Up for 1h30m", "Open sessions: 42",
		"127.0.0.1:1110", ":995", "implicit", "2030-01-02 03:04:05 UTC",
		"office", "2026-05-06 07:08:09 UTC", "&lt;script&gt;", "never", "2026-06-07 08:09:10 UTC (unavailable)",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "<script") {
		t.Error("a name from the configuration became markup")
	}
	draining := busy
	draining.trouble = errors.New("draining")
	if page := body(t, ask(draining, "GET", "/")); !strings.Contains(page, "Not ready: draining") {
		t.Errorf("page of a draining program does not say so:\n%s", page)
	}
}

// What keeps clients out is told apart at a glance.
func TestPageTellsExpiredCertificates(t *testing.T) {
	for _, c := range []struct {
		expires time.Time
		want    bool
	}{
		{time.Now().Add(time.Hour), false},
		{time.Now().Add(-time.Hour), true},
		{time.Time{}, false}, // without TLS
	} {
		status := fixed{overview: Overview{Listeners: []Listener{{CertificateExpires: c.expires}}}}
		if page := body(t, ask(status, "GET", "/")); strings.Contains(page, "expired") != c.want {
			t.Errorf("certificate until %v: called expired is not %t:\n%s", c.expires, c.want, page)
		}
	}
}

// The policy allows the style that is in the page, octet for octet.
func TestStyleIsAllowed(t *testing.T) {
	r := ask(busy, "GET", "/")
	found := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body(t, r))
	if found == nil {
		t.Fatal("no style in the page")
	}
	sum := sha256.Sum256([]byte(found[1]))
	if policy := r.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Errorf("policy %q does not allow the style %q", policy, found[1])
	}
}

// serve returns the address where a server serves until t ends.
func serve(t *testing.T, s *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		s.Serve(l)
		close(over)
	}()
	t.Cleanup(func() {
		s.Close()
		<-over
	})
	return l.Addr().String()
}

// However many connections somebody opens, postern keeps descriptors for others.
func TestConnectionsAreBounded(t *testing.T) {
	address := serve(t, New(busy, metrics, nil, nil))
	ask := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = conn.Read(make([]byte, 1))
		return conn, err
	}
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for n := range maxConnections {
		conn, err := ask()
		open = append(open, conn)
		if err != nil {
			t.Fatalf("connection %d: got error %v, want an answer", n+1, err)
		}
	}
	tooMany, err := ask()
	tooMany.Close()
	if err == nil {
		t.Errorf("connection %d: got an answer, want none", maxConnections+1)
	}
	open[0].Close()
	for until := time.Now().Add(10 * time.Second); ; { // the server learns of it in its own time
		conn, err := ask()
		open = append(open, conn)
		if err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("after one has left: got error %v, want an answer", err)
		}
	}
}

// A client that sends its request slowly or sends too much of it is cut off.
func TestServerLimits(t *testing.T) {
	s := New(busy, metrics, nil, nil)
	for name, d := range map[string]time.Duration{"ReadHeaderTimeout": s.ReadHeaderTimeout, "ReadTimeout": s.ReadTimeout, "WriteTimeout": s.WriteTimeout, "IdleTimeout": s.IdleTimeout} {
		if d <= 0 || d > 5*time.Minute {
			t.Errorf("%s: got %v, want a limit", name, d)
		}
	}
	conn, err := net.Dial("tcp", serve(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	answer, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		t.Errorf("64 KiB of header: got %.60q, want status 431", answer)
	}
}
