package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"postern/cmd/internal/config"
	"postern/proxy/auth"
	"postern/proxy/metrics"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
)

// A tokens gives the access tokens of accounts, at the upstreams that take some.
type tokens struct {
	keeper *oauth.Keeper
	apps   map[string]*oauth.Application // by upstream
}

// newTokens reads what proves postern to the providers of the configuration.
func newTokens(c *config.Config, v *vault.Vault, store state.Store, o oauth.Options) (*tokens, error) {
	o.Store = grants{c, v, store}
	t := &tokens{keeper: oauth.NewKeeper(o), apps: make(map[string]*oauth.Application)}
	for _, u := range c.Upstreams {
		if !u.OAuth.Set() {
			continue
		}
		app, err := application(u)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: oauth: %w", u.Name, err)
		}
		t.apps[u.Name] = app
	}
	return t, nil
}

// source gives the tokens of an account; nil if its upstream takes none.
func (t *tokens) source(account, login, upstreamName string) upstream.TokenSource {
	app, ok := t.apps[upstreamName]
	if !ok {
		return nil
	}
	return t.keeper.Source(account, login, app)
}

// tokens gives the tokens of all accounts, and counts them.
func (g *gateway) tokens(c *config.Config, v *vault.Vault, counts *metrics.Metrics) (*tokens, error) {
	counted := map[string]func(time.Duration, error){}
	t, err := newTokens(c, v, g.store, oauth.Options{
		Log: g.log,
		Hooks: oauth.Hooks{Refreshed: func(upstreamName string, took time.Duration, err error) {
			counted[upstreamName](took, err)
		}},
	})
	if err != nil {
		return nil, err
	}
	for name, app := range t.apps {
		told := metrics.Tokens{Consents: func() (good, lost int, ends time.Time) {
			s := t.keeper.Standings()[name]
			return s.Good, s.Lost, s.Next
		}}
		if app.Key != nil {
			told.Certificate = app.Key.NotAfter
		}
		counted[name] = counts.Tokens(name, told)
	}
	return t, nil
}

// tendPause is between two looks at all consents.
const tendPause = 24 * time.Hour

// tend looks after the consents of all accounts, at once and every day, until
// ctx ends.
func (t *tokens) tend(ctx context.Context, d *desk, log *slog.Logger) {
	tick := time.NewTicker(tendPause)
	defer tick.Stop()
	for {
		err := d.each(ctx, func(name, upstreamName, login string) error {
			err := t.keeper.Tend(ctx, name, auth.Expand(login, name), t.apps[upstreamName])
			if err != nil && ctx.Err() == nil && !errors.Is(err, upstream.ErrConsent) { // which the keeper has told
				log.Warn("consent not looked after", "account", name, "upstream", upstreamName, "err", err)
			}
			return ctx.Err()
		})
		if err != nil && ctx.Err() == nil {
			log.Warn("consents not looked after", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// application is postern as the provider of an upstream knows it.
func application(u config.Upstream) (*oauth.Application, error) {
	o := u.OAuth
	app := &oauth.Application{
		Name:        u.Name,
		Flow:        map[string]oauth.Flow{config.ByConsent: oauth.ByConsent, config.ByClientCredentials: oauth.ByClientCredentials, config.ByServiceAccount: oauth.ByServiceAccount}[o.Grant],
		Scopes:      o.Scopes,
		Endpoints:   oauth.Endpoints{AuthURL: o.Auth, TokenURL: o.Token, DeviceURL: o.Device},
		Issuer:      o.Issuer,
		ClientID:    o.ClientID,
		BasicSecret: o.SecretBy == config.BasicSecret,
		Parameters:  profile(u).OAuth.Parameters,
	}
	if o.CAFile != "" {
		roots, err := certificates(o.CAFile)
		if err != nil {
			return nil, err
		}
		app.Roots = roots
	}
	switch {
	case o.ServiceAccount != "":
		return app, serviceAccount(app, o.ServiceAccount)
	case o.Certificate != "":
		return app, certified(app, o.Certificate, o.Key)
	case o.ClientSecretFile != "":
		secret, err := secretFile(o.ClientSecretFile)
		app.ClientSecret = secret
		return app, err
	}
	return app, nil
}

func serviceAccount(app *oauth.Application, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	account, err := oauth.ParseServiceAccount(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	app.ClientID, app.Key = account.Email, account.Key
	if app.TokenURL != "" || app.Issuer != "" {
		return nil
	}
	if app.TokenURL = account.TokenURL; !strings.HasPrefix(app.TokenURL, "https://") {
		return fmt.Errorf("%s: its token_uri does not begin with https", file)
	}
	return nil
}

func certified(app *oauth.Application, certificate, key string) error {
	public, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	private, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	if app.Key, err = oauth.ParseCertificate(public, private); err != nil {
		return fmt.Errorf("%s and %s: %w", certificate, key, err)
	}
	return nil
}

// grants keeps what people consented to in the vault (oauth.Store).
type grants struct {
	config   *config.Config
	vault    *vault.Vault
	consents state.Consents
}

// grantOf names what an account's owner consented to. An account of the
// configuration may be taken to another upstream there: whoever that is must not
// be shown a grant of the former one's.
func grantOf(c *config.Config, account string) state.SecretName {
	purpose := "oauth-grant"
	if a, ok := c.Account(account); ok {
		purpose += " at " + a.Upstream
	}
	return state.SecretName{Account: account, Purpose: purpose}
}

// hasGrant tells whether anything was ever granted to an account.
func hasGrant(ctx context.Context, c *config.Config, store state.Secrets, account string) (bool, error) {
	kept, err := store.Secret(ctx, grantOf(c, auth.Fold(account)))
	return kept.Current.Version != 0, err
}

func (g grants) Grant(ctx context.Context, account string) (oauth.Grant, int64, error) {
	kept, err := g.vault.Get(ctx, grantOf(g.config, account))
	if errors.Is(err, vault.ErrNoKey) || errors.Is(err, vault.ErrDamaged) {
		err = fmt.Errorf("%w: %w", upstream.ErrRejected, err) // time mends nothing
	}
	if err != nil || kept.Version == 0 {
		return oauth.Grant{}, 0, err
	}
	grant, err := oauth.ParseGrant(kept.Text)
	return grant, kept.Version, err
}

func (g grants) SaveGrant(ctx context.Context, account string, version int64, grant oauth.Grant) (int64, error) {
	saved, err := g.vault.Put(ctx, grantOf(g.config, account), version, grant.Text())
	if errors.Is(err, state.ErrConflict) {
		err = fmt.Errorf("%w: %w", oauth.ErrConflict, err)
	}
	return saved, err
}

// replace keeps a grant in the place of any other, also of one that does not open
// any more. A refresh that comes between wins once at most: what it saved is
// replaced.
func (g grants) replace(ctx context.Context, account string, grant oauth.Grant) error {
	for range 3 {
		_, version, err := g.Grant(ctx, account)
		if errors.Is(err, vault.ErrDamaged) {
			err = g.vault.Remove(ctx, grantOf(g.config, account))
		}
		if err != nil {
			return err
		}
		switch _, err = g.SaveGrant(ctx, account, version, grant); {
		case err == nil:
			return g.ConsentBack(ctx, account)
		case !errors.Is(err, oauth.ErrConflict):
			return err
		}
	}
	return oauth.ErrConflict
}

func (g grants) ConsentLost(ctx context.Context, account string) error {
	return g.consents.LoseConsent(ctx, account)
}

func (g grants) ConsentBack(ctx context.Context, account string) error {
	return g.consents.RegainConsent(ctx, account)
}
