package imapc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A status is an OK, NO, BAD, BYE or PREAUTH response. RFC 9051 section 7.1.
type status struct {
	tag  string // empty if untagged
	kind string // upper case
	code string // upper case, empty if there is none
	arg  string // what follows the code in its brackets
	text string
}

// String is for logs: bounded and printable.
func (s status) String() string {
	if s.kind == "" {
		return ""
	}
	code := ""
	if s.code != "" {
		code = " [" + s.code + "]"
	}
	return printable([]byte(s.kind + code + " " + s.text))
}

// harmless tells whether a status is untagged and tells nothing, as those do
// that servers send so that a connection is not taken for dead.
func (s status) harmless() bool { return s.kind == "OK" && s.tag == "" && s.code == "" }

// isNews tells whether a response, s if it is a status, may tell that the mailbox
// is not what it was: whatever is not known to be an answer.
func isNews(line []byte, s status) bool {
	if s.kind != "" {
		return s.tag == "" && s.kind != "NO" && !s.harmless()
	}
	if _, word, ok := numbered(line); ok {
		return !hasPrefixFold(word, "FETCH ")
	}
	for _, answer := range [...]string{"SEARCH", "ESEARCH ", "LIST ", "ID ", "CAPABILITY "} {
		if hasPrefixFold(line, "* "+answer) {
			return false
		}
	}
	return hasPrefixFold(line, "* ")
}

// Error makes of a NO or BAD an error, which has to be wrapped with its kind.
func (s status) Error() string { return "the server says " + s.String() }

// printable makes text fit for a log line.
func printable(text []byte) string {
	const limit = 200
	out := make([]byte, 0, min(len(text), limit))
	for _, b := range text[:min(len(text), limit)] {
		if b < ' ' || b > '~' {
			b = '?'
		}
		out = append(out, b)
	}
	return string(out)
}

// parseStatus reads the beginning of a response. It is strict about nothing
// but the word that makes it a status.
func parseStatus(line []byte) (status, bool) {
	if len(line) > 2 && line[0] == '*' && '0' <= line[2] && line[2] <= '9' {
		return status{}, false // soon, as a listing is made of these
	}
	line = line[:min(len(line), headOctets)]
	tag, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(tag) == 0 {
		return status{}, false
	}
	rest = bytes.TrimLeft(rest, " ")
	word := rest
	if end := bytes.IndexAny(rest, " \r\n"); end >= 0 {
		word = rest[:end]
	}
	var s status
	for _, kind := range [...]string{"OK", "NO", "BAD", "BYE", "PREAUTH"} {
		if len(word) == len(kind) && hasPrefixFold(word, kind) {
			s.kind = kind
		}
	}
	if s.kind == "" {
		return status{}, false
	}
	if string(tag) != "*" {
		s.tag = string(tag)
	}
	text := strings.TrimLeft(strings.TrimRight(string(rest[len(word):]), "\r\n"), " ")
	if strings.HasPrefix(text, "[") {
		inside, after, _ := strings.Cut(text[1:], "]")
		code, arg, _ := strings.Cut(inside, " ")
		s.code, s.arg, text = strings.ToUpper(code), arg, strings.TrimLeft(after, " ")
	}
	s.text = text
	return s, true
}

// hasPrefixFold is bytes.HasPrefix for an upper case prefix, in any case.
func hasPrefixFold(line []byte, prefix string) bool {
	if len(line) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		b := line[i]
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		if b != prefix[i] {
			return false
		}
	}
	return true
}

// literalMark tells whether a literal follows the line, and of how many octets.
// It allows the space before the end of the line that the library allows.
func literalMark(line []byte) (int64, bool) {
	line = bytes.TrimSuffix(trimEOL(line), []byte(" "))
	if !bytes.HasSuffix(line, []byte("}")) {
		return 0, false
	}
	mark := bytes.LastIndexByte(line, '{')
	if mark < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(line[mark+1:len(line)-1]), 10, 64)
	return n, err == nil && n >= 0
}

// statusOf turns the library's error for a NO or BAD into a status.
func statusOf(err *imap.Error) status {
	return status{kind: string(err.Type), code: strings.ToUpper(string(err.Code)), text: err.Text}
}

// Words that servers use where a response code would have been the thing,
// in lower case, with the error of package upstream that they stand for; the
// first that fits counts.
var tellingWords = []struct {
	words []string
	kind  error
}{
	// Yahoo: "LOGIN Rate limit hit"; Fastmail: "Already reached per-10 minute
	// limit for logins"; Microsoft 365: "Request is throttled. Suggested
	// Backoff Time: 299910 milliseconds".
	{[]string{"rate limit", "limit for logins", "too many login", "too frequent"}, upstream.ErrTooSoon},
	{[]string{"throttl", "backoff"}, upstream.ErrUnavailable},
	// Gmail: "Too many simultaneous connections. (Failure)"; Dovecot: "Maximum
	// number of connections from user+IP exceeded".
	{[]string{"too many simultaneous", "too many connections", "number of connections", "connection limit"}, upstream.ErrBusy},
	// Microsoft 365 after a successful login: "User is authenticated but not
	// connected."; Gmail: "Your account is not enabled for IMAP use"; NetEase:
	// "Unsafe Login. Please contact kefu@188.com for help".
	{[]string{"authenticated but not connected", "not enabled", "disabled", "unsafe login", "web login required"}, upstream.ErrRejected},
	{[]string{"unavailable", "temporar", "try again", "try later", "internal", "server error", "timeout", "timed out", "overload", "too many", "busy", "maintenance"}, upstream.ErrUnavailable},
}

// codes are the response codes that say all: RFC 5530 section 3, RFC 2221.
var codes = map[string]error{
	"UNAVAILABLE":         upstream.ErrUnavailable,
	"SERVERBUG":           upstream.ErrUnavailable,
	"CORRUPTION":          upstream.ErrUnavailable,
	"INUSE":               upstream.ErrBusy,
	"LIMIT":               upstream.ErrBusy,
	"AUTHORIZATIONFAILED": upstream.ErrRejected,
	"PRIVACYREQUIRED":     upstream.ErrRejected,
	"CONTACTADMIN":        upstream.ErrRejected,
	"EXPIRED":             upstream.ErrRejected,
	"NOPERM":              upstream.ErrRejected,
	"NONEXISTENT":         upstream.ErrRejected,
	"OVERQUOTA":           upstream.ErrRejected,
	"REFERRAL":            upstream.ErrRejected, // never followed
	"WEBALERT":            upstream.ErrRejected, // Gmail: log in by web browser first
}

// refusal returns the error of package upstream that a NO, BAD or BYE stands
// for, with how long the server wants to be left alone. plain is the meaning of
// a NO that gives no reason.
func refusal(s status, plain error) error {
	kind := kindOf(s, plain)
	return upstream.WithBackoff(kind, backoff(s, kind))
}

// backoff tells how long a server that answers with s wants no login of this
// account. Few name the time, as Microsoft 365 does: "Request is throttled.
// Suggested Backoff Time: 299910 milliseconds".
func backoff(s status, kind error) time.Duration {
	text := strings.ToLower(s.text)
	if _, after, ok := strings.Cut(text, "backoff time:"); ok {
		var number, unit string
		fmt.Sscan(after, &number, &unit)
		n, err := strconv.ParseUint(number, 10, 32)
		if err == nil && strings.HasPrefix(unit, "millisecond") {
			return time.Duration(n) * time.Millisecond
		}
	}
	switch {
	case kind == upstream.ErrAuth:
		return 0
	case kind == upstream.ErrTooSoon, strings.Contains(text, "throttl"), strings.Contains(text, "backoff"):
		return time.Minute // longer than most clients wait before they try again
	case s.code == "LIMIT":
		return 15 * time.Second // until another session has ended, perhaps
	}
	return 0
}

// kindOf is refusal without the time.
func kindOf(s status, plain error) error {
	if s.code == "AUTHENTICATIONFAILED" && plain == upstream.ErrAuth {
		return upstream.ErrAuth // in answer to a login only
	}
	text := strings.ToLower(s.text)
	told := codes[s.code]
	for _, t := range tellingWords {
		for _, w := range t.words {
			// A code is trusted, but "unavailable" and "limit" are often about
			// one account only.
			if strings.Contains(text, w) && (told == nil || told == upstream.ErrUnavailable || told == upstream.ErrBusy) {
				return t.kind
			}
		}
	}
	switch {
	case told != nil:
		return told
	case s.kind == "NO" && (s.code == "" || s.code == "ALERT"):
		return plain
	}
	return upstream.ErrUnavailable
}

// refused makes an error of a NO or BAD.
func refused(doing string, s status, plain error) error {
	return fmt.Errorf("%s: %w: %w", doing, s, refusal(s, plain))
}
