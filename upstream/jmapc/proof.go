package jmapc

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"postern/upstream"
)

// A proof is what the requests of one account carry to prove it. It never
// changes, and may be used by several goroutines.
type proof struct {
	password string               // the value of Authorization, or
	tokens   upstream.TokenSource // where it comes from
	borne    bool                 // a token, which alone says whose it is
	key      string               // stands for either
}

// proof is how the account proves itself: by its password as the scheme says,
// or by tokens, which are always borne.
func (s Scheme) proof(a upstream.Account) (p proof, err error) {
	if a.Tokens != nil {
		p.tokens, p.borne = a.Tokens, true
		if key := a.Tokens.Key().Reveal(); key != "" {
			p.key = "tokens " + a.User + " " + key
		}
		return p, nil
	}
	p.password, err = s.header(a)
	p.key, p.borne = p.password, s == Bearer
	return p, err
}

// header is the value of Authorization. What cannot be written in the scheme
// cannot be right either.
func (s Scheme) header(a upstream.Account) (string, error) {
	if s == Bearer {
		return bearer(a.Password)
	}
	if strings.Contains(a.User, ":") {
		return "", fmt.Errorf("%w: a user name with a colon (RFC 7617 section 2)", upstream.ErrAuth)
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.User+":"+a.Password.Reveal())), nil
}

func bearer(token upstream.Secret) (string, error) {
	text := token.Reveal()
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%w: no bearer token (RFC 6750 section 2.1)", upstream.ErrAuth)
	}
	return "Bearer " + text, nil
}

// authorization is the value of Authorization now, and the token in it. refused
// is a token that the server has just not taken, or empty.
func (p proof) authorization(ctx context.Context, refused upstream.Secret) (string, upstream.Secret, error) {
	if p.tokens == nil {
		return p.password, upstream.Secret{}, nil
	}
	token, err := p.tokens.Token(ctx, refused)
	if err != nil {
		return "", token, fmt.Errorf("access token: %w", err)
	}
	value, err := bearer(token)
	return value, token, err
}

// roundTrip sends a request with the proof in it. A token that is refused may
// have ended, or have been withdrawn: then the request, which nobody has carried
// out, is sent once more with another one, if there is one.
func (p proof) roundTrip(r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	value, token, err := p.authorization(r.Context(), upstream.Secret{})
	if err != nil {
		closeBody(r)
		return nil, err
	}
	r.Header.Set("Authorization", value)
	answer, err := send(r)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || p.tokens == nil || r.Body != nil && r.GetBody == nil {
		return answer, err
	}
	value, other, err := p.authorization(r.Context(), token)
	if err == nil && other == token {
		return answer, nil
	}
	discard(answer)
	if err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	again.Header.Set("Authorization", value)
	return send(again)
}

// closeBody does what a RoundTripper has to do in any case.
func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}
