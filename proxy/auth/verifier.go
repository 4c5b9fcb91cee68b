package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"postern/proxy/pop3"
	"postern/upstream"
)

// Accounts are those that postern itself has passwords for.
type Accounts interface {
	Verifiers

	// Check returns the account whose name the client has and one of whose
	// passwords it knows. ErrUnknown says that nobody has the name,
	// upstream.ErrAuth that the password is wrong, or not good from there, or
	// the account may not log in, and ErrUnchecked that it was not looked at.
	Check(ctx context.Context, c pop3.Credentials) (Account, error)

	// Waste takes the time that Check takes to refuse a password.
	Waste(ctx context.Context) error
}

var (
	// ErrUnknown: no account has this name.
	ErrUnknown = errors.New("no such account")

	// ErrUnchecked is an upstream.ErrUnavailable: too many passwords are being
	// checked for this one to be, which is not one that is known to be good.
	ErrUnchecked = fmt.Errorf("%w: too many passwords are being checked", upstream.ErrUnavailable)
)

// Verifiers tell what checks clients that prove who they are without sending a
// password. A name that nobody has is no error: it has no keys and no texts.
type Verifiers interface {
	// SCRAM returns the keys of the passwords that open an account from this
	// address. A name that nobody has, or that has no keys, has a salt and a
	// count like any other, always the same.
	SCRAM(ctx context.Context, name string, from netip.Addr) (SCRAM, error)

	// Texts returns those passwords as they are, if they are kept, for the
	// mechanisms that need them: CRAM-MD5 and APOP.
	Texts(ctx context.Context, name string, from netip.Addr) ([]Text, error)

	// Proven returns the account of a name once it was proven, and notes the
	// use of the password that did, which is empty for a certificate. ErrAuth
	// if there is no such account, or no such password any more.
	Proven(ctx context.Context, name, password string) (Account, error)
}

// SCRAM is what an account keeps for SCRAM-SHA-256 (RFC 7677). The server sends
// salt and count before it knows which of the passwords the client has, so that
// all of them have the same.
type SCRAM struct {
	Salt       []byte
	Iterations int
	Keys       []SCRAMKey
}

// A SCRAMKey checks one password. RFC 5802 section 3.
type SCRAMKey struct {
	Password             string // names it to Proven
	StoredKey, ServerKey []byte
}

// A Text is a password as it is.
type Text struct {
	Password string // names it to Proven
	Text     upstream.Secret
}

// An Account is one that postern keeps: where its mail is, and what proves it
// there.
type Account struct {
	Name     string // for the log
	Upstream string // its name in the configuration
	Opener   upstream.Opener

	Login    string // upstream
	Password upstream.Secret
	Tokens   upstream.TokenSource // instead of a password, if not nil

	// Still returns an error, such as upstream.ErrRejected, once a session that
	// this was for may not go on: the account was disabled or removed, or the
	// client's password revoked. Nil is for accounts that nobody can take away.
	Still func(ctx context.Context) error
}

// nobody are the accounts where there are none.
type nobody struct{}

func (nobody) Check(context.Context, pop3.Credentials) (Account, error) {
	return Account{}, ErrUnknown
}

func (nobody) Waste(context.Context) error { return nil }

func (nobody) SCRAM(context.Context, string, netip.Addr) (SCRAM, error) { return SCRAM{}, nil }

func (nobody) Texts(context.Context, string, netip.Addr) ([]Text, error) { return nil, nil }

func (nobody) Proven(context.Context, string, string) (Account, error) {
	return Account{}, upstream.ErrAuth
}
