package oauth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"postern/upstream"
)

// What becomes of asking somebody for consent, besides the errors of package
// upstream.
var (
	// ErrDenied: the person, or their administrator, said no.
	ErrDenied = errors.New("consent was denied")
	// ErrForeign: the answer is not to what was asked.
	ErrForeign = errors.New("an answer to another request")
	// ErrNoRefresh: consent was given for an hour only.
	ErrNoRefresh = errors.New("the provider gave no refresh token, so the consent would end within the hour")
	// ErrScope: consent was given, but not for the mail.
	ErrScope = errors.New("consent does not include the mailbox")
)

// A Request asks a person for consent (RFC 6749 section 4.1). It is good for
// one answer.
type Request struct {
	app      *Application
	config   *oauth2.Config
	state    string
	verifier string // RFC 7636
	page     string
}

// Begin asks for consent to the mailbox of login. The provider sends the person
// back to redirect, which the application has to have registered.
func (a *Application) Begin(ctx context.Context, login, redirect string) (*Request, error) {
	e, err := a.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if a.Flow != ByConsent || e.AuthURL == "" {
		return nil, fmt.Errorf("%w: %s takes no consent by browser", upstream.ErrRejected, a.Name)
	}
	r := &Request{app: a, config: a.config(e, redirect), state: rand.Text(), verifier: oauth2.GenerateVerifier()}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(r.verifier)}
	if login != "" { // OpenID Connect Core 1.0 section 3.1.2.1; whoever does not know it ignores it
		options = append(options, oauth2.SetAuthURLParam("login_hint", login))
	}
	for name, value := range a.Parameters {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	r.page = r.config.AuthCodeURL(r.state, options...)
	return r, nil
}

// URL is the provider's page, for the person to open.
func (r *Request) URL() string { return r.page }

// State is the secret by which the answer is known (RFC 6749 section 10.12).
func (r *Request) State() string { return r.state }

// Finish takes the parameters that the provider sent back, and returns what it
// granted.
func (r *Request) Finish(ctx context.Context, answer url.Values) (Grant, error) {
	if subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(r.state)) != 1 {
		return Grant{}, ErrForeign
	}
	// RFC 9207 section 2.4, where it is known who should answer.
	if issuer := answer.Get("iss"); issuer != "" && r.app.Issuer != "" && strings.TrimSuffix(issuer, "/") != strings.TrimSuffix(r.app.Issuer, "/") {
		return Grant{}, ErrForeign
	}
	if code := answer.Get("error"); code != "" {
		return Grant{}, r.app.denied(code, answer.Get("error_description"))
	}
	code := answer.Get("code")
	if code == "" {
		return Grant{}, ErrForeign
	}
	options, err := r.app.options(Endpoints{TokenURL: r.config.Endpoint.TokenURL})
	if err != nil {
		return Grant{}, err
	}
	options = append(options, oauth2.VerifierOption(r.verifier))
	ctx, end, err := r.app.begin(ctx)
	if err != nil {
		return Grant{}, err
	}
	defer end()
	token, err := checked(r.config.Exchange(ctx, code, options...))
	if err != nil {
		return Grant{}, r.app.refused(err, upstream.NewSecret(code), upstream.NewSecret(r.verifier))
	}
	return r.app.granted(token)
}

// denied is the provider's answer to a person who said no, or could not say yes.
func (a *Application) denied(code, text string) error {
	r := &Refusal{Code: printable(code, 64), Text: printable(text, 300), kind: ErrDenied}
	switch code {
	case "server_error", "temporarily_unavailable": // RFC 6749 section 4.1.2.1
		r.kind = upstream.ErrUnavailable
	case "access_denied", "consent_required", "interaction_required", "login_required":
	default:
		r.kind = upstream.ErrRejected
	}
	return r
}

// Import makes a grant of a refresh token that came from elsewhere, if the
// provider takes it.
func (a *Application) Import(ctx context.Context, refreshToken upstream.Secret) (Grant, error) {
	token, err := a.refresh(ctx, refreshToken)
	if err != nil {
		return Grant{}, err
	}
	return a.granted(token)
}

// granted is what a person consented to.
func (a *Application) granted(t *oauth2.Token) (Grant, error) {
	g := Grant{Consented: time.Now().UTC().Round(0)}.renewed(t)
	if g.RefreshToken.Reveal() == "" {
		return Grant{}, ErrNoRefresh
	}
	// Somebody may untick what they do not like, at Google for one. Scopes that
	// are no URL, such as offline_access, are not always told.
	for _, asked := range a.Scopes {
		if len(g.Scopes) > 0 && strings.Contains(asked, "://") && !slices.ContainsFunc(g.Scopes, func(s string) bool { return sameScope(asked, s) }) {
			return Grant{}, fmt.Errorf("%w: it lacks %s", ErrScope, asked)
		}
	}
	return g, nil
}

// sameScope compares scopes as Microsoft names them, too: with one of several
// hosts, and in any case.
func sameScope(a, b string) bool {
	last := a[strings.LastIndexByte(a, '/')+1:]
	return strings.EqualFold(a, b) || last != "" && strings.EqualFold(last, b[strings.LastIndexByte(b, '/')+1:])
}
