package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/oauth"
)

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
