package oauth

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"postern/upstream"
)

// endpoints are those that were given, and those that the issuer names for the
// others. They are looked up when they are needed first, and kept.
func (a *Application) endpoints(ctx context.Context) (Endpoints, error) {
	if a.Issuer == "" {
		return a.Endpoints, nil
	}
	a.found.Lock()
	kept := a.endpoint
	a.found.Unlock()
	if kept != nil {
		return *kept, nil
	}
	found, err := a.discover(ctx)
	if err != nil {
		return Endpoints{}, fmt.Errorf("look up the endpoints of %s: %w", a.Issuer, err)
	}
	found = Endpoints{
		AuthURL:   cmp.Or(a.AuthURL, found.AuthURL),
		TokenURL:  cmp.Or(a.TokenURL, found.TokenURL),
		DeviceURL: cmp.Or(a.DeviceURL, found.DeviceURL),
	}
	a.found.Lock()
	defer a.found.Unlock()
	a.endpoint = &found
	return found, nil
}

// metadata is as much of an issuer's as is needed.
type metadata struct {
	Issuer    string `json:"issuer"`
	AuthURL   string `json:"authorization_endpoint"`
	TokenURL  string `json:"token_endpoint"`
	DeviceURL string `json:"device_authorization_endpoint"`
}

// discover asks both places where an issuer's metadata may be: that of OpenID
// Connect Discovery 1.0 section 4, and that of RFC 8414 section 3.
func (a *Application) discover(ctx context.Context) (Endpoints, error) {
	issuer, err := url.Parse(a.Issuer)
	if err != nil {
		return Endpoints{}, fmt.Errorf("%w: not a URL", upstream.ErrRejected)
	}
	oidc, oauth := *issuer, *issuer
	oidc.Path = strings.TrimSuffix(issuer.Path, "/") + "/.well-known/openid-configuration"
	oauth.Path = "/.well-known/oauth-authorization-server" + strings.TrimSuffix(issuer.Path, "/")
	m, err := a.metadata(ctx, oidc.String())
	if err != nil && ctx.Err() == nil {
		var other error
		if m, other = a.metadata(ctx, oauth.String()); other != nil {
			return Endpoints{}, errors.Join(err, other)
		}
	}
	if err := ctx.Err(); err != nil {
		return Endpoints{}, err
	}
	if strings.TrimSuffix(m.Issuer, "/") != strings.TrimSuffix(a.Issuer, "/") { // RFC 8414 section 3.3
		return Endpoints{}, fmt.Errorf("%w: it calls itself %q", upstream.ErrRejected, printable(m.Issuer, 200))
	}
	for _, named := range []string{m.AuthURL, m.TokenURL, m.DeviceURL} {
		if err := acceptable(named, issuer); err != nil {
			return Endpoints{}, err
		}
	}
	return Endpoints{AuthURL: m.AuthURL, TokenURL: m.TokenURL, DeviceURL: m.DeviceURL}, nil
}

func (a *Application) metadata(ctx context.Context, from string) (m metadata, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return m, err
	}
	answer, err := a.client().Do(r)
	if err != nil {
		return m, fmt.Errorf("%w: %w", err, upstream.ErrUnavailable)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return m, fmt.Errorf("%s: HTTP status %d: %w", from, answer.StatusCode, upstream.ErrUnavailable)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxBody)).Decode(&m); err != nil {
		return m, fmt.Errorf("%s: no metadata: %w", from, upstream.ErrUnavailable)
	}
	return m, nil
}

// acceptable tells whether what an issuer names may be told a secret: by https,
// and nobody at an address inside this network but the issuer itself.
func acceptable(named string, issuer *url.URL) error {
	if named == "" {
		return nil
	}
	u, err := url.Parse(named)
	if err != nil || u.Host == "" || u.User != nil {
		return fmt.Errorf("%w: it names an endpoint that is no URL", upstream.ErrRejected)
	}
	if u.Scheme == issuer.Scheme && u.Host == issuer.Host {
		return nil
	}
	if u.Scheme != "https" {
		return fmt.Errorf("%w: it names %s, which is not https", upstream.ErrRejected, u.Redacted())
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && upstream.Inside(ip) {
		return fmt.Errorf("%w: it names %s, which is %w", upstream.ErrRejected, u.Redacted(), errInternal)
	}
	return nil
}

var errInternal = errors.New("inside this network")

// dial connects to a provider. A host that only the issuer has named must not
// turn out to be inside this network, whatever its name resolves to now.
func (a *Application) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: callTime}
	if host, _, err := net.SplitHostPort(address); err == nil && a.discovered(host) {
		d.Control = outside
	}
	return d.DialContext(ctx, network, address)
}

// outside refuses to connect to addresses inside this network (net.Dialer).
func outside(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || upstream.Inside(at.Addr()) {
		return fmt.Errorf("%s: %w", address, errInternal)
	}
	return nil
}

// discovered tells whether nobody but the issuer has named a host.
func (a *Application) discovered(host string) bool {
	a.found.Lock()
	found := a.endpoint
	a.found.Unlock()
	if found == nil || slices.Contains(hosts(a.Issuer, a.AuthURL, a.TokenURL, a.DeviceURL), host) {
		return false
	}
	return slices.Contains(hosts(found.AuthURL, found.TokenURL, found.DeviceURL), host)
}

func hosts(addresses ...string) (all []string) {
	for _, address := range addresses {
		if u, err := url.Parse(address); err == nil && u.Host != "" {
			all = append(all, u.Hostname())
		}
	}
	return all
}

// transport is how providers are reached.
func (a *Application) transport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            a.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.Roots},
		TLSHandshakeTimeout:    callTime,
		ResponseHeaderTimeout:  callTime,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
	}
}
