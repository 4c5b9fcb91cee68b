package pop3

import (
	"context"
	"errors"
	"fmt"

	"postern/upstream"
)

// A reply is what a handler has for the client. Only the session writes it.
type reply struct {
	text string // after +OK

	// body, for a multi-line reply, writes all of it but the final dot.
	body func(w *writer) error

	// more makes the reply a SASL challenge with this text instead; it takes
	// what the client answers.
	more func(ctx context.Context, response string) (reply, error)

	// after is what happens once the reply has been written.
	after func(ctx context.Context)
}

func ok(format string, args ...any) reply { return reply{text: fmt.Sprintf(format, args...)} }

// An answer is the text of an -ERR reply, with its response code (RFC 2449
// section 8, RFC 3206) if it has one.
type answer struct{ code, text string }

func (a answer) String() string {
	if a.code == "" {
		return "-ERR " + a.text
	}
	return "-ERR [" + a.code + "] " + a.text
}

// A refusal is the error of a command that the client should not have sent.
type refusal answer

func (r refusal) Error() string { return answer(r).String() }

func refusef(format string, args ...any) error { return refusal{text: fmt.Sprintf(format, args...)} }

func isRefusal(err error) bool {
	_, ok := errors.AsType[refusal](err)
	return ok
}

// A failure is an error that gets another answer than the words below.
type failure struct {
	answer
	error
}

func (f failure) Unwrap() error { return f.error }

// words are all that a client is told about what went wrong upstream. What the
// upstream said is for the log.
var words = []struct {
	err    error
	login  bool // the answer makes sense to a login only
	answer answer
}{
	{upstream.ErrAuth, true, answer{"AUTH", "wrong user name or password"}},
	{upstream.ErrBusy, true, answer{"IN-USE", "maildrop is open in another session"}},
	{upstream.ErrTooSoon, true, answer{"LOGIN-DELAY", "wait a while before the next login"}},
	{upstream.ErrGone, false, answer{"", "message is gone"}},
	{upstream.ErrUnreadable, false, answer{"SYS/TEMP", "mail server does not deliver this message"}},
	{upstream.ErrChanged, false, answer{"SYS/TEMP", "mailbox changed"}},
	{upstream.ErrRejected, false, answer{"SYS/PERM", "mail server refuses this"}},
}

var unavailable = answer{"SYS/TEMP", "mail server is not available now"}

// answerTo finds the words for an error.
func answerTo(err error, login bool) answer {
	if r, ok := errors.AsType[refusal](err); ok {
		return answer(r)
	}
	if f, ok := errors.AsType[failure](err); ok {
		return f.answer
	}
	for _, w := range words {
		if errors.Is(err, w.err) && (login || !w.login) {
			return w.answer
		}
	}
	return unavailable
}

// count says "1 message", "2 messages".
func count[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
