package imapc

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
)

const (
	foreknownFor       = time.Hour
	maxForeknownOctets = 4 << 10
)

// A foreknowledge is what a server has told of its capabilities before a login
// that succeeded: after STARTTLS, or where its greeting does not tell them,
// another connection need not ask for them again, which takes a round trip. What
// is said before TLS is no part of it (RFC 9051 section 6.2.1); what it is used
// for is to choose how to log in, and after that they are learned anew.
type foreknowledge struct{ p atomic.Pointer[foreknown] }

type foreknown struct {
	capabilities string
	until        time.Time
}

// capabilities returns what is known, or "".
func (f *foreknowledge) capabilities() string {
	if k := f.p.Load(); k != nil && time.Now().Before(k.until) {
		return k.capabilities
	}
	return ""
}

// learn takes note of what was told before a login, or forgets everything, so that
// the next connection asks.
func (f *foreknowledge) learn(before imap.CapSet, loggedIn bool) {
	if !loggedIn {
		f.p.Store(nil)
		return
	}
	var words []string
	for c := range maps.Keys(before) {
		words = append(words, string(c))
	}
	slices.Sort(words)
	if text := strings.Join(words, " "); len(text) > 0 && len(text) < maxForeknownOctets && !strings.ContainsAny(text, "]\r\n") {
		f.p.Store(&foreknown{text, time.Now().Add(foreknownFor)})
	}
}

// presume adds what is known to a greeting that tells no capabilities, for the
// library, which would ask.
func (c *conn) presume(greeting []byte) []byte {
	s, ok := parseStatus(greeting)
	if c.presumed == "" || !ok || s.code != "" {
		c.presumed = ""
		return greeting
	}
	return []byte("* OK [CAPABILITY " + c.presumed + "] ready\r\n")
}

// stillOffers tells whether the server would be asked for a login in the same way
// if it was asked what it offers now.
func (c *conn) stillOffers() bool {
	defer c.roundTrip()()
	now, err := c.lib.Capability().Wait()
	if err != nil {
		return false
	}
	for _, decides := range [...]imap.Cap{imap.CapLoginDisabled, "AUTH=PLAIN", "AUTH=OAUTHBEARER", "AUTH=XOAUTH2", imap.CapSASLIR} {
		if now.Has(decides) != c.before.Has(decides) {
			return false
		}
	}
	return true
}
