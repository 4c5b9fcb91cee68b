package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/cmd/internal/demo"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// testCertificate returns the names of the files of a certificate and its key,
// and configurations for a server that has it and a client that trusts it.
func testCertificate(t *testing.T) (certificate, key string, server, client *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	if err := demo.WriteCertificate(certificate, key); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	return certificate, key, &tls.Config{Certificates: []tls.Certificate{pair}}, &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

func TestListenersUpstreamsAndRoutes(t *testing.T) {
	t.Parallel()
	certificate, key, _, trusting := testCertificate(t)
	office, shop := startIMAP(t, nil), startIMAP(t, nil)
	fast := jmapserver.New("dora", "d")
	for i := range 5 {
		fast.Deliver(t, upstreamtest.Letter(i, 400))
	}
	web := httptest.NewServer(fast)
	defer web.Close()
	office.add(t, "ann", "a", 1)
	office.add(t, "bob@shop.example", "b", 2)
	shop.add(t, "ann", "a", 3)
	shop.add(t, "bob@shop.example", "b", 4)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners:
  - {address: "127.0.0.1:0"}
  - {address: "127.0.0.1:0", tls: stls, certificate: %[1]q, key: %[2]q, plaintext_login: []}
  - {address: "127.0.0.1:0", tls: implicit, certificate: %[1]q, key: %[2]q}
upstreams:
  office: {protocol: imap, address: %[3]q, tls: off}
  shop: {protocol: imap, address: %[4]q, tls: off}
  fast: {protocol: jmap, url: %[5]q, plain_http: true}
routes:
  - {user: "*@SHOP.example", upstream: shop}
  - {user: dora, upstream: fast}
  - {user: "a*", upstream: office}
`, certificate, key, office.address, shop.address, web.URL+"/.well-known/jmap"))
	at := p.addresses(t)
	plain := dialPOP(t, at[0], nil)
	plain.login("ann", "a", "+OK")
	plain.say("STAT", "+OK 1 ")
	plain.say("STLS", "-ERR")
	plain.say("QUIT", "+OK")

	upgraded := dialPOP(t, at[1], nil)
	upgraded.say("USER bob@shop.example", "-ERR")
	upgraded.say("QUIT", "+OK")

	encrypted := dialPOP(t, at[2], trusting)
	encrypted.login("bob@shop.example", "b", "+OK")
	encrypted.say("STAT", "+OK 4 ")
	encrypted.say("QUIT", "+OK")

	other := dialPOP(t, at[0], nil)
	other.login("dora", "d", "+OK")
	other.say("STAT", "+OK 5 ")
	other.say("DELE 2", "+OK")
	other.say("QUIT", "+OK")
	if n := len(fast.Messages(t)); n != 4 {
		t.Errorf("%d messages left at the JMAP server, want 4", n)
	}

	nobody := dialPOP(t, at[0], nil)
	nobody.login("carl", "a", "-ERR [AUTH]")
	nobody.say("QUIT", "+OK")
}

func TestFaultC12SecondSessionIsInUse(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 1)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
`, server.address))
	at := p.addresses(t)
	first, second := dialPOP(t, at[0], nil), dialPOP(t, at[0], nil)
	first.login("ann", "a", "+OK")
	second.login("ann", "a", "-ERR [IN-USE]")
	first.say("QUIT", "+OK")
	first.expectEnd()
	second.login("ann", "a", "+OK")
}

// drainable starts a gateway to a server with an account ann of three messages.
func drainable(t *testing.T) (p *process, server *memoryIMAP, pop, admin string) {
	server = startIMAP(t, nil)
	server.add(t, "ann", "a", 3)
	p = spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
shutdown_timeout: 30s
`, server.address))
	at := p.addresses(t)
	return p, server, at[0], at[1]
}

func TestFaultH1SIGTERMInTransactionRemovesNothing(t *testing.T) {
	t.Parallel()
	p, server, pop, _ := drainable(t)
	fresh, c := dialPOP(t, pop, nil), dialPOP(t, pop, nil)
	c.login("ann", "a", "+OK")
	c.say("DELE 1", "+OK")
	p.Process.Signal(syscall.SIGTERM)
	for _, waiting := range []popClient{fresh, c} {
		waiting.expect("-ERR [SYS/TEMP]")
		waiting.expectEnd()
	}
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
	if n := server.messages(t, "ann"); n != 3 {
		t.Errorf("%d messages left, want 3", n)
	}
}

// TestWarmRoute polls: the connection of the first session serves the second, not
// a wrong password, and ends with the gateway.
func TestWarmRoute(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 3)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office, warm: 5m}]
`, server.address))
	at := p.addresses(t)
	for _, password := range []string{"a", "a", "wrong", "a", "a"} {
		c := dialPOP(t, at[0], nil)
		if password == "a" {
			c.login("ann", "a", "+OK")
			c.say("STAT", "+OK 3 ")
			c.say("QUIT", "+OK")
			c.expectEnd()
		} else {
			c.login("ann", password, "-ERR [AUTH]")
		}
	}
	_, page := get(t, "http://"+at[1]+"/metrics")
	for _, want := range []string{
		`postern_warm_logins_total{protocol="imap",result="hit",upstream="office"} 2`,
		`postern_warm_logins_total{protocol="imap",result="miss",upstream="office"} 3`,
		`postern_upstream_connections_open{protocol="imap",upstream="office"} 1`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no line %s", want)
		}
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
}

// heldUp has a session in the UPDATE state, with the server holding it there.
func heldUp(t *testing.T, server *memoryIMAP, pop string) (c popClient, release func()) {
	reached, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	release = func() { once.Do(func() { close(held) }) }
	t.Cleanup(release)
	var first sync.Once
	server.beforeExpunge(func() {
		first.Do(func() { close(reached) })
		<-held
	})
	c = dialPOP(t, pop, nil)
	c.login("ann", "a", "+OK")
	c.say("DELE 1", "+OK")
	if err := c.PrintfLine("QUIT"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		t.Fatal("QUIT does not expunge")
	}
	return c, release
}

func TestFaultH2SIGTERMInUpdateLetsItFinish(t *testing.T) {
	t.Parallel()
	p, server, pop, admin := drainable(t)
	c, release := heldUp(t, server, pop)
	p.Process.Signal(syscall.SIGTERM)
	p.await(t, "shutting down")
	if status, body := get(t, "http://"+admin+"/readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
		t.Errorf("readyz while draining: %d %q, want 503 draining", status, body)
	}
	release()
	c.expect("+OK")
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
	if n := server.messages(t, "ann"); n != 2 {
		t.Errorf("%d messages left, want 2", n)
	}
}

func TestSecondSignalDoesNotWait(t *testing.T) {
	t.Parallel()
	p, server, pop, _ := drainable(t)
	heldUp(t, server, pop)
	p.Process.Signal(syscall.SIGTERM)
	p.await(t, "shutting down")
	p.Process.Signal(os.Interrupt)
	if code := p.end(t); code != exitFailed {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(p.output(), "1 removal not finished") {
		t.Errorf("it does not say that a removal is not finished:\n%s", p.output())
	}
}

// TestSlowClientDoesNotFailTheShutdown: a client that takes its message slowly is
// cut off when the time for the drain is over. Nothing is lost by that, so that
// the exit code is that of any other end.
func TestSlowClientDoesNotFailTheShutdown(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "a", 0)
	large := []byte(upstreamtest.Letter(0, 32<<20)) // more than the kernel holds for a client
	if _, err := server.users["ann"].Append("INBOX", bytesLiteral{bytes.NewReader(large)}, &imap.AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
shutdown_timeout: 1s
`, server.address))
	c := dialPOP(t, p.addresses(t)[0], nil)
	c.login("ann", "a", "+OK")
	c.say("RETR 1", "+OK")
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, want := range []string{`level=WARN msg="sessions cut off in the shutdown" sessions=1 `, "shut down"} {
		if !strings.Contains(p.output(), want) {
			t.Errorf("the log lacks %s:\n%s", want, p.output())
		}
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestNoSecretIsTold(t *testing.T) {
	const secret, wrong = "Canary-c0rrect-h0rse", "Canary-wr0ng-battery"
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			certificate, key, _, trusting := testCertificate(t)
			server := startIMAP(t, nil)
			server.add(t, "ann", secret, 2)
			p := spawn(t, "serve", "-c", writeConfig(t, `
log: {level: debug, format: %s}
listeners: [{address: "127.0.0.1:0", tls: implicit, certificate: %q, key: %q}]
admin: {address: "127.0.0.1:0"}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
`, format, certificate, key, server.address))
			at := p.addresses(t)
			c := dialPOP(t, at[0], trusting)
			c.login("ann", wrong, "-ERR [AUTH]")
			c.say("PASS "+secret, "-ERR") // out of turn
			c.say(secret, "-ERR")         // as if it were a command
			c.say("AUTH PLAIN "+plain("ann", secret), "+OK")
			c.retrieve(1)
			c.say("DELE 1", "+OK")
			c.say("QUIT", "+OK")
			_, metrics := get(t, "http://"+at[1]+"/metrics")
			_, page := get(t, "http://"+at[1]+"/")
			p.Process.Signal(syscall.SIGTERM)
			if code := p.end(t); code != exitFine {
				t.Errorf("exit code %d, want 0", code)
			}
			if !strings.Contains(p.output(), "DELE") || !strings.Contains(metrics, "postern_logins_total") {
				t.Fatalf("not all was logged and counted:\n%s", p.output())
			}
			for where, text := range map[string]string{"output": p.output(), "metrics": metrics, "status page": page} {
				for _, form := range append(forms("ann", secret), forms("ann", wrong)...) {
					if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
						t.Errorf("%s holds a password as %s", where, form)
					}
				}
			}
		})
	}
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// forms are the ways in which a password may be found.
func forms(user, password string) []string {
	return []string{
		password,
		base64.StdEncoding.EncodeToString([]byte(password)),
		strings.TrimRight(plain(user, password), "="),
		fmt.Sprintf("%x", password),
	}
}
