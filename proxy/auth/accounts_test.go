package auth

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// residents are accounts whose password is "here-" and the name.
type residents map[string]Account

// Check implements Accounts.
func (r residents) Check(_ context.Context, c pop3.Credentials) (Account, error) {
	a, ok := r[Fold(c.User)]
	switch {
	case !ok:
		return Account{}, ErrUnknown
	case c.Password.Reveal() != "here-"+Fold(c.User):
		return Account{}, upstream.ErrAuth
	}
	return a, nil
}

func (residents) Waste(context.Context) error { return nil }

func (residents) SCRAM(context.Context, string, netip.Addr) (SCRAM, error) { return SCRAM{}, nil }

func (residents) Texts(context.Context, string, netip.Addr) ([]Text, error) { return nil, nil }

func (r residents) Proven(_ context.Context, name, _ string) (Account, error) {
	if a, ok := r[Fold(name)]; ok {
		return a, nil
	}
	return Account{}, upstream.ErrAuth
}

// A register notes who logs in at an upstream.
type register struct {
	asked []string
	fail  error
}

func (r *register) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	r.asked = append(r.asked, a.User+" "+a.Password.Reveal())
	if r.fail != nil {
		return nil, r.fail
	}
	return upstreamtest.NewMemory(a.User, a.Password.Reveal()).Open(ctx, a)
}

func (r *register) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(r.asked, want) {
		t.Errorf("the upstream was asked for %q, want %q", r.asked, want)
	}
	r.asked = nil
}

// oneResident is a gate with the account ann, and a route for everybody.
func oneResident(r Route) (g *Gate, up *register) {
	up = &register{}
	r.User, r.Upstream, r.Opener = "*", "one", up
	return New(Options{Locker: state.Off(), LoginDelay: 0, Routes: []Route{r}, Accounts: residents{
		"ann": {Name: "ann", Upstream: "one", Opener: up, Login: "ann@provider.example", Password: upstream.NewSecret("there")},
	}}), up
}

func TestAccountsComeBeforeRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		login, err := g.Authenticate(t.Context(), with("Ann", "here-ann"))
		if err != nil {
			t.Fatal(err)
		}
		if login.Account != "Ann" || login.Upstream != "one" {
			t.Errorf("login of %q at %q, want Ann's at one", login.Account, login.Upstream)
		}
		login.Close()
		up.wantAsked(t, "ann@provider.example there")

		// A name that is an account's never goes to a route, whatever the password.
		for _, guess := range []string{"there", "wrong", ""} {
			_, err = try(t, g, with("ann", guess))
			wantErr(t, "wrong password", err, upstream.ErrAuth)
		}
		up.wantAsked(t)
		if _, err := try(t, g, with("bob", "his own")); err != nil {
			t.Errorf("somebody without an account: %v", err)
		}
		up.wantAsked(t, "bob his own")
	})
}

// While too many hashes are under way, a password that was good of late gets in and
// another is not looked at. That must not be the time to guess.
func TestGuessesInAFloodOfHashesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ann := residents{"ann": {Name: "ann", Upstream: "one", Opener: upstreamtest.NewMemory("ann", "there"), Login: "ann", Password: upstream.NewSecret("there")}}
		g := New(Options{Locker: state.Off(), Accounts: flooded{ann}})
		for i, want := range []time.Duration{refusalTime, firstDelay + refusalTime, 2*firstDelay + refusalTime} {
			took, err := try(t, g, with("ann", "guess "+strconv.Itoa(i)))
			if !errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrAuth) || took != want {
				t.Errorf("guess %d: got error %v after %v, want %v after %v", i+1, err, took, upstream.ErrUnavailable, want)
			}
		}
		away := from("198.51.100.1")
		for range 2 {
			if took, err := try(t, g, at(away, with("ann", "here-ann"))); err != nil || took != 0 {
				t.Errorf("the owner: got error %v after %v, want none", err, took)
			}
		}
		// The password was changed by who has it, and is as good as any other until
		// there is time to look at it.
		delete(ann, "ann")
		for range 2 {
			took, err := try(t, g, at(away, with("ann", "here-ann")))
			if !errors.Is(err, upstream.ErrUnavailable) || took != 0 {
				t.Errorf("the owner: got error %v after %v, want %v at once", err, took, upstream.ErrUnavailable)
			}
		}
	})
}

// flooded are accounts that have no time to look at a password but a known one.
type flooded struct{ residents }

func (f flooded) Check(ctx context.Context, c pop3.Credentials) (Account, error) {
	if a, err := f.residents.Check(ctx, c); err == nil {
		return a, nil
	}
	return Account{}, ErrUnchecked
}

// A password that is good at home only is like any other elsewhere, whatever is
// known of it there: how long it takes, and whether the owner has just been.
func TestPasswordThatIsGoodElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ann := residents{"ann": {Name: "ann", Upstream: "one", Opener: upstreamtest.NewMemory("ann", "there"), Login: "ann", Password: upstream.NewSecret("there")}}
		g := New(Options{Locker: state.Off(), LoginDelay: time.Minute, Accounts: atHome{ann}})
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Fatal(err)
		}
		_, err := try(t, g, with("ann", "here-ann"))
		wantErr(t, "at home", err, upstream.ErrTooSoon)
		for password, addr := range map[string]string{"here-ann": "198.51.100.1", "guess": "198.51.100.2"} {
			for i, want := range []time.Duration{refusalTime, firstDelay + refusalTime} {
				took, err := try(t, g, at(from(addr), with("ann", password)))
				if !errors.Is(err, upstream.ErrAuth) || took != want {
					t.Errorf("password %s, attempt %d elsewhere: got error %v after %v, want %v after %v", password, i+1, err, took, upstream.ErrAuth, want)
				}
			}
		}
	})
}

// atHome are accounts whose passwords are good from one address.
type atHome struct{ residents }

func (a atHome) Check(ctx context.Context, c pop3.Credentials) (Account, error) {
	if c.Remote != home {
		return Account{}, upstream.ErrAuth
	}
	return a.residents.Check(ctx, c)
}

func TestAccountsOnlyRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{AccountsOnly: true})
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Errorf("somebody with an account: %v", err)
		}
		up.asked = nil
		took, err := try(t, g, with("bob", "his own"))
		wantErr(t, "somebody without one", err, upstream.ErrAuth)
		if took != refusalTime {
			t.Errorf("refused after %v, want %v like everybody", took, refusalTime)
		}
		up.wantAsked(t)
	})
}

// An upstream that refuses the account's credential does not make the client's
// password wrong: it is not told so, and does not wait for it. A device that
// polls every minute does not lock the account at its provider.
func TestFaultU8RefusedCredentialIsNotTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		held := 0
		g.heldBack = func(string) { held++ }
		up.fail = upstream.ErrAuth
		const day = 24 * 60
		for range day {
			took, err := try(t, g, with("ann", "here-ann"))
			if !errors.Is(err, upstream.ErrRejected) || errors.Is(err, upstream.ErrAuth) || took != 0 {
				t.Fatalf("got error %v after %v, want %v at once", err, took, upstream.ErrRejected)
			}
			time.Sleep(time.Minute)
		}
		// After 0, 2, 6, 14 and 30 minutes, then each 16.
		if got, want := len(up.asked), 5+88; got != want || held != day-want {
			t.Errorf("in a day the upstream was asked %d times, held back %d, want %d and %d", got, held, want, day-want)
		}
		up.fail = nil
		time.Sleep(maxRefusal)
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Errorf("with the credential mended: %v", err)
		}
		up.asked, up.fail = nil, upstream.ErrAuth
		try(t, g, with("ann", "here-ann"))
		time.Sleep(firstRefusal)
		try(t, g, with("ann", "here-ann"))
		if len(up.asked) != 2 {
			t.Errorf("refused anew, the upstream was asked %d times in %v, want 2: the wait begins anew", len(up.asked), firstRefusal)
		}
	})
}

// A new password is tried at once, and another account's is another password.
func TestNewCredentialIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		here := g.accounts.(residents)
		here["bob"] = Account{Name: "bob", Upstream: "one", Opener: up, Login: "bob@provider.example", Password: here["ann"].Password}
		up.fail = upstream.ErrAuth
		try(t, g, with("ann", "here-ann"))
		try(t, g, with("ann", "here-ann"))
		try(t, g, with("bob", "here-bob"))
		up.wantAsked(t, "ann@provider.example there", "bob@provider.example there")

		ann := here["ann"]
		ann.Password = upstream.NewSecret("new")
		here["ann"], up.fail = ann, nil
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Errorf("with a new password: %v", err)
		}
	})
}

// The same goes for a client whose password the upstream checks: it is told what
// the upstream said, no sooner than the first time, and nobody else is.
func TestFaultU8RefusedPasswordIsNotShownAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		refuse := func() {
			t.Helper()
			took, err := try(t, g, with("bob", "old"))
			wantErr(t, "the password that was refused", err, upstream.ErrAuth)
			if took < refusalTime {
				t.Errorf("refused after %v, want %v at least", took, refusalTime)
			}
		}
		up.fail = upstream.ErrAuth
		refuse()
		refuse()
		up.wantAsked(t, "bob old")
		time.Sleep(firstRefusal)
		refuse()
		refuse()
		up.wantAsked(t, "bob old")

		up.fail = nil
		for _, c := range []pop3.Credentials{with("Bob", "old"), with("bob", "new"), with("bill", "old")} {
			if _, err := try(t, g, c); err != nil {
				t.Errorf("%s with %s: %v", c.User, c.Password.Reveal(), err)
			}
		}
		up.wantAsked(t, "Bob old", "bob new", "bill old")
	})
}

// What is wrong with a token is not for the gate to guess, and whoever could not
// answer has refused nothing.
func TestOnlyRefusedPasswordsWait(t *testing.T) {
	for name, c := range map[string]struct {
		tokens upstream.TokenSource
		fail   error
	}{
		"a token":     {upstream.GivenToken{Secret: upstream.NewSecret("t")}, upstream.ErrAuth},
		"unavailable": {nil, upstream.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, up := oneResident(Route{})
				here := g.accounts.(residents)
				ann := here["ann"]
				ann.Tokens = c.tokens
				here["ann"], up.fail = ann, c.fail
				for range 3 {
					try(t, g, with("ann", "here-ann"))
				}
				if len(up.asked) != 3 {
					t.Errorf("the upstream was asked %d times, want 3", len(up.asked))
				}
			})
		})
	}
}

// Who has proved to be the owner need not ask the upstream in order to hear that
// it is busy, and a stranger does not hear it.
func TestAccountInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		first, err := g.Authenticate(t.Context(), with("ann", "here-ann"))
		if err != nil {
			t.Fatal(err)
		}
		up.asked = nil
		_, err = try(t, g, with("ann", "here-ann"))
		wantErr(t, "second session", err, upstream.ErrBusy)
		_, err = try(t, g, with("ann", "guess"))
		wantErr(t, "stranger", err, upstream.ErrAuth)
		up.wantAsked(t)
		// The same maildrop, by the upstream's own name for it.
		_, err = try(t, g, with("ANN@provider.example", "there"))
		wantErr(t, "second session by the route", err, upstream.ErrBusy)
		first.Close()
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Errorf("after the first session: %v", err)
		}
		unlocked(t, g, "ann@provider.example")
	})
}

// A pause that the upstream asks for is told to the owner only.
func TestAccountBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		up.fail = upstream.WithBackoff(upstream.ErrUnavailable, time.Minute)
		_, err := try(t, g, with("ann", "here-ann"))
		wantErr(t, "first login", err, upstream.ErrUnavailable)
		up.asked = nil
		_, err = try(t, g, with("ann", "here-ann"))
		wantErr(t, "owner", err, upstream.ErrUnavailable)
		_, err = try(t, g, with("ann", "guess"))
		wantErr(t, "stranger", err, upstream.ErrAuth)
		up.wantAsked(t)
	})
}

func TestAccountLoginDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{})
		g.delay = time.Minute
		for _, want := range []error{nil, upstream.ErrTooSoon} {
			_, err := try(t, g, with("ann", "here-ann"))
			wantErr(t, "login", err, want)
		}
		_, err := try(t, g, with("ann@provider.example", "there"))
		wantErr(t, "the same maildrop by the route", err, upstream.ErrTooSoon)
		up.asked = nil
		time.Sleep(time.Minute)
		if _, err := try(t, g, with("ann", "here-ann")); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// failingAccounts cannot be asked now.
type failingAccounts struct{ residents }

func (failingAccounts) Check(context.Context, pop3.Credentials) (Account, error) {
	return Account{}, upstream.ErrUnavailable
}

// While nobody knows whether a name is an account's, its password goes nowhere.
func TestUnreadableAccountsFallThroughToNoRoute(t *testing.T) {
	g, up := oneResident(Route{})
	g.accounts = failingAccounts{}
	_, err := try(t, g, with("bob", "his own"))
	wantErr(t, "login", err, upstream.ErrUnavailable)
	up.wantAsked(t)
}

func TestRouteLogin(t *testing.T) {
	g, up := oneResident(Route{Login: "{local}@{domain}.internal"})
	if _, err := try(t, g, with("Bob@shop.example", "pw")); err != nil {
		t.Fatal(err)
	}
	up.wantAsked(t, "Bob@shop.example.internal pw")
}

// A template that leaves nothing of a name makes nobody log in.
func TestRouteLoginOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, up := oneResident(Route{Login: "{domain}"})
		_, err := try(t, g, with("bob", "pw"))
		wantErr(t, "login", err, upstream.ErrAuth)
		up.wantAsked(t)
	})
}

// A name is expanded once: whatever it holds stays what it is.
func TestExpand(t *testing.T) {
	for _, c := range []struct{ template, user, want string }{
		{"", "ann", "ann"},
		{"{user}", "ann@example.org", "ann@example.org"},
		{"{local}@new.example", "ann@old.example", "ann@new.example"},
		{"{local}@new.example", "ann", "ann@new.example"},
		{"{domain}!{local}", "a@b@c", "c!a@b"},
		{"service", "ann", "service"},
		{"{local}", "{domain}@{user}", "{domain}"},
		{"{user}/{domain}", "{local}@x", "{local}@x/x"},
		{"{domain}", "ann", ""},
		{"{local}{local}", "{lo@cal}", "{lo{lo"},
		{"%u%d", "ann@x", "%u%d"},
	} {
		if got := Expand(c.template, c.user); got != c.want {
			t.Errorf("Expand(%q, %q): got %q, want %q", c.template, c.user, got, c.want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("ann@example.org")
	f.Add("{user}{local}{domain}")
	f.Fuzz(func(t *testing.T, user string) {
		if got, want := Expand("<{user}>", user), "<"+user+">"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
