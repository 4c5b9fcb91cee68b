package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"postern/upstream"
)

// A Refusal is a provider's error (RFC 6749 section 5.2), with as much of its
// words as is fit for a log.
type Refusal struct {
	Status int    // of HTTP; 0 where it came by way of a browser
	Code   string // such as invalid_grant; empty if there was none
	Text   string
	kind   error
}

func (r *Refusal) Error() string {
	text := "the provider says " + r.Code
	if r.Code == "" {
		text = fmt.Sprintf("the provider answers with HTTP status %d", r.Status)
	}
	if r.Text != "" {
		text += ": " + r.Text
	}
	return text
}

// Unwrap is what it comes to.
func (r *Refusal) Unwrap() error { return r.kind }

// refused says what the failure of a request means: the error of package
// upstream, without any secret that was sent. All that is not known to be a
// refusal of just this request may be over in a moment.
func (a *Application) refused(err error, sent ...upstream.Secret) error {
	var answer *oauth2.RetrieveError
	var refusal *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal), errors.Is(err, upstream.ErrRejected), errors.Is(err, upstream.ErrUnavailable),
		errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &answer):
		r := &Refusal{Status: answer.Response.StatusCode, Code: printable(answer.ErrorCode, 64)}
		r.Text = printable(a.redact(answer.ErrorDescription, sent), 300)
		r.kind = a.meaning(r)
		return r
	}
	return fmt.Errorf("token endpoint: %s: %w", printable(a.redact(err.Error(), sent), 300), upstream.ErrUnavailable)
}

// meaning is what a person has to do about it, if anything. A server that has
// trouble of its own says nothing about the grant, whatever it says.
func (a *Application) meaning(r *Refusal) error {
	if r.Status >= http.StatusInternalServerError || r.Status == http.StatusTooManyRequests || r.Status == http.StatusRequestTimeout {
		return upstream.ErrUnavailable
	}
	switch r.Code {
	case "invalid_grant", "interaction_required", "consent_required", "login_required":
		if a.Flow == ByConsent {
			return upstream.ErrConsent
		}
		return upstream.ErrRejected
	case "invalid_client", "invalid_request", "invalid_scope", "invalid_target", "unauthorized_client", "unsupported_grant_type", "access_denied", "expired_token":
		return upstream.ErrRejected
	}
	return upstream.ErrUnavailable
}

// redact takes out what was sent: a provider may repeat it, also in the encoding
// that it was sent in.
func (a *Application) redact(text string, sent []upstream.Secret) string {
	for _, s := range append(sent, a.ClientSecret) {
		if secret := s.Reveal(); secret != "" {
			text = strings.NewReplacer(secret, "***", url.QueryEscape(secret), "***").Replace(text)
		}
	}
	return text
}

// printable is as much of a foreign text as a log line takes.
func printable(text string, most int) string {
	out := []byte(text[:min(len(text), most)])
	for i, b := range out {
		if b < ' ' || b > '~' {
			out[i] = '?'
		}
	}
	return strings.TrimSpace(string(out))
}

var errNoToken = fmt.Errorf("the provider's answer holds no token that can be sent: %w", upstream.ErrUnavailable)

// checked lets no token through that no upstream would take: one that is no
// bearer token, or that no header could hold.
func checked(t *oauth2.Token, err error) (*oauth2.Token, error) {
	if err != nil {
		return nil, err
	}
	bad := func(r rune) bool { return r <= ' ' || r > '~' }
	if t.AccessToken == "" || strings.ContainsFunc(t.AccessToken, bad) || strings.ContainsFunc(t.RefreshToken, bad) || t.Type() != "Bearer" {
		return nil, errNoToken
	}
	return t, nil
}
