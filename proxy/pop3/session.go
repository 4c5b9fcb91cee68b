package pop3

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"postern/upstream"
)

// A session is the dialogue on one connection. Everything in it belongs to the
// goroutine that called Serve.
type session struct {
	server *Server
	limits Limits
	id     string // for the log
	log    *slog.Logger
	wire   *wire
	remote netip.AddrPort // invalid where the connection has none
	began  time.Time

	state      state
	tlsVersion uint16    // 0 without TLS
	loginBy    time.Time // when the client must have logged in
	utf8       bool      // the client sent UTF8
	timestamp  string    // in the greeting, for APOP; empty for none
	user       string    // that the client sent and has not given a password for
	mechanism  string    // of the last attempt to log in, for the log
	attempts   int       // refused logins
	mistakes   int       // refused commands in a row
	warned     bool      // of a failure upstream
	wantedTLS  bool      // the log knows that the client has to come with TLS

	login   Login // its Maildrop is nil before the login and after the end
	listing upstream.Listing
	marks   marks // that DELE named
	read    marks // that RETR sent whole

	summary Summary // Reason is empty until the session is to end
}

func newSession(server *Server, conn net.Conn) *session {
	limits := server.Limits.orDefaults()
	s := &session{
		server: server,
		limits: limits,
		id:     rand.Text()[:8],
		wire:   newWire(conn, limits.Write),
		remote: addrPort(conn.RemoteAddr()),
		began:  time.Now(),
		state:  authorization,
	}
	s.log = server.log().With("session", s.id, "listener", server.Listener, "remote", remoteText(conn.RemoteAddr()))
	return s
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

func remoteText(a net.Addr) string {
	if p := addrPort(a); p.IsValid() {
		return p.String()
	}
	if a == nil {
		return ""
	}
	return a.String()
}

// end ends the session once the reply to the present command is written. What
// ended it first is what counts.
func (s *session) end(reason string, err error) {
	if s.summary.Reason == "" {
		s.summary.Reason, s.summary.Err = reason, err
	}
}

func (s *session) over() bool { return s.summary.Reason != "" }

// guard keeps a panic from ending anything but this session.
func (s *session) guard(f func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// Any other value may have been made from what the client sent.
		err, ok := p.(runtime.Error)
		if !ok {
			err = panicType{p}
		}
		s.wire.out.discard() // it may hold half a message
		s.summary.Reason, s.summary.Err = "panic", err
		s.log.Error("session panicked", "err", err, "stack", string(debug.Stack()))
	}()
	f()
}

// A panicType stands for a panic by its type.
type panicType struct{ value any }

func (p panicType) Error() string { return fmt.Sprintf("panic with a value of type %T", p.value) }
func (panicType) RuntimeError()   {}

// run carries the session from the TLS handshake to its last reply.
func (s *session) run(ctx context.Context) {
	greeted := false
	s.guard(func() {
		if s.implicitTLS(ctx) {
			greeted = true
			call(s.server.Hooks.Began)
			s.dialogue(ctx)
		}
	})
	s.guard(s.release)
	s.wire.out.flush()
	s.guard(func() { s.ended(greeted) })
}

// dialogue answers commands until something ends the session.
func (s *session) dialogue(ctx context.Context) {
	s.loginBy = time.Now().Add(s.limits.Login)
	s.greet()
	for !s.over() {
		line, err := s.wire.readLine(s.deadline())
		if err != nil {
			s.lost(err)
			return
		}
		s.command(ctx, line)
	}
}

func (s *session) greet() {
	text := s.server.Implementation
	if text == "" {
		text = "POP3 server"
	}
	text += " ready"
	if s.timestamp = s.makeTimestamp(); s.timestamp != "" {
		text += " " + s.timestamp
	}
	s.wire.out.WriteString("+OK " + text + "\r\n")
}

// deadline is when the client must have sent the line that it is waited for.
func (s *session) deadline() time.Time {
	if s.state == authorization {
		return s.loginBy
	}
	return time.Now().Add(s.limits.Idle)
}

// lost ends the session because the client's next line does not come.
func (s *session) lost(err error) {
	out := &s.wire.out
	// Ours, or the kernel's TCP_USER_TIMEOUT.
	late, ok := errors.AsType[net.Error](out.err)
	slow := ok && late.Timeout()
	switch {
	case s.wire.wasCut():
		s.end("drain", errCut)
	case slow:
		s.end("slow", out.err)
	case out.err != nil:
		s.end("disconnect", out.err)
	case errors.Is(err, errDraining):
		out.WriteString(answer{"SYS/TEMP", "shutting down"}.String() + "\r\n")
		s.end("drain", nil)
	case errors.Is(err, errLineTooLong):
		out.WriteString(answer{"", "line too long"}.String() + "\r\n")
		s.end("errors", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end("idle", nil) // RFC 1939 section 3: without a reply
	case errors.Is(err, io.EOF):
		s.end("disconnect", nil)
	default:
		s.end("disconnect", err)
	}
}

// errSilent is the error of a command that gets no reply, since the session is
// over or the client is not to be trusted any more.
var errSilent = errors.New("no reply")

// command runs one command to its end: what is answered is answered here.
func (s *session) command(ctx context.Context, line []byte) {
	began := time.Now()
	verb, arg := split(line)
	c := lookup(verb)
	rep, err := s.dispatch(ctx, c, arg, len(line))
	for err == nil && rep.more != nil {
		rep, err = s.challenge(ctx, rep)
	}
	result, err := s.send(rep, err)
	took := time.Since(began)
	if hook := s.server.Hooks.Command; hook != nil {
		hook(c.name, result, took)
	}
	s.logCommand(ctx, c, arg, result, took, err)
	if result == "ok" && rep.after != nil {
		rep.after(ctx)
	}
}

// logCommand leaves out what may hold a secret: an unknown command may be a
// password that was sent too early.
func (s *session) logCommand(ctx context.Context, c *command, arg []byte, result string, took time.Duration, err error) {
	level := s.commandLevel(err)
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []any{"cmd", c.name, "code", result, "dur", took}
	if c.loggable && len(arg) > 0 {
		attrs = append(attrs, "arg", string(arg))
	}
	if err != nil {
		attrs = append(attrs, "account", s.summary.Account, "err", err)
	}
	s.log.Log(ctx, level, "command", attrs...)
}

// commandLevel lets an operator see the first failure of a session that is not
// its client's, and why a client may not even try to log in: that is the
// listener's to say. Refused logins have a line of their own.
func (s *session) commandLevel(err error) slog.Level {
	if errors.Is(err, errNeedsTLS) && !s.wantedTLS {
		s.wantedTLS = true
		return slog.LevelInfo
	}
	if err == nil || isRefusal(err) || s.warned || s.state == authorization || s.wire.out.err != nil ||
		errors.Is(err, errSilent) || errors.Is(err, upstream.ErrGone) {
		return slog.LevelDebug
	}
	s.warned = true
	return slog.LevelWarn
}

// dispatch tests what the table says about the command, then runs it.
func (s *session) dispatch(ctx context.Context, c *command, arg []byte, octets int) (reply, error) {
	if octets > c.maxOctets {
		return reply{}, refusef("line too long")
	}
	if bytes.ContainsAny(arg, "\x00\r") {
		return reply{}, refusef("line contains NUL or CR")
	}
	if c.arg != verbatim {
		arg = bytes.Trim(arg, " ")
	}
	if err := c.check(s, arg); err != nil {
		return reply{}, err
	}
	return c.run(s, ctx, string(arg))
}

// challenge sends a SASL challenge and hands the response on. RFC 5034 section 4.
func (s *session) challenge(ctx context.Context, rep reply) (reply, error) {
	s.wire.out.WriteString("+ " + rep.text + "\r\n")
	line, err := s.wire.readLine(s.deadline())
	if err != nil {
		s.lost(err)
		return reply{}, errSilent
	}
	return rep.more(ctx, string(line))
}

// send writes the reply and says how the command ended, for metrics and log.
func (s *session) send(rep reply, err error) (result string, _ error) {
	if errors.Is(err, errSilent) {
		return "cut", err
	}
	if err == nil {
		if err = s.sendReply(rep); err == nil {
			s.mistakes = 0
			return "ok", nil
		}
		if s.over() {
			return "cut", err
		}
	}
	s.wire.out.WriteString(answerTo(err, s.state == authorization).String() + "\r\n")
	s.afterError(err)
	return "err", err
}

// sendReply writes a reply. An error that leaves the session running means
// that nothing of the reply was sent, so that another can be.
func (s *session) sendReply(rep reply) error {
	out := &s.wire.out
	start := out.mark()
	out.WriteString("+OK " + rep.text + "\r\n")
	if rep.body == nil {
		return nil
	}
	err := rep.body(out)
	switch {
	case out.err != nil:
		s.lost(out.err)
		return out.err
	case err == nil:
		out.WriteString(".\r\n")
	case !out.rollback(start):
		out.discard() // half a message must not look like a whole one
		s.end("upstream", err)
	}
	return err
}

// afterError closes the connection where there is no sense in going on.
func (s *session) afterError(err error) {
	if isRefusal(err) {
		if s.mistakes++; s.mistakes >= s.limits.Errors {
			s.end("errors", nil)
		}
	}
	if errors.Is(err, upstream.ErrChanged) {
		s.end("upstream", err)
	}
}

// release gives the maildrop back. It removes nothing.
func (s *session) release() {
	drop := s.login.Maildrop
	s.login.Maildrop, s.listing = nil, nil
	if drop == nil {
		return
	}
	if err := drop.Close(); err != nil {
		s.log.Debug("maildrop closed", "err", err)
	}
}

// ended tells the log, and metrics if they saw it begin, what the session came
// to.
func (s *session) ended(greeted bool) {
	s.summary.Took = time.Since(s.began)
	s.summary.Retrieved, s.summary.Octets = s.wire.out.sent.ends, s.wire.out.sent.octets
	if hook := s.server.Hooks.Ended; hook != nil && greeted {
		hook(s.summary)
	}
	m := &s.summary
	attrs := []any{"mechanism", s.mechanism, "tls", s.tlsText(), "account", m.Account, "upstream", m.Upstream, "messages", m.Retrieved,
		"octets", m.Octets, "removed", m.Removed, "unremoved", m.Unremoved, "dur", m.Took, "reason", m.Reason}
	if m.Err != nil {
		attrs = append(attrs, "err", m.Err)
	}
	s.log.Info("session ended", attrs...)
}

func (s *session) tlsText() string {
	if s.tlsVersion == 0 {
		return "off"
	}
	return tls.VersionName(s.tlsVersion)
}

// told tells whether the client knows that the session is over, so that the
// last reply is worth waiting for.
func (s *session) told() bool {
	switch s.summary.Reason {
	case "quit", "errors", "auth", "drain":
		return s.wire.out.err == nil && !s.wire.wasCut()
	}
	return false
}

func call(hook func()) {
	if hook != nil {
		hook()
	}
}
