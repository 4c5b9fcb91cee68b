package main

import (
	"context"
	"iter"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/metrics"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
)

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
