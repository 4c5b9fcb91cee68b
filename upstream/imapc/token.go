package imapc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// withToken puts an access token in the place of the account's password, if
// that is what proves it.
func withToken(ctx context.Context, a upstream.Account, refused upstream.Secret) (upstream.Account, error) {
	if a.Tokens == nil {
		return a, nil
	}
	token, err := a.Tokens.Token(ctx, refused)
	if err != nil {
		return a, fmt.Errorf("access token of %q: %w", a.User, err)
	}
	a.Password = token
	return a, nil
}

// The mechanisms that carry an access token.
const (
	oauthBearer = "OAUTHBEARER" // RFC 7628
	xoauth2     = "XOAUTH2"     // developers.google.com/workspace/gmail/imap/xoauth2-protocol
)

// bear logs in with the account's access token.
func (c *conn) bear(a upstream.Account) error {
	b := &bearer{account: a, address: c.o.Address}
	for _, m := range c.bearing() {
		if c.before.Has(imap.Cap("AUTH=" + m)) {
			b.mechanism = m
			break
		}
	}
	if b.mechanism == "" {
		return fmt.Errorf("the server offers neither AUTH=OAUTHBEARER nor AUTH=XOAUTH2: %w", upstream.ErrRejected)
	}
	err := c.lib.Authenticate(b)
	var refusal *imap.Error
	if errors.As(err, &refusal) {
		refusal.Text += b.reason()
	}
	return err
}

func (c *conn) bearing() []string {
	if c.o.PreferXOAUTH2 {
		return []string{xoauth2, oauthBearer}
	}
	return []string{oauthBearer, xoauth2}
}

// A bearer is the client's side of a mechanism for tokens (sasl.Client).
type bearer struct {
	account   upstream.Account // with the token for a password
	mechanism string
	address   string // of the server
	refusal   []byte // what its challenge said
}

// Start returns the one message that there is to say.
func (b *bearer) Start() (mechanism string, response []byte, err error) {
	user, token := b.account.User, b.account.Password.Reveal()
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", nil, fmt.Errorf("no access token (RFC 6750 section 2.1): %w", upstream.ErrAuth)
	}
	if strings.ContainsAny(user, "\x00\x01") {
		return "", nil, fmt.Errorf("a control character in the user name: %w", upstream.ErrAuth)
	}
	if b.mechanism == xoauth2 {
		return xoauth2, []byte("user=" + user + "\x01auth=Bearer " + token + "\x01\x01"), nil
	}
	head := "n,a=" + saslName.Replace(user) + ",\x01"
	if host, port, err := net.SplitHostPort(b.address); err == nil {
		head += "host=" + host + "\x01port=" + port + "\x01"
	}
	return oauthBearer, []byte(head + "auth=Bearer " + token + "\x01\x01"), nil
}

// saslName escapes a name. RFC 5801 section 4.
var saslName = strings.NewReplacer("=", "=3D", ",", "=2C")

// Next answers a challenge, which tells why the token is refused: nothing that
// is said now matters, but the server waits for it before it says NO. RFC 7628
// section 3.2.3 has a single 0x01; XOAUTH2 wants nothing in particular.
func (b *bearer) Next(challenge []byte) ([]byte, error) {
	b.refusal = challenge
	return []byte{1}, nil
}

// reason is what the challenge says, for the log: RFC 7628 section 3.2.2. The
// rest of it, which could be anything, is not shown.
func (b *bearer) reason() string {
	var said struct{ Status, Scope string }
	if json.Unmarshal(b.refusal, &said) != nil || said.Status == "" {
		return ""
	}
	text := " (status " + said.Status
	if said.Scope != "" {
		text += ", scope " + said.Scope
	}
	return printable([]byte(text)) + ")"
}
