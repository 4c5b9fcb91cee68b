package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdg-go/scram"

	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// keepers are accounts whose passwords are kept as they are, by their labels.
type keepers struct {
	residents
	texts      map[string]map[string]string // account, label, text
	salt       []byte
	iterations int
	proven     []string // name and label of each
}

func (k *keepers) SCRAM(_ context.Context, name string, _ netip.Addr) (SCRAM, error) {
	s := SCRAM{Salt: k.salt, Iterations: k.iterations}
	if s.Salt == nil {
		sum := sha256.Sum256([]byte(Fold(name)))
		s.Salt = sum[:16]
	}
	for _, t := range k.sorted(name) {
		client, err := scram.SHA256.NewClient("", t.Text.Reveal(), "")
		if err != nil {
			return s, err
		}
		c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(s.Salt), Iters: s.Iterations})
		if err != nil {
			return s, err
		}
		s.Keys = append(s.Keys, SCRAMKey{t.Password, c.StoredKey, c.ServerKey})
	}
	return s, nil
}

func (k *keepers) Texts(_ context.Context, name string, _ netip.Addr) ([]Text, error) {
	return k.sorted(name), nil
}

func (k *keepers) sorted(name string) (all []Text) {
	for label, text := range k.texts[Fold(name)] {
		all = append(all, Text{label, upstream.NewSecret(text)})
	}
	slices.SortFunc(all, func(a, b Text) int { return strings.Compare(a.Password, b.Password) })
	return all
}

func (k *keepers) Proven(_ context.Context, name, password string) (Account, error) {
	k.proven = append(k.proven, name+" "+password)
	a, ok := k.residents[Fold(name)]
	if _, has := k.texts[Fold(name)][password]; !ok || password != "" && !has {
		return Account{}, upstream.ErrAuth
	}
	return a, nil
}

// gateOf is a gate for accounts of these names, each with the passwords "one" and
// "two" under those labels, and nobody else.
func gateOf(names ...string) (*Gate, *keepers) {
	k := &keepers{residents: residents{}, texts: map[string]map[string]string{}, iterations: 4096}
	for _, name := range names {
		there := upstreamtest.NewMemory(name+"@provider.example", "there")
		k.residents[name] = Account{Name: name, Upstream: "one", Opener: there, Login: name + "@provider.example", Password: upstream.NewSecret("there")}
		k.texts[name] = map[string]string{"one": "first secret", "two": "second secret"}
	}
	return New(Options{Locker: state.Off(), Accounts: k}), k
}

// talk carries an exchange through: the client says each of these, nil for no
// initial response. It returns the challenges.
func talk(t *testing.T, x pop3.Exchange, says ...[]byte) (challenges []string, done bool, err error) {
	t.Helper()
	for i, say := range says {
		challenge, over, err := x.Next(t.Context(), say)
		if err != nil || over {
			if over && i < len(says)-1 {
				t.Fatalf("done after %d of %d responses", i+1, len(says))
			}
			return challenges, over, err
		}
		challenges = append(challenges, string(challenge))
	}
	return challenges, false, nil
}

func wantChallenges(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("challenges: got %q, want %q", got, want)
	}
}

// wantLogin opens the maildrop of an exchange that is done and closes it.
func wantLogin(t *testing.T, x pop3.Exchange, account string) {
	t.Helper()
	login, err := x.Login(t.Context())
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	if login.Account != account || x.User() != account || login.Upstream != "one" {
		t.Errorf("login of %q (%q) at %q, want %q at one", login.Account, x.User(), login.Upstream, account)
	}
	login.Close()
}

// The example of RFC 7677 section 3.
func TestSCRAMExample(t *testing.T) {
	g, k := gateOf("user")
	k.salt, _ = base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	k.texts["user"]["three"] = "pencil"
	g.nonce = func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" }
	x := g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home})
	got, done, err := talk(t, x, nil,
		[]byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"),
		[]byte("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
		[]byte{})
	if err != nil || !done {
		t.Fatalf("done %v, %v", done, err)
	}
	wantChallenges(t, got, "",
		"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
		"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
	wantLogin(t, x, "user")
	if want := []string{"user three"}; !slices.Equal(k.proven, want) {
		t.Errorf("proven: got %q, want %q", k.proven, want)
	}
}

// The example of RFC 2195 section 2.
func TestCRAMExample(t *testing.T) {
	g, k := gateOf("tim")
	k.texts["tim"]["three"] = "tanstaaftanstaaf"
	g.nonce = func() string { return "<1896.697170952@postoffice.reston.mci.net>" }
	x := g.Exchange("CRAM-MD5", pop3.Client{Remote: home})
	got, done, err := talk(t, x, nil, []byte("tim b913a602c7eda7a495b4e6e7334d3890"))
	if err != nil || !done {
		t.Fatalf("done %v, %v", done, err)
	}
	wantChallenges(t, got, "<1896.697170952@postoffice.reston.mci.net>")
	wantLogin(t, x, "tim")
}

// The example of RFC 1939 section 7.
func TestAPOPExample(t *testing.T) {
	g, k := gateOf("mrose")
	k.texts["mrose"]["three"] = "tanstaaf"
	x := g.Exchange("APOP", pop3.Client{Remote: home, Timestamp: "<1896.697170952@dbc.mtview.ca.us>"})
	if _, done, err := talk(t, x, []byte("mrose c4c9334bac560ecc979e58001b3e22fb")); err != nil || !done {
		t.Fatalf("done %v, %v", done, err)
	}
	wantLogin(t, x, "mrose")
	if want := []string{"mrose three"}; !slices.Equal(k.proven, want) {
		t.Errorf("proven: got %q, want %q", k.proven, want)
	}
}

// scramAs talks SCRAM like a client of that name and password.
func scramAs(t *testing.T, x pop3.Exchange, user, password, authorize string, binding scram.ChannelBinding) error {
	t.Helper()
	client, err := scram.SHA256.NewClient(user, password, authorize)
	if err != nil {
		t.Fatal(err)
	}
	c := client.NewConversation()
	if binding.IsSupported() {
		c = client.NewConversationWithChannelBinding(binding)
	}
	var challenge []byte
	for {
		response, err := c.Step(string(challenge))
		if err != nil {
			t.Fatalf("the client does not understand %q: %v", challenge, err)
		}
		var done bool
		if challenge, done, err = x.Next(t.Context(), []byte(response)); err != nil || done {
			if err == nil && !c.Valid() {
				t.Error("the client does not believe the server")
			}
			return err
		}
	}
}

func TestSCRAM(t *testing.T) {
	for name, c := range map[string]struct {
		user, password, authorize string
		want                      error
	}{
		"one password":              {"ann", "first secret", "", nil},
		"the other":                 {"ann", "second secret", "", nil},
		"the name in other letters": {"Ann", "first secret", "", nil},
		"for herself":               {"ann", "first secret", "ann", nil},
		"for somebody else":         {"ann", "first secret", "bob", upstream.ErrAuth},
		"a wrong password":          {"ann", "third secret", "", upstream.ErrAuth},
		"another's password":        {"bob", "first secret of ann", "", upstream.ErrAuth},
		"nobody":                    {"eve", "first secret", "", upstream.ErrAuth},
		"a name with , and =":       {"eve,=", "first secret", "", upstream.ErrAuth},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, _ := gateOf("ann", "bob")
				x := g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home})
				began := time.Now()
				err := scramAs(t, x, c.user, c.password, c.authorize, scram.ChannelBinding{})
				if c.want == nil && err == nil {
					wantLogin(t, x, c.user)
					return
				}
				wantErr(t, "SCRAM", err, c.want)
				if took := time.Since(began); took != keysTime+refusalTime {
					t.Errorf("refused after %v, want %v", took, keysTime+refusalTime)
				}
			})
		})
	}
}

// A name that nobody has is answered like any other, and always the same.
func TestSCRAMTellsNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := gateOf("ann")
		g.nonce = func() string { return "server" }
		first := func(name string) string {
			defer func(began time.Time) {
				if took := time.Since(began); took != keysTime {
					t.Errorf("%q: answered after %v, want %v", name, took, keysTime)
				}
			}(time.Now())
			got, _, err := talk(t, g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home}), []byte("n,,n="+name+",r=client"))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return got[0]
		}
		ann, eve := first("ann"), first("eve")
		if len(ann) != len(eve) || !strings.HasPrefix(eve, "r=clientserver,s=") || !strings.HasSuffix(eve, ",i=4096") || ann == eve {
			t.Errorf("ann is answered %q, eve, who is nobody, %q", ann, eve)
		}
		first("\xff\xfe") // which is no UTF-8 (Dovecot's CVE-2019-10691)
		if again := first("EVE"); again != eve {
			t.Errorf("eve is answered %q, then %q", eve, again)
		}
	})
}

// Breaking off costs nothing; what was proved wrong counts like a wrong password,
// and the other way round.
func TestExchangesAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := gateOf("ann")
		wrong := func() (took time.Duration) {
			began := time.Now()
			err := scramAs(t, g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home}), "ann", "wrong", "", scram.ChannelBinding{})
			wantErr(t, "a wrong password", err, upstream.ErrAuth)
			return time.Since(began)
		}
		for range 10 {
			talk(t, g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home}), []byte("n,,n=ann,r=x"))
		}
		if got, want := wrong(), keysTime+refusalTime; got != want {
			t.Errorf("the first: refused after %v, want %v", got, want)
		}
		if got, want := wrong(), keysTime+firstDelay+refusalTime; got != want {
			t.Errorf("the second: refused after %v, want %v", got, want)
		}
		if got, err := try(t, g, with("ann", "guess")); got != 2*firstDelay+refusalTime {
			t.Errorf("a password after that: refused after %v (%v), want %v", got, err, 2*firstDelay+refusalTime)
		}
		began := time.Now()
		x := g.Exchange("CRAM-MD5", pop3.Client{Remote: home})
		_, _, err := talk(t, x, nil, []byte("ann 00000000000000000000000000000000"))
		wantErr(t, "CRAM-MD5", err, upstream.ErrAuth)
		if got, want := time.Since(began), 4*firstDelay+refusalTime; got != want {
			t.Errorf("CRAM-MD5 after that: refused after %v, want %v", got, want)
		}
	})
}

// In one exchange there is one attempt.
func TestExchangeEndsWithItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := gateOf("ann")
		x := g.Exchange("CRAM-MD5", pop3.Client{Remote: home})
		guess := []byte("ann 00000000000000000000000000000000")
		_, _, err := talk(t, x, nil, guess)
		wantErr(t, "the first guess", err, upstream.ErrAuth)
		if _, done, err := x.Next(t.Context(), guess); err == nil || done {
			t.Errorf("the second guess: done %v, %v; want an error", done, err)
		}
	})
}

func TestMalformedExchanges(t *testing.T) {
	for _, c := range []struct {
		mechanism string
		says      [][]byte
	}{
		{"SCRAM-SHA-256", [][]byte{{}}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=ann")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,m=ext,n=ann,r=x")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=,r=x")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=a=2,r=x")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=ann\x00,r=x")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=" + strings.Repeat("a", 256) + ",r=x")}},
		{"SCRAM-SHA-256", [][]byte{[]byte("n,,n=ann,r=" + strings.Repeat("x", maxFirstOctets))}},
		{"SCRAM-SHA-256", [][]byte{[]byte("p=tls-exporter,,n=ann,r=x")}},
		{"SCRAM-SHA-256-PLUS", [][]byte{[]byte("n,,n=ann,r=x")}},
		{"CRAM-MD5", [][]byte{{}}},
		{"CRAM-MD5", [][]byte{nil, {}}},
		{"CRAM-MD5", [][]byte{nil, []byte("ann")}},
		{"CRAM-MD5", [][]byte{nil, []byte("ann 00")}},
		{"CRAM-MD5", [][]byte{nil, []byte(" 00000000000000000000000000000000")}},
		{"APOP", [][]byte{[]byte("ann 0000000000000000000000000000000g")}},
	} {
		g, _ := gateOf("ann")
		_, done, err := talk(t, g.Exchange(c.mechanism, pop3.Client{Remote: home, Timestamp: "<1@postern>"}), c.says...)
		if err != pop3.ErrMalformed || done {
			t.Errorf("%s %q: done %v, %v; want %v", c.mechanism, c.says, done, err, pop3.ErrMalformed)
		}
	}
}

// Without a timestamp, what APOP digests would be the same every time.
func TestAPOPNeedsATimestamp(t *testing.T) {
	g, k := gateOf("ann")
	k.texts["ann"] = map[string]string{"one": "tanstaaf"}
	sum := md5.Sum([]byte("tanstaaf"))
	x := g.Exchange("APOP", pop3.Client{Remote: home})
	if _, done, err := talk(t, x, fmt.Appendf(nil, "ann %x", sum)); err == nil || done {
		t.Errorf("done %v, %v; want an error", done, err)
	}
}

// Accounts that keep nonsense do not let anybody in, and blame nobody for it.
func TestSCRAMIterationsAreBounded(t *testing.T) {
	for _, n := range []int{0, 4095, 100_001, 1 << 31} {
		g, k := gateOf("ann")
		k.iterations = n
		k.texts = nil // deriving keys would take long
		_, _, err := talk(t, g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home}), []byte("n,,n=ann,r=x"))
		if kind := upstream.Kind(err); kind != "unavailable" {
			t.Errorf("%d iterations: got %v, want it unavailable", n, err)
		}
	}
}

// A password that was taken away while its client proved it is a wrong one.
func TestPasswordTakenAwayInAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := gateOf("ann")
		x := g.Exchange("SCRAM-SHA-256", pop3.Client{Remote: home})
		if err := scramAs(t, x, "ann", "first secret", "", scram.ChannelBinding{}); err != nil {
			t.Fatal(err)
		}
		delete(k.texts["ann"], "one")
		began := time.Now()
		_, err := x.Login(t.Context())
		wantErr(t, "login", err, upstream.ErrAuth)
		if took := time.Since(began); took != refusalTime {
			t.Errorf("refused after %v, want %v", took, refusalTime)
		}
	})
}

// states connects two ends with TLS and returns what each knows of it.
func states(t *testing.T, version uint16) (server, client tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	s := tls.Server(here, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true})
	c := tls.Client(there, &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
	ended := make(chan error)
	go func() { ended <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return s.ConnectionState(), c.ConnectionState()
}

// SCRAM-SHA-256-PLUS is bound to the connection that the client is on: somebody in
// between gets nowhere. RFC 5802 section 6, RFC 9266.
func TestSCRAMPlus(t *testing.T) {
	server, client := states(t, tls.VersionTLS13)
	elsewhere, _ := states(t, tls.VersionTLS13)
	bound := func(s tls.ConnectionState) scram.ChannelBinding { return exporter(&s) }
	synctest.Test(t, func(t *testing.T) {
		g, _ := gateOf("ann")
		here := pop3.Client{Remote: home, TLS: &server}
		x := g.Exchange("SCRAM-SHA-256-PLUS", here)
		if err := scramAs(t, x, "ann", "first secret", "", bound(client)); err != nil {
			t.Fatalf("on the client's own connection: %v", err)
		}
		wantLogin(t, x, "ann")
		x = g.Exchange("SCRAM-SHA-256-PLUS", here)
		wantErr(t, "bound to another connection", scramAs(t, x, "ann", "first secret", "", bound(elsewhere)), upstream.ErrAuth)
		x = g.Exchange("SCRAM-SHA-256", here)
		wantErr(t, "a client that could, but was not offered it", func() error {
			_, _, err := talk(t, x, []byte("y,,n=ann,r=x"))
			return err
		}(), pop3.ErrMalformed)
	})
}

func TestMechanisms(t *testing.T) {
	with13, _ := states(t, tls.VersionTLS13)
	with12, _ := states(t, tls.VersionTLS12)
	certificate := with12
	certificate.VerifiedChains = [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: "ann"}}}}
	unverified := with12
	unverified.PeerCertificates = certificate.VerifiedChains[0]
	nameless := with12
	nameless.VerifiedChains = [][]*x509.Certificate{{{}}}
	accounts := &keepers{}
	const always = "SCRAM-SHA-256 CRAM-MD5 APOP"
	for name, c := range map[string]struct {
		accounts Accounts
		tls      *tls.ConnectionState
		want     string
	}{
		"no accounts":                 {nil, &certificate, ""},
		"no TLS":                      {accounts, nil, always},
		"TLS 1.2":                     {accounts, &with12, always},
		"TLS 1.3":                     {accounts, &with13, "SCRAM-SHA-256-PLUS " + always},
		"a certificate":               {accounts, &certificate, always + " EXTERNAL"},
		"a certificate not verified":  {accounts, &unverified, always},
		"a certificate without names": {accounts, &nameless, always},
	} {
		g := New(Options{Locker: state.Off(), Accounts: c.accounts})
		if got := strings.Join(g.Mechanisms(pop3.Client{TLS: c.tls}), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestExternal(t *testing.T) {
	cn := func(name string, mails ...string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, EmailAddresses: mails}
	}
	for name, c := range map[string]struct {
		certificate *x509.Certificate // nil: none
		says, user  string            // user "": refused
	}{
		"common name":                       {cn("ann"), "", "ann"},
		"common name, said as well":         {cn("ann"), "ann", "ann"},
		"common name, in other letters":     {cn("ann"), "ANN", "ANN"},
		"somebody else":                     {cn("ann"), "bob", ""},
		"mail address":                      {cn("", "ann@example.org"), "", "ann@example.org"},
		"mail address before common name":   {cn("bob", "ann@example.org"), "", "ann@example.org"},
		"common name beside mail address":   {cn("bob", "ann@example.org"), "bob", ""},
		"several, one chosen":               {cn("", "eve@example.org", "ann@example.org"), "ann@example.org", "ann@example.org"},
		"several, none chosen":              {cn("", "ann@example.org", "eve@example.org"), "", ""},
		"nobody's account":                  {cn("eve"), "", ""},
		"no name":                           {cn(""), "", ""},
		"no name, one said":                 {cn(""), "ann", ""},
		"no certificate":                    {nil, "ann", ""},
		"control characters":                {cn("ann\n"), "", ""},
		"a NUL, and what would be the name": {cn("ann\x00@example.org"), "ann", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, k := gateOf("ann", "bob", "ann@example.org")
				client := pop3.Client{Remote: home}
				if c.certificate != nil {
					client.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c.certificate}}}
				}
				x := g.Exchange("EXTERNAL", client)
				began := time.Now()
				challenges, done, err := talk(t, x, nil, []byte(c.says))
				wantChallenges(t, challenges, "")
				if done && err == nil && c.user == "" {
					_, err = x.Login(t.Context())
				}
				if c.user == "" {
					wantErr(t, "login", err, upstream.ErrAuth)
					if took := time.Since(began); took != refusalTime {
						t.Errorf("refused after %v, want %v", took, refusalTime)
					}
					return
				}
				if err != nil || !done {
					t.Fatalf("done %v, %v", done, err)
				}
				wantLogin(t, x, c.user)
				if want := []string{c.user + " "}; !slices.Equal(k.proven, want) {
					t.Errorf("proven: got %q, want %q", k.proven, want)
				}
			})
		})
	}
}

// An exchange holds the maildrop like a password does.
func TestExchangeHoldsTheMaildrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := gateOf("ann")
		certificate := &x509.Certificate{Subject: pkix.Name{CommonName: "ann"}}
		client := pop3.Client{Remote: home, TLS: &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{certificate}}}}
		in := func() (pop3.Login, error) {
			x := g.Exchange("EXTERNAL", client)
			if _, _, err := talk(t, x, []byte{}); err != nil {
				t.Fatal(err)
			}
			return x.Login(t.Context())
		}
		first, err := in()
		if err != nil {
			t.Fatal(err)
		}
		_, err = in()
		wantErr(t, "a second session", err, upstream.ErrBusy)
		first.Close()
		second, err := in()
		if err != nil {
			t.Fatalf("after the first has ended: %v", err)
		}
		second.Close()
	})
}

// A client's own token goes where a route leads, and to no account's upstream.
func TestTokensArePassedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []upstream.Account
		up := opener(func(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
			seen = append(seen, a)
			token, err := a.Tokens.Token(ctx, upstream.Secret{})
			if err != nil || token.Reveal() != "good" {
				return nil, upstream.ErrAuth
			}
			return upstreamtest.NewMemory(a.User, "").Open(ctx, upstream.Account{User: a.User})
		})
		_, k := gateOf("ann")
		g := New(Options{Locker: state.Off(), Accounts: k, Routes: []Route{{User: "*", Upstream: "one", Opener: up}}})
		bearing := func(user, token string) pop3.Credentials {
			return pop3.Credentials{User: user, Token: upstream.NewSecret(token), Mechanism: "XOAUTH2", Remote: home}
		}
		if _, err := try(t, g, bearing("bob", "good")); err != nil {
			t.Errorf("a good token: %v", err)
		}
		if _, err := try(t, g, bearing("bob", "good"+strings.Repeat("x", 9000))); err == nil || len(seen) != 1 {
			t.Errorf("a token of 9 KB: %v, the upstream asked %d times, want a refusal without asking", err, len(seen))
		}
		took, err := try(t, g, bearing("bob", strings.Repeat("x", 4000)))
		wantErr(t, "a bad token", err, upstream.ErrAuth)
		if want := firstDelay + refusalTime; took != want || len(seen) != 2 {
			t.Errorf("refused after %v, the upstream asked %d times, want %v and 2", took, len(seen), want)
		}
		_, err = try(t, g, bearing("ann", "good"))
		wantErr(t, "a token for an account", err, upstream.ErrAuth)
		if len(seen) != 2 {
			t.Errorf("the upstream asked %d times, want 2: a token is nothing to an account", len(seen))
		}
	})
}

// FuzzExchange lets a client that knows no secret say anything in any mechanism:
// it never gets in, and what it is asked stays small.
func FuzzExchange(f *testing.F) {
	mechanisms := []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5", "APOP", "EXTERNAL"}
	for i, says := range []string{
		"n,,n=ann,r=x\nc=biws,r=x,p=AAAA", "p=tls-exporter,,n=ann,r=x", "\nann 00000000000000000000000000000000",
		"ann 00000000000000000000000000000000", "ann", "n,a=bob,n=ann,r=\xff\nc=,r=,p=", "y,,n==2C=3D,r=,ext=x",
	} {
		f.Add(i%len(mechanisms), []byte(says))
	}
	f.Fuzz(func(t *testing.T, mechanism int, says []byte) {
		g, _ := gateOf("ann")
		x := g.Exchange(mechanisms[uint(mechanism)%uint(len(mechanisms))], pop3.Client{Remote: home, Timestamp: "<1@postern>"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that no refusal takes its time
		var response []byte
		for line := range strings.SplitSeq(string(says), "\n") {
			challenge, done, err := x.Next(ctx, response)
			if done {
				t.Fatalf("%q proved something", says)
			}
			if len(challenge) > len(response)+200 {
				t.Errorf("asked with %d octets after a response of %d", len(challenge), len(response))
			}
			if err != nil {
				return
			}
			response = []byte(line)
		}
	})
}
