package proxy

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"io"
	"log/slog"
	"math/big"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postern/proxy/pop3"
	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/private"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority makes one that is its own authority, or has another above it.
func newAuthority(t *testing.T, name string, above *authority) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{template, newKey(t)}
	if above == nil {
		above = a
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above.certificate, &a.key.PublicKey, above.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign makes a client's certificate, which change may make another one.
func (a *authority) sign(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "ann"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// certified lets in whoever has a certificate that was verified, under the name
// in it.
type certified struct{ doorman }

func (certified) Mechanisms(c pop3.Client) []string {
	if c.TLS == nil || len(c.TLS.VerifiedChains) == 0 {
		return nil
	}
	return []string{"EXTERNAL"}
}

func (certified) Exchange(_ string, c pop3.Client) pop3.Exchange {
	return external{c.TLS.VerifiedChains[0][0].Subject.CommonName}
}

type external struct{ user string }

func (external) Next(context.Context, []byte) ([]byte, bool, error) { return nil, true, nil }
func (e external) User() string                                     { return e.user }

func (e external) Login(ctx context.Context) (pop3.Login, error) {
	m := upstreamtest.NewMemory(e.user, "right")
	drop, err := m.Open(ctx, upstream.Account{User: e.user, Password: upstream.NewSecret("right")})
	return pop3.Login{Maildrop: drop, Account: e.user}, err
}

// serveCertified runs listeners of both ways to TLS that trust an authority.
func serveCertified(t *testing.T, cas *x509.CertPool, log *slog.Logger) (*Server, *trust) {
	t.Helper()
	cert, trust := certificate(t, "pop")
	return serve(t, Options{
		Authenticator: certified{},
		Listeners: []Listener{
			{TLS: Implicit, Certificate: cert, ClientCAs: cas},
			{TLS: STLS, Certificate: cert, ClientCAs: cas},
			{TLS: Implicit, Certificate: cert},
		},
		Log: log,
	}), trust
}

// capabilities returns what CAPA lists.
func (c *client) capabilities() string {
	c.t.Helper()
	c.say("CAPA", "+OK")
	all := ""
	for line := c.line(); line != "."; line = c.line() {
		if strings.HasPrefix(line, "<") {
			c.t.Fatalf("capabilities: %s", line)
		}
		all += line + "\n"
	}
	return all
}

// A certificate lets in whoever has it, and nobody has to have one.
func TestClientCertificates(t *testing.T) {
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	chained := middle.sign(t, nil)
	chained.Certificate = append(chained.Certificate, middle.certificate.Raw)
	s, trust := serveCertified(t, root.pool(), nil)
	for name, pairs := range map[string][]tls.Certificate{
		"signed by the root":         {root.sign(t, nil)},
		"signed by one the root did": {chained},
		"none":                       nil,
	} {
		for listener, greets := range []bool{true, false} {
			config := trust.client()
			config.Certificates = pairs
			c, err := dialTLS(t, s, listener, config)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if greets {
				c.expect("+OK")
			}
			if got := strings.Contains(c.capabilities(), "SASL PLAIN LOGIN EXTERNAL\n"); got != (pairs != nil) {
				t.Errorf("%s: EXTERNAL offered: %v, want %v", name, got, pairs != nil)
			}
			if pairs == nil {
				c.say("AUTH EXTERNAL =", "-ERR mechanism not supported")
				c.login("bob")
				continue
			}
			c.say("AUTH EXTERNAL =", "+OK maildrop has 0 messages")
			if open, strangers := s.Connections(); strangers >= open {
				t.Errorf("%s: %d connections, %d strangers, want this one to be known", name, open, strangers)
			}
		}
	}
}

// A listener that does not ask for certificates takes none.
func TestClientCertificateNotAskedFor(t *testing.T) {
	root := newAuthority(t, "root", nil)
	s, trust := serveCertified(t, root.pool(), nil)
	config := trust.client()
	config.Certificates = []tls.Certificate{root.sign(t, nil)}
	c, err := dialTLS(t, s, 2, config)
	if err != nil {
		t.Fatal(err)
	}
	c.expect("+OK")
	c.say("AUTH EXTERNAL =", "-ERR mechanism not supported")
}

// What is wrong with a certificate costs the connection (C13), and what is
// logged of it holds none of its names.
func TestFaultC13ClientCertificatesRefused(t *testing.T) {
	root := newAuthority(t, "root", nil)
	other := newAuthority(t, "root", nil)
	leaf := root.sign(t, nil)
	leafAuthority := &authority{mustParse(t, leaf.Certificate[0]), leaf.PrivateKey.(*ecdsa.PrivateKey)}
	long := root.sign(t, nil)
	for range 1000 { // more than crypto/tls reads
		long.Certificate = append(long.Certificate, root.certificate.Raw)
	}
	cases := map[string]struct {
		pair tls.Certificate
		want string // in the log
	}{
		"unknown authority": {other.sign(t, nil), "not from an authority that this listener trusts"},
		"expired": {root.sign(t, func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(-time.Second)
		}), "not valid at this time"},
		"not valid yet": {root.sign(t, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Minute)
		}), "not valid at this time"},
		"for servers": {root.sign(t, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "not for client authentication"},
		"signed by a client": {leafAuthority.sign(t, nil), "client certificate not"},
		"junk":               {tls.Certificate{Certificate: [][]byte{[]byte("junk")}, PrivateKey: newKey(t)}, "failed to parse"},
		"another's":          {tls.Certificate{Certificate: leaf.Certificate, PrivateKey: newKey(t)}, "invalid signature"},
		"a very long chain":  {long, "reason=tls"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				var log bytes.Buffer
				s, trust := serveCertified(t, root.pool(), slog.New(slog.NewTextHandler(&log, nil)))
				config := trust.client()
				config.MaxVersion = version
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.pair, nil }
				conn, err := dialTLS(t, s, 0, config)
				if err == nil { // with TLS 1.3, the client learns of it later
					if got := conn.line(); !strings.HasPrefix(got, "<") {
						t.Errorf("%s: got %q, want the connection closed", tls.VersionName(version), got)
					}
				}
				io.Copy(io.Discard, conn.Conn.(*tls.Conn).NetConn()) // until the session has ended
				conn.Close()
				s.Shutdown(t.Context())
				if got := log.String(); !strings.Contains(got, c.want) || !strings.Contains(got, "reason=tls") || strings.Contains(got, "ann") || strings.Contains(got, "root") {
					t.Errorf("%s: got the log %q, want %q in it, and no name", tls.VersionName(version), got, c.want)
				}
			}
		})
	}
}

func mustParse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A certificate that a session ticket brings back counts only as long as it is
// valid, and the ticket at no other listener.
func TestClientCertificateResumed(t *testing.T) {
	root := newAuthority(t, "root", nil)
	s, trust := serveCertified(t, root.pool(), nil)
	config := trust.client()
	config.Certificates = []tls.Certificate{root.sign(t, nil)}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i, listener := range []int{0, 0, 2} {
		c, err := dialTLS(t, s, listener, config)
		if err != nil {
			t.Fatal(err)
		}
		c.expect("+OK")
		resumed := c.Conn.(*tls.Conn).ConnectionState().DidResume
		if want := i == 1; resumed != want {
			t.Errorf("connection %d: resumed %v, want %v", i, resumed, want)
		}
		want := "+OK maildrop has 0 messages"
		if listener == 2 {
			want = "-ERR mechanism not supported"
		}
		c.say("AUTH EXTERNAL =", want)
		c.say("QUIT", "+OK")
		c.ended()
	}
}

// Protocols before TLS 1.2 are refused (C13).
func TestFaultC13OldTLSRefused(t *testing.T) {
	s, trust := serveCertified(t, nil, nil)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		for listener := range 2 {
			config := trust.client()
			config.MinVersion, config.MaxVersion = version, version
			if _, err := dialTLS(t, s, listener, config); err == nil || !strings.Contains(err.Error(), "protocol version") {
				t.Errorf("%s at listener %d: got %v, want the version refused", tls.VersionName(version), listener, err)
			}
		}
	}
}

// Renegotiation is refused (C13).
func TestFaultC13RenegotiationRefused(t *testing.T) {
	program := private.Program(t, "openssl")
	s, _ := serveCertified(t, nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "s_client", "-starttls", "pop3", "-connect", s.Addrs()[1].String(), "-tls1_2") // no greeting comes between
	cmd.Stdin = strings.NewReader("R\nCAPA\n")
	out, _ := cmd.CombinedOutput() // it fails
	if got := string(out); !strings.Contains(got, "alert unexpected message") || strings.Contains(got, "capability list") || ctx.Err() != nil {
		t.Errorf("openssl: got %q, %v, want an alert for the second handshake", got, ctx.Err())
	}
}

// A flood of key updates (RFC 8446 section 4.6.3) ends the connection instead of
// keeping a processor busy (C13). crypto/tls sends none, so that they are made
// here from the secret that it logs.
func TestFaultC13KeyUpdateFlood(t *testing.T) {
	var log, keys bytes.Buffer
	s, trust := serveCertified(t, nil, slog.New(slog.NewTextHandler(&log, nil)))
	config := trust.client()
	config.KeyLogWriter = &keys
	c, err := dialTLS(t, s, 0, config)
	if err != nil {
		t.Fatal(err)
	}
	c.expect("+OK")
	var label, secret string
	for line := range strings.Lines(keys.String()) {
		if fields := strings.Fields(line); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			label, secret = fields[0], fields[2]
		}
	}
	traffic, err := hex.DecodeString(secret)
	if state := c.Conn.(*tls.Conn).ConnectionState(); err != nil || label == "" || state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("TLS_AES_128_GCM_SHA256 expected, got %s", tls.CipherSuiteName(state.CipherSuite))
	}
	raw := c.Conn.(*tls.Conn).NetConn()
	raw.SetDeadline(time.Now().Add(time.Minute))
	for range 1000 {
		if _, err := raw.Write(keyUpdate(t, traffic)); err != nil {
			break
		}
		traffic = expandLabel(t, traffic, "traffic upd", 32)
	}
	io.Copy(io.Discard, raw) // until it is closed, or a minute has passed
	s.Shutdown(t.Context())
	if want := "too many non-advancing records"; !strings.Contains(log.String(), want) {
		t.Errorf("got the log %q, want %q in it", log.String(), want)
	}
}

// keyUpdate is a record with a key update that asks for another one, the first
// under its secret.
func keyUpdate(t *testing.T, secret []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(expandLabel(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte{24, 0, 0, 1, 1, 22} // and its content type
	header := []byte{23, 3, 3, 0, byte(len(message) + aead.Overhead())}
	return aead.Seal(header, expandLabel(t, secret, "iv", 12), message, header)
}

// expandLabel is HKDF-Expand-Label of RFC 8446 section 7.1 without a context.
func expandLabel(t *testing.T, secret []byte, label string, length int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := string([]byte{0, byte(length), byte(len(label))}) + label + "\x00"
	key, err := hkdf.Expand(sha256.New, secret, info, length)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
