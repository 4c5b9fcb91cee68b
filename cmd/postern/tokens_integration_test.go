package main

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"postern/cmd/internal/config"
	"postern/proxy/state"
	"postern/upstream/oauth"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/chromium"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/oidc"
)

const (
	annsName = "ann@example.org"
	bobsName = "bob@example.org"
)

// A tokenService is a gateway to a real mail server that takes the tokens of a
// real authorization server, where ann has an account of postern's.
type tokenService struct {
	oidc      *oidc.Server
	config    string // its path
	gateway   *process
	addresses []string
	mailbox   upstreamtest.Mailbox
	bobs      upstreamtest.Mailbox
	password  string // generated
}

// newTokenService starts one; more is what else its configuration says.
func newTokenService(t *testing.T, o oidc.Options, more string) *tokenService {
	t.Helper()
	s := &tokenService{oidc: oidc.Start(t, o)}
	d := dovecot.Start(t, dovecot.Tokens(t, s.oidc.Introspection(), "oauthbearer xoauth2")...)
	s.mailbox = d.AddUser(t, annsName, "ann's own")
	s.bobs = d.AddUser(t, bobsName, "bob's own")
	s.start(t, fmt.Sprintf("protocol: imap, address: %q, tls: off", d.IMAP), "openid", more)
	return s
}

// start runs the gateway to that upstream, whose tokens are good for a scope,
// and makes ann's account.
func (s *tokenService) start(t *testing.T, upstream, scope, more string) {
	t.Helper()
	if more == "" {
		more = `admin: {address: "127.0.0.1:0"}`
	}
	s.config = writeConfig(t, `
log: {level: debug}
listeners: [{address: "127.0.0.1:0"}]
vault: {key_file: vault.key}
%s
upstreams:
  own: {%s, oauth: {issuer: %q, client_id: %q, client_secret_file: %q, scopes: [%s, offline_access]}}
`, more, upstream, s.oidc.Issuer, oidc.ClientID, secretIn(t, oidc.ClientSecret), scope)
	code, _, errors := runHere("", "vault", "new-key", "-c", s.config)
	if code != exitFine {
		t.Fatalf("vault new-key: %s", errors)
	}
	s.gateway = spawn(t, "serve", "-c", s.config)
	s.addresses = s.gateway.addresses(t)
	code, out, errors := runHere("", "account", "add", annsName, "-c", s.config)
	generated := regexp.MustCompile(`(?m)^  password +(.+)$`).FindStringSubmatch(out)
	if code != exitFine || generated == nil {
		t.Fatalf("account add: %s%s", out, errors)
	}
	s.password = generated[1]
}

// fetches lets real clients download with nothing but the generated password.
func (s *tokenService) fetches(t *testing.T, raw []string) {
	t.Helper()
	eachClient(t, func(t *testing.T, c client) {
		c.fetched(t, run{address: s.addresses[0], transport: plaintext, user: annsName, password: s.password,
			dir: t.TempDir(), messages: len(raw)}, raw)
	})
}

var addressInText = regexp.MustCompile(`(?m)^  (http://\S+)$`)

// connect runs postern account connect, lets a person do what it says, and
// returns what it printed.
func (s *tokenService) connect(t *testing.T, want int, person func(page string), args ...string) string {
	t.Helper()
	p := spawn(t, append([]string{"account", "connect", annsName, "-c", s.config}, args...)...)
	var page string
	for page == "" {
		line, ok := <-p.lines
		if !ok {
			t.Fatalf("connect printed no address:\n%s", p.output())
		}
		if found := addressInText.FindStringSubmatch(line); found != nil && (len(args) == 0 || strings.Contains(line, "user_code=")) {
			page = found[1]
		}
	}
	person(page)
	if code := p.end(t); code != want {
		t.Errorf("exit code %d, want %d:\n%s", code, want, p.output())
	}
	return p.output()
}

// grant is what the state has of ann's.
func (s *tokenService) grant(t *testing.T) oauth.Grant { return s.grantFor(t, annsName) }

func (s *tokenService) grantFor(t *testing.T, account string) oauth.Grant {
	t.Helper()
	c, err := config.Load(s.config, checkUIDL)
	if err != nil {
		t.Fatal(err)
	}
	store, err := openState(c.State, state.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	v, err := openVault(c.Vault, store)
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := grants{c, v, store}.Grant(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// With nothing but a generated password, curl and fetchmail and the others read
// mail that only a token opens. The token comes from consent in a real browser.
func TestMailByConsent(t *testing.T) {
	s := newTokenService(t, oidc.Options{Rotate: true}, "")
	raw := []string{upstreamtest.Letter(1, 3000), upstreamtest.Letter(2, 900)}
	for _, l := range raw {
		s.mailbox.Deliver(t, l)
	}
	before := dialPOP(t, s.addresses[0], nil)
	before.login(annsName, s.password, "-ERR [SYS/PERM] ")
	before.Close()

	tab := chromium.Start(t)
	out := s.connect(t, exitFine, func(page string) {
		var text string
		err := chromedp.Run(tab,
			chromedp.Navigate(page),
			chromedp.SendKeys(`input[name=password]`, "whatever", chromedp.ByQuery),
			chromedp.Click(`button.login-submit`, chromedp.ByQuery),
			chromedp.WaitVisible(`input[name=prompt][value=consent] ~ button, form button[autofocus]`, chromedp.ByQuery),
			chromedp.Click(`form button[type=submit]`, chromedp.ByQuery),
			chromedp.WaitVisible(`pre`, chromedp.ByQuery), // plain text
			chromedp.Text(`body`, &text, chromedp.ByQuery),
		)
		if err != nil || !strings.Contains(text, "Done.") {
			t.Errorf("in the browser: %q, %v", text, err)
		}
	})
	if !strings.Contains(out, annsName+" is connected to own.") || !strings.Contains(out, "The mailbox was opened.") {
		t.Errorf("connect printed:\n%s", out)
	}
	s.fetches(t, raw)
	s.leaksNothing(t, annsName, s.password)
}

// The same at a real Cyrus by JMAP, which reads the tokens itself.
func TestMailByConsentOverJMAP(t *testing.T) {
	s := &tokenService{oidc: oidc.Start(t, oidc.Options{})}
	c := cyrus.Start(t, cyrus.Tokens(t, s.oidc.JWTKeyPEM())...)
	s.mailbox = c.AddUser(t, annsName, "ann's own")
	c.AddUser(t, bobsName, "bob's own")
	raw := []string{upstreamtest.Letter(1, 3000), upstreamtest.Letter(2, 900)}
	for _, l := range raw {
		s.mailbox.Deliver(t, l)
	}
	s.start(t, fmt.Sprintf("protocol: jmap, url: %q, plain_http: true", c.JMAP), "mail", "")
	out := s.connect(t, exitFailed, func(page string) { visit(t, s.oidc.Consent(t, page, bobsName).String()) })
	if !strings.Contains(out, "is not kept") {
		t.Errorf("bob's consent for ann's mailbox:\n%s", out)
	}
	s.connect(t, exitFine, func(page string) { visit(t, s.oidc.Consent(t, page, annsName).String()) })
	s.fetches(t, raw)
	s.leaksNothing(t, annsName, s.password)
}

func visit(t *testing.T, address string) {
	t.Helper()
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

// The other ways to consent, and consents that are no good.
func TestWaysToConsent(t *testing.T) {
	s := newTokenService(t, oidc.Options{}, "")
	s.mailbox.Deliver(t, upstreamtest.Letter(1, 900))
	polls := func(want string) {
		t.Helper()
		c := dialPOP(t, s.addresses[0], nil)
		defer c.Close()
		c.login(annsName, s.password, want)
	}
	out := s.connect(t, exitFailed, func(page string) { visit(t, s.oidc.Consent(t, page, bobsName).String()) })
	if !strings.Contains(out, "is not kept") || s.grant(t).RefreshToken.Reveal() != "" {
		t.Errorf("bob's consent for ann's mailbox:\n%s", out)
	}
	polls("-ERR [SYS/PERM] ")

	s.connect(t, exitFine, func(page string) { s.oidc.Consent(t, page, annsName) }, "--device")
	polls("+OK")
	first := s.grant(t)

	out = s.connect(t, exitFailed, func(page string) {
		visit(t, s.oidc.Consent(t, page, bobsName).String())
	})
	if !strings.Contains(out, "is not kept") || s.grant(t).RefreshToken != first.RefreshToken {
		t.Errorf("bob's consent took the place of ann's:\n%s", out)
	}
	polls("+OK")

	token := secretIn(t, first.RefreshToken.Reveal())
	code, out, errors := runHere("", "account", "connect", annsName, "-c", s.config, "--refresh-token-file", token)
	if code != exitFine || strings.Contains(out+errors, first.RefreshToken.Reveal()) {
		t.Errorf("import: exit code %d: %s%s", code, out, errors)
	}
	polls("+OK")
	code, out, errors = runHere("", "account", "connect", annsName, "-c", s.config, "--refresh-token-file", secretIn(t, "made-up"))
	if code != exitFailed || !strings.Contains(errors, "invalid_grant") || strings.Contains(errors, "made-up") {
		t.Errorf("a made-up token: exit code %d: %s%s", code, out, errors)
	}

	s.paste(t, func(page string) string { return s.oidc.Consent(t, page, annsName).String() }, exitFine, "is connected")
	s.paste(t, func(string) string { return "http://127.0.0.1/?state=x&code=y" }, exitFailed, "not to this request")
	polls("+OK")

	// Ann takes everything back. The gateway has tokens that are good for an
	// hour; the mail server knows better. No client forgets its password for it.
	for _, g := range []oauth.Grant{first, s.grant(t)} {
		s.oidc.Revoke(t, g.RefreshToken.Reveal())
		s.oidc.Revoke(t, g.AccessToken.Reveal())
	}
	polls("-ERR [SYS/PERM] ")
}

// paste runs postern account connect --paste in a process that is typed to.
func (s *tokenService) paste(t *testing.T, person func(page string) string, want int, says string) {
	t.Helper()
	in, typed := io.Pipe()
	out, printed := io.Pipe()
	var all strings.Builder
	done := make(chan int, 1)
	p := &program{in: in, out: printed, err: printed, drain: t.Context(), cut: t.Context()}
	go func() {
		code := p.run([]string{"account", "connect", annsName, "-c", s.config, "--paste"})
		printed.Close()
		done <- code
	}()
	read := make([]byte, 64<<10)
	told := false
	for {
		n, err := out.Read(read)
		all.Write(read[:n])
		if found := addressInText.FindStringSubmatch(all.String()); found != nil && !told && strings.Contains(all.String(), "Paste the address") {
			told = true
			go fmt.Fprintln(typed, person(found[1]))
		}
		if err != nil {
			break
		}
	}
	if code := <-done; code != want || !strings.Contains(all.String(), says) {
		t.Errorf("paste: exit code %d, want %d and %q:\n%s", code, want, says, all.String())
	}
}

// leaksNothing looks for an account's secrets where they must not be, in every
// form: the log at level debug, the metrics and pages, the files of the state and,
// at last, what the gateway says of itself when it is made to crash.
func (s *tokenService) leaksNothing(t *testing.T, account, password string) {
	t.Helper()
	g := s.grantFor(t, account)
	all := []canary{{"the access token", g.AccessToken.Reveal()}, {"the refresh token", g.RefreshToken.Reveal()},
		{"the client secret", oidc.ClientSecret}, {"the password", password}, {"the password without spaces", strings.ReplaceAll(password, " ", "")}}
	for _, c := range all {
		if c.secret == "" {
			t.Fatalf("there is no %s to look for", c.name)
		}
	}
	admin := "http://" + s.addresses[len(s.addresses)-1]
	_, metrics := get(t, admin+"/metrics")
	if !strings.Contains(metrics, `postern_token_consents{state="good",upstream="own"} 1`) {
		t.Error("the metrics do not tell of the consent")
	}
	silent(t, "metrics", []byte(metrics), all...)
	for _, page := range []string{"/", "/accounts"} {
		_, text := get(t, admin+page)
		silent(t, page, []byte(text), all...)
	}
	silentFiles(t, stateOf(t, s.config), all...)
	s.gateway.Process.Signal(syscall.SIGQUIT)
	s.gateway.end(t)
	if !strings.Contains(s.gateway.output(), "goroutine 1 ") {
		t.Error("the gateway did not say what it was at when it crashed")
	}
	silent(t, "log", []byte(s.gateway.output()), all...)
	silentFiles(t, stateOf(t, s.config), all...)
}
