package jmapc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"postern/upstream"
)

const wellKnown = "/.well-known/jmap"

// sessionURL returns where to fetch the session object, without asking anybody
// where that is known already.
func (u *Upstream) sessionURL(ctx context.Context) (*url.URL, error) {
	if at := u.found.Load(); at != nil {
		return at, nil
	}
	if u.o.URL != "" {
		return u.configuredURL()
	}
	at, err := u.discover(ctx)
	if err != nil {
		return nil, fmt.Errorf("discover %q: %w", u.o.Domain, err)
	}
	u.o.Log.Info("session URL discovered", "url", at.Redacted())
	u.found.Store(at)
	return at, nil
}

func (u *Upstream) configuredURL() (*url.URL, error) {
	at, err := url.Parse(u.o.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: session URL does not parse", upstream.ErrRejected)
	case at.Scheme == "http" && !u.o.PlainHTTP:
		return nil, fmt.Errorf("%w: %s is plain http, which is not allowed here", upstream.ErrRejected, at.Redacted())
	case at.Scheme != "https" && at.Scheme != "http", at.Host == "", at.User != nil:
		return nil, fmt.Errorf("%w: %s is no session URL", upstream.ErrRejected, at.Redacted())
	}
	return at, nil
}

// discover asks the domain itself, then the hosts that its SRV record names.
// It tells nobody any credentials. RFC 8620 section 2.2.
func (u *Upstream) discover(ctx context.Context) (*url.URL, error) {
	if u.o.Domain == "" {
		return nil, fmt.Errorf("%w: neither a session URL nor a domain is set", upstream.ErrRejected)
	}
	at, asked := u.probe(ctx, u.o.Domain)
	if asked == nil {
		return at, nil
	}
	_, records, err := u.lookupSRV(ctx, "jmap", "tcp", hostOf(u.o.Domain))
	var dns *net.DNSError
	if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
		return nil, fmt.Errorf("%w: %v; %w", upstream.ErrUnavailable, asked, err)
	}
	for _, r := range records {
		host := strings.TrimSuffix(r.Target, ".")
		if !inside(host, u.o.Domain) {
			// DNS is not authenticated: whoever forges it would be given passwords.
			asked = fmt.Errorf("%w: its SRV record names %q, outside the domain: if that is right, set url", upstream.ErrRejected, host)
			continue
		}
		if at, asked = u.probe(ctx, net.JoinHostPort(host, strconv.Itoa(int(r.Port)))); asked == nil {
			return at, nil
		}
	}
	return nil, asked
}

// probe returns where the well-known URL of a host leads, if there is a JMAP
// server: one that shows a session, or wants to know who asks.
func (u *Upstream) probe(ctx context.Context, host string) (*url.URL, error) {
	client := &http.Client{Transport: u.transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > maxRedirects || !inside(r.URL.Hostname(), u.o.Domain) {
			return fmt.Errorf("%w: redirected to %s: if that is right, set url", upstream.ErrRejected, r.URL.Redacted())
		}
		return nil
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+wellKnown, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", upstream.ErrRejected, err)
	}
	r.Header.Set("User-Agent", u.userAgent())
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		return answer.Request.URL, nil
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%w: no %s at %s", upstream.ErrRejected, wellKnown, host)
	}
	return nil, newHTTPError(answer)
}

// inside tells whether host is the domain or below it.
func inside(host, domain string) bool {
	host, domain = strings.ToLower(host), strings.ToLower(hostOf(domain))
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// hostOf is a domain without the port that it may carry.
func hostOf(domain string) string {
	if host, _, err := net.SplitHostPort(domain); err == nil {
		return host
	}
	return domain
}
