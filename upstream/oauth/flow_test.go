package oauth

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// What an issuer's metadata may say, and what it must not.
func TestMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"fine":                   {200, `{"issuer":"ISSUER","authorization_endpoint":"ISSUER/a","token_endpoint":"ISSUER/t","device_authorization_endpoint":"https://device.example/d"}`, nil},
		"another issuer":         {200, `{"issuer":"https://evil.example","token_endpoint":"ISSUER/t"}`, upstream.ErrRejected},
		"an endpoint by http":    {200, `{"issuer":"ISSUER","token_endpoint":"http://evil.example/t"}`, upstream.ErrRejected},
		"a metadata service":     {200, `{"issuer":"ISSUER","token_endpoint":"https://169.254.169.254/t"}`, upstream.ErrRejected},
		"the same, mapped":       {200, `{"issuer":"ISSUER","token_endpoint":"https://[::ffff:169.254.169.254]/t"}`, upstream.ErrRejected},
		"a private address":      {200, `{"issuer":"ISSUER","token_endpoint":"https://10.1.2.3/t"}`, upstream.ErrRejected},
		"a name and a password":  {200, `{"issuer":"ISSUER","token_endpoint":"https://a:b@login.example/t"}`, upstream.ErrRejected},
		"no URL":                 {200, `{"issuer":"ISSUER","token_endpoint":"%zz"}`, upstream.ErrRejected},
		"no JSON":                {200, `<html>`, upstream.ErrUnavailable},
		"10 MB":                  {200, `{"issuer":"` + strings.Repeat("a", 10<<20) + `"}`, upstream.ErrUnavailable},
		"nothing there":          {404, ``, upstream.ErrUnavailable},
		"a redirect, not heeded": {302, ``, upstream.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			var server *httptest.Server
			server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path)
				w.Header().Set("Location", server.URL+"/elsewhere")
				w.WriteHeader(test.status)
				w.Write([]byte(strings.ReplaceAll(test.body, "ISSUER", server.URL+"/tenant")))
			}))
			defer server.Close()
			app := &Application{Issuer: server.URL + "/tenant"}
			got, err := app.endpoints(t.Context())
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if err == nil {
				want := Endpoints{server.URL + "/tenant/a", server.URL + "/tenant/t", "https://device.example/d"}
				if again, err := app.endpoints(t.Context()); got != want || again != want || err != nil || len(asked) != 1 {
					t.Errorf("%+v, then %+v, %v after %d questions; want %+v", got, again, err, len(asked), want)
				}
			} else if test.status != 200 && (len(asked) != 2 || asked[0] != "/tenant/.well-known/openid-configuration" || asked[1] != "/.well-known/oauth-authorization-server/tenant") {
				t.Errorf("asked at %q", asked)
			}
		})
	}
}

// U38: a name that an issuer gave must not lead inside this network, whatever
// it resolves to. One that the operator gave may.
func TestFaultU38IssuerNamesWhatIsInside(t *testing.T) {
	app := &Application{Issuer: "https://login.example.org", Endpoints: Endpoints{AuthURL: "https://localhost/authorize"}}
	app.endpoint = &Endpoints{AuthURL: "https://localhost/authorize", TokenURL: "https://ip6-localhost.example/t", DeviceURL: "https://login.example.org/d"}
	for host, want := range map[string]bool{"localhost": false, "login.example.org": false, "proxy.example.org": false, "ip6-localhost.example": true} {
		if got := app.discovered(host); got != want {
			t.Errorf("discovered(%q) is %t", host, got)
		}
	}
	for address, inside := range map[string]bool{
		"127.0.0.1:443": true, "[::1]:443": true, "10.0.0.1:443": true, "192.168.1.1:443": true, "169.254.169.254:80": true,
		"[::ffff:10.0.0.1]:443": true, "[fe80::1%eth0]:443": true, "[fd00::1]:443": true, "0.0.0.0:443": true, "x": true,
		"100.100.100.200:80": true, "[64:ff9b::a9fe:a9fe]:80": true, "0.1.2.3:443": true,
		"192.0.2.1:443": false, "[2001:db8::1]:443": false,
	} {
		if err := outside("tcp", address, nil); (err != nil) != inside {
			t.Errorf("%s: %v", address, err)
		}
	}
	// The real dialer asks.
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	at, _ := url.Parse(server.URL)
	app = &Application{Issuer: "https://login.example.org", endpoint: &Endpoints{TokenURL: "https://localhost:" + at.Port() + "/t"}}
	_, err := app.client().Get(app.endpoint.TokenURL)
	if !errors.Is(err, errInternal) {
		t.Errorf("%v, want a refusal before anything is sent", err)
	}
}

// An endpoint is asked only if it proves who it is: to the system's roots, or to
// those that were given.
func TestRoots(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(tokens(1, 60)))
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, test := range []struct {
		roots *x509.CertPool
		want  error
	}{{roots, nil}, {nil, upstream.ErrUnavailable}, {x509.NewCertPool(), upstream.ErrUnavailable}} {
		app := &Application{ClientID: "c", Endpoints: Endpoints{TokenURL: server.URL}, Roots: test.roots}
		if _, err := app.refresh(t.Context(), upstream.NewSecret("r")); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
	}
}

// A provider's device code keeps to what a person and a clock can bear.
func TestOddDeviceCodes(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want error
	}{
		"no interval":            {`{"device_code":"d","user_code":"U","verification_uri":"https://p.example/","expires_in":60}`, nil},
		"a negative one":         {`{"device_code":"d","user_code":"U","verification_uri":"https://p.example/","expires_in":60,"interval":-1}`, nil},
		"a year":                 {`{"device_code":"d","user_code":"U","verification_uri":"https://p.example/","expires_in":999999999,"interval":99999999}`, nil},
		"it has expired already": {`{"device_code":"d","user_code":"U","verification_uri":"https://p.example/","expires_in":-5}`, nil},
		"no code":                {`{"device_code":"d","verification_uri":"https://p.example/"}`, upstream.ErrUnavailable},
		"no JSON":                {`<html>`, upstream.ErrUnavailable},
		"escapes":                {`{"device_code":"d","user_code":"\u001b[31mU","verification_uri":"https://p.example/\u001b"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(callTime) // the library leaves an answer open, which the client then ends
				p := &provider{}
				p.say(200, test.body)
				app := &Application{Name: "x", ClientID: "c", Endpoints: Endpoints{TokenURL: "https://p.example/t", DeviceURL: "https://p.example/d"}, Transport: p}
				d, err := app.BeginDevice(t.Context())
				if !errors.Is(err, test.want) {
					t.Fatalf("%v, want %v", err, test.want)
				}
				if err != nil {
					return
				}
				if strings.Contains(d.Code+d.URL, "\x1b") || time.Until(d.Expires) > deviceTime {
					t.Errorf("%+v", d)
				}
				p.say(400, `{"error":"authorization_pending"}`)
				if _, err := d.Wait(t.Context()); !errors.Is(err, upstream.ErrUnavailable) {
					t.Errorf("nobody types the code: %v, want ErrUnavailable", err)
				}
				if n := p.times(); n > int(deviceTime/(leastPause*time.Second))+2 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// A question that gets lost does not end the wait, a no does.
func TestDeviceAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(callTime) // as above
		p := &provider{}
		p.say(200, `{"device_code":"d-secret","user_code":"U","verification_uri":"https://p.example/","expires_in":600}`)
		app := &Application{Name: "x", ClientID: "c", Endpoints: Endpoints{TokenURL: "https://p.example/t", DeviceURL: "https://p.example/d"}, Transport: p}
		d, err := app.BeginDevice(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.answer = func(_ url.Values, n int) (int, string) {
			switch n {
			case 2:
				return 400, `{"error":"authorization_pending"}`
			case 3:
				return 503, ""
			case 4:
				return 200, "<html>"
			}
			return 200, tokens(9, 3600)
		}
		g, err := d.Wait(t.Context())
		if err != nil || g.AccessToken.Reveal() != "access-9" || p.times() != 5 {
			t.Errorf("%v after %d questions", err, p.times())
		}
		p.say(400, `{"error":"access_denied","error_description":"no d-secret"}`)
		if _, err := d.Wait(t.Context()); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "d-secret") {
			t.Errorf("no: %v, want ErrDenied", err)
		}
		p.say(400, `{"error":"expired_token"}`)
		if _, err := d.Wait(t.Context()); !errors.Is(err, upstream.ErrRejected) {
			t.Errorf("too late: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		p.say(400, `{"error":"authorization_pending"}`)
		if _, err := d.Wait(ctx); err == nil || ctx.Err() == nil {
			t.Errorf("a person gives up: %v", err)
		}
	})
}

// What postern signs is what Google and Microsoft read.
func TestAssertions(t *testing.T) {
	cert, key, jwk := certificate(t)
	signing, err := ParseCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signing.assertion(claims{Issuer: "me", Subject: "ann", Audience: "https://p.example/t", Scope: "mail"})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	var header map[string]string
	var said claims
	if json.Unmarshal(decoded(t, parts[0]), &header) != nil || json.Unmarshal(decoded(t, parts[1]), &said) != nil {
		t.Fatal("no JSON")
	}
	if header["alg"] != "PS256" || header["x5t#S256"] != jwk["x5t#S256"] || said.Issuer != "me" || said.Subject != "ann" ||
		said.Expires-said.IssuedAt != int64(assertionTime/time.Second) || said.ID == "" || said.NotBefore > time.Now().Unix() {
		t.Errorf("%v, %+v", header, said)
	}
	if signing.NotAfter.Before(time.Now()) {
		t.Errorf("ends %s", signing.NotAfter)
	}

	file, _ := json.Marshal(map[string]string{"type": "service_account", "client_email": "p@x.iam.gserviceaccount.com", "client_id": "17",
		"private_key_id": "k1", "private_key": string(key), "token_uri": "https://oauth2.googleapis.com/token"})
	account, err := ParseServiceAccount(file)
	if err != nil || account.Email != "p@x.iam.gserviceaccount.com" || account.ClientID != "17" || account.Key.header["kid"] != "k1" {
		t.Errorf("%+v, %v", account, err)
	}
	p := &provider{}
	app := &Application{Name: "workspace", Flow: ByServiceAccount, ClientID: account.Email, Key: account.Key, Scopes: []string{"https://mail.google.com/"},
		Endpoints: Endpoints{TokenURL: account.TokenURL}, Transport: p}
	k := NewKeeper(Options{})
	for _, user := range []string{ann, "bob@example.org", ann} {
		if _, err := k.Source(user, user, app).Token(t.Context(), upstream.Secret{}); err != nil {
			t.Error(err)
		}
	}
	if len(p.asked) != 2 {
		t.Fatalf("%d requests for two users", len(p.asked))
	}
	for i, user := range []string{ann, "bob@example.org"} {
		form := p.asked[i]
		json.Unmarshal(decoded(t, strings.Split(form.Get("assertion"), ".")[1]), &said)
		if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || said.Subject != user || said.Issuer != account.Email ||
			said.Scope != "https://mail.google.com/" || said.Audience != account.TokenURL {
			t.Errorf("%v with %+v", form, said)
		}
	}
	// A user whom the account may not act for is a setting, not a lost consent.
	p.say(401, `{"error":"unauthorized_client"}`)
	_, err = k.Source("eve", "eve", app).Token(t.Context(), upstream.Secret{})
	if !errors.Is(err, upstream.ErrRejected) || errors.Is(err, upstream.ErrConsent) {
		t.Errorf("%v, want ErrRejected", err)
	}

	for _, bad := range []string{"", "{}", `{"type":"authorized_user"}`, `{"type":"service_account","client_email":"x","private_key":"-----BEGIN secret"}`} {
		if _, err := ParseServiceAccount([]byte(bad)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseCertificate(cert, []byte("no key")); err == nil {
		t.Error("a certificate without its key was taken")
	}
}

func decoded(t *testing.T, part string) []byte {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPasted(t *testing.T) {
	answer, err := Pasted("http://127.0.0.1/?code=c&state=s#x")
	if err != nil || answer.Get("code") != "c" || answer.Get("state") != "s" {
		t.Errorf("%v, %v", answer, err)
	}
	for _, bad := range []string{"", "c", "http://127.0.0.1/", "%zz"} {
		if _, err := Pasted(bad); !errors.Is(err, ErrForeign) {
			t.Errorf("%q: %v, want ErrForeign", bad, err)
		}
	}
}

func TestLoopbackEnds(t *testing.T) {
	l, err := Listen("localhost")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(l.Redirect(), "http://localhost:") {
		t.Errorf("redirect %q", l.Redirect())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Wait(ctx, &Request{state: "s"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the cancellation", err)
	}
	if _, err := l.Wait(t.Context(), &Request{state: "s"}); !errors.Is(err, upstream.ErrUnavailable) {
		t.Errorf("closed: %v, want ErrUnavailable", err)
	}
}
