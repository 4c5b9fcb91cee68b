package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"

	"postern/proxy/auth"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
)

// A Registrar makes and changes accounts in the state.
type Registrar struct {
	store state.Accounts
	vault *vault.Vault
	keys  keys
}

// NewRegistrar returns a Registrar of a state.
func NewRegistrar(ctx context.Context, store state.Accounts, v *vault.Vault) (*Registrar, error) {
	seed, err := store.Seed(ctx)
	if err != nil {
		return nil, err
	}
	return &Registrar{store: store, vault: v, keys: keys{seed}}, nil
}

// A NewAccount is to be made.
type NewAccount struct {
	Name       string
	Upstream   string
	Login      string          // at the upstream; "" is the name
	Credential string          // Password or OAuth
	Secret     upstream.Secret // for Password
}

// A Wanted password is to be made.
type Wanted struct {
	Label    string
	Chosen   upstream.Secret // empty: postern generates one
	Networks []netip.Prefix

	// KeepText seals the password itself too, for CRAM-MD5 and APOP. It is for
	// generated ones only.
	KeepText bool
}

// Limits of what a client password may be.
const (
	minChosenOctets = 12
	maxChosenOctets = 255 // the line of RFC 2449 section 4 carries no more
	maxPasswords    = 100 // of one account: all of them are looked at
	maxLabelOctets  = 64
	maxNameOctets   = 255
)

// Add makes an account, with a password for its clients if one is wanted, and
// returns that password. state.ErrExists says that the name is taken.
func (r *Registrar) Add(ctx context.Context, n NewAccount, w *Wanted) (text upstream.Secret, err error) {
	if err := CheckName(n.Name); err != nil {
		return text, err
	}
	a := state.Account{Name: auth.Fold(n.Name), Upstream: n.Upstream, Login: n.Login, Credential: n.Credential}
	var passwords []state.ClientPassword
	var secrets []state.Sealed
	if n.Credential == Password {
		sealed, err := r.vault.Seal(UpstreamPassword(a.Name), n.Secret)
		if err != nil {
			return text, err
		}
		secrets = append(secrets, sealed)
	}
	if w != nil {
		m, err := r.make(a.Name, *w)
		if err != nil {
			return text, err
		}
		text = m.text
		passwords, secrets = []state.ClientPassword{m.ClientPassword}, append(secrets, m.secrets...)
	}
	return text, r.store.AddAccount(ctx, a, passwords, secrets)
}

// AddPassword makes one more password for the clients of an account, and returns
// it. state.ErrExists says that the label is taken.
func (r *Registrar) AddPassword(ctx context.Context, account string, w Wanted) (text upstream.Secret, err error) {
	account = auth.Fold(account)
	there, err := r.store.ClientPasswords(ctx, account)
	if err != nil {
		return text, err
	}
	for _, p := range there {
		if p.Kind == Chosen && w.Chosen != (upstream.Secret{}) && p.Label != w.Label {
			return text, fmt.Errorf("the account has a chosen password already, %q: an account may have one, and any number of generated ones", p.Label)
		}
	}
	if len(there) >= maxPasswords {
		return text, fmt.Errorf("the account has %d passwords already: remove those that nobody uses", len(there))
	}
	m, err := r.make(account, w)
	if err != nil {
		return text, err
	}
	return m.text, r.store.AddClientPassword(ctx, m.ClientPassword, m.secrets)
}

// SetCredential changes the password that proves an account upstream.
func (r *Registrar) SetCredential(ctx context.Context, account string, secret upstream.Secret) error {
	a, err := r.store.Account(ctx, auth.Fold(account))
	if err != nil {
		return err
	}
	if a.Credential != Password {
		return errors.New("the account proves itself upstream with tokens, not with a password")
	}
	name := UpstreamPassword(a.Name)
	now, err := r.vault.Get(ctx, name)
	if errors.Is(err, vault.ErrDamaged) {
		err = r.vault.Remove(ctx, name) // it is not needed any more
	}
	if err != nil {
		return err
	}
	_, err = r.vault.Put(ctx, name, now.Version, secret)
	return err
}

// A made password is ready to be kept.
type made struct {
	state.ClientPassword
	text    upstream.Secret
	secrets []state.Sealed
}

func (r *Registrar) make(account string, w Wanted) (made, error) {
	m := made{ClientPassword: state.ClientPassword{Account: account, Label: w.Label, Networks: w.Networks}}
	if err := checkLabel(w.Label); err != nil {
		return m, err
	}
	if w.Chosen != (upstream.Secret{}) {
		return m, m.choose(w)
	}
	m.Kind, m.text = Generated, r.keys.generate()
	m.Verifier = r.keys.verifier(account, m.text.Reveal())
	m.StoredKey, m.ServerKey = r.keys.scram(account, m.text.Reveal())
	if w.KeepText {
		sealed, err := r.vault.Seal(state.ClearPassword(account, w.Label), m.text)
		if err != nil {
			return m, err
		}
		m.secrets = []state.Sealed{sealed}
	}
	return m, nil
}

// choose makes m the password that a person wants.
func (m *made) choose(w Wanted) (err error) {
	text := w.Chosen.Reveal()
	switch {
	case w.KeepText:
		return errors.New("only a generated password may be kept as it is, for CRAM-MD5 and APOP")
	case len(text) < minChosenOctets:
		return fmt.Errorf("the password is shorter than %d characters: it guards a mailbox against everybody who can reach postern", minChosenOctets)
	case len(text) > maxChosenOctets:
		return fmt.Errorf("the password is longer than %d octets, which POP3 clients cannot send", maxChosenOctets)
	case strings.ContainsFunc(text, unicode.IsControl):
		return errors.New("the password has control characters in it")
	}
	hash, err := argon2id.CreateHash(text, &cost)
	m.Kind, m.text, m.Verifier = Chosen, w.Chosen, []byte(hash)
	return err
}

// CheckName tells what is wrong with the name of an account.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxNameOctets:
		return fmt.Errorf("the name is longer than %d octets", maxNameOctets)
	case !utf8.ValidString(name), strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("the name has control characters in it, or is no UTF-8")
	case strings.TrimSpace(name) != name:
		return errors.New("the name begins or ends with a space")
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > maxLabelOctets || !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl) {
		return fmt.Errorf("a label has 1 to %d characters, such as scanner or front-desk", maxLabelOctets)
	}
	return nil
}
