package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/consent"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
)

// A desk is where consent is asked for, by web pages (consent.Desk), by links
// from the command line and by notices.
type desk struct {
	config *config.Config
	public *url.URL // of the pages; nil for none
	store  state.Store
	vault  *vault.Vault
	apps   map[string]*oauth.Application // by upstream
	secret [32]byte                      // that the links in notices are made of, as long as the process lives
}

func newDesk(c *config.Config, store state.Store, v *vault.Vault, apps map[string]*oauth.Application) (*desk, error) {
	d := &desk{config: c, store: store, vault: v, apps: apps}
	rand.Read(d.secret[:])
	if c.Consent.PublicURL == "" {
		return d, nil
	}
	var err error
	d.public, err = url.Parse(c.Consent.PublicURL)
	return d, err
}

// site is the pages; nil for none.
func (g *gateway) site(d *desk) (http.Handler, error) {
	if d.public == nil {
		return nil, nil
	}
	o := consent.Options{Desk: d, Public: d.public, Log: g.log}
	if file := d.config.Consent.PasswordFile; file != "" {
		var err error
		if o.Password, err = secretFile(file); err != nil {
			return nil, err
		}
	}
	return consent.New(o), nil
}

// maxShown is how many accounts are shown at once.
const maxShown = 200

// Accounts implements consent.Desk.
func (d *desk) Accounts(ctx context.Context, find string) ([]consent.Account, bool, error) {
	lost, err := d.store.LostConsents(ctx)
	if err != nil {
		return nil, false, err
	}
	var first, others []consent.Account
	err = d.each(ctx, func(name, upstreamName, login string) error {
		if !strings.Contains(name, auth.Fold(find)) {
			return nil
		}
		a := consent.Account{Name: name, Login: auth.Expand(login, name), Provider: title(d.config.Upstream(upstreamName)), State: consent.Good}
		if missing, ok := lost[name]; ok {
			a.State, a.Since = consent.Lost, missing.Lost
			first = append(first, a)
		} else if len(others) <= maxShown {
			others = append(others, a)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	all := append(first, others...)
	more := len(all) > maxShown
	all = all[:min(len(all), maxShown)]
	return all, more, d.lookWhichNever(ctx, all)
}

// lookWhichNever finds those of the accounts that have no grant at all.
func (d *desk) lookWhichNever(ctx context.Context, all []consent.Account) error {
	for i := range all {
		if all[i].State != consent.Good {
			continue
		}
		given, err := hasGrant(ctx, d.config, d.store, all[i].Name)
		if err != nil {
			return err
		}
		if !given {
			all[i].State = consent.Never
		}
	}
	return nil
}

// each goes through the accounts whose owners have to consent.
func (d *desk) each(ctx context.Context, do func(name, upstreamName, login string) error) error {
	for _, a := range d.config.Accounts {
		if d.asksConfigured(a) {
			if err := do(auth.Fold(a.User), a.Upstream, a.UpstreamUser); err != nil {
				return err
			}
		}
	}
	for a, err := range storedAccounts(ctx, d.store) {
		if err != nil {
			return err
		}
		if _, configured := d.config.Account(a.Name); configured || !d.asksStored(a) {
			continue
		}
		if err := do(a.Name, a.Upstream, a.Login); err != nil {
			return err
		}
	}
	return nil
}

// asks tells whether the owners of mailboxes at an upstream are asked.
func (d *desk) asks(upstreamName string) bool {
	return d.config.Upstream(upstreamName).OAuth.Grant == config.ByConsent
}

// asksConfigured tells whether the owner of an account of the configuration is.
func (d *desk) asksConfigured(a config.Account) bool {
	return d.asks(a.Upstream) && a.UpstreamPasswordFile == ""
}

// asksStored tells whether the owner of an account of the state is.
func (d *desk) asksStored(a state.Account) bool {
	return d.asks(a.Upstream) && a.Credential == accounts.OAuth
}

// place finds where an account's mail is. ErrNotFound says that there is no such
// account, or none whose owner has to be asked.
func (d *desk) place(ctx context.Context, account string) (place, error) {
	if a, ok := d.config.Account(account); ok && d.asksConfigured(a) {
		return placeOf(d.config, account, a.Upstream, a.UpstreamUser)
	}
	a, err := d.store.Account(ctx, auth.Fold(account))
	if err != nil {
		return place{}, err
	}
	if !d.asksStored(a) {
		return place{}, fmt.Errorf("the account %s needs nobody's consent: %w", account, state.ErrNotFound)
	}
	return placeOf(d.config, account, a.Upstream, a.Login)
}

// Invite implements consent.Desk.
func (d *desk) Invite(ctx context.Context, account string) (upstream.Secret, time.Time, error) {
	if _, err := d.place(ctx, account); err != nil {
		return upstream.Secret{}, time.Time{}, invitationError(err)
	}
	invitation := upstream.NewSecret(rand.Text())
	expires, err := d.invite(ctx, account, invitation)
	return invitation, expires, err
}

func (d *desk) invite(ctx context.Context, account string, invitation upstream.Secret) (expires time.Time, err error) {
	expires = time.Now().Add(d.config.Consent.Invitations)
	return expires, d.store.Invite(ctx, state.Invitation{Account: auth.Fold(account), Token: tokenHash(invitation), Expires: expires})
}

func tokenHash(invitation upstream.Secret) state.TokenHash {
	return sha256.Sum256([]byte(invitation.Reveal()))
}

// invited is whom an invitation is for.
func (d *desk) invited(ctx context.Context, invitation upstream.Secret) (place, state.Invitation, error) {
	i, err := d.store.Invitation(ctx, tokenHash(invitation))
	if err != nil {
		return place{}, i, invitationError(err)
	}
	at, err := d.place(ctx, i.Account)
	return at, i, invitationError(err)
}

func invitationError(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return fmt.Errorf("%w: %w", consent.ErrInvitation, err)
	}
	return err
}

// Invited implements consent.Desk.
func (d *desk) Invited(ctx context.Context, invitation upstream.Secret) (consent.Invitation, error) {
	at, i, err := d.invited(ctx, invitation)
	if err != nil {
		return consent.Invitation{}, err
	}
	return consent.Invitation{Login: at.login, Provider: title(at.up), Expires: i.Expires}, nil
}
