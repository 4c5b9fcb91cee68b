package pop3

import (
	"context"
	"crypto/tls"
	"net/netip"
)

// An Exchanger is an Authenticator that knows secrets of its own. It conducts
// the mechanisms in which a client proves that it has one without sending it:
// SCRAM-SHA-256, SCRAM-SHA-256-PLUS, CRAM-MD5, EXTERNAL, and APOP, which is no
// SASL mechanism but is carried out like one.
type Exchanger interface {
	Authenticator

	// Mechanisms lists those that this client could use now, the best first. It
	// is called for each CAPA and does not block.
	Mechanisms(c Client) []string

	// Exchange begins one of them.
	Exchange(mechanism string, c Client) Exchange
}

// A Client is who wants to log in, as far as its connection tells.
type Client struct {
	Remote  netip.AddrPort // invalid where the connection has no such address
	Session string         // the session's id in the log

	// TLS is nil without it. Its VerifiedChains hold the client's certificate
	// if the listener asked for one and trusts it.
	TLS *tls.ConnectionState

	// Timestamp is what the greeting showed for APOP; empty if it did not.
	Timestamp string
}

// An Exchange is one attempt to log in, used by one goroutine. Nothing has to be
// done to give it up.
type Exchange interface {
	// Next takes what the client answered and returns the next challenge, or
	// tells that the client has proved who it is. The first response is nil if
	// the client sent none. Wrong credentials are upstream.ErrAuth, like those
	// that Authenticate refuses; what makes no sense is ErrMalformed.
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)

	// Login opens the maildrop once Next is done, as Authenticate does.
	Login(ctx context.Context) (Login, error)

	// User is who the client says it is, for the log; empty as long as it has
	// not said it.
	User() string
}

// ErrMalformed is a response that is none in its mechanism.
var ErrMalformed error = refusal{text: "response malformed"}
