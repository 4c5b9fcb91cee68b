package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"postern/cmd/internal/config"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/jmapc"
	"postern/upstream/provider"
	"postern/upstream/spool"
)

// A wiring is what an adapter is connected to, besides its upstream. The zero
// value serves to look at an upstream.
type wiring struct {
	trust    *tls.Config // of the upstream, shared by its adapters; nil makes one
	policy   upstream.Policy
	uidl     string // template
	journal  upstream.Journal
	listings upstream.ListingCache
	warm     time.Duration
	stable   *imapc.Stable // of all adapters; nil makes one
	pool     *spool.Pool   // of all adapters; nil makes one
	hooks    upstream.Hooks
	log      *slog.Logger
}

// newAdapter returns what opens the maildrops of an upstream.
func newAdapter(u config.Upstream, w wiring) (upstream.Opener, error) {
	if u.Protocol == config.JMAP {
		return newJMAP(u, w)
	}
	return newIMAP(u, w)
}

func newIMAP(u config.Upstream, w wiring) (*imapc.Upstream, error) {
	trust, err := w.trustFor(u)
	if err != nil {
		return nil, err
	}
	uidl, err := imapc.ParseUIDL(w.uidl)
	if err != nil {
		return nil, err
	}
	modes := map[string]imapc.TLSMode{
		config.TLSImplicit: imapc.TLSImplicit,
		config.TLSStartTLS: imapc.TLSStartTLS,
		config.TLSOff:      imapc.TLSOff,
	}
	return imapc.New(imapc.Options{
		Address:       u.Address,
		TLS:           modes[u.TLS],
		TLSConfig:     trust,
		Policy:        w.policy,
		Journal:       w.journal,
		UIDL:          uidl,
		Listings:      w.listings,
		Warm:          w.warm,
		Stable:        w.stable,
		Pool:          w.pool,
		MaxMessage:    u.MaxMessage,
		Compress:      u.Compress,
		PreferXOAUTH2: u.PreferXOAUTH2,
		Version:       readBuild().version,
		Hooks:         w.hooks,
		Log:           w.log,
	}), nil
}

func newJMAP(u config.Upstream, w wiring) (*jmapc.Upstream, error) {
	trust, err := w.trustFor(u)
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
		Policy:    w.policy,
		Journal:   w.journal,
		Listings:  w.listings,
		Pool:      w.pool,
		Warm:      w.warm,
		Version:   readBuild().version,
		Hooks:     w.hooks,
		Log:       w.log,
	}), nil
}

func (w wiring) trustFor(u config.Upstream) (*tls.Config, error) {
	if w.trust != nil {
		return w.trust, nil
	}
	return trust(u)
}

// profile is what is known of an upstream's provider, also where it is not named.
func profile(u config.Upstream) provider.Profile {
	p, ok := provider.Find(u.Provider)
	if !ok {
		host, _, _ := net.SplitHostPort(u.Address)
		p, ok = provider.For(host)
	}
	if !ok {
		p, _ = provider.Find("generic")
	}
	return p
}

// checkUIDL tells what is wrong with a UIDL template.
func checkUIDL(template string) error {
	_, err := imapc.ParseUIDL(template)
	return err
}

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
		roots, err := certificates(u.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		c.RootCAs = roots
	}
	if u.Fingerprint != nil {
		c.InsecureSkipVerify = true // in favour of what follows, which resumption does not skip
		c.VerifyConnection = pinned(u.Fingerprint)
	}
	return c, nil
}

// certificates are those in a PEM file.
func certificates(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pool, nil
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
