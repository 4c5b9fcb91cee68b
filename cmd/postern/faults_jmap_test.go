package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// beforeJMAP runs a test with the built gateway before a JMAP server with five
// messages, of which so many of the first are to be removed.
func beforeJMAP(t *testing.T, removed int, test func(b *jmapBench)) {
	t.Helper()
	t.Parallel()
	server := jmapserver.New("bob", "secret")
	var raw []string
	for i := range 5 {
		raw = append(raw, upstreamtest.Letter(i, 400))
		server.Deliver(t, raw[i])
	}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {fast: {protocol: jmap, url: %q, plain_http: true}}
routes: [{user: "*", upstream: fast}]
`, web.URL+"/.well-known/jmap"))
	test(&jmapBench{server, t, p.addresses(t)[0]})
	same(t, "the mailbox holds", server.Messages(t), raw[removed:])
}

// A jmapBench is the built gateway before a JMAP server.
type jmapBench struct {
	*jmapserver.Server
	t       *testing.T
	address string
}

// logIn begins a session, which must be answered like that.
func (b *jmapBench) logIn(want string) popClient {
	b.t.Helper()
	c := dialPOP(b.t, b.address, nil)
	c.login("bob", "secret", want)
	return c
}

// answers has every request answered like that from now on. It is called while
// none is under way.
func (b *jmapBench) answers(status int, text string, header ...string) {
	b.HTTP = func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
		return true
	}
}

// set answers Email/set like that, the n-th time from 1; nil leaves it to the
// server.
func (b *jmapBench) set(answer func(n int, args map[string]any) *jmapserver.Answer) {
	n := 0
	b.Method = func(name string, args map[string]any) *jmapserver.Answer {
		if name != "Email/set" {
			return nil
		}
		n++
		return answer(n, args)
	}
}

func TestFaultU33JMAPPasswordRefused(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(401, "no")
		b.logIn("-ERR [AUTH]")
	})
}

func TestFaultU33JMAP429WithRetryAfter(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(429, "slow down", "Retry-After", "3600")
		b.logIn("-ERR [LOGIN-DELAY]")
		b.HTTP = nil
		b.logIn("-ERR [LOGIN-DELAY]") // the pause is kept
	})
}

func TestFaultU33JMAP503(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(503, "later")
		b.logIn("-ERR [SYS/TEMP]")
	})
}

func TestFaultU33JMAPTruncatedJSON(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(200, `{"capabilities": {"urn:ietf:par`, "Content-Type", "application/json")
		b.logIn("-ERR [SYS/TEMP]")
	})
}

func TestFaultU33JMAPPasswordRefusedInMidSession(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		c := b.logIn("+OK")
		c.mark(1)
		b.answers(401, "no")
		c.leave("-ERR [SYS/TEMP]") // never [AUTH]: the password was right
	})
}

func TestFaultU33JMAPMethodErrorInA200(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(int, map[string]any) *jmapserver.Answer { return jmapserver.Error("serverFail") })
		c.mark(1, 2)
		c.leave("-ERR [SYS/TEMP] 2 of 2 deleted messages not removed")
	})
}

func TestFaultU33JMAPStateMismatch(t *testing.T) {
	beforeJMAP(t, 2, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(n int, _ map[string]any) *jmapserver.Answer {
			if n == 1 {
				return jmapserver.Error("stateMismatch")
			}
			return nil
		})
		c.mark(1, 2)
		c.leave("+OK")
	})
}

func TestFaultU33JMAPAPartNotDestroyed(t *testing.T) {
	beforeJMAP(t, 1, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(_ int, args map[string]any) *jmapserver.Answer {
			args["destroy"] = args["destroy"].([]any)[:1]
			return nil
		})
		c.mark(1, 2)
		c.leave("-ERR [SYS/TEMP] 1 of 2 deleted messages not removed")
	})
}
