package compare

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"postern/cmd/popbench/internal/load"
)

// build builds the gateway from the checkout.
func (b *bench) build(ctx context.Context) error {
	b.Postern = b.path("postern")
	c := exec.CommandContext(ctx, "go", "build", "-o", b.Postern, "./cmd/postern")
	c.Dir = b.Checkout
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", c.Args, err, out)
	}
	return nil
}

type posternOptions struct {
	tls  bool   // on both sides
	warm bool   // with the line of configuration that was given
	jmap string // address of a JMAP server to use instead of IMAP
}

// startPostern starts a gateway to an upstream, with an empty state.
func (b *bench) startPostern(ctx context.Context, name, upstream string, o posternOptions) (p *process, target load.Target, err error) {
	target.TLS = "off"
	if o.tls {
		target.TLS, target.Config = "implicit", &tls.Config{InsecureSkipVerify: true} // its own, made for this run
	}
	dir := b.path(name)
	err = withRetry(func() (err error) {
		if err := freeAddresses(&target.Address); err != nil {
			return err
		}
		os.RemoveAll(dir) // of a gateway of that name that has ended
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		config := dir + "/postern.yaml"
		if err := os.WriteFile(config, []byte(b.posternConfig(target.Address, upstream, dir, o)), 0o644); err != nil {
			return err
		}
		if p, err = start(dir, nil, b.Postern, "serve", "--config", config); err != nil {
			return err
		}
		b.atEnd(p.stop)
		return p.ready(ctx, target.Address, !o.tls)
	})
	return p, target, err
}

func (b *bench) posternConfig(address, upstream, dir string, o posternOptions) string {
	var y strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&y, format+"\n", args...) }
	f("log: {level: warn}")
	f("limits: {connections_per_address: 10000}")
	f("listeners:")
	f("  - address: %s", address)
	if o.tls {
		f("    tls: implicit\n    certificate: %s\n    key: %s", b.certFile, b.keyFile)
	}
	if b.Config != "" {
		f("%s", strings.ReplaceAll(b.Config, "DIR", dir))
	}
	if !strings.Contains(b.Config, "state:") {
		f("state: {path: %s/state}", dir)
	}
	f("upstreams:\n  upstream:")
	switch {
	case o.jmap != "":
		f("    protocol: jmap\n    url: http://%s/.well-known/jmap\n    plain_http: true", upstream)
	case o.tls:
		f("    protocol: imap\n    address: %s\n    tls: implicit\n    ca_file: %s", upstream, b.certFile)
	default:
		f("    protocol: imap\n    address: %s\n    tls: off", upstream)
	}
	if o.warm {
		f("    %s", b.Warm)
	}
	f("routes:\n  - user: \"*\"\n    upstream: upstream")
	return y.String()
}

// writeCertificate makes the certificate that every TLS server here shows. It
// is its own authority.
func (b *bench) writeCertificate() error {
	b.certFile, b.keyFile = b.path("cert.pem"), b.path("key.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(b.certFile, "CERTIFICATE", cert); err != nil {
		return err
	}
	return writePEM(b.keyFile, "PRIVATE KEY", private)
}

func writePEM(path, kind string, der []byte) error {
	// Dovecot, running as another user, reads the key of this one run too.
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644)
}
