// Package oauth gets access tokens for accounts, and keeps them good: by the
// consent of a person (authorization code with PKCE, or device code), or by a
// credential that stands for the mailboxes of a whole organisation (client
// credentials, or a service account that acts for its users).
//
// What a person consented to is a [Grant]. It lies in a [Store], and a [Keeper]
// refreshes it. The protocol itself is spoken by golang.org/x/oauth2; what is
// here says when, how often and with what limits, and what a failure means.
//
// Nothing that a provider sends is believed to be short, quick or harmless, and
// no error holds a token or the body of an answer.
//
// RFC 6749 (OAuth 2.0), 6750 (bearer tokens), 7523 (JWT assertions), 7636
// (PKCE), 8252 (native applications), 8414 (metadata), 8628 (device code), 9207
// (issuer identification), 9700 (best current practice).
package oauth

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"postern/upstream"
)

// A Flow is how an application comes by its tokens.
type Flow int

const (
	// ByConsent is with the consent of each mailbox's owner (RFC 6749 section
	// 4.1, RFC 8628), or a refresh token that came from it.
	ByConsent Flow = iota
	// ByClientCredentials is in the application's own name, for whatever
	// mailboxes an administrator has given it (RFC 6749 section 4.4).
	ByClientCredentials
	// ByServiceAccount is in the name of each user, with an administrator's
	// leave for all of them (RFC 7523 section 2.1).
	ByServiceAccount
)

// Endpoints are where a provider is asked. Only TokenURL is always needed.
type Endpoints struct {
	AuthURL   string
	TokenURL  string
	DeviceURL string
}

// An Application is postern as a provider knows it. It does not change once it
// is used, and may be used by several goroutines.
type Application struct {
	Name   string // of the upstream that it is for, in logs and metrics
	Flow   Flow
	Scopes []string

	Endpoints
	// Issuer is where the endpoints that are not given are looked up, when they
	// are needed first: RFC 8414, or OpenID Connect Discovery 1.0.
	Issuer string

	ClientID     string
	ClientSecret upstream.Secret
	// BasicSecret sends the secret by HTTP Basic, and not in the request's body.
	BasicSecret bool
	// Key proves the application instead of a secret (RFC 7523 section 2.2), or
	// signs for the service account.
	Key *Key
	// Roots are whom to trust at the endpoints; nil means the system's.
	Roots *x509.CertPool
	// Parameters are added to the authorization request.
	Parameters map[string]string

	// Transport is for tests; nil means one that keeps to limits.
	Transport http.RoundTripper

	found    sync.Mutex // guards what follows, and Transport
	endpoint *Endpoints // with those that were looked up; nil: not yet
	calls    chan struct{}
}

const (
	callTime = 10 * time.Second // for one request to a provider
	maxCalls = 32               // requests to a provider at once
	maxBody  = 1 << 20          // octets that are read of an answer, as in x/oauth2
)

// client returns an HTTP client for one request. It follows no redirect:
// whoever is redirected to is not the one who is to be told a secret.
func (a *Application) client() *http.Client {
	a.found.Lock()
	if a.Transport == nil {
		a.Transport = a.transport()
	}
	transport := a.Transport
	a.found.Unlock()
	return &http.Client{
		Transport:     transport,
		Timeout:       callTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// begin waits for its turn to ask the provider. end gives the turn back.
func (a *Application) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	a.found.Lock()
	if a.calls == nil {
		a.calls = make(chan struct{}, maxCalls)
	}
	calls := a.calls
	a.found.Unlock()
	select {
	case calls <- struct{}{}:
		return context.WithValue(ctx, oauth2.HTTPClient, a.client()), func() { <-calls }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// For names the mailbox of login, as this application may be let into it. A grant
// for another one is of no use here, and is not to be shown to the provider of
// this one.
func (a *Application) For(login string) string { return a.ClientID + " " + strings.ToLower(login) }

// config is the application as the library knows it.
func (a *Application) config(e Endpoints, redirect string) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     a.ClientID,
		ClientSecret: a.ClientSecret.Reveal(),
		Endpoint:     oauth2.Endpoint{AuthURL: e.AuthURL, TokenURL: e.TokenURL, DeviceAuthURL: e.DeviceURL, AuthStyle: a.style()},
		RedirectURL:  redirect,
		Scopes:       a.Scopes,
	}
}

// style is never left to be found out: that takes two requests where the first
// may have used up what is sent in it.
func (a *Application) style() oauth2.AuthStyle {
	if a.BasicSecret && a.ClientSecret.Reveal() != "" {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// proof is what proves the application besides a secret.
func (a *Application) proof(e Endpoints) (url.Values, error) {
	if a.Key == nil || a.Flow == ByServiceAccount {
		return url.Values{}, nil
	}
	assertion, err := a.Key.assertion(claims{Issuer: a.ClientID, Subject: a.ClientID, Audience: e.TokenURL})
	if err != nil {
		return nil, err
	}
	return url.Values{
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}, nil
}

// options is the same, for the library's other requests.
func (a *Application) options(e Endpoints) (options []oauth2.AuthCodeOption, err error) {
	proof, err := a.proof(e)
	for name := range proof {
		options = append(options, oauth2.SetAuthURLParam(name, proof.Get(name)))
	}
	return options, err
}

// token makes one request for a token. The library's client credentials carry
// any kind of grant, as long as it is named.
func (a *Application) token(ctx context.Context, scopes []string, parameters url.Values) (*oauth2.Token, error) {
	e, err := a.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	proof, err := a.proof(e)
	if err != nil {
		return nil, err
	}
	for name, values := range proof {
		parameters[name] = values
	}
	ctx, end, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	config := clientcredentials.Config{
		ClientID:       a.ClientID,
		ClientSecret:   a.ClientSecret.Reveal(),
		TokenURL:       e.TokenURL,
		Scopes:         scopes,
		EndpointParams: parameters,
		AuthStyle:      a.style(),
	}
	return checked(config.Token(ctx))
}

// refresh exchanges a refresh token. RFC 6749 section 6.
func (a *Application) refresh(ctx context.Context, token upstream.Secret) (*oauth2.Token, error) {
	got, err := a.token(ctx, nil, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.Reveal()}})
	return got, a.refused(err, token)
}

// serve gets a token for an account without anybody's consent.
func (a *Application) serve(ctx context.Context, login string) (*oauth2.Token, error) {
	if a.Flow == ByClientCredentials {
		got, err := a.token(ctx, a.Scopes, url.Values{})
		return got, a.refused(err)
	}
	e, err := a.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	assertion, err := a.Key.assertion(claims{Issuer: a.ClientID, Subject: login, Audience: e.TokenURL, Scope: strings.Join(a.Scopes, " ")})
	if err != nil {
		return nil, err
	}
	got, err := a.token(ctx, nil, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}})
	return got, a.refused(err)
}
