package pop3

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"postern/upstream"
)

var errNeedsTLS error = refusal{"SYS/PERM", "login is allowed with TLS only"}

// refuseLogin keeps credentials off connections that anybody can listen to.
func (s *session) refuseLogin() error {
	allowed := s.server.PlaintextLogin
	if s.tlsVersion != 0 || allowed != nil && allowed(s.remote.Addr()) {
		return nil
	}
	return errNeedsTLS
}

// refuseUser leaves USER and PASS out where the listener does not name them.
func (s *session) refuseUser() error {
	if err := s.refuseLogin(); err != nil {
		return err
	}
	if !s.allows("USER") {
		return refusal{"SYS/PERM", "login with USER is not allowed here"}
	}
	return nil
}

// userName is USER. Whether there is such a user shows only with the password.
// RFC 1939 section 7.
func (s *session) userName(_ context.Context, name string) (reply, error) {
	s.user = name
	return ok("send the password"), nil
}

func (s *session) pass(ctx context.Context, password string) (reply, error) {
	if s.user == "" {
		return reply{}, refusef("USER comes first")
	}
	user := s.user
	s.user = ""
	return s.logIn(ctx, Credentials{User: user, Password: upstream.NewSecret(password), Mechanism: "USER"})
}

// refuseAPOP leaves APOP out where the greeting had no timestamp for it.
func (s *session) refuseAPOP() error {
	if err := s.refuseLogin(); err != nil {
		return err
	}
	if s.timestamp == "" {
		return refusef("APOP is not available")
	}
	return nil
}

// apop takes a name and a digest of the greeting's timestamp and the password.
// RFC 1939 section 7.
func (s *session) apop(ctx context.Context, arg string) (reply, error) {
	return s.exchange("APOP")(ctx, []byte(arg))
}

// makeTimestamp makes a timestamp for a greeting if APOP is possible on this
// connection, now.
func (s *session) makeTimestamp() string {
	if !slices.Contains(s.exchanges(), "APOP") || s.refuseLogin() != nil {
		return ""
	}
	if s.server.timestamp != nil {
		return s.server.timestamp()
	}
	return "<" + rand.Text() + "@postern>"
}

// logIn opens the maildrop and enters the TRANSACTION state.
func (s *session) logIn(ctx context.Context, c Credentials) (reply, error) {
	began := time.Now()
	s.mechanism = c.Mechanism
	c.Remote, c.TLS, c.Session = s.remote, s.tlsVersion != 0, s.id
	err := s.await(ctx, func(ctx context.Context) error {
		return s.openMaildrop(ctx, func(ctx context.Context) (Login, error) {
			return s.server.Authenticator.Authenticate(ctx, c)
		})
	})
	return s.logInEnded(ctx, c.User, time.Since(began), err)
}

// logInEnded tells everybody concerned how a login went.
func (s *session) logInEnded(ctx context.Context, user string, took time.Duration, err error) (reply, error) {
	if hook := s.server.Hooks.Login; hook != nil {
		hook(loginResult(err), took)
	}
	if errors.Is(err, errDraining) {
		s.lost(err)
		return reply{}, errSilent
	}
	if err != nil {
		s.loginRefused(ctx, user, err)
		return reply{}, err
	}
	s.state = transaction
	return ok("maildrop has %s", s.dropListing()), nil
}

func loginResult(err error) string {
	if err == nil {
		return "ok"
	}
	return upstream.Kind(err)
}

// await waits for what the Authenticator does, at the client's wish but not in
// the client's time. No client waits longer than it may be idle itself, and no
// drain waits for a login: the client would be turned away after it. Credentials
// that were found to be wrong are told of as ever.
func (s *session) await(ctx context.Context, do func(ctx context.Context) error) error {
	began := time.Now()
	ctx, done := s.wire.untilDrain(ctx, s.limits.Idle)
	defer done()
	err := do(ctx)
	s.loginBy = s.loginBy.Add(time.Since(began))
	if err != nil && context.Cause(ctx) == errDraining && !errors.Is(err, upstream.ErrAuth) {
		return errDraining
	}
	return err
}

// openMaildrop takes the listing that the session lives on.
func (s *session) openMaildrop(ctx context.Context, authenticate func(context.Context) (Login, error)) error {
	login, err := authenticate(ctx)
	if err != nil {
		return err
	}
	s.login = login // before anything can go wrong: the session closes it
	listing, err := login.List(ctx)
	if err != nil {
		s.release()
		return fmt.Errorf("list: %w", err)
	}
	s.listing = listing
	s.summary.Account, s.summary.Upstream = login.Account, login.Upstream
	return nil
}

// maxLoggedOctets keeps what a stranger sends from filling the log.
const maxLoggedOctets = 255

// loginRefused writes the line that watchers of the log go by, and ends the
// session with the last attempt.
func (s *session) loginRefused(ctx context.Context, user string, err error) {
	level := slog.LevelInfo
	if !errors.Is(err, upstream.ErrAuth) {
		level = slog.LevelWarn // the client may be innocent
	}
	s.log.Log(ctx, level, "login refused",
		"account", user[:min(len(user), maxLoggedOctets)], "reason", upstream.Kind(err), "mechanism", s.mechanism, "err", err)
	if s.attempts++; s.attempts >= s.limits.Attempts {
		s.end("auth", nil)
	}
}

var errBeforeTLS = errors.New("octets after STLS that came before TLS")

// refuseSTLS: see RFC 2595 section 4, and RFC 6856 section 2.1 for UTF8.
func (s *session) refuseSTLS() error {
	switch {
	case s.tlsVersion != 0:
		return refusef("TLS is on already")
	case s.server.TLS == nil:
		return refusef("TLS is not available")
	case s.utf8:
		return refusef("STLS comes before UTF8")
	}
	return nil
}

// stls begins TLS. What a client is supposed to have sent after STLS, but in
// clear text, was put there by somebody in between (CVE-2011-0411 and many
// more), so it ends the session. RFC 2595 section 4.
func (s *session) stls(context.Context, string) (reply, error) {
	if s.wire.lines.buffered() > 0 {
		s.end("tls", errBeforeTLS)
		return reply{}, errSilent
	}
	return reply{text: "begin TLS", after: s.startTLS}, nil
}

func (s *session) startTLS(ctx context.Context) {
	s.user = "" // nothing learned in clear text counts. RFC 2595 section 4
	err := s.wire.startTLS(ctx, s.server.TLS, s.limits.TLS)
	s.handshakeDone(err)
}

// implicitTLS lets a TLS client in (RFC 8314). It answers false if none came.
func (s *session) implicitTLS(ctx context.Context) bool {
	conn, ok := s.wire.conn.(tlsConn)
	if !ok {
		return true
	}
	s.handshakeDone(s.wire.handshake(ctx, conn, s.limits.TLS))
	return !s.over()
}

// handshakeDone takes note of how a handshake went.
func (s *session) handshakeDone(err error) {
	if err == nil {
		s.tlsVersion = s.wire.conn.(tlsConn).ConnectionState().Version
	}
	if hook := s.server.Hooks.TLS; hook != nil {
		hook(s.tlsVersion)
	}
	switch {
	case s.wire.out.err != nil || s.wire.wasCut():
		s.lost(err)
	case errors.Is(err, errDraining):
		s.end("drain", nil) // without a word: there is no TLS to say it in
	case err != nil:
		s.end("tls", handshakeError(err))
	}
}

// handshakeError is the error of a handshake as it may be logged: without the
// names in a certificate that anybody may have made.
func handshakeError(err error) error {
	refused, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return err
	}
	reason := "not valid"
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](refused); ok {
		switch invalid.Reason {
		case x509.Expired:
			reason = "not valid at this time"
		case x509.IncompatibleUsage:
			reason = "not for client authentication"
		}
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](refused); ok {
		reason = "not from an authority that this listener trusts"
	}
	return fmt.Errorf("client certificate %s", reason)
}

// utf8Mode is UTF8: user names and passwords are octets to us, and messages
// are sent as they are, so there is no more to it. RFC 6856 section 2.
func (s *session) utf8Mode(context.Context, string) (reply, error) {
	s.utf8 = true
	return ok("UTF-8"), nil
}

// languages are those of the text after +OK and -ERR. RFC 6856 section 3.
var languages = []struct{ tag, name string }{
	{"i-default", "Default language"},
	{"en", "English"},
}

// lang lists languages, or chooses one; "*" leaves the choice to us.
func (s *session) lang(_ context.Context, tag string) (reply, error) {
	if tag == "" {
		rep := ok("language listing follows")
		rep.body = func(w *writer) error {
			for _, l := range languages {
				w.WriteString(l.tag + " " + l.name + "\r\n")
			}
			return nil
		}
		return rep, nil
	}
	for _, l := range languages {
		if tag == "*" || strings.EqualFold(tag, l.tag) {
			return ok("%s %s", l.tag, l.name), nil
		}
	}
	return reply{}, refusef("language not known")
}
