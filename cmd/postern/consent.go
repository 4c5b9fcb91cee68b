package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"postern/proxy/accounts"
	"postern/proxy/consent"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/oauth"
)

// Begin implements consent.Desk.
func (d *desk) Begin(ctx context.Context, invitation upstream.Secret, callback string) (consent.Request, error) {
	at, _, err := d.invited(ctx, invitation)
	if err != nil {
		return nil, err
	}
	request, err := d.apps[at.up.Name].Begin(ctx, at.login, callback)
	if err != nil {
		return nil, err
	}
	return &asking{Request: request, desk: d, invitation: invitation}, nil
}

// An asking is a person who is asked for consent (consent.Request).
type asking struct {
	*oauth.Request
	desk       *desk
	invitation upstream.Secret
}

// Finish implements consent.Request. A grant is kept only if it opens the
// mailbox that the invitation is for: people have several.
func (a *asking) Finish(ctx context.Context, answer url.Values) (consent.Settings, error) {
	d := a.desk
	at, i, err := d.invited(ctx, a.invitation)
	if err != nil {
		return consent.Settings{}, err
	}
	grant, err := a.Request.Finish(ctx, answer)
	switch {
	case errors.Is(err, oauth.ErrDenied), errors.Is(err, oauth.ErrScope):
		return consent.Settings{}, fmt.Errorf("%w: %w", consent.ErrRefused, err)
	case err != nil:
		return consent.Settings{}, err
	}
	if err := opens(ctx, at, grant); errors.Is(err, upstream.ErrAuth) {
		return consent.Settings{}, fmt.Errorf("%w than %s: %w", consent.ErrOther, at.login, err)
	} else if err != nil {
		return consent.Settings{}, fmt.Errorf("open %s with what was granted: %w", at.login, err)
	}
	grant.For = d.apps[at.up.Name].For(at.login)
	return d.connected(context.WithoutCancel(ctx), i, grant) // what is begun is ended, whoever has gone away
}

// connected keeps what was granted, and uses up the invitation. What fails then
// gives it back: the person is told to open the link once more.
func (d *desk) connected(ctx context.Context, i state.Invitation, grant oauth.Grant) (consent.Settings, error) {
	if _, err := d.store.UseInvitation(ctx, i.Token); err != nil {
		return consent.Settings{}, invitationError(err)
	}
	if err := (grants{d.config, d.vault, d.store}).replace(ctx, i.Account, grant); err != nil {
		return consent.Settings{}, errors.Join(err, d.store.Invite(ctx, i))
	}
	s, err := d.settings(ctx, i.Account)
	if err != nil {
		err = errors.Join(err, d.store.Invite(ctx, i))
	}
	return s, err
}

// openTime is how long a person waits for the mailbox to be opened.
const openTime = 15 * time.Second

// opens logs in by what was granted: not every provider says whose mailbox it
// is for, but each upstream knows.
func opens(ctx context.Context, at place, g oauth.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	adapter, err := at.adapter()
	if err != nil {
		return err
	}
	drop, err := adapter.Open(ctx, upstream.Account{User: at.login, Tokens: upstream.GivenToken{Secret: g.AccessToken}})
	if err != nil {
		return err
	}
	return drop.Close()
}

// settings are what the owner of an account types into a client. An account
// that has no password for clients yet gets one.
func (d *desk) settings(ctx context.Context, account string) (consent.Settings, error) {
	s := consent.Settings{User: account}
	for _, one := range servers(d.config) {
		s.Servers = append(s.Servers, consent.Server{Name: one.name, Port: one.port, TLS: one.security})
	}
	if _, configured := d.config.Account(account); configured {
		return s, nil
	}
	had, err := d.store.ClientPasswords(ctx, account)
	if err != nil || len(had) > 0 {
		return s, err
	}
	r, err := accounts.NewRegistrar(ctx, d.store, d.vault)
	if err != nil {
		return s, err
	}
	password, err := r.AddPassword(ctx, account, accounts.Wanted{Label: "consent page"})
	s.Password = upstream.NewSecret(accounts.Groups(password))
	return s, err
}
