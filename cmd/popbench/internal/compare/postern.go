package compare

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"postern/cmd/popbench/internal/load"
	"postern/upstream/upstreamtest/private"
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
func (b *bench) startPostern(ctx context.Context, name, upstream string, o posternOptions) (p *private.Server, target load.Target, err error) {
	target.TLS = "off"
	if o.tls {
		target.TLS, target.Config = "implicit", &tls.Config{InsecureSkipVerify: true} // its own, made for this run
	}
	if p, err = b.newServer(name, ""); err != nil {
		return nil, target, err
	}
	if err := p.Hold(&target.Address); err != nil {
		return nil, target, err
	}
	const config = "postern.yaml"
	if err := p.Write(config, b.posternConfig(target.Address, upstream, p.Dir, o)); err != nil {
		return nil, target, err
	}
	greeting := "+OK"
	if o.tls {
		greeting = ""
	}
	return p, target, start(ctx, p, greeting, target.Address, b.Postern, "serve", "--config", config)
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
		f("    protocol: imap\n    address: %s\n    tls: implicit\n    ca_file: %s", upstream, b.caFile)
	default:
		f("    protocol: imap\n    address: %s\n    tls: off", upstream)
	}
	f("routes:\n  - user: \"*\"\n    upstream: upstream")
	if o.warm {
		f("    %s", b.Warm)
	}
	return y.String()
}

// writeCertificate makes the certificate that every TLS server here shows, and
// the authority that clients trust.
func (b *bench) writeCertificate() error {
	ca, cert, key, err := private.Certificates()
	b.caFile, b.certFile, b.keyFile = b.path("ca.pem"), b.path("cert.pem"), b.path("key.pem")
	// Dovecot, running as another user, reads the key of this one run too.
	return errors.Join(err,
		os.WriteFile(b.caFile, []byte(ca), 0o644),
		os.WriteFile(b.certFile, []byte(cert), 0o644),
		os.WriteFile(b.keyFile, []byte(key), 0o644))
}
