package jmapc

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"postern/upstream"
	"postern/upstream/upstreamtest/jmapserver"
)

// A name that was discovered, and leads into this network, is not connected to:
// nothing of the request gets there (2c, SSRF).
func TestDiscoveredNamesStayOutside(t *testing.T) {
	var connected atomic.Int32
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.Config.ConnState = func(net.Conn, http.ConnState) { connected.Add(1) }
	web.StartTLS()
	defer web.Close()
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := dialer{config: web.Client().Transport.(*http.Transport).TLSClientConfig, configured: "example.org", silence: silence}
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"} {
		for _, dial := range []func(string) error{
			func(address string) error { _, err := d.tls(t.Context(), "tcp", address); return err },
			func(address string) error { _, err := d.plain(t.Context(), "tcp", address); return err },
		} {
			err := dial(host + ":" + port)
			var unresolved *net.DNSError
			if !errors.Is(err, upstream.ErrRejected) && !errors.As(err, &unresolved) {
				t.Errorf("%s: %v, want it refused", host, err)
			}
		}
	}
	if n := connected.Load(); n != 0 {
		t.Errorf("%d connections came through, want none", n)
	}
}

// A session that names an API inside this network gets no request there.
func TestSessionDoesNotLeadInside(t *testing.T) {
	inside := jmapserver.New("bob", "secret")
	asked := 0
	inside.HTTP = func(http.ResponseWriter, *http.Request) bool { asked++; return false }
	api := httptest.NewTLSServer(inside)
	defer api.Close()
	s := jmapserver.New("bob", "secret")
	login := httptest.NewTLSServer(s)
	defer login.Close()
	s.Absolute = strings.Replace(api.URL, "127.0.0.1", "localhost", 1)
	u := New(Options{URL: login.URL + wellKnown, TLSConfig: api.Client().Transport.(*http.Transport).TLSClientConfig})
	defer u.Close()
	if _, err := u.Open(t.Context(), bob); !errors.Is(err, upstream.ErrRejected) || asked != 0 {
		t.Errorf("%v after %d requests inside, want it rejected after none", err, asked)
	}
}

// What the configuration names may be anywhere.
func TestConfiguredHostMayBeInside(t *testing.T) {
	for _, o := range []Options{
		{URL: "https://LOCALHOST:8443/jmap"}, {Domain: "localhost"}, {Domain: "localhost:8443"},
	} {
		if d := (dialer{configured: o.configuredHost()}); d.control("localhost") != nil || d.control("127.0.0.1") == nil {
			t.Errorf("%+v: configured host %q", o, d.configured)
		}
	}
}
