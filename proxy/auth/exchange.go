package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/proxy/pop3"
	"postern/upstream"
)

// Mechanisms implements pop3.Exchanger.
func (g *Gate) Mechanisms(c pop3.Client) []string {
	if g.accounts == (nobody{}) {
		return nil
	}
	var all []string
	if exporter(c.TLS).IsSupported() {
		all = append(all, "SCRAM-SHA-256-PLUS")
	}
	all = append(all, "SCRAM-SHA-256", "CRAM-MD5", "APOP")
	if len(certified(c.TLS)) > 0 {
		all = append(all, "EXTERNAL")
	}
	return all
}

// Exchange implements pop3.Exchanger.
func (g *Gate) Exchange(mechanism string, c pop3.Client) pop3.Exchange {
	x := &exchange{gate: g, client: c}
	switch mechanism {
	case "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS":
		x.turn = x.scram(mechanism == "SCRAM-SHA-256-PLUS")
	case "CRAM-MD5":
		x.turn = x.cramMD5
	case "APOP":
		x.turn = x.apop
	case "EXTERNAL":
		x.turn = x.external
	default:
		x.turn = x.impossible
	}
	return x
}

// An exchange is a client's attempt to log in that takes several turns. Only what
// the client proves in it counts as an attempt: until then it may break off.
type exchange struct {
	gate     *Gate
	client   pop3.Client
	turn     turn // the one to come
	user     string
	password string // that was proven: its name, empty for a certificate
}

// A turn takes a response and returns the next challenge, or is done.
type turn func(ctx context.Context, response []byte) (challenge []byte, done bool, err error)

// Next implements pop3.Exchange.
func (x *exchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	return x.turn(ctx, response)
}

// User implements pop3.Exchange.
func (x *exchange) User() string { return x.user }

// Login implements pop3.Exchange.
func (x *exchange) Login(ctx context.Context) (pop3.Login, error) {
	a := x.attempt()
	began := time.Now()
	account, err := x.gate.accounts.Proven(ctx, x.user, x.password)
	if err != nil {
		return pop3.Login{}, x.gate.refused(ctx, a, began, err)
	}
	return x.gate.open(ctx, a, account)
}

func (x *exchange) attempt() attempt {
	return attempt{user: x.user, session: x.client.Session, remote: x.client.Remote}
}

// prove checks what a client says of itself, and goes about it as about a
// password: it waits before as long as earlier failures demand, and makes each
// refusal take the same time.
func (x *exchange) prove(ctx context.Context, check func() error) error {
	a := x.attempt()
	if err := x.gate.await(ctx, a); err != nil {
		return err
	}
	began := time.Now()
	x.turn = x.impossible // there is one attempt in an exchange
	return x.gate.refused(ctx, a, began, check())
}

func (x *exchange) impossible(context.Context, []byte) ([]byte, bool, error) {
	return nil, false, errors.New("no more to come in this exchange")
}

// external is EXTERNAL (RFC 4422 appendix A): the client is whom its certificate
// names. The authorization identity that it sends may be empty, or has to be one
// of the names; a certificate with several needs one.
func (x *exchange) external(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return nil, false, nil
	}
	names := certified(x.client.TLS)
	x.user = string(response)
	if x.user == "" && len(names) > 0 {
		x.user = names[0]
	}
	err := x.prove(ctx, func() error {
		same := func(name string) bool { return Fold(name) == Fold(x.user) }
		switch {
		case !slices.ContainsFunc(names, same) || !plausibleName(x.user):
			return fmt.Errorf("not a name in the client's certificate: %w", upstream.ErrAuth)
		case len(response) == 0 && len(names) > 1:
			return fmt.Errorf("several names in the client's certificate, and none was chosen: %w", upstream.ErrAuth)
		}
		return nil
	})
	return nil, err == nil, err
}

// certified returns the names in the client's certificate, if it has one that was
// verified: the mail addresses among its alternative names (RFC 5280 section
// 4.2.1.6), or if there are none, the common name of its subject.
func certified(state *tls.ConnectionState) []string {
	if state == nil || len(state.VerifiedChains) == 0 {
		return nil
	}
	certificate := state.VerifiedChains[0][0]
	if len(certificate.EmailAddresses) > 0 {
		return certificate.EmailAddresses
	}
	if name := certificate.Subject.CommonName; name != "" {
		return []string{name}
	}
	return nil
}
