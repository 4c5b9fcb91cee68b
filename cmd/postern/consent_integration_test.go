package main

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/chromium"
	"postern/upstream/upstreamtest/oidc"
)

// newConsentService is a tokenService with pages for consent, whose tokens end
// after two seconds. Bob has an account, and no password for it yet.
func newConsentService(t *testing.T) (s *tokenService, pages string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	s = newTokenService(t, oidc.Options{AccessTokenSeconds: 2}, fmt.Sprintf(`
admin: {address: %q}
consent: {public_url: "http://%s", password_file: %q}
`, address, address, secretIn(t, "the administrator's")))
	if code, out, errors := runHere("", "account", "add", bobsName, "--no-password", "-c", s.config); code != exitFine {
		t.Fatalf("account add: %s%s", out, errors)
	}
	return s, "http://" + address
}

// invite makes a link by the command.
func (s *tokenService) invite(t *testing.T, account string) string {
	t.Helper()
	code, out, errors := runHere("", "account", "invite", account, "-c", s.config)
	link := addressInText.FindStringSubmatch(out)
	if code != exitFine || link == nil {
		t.Fatalf("account invite: %s%s", out, errors)
	}
	return link[1]
}

// A person with a link, a telephone and no scripts lets postern in, and reads
// mail with what the last page says. When they take their consent back, the next
// poll tells so, and holds the link that mends it. No unique-id changes.
func TestConsentByWeb(t *testing.T) {
	s, _ := newConsentService(t)
	raw := []string{upstreamtest.Letter(1, 3000), upstreamtest.Letter(2, 900)}
	for _, l := range raw {
		s.bobs.Deliver(t, l)
	}

	password := s.consentInBrowser(t, s.invite(t, bobsName))
	c := dialPOP(t, s.addresses[0], nil)
	c.login(bobsName, password, "+OK")
	known := c.lines("UIDL")
	c.say("QUIT", "+OK")
	if len(known) != len(raw) {
		t.Fatalf("UIDL: %q, want %d messages", known, len(raw))
	}

	for _, token := range []string{s.grantFor(t, bobsName).RefreshToken.Reveal(), s.grantFor(t, bobsName).AccessToken.Reveal()} {
		s.oidc.Revoke(t, token)
	}
	c = s.pollUntil(t, password, "+OK 3 ")
	told := c.lines("UIDL")
	if len(told) != 3 || strings.Join(told[:2], "\n") != strings.Join(known, "\n") {
		t.Errorf("UIDL without consent: %q, want those of %q and the notice", told, known)
	}
	c.say("RETR 1", "-ERR [SYS/TEMP]")
	c.say("DELE 1", "-ERR [SYS/TEMP]")
	notice := strings.Join(c.lines("RETR 3"), "\n")
	link := regexp.MustCompile(`(?m)^    (http\S+)$`).FindStringSubmatch(notice)
	if link == nil || !strings.Contains(notice, bobsName) {
		t.Fatalf("the notice holds no link:\n%s", notice)
	}
	c.say("DELE 3", "+OK")
	c.say("QUIT", "+OK")

	// It was told once, and is not told again.
	again := dialPOP(t, s.addresses[0], nil)
	again.login(bobsName, password, "-ERR [SYS/PERM]")
	again.Close()

	if page := s.consentByForms(t, link[1], bobsName); !strings.Contains(page, "as before") {
		t.Errorf("the page after consent anew:\n%s", page)
	}
	c = s.pollUntil(t, password, "+OK 2 ")
	if now := c.lines("UIDL"); strings.Join(now, "\n") != strings.Join(known, "\n") {
		t.Errorf("UIDL after consent anew: %q, want %q", now, known)
	}
	c.say("QUIT", "+OK")
	silent(t, "log", []byte(s.gateway.output()), canary{"an invitation", link[1][strings.LastIndexByte(link[1], '/')+1:]})
	s.leaksNothing(t, bobsName, password)
}

// pollUntil logs in as bob until STAT says that.
func (s *tokenService) pollUntil(t *testing.T, password, want string) popClient {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for got := ""; time.Now().Before(deadline); {
		c := dialPOP(t, s.addresses[0], nil)
		c.say("USER "+bobsName, "+OK")
		c.PrintfLine("PASS %s", password)
		if got, _ = c.ReadLine(); strings.HasPrefix(got, "+OK") {
			c.PrintfLine("STAT")
			if got, _ = c.ReadLine(); strings.HasPrefix(got, want) {
				return c
			}
		}
		c.Close()
	}
	t.Fatalf("no login came to %q within a minute", want)
	return popClient{}
}

// consentInBrowser follows a link in Chromium, on a small screen and without
// scripts, and returns the password that the last page shows.
func (s *tokenService) consentInBrowser(t *testing.T, link string) (password string) {
	t.Helper()
	tab := chromium.Start(t)
	var width int64
	err := chromedp.Run(tab,
		chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile),
		emulation.SetScriptExecutionDisabled(true),
		chromedp.Navigate(link),
		chromedp.Click(`form button`, chromedp.ByQuery),
		chromedp.WaitVisible(`input[name=login]`, chromedp.ByQuery),
		chromedp.SetValue(`input[name=login]`, bobsName, chromedp.ByQuery),
		chromedp.SendKeys(`input[name=password]`, "whatever", chromedp.ByQuery),
		chromedp.Click(`button.login-submit`, chromedp.ByQuery),
		chromedp.WaitNotPresent(`input[name=password]`, chromedp.ByQuery),
		chromedp.Click(`form button[type=submit]`, chromedp.ByQuery),
		chromedp.WaitVisible(`.password`, chromedp.ByQuery),
		chromedp.Text(`.password`, &password, chromedp.ByQuery),
		chromedp.Evaluate(`document.documentElement.scrollWidth`, &width),
	)
	if err != nil {
		t.Fatalf("in the browser: %v", err)
	}
	if width > 390 {
		t.Errorf("the page is %d pixels wide, on a screen of 390", width)
	}
	return strings.TrimSpace(password)
}

// consentByForms does the same without a browser, and returns the last page.
func (s *tokenService) consentByForms(t *testing.T, link, login string) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: time.Minute}
	page := pageOf(t, browser.PostForm, link, nil)
	provider := regexp.MustCompile(`href="([^"]*)"`).FindStringSubmatch(page)
	if provider == nil {
		t.Fatalf("no link to the provider in:\n%s", page)
	}
	back := s.oidc.Consent(t, html.UnescapeString(provider[1]), login)
	get := func(address string, _ url.Values) (*http.Response, error) { return browser.Get(address) }
	return pageOf(t, get, back.String(), nil)
}

func pageOf(t *testing.T, ask func(string, url.Values) (*http.Response, error), address string, form url.Values) string {
	t.Helper()
	answer, err := ask(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(page))
}

// A link opens one mailbox, its owner's, and no other.
func TestConsentOfSomebodyElse(t *testing.T) {
	s, _ := newConsentService(t)
	link := s.invite(t, bobsName)
	if page := s.consentByForms(t, link, annsName); !strings.Contains(page, "That was another mailbox") {
		t.Errorf("ann's consent for bob's mailbox:\n%s", page)
	}
	if g := s.grantFor(t, bobsName); g.RefreshToken.Reveal() != "" {
		t.Error("ann's consent was kept as bob's")
	}
	if page := s.consentByForms(t, link, bobsName); !strings.Contains(page, "Your mailbox is connected") {
		t.Errorf("bob's own consent, with the same link:\n%s", page)
	}
	if page := pageOf(t, http.PostForm, link, nil); !strings.Contains(page, "does not work any more") {
		t.Errorf("the link, once it was used:\n%s", page)
	}
}

// The administrator sees whose consent is missing, and makes links by a button.
func TestAccountsPage(t *testing.T) {
	s, pages := newConsentService(t)
	at, err := url.Parse(pages + "/accounts")
	if err != nil {
		t.Fatal(err)
	}
	at.User = url.UserPassword("admin", "the administrator's")
	get := func(address string, _ url.Values) (*http.Response, error) { return http.Get(address) }
	if page := pageOf(t, get, at.String(), nil); !strings.Contains(page, bobsName) || !strings.Contains(page, "never given") {
		t.Errorf("before any consent:\n%s", page)
	}
	page := pageOf(t, http.PostForm, at.String(), url.Values{"account": {bobsName}})
	link := regexp.MustCompile(regexp.QuoteMeta(pages) + `/connect/[\w-]+`).FindString(page)
	if link == "" {
		t.Fatalf("no link in:\n%s", page)
	}
	if page := s.consentByForms(t, link, bobsName); !strings.Contains(page, "Your mailbox is connected") {
		t.Errorf("after consent:\n%s", page)
	}
	if page := pageOf(t, get, at.String()+"?find=BOB", nil); !strings.Contains(page, bobsName) || !strings.Contains(page, "good") || strings.Contains(page, annsName) {
		t.Errorf("bob alone, after his consent:\n%s", page)
	}
}
