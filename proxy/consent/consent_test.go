package consent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

const (
	invite   = "INVITATION2INVITATION2"
	password = "kx4m 9rtq w2hd 7vbn"
	adminPW  = "administrator's own"
)

// A desk has one account and one invitation for it.
type desk struct {
	site   string // the provider's
	used   bool
	has    bool // a password, from before
	finish error
	begun  int
}

func (d *desk) Accounts(_ context.Context, find string) ([]Account, bool, error) {
	if find == "nobody" {
		return nil, false, nil
	}
	return []Account{
		{Name: "<b>scanner", Login: "ann@gmail.example", Provider: "Gmail", State: Lost, Since: time.Date(2026, 11, 2, 3, 4, 0, 0, time.UTC)},
		{Name: "erp", Login: "erp@corp.example", Provider: "Microsoft 365", State: Good},
	}, true, nil
}

func (d *desk) Invite(_ context.Context, account string) (upstream.Secret, time.Time, error) {
	if account != "erp" {
		return upstream.Secret{}, time.Time{}, ErrInvitation
	}
	return upstream.NewSecret(invite), time.Now().Add(time.Hour), nil
}

func (d *desk) Invited(_ context.Context, i upstream.Secret) (Invitation, error) {
	if i.Reveal() != invite || d.used {
		return Invitation{}, ErrInvitation
	}
	return Invitation{Login: "ann@gmail.example", Provider: "Gmail", Expires: time.Now().Add(time.Hour)}, nil
}

func (d *desk) Begin(ctx context.Context, i upstream.Secret, callback string) (Request, error) {
	if _, err := d.Invited(ctx, i); err != nil {
		return nil, err
	}
	d.begun++
	return &request{d, fmt.Sprintf("state-%d", d.begun), callback}, nil
}

type request struct {
	desk            *desk
	state, callback string
}

func (r *request) State() string { return r.state }
func (r *request) URL() string {
	return r.desk.site + "/authorize?" + url.Values{"state": {r.state}, "redirect_uri": {r.callback}, "prompt": {`"<consent>`}}.Encode()
}
func (r *request) Finish(_ context.Context, answer url.Values) (Settings, error) {
	if answer.Get("error") == "access_denied" {
		return Settings{}, ErrRefused
	}
	if answer.Get("code") != "the-code" {
		return Settings{}, errors.New("unknown code")
	}
	if r.desk.finish != nil {
		return Settings{}, r.desk.finish
	}
	r.desk.used = true
	given := upstream.NewSecret(password)
	if r.desk.has {
		given = upstream.Secret{}
	}
	return Settings{User: "scanner", Password: given, Servers: []Server{
		{"pop.example.org", "995", "SSL/TLS"}, {"pop.example.org", "110", "STARTTLS"}}}, nil
}

// A world is a site and a browser.
type world struct {
	t       *testing.T
	desk    *desk
	site    *httptest.Server
	browser *http.Client
	log     *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, desk: &desk{site: "https://provider.example"}, log: &bytes.Buffer{}}
	w.site = httptest.NewUnstartedServer(nil)
	public, err := url.Parse("http://" + w.site.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w.site.Config.Handler = New(Options{Desk: w.desk, Public: public, Password: upstream.NewSecret(adminPW), Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	w.site.Start()
	t.Cleanup(w.site.Close)
	w.browser = newBrowserClient(t)
	return w
}

func newBrowserClient(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: time.Minute}
}

// ask makes a request as a browser does, and returns status and page.
func (w *world) ask(method, path string, form url.Values, header ...string) (int, string) {
	w.t.Helper()
	r, err := http.NewRequest(method, w.site.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := w.browser.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"} {
		if got := answer.Header.Get(name); got != want {
			w.t.Errorf("%s %s: %s: got %q, want %q", method, path, name, got, want)
		}
	}
	if strings.Contains(string(page), "<script") || strings.Contains(answer.Header.Get("Content-Security-Policy"), "unsafe") {
		w.t.Errorf("%s %s: a script, or a policy that allows one", method, path)
	}
	return answer.StatusCode, string(page)
}

// want checks what a page is.
func (w *world) want(status int, text string) func(int, string) {
	return func(gotStatus int, page string) {
		w.t.Helper()
		if gotStatus != status || !strings.Contains(page, text) {
			w.t.Errorf("got %d, want %d and %q in:\n%s", gotStatus, status, text, page)
		}
	}
}

// begin goes as far as the provider, and returns the state that it is given.
func (w *world) begin() (state string) {
	w.t.Helper()
	_, page := w.ask("POST", "/connect/"+invite, nil)
	link := regexp.MustCompile(`href="([^"]*)"`).FindStringSubmatch(page)
	if link == nil {
		w.t.Fatalf("no link to the provider in:\n%s", page)
	}
	to, err := url.Parse(html.UnescapeString(link[1]))
	if err != nil || to.Host != "provider.example" || to.Query().Get("prompt") != `"<consent>` {
		w.t.Fatalf("link to %v, %v", to, err)
	}
	if got, want := to.Query().Get("redirect_uri"), w.site.URL+"/connect/callback"; got != want {
		w.t.Errorf("redirect_uri %q, want %q", got, want)
	}
	return to.Query().Get("state")
}

func answer(state, code string) string {
	return "/connect/callback?" + url.Values{"state": {state}, "code": {code}}.Encode()
}

// From the link to the settings, which can be read again for some minutes, and
// the link is used up.
func TestConsent(t *testing.T) {
	w := newWorld(t)
	w.want(200, "ann@gmail.example")(w.ask("GET", "/connect/"+invite, nil))
	state := w.begin()
	for range 2 { // the second time by the button for back
		status, page := w.ask("GET", answer(state, "the-code"), nil)
		for _, part := range []string{"pop.example.org", "995", "SSL/TLS", "scanner", "STARTTLS", "<span>kx4m</span> <span>"} {
			w.want(200, part)(status, page)
		}
	}
	w.want(200, "7vbn")(w.ask("GET", "/connect/done", nil))
	w.want(404, used.Title)(w.ask("GET", "/connect/"+invite, nil))
	w.want(404, used.Title)(w.ask("POST", "/connect/"+invite, nil))
	w.browser = newBrowserClient(t)
	w.want(404, shown.Title)(w.ask("GET", "/connect/done", nil))
	if log := w.log.String(); strings.Contains(log, password) || strings.Contains(log, invite) || strings.Contains(log, "the-code") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

// Whoever consents anew needs no other password.
func TestConsentAnew(t *testing.T) {
	w := newWorld(t)
	w.desk.has = true
	w.want(200, "as before")(w.ask("GET", answer(w.begin(), "the-code"), nil))
}

// A link that mail scanners looked at still works.
func TestLookingAtTheLinkDoesNotUseIt(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.want(200, "Continue to Gmail")(w.ask("GET", "/connect/"+invite, nil))
	}
	w.ask("HEAD", "/connect/"+invite, nil)
	if w.desk.begun != 0 {
		t.Errorf("%d requests for consent, want none", w.desk.begun)
	}
}

// An answer counts once, in the browser that asked, with the state it was given.
func TestAnswersThatCameUnasked(t *testing.T) {
	w := newWorld(t)
	w.want(400, unasked.Title)(w.ask("GET", answer("state-1", "the-code"), nil))
	state := w.begin()
	w.want(400, unasked.Title)(w.ask("GET", answer("other", "the-code"), nil))
	mine := w.browser
	w.browser = newBrowserClient(t)
	w.want(400, unasked.Title)(w.ask("GET", answer(state, "the-code"), nil))
	w.browser = mine
	w.want(503, later.Title)(w.ask("GET", answer(state, "wrong"), nil))
	w.want(400, unasked.Title)(w.ask("GET", answer(state, "the-code"), nil))
	if w.desk.used {
		t.Error("the invitation was used up by no consent")
	}
}

func TestWhatWentWrongIsSaid(t *testing.T) {
	w := newWorld(t)
	w.want(404, used.Title)(w.ask("GET", "/connect/nobody", nil))
	w.want(404, noPage.Title)(w.ask("GET", "/else", nil))
	w.want(200, refused.Title)(w.ask("GET", "/connect/callback?error=access_denied&state="+w.begin(), nil))
	w.desk.finish = fmt.Errorf("login as bob: %w", ErrOther)
	w.want(200, other.Title)(w.ask("GET", answer(w.begin(), "the-code"), nil))
	w.desk.finish = errors.New("<b>token endpoint: secret details")
	status, page := w.ask("GET", answer(w.begin(), "the-code"), nil)
	w.want(503, later.Title)(status, page)
	if strings.Contains(page, "details") {
		t.Error("a person is shown the error itself")
	}
}

func TestAdministrator(t *testing.T) {
	w := newWorld(t)
	w.want(401, barred.Title)(w.ask("GET", "/accounts", nil))
	w.want(401, barred.Title)(w.ask("POST", "/accounts", url.Values{"account": {"erp"}}))
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth("anybody", adminPW)
	right := []string{"Authorization", r.Header.Get("Authorization")}
	status, page := w.ask("GET", "/accounts", nil, right...)
	for _, part := range []string{"&lt;b&gt;scanner", "lost, 2 November 2026", "There are more", "erp@corp.example, Microsoft 365", "good"} {
		w.want(200, part)(status, page)
	}
	w.want(200, "No account that needs consent")(w.ask("GET", "/accounts?find=nobody", nil, right...))
	w.want(200, w.site.URL+"/connect/"+invite)(w.ask("POST", "/accounts", url.Values{"account": {"erp"}}, right...))
	w.want(404, used.Title)(w.ask("POST", "/accounts", url.Values{"account": {"else"}}, right...))
	w.want(403, foreign.Title)(w.ask("POST", "/accounts", url.Values{"account": {"erp"}}, append(right, "Sec-Fetch-Site", "cross-site")...))
	w.want(403, foreign.Title)(w.ask("POST", "/accounts", url.Values{"account": {"erp"}}, append(right, "Sec-Fetch-Site", "", "Origin", "https://evil.example")...))
}

// Wrong passwords are slow, and without a password in the configuration
// everything is wrong.
func TestAdministratorsPasswordIsNotGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, want := range map[string]string{"one": adminPW, "none": ""} {
			s := New(Options{Desk: &desk{}, Public: &url.URL{Scheme: "https", Host: "x"}, Password: upstream.NewSecret(want)})
			for _, guess := range []string{"", "guess"} {
				r := httptest.NewRequest("GET", "/accounts", nil)
				r.SetBasicAuth("admin", guess)
				w := httptest.NewRecorder()
				began := time.Now()
				s.ServeHTTP(w, r)
				if took := time.Since(began); w.Code != 401 || took != guessTime {
					t.Errorf("password %s, guess %q: %d after %v, want 401 after %v", name, guess, w.Code, took, guessTime)
				}
			}
		}
	})
}

// Whoever hangs up without waiting for the answer guesses no faster.
func TestGuessesThatHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Desk: &desk{}, Public: &url.URL{Scheme: "https", Host: "x"}, Password: upstream.NewSecret(adminPW)})
		ask := func(ctx context.Context, password string) int {
			r := httptest.NewRequest("GET", "/accounts", nil).WithContext(ctx)
			r.SetBasicAuth("admin", password)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w.Code
		}
		for range 2 * maxGuesses {
			ctx, hangUp := context.WithTimeout(t.Context(), time.Millisecond)
			if code := ask(ctx, "guess"); code != 401 {
				t.Errorf("a guess: got %d, want 401", code)
			}
			hangUp()
		}
		began := time.Now()
		if code := ask(t.Context(), adminPW); code != 200 || time.Since(began) < guessTime/2 {
			t.Errorf("the next password was looked at after %v, with %d; want 200, once a guess has cost %v", time.Since(began), code, guessTime)
		}
		began = time.Now()
		if code := ask(t.Context(), adminPW); code != 200 || time.Since(began) != 0 {
			t.Errorf("the right password among no guesses: %d after %v, want 200 at once", code, time.Since(began))
		}
		time.Sleep(guessTime) // until every turn is given back
	})
}

// Nothing of a visit lasts.
func TestVisitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPending(), &desk{}
		browser := newBrowser()
		p.put(browser, visit{request: &request{d, "s", ""}}, requestLife)
		time.Sleep(requestLife + time.Second)
		if _, ok := p.take(browser, "s"); ok {
			t.Error("a request was answered after its time")
		}
		p.put(browser, visit{settings: &Settings{}}, settingsLife)
		time.Sleep(settingsLife + time.Second)
		if v, ok := p.get(browser); ok {
			t.Errorf("settings are there after their time: %v", v)
		}
		for range maxVisits + 10 {
			p.put(newBrowser(), visit{}, time.Hour)
		}
		if n := len(p.browsers); n > maxVisits {
			t.Errorf("%d visits, want %d at most", n, maxVisits)
		}
	})
}

// Over TLS, the cookie goes nowhere else.
func TestCookie(t *testing.T) {
	s := New(Options{Desk: &desk{}, Public: &url.URL{Scheme: "https", Host: "pop.example.org"}})
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/connect/"+invite, nil))
	c := w.Result().Cookies()
	if len(c) != 1 || c[0].Name != "__Host-postern" || !c[0].Secure || !c[0].HttpOnly || c[0].Path != "/" || c[0].SameSite != http.SameSiteLaxMode || len(c[0].Value) < 22 {
		t.Errorf("cookie %+v", c)
	}
}

// Whoever has one link cannot drive away those who are at the provider by
// another, nor take away settings, which are shown once.
func TestManyVisitsByOneLink(t *testing.T) {
	p := newPending()
	secret := upstream.NewSecret
	p.put(secret("done"), visit{settings: &Settings{}, invitation: secret("a")}, settingsLife)
	p.put(secret("asked"), visit{request: &request{}, invitation: secret("b")}, requestLife)
	for i := range 2 * maxVisits {
		p.put(secret(fmt.Sprint("again ", i)), visit{request: &request{}, invitation: secret("c")}, requestLife)
	}
	for _, browser := range []string{"done", "asked", fmt.Sprint("again ", 2*maxVisits-1)} {
		if _, ok := p.get(secret(browser)); !ok {
			t.Errorf("%s: gone, want it there", browser)
		}
	}
	if n := len(p.browsers); n != 2+maxEach {
		t.Errorf("%d visits, want the two others and %d", n, maxEach)
	}
	for i := range 2 * maxVisits {
		p.put(secret(fmt.Sprint("other ", i)), visit{request: &request{}, invitation: secret(fmt.Sprint("other ", i))}, requestLife)
	}
	if _, ok := p.get(secret("done")); !ok || len(p.browsers) != maxVisits+1 {
		t.Errorf("%d visits, settings there: %t; want %d and the settings", len(p.browsers), ok, maxVisits)
	}
}

// Behind a server that adds TLS and names another host, a form of these pages
// comes from the public address.
func TestFormsBehindAnotherHost(t *testing.T) {
	public, err := url.Parse("https://pop.example.org/mail")
	if err != nil {
		t.Fatal(err)
	}
	site := New(Options{Desk: &desk{site: "https://provider.example"}, Public: public})
	for origin, want := range map[string]int{"https://pop.example.org": 200, "https://evil.example": 403, "http://pop.example.org": 403, "null": 403} {
		r := httptest.NewRequest("POST", "http://127.0.0.1:9110/connect/"+invite, nil)
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("a form from %s: got %d, want %d", origin, w.Code, want)
		}
	}
}
