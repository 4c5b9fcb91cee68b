package oauth_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/jmapc"
	"postern/upstream/oauth"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/oidc"
)

const ann = "ann@example.org"

// consent is what ann grants at a real authorization server.
func consent(t *testing.T, s *oidc.Server, scopes ...string) (*oauth.Application, oauth.Grant) {
	t.Helper()
	app := &oauth.Application{
		Name: "real", Issuer: s.Issuer, ClientID: oidc.ClientID, ClientSecret: upstream.NewSecret(oidc.ClientSecret), BasicSecret: true,
		Scopes: append(scopes, "offline_access"), Parameters: map[string]string{"prompt": "consent"},
	}
	r, err := app.Begin(t.Context(), ann, "http://127.0.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	g, err := r.Finish(t.Context(), s.Consent(t, r.URL(), ann).Query())
	if err != nil {
		t.Fatal(err)
	}
	return app, g
}

// A drawer is a Store of one grant.
type drawer struct {
	mu      sync.Mutex
	grant   oauth.Grant
	version int64
}

func (d *drawer) Grant(context.Context, string) (oauth.Grant, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.grant, d.version, nil
}

func (d *drawer) SaveGrant(_ context.Context, _ string, version int64, g oauth.Grant) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if version != d.version {
		return 0, oauth.ErrConflict
	}
	d.grant, d.version = g, version+1
	return d.version, nil
}

func (d *drawer) ConsentLost(context.Context, string) error { return nil }
func (d *drawer) ConsentBack(context.Context, string) error { return nil }

// dovecotWithTokens takes tokens of that server by these mechanisms, and asks
// it about each.
func dovecotWithTokens(t *testing.T, s *oidc.Server, mechanisms string) *dovecot.Server {
	t.Helper()
	return dovecot.Start(t, dovecot.Tokens(t, s.Introspection(), mechanisms)...)
}

func read(t *testing.T, d upstream.Maildrop, i int) string {
	t.Helper()
	r, err := d.Fetch(t.Context(), i)
	if err != nil {
		t.Errorf("message %d: %v", i, err)
		return ""
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("message %d: %v", i, err)
	}
	return string(text)
}

// aged is a grant whose access token is a minute old: a younger one is not
// replaced for being refused.
func aged(g oauth.Grant) oauth.Grant {
	g.Refreshed = g.Refreshed.Add(-time.Hour)
	return g
}

// A real Dovecot verifies the tokens of a real server, by either mechanism. One
// that was withdrawn before its time is replaced at the login.
func TestDovecotTakesTokens(t *testing.T) {
	for _, mechanism := range []string{"oauthbearer", "xoauth2"} {
		t.Run(mechanism, func(t *testing.T) {
			s := oidc.Start(t, oidc.Options{})
			d := dovecotWithTokens(t, s, mechanism)
			box := d.AddUser(t, ann, "a password")
			letter := upstreamtest.Letter(1, 3000)
			box.Deliver(t, letter)
			app, g := consent(t, s, "openid")
			store := &drawer{grant: aged(g), version: 1}
			source := oauth.NewKeeper(oauth.Options{Store: store}).Source(ann, ann, app)
			u := imapc.New(imapc.Options{Address: d.IMAP, TLS: imapc.TLSOff})

			fetch := func(a upstream.Account, want error) {
				t.Helper()
				drop, err := u.Open(t.Context(), a)
				if !errors.Is(err, want) {
					t.Errorf("open: %v, want %v", err, want)
				}
				if err != nil {
					if strings.Contains(err.Error(), g.AccessToken.Reveal()) {
						t.Errorf("an error shows a token: %v", err)
					}
					return
				}
				defer drop.Close()
				if _, err := drop.List(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := read(t, drop, 0); got != letter {
					t.Errorf("read %d octets, want %d", len(got), len(letter))
				}
			}
			fetch(upstream.Account{User: ann, Tokens: source}, nil)
			fetch(upstream.Account{User: "bob@example.org", Tokens: upstream.GivenToken{Secret: g.AccessToken}}, upstream.ErrAuth)

			s.Revoke(t, g.AccessToken.Reveal())
			fetch(upstream.Account{User: ann, Tokens: upstream.GivenToken{Secret: g.AccessToken}}, upstream.ErrAuth)
			fetch(upstream.Account{User: ann, Tokens: source}, nil)
			if n := s.Granted("refresh_token"); n != 1 {
				t.Errorf("%d refreshes, want one for the token that was withdrawn", n)
			}

			now, _, _ := store.Grant(t.Context(), ann)
			s.Revoke(t, now.RefreshToken.Reveal())
			s.Revoke(t, now.AccessToken.Reveal())
			source = oauth.NewKeeper(oauth.Options{Store: &drawer{grant: aged(now), version: 1}}).Source(ann, ann, app)
			fetch(upstream.Account{User: ann, Tokens: source}, upstream.ErrConsent)
		})
	}
}

// U11 at real servers: the token ends before its time, and so does the
// connection, in the middle of a session.
func TestFaultU11AtRealServers(t *testing.T) {
	s := oidc.Start(t, oidc.Options{})
	d := dovecotWithTokens(t, s, "xoauth2")
	box := d.AddUser(t, ann, "a password")
	letters := []string{upstreamtest.Letter(1, 3000), upstreamtest.Letter(2, 3000), upstreamtest.Letter(3, 3000)}
	for _, l := range letters {
		box.Deliver(t, l)
	}
	app, g := consent(t, s, "openid")
	source := oauth.NewKeeper(oauth.Options{Store: &drawer{grant: aged(g), version: 1}}).Source(ann, ann, app)
	drop, err := imapc.New(imapc.Options{Address: d.IMAP, TLS: imapc.TLSOff}).Open(t.Context(), upstream.Account{User: ann, Tokens: source})
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	if _, err := drop.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, drop, 0); got != letters[0] {
		t.Errorf("message 0: %d octets", len(got))
	}
	box.Take(t, letters[0])
	box.Deliver(t, upstreamtest.Letter(4, 100))
	s.Revoke(t, g.AccessToken.Reveal())
	d.Doveadm(t, "kick", ann)
	if got := read(t, drop, 2); got != letters[2] {
		t.Errorf("message 2 after the token ended: %d octets, want %d", len(got), len(letters[2]))
	}
	if n, err := drop.Remove(t.Context(), []int{1}); n != 1 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	if n := s.Granted("refresh_token"); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// A real Cyrus verifies JWTs by itself.
func TestCyrusTakesTokens(t *testing.T) {
	s := oidc.Start(t, oidc.Options{})
	c := cyrus.Start(t, cyrus.Tokens(t, s.JWTKeyPEM())...)
	box := c.AddUser(t, ann, "a password")
	letter := upstreamtest.Letter(1, 3000)
	box.Deliver(t, letter)
	app, g := consent(t, s, "mail")
	source := oauth.NewKeeper(oauth.Options{Store: &drawer{grant: g, version: 1}}).Source(ann, ann, app)
	u := jmapc.New(jmapc.Options{URL: c.JMAP, PlainHTTP: true})
	defer u.Close()
	drop, err := u.Open(t.Context(), upstream.Account{User: ann, Tokens: source})
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	if _, err := drop.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, drop, 0); got != letter {
		t.Errorf("read %d octets, want %d", len(got), len(letter))
	}
	forged := strings.TrimRight(g.AccessToken.Reveal(), "AEIMQUYcgkosw048") + "AAAA"
	_, err = u.Open(t.Context(), upstream.Account{User: ann, Tokens: upstream.GivenToken{Secret: upstream.NewSecret(forged)}})
	if !errors.Is(err, upstream.ErrAuth) {
		t.Errorf("a forged token: %v, want ErrAuth", err)
	}
}
