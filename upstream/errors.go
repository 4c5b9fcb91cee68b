package upstream

import (
	"context"
	"errors"
	"fmt"
)

// The ways in which an upstream fails, as far as a POP3 client can be told.
// Adapters wrap them with what was being done and what the upstream said, for
// the log: fmt.Errorf("select %q: %w", name, ErrRejected). Whoever answers the
// client branches with errors.Is and uses words of its own. Any other error
// counts as ErrUnavailable.
var (
	// ErrAuth: the upstream refused these credentials. Never used for anything
	// else, since clients answer it by forgetting the password.
	ErrAuth = errors.New("credentials refused")

	// ErrUnavailable: not now; the same request may work later.
	ErrUnavailable = errors.New("upstream unavailable")

	// ErrRejected: not until a person changes something, such as consent, a
	// setting or a permission.
	ErrRejected = errors.New("upstream rejected the request")

	// ErrConsent is an ErrRejected: nothing gives tokens for the account any
	// more until its owner consents anew.
	ErrConsent = fmt.Errorf("%w: consent needed", ErrRejected)

	// ErrBusy: the account is in use and admits nobody else now.
	ErrBusy = errors.New("account in use")

	// ErrTooSoon: the account logs in more often than it may.
	ErrTooSoon = errors.New("login too soon after the last one")

	// ErrGone: this message is no longer in the mailbox.
	ErrGone = errors.New("message gone")

	// ErrUnreadable: the message is there, but the upstream does not deliver
	// it. It must not be removed either.
	ErrUnreadable = errors.New("message not delivered by the upstream")

	// ErrChanged: the mailbox is not the one that was listed any more, so no
	// name in the listing means anything now.
	ErrChanged = errors.New("mailbox changed since it was listed")
)

// kinds names the errors above for a metric or a log line, most telling first.
var kinds = []struct {
	err  error
	kind string
}{
	{ErrAuth, "auth"},
	{ErrBusy, "busy"},
	{ErrTooSoon, "too_soon"},
	{ErrGone, "gone"},
	{ErrUnreadable, "unreadable"},
	{ErrChanged, "changed"},
	{ErrConsent, "consent"},
	{ErrRejected, "rejected"},
	{context.Canceled, "canceled"},
	{context.DeadlineExceeded, "timeout"},
}

// Kind names the failure that err is in one word of a closed set, for a metric
// label: "" for nil, "unavailable" for whatever is nothing better.
func Kind(err error) string {
	if err == nil {
		return ""
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return "unavailable"
}

// Kinds lists every word that Kind can answer but "".
func Kinds() []string {
	words := make([]string, 0, len(kinds)+1)
	for _, k := range kinds {
		words = append(words, k.kind)
	}
	return append(words, "unavailable")
}
