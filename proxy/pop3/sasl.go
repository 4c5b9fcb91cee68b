package pop3

import (
	"context"
	"encoding/base64"
	"strings"
)

// auth is AUTH: a SASL exchange that ends in a login. RFC 5034. Without an
// argument it lists the mechanisms, which clients older than CAPA try.
func (s *session) auth(ctx context.Context, arg string) (reply, error) {
	if arg == "" {
		rep := ok("mechanisms follow")
		rep.body = func(w *writer) error {
			w.WriteString("PLAIN\r\nLOGIN\r\n")
			return nil
		}
		return rep, nil
	}
	mechanism, initial, isInitial := strings.Cut(arg, " ")
	var challenge reply
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		challenge = reply{more: s.authPlain}
	case "LOGIN":
		challenge = ask("Username:", s.authLogin)
	default:
		return reply{}, refusef("mechanism not supported")
	}
	switch {
	case !isInitial:
		return challenge, nil
	case initial == "=": // RFC 5034 section 4: an initial response of no octets
		initial = ""
	}
	return challenge.more(ctx, initial)
}

// ask is a challenge whose answer is decoded before then gets it.
func ask(prompt string, then func(ctx context.Context, answer string) (reply, error)) reply {
	return reply{
		text: base64.StdEncoding.EncodeToString([]byte(prompt)),
		more: then,
	}
}

// authPlain takes the one message of PLAIN: authorization identity, NUL,
// authentication identity, NUL, password. RFC 4616 section 2.
func (s *session) authPlain(ctx context.Context, response string) (reply, error) {
	message, err := decode(response)
	if err != nil {
		return reply{}, err
	}
	parts := strings.Split(message, "\x00")
	if len(parts) != 3 {
		return reply{}, refusef("PLAIN message malformed")
	}
	if parts[0] != "" && parts[0] != parts[1] {
		return reply{}, refusef("nobody may act for somebody else")
	}
	return s.saslLogIn(ctx, "PLAIN", parts[1], parts[2])
}

// authLogin takes the user name and asks for the password (LOGIN was never
// standardised; draft-murchison-sasl-login).
func (s *session) authLogin(_ context.Context, response string) (reply, error) {
	user, err := decode(response)
	if err != nil {
		return reply{}, err
	}
	return ask("Password:", func(ctx context.Context, response string) (reply, error) {
		password, err := decode(response)
		if err != nil {
			return reply{}, err
		}
		return s.saslLogIn(ctx, "LOGIN", user, password)
	}), nil
}

func (s *session) saslLogIn(ctx context.Context, mechanism, user, password string) (reply, error) {
	switch {
	case user == "" || password == "":
		return reply{}, refusef("user name and password expected")
	case strings.ContainsAny(user+password, "\x00\r\n"):
		return reply{}, refusef("user name or password malformed")
	}
	return s.logIn(ctx, mechanism, user, password)
}

// decode reads a response in base64; "*" cancels. RFC 5034 section 4.
func decode(response string) (string, error) {
	if response == "*" {
		return "", refusef("AUTH cancelled")
	}
	// The decoder would skip a CR.
	text, err := base64.StdEncoding.DecodeString(response)
	if err != nil || strings.Contains(response, "\r") {
		return "", refusef("base64 expected")
	}
	return string(text), nil
}
