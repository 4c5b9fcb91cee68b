package jmapc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bob = upstream.Account{User: "bob", Password: upstream.NewSecret("secret")}

// serve starts the server, which the test may have set up to misbehave, and
// returns its URL.
func serve(t testing.TB, s *jmapserver.Server) string {
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return web.URL
}

// newUpstream returns an Upstream on that origin, over plain http.
func newUpstream(t testing.TB, o Options) *Upstream {
	o.PlainHTTP = true
	if o.URL != "" {
		o.URL += wellKnown
	}
	u := New(o)
	u.pause = func(ctx context.Context, d time.Duration) error { return ctx.Err() }
	t.Cleanup(func() { u.Close() })
	return u
}

func TestUpstream(t *testing.T) {
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		s := jmapserver.New("bob", "secret")
		return upstreamtest.Fixture{Opener: newUpstream(t, Options{URL: serve(t, s)}), Account: bob, Mailbox: s}
	})
}

func TestUpstreamWithSmallLimitsAndRanges(t *testing.T) {
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		s := jmapserver.New("bob", "secret")
		s.MaxObjectsInGet, s.MaxObjectsInSet, s.MaxConcurrentRequests, s.Ranges = 7, 5, 2, true
		return upstreamtest.Fixture{Opener: newUpstream(t, Options{URL: serve(t, s)}), Account: bob, Mailbox: s}
	})
}

// trusting returns a TLS configuration that trusts a PEM file alone.
func trusting(t testing.TB, file string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: roots}
}
