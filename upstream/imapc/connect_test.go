package imapc

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// certificates are made once: they are valid in a bubble's year 2000 too.
var certificates = sync.OnceValue(func() map[string]tls.Certificate {
	made := map[string]tls.Certificate{}
	for name, until := range map[string]int{"imap.example.org": 2100, "other.example.org": 2100, "expired": 1999} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		host := strings.ReplaceAll(name, "expired", "imap.example.org")
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
			NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(until, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		leaf, _ := x509.ParseCertificate(der)
		made[name] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	}
	return made
})

// trusted is the configuration that trusts certificates by these names.
func trusted(names ...string) *tls.Config {
	roots := x509.NewCertPool()
	for _, n := range names {
		roots.AddCert(certificates()[n].Leaf)
	}
	return &tls.Config{RootCAs: roots}
}

// encrypt goes on over TLS, with that certificate.
func (c *fakeConn) encrypt(name string) bool {
	// What the client sends from now on is still seen, but as TLS.
	t := tls.Server(buffered{c.Conn, c.r}, &tls.Config{Certificates: []tls.Certificate{certificates()[name]}})
	c.Conn, c.r = t, bufio.NewReader(t)
	return t.Handshake() == nil
}

type buffered struct {
	net.Conn
	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// wantNoCredentials holds what was sent in clear text against every form in
// which a password may be sent.
func wantNoCredentials(t *testing.T, f *fake) {
	t.Helper()
	sent := f.clear.String()
	account := f.account()
	plain := "\x00" + account.User + "\x00" + password
	for _, secret := range []string{password, account.User, base64.StdEncoding.EncodeToString([]byte(plain)),
		base64.StdEncoding.EncodeToString([]byte(password)), "LOGIN", "AUTHENTICATE"} {
		if strings.Contains(sent, secret) {
			t.Errorf("%q was sent in clear text: %q", secret, sent)
		}
	}
}

// After a refusal the connection is closed: what the server may say later is
// not even read. {tag} stands for that of the STARTTLS command.
func TestSTARTTLSIsNotFooled(t *testing.T) {
	const good = "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready"
	cases := map[string]script{
		"silent":                   {},
		"silent after STARTTLS":    {greeting: good},
		"refused":                  {greeting: good, reply: "{tag} NO not now"},
		"unknown":                  {greeting: good, reply: "{tag} BAD what?"},
		"not offered":              {greeting: "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready", reply: "{tag} BAD what?"},
		"OK and no TLS":            {greeting: good, reply: "{tag} OK go"},
		"OK and close":             {greeting: good, reply: "{tag} OK go", certificate: "close"},
		"OK and plaintext":         {greeting: good, reply: "{tag} OK go", certificate: "plaintext"},
		"certificate of another":   {greeting: good, reply: "{tag} OK go", certificate: "other.example.org"},
		"certificate that expired": {greeting: good, reply: "{tag} OK go", certificate: "expired"},
		"certificate not trusted":  {greeting: good, reply: "{tag} OK go", certificate: "imap.example.org"},
	}
	for _, greeting := range []string{
		"* PREAUTH hello", "* preauth hello", "*  PREAUTH hello", "* PREAUTH [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello",
		"* BYE go away", "* BYE [REFERRAL imap://evil.example.org/] go there", "* NO no", "* BAD bad",
		"", " ", "*", "* ", "+ go on", "T1 OK ready", "P1 OK ready", "* OKAY ready", "* FLAGS ()", "* CAPABILITY IMAP4rev1",
		"HTTP/1.1 400 Bad Request", "SSH-2.0-x", "+OK ready", "\x16\x03\x01", strings.Repeat("x", 5000),
	} {
		cases["greeting "+greeting[:min(len(greeting), 50)]] = script{greeting: greeting, reply: "{tag} OK go", certificate: "good"}
	}
	for _, injected := range []string{
		"* CAPABILITY IMAP4rev1 AUTH=PLAIN", "* OK again", "* PREAUTH hello", "* BYE bye", "* 1 EXISTS", "T1 OK early", "T2 OK early",
		"P1 OK early", "+ ", "", " ", "x", "\x00", "* OK [ALERT] call us",
	} {
		cases["after greeting "+injected] = script{good + "\r\n" + injected, "{tag} OK go", "good"}
		cases["before OK "+injected] = script{good, injected + "\r\n{tag} OK go", "good"}
		cases["after OK "+injected] = script{good, "{tag} OK go\r\n" + injected, "good"}
	}
	for _, reply := range []string{
		"T1 OK go", "P1 OK go", "* OK go", "+ go", "OK go", "{tag}", "{tag} ", "{tag} OKAY go", "{tag} PREAUTH go", "{tag} BYE go",
		"x{tag} OK go", "{tag}x OK go", " {tag} OK go", "* {tag} OK go", strings.Repeat("x", 5000),
	} {
		cases["reply "+reply[:min(len(reply), 50)]] = script{good, reply, "good"}
	}
	t.Logf("%d cases", len(cases))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.options.TLS = TLSStartTLS
				f.options.TLSConfig = trusted("other.example.org", "expired")
				if c.certificate == "good" {
					f.options.TLSConfig = trusted("imap.example.org")
				}
				f.greet = func(conn *fakeConn) bool { return c.play(conn) }
				if name == "silent" {
					f.greet = func(conn *fakeConn) bool { conn.line(); return false }
				}
				d, err := f.upstream().Open(t.Context(), f.account())
				if err == nil {
					d.Close()
					t.Error("logged in")
				}
				if kind := upstream.Kind(err); kind != "unavailable" && kind != "timeout" && kind != "rejected" {
					t.Errorf("%v, want ErrUnavailable", err)
				}
				wantNoCredentials(t, f)
			})
		})
	}
}

// A script is what a server says before TLS, and with what certificate it goes
// on: "" is none, "good" the right one.
type script struct{ greeting, reply, certificate string }

func (s script) play(c *fakeConn) bool {
	c.say("%s", s.greeting)
	line, err := c.line()
	if err != nil || s.reply == "" {
		c.line()
		return false
	}
	tag, _, _ := strings.Cut(line, " ")
	c.say("%s", strings.ReplaceAll(s.reply, "{tag}", tag))
	switch s.certificate {
	case "":
		c.line()
		return false
	case "close":
		return false
	case "plaintext":
		c.say("* OK hello again")
		return true
	case "good":
		return c.encrypt("imap.example.org")
	}
	return c.encrypt(s.certificate)
}

func TestSTARTTLS(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.TLS = TLSStartTLS
		f.options.TLSConfig = trusted("imap.example.org")
		f.greet = func(c *fakeConn) bool {
			c.say("* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED AUTH=CRAM-MD5] ready")
			line, _ := c.line()
			c.tag, _, _ = strings.Cut(line, " ")
			c.ok("go")
			return c.encrypt("imap.example.org")
		}
		d := f.list()
		wantWhole(t, d, 0, f.messages[0].raw)
		wantNoCredentials(t, f)
		if got := f.sent("CAPABILITY"); len(got) < 2 {
			t.Errorf("capabilities were asked for %d times, want after TLS and after login", len(got))
		}
	})
}

// To a server with a wrong certificate nothing is sent, also with implicit TLS.
func TestWrongCertificateGetsNoCredentials(t *testing.T) {
	for _, certificate := range []string{"other.example.org", "expired", "imap.example.org"} {
		t.Run(certificate, func(t *testing.T) {
			l := listen(t)
			heard := make(chan []byte, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificates()[certificate]}})
				text, _ := io.ReadAll(server)
				c.Close()
				heard <- text
			}()
			config := trusted("other.example.org", "expired") // the third is signed by nobody
			config.ServerName = "imap.example.org"
			_, err := New(Options{Address: l.Addr().String(), TLSConfig: config}).Open(t.Context(), (*fake)(nil).account())
			wantError(t, "open", err, upstream.ErrUnavailable)
			var cause *tls.CertificateVerificationError
			if !errors.As(err, &cause) && !errors.As(err, new(x509.HostnameError)) {
				t.Errorf("%v does not say why", err)
			}
			if text := <-heard; len(text) > 0 {
				t.Errorf("the server heard %q", text)
			}
		})
	}
}

// A server that cannot be reached, does not speak or speaks out of turn is never
// taken for one that refuses the password, and waited for a minute at the most.
func TestNoConnectionIsErrUnavailable(t *testing.T) {
	for name, set := range map[string]func(f *fake){
		"refused": func(f *fake) {
			f.options.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
		},
		"no such host": func(f *fake) {
			f.options.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "SERVFAIL", Name: "imap.example.org"}
			}
		},
		"hangs": func(f *fake) {
			f.options.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		},
		"closes":          func(f *fake) { f.greet = func(*fakeConn) bool { return false } },
		"never greets":    func(f *fake) { f.greet = func(c *fakeConn) bool { c.line(); return false } },
		"half a greeting": func(f *fake) { f.greet = func(c *fakeConn) bool { c.begin("* OK rea"); c.line(); return false } },
		"BYE":             func(f *fake) { f.greet = func(c *fakeConn) bool { c.say("* BYE overloaded"); return false } },
		"PREAUTH": func(f *fake) {
			f.greet = func(c *fakeConn) bool { c.say("* PREAUTH welcome bob"); c.line(); return false }
		},
		"TLS to plaintext": func(f *fake) { f.options.TLS = TLSImplicit },
		"silent at login": func(f *fake) {
			f.fault = func(_ *fakeConn, command string) bool { return strings.HasPrefix(command, "LOGIN") }
		},
		"silent at SELECT": func(f *fake) {
			f.fault = func(_ *fakeConn, command string) bool { return strings.HasPrefix(command, "SELECT") }
		},
		"silent before login": func(f *fake) { f.fault = func(*fakeConn, string) bool { return true } },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				set(f)
				began := time.Now()
				_, err := f.upstream().Open(t.Context(), f.account())
				if err == nil || errors.Is(err, upstream.ErrAuth) || errors.Is(err, upstream.ErrRejected) {
					t.Errorf("%v, want ErrUnavailable", err)
				}
				if passed(began) > time.Minute {
					t.Errorf("took %v", passed(began))
				}
			})
		})
	}
}

// A server that takes nothing of what is sent.
func TestServerThatDoesNotRead(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		stop := make(chan struct{})
		f.greet = func(c *fakeConn) bool { c.say("* OK [CAPABILITY IMAP4rev1] ready"); <-stop; return false }
		began := time.Now()
		_, err := f.upstream().Open(t.Context(), f.account())
		wantError(t, "open", err, upstream.ErrUnavailable)
		if passed(began) != 30*time.Second {
			t.Errorf("took %v, want the write timeout", passed(began))
		}
		close(stop)
	})
}

func TestHooksTellOfEveryConnection(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		var mu sync.Mutex
		var connected, disconnected, logins, trips, received, sent int
		count := func(n *int, by int) { mu.Lock(); defer mu.Unlock(); *n += by }
		f.options.Hooks = upstream.Hooks{
			Connected:    func(time.Duration, error) { count(&connected, 1) },
			Disconnected: func() { count(&disconnected, 1) },
			LoggedIn:     func(time.Duration, error) { count(&logins, 1) },
			RoundTrip:    func() { count(&trips, 1) },
			Octets:       func(r, s int) { count(&received, r); count(&sent, s) },
		}
		d := f.list()
		wantWhole(t, d, 0, f.messages[0].raw)
		d.c.g.Close()
		wantWhole(t, d, 0, f.messages[0].raw)
		d.Close()
		synctest.Wait() // for the goodbye
		mu.Lock()
		defer mu.Unlock()
		if connected != 2 || disconnected != 2 || logins != 2 {
			t.Errorf("%d connected, %d disconnected, %d logins; want 2 each", connected, disconnected, logins)
		}
		if trips < 8 || received < 2*len(f.messages[0].raw) || sent != len(f.clear.String()) {
			t.Errorf("%d round trips, %d octets received, %d sent, %d arrived", trips, received, sent, len(f.clear.String()))
		}
	})
}
