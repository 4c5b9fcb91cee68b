package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/metrics"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
)

// openVault opens the vault of a state with the keys that the configuration names.
func openVault(c config.Vault, store state.Store) (*vault.Vault, error) {
	return vault.Open(context.Background(), store, keyring(c))
}

// keyring reads the keys, or is nil where the configuration names none.
func keyring(c config.Vault) vault.Source {
	if !c.Set() {
		return nil
	}
	return func() (*vault.Keyring, error) {
		text, from, err := keyText(c)
		if err != nil {
			return nil, err
		}
		ring, err := vault.ParseKeyring(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		return ring, nil
	}
}

// keyText is the text of the keyring, and where it comes from.
func keyText(c config.Vault) (text []byte, from string, err error) {
	switch {
	case c.KeyEnv != "":
		value, ok := os.LookupEnv(c.KeyEnv)
		if !ok {
			return nil, "", fmt.Errorf("the environment variable %s, which vault.key_env names, is not set", c.KeyEnv)
		}
		return []byte(strings.Join(strings.Fields(value), "\n")), "environment variable " + c.KeyEnv, nil
	case c.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, "", fmt.Errorf("there is no CREDENTIALS_DIRECTORY: vault.credential %s needs systemd, and LoadCredentialEncrypted=%[1]s in the unit", c.Credential)
		}
		from = filepath.Join(dir, c.Credential)
	default:
		from = c.KeyFile
	}
	text, err = os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w\nThis file holds the keys that secrets are sealed with. If there never was one, make it: postern vault new-key", err)
	}
	return text, from, err
}

// accounts puts together those that postern itself has passwords for, and the
// desk where their owners are asked for consent.
func (g *gateway) accounts(c *config.Config, openers openers, counts *metrics.Metrics) (*accounts.Book, *desk, error) {
	v, err := openVault(c.Vault, g.store)
	if err != nil {
		return nil, nil, err
	}
	tokens, err := g.tokens(c, v, counts)
	if err != nil {
		return nil, nil, err
	}
	d, err := newDesk(c, g.store, v, tokens.apps)
	if err != nil {
		return nil, nil, err
	}
	g.keeper = tokens.keeper
	g.tend = func(ctx context.Context) { tokens.tend(ctx, d, g.log) }
	book, err := newBook(c, g.store, v, accounts.Options{
		Opener: func(account, upstreamName string) upstream.Opener {
			return d.noticed(account, upstreamName, openers.of(account, upstreamName))
		},
		Tokens:  tokens.source,
		Checked: counts.Accounts(append(accounts.Proofs(), accounts.Refusals()...)),
		Log:     g.log,
	})
	return book, d, err
}

// newBook returns the accounts of a configuration and of its state.
func newBook(c *config.Config, store state.Store, v *vault.Vault, o accounts.Options) (_ *accounts.Book, err error) {
	o.Store, o.Vault = store, v
	for _, a := range c.Accounts {
		one := accounts.Configured{Name: a.User, Upstream: a.Upstream, Login: a.UpstreamUser, Credential: accounts.OAuth,
			Hash: a.PasswordHash, Networks: a.Networks}
		if a.UpstreamPasswordFile != "" {
			one.Credential = accounts.Password
			if one.Secret, err = secretFile(a.UpstreamPasswordFile); err != nil {
				return nil, err
			}
		}
		if a.PasswordFile != "" {
			if one.Password, err = secretFile(a.PasswordFile); err != nil {
				return nil, err
			}
		}
		o.Configured = append(o.Configured, one)
	}
	return accounts.New(context.Background(), o)
}

// secretFile reads the first line of a file.
func secretFile(path string) (upstream.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return upstream.Secret{}, err
	}
	defer f.Close()
	secret, err := firstLine(bufio.NewReader(f))
	if err != nil {
		return upstream.Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

// storedAccounts goes through the accounts of the state, a page at a time. An
// error is the last it gives.
func storedAccounts(ctx context.Context, store state.Accounts) iter.Seq2[state.Account, error] {
	const page = 1000
	return func(yield func(state.Account, error) bool) {
		for after := ""; ; {
			some, err := store.ListAccounts(ctx, after, page)
			if err != nil {
				yield(state.Account{}, err)
				return
			}
			for _, a := range some {
				if after = a.Name; !yield(a, nil) {
					return
				}
			}
			if len(some) < page {
				return
			}
		}
	}
}

// A place is where the mail of a user is, and who the user is there.
type place struct {
	user  string // that clients log in with
	route config.Route
	up    config.Upstream
	login string // the name at the upstream
	ours  bool   // there is an account: postern has what proves it
}

// adapter opens the maildrop there as the route has it, without any of what a
// running gateway shares.
func (at place) adapter() (upstream.Opener, error) { return newAdapter(at.up, at.wiring()) }

func (at place) wiring() wiring { return wiring{policy: policy(at.route), uidl: at.route.UIDL} }

// place finds where a user's mail is, for a command.
func (p *program) place(c *config.Config, user string) (place, error) {
	if a, ok := c.Account(user); ok {
		return placeOf(c, user, a.Upstream, a.UpstreamUser)
	}
	a, err := p.stateAccount(c, user)
	if err == nil {
		return placeOf(c, user, a.Upstream, a.Login)
	}
	if !errors.Is(err, state.ErrNotFound) {
		return place{}, err
	}
	r, u, ok := c.Route(user)
	switch {
	case !ok:
		return place{}, fmt.Errorf("no route takes the user %q, and no account has that name", user)
	case r.Login == config.AccountsOnly:
		return place{}, fmt.Errorf("no account has the name %q, and the route that takes the user is for accounts only", user)
	}
	return place{user: user, route: r, up: u, login: auth.Expand(r.UpstreamUser, user)}, nil
}

// placeOf is the place of an account.
func placeOf(c *config.Config, user, upstreamName, login string) (place, error) {
	u := c.Upstream(upstreamName)
	if u.Name == "" {
		return place{}, fmt.Errorf("the account %s is at the upstream %q, which the configuration does not have", user, upstreamName)
	}
	name := auth.Fold(user)
	return place{user: user, route: c.Policy(name, upstreamName), up: u, login: auth.Expand(login, name), ours: true}, nil
}

// stateAccount reads an account of the state, or is state.ErrNotFound.
func (p *program) stateAccount(c *config.Config, user string) (state.Account, error) {
	store, err := openReadable(c.State)
	if err != nil {
		return state.Account{}, err
	}
	defer store.Close()
	return store.Account(p.drain, auth.Fold(user))
}

// credentials is how to log in at a place: with what postern has, or with a
// password that is asked for. They are good until release is called.
func (p *program) credentials(c *config.Config, at place, passwordFile string) (a upstream.Account, release func(), err error) {
	a, release = upstream.Account{User: at.login}, func() {}
	if !at.ours {
		a.Password, err = p.password(at.user, passwordFile)
		return a, release, err
	}
	store, err := openReadable(c.State)
	if at.up.OAuth.Grant == config.ByConsent && err == nil {
		// A token may have to be refreshed, and must be kept then.
		store.Close()
		store, err = openStateFor(c.State, state.Options{})
	}
	if err != nil {
		return a, release, err
	}
	keeper, err := p.prove(c, store, at, &a)
	release = func() {
		if keeper != nil {
			keeper.Close()
		}
		store.Close()
	}
	return a, release, err
}

// prove adds what postern has to prove an account with. The Keeper of its tokens
// is closed before the store.
func (p *program) prove(c *config.Config, store state.Store, at place, a *upstream.Account) (*oauth.Keeper, error) {
	v, err := openVault(c.Vault, store)
	if err != nil {
		return nil, err
	}
	tokens, err := newTokens(c, v, store, oauth.Options{})
	if err != nil {
		return nil, err
	}
	book, err := newBook(c, store, v, accounts.Options{
		Opener: func(string, string) upstream.Opener { return unasked{} },
		Tokens: tokens.source,
	})
	if err != nil {
		return nil, err
	}
	defer book.Close()
	found, err := book.Proven(p.drain, at.user, "")
	if errors.Is(err, upstream.ErrAuth) {
		return nil, errors.New("the account is disabled")
	}
	a.Password, a.Tokens = found.Password, found.Tokens
	return tokens.keeper, err
}

// unasked is an upstream that nobody asks.
type unasked struct{}

func (unasked) Open(context.Context, upstream.Account) (upstream.Maildrop, error) {
	return nil, upstream.ErrUnavailable
}

// ledger names the ledger of the place.
func (at place) ledger(c *config.Config) string { return ledgerAccount(c, at.up.Name, at.login) }

// ledgerAccount names the ledger of a mailbox, whichever way its name is written.
// An address is the same mailbox wherever it is kept today, and so is the name of
// a user whom a route takes there; any other name without a domain is somebody's
// at that upstream, and may be somebody else's at another.
func ledgerAccount(c *config.Config, upstreamName, login string) string {
	name := auth.Fold(login)
	if r, _, ok := c.Route(login); strings.Contains(login, "@") || ok && r.Upstream == upstreamName {
		return name
	}
	return upstreamName + "\x00" + name // which is nobody's name
}
