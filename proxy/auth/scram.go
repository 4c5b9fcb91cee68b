package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/xdg-go/scram"

	"postern/proxy/pop3"
	"postern/upstream"
)

// scram is SCRAM-SHA-256 (RFC 5802, 7677); with plus, the variant that is bound to
// the TLS connection (RFC 9266).
func (x *exchange) scram(plus bool) turn {
	return func(ctx context.Context, response []byte) ([]byte, bool, error) {
		if response == nil {
			return nil, false, nil
		}
		if len(response) > maxFirstOctets {
			return nil, false, pop3.ErrMalformed
		}
		began := time.Now()
		challenge, done, err := x.scramFirst(ctx, string(response), x.scramTalks(plus))
		sleep(ctx, keysTime-time.Since(began))
		return challenge, done, err
	}
}

// maxFirstOctets has room for two names of maxNameOctets, each octet escaped, and a
// nonce. What a client sends first is kept for each of the account's passwords, for
// as long as the client takes to go on.
const maxFirstOctets = 2 << 10

// keysTime is how long after the first message the salt is sent. It hides whether
// there were keys to be read: a name that nobody has is some 15 µs faster.
const keysTime = 20 * time.Millisecond

// scramTalks returns what makes conversations that send the client the same nonce.
func (x *exchange) scramTalks(plus bool) func(scram.CredentialLookup) *scram.ServerConversation {
	nonce := rand.Text()
	if x.gate.nonce != nil {
		nonce = x.gate.nonce()
	}
	binding := exporter(x.client.TLS)
	return func(keys scram.CredentialLookup) *scram.ServerConversation {
		server, _ := scram.SHA256.NewServer(keys) // which knows no error
		server.WithNonceGenerator(func() string { return nonce })
		if plus {
			return server.NewConversationWithChannelBindingRequired(binding)
		}
		return server.NewConversationWithChannelBinding(binding)
	}
}

// scramFirst takes the client's first message. The client may have any of the
// account's passwords: there is a conversation with each of them, which differ in
// their keys only and look to the client like one.
func (x *exchange) scramFirst(ctx context.Context, message string, talk func(scram.CredentialLookup) *scram.ServerConversation) ([]byte, bool, error) {
	first := talk(func(name string) (scram.StoredCredentials, error) {
		x.user = name
		return scram.StoredCredentials{}, errors.New("not known yet")
	})
	first.Step(message)
	if !plausibleName(x.user) {
		return nil, false, pop3.ErrMalformed
	}
	known, err := x.scramKeys(ctx)
	if err != nil {
		return nil, false, err
	}
	var challenge string
	talks := make([]*scram.ServerConversation, len(known.Keys))
	for i, k := range known.Keys {
		talks[i] = talk(func(string) (scram.StoredCredentials, error) {
			factors := scram.KeyFactors{Salt: string(known.Salt), Iters: known.Iterations}
			return scram.StoredCredentials{KeyFactors: factors, StoredKey: k.StoredKey, ServerKey: k.ServerKey}, nil
		})
		if challenge, err = talks[i].Step(message); err != nil {
			return nil, false, pop3.ErrMalformed // without err, which quotes the client
		}
	}
	x.turn = func(ctx context.Context, response []byte) ([]byte, bool, error) {
		return x.scramFinal(ctx, string(response), talks, known.Keys)
	}
	return []byte(challenge), false, nil
}

// scramKeys returns the account's keys, or one that no password has. For a name
// that nobody has, salt and count are like any other's, so that nobody can ask
// for names. RFC 5802 section 9.
func (x *exchange) scramKeys(ctx context.Context) (SCRAM, error) {
	known, err := x.gate.accounts.SCRAM(ctx, x.user, x.client.Remote.Addr())
	if err != nil {
		return known, err
	}
	if len(known.Salt) == 0 || known.Iterations < minIterations || known.Iterations > maxIterations {
		return known, fmt.Errorf("a salt of %d octets and %d iterations for SCRAM", len(known.Salt), known.Iterations)
	}
	if len(known.Keys) == 0 {
		nobodys := make([]byte, sha256.Size)
		rand.Read(nobodys)
		known.Keys = []SCRAMKey{{StoredKey: nobodys, ServerKey: nobodys}}
	}
	return known, nil
}

// Iteration counts that make sense: at least that of RFC 7677 section 4, and not so
// many that they keep a small device busy for a minute.
const (
	minIterations = 4096
	maxIterations = 100_000
)

// scramFinal takes the client's proof. What goes back proves that we know the
// keys; POP3 has it as one more challenge, which the client answers with nothing.
func (x *exchange) scramFinal(ctx context.Context, message string, talks []*scram.ServerConversation, keys []SCRAMKey) ([]byte, bool, error) {
	var answer string
	err := x.prove(ctx, func() error {
		for i, talk := range talks { // all of them, so that it takes as long for any
			said, _ := talk.Step(message)
			if talk.Valid() {
				answer, x.password = said, keys[i].Password
			}
		}
		if answer == "" {
			return fmt.Errorf("no proof: %w", upstream.ErrAuth)
		}
		if other := talks[0].AuthzID(); other != "" && Fold(other) != Fold(x.user) {
			return fmt.Errorf("nobody may act for somebody else: %w", upstream.ErrAuth)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	x.turn = func(_ context.Context, response []byte) ([]byte, bool, error) {
		if len(response) > 0 {
			return nil, false, pop3.ErrMalformed
		}
		return nil, true, nil
	}
	return []byte(answer), false, nil
}

// exporter is what binds SCRAM to a TLS connection: nothing before TLS 1.3, where
// clients expect tls-unique, which is not safe there. RFC 9266.
func exporter(state *tls.ConnectionState) scram.ChannelBinding {
	if state == nil || state.Version < tls.VersionTLS13 {
		return scram.ChannelBinding{}
	}
	binding, err := scram.NewTLSExporterBinding(state)
	if err != nil {
		return scram.ChannelBinding{}
	}
	return binding
}
