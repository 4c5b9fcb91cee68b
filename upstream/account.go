package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// An Account is whose mail to open, and what proves it.
type Account struct {
	User     string // login name, as the upstream knows it
	Password Secret
	Tokens   TokenSource // instead of a password, if not nil
	Session  string      // of the client that it is opened for, for log and journal
}

// A TokenSource gives the access tokens of one account (RFC 6749 section 1.4).
// It is asked at each login upstream, also when a session has to connect anew,
// and keeps a token for as long as it is good.
type TokenSource interface {
	// Token returns an access token. refused is what the upstream has just not
	// taken, or empty; it comes back where there is no other. The errors:
	// ErrConsent where the account's owner must consent anew, ErrUnavailable
	// where a later call may do, and never ErrAuth.
	Token(ctx context.Context, refused Secret) (Secret, error)
	// Key stands for all the tokens of the source, in whatever is kept for those
	// who may use them: only who may have the tokens comes by it. Empty: nothing
	// is to be kept.
	Key() Secret
}

// A GivenToken is a token that the client itself has sent, as a TokenSource.
// There is no other.
type GivenToken struct{ Secret }

func (t GivenToken) Token(context.Context, Secret) (Secret, error) { return t.Secret, nil }
func (t GivenToken) Key() Secret                                   { return t.Secret }

// A Secret is a password or a token. Whatever prints, logs or marshals it
// shows only asterisks; Reveal is the one way to its text.
type Secret struct{ text string }

// NewSecret keeps text from being shown by accident.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the secret itself, to be sent to an upstream or compared in
// constant time, and for nothing else.
func (s Secret) Reveal() string { return s.text }

const redacted = "***"

// Format implements fmt.Formatter, for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
