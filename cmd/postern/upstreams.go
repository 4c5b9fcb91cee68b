package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"postern/cmd/internal/config"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/jmapc"
)

// openUpstream returns what opens the maildrops of an upstream.
func openUpstream(u config.Upstream, hooks upstream.Hooks, log *slog.Logger) (upstream.Opener, error) {
	if u.Protocol == config.JMAP {
		return newJMAP(u, hooks, log)
	}
	return newIMAP(u, hooks, log)
}

func newIMAP(u config.Upstream, hooks upstream.Hooks, log *slog.Logger) (*imapc.Upstream, error) {
	trust, err := trust(u)
	if err != nil {
		return nil, err
	}
	modes := map[string]imapc.TLSMode{
		config.TLSImplicit: imapc.TLSImplicit,
		config.TLSStartTLS: imapc.TLSStartTLS,
		config.TLSOff:      imapc.TLSOff,
	}
	return imapc.New(imapc.Options{
		Address:    u.Address,
		TLS:        modes[u.TLS],
		TLSConfig:  trust,
		MaxMessage: u.MaxMessage,
		Version:    readBuild().version,
		Hooks:      hooks,
		Log:        log,
	}), nil
}

func newJMAP(u config.Upstream, hooks upstream.Hooks, log *slog.Logger) (*jmapc.Upstream, error) {
	trust, err := trust(u)
	if err != nil {
		return nil, err
	}
	schemes := map[string]jmapc.Scheme{
		config.Basic:  jmapc.Basic,
		config.Bearer: jmapc.Bearer,
	}
	return jmapc.New(jmapc.Options{
		URL:       u.URL,
		Domain:    u.Domain,
		Scheme:    schemes[u.Credentials],
		PlainHTTP: u.PlainHTTP,
		TLSConfig: trust,
		Version:   readBuild().version,
		Hooks:     hooks,
		Log:       log,
	}), nil
}

// checkUIDL tells what is wrong with a UIDL template.
func checkUIDL(string) error { return nil }

// resumable is how many TLS sessions are kept to be resumed, per upstream.
const resumable = 256

// trust returns the TLS configuration that decides whether a server is the
// upstream that is meant. Every upstream has its own, and its own cache, so that
// no session is resumed that another one's trust began.
func trust(u config.Upstream) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         u.ServerName,
		ClientSessionCache: tls.NewLRUClientSessionCache(resumable),
	}
	if u.CAFile != "" {
		pem, err := os.ReadFile(u.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("upstream %s: no certificate in %s", u.Name, u.CAFile)
		}
	}
	if u.Fingerprint != nil {
		c.InsecureSkipVerify = true // in favour of what follows, which resumption does not skip
		c.VerifyConnection = pinned(u.Fingerprint)
	}
	return c, nil
}

var errNotPinned = errors.New("the server's certificate does not have the fingerprint that is configured")

// pinned accepts the one certificate that has that SHA-256 digest, whoever
// signed it and whatever its names and dates are.
func pinned(digest []byte) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errNotPinned
		}
		got := sha256.Sum256(s.PeerCertificates[0].Raw)
		if subtle.ConstantTimeCompare(got[:], digest) != 1 {
			return fmt.Errorf("%w; it has %x", errNotPinned, got)
		}
		return nil
	}
}
