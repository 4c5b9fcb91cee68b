package oauth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest/oidc"
)

// application is postern as that server knows it.
func application(s *oidc.Server, scopes ...string) *Application {
	return &Application{
		Name: "real", Issuer: s.Issuer, ClientID: oidc.ClientID, ClientSecret: upstream.NewSecret(oidc.ClientSecret), BasicSecret: true,
		Scopes: append(scopes, "offline_access"), Parameters: map[string]string{"prompt": "consent"},
	}
}

// consented is what a person grants who comes back to this machine.
func consented(t *testing.T, s *oidc.Server, app *Application) Grant {
	t.Helper()
	listening, err := Listen("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	request, err := app.Begin(t.Context(), ann, listening.Redirect())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, wrong := range []string{"?state=x&code=y", "favicon.ico"} {
			if answer, err := http.Get(listening.Redirect() + wrong); err == nil {
				answer.Body.Close()
				if answer.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s", wrong, answer.Status)
				}
			}
		}
		answer, err := http.Get(s.Consent(t, request.URL(), ann).String())
		if err != nil {
			t.Error(err)
			return
		}
		answer.Body.Close()
	}()
	answer, err := listening.Wait(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	g, err := request.Finish(t.Context(), answer)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// who is whose token that is, as the server says.
func who(t *testing.T, s *oidc.Server, token upstream.Secret) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer+"/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token.Reveal())
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var claims struct{ Sub string }
	json.NewDecoder(answer.Body).Decode(&claims)
	return claims.Sub
}

// The whole life of a consent at a real server, with refresh tokens that are
// good once.
func TestConsentAtARealServer(t *testing.T) {
	s := oidc.Start(t, oidc.Options{Rotate: true})
	app := application(s, "openid")
	g := consented(t, s, app)
	if got := who(t, s, g.AccessToken); got != ann {
		t.Fatalf("the token is %q's, want %q's", got, ann)
	}
	shelf := newShelf(ann, g)
	k := NewKeeper(Options{Store: shelf})
	source := k.Source(ann, ann, app)
	if token, err := source.Token(t.Context(), upstream.Secret{}); token != g.AccessToken || err != nil {
		t.Errorf("%v, want the token of the consent", err)
	}

	// 1,000 logins on a token that is refused, as if it had ended.
	g.Refreshed = g.Refreshed.Add(-time.Hour)
	shelf = newShelf(ann, g)
	source = NewKeeper(Options{Store: shelf}).Source(ann, ann, app)
	var all sync.WaitGroup
	var mu sync.Mutex
	tokens := map[upstream.Secret]int{}
	for range 1000 {
		all.Go(func() {
			token, err := source.Token(t.Context(), g.AccessToken)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			tokens[token]++
		})
	}
	all.Wait()
	if n := s.Granted("refresh_token"); n != 1 || len(tokens) != 1 || tokens[g.AccessToken] != 0 {
		t.Errorf("%d refreshes brought %d tokens, want one of each", n, len(tokens))
	}
	rotated := shelf.grant(ann)
	if rotated.RefreshToken == g.RefreshToken || rotated.Former != g.RefreshToken || who(t, s, rotated.AccessToken) != ann {
		t.Errorf("the refresh token was not rotated, or the new token is not %s's", ann)
	}

	// U13: the owner takes the consent back.
	s.Revoke(t, rotated.RefreshToken.Reveal())
	aged := rotated
	aged.Refreshed = aged.Refreshed.Add(-time.Hour)
	shelf = newShelf(ann, aged)
	source = NewKeeper(Options{Store: shelf}).Source(ann, ann, app)
	_, err := source.Token(t.Context(), aged.AccessToken)
	if !errors.Is(err, upstream.ErrConsent) || !shelf.isLost(ann) {
		t.Errorf("%v, want ErrConsent and the account marked", err)
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Code != "invalid_grant" {
		t.Errorf("%v, want invalid_grant", err)
	}
}

// S6 at a real server whose refresh tokens last: a crash loses its answer, and
// costs one call more.
func TestFaultS6AtARealServer(t *testing.T) {
	s := oidc.Start(t, oidc.Options{})
	app := application(s, "openid")
	g := consented(t, s, app)
	g.Expiry = time.Now().Add(-time.Second)
	shelf := newShelf(ann, g)
	shelf.fail = errors.New("killed here")
	if _, err := NewKeeper(Options{Store: shelf}).Source(ann, ann, app).Token(t.Context(), upstream.Secret{}); !errors.Is(err, upstream.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	shelf.fail = nil
	token, err := NewKeeper(Options{Store: shelf}).Source(ann, ann, app).Token(t.Context(), upstream.Secret{})
	if err != nil || who(t, s, token) != ann || s.Granted("refresh_token") != 2 {
		t.Errorf("%v after %d refreshes, want a token after 2", err, s.Granted("refresh_token"))
	}
}

// One that asks for refresh tokens to be used once takes a lost answer for a
// theft, and ends the consent. That cannot be mended, but must be said.
func TestRotationTakesALostAnswerForTheft(t *testing.T) {
	s := oidc.Start(t, oidc.Options{Rotate: true})
	app := application(s, "openid")
	g := consented(t, s, app)
	if _, err := app.refresh(t.Context(), g.RefreshToken); err != nil {
		t.Fatal(err)
	}
	g.Expiry = time.Now().Add(-time.Second)
	shelf := newShelf(ann, g)
	_, err := NewKeeper(Options{Store: shelf}).Source(ann, ann, app).Token(t.Context(), upstream.Secret{})
	if !errors.Is(err, upstream.ErrConsent) || !shelf.isLost(ann) {
		t.Errorf("%v, want ErrConsent", err)
	}
}

func TestDeviceCodeAtARealServer(t *testing.T) {
	s := oidc.Start(t, oidc.Options{})
	app := application(s, "openid")
	d, err := app.BeginDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d.Code == "" || !strings.HasPrefix(d.URL, s.Issuer) || !strings.Contains(d.Complete, d.Code) || time.Until(d.Expires) < time.Minute {
		t.Errorf("%+v", d)
	}
	s.Consent(t, d.Complete, ann)
	g, err := d.Wait(t.Context())
	if err != nil || who(t, s, g.AccessToken) != ann || g.RefreshToken.Reveal() == "" {
		t.Errorf("%v", err)
	}
}

// A self-signed certificate, and its public key as a JWK.
func certificate(t *testing.T) (certificatePEM, keyPEM []byte, jwk map[string]any) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "postern"}, NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(der)
	encode := base64.RawURLEncoding.EncodeToString
	jwk = map[string]any{"kty": "RSA", "alg": "PS256", "use": "sig", "n": encode(key.N.Bytes()), "e": "AQAB", "x5t#S256": encode(digest[:])}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), jwk
}

func TestClientCredentialsAtARealServer(t *testing.T) {
	cert, key, jwk := certificate(t)
	s := oidc.Start(t, oidc.Options{Key: jwk})
	signing, err := ParseCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	apps := map[string]*Application{
		"secret":      {Name: "by secret", ClientID: oidc.ServiceID, ClientSecret: upstream.NewSecret(oidc.ClientSecret), BasicSecret: true},
		"certificate": {Name: "by certificate", ClientID: oidc.AppID, Key: signing},
	}
	k := NewKeeper(Options{})
	before := 0
	for name, app := range apps {
		app.Flow, app.Issuer, app.Scopes = ByClientCredentials, s.Issuer, []string{"mail"}
		tokens := map[upstream.Secret]bool{}
		for _, user := range []string{ann, "bob@example.org", ann} {
			token, err := k.Source(user, user, app).Token(t.Context(), upstream.Secret{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			tokens[token] = true
		}
		if n := s.Granted("client_credentials") - before; n != 1 || len(tokens) != 1 {
			t.Errorf("%s: %d tokens by %d requests for all users, want one", name, len(tokens), n)
		}
		before = s.Granted("client_credentials")
	}
	wrong := &Application{Name: "wrong", Flow: ByClientCredentials, Issuer: s.Issuer, ClientID: oidc.ServiceID, ClientSecret: upstream.NewSecret("wrong-secret"), BasicSecret: true, Scopes: []string{"mail"}}
	_, err = k.Source(ann, ann, wrong).Token(t.Context(), upstream.Secret{})
	if !errors.Is(err, upstream.ErrRejected) || errors.Is(err, upstream.ErrConsent) || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("%v, want ErrRejected", err)
	}
}

// What a person can do besides saying yes.
func TestOtherAnswers(t *testing.T) {
	s := oidc.Start(t, oidc.Options{})
	app := application(s, "openid")
	begin := func(app *Application) (*Request, map[string][]string) {
		t.Helper()
		r, err := app.Begin(t.Context(), ann, "http://127.0.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		return r, s.Consent(t, r.URL(), ann).Query()
	}
	r, answer := begin(app)
	other, _ := begin(app)
	if _, err := other.Finish(t.Context(), answer); !errors.Is(err, ErrForeign) {
		t.Errorf("an answer to another request: %v, want ErrForeign", err)
	}
	mixed := map[string][]string{"state": answer["state"], "code": answer["code"], "iss": {"https://evil.example"}}
	if _, err := r.Finish(t.Context(), mixed); !errors.Is(err, ErrForeign) {
		t.Errorf("an answer from another issuer: %v, want ErrForeign", err)
	}
	// Whoever has the code has not the verifier.
	stolen := *r
	stolen.verifier = other.verifier
	if _, err := stolen.Finish(t.Context(), answer); !errors.Is(err, upstream.ErrRejected) || strings.Contains(err.Error(), answer["code"][0]) {
		t.Errorf("a stolen code: %v, want ErrRejected", err)
	}
	if _, err := r.Finish(t.Context(), map[string][]string{"state": answer["state"], "error": {"access_denied"}, "error_description": {"no \x1b[31m"}}); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("no: %v, want ErrDenied", err)
	}

	short := application(s, "openid")
	short.Scopes, short.Parameters = []string{"openid"}, nil
	r, answer = begin(short)
	if _, err := r.Finish(t.Context(), answer); !errors.Is(err, ErrNoRefresh) {
		t.Errorf("without offline_access: %v, want ErrNoRefresh", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Finish(ctx, answer); err == nil {
		t.Error("a cancelled context finished")
	}
}

func TestScopesThatWereUnticked(t *testing.T) {
	app := &Application{Scopes: []string{"https://mail.google.com/", "openid"}}
	for scope, want := range map[string]error{
		"https://mail.google.com/ openid": nil,
		"":                                nil,
		"openid":                          ErrScope,
	} {
		p := &provider{}
		p.say(200, `{"access_token":"a","refresh_token":"r","scope":"`+scope+`"}`)
		app.Transport = p
		app.Endpoints = Endpoints{AuthURL: "https://p.example/auth", TokenURL: "https://p.example/token"}
		r, err := app.Begin(t.Context(), ann, "http://127.0.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Finish(t.Context(), map[string][]string{"state": {r.State()}, "code": {"c"}})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", scope, err, want)
		}
		if got := p.asked[0]["code_verifier"]; len(got) != 1 || got[0] != r.verifier {
			t.Errorf("verifier %q", got)
		}
	}
	if !sameScope("https://outlook.office.com/IMAP.AccessAsUser.All", "https://outlook.office365.com/imap.accessasuser.all") ||
		sameScope("https://mail.google.com/", "https://www.googleapis.com/auth/drive/") {
		t.Error("scopes are not compared as Microsoft and Google name them")
	}
}
