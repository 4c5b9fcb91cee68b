// Package accounts knows the accounts that postern itself has passwords for:
// those of the configuration and those in the state, as one. It finds the
// account of a name, checks what its client sends, and gives what proves the
// account upstream. It implements auth.Accounts.
//
// An account may have several passwords, each for one device. Generated ones
// cannot be guessed and are checked by a fast keyed hash. One may be chosen by a
// person and is checked by argon2id. Every refusal costs one such hash, whoever's
// name it was, so that nobody learns from the time whose there are.
//
// What it reads of the state, it reads at each login: commands change accounts
// while a server runs. One goroutine writes down when passwords were used, until
// Close.
package accounts

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"postern/proxy/auth"
	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
)

// What proves an account to its upstream.
const (
	Password = "password" // a password or app password, in the vault or the configuration
	OAuth    = "oauth"    // tokens
)

// A Configured account stands in the configuration.
type Configured struct {
	Name       string
	Upstream   string
	Login      string // at the upstream, a template for auth.Expand; "" is the name
	Credential string // Password or OAuth
	Secret     upstream.Secret

	// The password of its clients: as it is, or else its argon2id hash.
	Password upstream.Secret
	Hash     string
	Networks []netip.Prefix // where it is good; none is everywhere
}

// Options say what a Book is about. Store, Vault and Opener are needed.
type Options struct {
	Configured []Configured
	Store      state.Accounts
	Vault      *vault.Vault

	// Opener returns what opens the mailboxes of an account at an upstream, or
	// nil if the configuration has no such upstream.
	Opener func(account, upstreamName string) upstream.Opener

	// Tokens returns the tokens of an account whose Credential is OAuth, and
	// which is called login at its upstream, or nil if there are none; nil is
	// for a configuration without any.
	Tokens func(account, login, upstreamName string) upstream.TokenSource

	// Checked is told of each attempt of somebody with an account: by what kind
	// of password it succeeded (Generated, Chosen, InConfiguration), or why it
	// did not (a word of Refusals). It may be nil.
	Checked func(result string)

	Log *slog.Logger // nil discards
}

// InConfiguration is a client password that stands in the configuration as it is.
const InConfiguration = "configured"

// A Book implements auth.Accounts.
type Book struct {
	Options
	keys       keys
	hasher     *hasher
	configured map[string]*entry
	uses       *uses
}

// New returns a Book. The caller closes it before the Store.
func New(ctx context.Context, o Options) (*Book, error) {
	seed, err := o.Store.Seed(ctx)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Checked == nil {
		o.Checked = func(string) {}
	}
	b := &Book{Options: o, keys: keys{seed}, hasher: newHasher(), configured: make(map[string]*entry)}
	for _, c := range o.Configured {
		b.configured[auth.Fold(c.Name)] = b.entryOf(c)
	}
	b.uses = noteUses(o.Store, o.Log)
	return b, nil
}

// Close writes down what is left to be.
func (b *Book) Close() { b.uses.close() }

// An entry is an account as it is now.
type entry struct {
	state.Account
	secret    upstream.Secret // of an account of the configuration
	passwords []password
}

// A password is one that clients of an account have.
type password struct {
	state.ClientPassword
	text  upstream.Secret                      // if the configuration has it
	scram func() (storedKey, serverKey []byte) // empty for a password that SCRAM cannot use
}

// entryOf is an account of the configuration, in the form of the state.
func (b *Book) entryOf(c Configured) *entry {
	name := auth.Fold(c.Name)
	p := password{ClientPassword: state.ClientPassword{Account: name, Label: "configuration", Kind: Chosen,
		Verifier: []byte(c.Hash), Networks: c.Networks}, scram: noSCRAM}
	if c.Hash == "" {
		p.Kind, p.text = InConfiguration, c.Password
		p.Verifier = b.keys.verifier(name, c.Password.Reveal())
		p.scram = sync.OnceValues(func() (storedKey, serverKey []byte) { return b.keys.scram(name, c.Password.Reveal()) })
	}
	return &entry{
		Account:   state.Account{Name: name, Upstream: c.Upstream, Login: c.Login, Credential: c.Credential},
		secret:    c.Secret,
		passwords: []password{p},
	}
}

func noSCRAM() (storedKey, serverKey []byte) { return nil, nil }

// find returns the account of a name, or auth.ErrUnknown.
func (b *Book) find(ctx context.Context, name string) (*entry, error) {
	name = auth.Fold(name)
	if e, ok := b.configured[name]; ok {
		return e, nil
	}
	a, err := b.Store.Account(ctx, name)
	kept, passwordsErr := b.Store.ClientPasswords(ctx, name) // of nobody too: that takes as long
	if errors.Is(err, state.ErrNotFound) {
		return nil, auth.ErrUnknown
	}
	if err := errors.Join(err, passwordsErr); err != nil {
		return nil, fmt.Errorf("%w: %w", upstream.ErrUnavailable, err)
	}
	e := &entry{Account: a}
	for _, p := range kept {
		e.passwords = append(e.passwords, password{ClientPassword: p, scram: func() ([]byte, []byte) { return p.StoredKey, p.ServerKey }})
	}
	return e, nil
}

// Check implements auth.Accounts.
func (b *Book) Check(ctx context.Context, c pop3.Credentials) (auth.Account, error) {
	e, err := b.find(ctx, c.User)
	if errors.Is(err, auth.ErrUnknown) && b.keys.made(c.Password.Reveal()) {
		return auth.Account{}, b.strayed(ctx)
	}
	if err != nil {
		return auth.Account{}, err
	}
	p, err := b.match(ctx, e, c.Password.Reveal(), c.Remote.Addr())
	if err != nil {
		return auth.Account{}, err
	}
	if reason := e.refuses(p, c.Remote.Addr()); reason != "" {
		b.Checked(reason)
		return auth.Account{}, fmt.Errorf("account: %s: %w", reason, upstream.ErrAuth)
	}
	b.Checked(p.Kind)
	return b.account(ctx, e, p)
}

// strayed is the error for a generated password under a name that nobody has: of
// an account that was removed, or with a slip in its name. No route is to hand it
// to an upstream.
func (b *Book) strayed(ctx context.Context) error {
	if err := b.hasher.waste(ctx); err != nil {
		return err
	}
	return fmt.Errorf("a generated password, but no account has this name: %w", upstream.ErrAuth)
}

// Waste implements auth.Accounts.
func (b *Book) Waste(ctx context.Context) error { return b.hasher.waste(ctx) }

// match returns which of the account's passwords this one is, or nil. If it is
// none, or one that is no good from there now, one hash was made.
func (b *Book) match(ctx context.Context, e *entry, text string, from netip.Addr) (*password, error) {
	if text == "" { // the client sent a token, which proves nothing here
		return nil, b.hasher.waste(ctx)
	}
	exact, plain := b.keys.verifier(e.Name, text), b.keys.verifier(e.Name, typed(text))
	var found, chosen *password
	for i := range e.passwords {
		p := &e.passwords[i]
		want := exact
		if p.Kind == Generated {
			want = plain
		}
		switch {
		case p.Kind == Chosen:
			chosen = p
		case subtle.ConstantTimeCompare(want, p.Verifier) == 1:
			found = p
		}
	}
	switch {
	case found != nil && e.refuses(found, from) == "":
		return found, nil
	case found != nil || chosen == nil:
		return found, b.hasher.waste(ctx)
	case e.refuses(chosen, from) == "" && b.hasher.knows(e.Name, text, string(chosen.Verifier)):
		return chosen, nil
	}
	ok, err := b.hasher.check(ctx, e.Name, text, string(chosen.Verifier))
	if !ok {
		chosen = nil
	}
	return chosen, err
}

// Why a client with the name of an account is not let in: for the log and
// metrics. The client hears of none.
const (
	wrongPassword = "wrong_password"
	wrongNetwork  = "wrong_network"
	disabled      = "disabled"
)

// Refusals lists them.
func Refusals() []string { return []string{wrongPassword, wrongNetwork, disabled} }

// refuses returns why a password does not open the account from this address, or
// nothing. A nil password is a wrong one.
func (e *entry) refuses(p *password, from netip.Addr) string {
	switch {
	case p == nil:
		return wrongPassword
	case e.Disabled:
		return disabled
	case !p.goodFrom(from):
		return wrongNetwork
	}
	return ""
}

// goodFrom tells whether a password is good at an address.
func (p *password) goodFrom(from netip.Addr) bool {
	if len(p.Networks) == 0 {
		return true
	}
	from = from.Unmap().WithZone("")
	for _, n := range p.Networks {
		if n.Contains(from) {
			return true
		}
	}
	return false
}

// account returns what opens an account to a client that has proved to be its
// owner, and notes which password did; nil is a certificate.
func (b *Book) account(ctx context.Context, e *entry, p *password) (auth.Account, error) {
	a := auth.Account{Name: e.Name, Upstream: e.Upstream, Login: auth.Expand(e.Login, e.Name), Opener: b.Opener(e.Name, e.Upstream)}
	if p != nil {
		b.uses.note(state.Use{Account: e.Name, Label: p.Label, At: time.Now()})
	}
	if b.configured[e.Name] != e {
		a.Still = func(ctx context.Context) error { return b.still(ctx, e, p) }
	}
	switch {
	case a.Opener == nil:
		return auth.Account{}, fmt.Errorf("%w: the configuration has no upstream %q, which the account is at", upstream.ErrRejected, e.Upstream)
	case a.Login == "":
		return auth.Account{}, fmt.Errorf("%w: %q makes no name at the upstream", upstream.ErrRejected, e.Login)
	}
	return a, b.credential(ctx, e, &a)
}

// still returns an error once a session may not go on that began when the account
// was as it was then, by one of its passwords or by a certificate. A state that
// cannot be read takes nothing from anybody.
func (b *Book) still(ctx context.Context, was *entry, by *password) error {
	now, err := b.find(ctx, was.Name)
	gone := ""
	switch {
	case errors.Is(err, auth.ErrUnknown), err == nil && !now.Created.Equal(was.Created):
		gone = "removed"
	case err != nil:
	case now.Disabled:
		gone = disabled
	case by != nil && !slices.ContainsFunc(now.passwords, by.is):
		gone = "password revoked"
	}
	if gone == "" {
		return nil
	}
	return fmt.Errorf("%w: account: %s", upstream.ErrRejected, gone)
}

// is tells whether other is the same password, and not a later one with its label.
func (p *password) is(other password) bool {
	return p.Label == other.Label && p.Created.Equal(other.Created)
}

// credential adds what proves the account upstream.
func (b *Book) credential(ctx context.Context, e *entry, a *auth.Account) error {
	if e.Credential == OAuth {
		if b.Tokens != nil {
			a.Tokens = b.Tokens(e.Name, a.Login, e.Upstream)
		}
		if a.Tokens == nil {
			return fmt.Errorf("%w: the upstream %q has no oauth, which the account needs", upstream.ErrRejected, e.Upstream)
		}
		return nil
	}
	if _, ok := b.configured[e.Name]; ok {
		a.Password = e.secret
		return nil
	}
	kept, err := b.Vault.Get(ctx, UpstreamPassword(e.Name))
	switch {
	case errors.Is(err, vault.ErrNoKey), errors.Is(err, vault.ErrDamaged):
		return fmt.Errorf("%w: %w", upstream.ErrRejected, err)
	case err != nil:
		return fmt.Errorf("%w: %w", upstream.ErrUnavailable, err)
	case kept.Version == 0:
		return fmt.Errorf("%w: no upstream password is kept for the account", upstream.ErrRejected)
	}
	a.Password = kept.Text
	return nil
}

// UpstreamPassword names the secret that proves an account upstream.
func UpstreamPassword(account string) state.SecretName {
	return state.SecretName{Account: account, Purpose: "upstream-password"}
}

// SCRAM implements auth.Accounts.
func (b *Book) SCRAM(ctx context.Context, name string, from netip.Addr) (auth.SCRAM, error) {
	s := auth.SCRAM{Salt: b.keys.salt(auth.Fold(name)), Iterations: iterations}
	err := b.each(ctx, name, from, func(p *password) error {
		stored, server := p.scram()
		if len(stored) > 0 {
			s.Keys = append(s.Keys, auth.SCRAMKey{Password: p.Label, StoredKey: stored, ServerKey: server})
		}
		return nil
	})
	return s, err
}

// Texts implements auth.Accounts.
func (b *Book) Texts(ctx context.Context, name string, from netip.Addr) (texts []auth.Text, err error) {
	err = b.each(ctx, name, from, func(p *password) error {
		text := p.text
		if p.Kind == Generated {
			kept, err := b.Vault.Get(ctx, state.ClearPassword(p.Account, p.Label))
			if err != nil {
				return fmt.Errorf("%w: %w", upstream.ErrUnavailable, err)
			}
			text = kept.Text
		}
		if text != (upstream.Secret{}) {
			texts = append(texts, auth.Text{Password: p.Label, Text: text})
		}
		return nil
	})
	return texts, err
}

// each calls do with the passwords that open an account from this address.
func (b *Book) each(ctx context.Context, name string, from netip.Addr, do func(*password) error) error {
	e, err := b.find(ctx, name)
	if errors.Is(err, auth.ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range e.passwords {
		if p := &e.passwords[i]; e.refuses(p, from) == "" {
			if err := do(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// Proven implements auth.Accounts.
func (b *Book) Proven(ctx context.Context, name, label string) (auth.Account, error) {
	e, err := b.find(ctx, name)
	if errors.Is(err, auth.ErrUnknown) {
		return auth.Account{}, fmt.Errorf("account: %w: %w", err, upstream.ErrAuth)
	}
	if err != nil {
		return auth.Account{}, err
	}
	if e.Disabled {
		b.Checked(disabled)
		return auth.Account{}, fmt.Errorf("account: %s: %w", disabled, upstream.ErrAuth)
	}
	if label == "" {
		b.Checked(Certificate)
		return b.account(ctx, e, nil)
	}
	for i := range e.passwords {
		if p := &e.passwords[i]; p.Label == label {
			b.Checked(p.Kind)
			return b.account(ctx, e, p)
		}
	}
	return auth.Account{}, fmt.Errorf("account: the password was removed meanwhile: %w", upstream.ErrAuth)
}

// Certificate is a client certificate, which opens an account without a password.
const Certificate = "certificate"

// Proofs lists by what an account may be opened, for metrics.
func Proofs() []string { return []string{Generated, Chosen, InConfiguration, Certificate} }
