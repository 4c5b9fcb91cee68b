package upstream

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// An Account is whose mail to open, and what proves it.
type Account struct {
	User     string // login name, as the upstream knows it
	Password Secret
	Session  string // of the client that it is opened for, for log and journal
}

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
