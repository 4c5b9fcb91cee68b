package pop3

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// testToken is an access token of the test user's; from RFC 6750 section 2.1.
const testToken = "mF_9.B5f-4.1JqM"

// A part of an exchange: what the client sends, and what it is asked then.
type part struct{ response, challenge string }

// examples are the exchanges of the standards, up to where the client has proved
// who it is. Their arithmetic is package auth's.
var examples = map[string][]part{
	"SCRAM-SHA-256": { // RFC 7677 section 3
		{"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"},
		{"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
		{"", ""},
	},
	"CRAM-MD5": { // RFC 2195 section 2
		{"", "<1896.697170952@postoffice.reston.mci.net>"},
		{"tim b913a602c7eda7a495b4e6e7334d3890", ""},
	},
	"APOP":     {{"mrose c4c9334bac560ecc979e58001b3e22fb", ""}}, // RFC 1939 section 7
	"EXTERNAL": {{"", ""}},                                       // RFC 4422 appendix A
}

// An exchanger offers mechanisms beside a gateway, in which each client says
// what an example has it say.
type exchanger struct {
	*gateway
	offers []string
}

func (e exchanger) Mechanisms(c Client) []string { return slices.Clone(e.offers) }

func (e exchanger) Exchange(mechanism string, c Client) Exchange {
	return &example{gateway: e.gateway, first: true, rest: examples[mechanism]}
}

type example struct {
	gateway *gateway
	first   bool
	rest    []part
}

func (x *example) Next(_ context.Context, response []byte) ([]byte, bool, error) {
	now := x.rest[0]
	first := x.first
	x.first = false
	switch {
	case response == nil && first && (now.response != "" || now.challenge == ""):
		return nil, false, nil // the client goes first
	case string(response) == now.response:
		x.rest = x.rest[1:]
		return []byte(now.challenge), len(x.rest) == 0, nil
	case strings.Contains(string(response), "malformed"):
		return nil, false, ErrMalformed
	}
	return nil, false, upstream.ErrAuth
}

func (x *example) Login(ctx context.Context) (Login, error) {
	return x.gateway.Authenticate(ctx, Credentials{User: testUser, Password: upstream.NewSecret(testPassword)})
}

func (x *example) User() string { return testUser }

// offer makes mechanisms possible that need an Exchanger.
func (g *gateway) offer(mechanisms ...string) {
	g.Authenticator = exchanger{g, mechanisms}
	g.timestamp = func() string { return "<1896.697170952@dbc.mtview.ca.us>" } // RFC 1939 section 7
}

// everyMechanism is what a listener may name.
var everyMechanism = []string{"USER", "APOP", "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER",
	"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5", "EXTERNAL"}

// TestUnansweredChallenge: the time to log in does not stop for an exchange.
func TestUnansweredChallenge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway()
		g.Mechanisms = everyMechanism
		g.offer("SCRAM-SHA-256")
		began := time.Now()
		c := g.dial(t.Context(), t)
		c.hear("+OK POP3 server ready")
		c.ask("AUTH SCRAM-SHA-256 "+base64.StdEncoding.EncodeToString([]byte(examples["SCRAM-SHA-256"][0].response)),
			"+ "+base64.StdEncoding.EncodeToString([]byte(examples["SCRAM-SHA-256"][0].challenge)))
		c.closed()
		if got, want := time.Since(began), time.Minute; got != want {
			t.Errorf("closed after %v, want %v", got, want)
		}
	})
}

// TestDrainInAnExchange: a client that is to answer a challenge is told.
func TestDrainInAnExchange(t *testing.T) {
	g := newGateway()
	g.Mechanisms = everyMechanism
	draining := make(chan struct{})
	g.Draining = draining
	g.offer("CRAM-MD5")
	c := g.dial(t.Context(), t)
	c.hear("+OK POP3 server ready")
	c.ask("AUTH CRAM-MD5", "+ "+base64.StdEncoding.EncodeToString([]byte(examples["CRAM-MD5"][0].challenge)))
	close(draining)
	c.hear("-ERR [SYS/TEMP] shutting down")
	c.closed()
}

// TestOtherSecretsAreNotLogged: tokens, digests and responses neither, at any level.
func TestOtherSecretsAreNotLogged(t *testing.T) {
	g := newGateway(threeMessages...)
	g.Limits.Attempts = 100
	g.Mechanisms = everyMechanism
	g.offer("SCRAM-SHA-256", "CRAM-MD5", "EXTERNAL", "APOP")
	c := g.dial(t.Context(), t)
	c.hear("+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>")
	base64ed := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	token := func(text string) string { return base64ed("user=bob\x01auth=Bearer " + text + "\x01\x01") }
	c.ask("AUTH XOAUTH2 "+token("canary-1"), "+ "+base64ed(xoauth2Refused))
	c.ask("canary-2", "-ERR [AUTH] wrong user name or password")
	c.ask("AUTH OAUTHBEARER "+base64ed("n,a=bob,\x01auth=Bearer canary-3\x01\x01"), "+ "+base64ed(oauthBearerRefused))
	c.ask(base64ed("canary-4"), "-ERR [AUTH] wrong user name or password")
	c.ask("AUTH XOAUTH2 "+base64ed("canary-5"), "-ERR XOAUTH2 message malformed")
	c.ask("AUTH OAUTHBEARER "+base64ed("canary-6"), "-ERR OAUTHBEARER message malformed")
	c.ask("AUTH SCRAM-SHA-256 "+base64ed("canary-7"), "-ERR [AUTH] wrong user name or password")
	c.ask("AUTH SCRAM-SHA-256 "+base64ed("malformed canary-8"), "-ERR response malformed")
	c.ask("APOP bob canary-9", "-ERR [AUTH] wrong user name or password")
	c.ask("APOP malformed canary-10", "-ERR response malformed")
	c.ask("AUTH XOAUTH2 "+token(testToken), "+OK maildrop has 3 messages (95 octets)")
	c.ask("APOP bob canary-11", "-ERR already logged in")
	c.ask("QUIT", "+OK bye")
	c.closed()
	log := g.log.String()
	for _, secret := range []string{"canary", testToken, base64ed("canary"), base64ed("malformed"), "dXNlcj1ib2", base64ed("n,a=bob,")[:8]} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
	for _, want := range []string{"reason=auth mechanism=XOAUTH2", "reason=auth mechanism=SCRAM-SHA-256", "reason=auth mechanism=APOP", "mechanism=XOAUTH2 tls=off account=bob"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Count(log, `msg="login refused"`) != 4 {
		t.Errorf("the log does not tell of 4 refused logins:\n%s", log)
	}
}

// FuzzSASL lets a stranger say anything. Each of the replies is a line, nobody
// gets in without credentials, and a session beside it logs in as ever: in
// CVE-2025-59028, one client's bad base64 ended the logins of all.
func FuzzSASL(f *testing.F) {
	for _, file := range transcripts(f) {
		var all string
		for _, s := range readTranscript(f, file) {
			if s.kind == "C" {
				all += s.text
			}
		}
		if strings.Contains(all, "AUTH") {
			f.Add([]byte(all))
		}
	}
	for _, m := range everyMechanism {
		f.Add([]byte("AUTH " + m + "\r\n\x00\xff====\r\nAUTH " + m + " " + strings.Repeat("QUJD", 100) + "\r\n*\r\n"))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		g := newGateway(threeMessages...)
		g.Log = slog.New(slog.DiscardHandler)
		g.Limits.Errors, g.Limits.Attempts = 1<<30, 1<<30
		g.Mechanisms = everyMechanism
		g.offer("SCRAM-SHA-256", "CRAM-MD5", "EXTERNAL", "APOP")
		var got bytes.Buffer
		g.Serve(t.Context(), scriptConn{bytes.NewReader(sent), &got})
		for line := range strings.Lines(got.String()) {
			if !strings.HasSuffix(line, "\r\n") || strings.ContainsAny(line[:len(line)-2], "\x00\r\n") {
				t.Errorf("sent the line %q, want one CRLF, at its end", line)
			}
		}
		if strings.Contains(got.String(), "+OK maildrop") && len(g.tried) == 0 {
			t.Errorf("let somebody in who proved nothing:\n%s", got.String())
		}
		if reason := g.summary(t).Reason; reason != "quit" && reason != "disconnect" && reason != "errors" {
			t.Errorf("ended by %q, want quit, disconnect or errors", reason)
		}
		got.Reset()
		login := strings.NewReader("AUTH PLAIN AGJvYgBjb3JyZWN0IGhvcnNlIGJhdHRlcnkgc3RhcGxl\r\nQUIT\r\n")
		g.Serve(t.Context(), scriptConn{io.Reader(login), &got})
		if !strings.Contains(got.String(), "+OK maildrop has ") {
			t.Errorf("the next session: got %q, want it logged in", got.String())
		}
		g.allClosed(t)
	})
}
