package pop3

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"postern/upstream"
)

// A turn takes a response of the client's, decoded, and says how the exchange
// goes on. The first is nil where the client sent no initial response.
type turn func(ctx context.Context, response []byte) (reply, error)

// ask is a challenge whose response then gets. RFC 5034 section 4.
func ask(challenge string, then turn) reply {
	return reply{
		text: base64.StdEncoding.EncodeToString([]byte(challenge)),
		more: func(ctx context.Context, line string) (reply, error) { return then.take(ctx, line) },
	}
}

// take decodes a response. RFC 5034 section 4.
func (then turn) take(ctx context.Context, line string) (reply, error) {
	if line == "*" {
		return reply{}, refusef("AUTH cancelled")
	}
	// The decoder would skip a CR.
	response, err := base64.StdEncoding.DecodeString(line)
	if err != nil || strings.Contains(line, "\r") {
		return reply{}, refusef("base64 expected")
	}
	return then(ctx, response)
}

// auth is AUTH: a SASL exchange that ends in a login. RFC 5034. Without an
// argument it lists the mechanisms, which clients older than CAPA try.
func (s *session) auth(ctx context.Context, arg string) (reply, error) {
	if arg == "" {
		rep := ok("mechanisms follow")
		rep.body = func(w *writer) error {
			for _, m := range s.mechanisms() {
				w.WriteString(m + "\r\n")
			}
			return nil
		}
		return rep, nil
	}
	mechanism, initial, isInitial := strings.Cut(arg, " ")
	mechanism = strings.ToUpper(mechanism)
	if !slices.Contains(s.mechanisms(), mechanism) {
		return reply{}, refusef("mechanism not supported")
	}
	first := s.firstTurn(mechanism)
	switch {
	case !isInitial:
		return first(ctx, nil)
	case initial == "=": // RFC 5034 section 4: an initial response of no octets
		initial = ""
	}
	return first.take(ctx, initial)
}

func (s *session) firstTurn(mechanism string) turn {
	switch mechanism {
	case "PLAIN":
		return s.authPlain
	case "LOGIN":
		return s.authLogin
	case "XOAUTH2":
		return s.authXOAuth2
	case "OAUTHBEARER":
		return s.authOAuthBearer
	}
	return s.exchange(mechanism)
}

// authPlain takes the one message of PLAIN: authorization identity, NUL,
// authentication identity, NUL, password. RFC 4616 section 2.
func (s *session) authPlain(ctx context.Context, response []byte) (reply, error) {
	if response == nil {
		return ask("", s.authPlain), nil
	}
	parts := strings.Split(string(response), "\x00")
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
func (s *session) authLogin(_ context.Context, response []byte) (reply, error) {
	if response == nil {
		return ask("Username:", s.authLogin), nil
	}
	return ask("Password:", func(ctx context.Context, password []byte) (reply, error) {
		return s.saslLogIn(ctx, "LOGIN", string(response), string(password))
	}), nil
}

func (s *session) saslLogIn(ctx context.Context, mechanism, user, password string) (reply, error) {
	switch {
	case user == "" || password == "":
		return reply{}, refusef("user name and password expected")
	case strings.ContainsAny(user+password, "\x00\r\n"):
		return reply{}, refusef("user name or password malformed")
	}
	return s.logIn(ctx, Credentials{User: user, Password: upstream.NewSecret(password), Mechanism: mechanism})
}

// exchange has the Authenticator conduct a mechanism.
func (s *session) exchange(mechanism string) turn {
	s.mechanism = mechanism
	x := s.server.Authenticator.(Exchanger).Exchange(mechanism, s.client())
	return func(ctx context.Context, response []byte) (reply, error) { return s.next(ctx, x, response) }
}

// next hands a response on to the Authenticator. The step that proves who the
// client is opens the maildrop as well.
func (s *session) next(ctx context.Context, x Exchange, response []byte) (reply, error) {
	began := time.Now()
	var challenge []byte
	done := false
	err := s.await(ctx, func(ctx context.Context) (err error) {
		if challenge, done, err = x.Next(ctx, response); err != nil || !done {
			return err
		}
		return s.openMaildrop(ctx, x.Login)
	})
	switch {
	case isRefusal(err):
		return reply{}, err
	case err == nil && !done:
		return ask(string(challenge), func(ctx context.Context, response []byte) (reply, error) {
			return s.next(ctx, x, response)
		}), nil
	}
	return s.logInEnded(ctx, x.User(), time.Since(began), err)
}

// client is the client, as far as its connection tells.
func (s *session) client() Client {
	c := Client{Remote: s.remote, Session: s.id, Timestamp: s.timestamp}
	if s.tlsVersion != 0 {
		state := s.wire.conn.(tlsConn).ConnectionState()
		c.TLS = &state
	}
	return c
}

// unlisted are the ways to log in at a listener that names none. With the first
// three every user can log in; EXTERNAL is offered only to clients that show a
// certificate. The others have to be asked for: most clients take SCRAM, CRAM-MD5
// and APOP wherever they see them, and would lock out everybody whose password is
// not kept for that; XOAUTH2 and OAUTHBEARER are of use where the upstream takes
// tokens.
var unlisted = []string{"USER", "PLAIN", "LOGIN", "EXTERNAL"}

// allows tells whether the listener lets clients log in that way.
func (s *session) allows(mechanism string) bool {
	allowed := s.server.Mechanisms
	if allowed == nil {
		allowed = unlisted
	}
	return slices.Contains(allowed, mechanism)
}

// mechanisms are those of AUTH that are possible on this connection, now.
func (s *session) mechanisms() []string {
	var all []string
	for _, m := range []string{"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"} {
		if s.allows(m) {
			all = append(all, m)
		}
	}
	for _, m := range s.exchanges() {
		if m != "APOP" {
			all = append(all, m)
		}
	}
	return all
}

// exchanges are the mechanisms that the Authenticator would conduct.
func (s *session) exchanges() []string {
	x, ok := s.server.Authenticator.(Exchanger)
	if !ok {
		return nil
	}
	var all []string
	for _, m := range x.Mechanisms(s.client()) {
		if s.allows(m) {
			all = append(all, m)
		}
	}
	return all
}

// refuseAuth leaves AUTH out where there is no mechanism for it.
func (s *session) refuseAuth() error {
	if err := s.refuseLogin(); err != nil {
		return err
	}
	if len(s.mechanisms()) == 0 {
		return refusal{"SYS/PERM", "AUTH is not available"}
	}
	return nil
}
