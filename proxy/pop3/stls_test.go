package pop3

import (
	"crypto/tls"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaultC8NothingBeforeTLSIsRunAfterIt puts commands behind STLS in clear text,
// cut in two at every octet. None may run, whether they are in the buffer when
// STLS is carried out or arrive during the handshake. RFC 2595 section 4;
// CVE-2011-0411, CVE-2021-33515, CVE-2021-38084.
func TestFaultC8NothingBeforeTLSIsRunAfterIt(t *testing.T) {
	const injected = "STLS\r\nUSER " + testUser + "\r\nPASS " + testPassword + "\r\nDELE 1\r\nQUIT\r\n"
	for split := range len(injected) + 1 {
		g := newGateway(threeMessages...)
		g.TLS = testTLS()
		g.PlaintextLogin = func(netip.Addr) bool { return true } // so that only the order of things protects
		c := g.dial(t.Context(), t)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.hear("+OK POP3 server ready")
		go func() {
			c.Write([]byte(injected[:split]))
			c.Write([]byte(injected[split:]))
		}()
		if got := c.rest(); got != "" && !strings.HasPrefix(got, "+OK begin TLS\r\n") {
			t.Errorf("split at %d: got %q, want no more than the reply to STLS", split, got)
		} else if strings.Count(got, "+OK")+strings.Count(got, "-ERR") > 1 {
			t.Errorf("split at %d: got %q, want one reply at most", split, got)
		}
		if len(g.tried) != 0 {
			t.Errorf("split at %d: %d logins tried, want none", split, len(g.tried))
		}
		if len(g.commands) != 1 {
			t.Errorf("split at %d: ran %q, want STLS only", split, g.commands)
		}
		if got := g.summary(t).Reason; got != "tls" {
			t.Errorf("split at %d: ended by %q, want tls", split, got)
		}
		g.holds(t, threeMessages...)
	}
}

func TestImplicitTLS(t *testing.T) {
	g := newGateway(threeMessages...)
	g.TLS = testTLS()
	g.PlaintextLogin = nil
	var versions []uint16
	g.Hooks.TLS = func(version uint16) { versions = append(versions, version) }
	here, there := net.Pipe()
	c := g.serve(t.Context(), t, here, tls.Server(there, testTLS()))
	c.startTLS()
	c.logIn()
	c.ask("STLS", "-ERR already logged in")
	c.ask("QUIT", "+OK bye")
	c.closed()
	if want := []uint16{tls.VersionTLS13}; !slices.Equal(versions, want) {
		t.Errorf("TLS versions: got %v, want %v", versions, want)
	}
	if !g.tried[0].TLS {
		t.Error("the Authenticator was not told of TLS")
	}
	if log := g.log.String(); !strings.Contains(log, `tls="TLS 1.3"`) {
		t.Errorf("the log lacks the TLS version:\n%s", log)
	}
}

// TestNoTLSFromAnImplicitTLSClient: what is no TLS client sees no greeting, and
// metrics see no session.
func TestNoTLSFromAnImplicitTLSClient(t *testing.T) {
	g := newGateway()
	began, versions := 0, []uint16(nil)
	g.Hooks.Began = func() { began++ }
	g.Hooks.TLS = func(version uint16) { versions = append(versions, version) }
	here, there := net.Pipe()
	c := g.serve(t.Context(), t, here, tls.Server(there, testTLS()))
	go c.Write([]byte("CAPA\r\nQUIT\r\n"))
	if got := c.rest(); strings.Contains(got, "OK") {
		t.Errorf("got %q, want no reply", got)
	}
	if began != 0 || len(g.ended) != 0 {
		t.Errorf("%d sessions began, %d ended; want none", began, len(g.ended))
	}
	if want := []uint16{0}; !slices.Equal(versions, want) {
		t.Errorf("TLS versions: got %v, want %v", versions, want)
	}
	if log := g.log.String(); !strings.Contains(log, "reason=tls") {
		t.Errorf("the log lacks the reason:\n%s", log)
	}
}

// TestSilentTLSClientIsCut: no phase waits for ever (CVE-2011-1947).
func TestSilentTLSClientIsCut(t *testing.T) {
	testCertificate() // outside the bubble
	for name, implicit := range map[string]bool{"STLS": false, "implicit": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGateway()
				g.TLS = testTLS()
				here, there := net.Pipe()
				began := time.Now()
				if implicit {
					c := g.serve(t.Context(), t, here, tls.Server(there, testTLS()))
					c.closed()
				} else {
					c := g.serve(t.Context(), t, here, there)
					c.hear("+OK POP3 server ready")
					c.ask("STLS", "+OK begin TLS")
					c.closed()
				}
				if got, want := time.Since(began), 15*time.Second; got != want {
					t.Errorf("cut after %v, want %v", got, want)
				}
			})
		})
	}
}

// TestPlaintextLoginByAddress: the listener says who may log in without TLS.
func TestPlaintextLoginByAddress(t *testing.T) {
	var mu sync.Mutex
	var asked []netip.Addr
	g := newGateway()
	g.PlaintextLogin = func(a netip.Addr) bool {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, a)
		return false
	}
	c := g.dialTCP(t.Context(), t)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.hear("+OK POP3 server ready")
	c.ask("USER bob", "-ERR [SYS/PERM] login is allowed with TLS only")
	mu.Lock()
	if want := []netip.Addr{netip.MustParseAddr("127.0.0.1")}; !slices.Equal(asked, want) {
		t.Errorf("asked about %v, want %v", asked, want)
	}
	mu.Unlock()

	// An operator sees why a device never logs in, once for each session.
	c.ask("AUTH PLAIN", "-ERR [SYS/PERM] login is allowed with TLS only")
	c.ask("QUIT", "+OK bye")
	c.closed()
	want := regexp.MustCompile(`level=INFO msg=command .* remote=127.0.0.1:\d+ cmd=USER .* err="-ERR \[SYS/PERM\] login is allowed with TLS only"`)
	if log := g.log.String(); len(want.FindAllString(log, -1)) != 1 || strings.Count(log, "level=INFO msg=command") != 1 {
		t.Errorf("the log has\n%s\nwant one line %v", log, want)
	}
}
