// Package oidc runs a private OAuth 2.0 and OpenID Connect server for tests:
// oidc-provider, which nobody here wrote, on a port of its own. install.sh puts
// it where it looks for it.
package oidc

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/upstream/upstreamtest/private"
)

//go:embed provider.mjs
var program string

// Options say how the server behaves. A zero field means the default.
type Options struct {
	AccessTokenSeconds int  // how long access tokens are good; 3600
	Rotate             bool // refresh tokens are good once, and their second use ends the grant
	// Key is the public key, as a JWK, of the client AppID that has a key for a
	// secret; nil: there is no such client.
	Key map[string]any
	// Redirect is where the client may be sent back to, besides this machine.
	Redirect string
}

// What the server knows its clients by.
const (
	ClientID     = "postern"          // for people's consent
	ClientSecret = "postern's secret" // of both
	ServiceID    = "postern-service"  // for client credentials, by a secret
	AppID        = "postern-app"      // the same, by Options.Key
)

// A Server is a running authorization server. It ends with the test that
// started it.
type Server struct {
	Issuer string
	// JWTKey verifies the JWTs that the scope mail asks for, by HS256.
	JWTKey []byte

	private *private.Server
}

// Start runs a server until t ends. Without one on the machine the test is
// skipped, or fails where POSTERN_REAL is 1.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	node, modules := find(t)
	p, err := private.New("", "oidc", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{private: p, JWTKey: []byte("a key of thirty-two octets, as is")}
	t.Cleanup(func() { s.end(t) })
	if err := s.start(t, node, modules, o); err != nil {
		t.Fatalf("start oidc-provider: %v", err)
	}
	return s
}

func (s *Server) end(t testing.TB) {
	log := s.private.Log()
	s.private.End()
	if t.Failed() {
		t.Logf("the log of oidc-provider:\n%s", log)
	}
}

func (s *Server) start(t testing.TB, node, modules string, o Options) error {
	var address string
	if err := s.private.Hold(&address); err != nil {
		return err
	}
	s.Issuer = "http://" + address
	settings, err := json.Marshal(s.settings(o))
	if err := errors.Join(err,
		s.private.Write("provider.mjs", program),
		s.private.Write("settings.json", string(settings)),
		os.Symlink(modules, filepath.Join(s.private.Dir, "node_modules")),
	); err != nil {
		return err
	}
	if err := s.private.Start(s.private.Command(node, "provider.mjs", "settings.json")); err != nil {
		return err
	}
	return s.private.Await(t.Context(), func() error {
		return private.Greets(address, "GET /.well-known/openid-configuration HTTP/1.0\r\n\r\n", "HTTP/1.1 200")
	})
}

func (s *Server) settings(o Options) map[string]any {
	if o.AccessTokenSeconds == 0 {
		o.AccessTokenSeconds = 3600
	}
	redirects := []string{"http://127.0.0.1/", "http://localhost/", "http://127.0.0.1/connect/callback", "http://localhost/connect/callback"}
	if o.Redirect != "" {
		redirects = append(redirects, o.Redirect)
	}
	clients := []map[string]any{
		{
			"client_id": ClientID, "client_secret": ClientSecret, "application_type": "native",
			"redirect_uris": redirects, "token_endpoint_auth_method": "client_secret_basic",
			"grant_types": []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
		},
		{
			"client_id": ServiceID, "client_secret": ClientSecret, "token_endpoint_auth_method": "client_secret_basic",
			"grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{},
		},
	}
	if o.Key != nil {
		clients = append(clients, map[string]any{
			"client_id": AppID, "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "PS256",
			"jwks":        map[string]any{"keys": []any{o.Key}},
			"grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{},
		})
	}
	return map[string]any{"issuer": s.Issuer, "clients": clients, "key": string(s.JWTKey), "rotate": o.Rotate, "accessTokenTTL": o.AccessTokenSeconds}
}

// Introspection is where a mail server asks about tokens (RFC 7662), with what
// proves that it may.
func (s *Server) Introspection() string {
	who := url.UserPassword(ClientID, url.QueryEscape(ClientSecret)).String()
	return strings.Replace(s.Issuer, "://", "://"+who+"@", 1) + "/token/introspection"
}

// JWTKeyPEM is JWTKey as Cyrus reads it (http_jwt_key_dir in imapd.conf(5)).
func (s *Server) JWTKeyPEM() []byte {
	return []byte("-----BEGIN HMAC KEY-----\n" + base64.StdEncoding.EncodeToString(s.JWTKey) + "\n-----END HMAC KEY-----\n")
}

func find(t testing.TB) (node, modules string) {
	t.Helper()
	root := os.Getenv("OIDC_ROOT")
	if root == "" {
		root = "/opt/postern-oidc"
	}
	node, err := exec.LookPath("node")
	_, missing := os.Stat(filepath.Join(root, ".installed"))
	if err == nil && missing == nil {
		return node, filepath.Join(root, "node_modules")
	}
	private.Missing(t, "no oidc-provider here: run upstream/upstreamtest/oidc/install.sh, or make test")
	return "", ""
}

// Granted is how many tokens the server has given for a grant type.
func (s *Server) Granted(grantType string) int {
	return strings.Count(s.private.Log(), "token granted: "+grantType+"\n")
}

// Revoke ends a token of the client for consent (RFC 7009): of a refresh token,
// with all that came from the same consent.
func (s *Server) Revoke(t testing.TB, token string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token/revocation",
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(ClientID), url.QueryEscape(ClientSecret))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %s", answer.Status)
	}
}

var (
	form   = regexp.MustCompile(`(?s)<form[^>]*?(?:action="([^"]*)")?[^>]*>(.*?)</form>`)
	hidden = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*?name="([^"]*)"[^>]*?value="([^"]*)"`)
)

// Consent is a person without a browser: it opens a page of the server's, logs
// in by that name, says yes to everything, and returns where that leads: the
// first address that is not the server's, or the last page of it.
func (s *Server) Consent(t testing.TB, page, login string) *url.URL {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var away *url.URL
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(r.URL.String(), s.Issuer+"/") {
			away = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	answer, err := browser.Get(page)
	for range 10 {
		if err != nil {
			t.Fatalf("consent: %v", err)
		}
		body, readErr := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		answer.Body.Close()
		if readErr != nil {
			t.Fatalf("consent: %v", readErr)
		}
		if away != nil {
			return away
		}
		found := form.FindStringSubmatch(string(body))
		if found == nil {
			return answer.Request.URL
		}
		fields := url.Values{"login": {login}, "password": {"any"}}
		for _, input := range hidden.FindAllStringSubmatch(found[2], -1) {
			fields.Set(html.UnescapeString(input[1]), html.UnescapeString(input[2]))
		}
		to, parseErr := answer.Request.URL.Parse(html.UnescapeString(found[1]))
		if parseErr != nil {
			t.Fatalf("consent: %v", parseErr)
		}
		answer, err = browser.PostForm(to.String(), fields)
	}
	t.Fatalf("consent: the pages of %s have no end", page)
	return nil
}
