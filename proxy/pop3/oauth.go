package pop3

import (
	"context"
	"errors"
	"strings"

	"postern/upstream"
)

// What a client is told about a token that the upstream did not take, before it
// hears -ERR. It says no more than that: which scopes the upstream wants is not
// ours to know.
const (
	xoauth2Refused     = `{"status":"401","schemes":"bearer"}`
	oauthBearerRefused = `{"status":"invalid_token"}`
)

// authXOAuth2 takes a client's own access token, in Google's form: "user=", the
// name, ^A, "auth=Bearer ", the token, ^A^A.
// https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
//
// Clients of Microsoft 365 send it after AUTH XOAUTH2 on a line of its own, which
// is how a response is sent that is not an initial one.
func (s *session) authXOAuth2(ctx context.Context, response []byte) (reply, error) {
	if response == nil {
		return ask("", s.authXOAuth2), nil
	}
	fields, ok := pairs(string(response))
	user, token := fields["user"], bearer(fields["auth"])
	if !ok || user == "" || token == "" || len(fields) != 2 {
		return reply{}, refusef("XOAUTH2 message malformed")
	}
	return s.tokenLogIn(ctx, "XOAUTH2", user, token, xoauth2Refused)
}

// authOAuthBearer takes a client's own access token as RFC 7628 section 3.1 has
// it: a GS2 header, ^A, pairs each with ^A at its end, ^A. The name in the header
// is what finds the upstream, so that it has to be there.
func (s *session) authOAuthBearer(ctx context.Context, response []byte) (reply, error) {
	if response == nil {
		return ask("", s.authOAuthBearer), nil
	}
	header, rest, _ := strings.Cut(string(response), "\x01")
	user, named := gs2Name(header)
	fields, ok := pairs(rest)
	token := bearer(fields["auth"])
	if !named || !ok || token == "" {
		return reply{}, refusef("OAUTHBEARER message malformed")
	}
	if user == "" {
		return reply{}, refusef("user name expected")
	}
	return s.tokenLogIn(ctx, "OAUTHBEARER", user, token, oauthBearerRefused)
}

// tokenLogIn logs in with a token. Where that is refused, the client is told why
// in a challenge, and whatever it answers ends the exchange. RFC 7628 section
// 3.2.3; XOAUTH2 does the same.
func (s *session) tokenLogIn(ctx context.Context, mechanism, user, token, refused string) (reply, error) {
	if strings.ContainsAny(user, "\x00\r\n") {
		return reply{}, refusef("user name malformed")
	}
	rep, err := s.logIn(ctx, Credentials{User: user, Token: upstream.NewSecret(token), Mechanism: mechanism})
	if !errors.Is(err, upstream.ErrAuth) {
		return rep, err
	}
	rep = ask(refused, nil)
	rep.more = func(context.Context, string) (reply, error) { return reply{}, err }
	return rep, nil
}

// maxPairs is more than any client sends.
const maxPairs = 16

// pairs takes apart what is written as key=value^A ... ^A.
func pairs(text string) (fields map[string]string, ok bool) {
	text, ok = strings.CutSuffix(text, "\x01\x01")
	if !ok || strings.Count(text, "\x01") >= maxPairs {
		return nil, false
	}
	fields = map[string]string{}
	for pair := range strings.SplitSeq(text, "\x01") {
		key, value, isPair := strings.Cut(pair, "=")
		if _, twice := fields[key]; !isPair || twice {
			return nil, false
		}
		fields[key] = value
	}
	return fields, true
}

// tokenOctets are those of a b64token. RFC 6750 section 2.1.
const tokenOctets = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="

// bearer returns the token in the value of an Authorization header field, empty
// if there is none. RFC 6750 section 2.1.
func bearer(value string) string {
	scheme, token, _ := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.Trim(token, tokenOctets) != "" {
		return ""
	}
	return token
}

// gs2Name returns the authorization identity in a GS2 header without channel
// binding. RFC 5801 section 4.
func gs2Name(header string) (name string, ok bool) {
	parts := strings.Split(header, ",")
	if len(parts) != 3 || parts[0] != "n" && parts[0] != "y" || parts[2] != "" {
		return "", false
	}
	if parts[1] == "" {
		return "", true
	}
	name, ok = strings.CutPrefix(parts[1], "a=")
	plain := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
	return plain, ok && strings.Count(name, "=") == strings.Count(name, "=2C")+strings.Count(name, "=3D")
}
