package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// trust is where a test's certificates are, and what a client needs to check them.
type trust struct {
	certFile, keyFile string
	roots             *x509.CertPool
}

func (r *trust) client() *tls.Config {
	return &tls.Config{RootCAs: r.roots, ServerName: "pop.example.org"}
}

// certificate makes a pair in two files and loads it.
func certificate(t *testing.T, name string) (*Certificate, *trust) {
	t.Helper()
	dir := t.TempDir()
	r := &trust{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()}
	cert, key := r.pair(t, name)
	r.write(t, r.certFile, cert)
	r.write(t, r.keyFile, key)
	c, err := LoadCertificate(r.certFile, r.keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

// pair makes a self-signed certificate that clients will trust, and its key.
func (r *trust) pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{"pop.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	r.roots.AppendCertsFromPEM(cert)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func (r *trust) write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// age makes the files look as if they were written long ago.
func (r *trust) age(t *testing.T, ago time.Duration) {
	t.Helper()
	for _, file := range []string{r.certFile, r.keyFile} {
		then := time.Now().Add(-ago)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

// shown returns the name in the certificate that the next handshake shows.
func shown(t *testing.T, c *Certificate) string {
	t.Helper()
	pair, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Subject.CommonName
}

// A renewal shows in the next handshake; at no step of it is there no pair.
func TestFaultH12CertificateRotation(t *testing.T) {
	c, r := certificate(t, "old")
	newCert, newKey := r.pair(t, "new")
	see := func(step, want string) {
		t.Helper()
		if got := shown(t, c); got != want {
			t.Errorf("%s: got the %s certificate, want the %s one", step, got, want)
		}
	}
	see("before", "old")
	r.write(t, r.certFile, newCert)
	see("new certificate, old key", "old")
	r.write(t, r.keyFile, newKey[:len(newKey)/2])
	see("half a key", "old")
	if err := os.Remove(r.keyFile); err != nil {
		t.Fatal(err)
	}
	see("no key", "old")
	r.write(t, r.keyFile, newKey)
	see("both", "new")
	r.write(t, r.certFile, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	see("garbage", "new")
	if got := time.Until(c.Expires()); got <= 0 || got > time.Hour {
		t.Errorf("expires in %v, want within the hour", got)
	}
}

// Files that have not changed for a while are not read again; a change is seen
// even if it keeps size and time.
func TestCertificateReadOnlyWhenChanged(t *testing.T) {
	c, r := certificate(t, "old")
	r.age(t, time.Hour)
	first, _ := c.get(nil)
	if second, _ := c.get(nil); first != second {
		t.Error("unchanged files were read again")
	}
	newCert, newKey := r.pair(t, "new")
	for file, content := range map[string][]byte{r.certFile: newCert, r.keyFile: newKey} {
		r.write(t, file+".new", content)
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	r.age(t, time.Hour)
	if got := shown(t, c); got != "new" {
		t.Errorf("after renaming files into place: got %s, want new", got)
	}
}

// Two writes within one tick of the file system's clock are two changes.
func TestCertificateWrittenTwiceAtOnce(t *testing.T) {
	c, r := certificate(t, "old")
	tick := time.Now()
	padded := func(pem []byte) []byte { return append(pem, bytes.Repeat([]byte("\n"), 2000-len(pem))...) }
	for _, name := range []string{"one", "two", "three"} {
		cert, key := r.pair(t, name)
		r.write(t, r.certFile, padded(cert))
		r.write(t, r.keyFile, padded(key))
		for _, file := range []string{r.certFile, r.keyFile} {
			if err := os.Chtimes(file, tick, tick); err != nil {
				t.Fatal(err)
			}
		}
		if got := shown(t, c); got != name {
			t.Errorf("got %s, want %s", got, name)
		}
	}
}

func TestCertificateFaultIsLoggedOnce(t *testing.T) {
	c, r := certificate(t, "old")
	var log bytes.Buffer
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	cert, key := r.pair(t, "new")
	r.write(t, r.certFile, cert)
	for range 5 {
		shown(t, c)
	}
	r.write(t, r.keyFile, key)
	for range 5 {
		shown(t, c)
	}
	for _, line := range []string{"not usable", "certificate loaded"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q: logged %d times, want once\n%s", line, n, log.String())
		}
	}
}

func TestLoadCertificateFaults(t *testing.T) {
	_, r := certificate(t, "one")
	_, otherKey := r.pair(t, "other")
	wrong := filepath.Join(t.TempDir(), "key.pem")
	r.write(t, wrong, otherKey)
	for name, files := range map[string][2]string{
		"no certificate": {"/nonexistent/cert.pem", r.keyFile},
		"no key":         {r.certFile, "/nonexistent/key.pem"},
		"mismatch":       {r.certFile, wrong},
		"swapped":        {r.keyFile, r.certFile},
	} {
		if _, err := LoadCertificate(files[0], files[1], nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// While the files are replaced over and over, every handshake succeeds.
func TestNoHandshakeFailsWhileRotating(t *testing.T) {
	cert, r := certificate(t, "0")
	s := serve(t, Options{Authenticator: doorman{}, Listeners: []Listener{{TLS: Implicit, Certificate: cert}}})
	type pem struct{ cert, key []byte }
	var pairs []pem
	for range 20 {
		cert, key := r.pair(t, "next")
		pairs = append(pairs, pem{cert, key})
	}
	rotated := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for done := false; !done; {
				select {
				case <-rotated:
					done = true // once more, with the last pair
				default:
				}
				conn, err := tls.Dial("tcp", s.Addrs()[0].String(), r.client())
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				conn.Close()
			}
		})
	}
	for _, p := range pairs {
		r.write(t, r.certFile, p.cert)
		shown(t, cert)
		r.write(t, r.keyFile, p.key)
	}
	close(rotated)
	clients.Wait()
	last, err := tls.X509KeyPair(pairs[len(pairs)-1].cert, pairs[len(pairs)-1].key)
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := cert.get(nil); !now.Leaf.Equal(last.Leaf) {
		t.Error("the last pair written is not the one shown")
	}
}
