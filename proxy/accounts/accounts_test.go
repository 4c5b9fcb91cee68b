package accounts

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/alexedwards/argon2id"
	"go.uber.org/goleak"

	"postern/proxy/auth"
	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is a state with a vault, a book and a registrar.
type site struct {
	*Book
	*Registrar
	store   state.Store
	vault   *vault.Vault
	checked []string
}

func newSite(t testing.TB, configured ...Configured) *site {
	t.Helper()
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	ring, err := vault.ParseKeyring([]byte(vault.NewKey()))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{store: store}
	if s.vault, err = vault.Open(t.Context(), store, func() (*vault.Keyring, error) { return ring, nil }); err != nil {
		t.Fatal(err)
	}
	s.Book, err = New(t.Context(), Options{Configured: configured, Store: store, Vault: s.vault,
		Opener:  func(account, up string) upstream.Opener { return openers[up] },
		Tokens:  func(account, login, up string) upstream.TokenSource { return tokens[up] },
		Checked: func(result string) { s.checked = append(s.checked, result) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Book.Close)
	if s.Registrar, err = NewRegistrar(t.Context(), store, s.vault); err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	openers = map[string]upstream.Opener{"office": upstreamtest.NewMemory("x", "x"), "fast": upstreamtest.NewMemory("y", "y")}
	tokens  = map[string]upstream.TokenSource{"fast": upstream.GivenToken{Secret: upstream.NewSecret("token")}}
)

// add makes an account at the office whose upstream password is "there".
func (s *site) add(t testing.TB, name string, w *Wanted) upstream.Secret {
	t.Helper()
	text, err := s.Add(t.Context(), NewAccount{Name: name, Upstream: "office", Credential: Password, Secret: upstream.NewSecret("there")}, w)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func with(user, password string) pop3.Credentials {
	return pop3.Credentials{User: user, Password: upstream.NewSecret(password), Remote: netip.MustParseAddrPort("192.0.2.1:50000")}
}

func from(addr string, c pop3.Credentials) pop3.Credentials {
	c.Remote = netip.AddrPortFrom(netip.MustParseAddr(addr), 50000)
	return c
}

func (s *site) wantIn(t *testing.T, what string, c pop3.Credentials) auth.Account {
	t.Helper()
	a, err := s.Check(t.Context(), c)
	if err != nil {
		t.Errorf("%s: got error %v, want none", what, err)
	}
	return a
}

func (s *site) wantOut(t *testing.T, what string, c pop3.Credentials, want error) {
	t.Helper()
	if a, err := s.Check(t.Context(), c); !errors.Is(err, want) {
		t.Errorf("%s: got %+v and error %v, want %v", what, a, err, want)
	}
}

func TestGeneratedPassword(t *testing.T) {
	s := newSite(t)
	text := s.add(t, "Scanner@Example.org", &Wanted{Label: "hall"})
	a := s.wantIn(t, "as it is", with("scanner@example.org", text.Reveal()))
	if a.Name != "scanner@example.org" || a.Login != "scanner@example.org" || a.Upstream != "office" || a.Password.Reveal() != "there" || a.Opener != openers["office"] {
		t.Errorf("account %+v (%q), want the scanner's at the office", a, a.Password.Reveal())
	}
	for what, typed := range map[string]string{
		"in groups":    Groups(text),
		"with hyphens": strings.ReplaceAll(Groups(text), " ", "-"),
		"in capitals":  strings.ToUpper(text.Reveal()),
	} {
		s.wantIn(t, what, with("SCANNER@example.org", typed))
	}
	for what, wrong := range map[string]string{
		"cut": text.Reveal()[:27], "longer": text.Reveal() + "a", "none": "", "blank": "    ", "another": s.Book.keys.generate().Reveal(), "the upstream's": "there",
	} {
		s.wantOut(t, what, with("scanner@example.org", wrong), upstream.ErrAuth)
	}
	s.wantOut(t, "nobody", with("nobody", "guess"), auth.ErrUnknown)
	if want := []string{Generated, Generated, Generated, Generated}; !slices.Equal(s.checked[:4], want) || s.checked[4] != wrongPassword {
		t.Errorf("told of %q, want %q and then %s", s.checked, want, wrongPassword)
	}
}

// Every letter is as likely as any other, and none can be mistaken.
func TestGeneratedPasswordsAreRandom(t *testing.T) {
	k := keys{make([]byte, 32)}
	if bits := randomLength * math.Log2(float64(len(alphabet))); bits < 128 {
		t.Errorf("a password has %.0f bits, want at least 128", bits)
	}
	if strings.ContainsAny(alphabet, "0O1lIio") {
		t.Errorf("%s has letters that look alike", alphabet)
	}
	count := map[rune]int{}
	seen := map[string]bool{}
	const n = 2000
	for range n {
		text := k.generate().Reveal()
		if len(text) != generatedLength || seen[text] {
			t.Fatalf("%d letters, seen before: %v", len(text), seen[text])
		}
		seen[text] = true
		for _, c := range text {
			count[c]++
		}
	}
	mean := float64(n*generatedLength) / float64(len(alphabet))
	for _, c := range alphabet {
		if off := math.Abs(float64(count[c])-mean) / math.Sqrt(mean); off > 6 {
			t.Errorf("%c came %d times, want about %.0f: %.1f deviations off", c, count[c], mean, off)
		}
	}
	if len(count) != len(alphabet) {
		t.Errorf("%d different letters, want %d", len(count), len(alphabet))
	}
}

// A device goes on with the password of an account that was removed, or has a slip
// in its name. That password is for postern alone: a route that takes everybody
// must not hand it on.
func TestGeneratedPasswordGoesNoFurther(t *testing.T) {
	s := newSite(t)
	text := s.add(t, "hall", &Wanted{Label: "hall"})
	if err := s.store.RemoveAccount(t.Context(), "hall"); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]pop3.Credentials{
		"account removed": with("hall", text.Reveal()), "in groups": with("hall", Groups(text)), "a slip": with("hal", strings.ToUpper(text.Reveal())),
	} {
		s.wantOut(t, what, c, upstream.ErrAuth)
	}
	other := keys{slices.Repeat([]byte{1}, 32)}.generate().Reveal()
	for other[randomLength:] == s.Book.keys.hallmark(other[:randomLength]) { // one in a thousand
		other = keys{slices.Repeat([]byte{1}, 32)}.generate().Reveal()
	}
	for what, password := range map[string]string{
		"another's": "correct horse battery", "cut": text.Reveal()[:27], "longer": text.Reveal() + "a", "generated elsewhere": other,
	} {
		s.wantOut(t, what, with("hall", password), auth.ErrUnknown)
	}
}

func TestSeveralPasswords(t *testing.T) {
	s := newSite(t)
	hall := s.add(t, "scanner", &Wanted{Label: "hall", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}})
	desk, err := s.AddPassword(t.Context(), "SCANNER", Wanted{Label: "desk"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.AddPassword(t.Context(), "scanner", Wanted{Label: "desk"})
	if !errors.Is(err, state.ErrExists) {
		t.Errorf("the same label: %v, want ErrExists", err)
	}
	s.wantIn(t, "desk", with("scanner", desk.Reveal()))
	for _, addr := range []string{"192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1%eth0"} {
		s.wantIn(t, "hall from "+addr, from(addr, with("scanner", hall.Reveal())))
	}
	s.wantOut(t, "hall from elsewhere", from("198.51.100.1", with("scanner", hall.Reveal())), upstream.ErrAuth)
	s.wantIn(t, "desk from elsewhere", from("198.51.100.1", with("scanner", desk.Reveal())))
	if err := s.store.RemoveClientPassword(t.Context(), "scanner", "desk"); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "desk, removed", with("scanner", desk.Reveal()), upstream.ErrAuth)
	s.wantIn(t, "hall", with("scanner", hall.Reveal()))
}

func TestChosenPassword(t *testing.T) {
	s := newSite(t)
	const text = "correct horse battery"
	generated := s.add(t, "ann", &Wanted{Label: "phone"})
	if _, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "head", Chosen: upstream.NewSecret(text)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.wantIn(t, "chosen", with("ann", text))
	}
	if n := len(s.hasher.known); n != 1 {
		t.Errorf("%d passwords known, want the one that was good", n)
	}
	for what, wrong := range map[string]string{"capitals": "Correct Horse Battery", "without spaces": "correcthorsebattery"} {
		s.wantOut(t, what, with("ann", wrong), upstream.ErrAuth)
	}
	s.wantIn(t, "generated beside it", with("ann", generated.Reveal()))
	for what, w := range map[string]Wanted{
		"second chosen":     {Label: "other", Chosen: upstream.NewSecret("another good one")},
		"short":             {Label: "head", Chosen: upstream.NewSecret("short")},
		"long":              {Label: "head", Chosen: upstream.NewSecret(strings.Repeat("x", 256))},
		"control character": {Label: "head", Chosen: upstream.NewSecret("correct\thorse\tbattery")},
		"kept as it is":     {Label: "head", Chosen: upstream.NewSecret(text), KeepText: true},
		"without a label":   {Chosen: upstream.NewSecret(text)},
		"label with a line": {Label: "a\nb"},
		"label too long":    {Label: strings.Repeat("x", 65)},
	} {
		if _, err := s.AddPassword(t.Context(), "ann", w); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// What is known to be good is not known any more once the password is another.
func TestChosenPasswordIsForgottenWhenChanged(t *testing.T) {
	s := newSite(t)
	s.add(t, "ann", &Wanted{Label: "head", Chosen: upstream.NewSecret("the first password")})
	s.wantIn(t, "first", with("ann", "the first password"))
	if err := s.store.RemoveClientPassword(t.Context(), "ann", "head"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "head", Chosen: upstream.NewSecret("the second password")}); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "first, after the change", with("ann", "the first password"), upstream.ErrAuth)
	s.wantIn(t, "second", with("ann", "the second password"))
}

func TestConfiguredAccounts(t *testing.T) {
	hash, err := argon2id.CreateHash("hashed password", &argon2id.Params{Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32})
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t,
		Configured{Name: "Ann@Example.org", Upstream: "office", Login: "{local}@provider.example", Credential: Password, Secret: upstream.NewSecret("upstream"),
			Password: upstream.NewSecret("As It Is"), Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		Configured{Name: "bob", Upstream: "fast", Credential: OAuth, Hash: hash},
		Configured{Name: "lost", Upstream: "gone", Credential: Password, Password: upstream.NewSecret("pw")},
		Configured{Name: "none", Upstream: "office", Credential: OAuth, Password: upstream.NewSecret("pw")},
	)
	a := s.wantIn(t, "ann", with("ANN@example.org", "As It Is"))
	if a.Login != "ann@provider.example" || a.Password.Reveal() != "upstream" || a.Tokens != nil {
		t.Errorf("account %+v, want ann's at the provider", a)
	}
	s.wantOut(t, "other capitals", with("ann@example.org", "as it is"), upstream.ErrAuth)
	s.wantOut(t, "elsewhere", from("198.51.100.1", with("ann@example.org", "As It Is")), upstream.ErrAuth)
	b := s.wantIn(t, "bob", with("bob", "hashed password"))
	if b.Tokens != tokens["fast"] || b.Password != (upstream.Secret{}) || b.Login != "bob" {
		t.Errorf("account %+v, want bob's with tokens", b)
	}
	s.wantOut(t, "wrong password", with("bob", "unhashed"), upstream.ErrAuth)
	s.wantOut(t, "an upstream that is not there", with("lost", "pw"), upstream.ErrRejected)
	s.wantOut(t, "an upstream without tokens", with("none", "pw"), upstream.ErrRejected)

	// The configuration has the last word on a name.
	s.add(t, "bob", &Wanted{Label: "x", Chosen: upstream.NewSecret("bob of the state")})
	s.wantOut(t, "the state's account of that name", with("bob", "bob of the state"), upstream.ErrAuth)
}

func TestDisabledAccount(t *testing.T) {
	s := newSite(t)
	text := s.add(t, "ann", &Wanted{Label: "phone", KeepText: true})
	a, err := s.store.Account(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	a.Disabled = true
	if err := s.store.SetAccount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "password", with("ann", text.Reveal()), upstream.ErrAuth)
	if keys, err := s.SCRAM(t.Context(), "ann", netip.MustParseAddr("192.0.2.1")); err != nil || len(keys.Keys) != 0 {
		t.Errorf("keys %+v, %v; want none", keys, err)
	}
	if texts, err := s.Texts(t.Context(), "ann", netip.MustParseAddr("192.0.2.1")); err != nil || len(texts) != 0 {
		t.Errorf("texts %+v, %v; want none", texts, err)
	}
	if _, err := s.Proven(t.Context(), "ann", "phone"); !errors.Is(err, upstream.ErrAuth) {
		t.Errorf("proven: %v, want ErrAuth", err)
	}
}

func TestUpstreamCredential(t *testing.T) {
	s := newSite(t)
	text := s.add(t, "ann", &Wanted{Label: "phone"})
	if err := s.SetCredential(t.Context(), "Ann", upstream.NewSecret("renewed")); err != nil {
		t.Fatal(err)
	}
	if a := s.wantIn(t, "renewed", with("ann", text.Reveal())); a.Password.Reveal() != "renewed" {
		t.Errorf("upstream password %q, want the renewed one", a.Password.Reveal())
	}
	if err := s.vault.Remove(t.Context(), UpstreamPassword("ann")); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "without one", with("ann", text.Reveal()), upstream.ErrRejected)
	damaged := state.Sealed{Name: UpstreamPassword("ann"), Version: 1, Key: "x", Data: []byte("x")}
	if err := s.store.SaveSecret(t.Context(), 0, damaged); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "under a lost key", with("ann", text.Reveal()), upstream.ErrRejected)
	if err := s.SetCredential(t.Context(), "nobody", upstream.NewSecret("x")); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("of nobody: %v, want ErrNotFound", err)
	}
	if _, err := s.Add(t.Context(), NewAccount{Name: "tom", Upstream: "fast", Credential: OAuth}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetCredential(t.Context(), "tom", upstream.NewSecret("x")); err == nil {
		t.Error("a password for an account with tokens: no error")
	}
}

// SCRAM gets what RFC 5802 has a server keep, of every password that is good at
// the client's address, and something like it for a name that nobody has.
func TestSCRAMKeys(t *testing.T) {
	s := newSite(t, Configured{Name: "carl", Upstream: "office", Password: upstream.NewSecret("As It Is")})
	hall := s.add(t, "ann", &Wanted{Label: "hall", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	desk, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "desk"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "head", Chosen: upstream.NewSecret("correct horse")}); err != nil {
		t.Fatal(err)
	}
	keysOf := func(name, addr string) auth.SCRAM {
		t.Helper()
		k, err := s.SCRAM(t.Context(), name, netip.MustParseAddr(addr))
		if err != nil || len(k.Salt) != 16 || k.Iterations < 4096 {
			t.Fatalf("%+v, %v; want a salt of 16 octets and at least 4096 iterations", k, err)
		}
		return k
	}
	check := func(k auth.SCRAM, want map[string]string) {
		t.Helper()
		if len(k.Keys) != len(want) {
			t.Errorf("%d keys, want those of %d passwords", len(k.Keys), len(want))
		}
		for _, key := range k.Keys {
			salted, err := pbkdf2.Key(sha256.New, want[key.Password], k.Salt, k.Iterations, 32)
			if err != nil {
				t.Fatal(err)
			}
			client := hmac.New(sha256.New, salted)
			client.Write([]byte("Client Key"))
			stored := sha256.Sum256(client.Sum(nil))
			server := hmac.New(sha256.New, salted)
			server.Write([]byte("Server Key"))
			if !hmac.Equal(stored[:], key.StoredKey) || !hmac.Equal(server.Sum(nil), key.ServerKey) {
				t.Errorf("the keys of %q are not those of its password", key.Password)
			}
		}
	}
	check(keysOf("Ann", "192.0.2.1"), map[string]string{"hall": hall.Reveal(), "desk": desk.Reveal()})
	check(keysOf("ann", "198.51.100.1"), map[string]string{"desk": desk.Reveal()})
	check(keysOf("carl", "192.0.2.1"), map[string]string{"configuration": "As It Is"})
	nobody := keysOf("nobody", "192.0.2.1")
	check(nobody, nil)
	if again := keysOf("NOBODY", "192.0.2.1"); !slices.Equal(again.Salt, nobody.Salt) || slices.Equal(nobody.Salt, keysOf("ann", "192.0.2.1").Salt) {
		t.Error("the salt of a name changes, or is another name's")
	}
}

func TestTexts(t *testing.T) {
	s := newSite(t, Configured{Name: "carl", Upstream: "office", Password: upstream.NewSecret("As It Is")})
	kept := s.add(t, "ann", &Wanted{Label: "hall", KeepText: true})
	if _, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "desk"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"ann": kept.Reveal(), "carl": "As It Is", "nobody": ""} {
		texts, err := s.Texts(t.Context(), name, netip.MustParseAddr("192.0.2.1"))
		if err != nil || (want == "") != (len(texts) == 0) || want != "" && (len(texts) != 1 || texts[0].Text.Reveal() != want) {
			t.Errorf("%s: %d texts, %v; want %q", name, len(texts), err, want)
		}
	}
}

func TestProven(t *testing.T) {
	s := newSite(t)
	s.add(t, "ann", &Wanted{Label: "hall"})
	for label, want := range map[string]error{"hall": nil, "": nil, "gone": upstream.ErrAuth} {
		a, err := s.Proven(t.Context(), "Ann", label)
		if !errors.Is(err, want) || want == nil && a.Password.Reveal() != "there" {
			t.Errorf("%q: %+v, %v; want %v", label, a, err, want)
		}
	}
	if _, err := s.Proven(t.Context(), "nobody", ""); !errors.Is(err, upstream.ErrAuth) {
		t.Errorf("nobody: %v, want ErrAuth", err)
	}
}

// Last use reaches the disk at the latest when the book is closed.
func TestLastUse(t *testing.T) {
	s := newSite(t)
	hall := s.add(t, "ann", &Wanted{Label: "hall"})
	desk, err := s.AddPassword(t.Context(), "ann", Wanted{Label: "desk"})
	if err != nil {
		t.Fatal(err)
	}
	s.wantIn(t, "hall", with("ann", hall.Reveal()))
	s.wantOut(t, "wrong", with("ann", "x"), upstream.ErrAuth)
	s.uses.flush()
	used := func() (labels []string) {
		all, err := s.store.ClientPasswords(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if !p.Used.IsZero() {
				labels = append(labels, p.Label)
			}
		}
		return labels
	}
	if got := used(); !slices.Equal(got, []string{"hall"}) {
		t.Errorf("used are %q, want hall", got)
	}
	s.wantIn(t, "desk", with("ann", desk.Reveal()))
	s.uses.close()
	s.uses = noteUses(s.store, s.Log) // for the Close of the test's end
	if got := used(); len(got) != 2 {
		t.Errorf("used are %q after the end, want both", got)
	}
}

func TestNames(t *testing.T) {
	s := newSite(t)
	for _, good := range []string{"ann", "ann@example.org", "jos\u00e9", "a b", "o'dd\\\"{n}", strings.Repeat("x", 255)} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", " ann", "ann ", "a\nb", "a\x00b", "a\x1bb", "a\u0085b", "jos\xe9", strings.Repeat("x", 256)} {
		if err := CheckName(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
		if _, err := s.Add(t.Context(), NewAccount{Name: bad, Upstream: "office", Credential: OAuth}, nil); err == nil {
			t.Errorf("an account %q was made", bad)
		}
	}
}

// A hostile name finds the account that has it, or nobody: it is never anything
// but a name (2b, lookup injection).
func TestHostileNames(t *testing.T) {
	s := newSite(t)
	text := s.add(t, "ann", &Wanted{Label: "head", Chosen: upstream.NewSecret("correct horse battery")}).Reveal()
	for _, name := range []string{"' OR 1=1 --", "ann'--", "ann' UNION SELECT * FROM account --", "%", "_nn", "a%", "ann\x00", "ann\x00bob",
		"{user}", "%u", "*", "..", "../ann", "ann\xff", "\u1d43nn", "ann\u200b", "ANN ", " ann", strings.Repeat("a", 1<<16)} {
		s.wantOut(t, fmt.Sprintf("%.40q", name), with(name, text), auth.ErrUnknown)
	}
	s.wantIn(t, "other capitals", with("aNN", text))
	s.wantIn(t, "the account is still there", with("ann", text))
}

// A session goes on for as long as its account and its password are what they were.
func TestWhatEndsASession(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, s *site) error
		want error
	}{
		"nothing":                      {func(t *testing.T, s *site) error { return nil }, nil},
		"another password was made":    {func(t *testing.T, s *site) error { return s.make(t, "desk") }, nil},
		"another password was revoked": {func(t *testing.T, s *site) error { return s.store.RemoveClientPassword(t.Context(), "hall", "porch") }, nil},
		"the upstream password is new": {func(t *testing.T, s *site) error {
			return s.SetCredential(t.Context(), "hall", upstream.NewSecret("new"))
		}, nil},
		"its password was revoked":      {func(t *testing.T, s *site) error { return s.revoke(t) }, upstream.ErrRejected},
		"its label went to another":     {func(t *testing.T, s *site) error { return errors.Join(s.revoke(t), s.make(t, "scanner")) }, upstream.ErrRejected},
		"the account was disabled":      {func(t *testing.T, s *site) error { return s.disable(t, true) }, upstream.ErrRejected},
		"the account was enabled again": {func(t *testing.T, s *site) error { return errors.Join(s.disable(t, true), s.disable(t, false)) }, nil},
		"the account was removed":       {func(t *testing.T, s *site) error { return s.store.RemoveAccount(t.Context(), "hall") }, upstream.ErrRejected},
		"the name went to a new account": {func(t *testing.T, s *site) error {
			err := s.store.RemoveAccount(t.Context(), "hall")
			s.add(t, "hall", &Wanted{Label: "scanner"})
			return err
		}, upstream.ErrRejected},
		"the state cannot be read": {func(t *testing.T, s *site) error { return s.store.Close() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Configured{Name: "ann", Upstream: "office", Credential: Password, Secret: upstream.NewSecret("there"), Password: upstream.NewSecret("ann's own password")})
			text := s.add(t, "Hall", &Wanted{Label: "scanner"})
			if err := s.make(t, "porch"); err != nil {
				t.Fatal(err)
			}
			a := s.wantIn(t, "before", with("hall", text.Reveal()))
			if err := c.do(t, s); err != nil {
				t.Fatal(err)
			}
			if got := a.Still(t.Context()); !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if a := s.wantIn(t, "of the configuration", with("ann", "ann's own password")); a.Still != nil {
				t.Error("an account that nobody can take away is looked at, want it not to be")
			}
		})
	}
}

func (s *site) make(t *testing.T, label string) error {
	_, err := s.AddPassword(t.Context(), "hall", Wanted{Label: label})
	return err
}

func (s *site) revoke(t *testing.T) error {
	return s.store.RemoveClientPassword(t.Context(), "hall", "scanner")
}

func (s *site) disable(t *testing.T, off bool) error {
	a, err := s.store.Account(t.Context(), "hall")
	if a.Disabled = off; err == nil {
		err = s.store.SetAccount(t.Context(), a)
	}
	return err
}

// A certificate opens an account whatever becomes of its passwords.
func TestWhatEndsASessionByCertificate(t *testing.T) {
	s := newSite(t)
	s.add(t, "hall", &Wanted{Label: "scanner"})
	a, err := s.Proven(t.Context(), "hall", "")
	if err := errors.Join(err, s.revoke(t), a.Still(t.Context())); err != nil {
		t.Errorf("after a password was revoked: got %v, want none", err)
	}
	if err := s.disable(t, true); err != nil {
		t.Fatal(err)
	}
	if err := a.Still(t.Context()); !errors.Is(err, upstream.ErrRejected) {
		t.Errorf("after the account was disabled: got %v, want %v", err, upstream.ErrRejected)
	}
}

// While there is no time for hashes, a right password that is no good now gets the
// answer of a wrong one: every refusal costs a hash.
func TestRefusedPasswordsCostAHash(t *testing.T) {
	s := newSite(t)
	hall := s.add(t, "hall", &Wanted{Label: "scanner", Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	const chosen = "chosen by somebody"
	s.add(t, "ann", &Wanted{Label: "desk", Chosen: upstream.NewSecret(chosen), Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	s.wantIn(t, "chosen, at home", from("198.51.100.1", with("ann", chosen))) // and known from now on
	for range cap(s.hasher.inside) {
		s.hasher.inside <- struct{}{}
	}
	s.wantIn(t, "generated, at home", from("198.51.100.1", with("hall", hall.Reveal())))
	for what, c := range map[string]pop3.Credentials{
		"wrong":                with("hall", "guess"),
		"generated, elsewhere": with("hall", hall.Reveal()),
		"chosen, elsewhere":    with("ann", chosen),
	} {
		s.wantOut(t, what, c, upstream.ErrUnavailable)
	}
	if err := s.disable(t, true); err != nil {
		t.Fatal(err)
	}
	s.wantOut(t, "disabled", from("198.51.100.1", with("hall", hall.Reveal())), upstream.ErrUnavailable)
}
