package jmapc

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// TestRefusedLogin: only a refusal of the credentials may ever be ErrAuth.
func TestRefusedLogin(t *testing.T) {
	status := func(code int, header ...string) func(*jmapserver.Server) {
		return func(s *jmapserver.Server) {
			s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
				if len(header) == 2 {
					w.Header().Set(header[0], header[1])
				}
				http.Error(w, "<html>no</html>", code)
				return true
			}
		}
	}
	body := func(text string) func(*jmapserver.Server) {
		return func(s *jmapserver.Server) {
			s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
				io.WriteString(w, text)
				return true
			}
		}
	}
	session := func(change func(session map[string]any)) func(*jmapserver.Server) {
		return func(s *jmapserver.Server) { s.Session = change }
	}
	account := func(key string, value any) func(*jmapserver.Server) {
		return session(func(session map[string]any) {
			session["accounts"].(map[string]any)[jmapserver.AccountID].(map[string]any)[key] = value
		})
	}
	method := func(name string, a *jmapserver.Answer) func(*jmapserver.Server) {
		return func(s *jmapserver.Server) {
			s.Method = func(called string, _ map[string]any) *jmapserver.Answer {
				if called == name {
					return a
				}
				return nil
			}
		}
	}
	mailbox := func(m map[string]any) func(*jmapserver.Server) {
		return method("Mailbox/get", &jmapserver.Answer{Name: "Mailbox/get", Args: map[string]any{"list": []any{m}}})
	}
	for _, c := range []struct {
		name  string
		fault func(*jmapserver.Server)
		want  error
	}{
		{"401", status(401), upstream.ErrAuth},
		{"403", status(403), upstream.ErrRejected},
		{"404", status(404), upstream.ErrUnavailable},
		{"429", status(429), upstream.ErrTooSoon},
		{"429 for an hour", status(429, "Retry-After", "3600"), upstream.ErrTooSoon},
		{"500", status(500), upstream.ErrUnavailable},
		{"503", status(503), upstream.ErrUnavailable},
		{"no JSON", body("<html>hello</html>"), upstream.ErrUnavailable},
		{"truncated JSON", body(`{"capabilities": {"urn:ietf:par`), upstream.ErrUnavailable},
		{"endless session", body(strings.Repeat(" ", maxSession+1)), upstream.ErrUnavailable},
		{"null session", body("null"), upstream.ErrRejected},
		{"null capabilities", session(func(s map[string]any) { s["capabilities"] = nil }), upstream.ErrRejected},
		{"no mail", session(func(s map[string]any) { delete(s["capabilities"].(map[string]any), "urn:ietf:params:jmap:mail") }), upstream.ErrRejected},
		{"no primary account", session(func(s map[string]any) { s["primaryAccounts"] = nil }), upstream.ErrRejected},
		{"no account", session(func(s map[string]any) { s["accounts"] = map[string]any{} }), upstream.ErrRejected},
		{"null accountCapabilities", account("accountCapabilities", nil), upstream.ErrRejected},
		{"null mail capability", account("accountCapabilities", map[string]any{"urn:ietf:params:jmap:mail": nil}), upstream.ErrRejected},
		{"API on plain http elsewhere", session(func(s map[string]any) { s["apiUrl"] = "http://localhost:1/api" }), upstream.ErrRejected},
		{"downloads elsewhere", session(func(s map[string]any) { s["downloadUrl"] = "http://localhost:1/{blobId}" }), upstream.ErrRejected},
		{"user in the API URL", session(func(s map[string]any) { s["apiUrl"] = "https://a:b@localhost:1/api" }), upstream.ErrRejected},
		{"null account", session(func(s map[string]any) { s["accounts"] = map[string]any{jmapserver.AccountID: nil} }), upstream.ErrRejected},
		{"null mailboxes", method("Mailbox/get", &jmapserver.Answer{Name: "Mailbox/get", Args: map[string]any{"list": []any{nil}}}), upstream.ErrRejected},
		{"null answer", method("Mailbox/get", &jmapserver.Answer{Name: "Mailbox/get"}), upstream.ErrRejected},
		{"no inbox", mailbox(map[string]any{"id": "x", "name": "INBOX", "role": nil}), upstream.ErrRejected},
		{"unreadable inbox", mailbox(map[string]any{"id": "x", "role": "inbox", "myRights": map[string]any{}}), upstream.ErrRejected},
		{"account unknown to the API", method("Mailbox/get", jmapserver.Error("accountNotFound")), upstream.ErrRejected},
		{"serverFail", method("Mailbox/get", jmapserver.Error("serverFail")), upstream.ErrUnavailable},
		{"endless words", method("Mailbox/get", &jmapserver.Answer{Name: "error", Args: map[string]any{
			"type": strings.Repeat("no ", 1e5), "description": strings.Repeat("no ", 1e5),
		}}), upstream.ErrUnavailable},
		{"unregistered method", method("Mailbox/get", &jmapserver.Answer{Name: "Surprise/get", Args: map[string]any{}}), upstream.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			c.fault(s)
			u := newUpstream(t, Options{URL: serve(t, s)})
			d, err := u.Open(t.Context(), bob)
			if err == nil {
				d.Close()
			}
			if got, want := upstream.Kind(err), upstream.Kind(c.want); got != want || err == nil {
				t.Errorf("got %v (%s), want %s", err, got, want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 1000) {
				t.Errorf("the password, or far too much, is in the error: %.1000v", err)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	web := httptest.NewServer(nil)
	web.Close()
	_, err := newUpstream(t, Options{URL: web.URL}).Open(t.Context(), bob)
	if upstream.Kind(err) != "unavailable" {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestUnusableOptions(t *testing.T) {
	for _, o := range []Options{
		{},
		{URL: "http://localhost/jmap"},
		{URL: "ftp://localhost/jmap"},
		{URL: "https:///jmap"},
		{URL: "https://bob:secret@localhost/jmap"},
		{URL: "://"},
		{Domain: "exa mple.org"},
	} {
		u := New(o)
		_, err := u.Open(t.Context(), bob)
		if !errors.Is(err, upstream.ErrRejected) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want rejected, and no password", o.URL, err)
		}
		u.Close()
	}
}

// TestCredentialsThatTheSchemeCannotCarry are not sent at all.
func TestCredentialsThatTheSchemeCannotCarry(t *testing.T) {
	for _, c := range []struct {
		scheme         Scheme
		user, password string
	}{{Basic, "a:b", "secret"}, {Bearer, "bob", ""}, {Bearer, "bob", "two words"}, {Bearer, "bob", "line\r\nend: x"}} {
		u := New(Options{URL: "https://localhost:1/", Scheme: c.scheme})
		_, err := u.Open(t.Context(), upstream.Account{User: c.user, Password: upstream.NewSecret(c.password)})
		if !errors.Is(err, upstream.ErrAuth) {
			t.Errorf("%q with %q: %v, want ErrAuth", c.user, c.password, err)
		}
	}
}

func TestBearer(t *testing.T) {
	s := jmapserver.New("bob", "a-token")
	s.Deliver(t, upstreamtest.Letter(1, 600))
	u := newUpstream(t, Options{URL: serve(t, s), Scheme: Bearer})
	_, l := open(t, u, upstream.Account{User: "bob", Password: upstream.NewSecret("a-token")})
	if l.Len() != 1 {
		t.Errorf("%d messages, want 1", l.Len())
	}
}

// A token opens the mailbox of its owner, whatever name the client gives. Under
// another's name it opens nothing: the lock, the unique-ids and the removals that
// were cut off of that name are somebody else's.
func TestTokenOfSomebodyElse(t *testing.T) {
	s := jmapserver.New("ann", "a-token")
	s.Session = func(session map[string]any) { session["username"] = "ann@example.org" }
	u := newUpstream(t, Options{URL: serve(t, s), Scheme: Bearer})
	token := upstream.NewSecret("a-token")
	for range 2 { // the second time from memory
		for _, a := range []upstream.Account{{User: "bob@example.org", Password: token}, {User: "bob@example.org", Tokens: upstream.GivenToken{Secret: token}}, {User: "ann", Password: token}} {
			if _, err := u.Open(t.Context(), a); !errors.Is(err, upstream.ErrAuth) || strings.Contains(err.Error(), "a-token") {
				t.Errorf("%s: %v, want ErrAuth without the token", a.User, err)
			}
			if _, err := u.Describe(t.Context(), a); !errors.Is(err, upstream.ErrAuth) {
				t.Errorf("describe %s: %v, want ErrAuth", a.User, err)
			}
		}
		open(t, u, upstream.Account{User: "Ann@example.org", Password: token})
	}
}

// Where the server does not say whose a token is, it opens nothing: it could be
// anybody's.
func TestTokenOfNobody(t *testing.T) {
	s := jmapserver.New("ann", "a-token")
	s.Session = func(session map[string]any) { session["username"] = "" }
	token := upstream.NewSecret("a-token")
	u := newUpstream(t, Options{URL: serve(t, s), Scheme: Bearer})
	for range 2 { // the second time nothing is remembered
		for _, a := range []upstream.Account{{User: "ann", Password: token}, {User: "@ann", Tokens: upstream.GivenToken{Secret: token}}} {
			if _, err := u.Open(t.Context(), a); !errors.Is(err, upstream.ErrRejected) || errors.Is(err, upstream.ErrAuth) {
				t.Errorf("%s: %v, want ErrRejected", a.User, err)
			}
		}
	}
	basic := newUpstream(t, Options{URL: serve(t, s)})
	open(t, basic, upstream.Account{User: "ann", Password: token})
}

// A server without domains calls its users by what is before the @.
func TestTokenWithoutDomain(t *testing.T) {
	s := jmapserver.New("ann", "a-token")
	s.Session = func(session map[string]any) { session["username"] = "ann" }
	u := newUpstream(t, Options{URL: serve(t, s), Scheme: Bearer})
	open(t, u, upstream.Account{User: "ann@example.org", Password: upstream.NewSecret("a-token")})
}

// A stranger is a server that must not be told anything.
type stranger struct {
	t testing.TB
	s *jmapserver.Server
}

func (s stranger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if got := r.Header.Get("Authorization"); got != "" {
		s.t.Errorf("%s %s was told %q", r.Method, r.URL, got)
	}
	s.s.ServeHTTP(w, r)
}

// TestRedirectToAnotherHost covers plain http too, with the credentials that
// go-jmap's own client would repeat there.
func TestRedirectToAnotherHost(t *testing.T) {
	secure := httptest.NewTLSServer(stranger{t, jmapserver.New("bob", "secret")})
	defer secure.Close()
	plain := httptest.NewServer(stranger{t, jmapserver.New("bob", "secret")})
	defer plain.Close()
	for _, to := range []string{secure.URL, plain.URL} {
		for _, path := range []string{"/session", "/api", "/download/"} {
			for _, status := range []int{301, 302, 307, 308} {
				t.Run(fmt.Sprint(path, status, to[:5]), func(t *testing.T) {
					s := jmapserver.New("bob", "secret")
					s.Deliver(t, upstreamtest.Letter(1, 600))
					s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
						if strings.HasPrefix(r.URL.Path, path) {
							http.Redirect(w, r, to+r.URL.Path, status)
							return true
						}
						return false
					}
					web := httptest.NewTLSServer(s)
					defer web.Close()
					u := New(Options{URL: web.URL + wellKnown, TLSConfig: web.Client().Transport.(*http.Transport).TLSClientConfig})
					defer u.Close()
					if err := openAndFetch(t, u); !errors.Is(err, upstream.ErrRejected) {
						t.Errorf("got %v, want rejected", err)
					}
				})
			}
		}
	}
}

// openAndFetch does everything once.
func openAndFetch(t *testing.T, u *Upstream) error {
	d, err := u.Open(t.Context(), bob)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.List(t.Context()); err != nil {
		return err
	}
	r, err := d.Fetch(t.Context(), 0)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

func TestRedirectLoop(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	hops := 0
	s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
		hops++
		http.Redirect(w, r, "/session", http.StatusFound)
		return true
	}
	_, err := newUpstream(t, Options{URL: serve(t, s)}).Open(t.Context(), bob)
	if !errors.Is(err, upstream.ErrRejected) || hops > maxRedirects+1 {
		t.Errorf("after %d redirects: %v, want rejected", hops, err)
	}
}

// TestSessionNamesAnotherOrigin: over https that is how providers work.
func TestSessionNamesAnotherOrigin(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Deliver(t, upstreamtest.Letter(1, 600))
	api, login := httptest.NewTLSServer(s), httptest.NewTLSServer(s)
	defer api.Close()
	defer login.Close()
	s.Absolute = api.URL
	u := New(Options{URL: login.URL + wellKnown, TLSConfig: api.Client().Transport.(*http.Transport).TLSClientConfig})
	defer u.Close()
	if err := openAndFetch(t, u); err != nil {
		t.Error(err)
	}
}

// TestFinalSessionURLIsRemembered: the redirect is asked for once.
func TestFinalSessionURLIsRemembered(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	redirects := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wellKnown {
			redirects++
		}
		s.ServeHTTP(w, r)
	}))
	defer web.Close()
	u := newUpstream(t, Options{URL: web.URL})
	open(t, u, bob)
	open(t, u, bob)
	if redirects != 1 {
		t.Errorf("asked %d times, want once", redirects)
	}
	s.HTTP = func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }
	u.Open(t.Context(), bob)
	s.HTTP = nil
	open(t, u, bob)
	if redirects != 2 {
		t.Errorf("asked %d times after the URL failed, want twice", redirects)
	}
}

// onDomain returns an Upstream that takes every name for the server's.
func onDomain(t *testing.T, web *httptest.Server, records ...*net.SRV) *Upstream {
	config := web.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com" // what the certificate says
	u := New(Options{Domain: "example.org", TLSConfig: config})
	dial := dialer{config: config, silence: silence, configured: "127.0.0.1"}.tls
	u.transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "example.org:443" && len(records) > 0 {
			return nil, &net.OpError{Op: "dial", Err: errors.New("nobody there")}
		}
		return dial(ctx, network, web.Listener.Addr().String())
	}
	u.lookupSRV = func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
		if service != "jmap" || proto != "tcp" || name != "example.org" {
			t.Errorf("asked for _%s._%s.%s", service, proto, name)
		}
		if len(records) == 0 {
			return "", nil, &net.DNSError{IsNotFound: true}
		}
		return "", records, nil
	}
	t.Cleanup(func() { u.Close() })
	return u
}

func TestDiscovery(t *testing.T) {
	for _, c := range []struct {
		name    string
		records []*net.SRV
		moved   string // where the well-known URL leads
		want    error
	}{
		{"well-known", nil, "/session", nil},
		{"well-known on a host of the domain", nil, "https://api.example.org/session", nil},
		{"well-known elsewhere", nil, "https://example.net/session", upstream.ErrRejected},
		{"well-known on plain http", nil, "http://example.org/session", upstream.ErrRejected},
		{"SRV", []*net.SRV{{Target: "jmap.example.org.", Port: 4433}}, "/session", nil},
		{"SRV elsewhere", []*net.SRV{{Target: "example.net.", Port: 443}}, "/session", upstream.ErrRejected},
		{"SRV elsewhere, then here", []*net.SRV{{Target: "notexample.org.", Port: 443}, {Target: "a.example.org.", Port: 443}}, "/session", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			s.Deliver(t, upstreamtest.Letter(1, 600))
			web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == wellKnown {
					if r.Header.Get("Authorization") != "" {
						t.Error("discovery tells the credentials")
					}
					http.Redirect(w, r, c.moved, http.StatusFound)
					return
				}
				s.ServeHTTP(w, r)
			}))
			defer web.Close()
			u := onDomain(t, web, c.records...)
			if err := openAndFetch(t, u); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestDiscoveryWithoutDNSIsTemporary(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	u := onDomain(t, web)
	u.lookupSRV = func(context.Context, string, string, string) (string, []*net.SRV, error) {
		return "", nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	}
	if _, err := u.Open(t.Context(), bob); upstream.Kind(err) != "unavailable" {
		t.Errorf("got %v, want unavailable", err)
	}
}

// pauses records instead of waiting.
func pauses(u *Upstream) *[]time.Duration {
	all := new([]time.Duration)
	u.pause = func(_ context.Context, d time.Duration) error {
		*all = append(*all, d)
		return nil
	}
	return all
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, status := range []int{429, 503} {
		s := jmapserver.New("bob", "secret")
		refusals := 1
		s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
			if refusals--; refusals >= 0 {
				w.Header().Set("Retry-After", "2")
				http.Error(w, "slow down", status)
				return true
			}
			return false
		}
		u := newUpstream(t, Options{URL: serve(t, s)})
		waited := pauses(u)
		open(t, u, bob)
		if len(*waited) != 1 || (*waited)[0] < 2*time.Second || (*waited)[0] > 4*time.Second {
			t.Errorf("%d: waited %v, want once, for 2 to 4 seconds", status, *waited)
		}
	}
}

func TestRetriesAreBounded(t *testing.T) {
	for header, most := range map[string]int{"": attempts, "1": attempts, "3600": 1, "Fri, 01 Jan 2100 00:00:00 GMT": 1} {
		s := jmapserver.New("bob", "secret")
		asked := 0
		s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
			asked++
			w.Header().Set("Retry-After", header)
			http.Error(w, "slow down", http.StatusServiceUnavailable)
			return true
		}
		u := newUpstream(t, Options{URL: serve(t, s)})
		pauses(u)
		_, err := u.Open(t.Context(), bob)
		if upstream.Kind(err) != "unavailable" || asked != most {
			t.Errorf("Retry-After %q: asked %d times, want %d: %v", header, asked, most, err)
		}
	}
}

// How long a server wants to hear nothing of the account, at login and while
// the mailbox is listed.
func TestFaultU9BackoffIsUnderstood(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
		want   time.Duration
	}{
		{429, "", time.Minute},
		{429, "600", 10 * time.Minute},
		{429, "soon", time.Minute},
		{429, "0", 0},
		{503, "90", 90 * time.Second},
		{503, "", 0},
		{500, "90", 0},
		{401, "90", 0},
	} {
		for _, stage := range []string{"/session", "/api"} {
			s := jmapserver.New("bob", "secret")
			s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != stage {
					return false
				}
				w.Header().Set("Retry-After", c.header)
				http.Error(w, "slow down", c.status)
				return true
			}
			u := newUpstream(t, Options{URL: serve(t, s)})
			pauses(u)
			d, err := u.Open(t.Context(), bob)
			if err == nil {
				_, err = d.List(t.Context())
				d.Close()
			}
			if got := upstream.Backoff(err); err == nil || got != c.want {
				t.Errorf("%d, Retry-After %q from %s: got back-off %v (%v), want %v", c.status, c.header, stage, got, err, c.want)
			}
		}
	}
}

// TestRefusalInMidSession: credentials that worked are not wrong all at once.
func TestRefusalInMidSession(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Deliver(t, upstreamtest.Letter(1, 600))
	refusals := 0
	s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
		if refusals > 0 {
			refusals--
			http.Error(w, "who?", http.StatusUnauthorized)
			return true
		}
		return false
	}
	u := newUpstream(t, Options{URL: serve(t, s)})
	d, _ := open(t, u, bob)
	refusals = 1
	if _, err := d.List(t.Context()); err != nil {
		t.Errorf("a single 401: %v, want a listing", err)
	}
	refusals = 1
	if got := read(t, d, 0); got != upstreamtest.Letter(1, 600) {
		t.Error("a single 401 spoiled the message")
	}
	refusals = 1000
	for n, err := range []error{
		second(d.Fetch(t.Context(), 0)), second(d.Remove(t.Context(), []int{0})), second(d.List(t.Context())),
	} {
		if upstream.Kind(err) != "unavailable" {
			t.Errorf("call %d: %v, want unavailable", n, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestChangedSessionIsFetchedAnewOnce(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	for i := range 40 {
		s.Deliver(t, upstreamtest.Letter(i, 600))
	}
	u := newUpstream(t, Options{URL: serve(t, s)})
	d, l := open(t, u, bob)
	for i := range l.Len() { // the race detector looks at what is read ahead meanwhile
		if i%10 == 5 {
			s.ChangeSession()
			if _, err := d.Remove(t.Context(), []int{i - 1}); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, d, i); got != upstreamtest.Letter(i, 600) {
			t.Errorf("message %d came wrong", i)
		}
	}
	// Each change is noticed in an answer, and dealt with before the next call.
	calls := s.Calls()
	fetched := len(slices.DeleteFunc(calls, func(c string) bool { return c != "session" }))
	if want := 5; fetched != want {
		t.Errorf("the session was fetched %d times, want %d", fetched, want)
	}
}

func TestSessionOfAnotherAccountEndsTheMaildrop(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Deliver(t, upstreamtest.Letter(1, 600))
	other := false
	s.Session = func(session map[string]any) {
		if other {
			accounts := session["accounts"].(map[string]any)
			accounts["a2"] = accounts[jmapserver.AccountID]
			session["primaryAccounts"] = map[string]any{"urn:ietf:params:jmap:mail": "a2"}
		}
	}
	u := newUpstream(t, Options{URL: serve(t, s)})
	d, _ := open(t, u, bob)
	other = true
	s.ChangeSession()
	d.List(t.Context()) // hears of it
	if n, err := d.Remove(t.Context(), []int{0}); n != 0 || !errors.Is(err, upstream.ErrChanged) {
		t.Errorf("removed %d, %v; want ErrChanged", n, err)
	}
}

func TestGzipBomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.CopyN(z, spaces{}, maxAnswer+1<<20)
	z.Close()
	s := jmapserver.New("bob", "secret")
	path := ""
	s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
		return true
	}
	u := newUpstream(t, Options{URL: serve(t, s)})
	for _, path = range []string{"/session", "/api"} {
		if _, err := u.Open(t.Context(), bob); !errors.Is(err, errTooLong) {
			t.Errorf("%s: %v, want %v", path, err, errTooLong)
		}
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestSilentServerEndsWithTheContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = newUpstream(t, Options{URL: "http://" + silent.Addr().String()}).Open(ctx, bob)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestDescribe(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	s.Deliver(t, upstreamtest.Letter(1, 600))
	s.Session = func(session map[string]any) {
		session["capabilities"].(map[string]any)["urn:evil\x1b[2J"] = nil
	}
	url := serve(t, s)
	r, err := newUpstream(t, Options{URL: url}).Describe(t.Context(), bob)
	if err != nil {
		t.Fatal(err)
	}
	want := Report{
		SessionURL: url + "/session", Account: jmapserver.AccountID,
		Capabilities:          []string{"urn:evil\\x1b[2J", "urn:ietf:params:jmap:core", "urn:ietf:params:jmap:mail"},
		MaxConcurrentRequests: 4, MaxObjectsInGet: 500, MaxObjectsInSet: 500, MaxSizeRequest: 1 << 20,
		Mailboxes: []Mailbox{{"INBOX", "archive", 0}, {"Posteingang", "inbox", 1}, {"Papierkorb", "trash", 0}},
		Messages:  1,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
}

func TestHooks(t *testing.T) {
	counts := make(chan string, 1000)
	s := jmapserver.New("bob", "secret")
	web := httptest.NewTLSServer(s)
	defer web.Close()
	u := New(Options{URL: web.URL + wellKnown, TLSConfig: &tls.Config{InsecureSkipVerify: true}, Hooks: upstream.Hooks{
		Connected:    func(_ time.Duration, err error) { counts <- fmt.Sprint("connected ", err) },
		Disconnected: func() { counts <- "disconnected" },
		LoggedIn:     func(_ time.Duration, err error) { counts <- fmt.Sprint("logged in ", upstream.Kind(err)) },
		RoundTrip:    func() { counts <- "round trip" },
		Octets: func(in, out int) {
			if in > 0 {
				counts <- "in"
			}
			if out > 0 {
				counts <- "out"
			}
		},
	}})
	open(t, u, bob)
	u.Open(t.Context(), upstream.Account{User: "bob", Password: upstream.NewSecret("wrong")})
	u.Close()
	got := map[string]int{}
	for got["disconnected"] == 0 {
		got[<-counts]++
	}
	if got["connected <nil>"] < 1 || got["logged in "] != 1 || got["logged in auth"] != 1 || got["round trip"] != 5 || got["in"] < 4 || got["out"] < 4 {
		t.Errorf("got %v", got)
	}
}
