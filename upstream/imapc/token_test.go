package imapc

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// counter gives the tokens token-1, token-2 and so on, another one whenever the
// last is refused.
type counter struct {
	n       int
	last    int // after which there is no other; 0: none
	err     error
	refused []string
}

func (s *counter) Token(_ context.Context, refused upstream.Secret) (upstream.Secret, error) {
	if r := refused.Reveal(); r != "" {
		s.refused = append(s.refused, r)
	}
	if (s.n == 0 || refused == s.token()) && (s.last <= 0 || s.n < s.last) {
		s.n++
	}
	if s.err != nil && (s.n > 1 || s.last < 0) {
		return upstream.Secret{}, s.err
	}
	return s.token(), nil
}

func (s *counter) token() upstream.Secret {
	return upstream.NewSecret(fmt.Sprintf("token-%d.~+/=", s.n))
}

func (s *counter) Key() upstream.Secret { return upstream.NewSecret("ann's grant") }

// takes makes the fake take the tokens that good names, by either mechanism,
// and refuse others as servers do.
func (f *fake) takes(challenge string, good ...string) {
	f.fault = func(c *fakeConn, command string) bool {
		rest, ok := strings.CutPrefix(command, "AUTHENTICATE ")
		if !ok {
			return false
		}
		_, response, initial := strings.Cut(rest, " ")
		if !initial {
			c.say("+ ")
			response, _ = c.line()
		}
		text, err := base64.StdEncoding.DecodeString(response)
		if err != nil {
			f.t.Errorf("response %q: %v", response, err)
		}
		_, token, _ := strings.Cut(string(text), "auth=Bearer ")
		token = strings.TrimRight(token, "\x01")
		f.mu.Lock()
		f.tokens = append(f.tokens, string(text))
		f.mu.Unlock()
		if slices.Contains(good, token) {
			c.ok("in")
			return true
		}
		c.say("+ %s", base64.StdEncoding.EncodeToString([]byte(challenge)))
		if answer, _ := c.line(); answer != "AQ==" {
			f.t.Errorf("the challenge was answered by %q, want a lone 0x01", answer)
		}
		c.say("%s NO [AUTHENTICATIONFAILED] Invalid credentials, %s (Failure)", c.tag, token)
		return true
	}
}

func TestLoginByToken(t *testing.T) {
	bearer := "n,a=b=3Do=2Cb@example.org,\x01host=imap.example.org\x01port=143\x01auth=Bearer token-1.~+/=\x01\x01"
	xoauth2 := "user=b=o,b@example.org\x01auth=Bearer token-1.~+/=\x01\x01"
	for name, test := range map[string]struct {
		caps     string
		prefer   bool
		response string
		commands string
	}{
		"OAUTHBEARER":           {"IMAP4rev1 SASL-IR AUTH=OAUTHBEARER AUTH=XOAUTH2", false, bearer, "AUTHENTICATE OAUTHBEARER "},
		"XOAUTH2":               {"IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2", false, xoauth2, "AUTHENTICATE XOAUTH2 "},
		"preferred":             {"IMAP4rev1 SASL-IR AUTH=OAUTHBEARER AUTH=XOAUTH2", true, xoauth2, "AUTHENTICATE XOAUTH2 "},
		"preferred, not there":  {"IMAP4rev1 SASL-IR AUTH=OAUTHBEARER", true, bearer, "AUTHENTICATE OAUTHBEARER "},
		"OAUTHBEARER, in steps": {"IMAP4rev1 AUTH=OAUTHBEARER", false, bearer, "AUTHENTICATE OAUTHBEARER"},
		"XOAUTH2, in steps":     {"IMAP4rev1 AUTH=XOAUTH2", false, xoauth2, "AUTHENTICATE XOAUTH2"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps, f.options.PreferXOAUTH2 = test.caps, test.prefer
				f.takes(`{"status":"400"}`, "token-1.~+/=")
				d, err := f.upstream().Open(t.Context(), upstream.Account{User: "b=o,b@example.org", Tokens: new(counter)})
				if err != nil {
					t.Fatal(err)
				}
				f.opened = append(f.opened, d)
				if !slices.Equal(f.tokens, []string{test.response}) {
					t.Errorf("said %q, want %q", f.tokens, test.response)
				}
				want := test.commands
				if strings.HasSuffix(want, " ") {
					want += base64.StdEncoding.EncodeToString([]byte(test.response))
				}
				if got := f.sent("AUTHENTICATE"); !slices.Equal(got, []string{want}) {
					t.Errorf("sent %q, want %q", got, want)
				}
			})
		})
	}
}

// What a refused token comes to. A token is not the client's password, unless
// the client has sent it.
func TestRefusedToken(t *testing.T) {
	const challenge = `{"status":"invalid_token","schemes":"Bearer","scope":"https://mail.example.org/","secret":"do not show"}`
	for name, test := range map[string]struct {
		tokens upstream.TokenSource
		want   error
		asked  int
	}{
		"another one is taken":   {&counter{}, nil, 2},
		"there is no other":      {&counter{last: 1}, upstream.ErrAuth, 1},
		"a client's own":         {upstream.GivenToken{Secret: upstream.NewSecret("token-1.~+/=")}, upstream.ErrAuth, 1},
		"consent is withdrawn":   {&counter{err: upstream.ErrConsent}, upstream.ErrConsent, 1},
		"the provider is away":   {&counter{err: upstream.ErrUnavailable}, upstream.ErrUnavailable, 1},
		"away from the start":    {&counter{err: upstream.ErrUnavailable, last: -1}, upstream.ErrUnavailable, 0},
		"no token at all":        {upstream.GivenToken{}, upstream.ErrAuth, 0},
		"a token with a newline": {upstream.GivenToken{Secret: upstream.NewSecret("a\r\nb LOGOUT")}, upstream.ErrAuth, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps = "IMAP4rev1 SASL-IR AUTH=OAUTHBEARER"
				f.takes(challenge, "token-2.~+/=")
				d, err := f.upstream().Open(t.Context(), upstream.Account{User: "bob", Tokens: test.tokens})
				if err == nil {
					f.opened = append(f.opened, d)
				}
				wantError(t, "open", err, test.want)
				if len(f.tokens) != test.asked {
					t.Errorf("%d tokens were sent, want %d: %q", len(f.tokens), test.asked, f.tokens)
				}
				if err == nil {
					return
				}
				text := err.Error()
				if strings.Contains(text, "token-") || strings.Contains(text, "do not show") || strings.ContainsAny(text, "\r\n") {
					t.Errorf("an error unfit for a log: %q", text)
				}
				if test.asked > 0 && !strings.Contains(text, "status invalid_token, scope https://mail.example.org/") {
					t.Errorf("%q does not say why", text)
				}
			})
		})
	}
}

func TestRefusedTwice(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps = "IMAP4rev1 SASL-IR AUTH=XOAUTH2"
		f.takes(`{"status":"400"}`)
		_, err := f.upstream().Open(t.Context(), upstream.Account{User: "bob", Tokens: new(counter)})
		wantError(t, "open", err, upstream.ErrAuth)
		if len(f.tokens) != 2 || f.connections != 1 {
			t.Errorf("%d tokens on %d connections, want 2 on 1", len(f.tokens), f.connections)
		}
	})
}

func TestServerTakesNoTokens(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps = "IMAP4rev1 AUTH=PLAIN"
		_, err := f.upstream().Open(t.Context(), upstream.Account{User: "bob", Tokens: new(counter)})
		wantError(t, "open", err, upstream.ErrRejected)
	})
}

// U11: a token ends in the middle of a session. The session goes on with another
// one, and with the numbers that the client has.
func TestFaultU11AccessTokenExpires(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps = "IMAP4rev1 UIDPLUS SASL-IR AUTH=XOAUTH2"
		f.takes(`{"status":"400"}`, "token-1.~+/=")
		tokens := new(counter)
		d := openAndList(t, f.upstream(), upstream.Account{User: "bob", Tokens: tokens})
		f.opened = append(f.opened, d)
		wantWhole(t, d, 0, f.messages[0].raw)
		synctest.Wait()
		f.takes(`{"status":"400"}`, "token-2.~+/=")
		takes := f.fault
		f.fault = func(c *fakeConn, command string) bool {
			if c.n == 1 {
				c.say("* BYE Session invalidated - AccessTokenExpired")
				return drop(c)
			}
			return takes(c, command)
		}
		f.deliver(40)
		wantWhole(t, d, 3, f.messages[3].raw)
		wantWhole(t, d, 0, f.messages[0].raw)
		if !slices.Equal(tokens.refused, []string{"token-1.~+/="}) || f.connections != 2 {
			t.Errorf("refused %q on %d connections", tokens.refused, f.connections)
		}
		if n, err := d.Remove(t.Context(), []int{1}); n != 1 || err != nil {
			t.Errorf("removed %d, %v", n, err)
		}
		if got, want := f.uids(), []uint32{3, 6, 9, 40}; !slices.Equal(got, want) {
			t.Errorf("left %d, want %d", got, want)
		}
	})
}

// A connection that is kept belongs to whoever may have the account's tokens,
// whichever token that is by then.
func TestWarmConnectionOutlivesToken(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps = "IMAP4rev1 UIDPLUS SASL-IR AUTH=XOAUTH2"
		f.takes(`{"status":"400"}`, "token-1.~+/=", "token-2.~+/=", "given")
		f.options.Warm = time.Minute
		u, tokens := f.upstream(), new(counter)
		poll := func(tokens upstream.TokenSource) {
			t.Helper()
			openAndList(t, u, upstream.Account{User: "bob", Tokens: tokens}).Close()
			synctest.Wait()
		}
		poll(tokens)
		tokens.n = 2
		if poll(tokens); f.connections != 1 {
			t.Errorf("%d connections, want 1 for both tokens", f.connections)
		}
		if poll(upstream.GivenToken{Secret: upstream.NewSecret("given")}); f.connections != 2 {
			t.Errorf("%d connections: another token was let in without a look", f.connections)
		}
		d, err := u.Open(t.Context(), upstream.Account{User: "bob", Password: upstream.NewSecret("given")})
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		if f.connections != 3 {
			t.Errorf("%d connections: a password opened what a token had", f.connections)
		}
		time.Sleep(time.Hour)
	})
}
