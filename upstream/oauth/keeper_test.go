package oauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"postern/upstream"
)

// A provider is a token endpoint that gets wrong what it is told to. The real
// one, which nobody can tell anything, is in package oidc's tests.
type provider struct {
	mu       sync.Mutex
	answer   func(form url.Values, n int) (status int, body string) // nil: good tokens
	took     time.Duration
	asked    []url.Values
	at, most int // under way
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.asked = append(p.asked, form)
	n := len(p.asked)
	p.at++
	p.most = max(p.most, p.at)
	answer := p.answer
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.at--
	}()
	select {
	case <-time.After(p.took):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	status, text := http.StatusOK, tokens(n, 3600)
	if answer != nil {
		status, text = answer(form, n)
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func (p *provider) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func (p *provider) say(status int, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = nil
	if status != 0 {
		p.answer = func(url.Values, int) (int, string) { return status, body }
	}
}

func tokens(n, seconds int) string {
	return fmt.Sprintf(`{"access_token":"access-%d","refresh_token":"refresh-%d","token_type":"bearer","expires_in":%d}`, n, n, seconds)
}

// A shelf is a Store in memory.
type shelf struct {
	mu         sync.Mutex
	grants     map[string]Grant
	version    map[string]int64
	lost       map[string]bool
	fail       error // of SaveGrant
	unreadable error // of Grant
	before     func()
	saves      int
}

func newShelf(account string, g Grant) *shelf {
	return &shelf{grants: map[string]Grant{account: g}, version: map[string]int64{account: 1}, lost: map[string]bool{}}
}

func (s *shelf) Grant(_ context.Context, account string) (Grant, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreadable != nil {
		return Grant{}, 0, s.unreadable
	}
	g, err := ParseGrant(s.grants[account].Text()) // as it would come from a disk
	return g, s.version[account], err
}

func (s *shelf) SaveGrant(_ context.Context, account string, version int64, g Grant) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.before != nil {
		before := s.before
		s.before = nil
		s.mu.Unlock()
		before()
		s.mu.Lock()
	}
	if s.fail != nil {
		return 0, s.fail
	}
	if s.version[account] != version {
		return 0, ErrConflict
	}
	s.saves++
	s.grants[account], s.version[account] = g, version+1
	return version + 1, nil
}

func (s *shelf) ConsentLost(_ context.Context, account string) error { return s.note(account, true) }
func (s *shelf) ConsentBack(_ context.Context, account string) error { return s.note(account, false) }

func (s *shelf) note(account string, lost bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[account] = lost
	return nil
}

func (s *shelf) grant(account string) Grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grants[account]
}

func (s *shelf) isLost(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost[account]
}

const ann = "ann@example.org"

// old is a grant whose access token has ended.
func old() Grant {
	now := time.Now()
	return Grant{AccessToken: upstream.NewSecret("access-0"), Refreshed: now.Add(-time.Hour), Expiry: now.Add(-time.Second),
		RefreshToken: upstream.NewSecret("refresh-0"), Former: upstream.NewSecret("refresh-former")}
}

// A desk is a Keeper with all that it works with.
type desk struct {
	t        *testing.T
	provider *provider
	shelf    *shelf
	keeper   *Keeper
	app      *Application
	log      bytes.Buffer
	results  []string
}

// bubble runs a test with a grant of ann's.
func bubble(t *testing.T, g func() Grant, test func(t *testing.T, d *desk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t, provider: &provider{}, shelf: newShelf(ann, g())}
		d.app = &Application{Name: "example", ClientID: "postern", ClientSecret: upstream.NewSecret("client-secret"),
			Endpoints: Endpoints{TokenURL: "https://provider.example/token"}, Transport: d.provider}
		d.restart()
		test(t, d)
		if text := d.log.String(); strings.Contains(text, "refresh-") || strings.Contains(text, "access-") || strings.Contains(text, "client-secret") {
			t.Errorf("a secret in the log: %s", text)
		}
	})
}

// restart is what a crash leaves: the store.
func (d *desk) restart() {
	d.keeper = NewKeeper(Options{Store: d.shelf, Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Hooks: Hooks{Refreshed: func(_ string, _ time.Duration, err error) { d.results = append(d.results, upstream.Kind(err)) }}})
}

func (d *desk) source() upstream.TokenSource { return d.keeper.Source(ann, ann, d.app) }

func (d *desk) token() (string, error) {
	token, err := d.source().Token(d.t.Context(), upstream.Secret{})
	return token.Reveal(), err
}

func (d *desk) want(token string, kind error, asked int) {
	d.t.Helper()
	got, err := d.token()
	if got != token || !errors.Is(err, kind) || errors.Is(err, upstream.ErrAuth) {
		d.t.Errorf("token %q, %v; want %q, %v", got, err, token, kind)
	}
	if n := d.provider.times(); n != asked {
		d.t.Errorf("the provider was asked %d times, want %d", n, asked)
	}
	if err != nil && (strings.Contains(err.Error(), "refresh-") || strings.Contains(err.Error(), "access-")) {
		d.t.Errorf("an error with a secret: %v", err)
	}
}

// 1,000 logins on an expired token make exactly one refresh, and nobody gets
// the token before it is saved.
func TestOneRefreshForAThousandLogins(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.took = time.Second
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if token, err := d.token(); token != "access-1" || err != nil {
					t.Errorf("token %q, %v", token, err)
				}
				if kept := d.shelf.grant(ann).AccessToken.Reveal(); kept != "access-1" {
					t.Errorf("%q is on disk while the new token is used", kept)
				}
			})
		}
		all.Wait()
		if n := d.provider.times(); n != 1 || d.shelf.saves != 1 {
			t.Errorf("%d refreshes, %d saves, want one of each", n, d.shelf.saves)
		}
		g := d.shelf.grant(ann)
		if g.RefreshToken.Reveal() != "refresh-1" || g.Former.Reveal() != "refresh-0" {
			t.Errorf("kept %q and before it %q", g.RefreshToken.Reveal(), g.Former.Reveal())
		}
		d.want("access-1", nil, 1)
		d.restart()
		d.want("access-1", nil, 1) // from the store
		time.Sleep(56 * time.Minute)
		d.want("access-2", nil, 2) // before it ends
		if form := d.provider.asked[1]; form.Get("refresh_token") != "refresh-1" || form.Get("grant_type") != "refresh_token" || form.Get("client_secret") != "client-secret" {
			t.Errorf("asked %v", form)
		}
	})
}

// The first of many to ask may leave. What the provider answers is kept.
func TestRefreshOutlivesWhoAskedForIt(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.took = 5 * time.Second
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := d.source().Token(ctx, upstream.Secret{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		d.want("access-1", nil, 1)
		if g := d.shelf.grant(ann); g.RefreshToken.Reveal() != "refresh-1" {
			t.Errorf("the new refresh token is lost: %q", g.RefreshToken.Reveal())
		}
	})
}

// An upstream refuses a token before its end: it is replaced once for all, and
// not again and again where it is not the token that is wrong.
func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	fresh := func() Grant {
		g := old()
		g.Refreshed, g.Expiry = time.Now().Add(-10*time.Minute), time.Now().Add(50*time.Minute)
		return g
	}
	bubble(t, fresh, func(t *testing.T, d *desk) {
		d.want("access-0", nil, 0)
		d.provider.took = time.Second
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				token, err := d.source().Token(t.Context(), upstream.NewSecret("access-0"))
				if token.Reveal() != "access-1" || err != nil {
					t.Errorf("token %q, %v", token.Reveal(), err)
				}
			})
		}
		all.Wait()
		if n := d.provider.times(); n != 1 {
			t.Errorf("%d refreshes for one refused token", n)
		}
		refuse := func(want string, asked int) {
			t.Helper()
			token, err := d.source().Token(t.Context(), upstream.NewSecret("access-1"))
			if token.Reveal() != want || err != nil || d.provider.times() != asked {
				t.Errorf("token %q, %v after %d refreshes; want %q after %d", token.Reveal(), err, d.provider.times(), want, asked)
			}
		}
		refuse("access-1", 1) // there is no other: it was made just now
		time.Sleep(newPause)
		refuse("access-2", 2)
	})
}

// U12: a token endpoint that is down, slow, hostile or mad costs nobody a token.
func TestFaultU12TokenEndpoint(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"500":                       {500, "oops"},
		"500 with a lie":            {500, `{"error":"invalid_grant"}`},
		"503":                       {503, ""},
		"429":                       {429, `{"error":"invalid_grant"}`},
		"garbage":                   {200, "<html>login to the hotel wifi"},
		"garbage, refused":          {400, "<html>no"},
		"an unknown refusal":        {400, `{"error":"\u001b[31m"}`},
		"half an answer":            {200, `{"access_token":"access-1"`},
		"no token":                  {200, `{}`},
		"no bearer token":           {200, `{"access_token":"access-1","token_type":"mac"}`},
		"a token with a newline":    {200, `{"access_token":"access-1\r\nX: y","token_type":"bearer"}`},
		"10 MB":                     {200, `{"access_token":"` + strings.Repeat("a", 10<<20) + `"}`},
		"10 MB, refused":            {400, `{"error":"invalid_grant","x":"` + strings.Repeat("a", 10<<20) + `"}`},
		"a redirect":                {307, ""},
		"its own words of a secret": {400, `{"error":"unknown","error_description":"refresh-0 and client-secret"}`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, old, func(t *testing.T, d *desk) {
				d.provider.say(answer.status, answer.body)
				d.want("", upstream.ErrUnavailable, 1)
				if g := d.shelf.grant(ann); g.RefreshToken.Reveal() != "refresh-0" || !g.Refused.IsZero() || d.shelf.isLost(ann) {
					t.Errorf("the grant became %+v", g)
				}
				d.want("", upstream.ErrUnavailable, 1) // not asked again at once
				time.Sleep(badPause)
				d.provider.say(0, "")
				d.want("access-2", nil, 2)
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			d.provider.took = time.Hour
			began := time.Now()
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					if _, err := d.token(); !errors.Is(err, upstream.ErrUnavailable) {
						t.Errorf("%v, want ErrUnavailable", err)
					}
				})
			}
			all.Wait()
			if took := time.Since(began); took != callTime || d.provider.most != 1 {
				t.Errorf("after %s with %d calls in flight, want %s and 1", took, d.provider.most, callTime)
			}
		})
	})
	t.Run("the old token lasts a little longer", func(t *testing.T) {
		young := func() Grant {
			g := old()
			g.Expiry = time.Now().Add(3 * time.Minute)
			g.Refreshed = g.Expiry.Add(-time.Hour)
			return g
		}
		bubble(t, young, func(t *testing.T, d *desk) {
			d.provider.say(500, "")
			d.want("access-0", nil, 1)
			time.Sleep(time.Minute)
			d.want("access-0", nil, 2)
			time.Sleep(2 * time.Minute)
			d.want("", upstream.ErrUnavailable, 3)
			d.provider.say(0, "")
			time.Sleep(badPause)
			d.want("access-4", nil, 4)
		})
	})
}

// Providers may repeat a request as it was sent, which is in form encoding.
func TestRefusalShowsNoSecretInAnyForm(t *testing.T) {
	const secret = "1//0a+b=~c"
	a := &Application{ClientSecret: upstream.NewSecret("client/secret")}
	for _, said := range []string{secret, url.QueryEscape(secret), "client/secret", url.QueryEscape("client/secret")} {
		answer := &oauth2.RetrieveError{Response: &http.Response{StatusCode: 400}, ErrorCode: "invalid_request", ErrorDescription: "bad: x=" + said + "&y"}
		if got, want := a.refused(answer, upstream.NewSecret(secret)).Error(), "the provider says invalid_request: bad: x=***&y"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// U13: a grant that is refused marks the account, is tried every 10 minutes and
// no more, and works again when the provider takes it, or a person consents.
func TestFaultU13InvalidGrant(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.say(400, `{"error":"invalid_grant","error_description":"Token has been expired or revoked: refresh-0"}`)
		d.want("", upstream.ErrConsent, 2) // the former one, too, the first time
		if !d.shelf.isLost(ann) || !strings.Contains(d.log.String(), `msg="consent lost" account=`+ann) {
			t.Errorf("lost %t, log %s", d.shelf.isLost(ann), d.log.String())
		}
		if !slices.Equal(d.results, []string{"consent"}) || d.keeper.Standings()["example"].Lost != 1 {
			t.Errorf("metrics %q, %+v", d.results, d.keeper.Standings())
		}
		for range 100 {
			d.want("", upstream.ErrConsent, 2)
		}
		time.Sleep(5 * time.Minute)
		d.restart() // which forgets nothing of it
		d.want("", upstream.ErrConsent, 2)
		time.Sleep(5 * time.Minute)
		d.want("", upstream.ErrConsent, 3)
		time.Sleep(10 * time.Minute)
		d.provider.say(0, "")
		d.want("access-4", nil, 4)
		if d.shelf.isLost(ann) || d.keeper.Standings()["example"] != (Standing{Good: 1}) {
			t.Errorf("lost still: %+v", d.keeper.Standings())
		}
	})
	t.Run("consent anew", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			d.provider.say(400, `{"error":"invalid_grant"}`)
			d.want("", upstream.ErrConsent, 2)
			d.provider.say(0, "")
			// Another process saves it.
			if _, err := d.shelf.SaveGrant(t.Context(), ann, 2, Grant{RefreshToken: upstream.NewSecret("refresh-new")}); err != nil {
				t.Fatal(err)
			}
			d.want("access-3", nil, 3)
			if got := d.provider.asked[2].Get("refresh_token"); got != "refresh-new" {
				t.Errorf("refreshed by %q", got)
			}
		})
	})
	t.Run("no consent yet", func(t *testing.T) {
		bubble(t, func() Grant { return Grant{} }, func(t *testing.T, d *desk) { d.want("", upstream.ErrConsent, 0) })
	})
	t.Run("the application is wrong, not the grant", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			d.provider.say(401, `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}`)
			d.want("", upstream.ErrRejected, 1)
			_, err := d.token()
			if errors.Is(err, upstream.ErrConsent) || d.shelf.isLost(ann) || !strings.Contains(err.Error(), "AADSTS7000222") {
				t.Errorf("%v; lost %t", err, d.shelf.isLost(ann))
			}
		})
	})
}

// S6: a crash between the provider's answer and the write. The store has the
// refresh token before; a provider that still takes it gives another.
func TestFaultS6CrashBeforeTheWrite(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.shelf.fail = errors.New("killed here")
		d.want("", upstream.ErrUnavailable, 1)
		d.shelf.fail = nil
		d.restart()
		d.want("access-2", nil, 2)
		if got := d.provider.asked[1].Get("refresh_token"); got != "refresh-0" {
			t.Errorf("after the crash %q was used, want the one on disk", got)
		}
	})
	// The write came, and the provider forgot what it had given: the former
	// generation is tried, with one call more.
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.answer = func(form url.Values, n int) (int, string) {
			if form.Get("refresh_token") == "refresh-former" {
				return 200, tokens(n, 3600)
			}
			return 400, `{"error":"invalid_grant"}`
		}
		d.want("access-2", nil, 2)
		if g := d.shelf.grant(ann); g.RefreshToken.Reveal() != "refresh-2" || d.shelf.isLost(ann) {
			t.Errorf("kept %q, lost %t", g.RefreshToken.Reveal(), d.shelf.isLost(ann))
		}
	})
	// A network that fails at the second question leaves everything as it is.
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.answer = func(form url.Values, n int) (int, string) {
			if form.Get("refresh_token") == "refresh-former" {
				return 503, ""
			}
			return 400, `{"error":"invalid_grant"}`
		}
		d.want("", upstream.ErrUnavailable, 2)
		if g := d.shelf.grant(ann); d.shelf.isLost(ann) || g.Former.Reveal() == "" {
			t.Errorf("lost %t, former %q", d.shelf.isLost(ann), g.Former.Reveal())
		}
	})
}

// A full disk: the token that could not be saved is used by nobody, and saved
// when that can be done. The provider is not asked again for it.
func TestTokenIsSavedBeforeItIsUsed(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.shelf.fail = errors.New("no space left on device")
		d.want("", upstream.ErrUnavailable, 1)
		d.want("", upstream.ErrUnavailable, 1)
		time.Sleep(time.Minute)
		d.want("", upstream.ErrUnavailable, 1)
		d.shelf.fail = nil
		d.want("access-1", nil, 1)
		if g := d.shelf.grant(ann); g.RefreshToken.Reveal() != "refresh-1" {
			t.Errorf("kept %q", g.RefreshToken.Reveal())
		}
	})
}

// S5: two processes see an expired token. The second to save takes what the
// first one has.
func TestFaultS5TwoProcessesRefresh(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		other := NewKeeper(Options{Store: d.shelf}).Source(ann, ann, d.app)
		d.shelf.before = func() {
			if token, err := other.Token(t.Context(), upstream.Secret{}); token.Reveal() != "access-2" || err != nil {
				t.Errorf("the other one has %q, %v", token.Reveal(), err)
			}
		}
		d.want("access-2", nil, 2)
		if got := d.shelf.grant(ann).AccessToken.Reveal(); got != "access-2" {
			t.Errorf("kept %q", got)
		}
	})
	t.Run("and one has nothing to show", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			d.shelf.before = func() {
				d.shelf.SaveGrant(t.Context(), ann, 1, Grant{RefreshToken: upstream.NewSecret("refresh-new")})
			}
			d.want("", upstream.ErrUnavailable, 1)
			time.Sleep(badPause)
			d.want("access-2", nil, 2)
			if got := d.provider.asked[1].Get("refresh_token"); got != "refresh-new" {
				t.Errorf("refreshed by %q, want what the owner consented to", got)
			}
		})
	})
}

// Of two processes that refresh, one is told that the refresh token is used up,
// and notes that before the other one has saved what it was used for. That is
// saved all the same.
func TestTwoProcessesRefreshAndOneIsRefused(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		other := NewKeeper(Options{Store: d.shelf}).Source(ann, ann, d.app)
		d.shelf.before = func() {
			d.provider.say(400, `{"error":"invalid_grant"}`)
			if _, err := other.Token(t.Context(), upstream.Secret{}); !errors.Is(err, upstream.ErrConsent) {
				t.Errorf("the other one: %v, want ErrConsent", err)
			}
			d.provider.say(0, "")
		}
		d.want("access-1", nil, 3)
		if g := d.shelf.grant(ann); g.RefreshToken.Reveal() != "refresh-1" || !g.Refused.IsZero() || d.shelf.isLost(ann) {
			t.Errorf("kept %q, refused %v, lost %t", g.RefreshToken.Reveal(), g.Refused, d.shelf.isLost(ann))
		}
	})
}

// An account is removed, and made again for somebody else. Nothing of the former
// owner is given to the new one, or put in the place of what they consented to.
func TestAccountMadeAgain(t *testing.T) {
	again := Grant{RefreshToken: upstream.NewSecret("refresh-new"), Consented: time.Now(), For: (&Application{ClientID: "postern"}).For("bob")}
	replace := func(d *desk) {
		d.shelf.mu.Lock()
		defer d.shelf.mu.Unlock()
		d.shelf.grants[ann], d.shelf.version[ann] = again, 1000
	}
	check := func(t *testing.T, d *desk, login string, kind error) {
		t.Helper()
		asked := d.provider.times()
		token, err := d.keeper.Source(ann, login, d.app).Token(t.Context(), upstream.Secret{})
		if !errors.Is(err, kind) || err == nil && d.provider.asked[asked].Get("refresh_token") != "refresh-new" {
			t.Errorf("%s: token %q, %v, want %v and a token by the new consent", login, token.Reveal(), err, kind)
		}
		if err != nil && d.provider.times() != asked {
			t.Errorf("%s: the provider was asked", login)
		}
	}
	t.Run("for another mailbox", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			d.want("access-1", nil, 1)
			replace(d)
			check(t, d, "bob", nil)
		})
	})
	t.Run("its login changed", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			replace(d)
			check(t, d, "carol", upstream.ErrConsent)
		})
	})
	t.Run("at another provider", func(t *testing.T) {
		bubble(t, old, func(t *testing.T, d *desk) {
			again.For = d.app.For(ann)
			replace(d)
			d.app.ClientID = "postern-there"
			check(t, d, ann, upstream.ErrConsent)
		})
	})
}

// H10: a clock that was a day ahead blocks nothing when it is right again.
// A grant that another process took away, or put in the place of the one whose
// token is in use, counts before that token ends.
func TestGrantChangedByAnotherProcess(t *testing.T) {
	for name, c := range map[string]struct {
		grant   Grant
		version int64
		token   string
		kind    error
	}{
		"taken away":  {Grant{}, 0, "", upstream.ErrConsent},
		"given again": {Grant{AccessToken: upstream.NewSecret("access-new"), RefreshToken: upstream.NewSecret("refresh-new")}, 1000, "access-new", nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, old, func(t *testing.T, d *desk) {
				d.want("access-1", nil, 1)
				c.grant.Refreshed, c.grant.Expiry = time.Now(), time.Now().Add(time.Hour)
				d.shelf.mu.Lock()
				d.shelf.grants[ann], d.shelf.version[ann] = c.grant, c.version
				d.shelf.mu.Unlock()
				time.Sleep(lookPause)
				d.want(c.token, c.kind, 1)
			})
		})
	}
}

func TestFaultH10ClockThatWentBack(t *testing.T) {
	ahead := func() Grant {
		g := old()
		g.Refreshed, g.Expiry = time.Now().Add(24*time.Hour), time.Now().Add(25*time.Hour)
		g.Refused = time.Now().Add(24 * time.Hour)
		return g
	}
	bubble(t, ahead, func(t *testing.T, d *desk) {
		d.want("access-0", nil, 0)
		token, err := d.source().Token(t.Context(), upstream.NewSecret("access-0"))
		if token.Reveal() != "access-1" || err != nil {
			t.Errorf("token %q, %v; want another one than the refused", token.Reveal(), err)
		}
	})
}

// Tokens that live shorter than the time before their end in which others are
// replaced.
func TestShortLivedTokens(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.answer = func(_ url.Values, n int) (int, string) { return 200, tokens(n, 60) }
		d.want("access-1", nil, 1)
		time.Sleep(50 * time.Second)
		d.want("access-1", nil, 1)
		time.Sleep(5 * time.Second)
		d.want("access-2", nil, 2)
	})
}

func TestConsentEndsAhead(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.answer = func(_ url.Values, n int) (int, string) {
			return 200, fmt.Sprintf(`{"access_token":"access-%d","expires_in":"3599","refresh_token_expires_in":604799,"scope":"a b"}`, n)
		}
		d.want("access-1", nil, 1)
		want := Standing{Good: 1, Next: time.Now().UTC().Round(0).Add(604799 * time.Second)}
		if got := d.keeper.Standings()["example"]; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		g := d.shelf.grant(ann)
		if g.RefreshToken.Reveal() != "refresh-0" || g.Former.Reveal() != "refresh-former" || !slices.Equal(g.Scopes, []string{"a", "b"}) {
			t.Errorf("an answer without a refresh token made %+v of the grant", g)
		}
	})
}

// A state that cannot be read costs nobody a token that is good.
func TestUnreadableStoreCostsNoGoodToken(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.want("access-1", nil, 1)
		time.Sleep(57 * time.Minute) // so that another one is wanted
		d.shelf.unreadable = errors.New("disk on fire")
		d.want("access-1", nil, 1)
		time.Sleep(3 * time.Minute)
		d.want("", upstream.ErrUnavailable, 1)
	})
}

// Nobody polls for a month: the grant is refreshed all the same, and not more
// often than that.
func TestUnusedGrantsAreTended(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		tend := func(asked int) {
			t.Helper()
			if err := d.keeper.Tend(t.Context(), ann, ann, d.app); err != nil || d.provider.times() != asked {
				t.Errorf("%v after %d questions, want %d", err, d.provider.times(), asked)
			}
		}
		tend(0)
		if got := d.keeper.Standings()["example"]; got.Good != 1 {
			t.Errorf("standing %+v", got)
		}
		time.Sleep(29 * 24 * time.Hour)
		if got := d.keeper.Standings()["example"]; got.Good != 0 {
			t.Errorf("standing %+v of an account that nobody has tended for weeks", got)
		}
		tend(0)
		if got := d.keeper.Standings()["example"]; got.Good != 1 {
			t.Errorf("standing %+v of one that was", got)
		}
		time.Sleep(2 * 24 * time.Hour)
		tend(1)
		tend(1)
		d.provider.say(400, `{"error":"invalid_grant"}`)
		time.Sleep(31 * 24 * time.Hour)
		if err := d.keeper.Tend(t.Context(), ann, ann, d.app); !errors.Is(err, upstream.ErrConsent) {
			t.Errorf("%v, want ErrConsent", err)
		}
		asked := d.provider.times()
		time.Sleep(31 * 24 * time.Hour)
		tend(asked) // it is lost: only a login tries it again
		if err := d.keeper.Tend(t.Context(), "nobody", "nobody", d.app); err != nil {
			t.Error(err)
		}
	})
}

// A shutdown waits for what a provider is about to give.
func TestCloseWaitsForTheWrite(t *testing.T) {
	bubble(t, old, func(t *testing.T, d *desk) {
		d.provider.took = 5 * time.Second
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		d.source().Token(ctx, upstream.Secret{})
		began := time.Now()
		d.keeper.Close()
		if took := time.Since(began); took != 4*time.Second || d.shelf.grant(ann).RefreshToken.Reveal() != "refresh-1" {
			t.Errorf("closed after %s, and %q is on disk", took, d.shelf.grant(ann).RefreshToken.Reveal())
		}
		if _, err := d.source().Token(t.Context(), upstream.NewSecret("access-1")); !errors.Is(err, upstream.ErrUnavailable) || d.provider.times() != 1 {
			t.Errorf("after the end: %v, %d questions", err, d.provider.times())
		}
	})
}

// What is held in memory is bounded, and nothing that is on no disk is dropped.
func TestKeeperForgets(t *testing.T) {
	k := NewKeeper(Options{})
	k.hold(&source{key: "unsaved", app: &Application{}}, held{unsaved: true})
	for i := range maxHeld + 100 {
		k.hold(&source{key: fmt.Sprint(i), app: &Application{}}, held{})
	}
	if len(k.held) > maxHeld || k.held["unsaved"] == nil {
		t.Errorf("%d held, the unsaved one %v", len(k.held), k.held["unsaved"])
	}
}

// Keys are of this process: nobody outside of it can name one.
func TestKeysCannotBeGuessed(t *testing.T) {
	a, b := NewKeeper(Options{}), NewKeeper(Options{})
	app := &Application{Name: "x"}
	if first, second := a.Source(ann, ann, app), a.Source(ann, ann, app); first.Key() != second.Key() {
		t.Error("one account has two keys")
	}
	if a.Source(ann, ann, app).Key() == a.Source(ann, ann, &Application{Name: "y"}).Key() {
		t.Error("the tokens of one provider would be shown to another")
	}
	if a.Source(ann, ann, app).Key() == a.Source(ann, "other login", app).Key() {
		t.Error("two mailboxes have one key")
	}
	if a.Source(ann, ann, app).Key() == b.Source(ann, ann, app).Key() || a.Source(ann, ann, app).Key() == a.Source("bob", ann, app).Key() {
		t.Error("two accounts or processes have one key")
	}
}

func TestGrantText(t *testing.T) {
	g := old()
	g.Ends, g.Scopes, g.Consented, g.Refused = time.Now().UTC(), []string{"mail"}, time.Now().UTC(), time.Now().UTC()
	back, err := ParseGrant(g.Text())
	if err != nil || fmt.Sprint(back.Text().Reveal()) != g.Text().Reveal() || back.Former != g.Former || back.RefreshToken != g.RefreshToken {
		t.Errorf("%+v, %v", back, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", g, g, g); strings.Contains(text, "refresh-") || strings.Contains(text, "access-") {
		t.Errorf("a grant shows itself: %s", text)
	}
	for _, bad := range []string{"", "{", `"refresh-0"`} {
		if _, err := ParseGrant(upstream.NewSecret(bad)); err == nil || strings.Contains(err.Error(), "refresh") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
