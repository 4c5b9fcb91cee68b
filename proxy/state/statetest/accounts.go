package statetest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/proxy/state"
)

func account(name string) state.Account {
	return state.Account{Name: name, Upstream: "office", Login: odd, Credential: "password"}
}

func password(account, label string) state.ClientPassword {
	return state.ClientPassword{Account: account, Label: label, Kind: "generated", Verifier: []byte(odd), StoredKey: []byte{0, 1}, ServerKey: []byte{2, 0},
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}
}

func sealed(account, purpose string, version int64, data string) state.Sealed {
	return state.Sealed{Name: state.SecretName{Account: account, Purpose: purpose}, Version: version, Key: "k1", Data: []byte(data)}
}

func isErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func passwordsOf(t *testing.T, s state.Store, account string) []state.ClientPassword {
	t.Helper()
	found, err := s.ClientPasswords(within(t), account)
	must(t, err)
	return found
}

func secretOf(t *testing.T, s state.Store, account, purpose string) state.Secret {
	t.Helper()
	found, err := s.Secret(within(t), state.SecretName{Account: account, Purpose: purpose})
	must(t, err)
	return found
}

// noAccounts is what a store that forgets has, and what it takes: nothing.
func noAccounts(t *testing.T, f Fixture) {
	s := f.open(t)
	_, err := s.Account(within(t), "bob")
	isErr(t, "account that nobody made", err, state.ErrNotFound)
	isErr(t, "removal of it", s.RemoveAccount(within(t), "bob"), state.ErrNotFound)
	isErr(t, "removal of a password of it", s.RemoveClientPassword(within(t), "bob", "scanner"), state.ErrNotFound)
	same(t, "passwords", passwordsOf(t, s, "bob"), []state.ClientPassword(nil))
	same(t, "secret", secretOf(t, s, "bob", "grant"), state.Secret{})
	must(t, s.NoteUse(within(t), []state.Use{{Account: "bob", Label: "scanner", At: time.Now()}}))
	consent, err := s.Consent(within(t), "bob")
	must(t, err)
	same(t, "consent", consent, state.Consent{})
	_, err = s.Invitation(within(t), state.TokenHash{1})
	isErr(t, "invitation", err, state.ErrNotFound)
	if f.Forgets {
		isErr(t, "AddAccount", s.AddAccount(within(t), account("bob"), nil, nil), state.ErrOff)
		isErr(t, "SaveSecret", s.SaveSecret(within(t), 0, sealed("bob", "grant", 1, "x")), state.ErrOff)
	}
}

func seedLasts(t *testing.T, f Fixture) {
	s := f.open(t)
	first, err := s.Seed(within(t))
	must(t, err)
	if len(first) != 32 || slices.Max(first) == 0 {
		t.Errorf("seed %x, want 32 random octets", first)
	}
	if !f.Forgets {
		must(t, s.Close())
		s = f.open(t)
	}
	again, err := s.Seed(within(t))
	must(t, err)
	same(t, "seed, asked for again", again, first)
}

func accountLasts(t *testing.T, f Fixture) {
	s := f.open(t)
	before := time.Now()
	must(t, s.AddAccount(within(t), account(odd), []state.ClientPassword{password(odd, "scanner"), {Account: odd, Label: odd, Kind: "chosen", Verifier: []byte("v")}},
		[]state.Sealed{sealed(odd, "upstream-password", 1, "s")}))
	must(t, s.Close())
	s = f.open(t)
	got, err := s.Account(within(t), odd)
	must(t, err)
	want := account(odd)
	want.Version, want.Created = 1, got.Created
	same(t, "account", got, want)
	if got.Created.Before(before.Add(-time.Minute)) || got.Created.After(time.Now().Add(time.Minute)) {
		t.Errorf("created at %v, want about %v", got.Created, before)
	}
	passwords := passwordsOf(t, s, odd)
	if len(passwords) != 2 {
		t.Fatalf("passwords %+v, want two", passwords)
	}
	slices.SortFunc(passwords, func(a, b state.ClientPassword) int { return len(b.Networks) - len(a.Networks) })
	first := password(odd, "scanner")
	first.Created = passwords[0].Created
	same(t, "password", fmt.Sprint(passwords[0]), fmt.Sprint(first))
	same(t, "secret", secretOf(t, s, odd, "upstream-password"), state.Secret{Current: sealed(odd, "upstream-password", 1, "s")})
}

func accountOnce(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.AddAccount(within(t), account("bob"), []state.ClientPassword{password("bob", "scanner")}, nil))
	isErr(t, "the same name again", s.AddAccount(within(t), account("bob"), nil, []state.Sealed{sealed("bob", "grant", 1, "x")}), state.ErrExists)
	same(t, "secret of the account that was refused", secretOf(t, s, "bob", "grant"), state.Secret{})
	isErr(t, "the same label again", s.AddClientPassword(within(t), password("bob", "scanner"), []state.Sealed{sealed("bob", "clear", 1, "x")}), state.ErrExists)
	same(t, "secret of the password that was refused", secretOf(t, s, "bob", "clear"), state.Secret{})
	isErr(t, "password of nobody", s.AddClientPassword(within(t), password("ann", "scanner"), nil), state.ErrNotFound)
	isErr(t, "two passwords with one label",
		s.AddAccount(within(t), account("ann"), []state.ClientPassword{password("ann", "x"), password("ann", "x")}, nil), state.ErrExists)
	_, err := s.Account(within(t), "ann")
	isErr(t, "account whose passwords were refused", err, state.ErrNotFound)
}

func accountVersions(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.AddAccount(within(t), account("bob"), nil, nil))
	a, err := s.Account(within(t), "bob")
	must(t, err)
	stale := a
	a.Disabled, a.Upstream = true, "fast"
	must(t, s.SetAccount(within(t), a))
	isErr(t, "change from an old version", s.SetAccount(within(t), stale), state.ErrConflict)
	got, err := s.Account(within(t), "bob")
	must(t, err)
	a.Version++
	same(t, "account", got, a)
}

// accountsShared: what one process changes, another sees at once.
func accountsShared(t *testing.T, f Fixture) {
	server, command := f.open(t), f.open(t)
	must(t, command.AddAccount(within(t), account("bob"), []state.ClientPassword{password("bob", "scanner")}, nil))
	if got := passwordsOf(t, server, "bob"); len(got) != 1 {
		t.Errorf("the server sees %+v, want the password that a command made", got)
	}
	must(t, command.RemoveClientPassword(within(t), "bob", "scanner"))
	if got := passwordsOf(t, server, "bob"); len(got) != 0 {
		t.Errorf("the server sees %+v after the password was removed", got)
	}
}

func accountsListed(t *testing.T, f Fixture) {
	s := f.open(t)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint("user", i))
		must(t, s.AddAccount(within(t), account(want[i]), nil, nil))
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := s.ListAccounts(within(t), after, 3)
		must(t, err)
		for _, a := range page {
			got = append(got, a.Name)
		}
		if len(page) < 3 {
			break
		}
	}
	same(t, "accounts", got, want)
}

// Nothing of a removed account is there for the next one of that name.
func accountRemoved(t *testing.T, f Fixture) {
	s := f.open(t)
	fill := func(name string) {
		must(t, s.AddAccount(within(t), account(name), []state.ClientPassword{password(name, "scanner")}, []state.Sealed{sealed(name, "grant", 1, "x")}))
		must(t, s.LoseConsent(within(t), name))
		must(t, s.Invite(within(t), state.Invitation{Account: name, Token: state.TokenHash{byte(len(name))}, Expires: time.Now().Add(time.Hour)}))
	}
	empty := func(what, name string) {
		t.Helper()
		same(t, what+": passwords", passwordsOf(t, s, name), []state.ClientPassword(nil))
		same(t, what+": secret", secretOf(t, s, name, "grant"), state.Secret{})
		consent, err := s.Consent(within(t), name)
		must(t, err)
		same(t, what+": consent", consent, state.Consent{})
		_, err = s.Invitation(within(t), state.TokenHash{byte(len(name))})
		isErr(t, what+": invitation", err, state.ErrNotFound)
	}
	fill("ann")
	fill("bobby")
	must(t, s.RemoveAccount(within(t), "bobby"))
	_, err := s.Account(within(t), "bobby")
	isErr(t, "removed account", err, state.ErrNotFound)
	empty("removed", "bobby")
	isErr(t, "second removal", s.RemoveAccount(within(t), "bobby"), state.ErrNotFound)
	if len(passwordsOf(t, s, "ann")) != 1 || secretOf(t, s, "ann", "grant").Current.Version != 1 {
		t.Error("something of another account was removed, too")
	}

	// An account of the configuration has secrets, but no row.
	must(t, s.SaveSecret(within(t), 0, sealed("carla", "grant", 1, "old")))
	must(t, s.LoseConsent(within(t), "carla"))
	must(t, s.AddAccount(within(t), account("carla"), nil, nil))
	empty("made anew", "carla")
	must(t, s.SaveSecret(within(t), 0, sealed("dorothy", "grant", 1, "old")))
	must(t, s.RemoveAccount(within(t), "dorothy"))
	empty("removed without a row", "dorothy")
}

func passwordRemoved(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.AddAccount(within(t), account("bob"), nil, nil))
	for _, label := range []string{"scanner", "phone"} {
		clear := state.ClearPassword("bob", label)
		must(t, s.AddClientPassword(within(t), password("bob", label), []state.Sealed{sealed(clear.Account, clear.Purpose, 1, "x")}))
	}
	must(t, s.RemoveClientPassword(within(t), "bob", "scanner"))
	isErr(t, "second removal", s.RemoveClientPassword(within(t), "bob", "scanner"), state.ErrNotFound)
	if got := passwordsOf(t, s, "bob"); len(got) != 1 || got[0].Label != "phone" {
		t.Errorf("passwords %+v, want the other one", got)
	}
	same(t, "text of the removed", secretOf(t, s, "bob", state.ClearPassword("bob", "scanner").Purpose), state.Secret{})
	if secretOf(t, s, "bob", state.ClearPassword("bob", "phone").Purpose).Current.Version != 1 {
		t.Error("the text of the other password was removed, too")
	}
}

func uses(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.AddAccount(within(t), account("bob"), []state.ClientPassword{password("bob", "a"), password("bob", "b")}, nil))
	at := time.Now().Add(time.Hour)
	must(t, s.NoteUse(within(t), []state.Use{
		{Account: "bob", Label: "a", At: at}, {Account: "bob", Label: "gone", At: at}, {Account: "nobody", Label: "a", At: at}}))
	must(t, s.NoteUse(within(t), []state.Use{{Account: "bob", Label: "a", At: at.Add(-time.Minute)}})) // by a process that was slower
	must(t, s.Close())
	s = f.open(t)
	for _, p := range passwordsOf(t, s, "bob") {
		if p.Label == "a" && !p.Used.Equal(at) || p.Label == "b" && !p.Used.IsZero() {
			t.Errorf("%s used at %v, want a at %v and b never", p.Label, p.Used, at)
		}
	}
}

func secretGenerations(t *testing.T, f Fixture) {
	s := f.open(t)
	one, two, three := sealed("bob", "grant", 1, "one"), sealed("bob", "grant", 2, "two"), sealed("bob", "grant", 30, odd)
	three.Key = "k2"
	isErr(t, "after one that is not there", s.SaveSecret(within(t), 1, two), state.ErrConflict)
	after := int64(0)
	for _, next := range []state.Sealed{one, two, three} {
		must(t, s.SaveSecret(within(t), after, next))
		isErr(t, "after the same once more", s.SaveSecret(within(t), after, next), state.ErrConflict)
		if err := s.SaveSecret(within(t), next.Version, next); err == nil {
			t.Error("a version after itself: no error")
		}
		after = next.Version
	}
	isErr(t, "after an old one", s.SaveSecret(within(t), one.Version, sealed("bob", "grant", 50, "fifty")), state.ErrConflict)
	must(t, s.SaveSecret(within(t), 0, sealed("bob", "other", 1, "")))
	must(t, s.SaveSecret(within(t), 0, sealed("ann", "grant", 1, "ann's")))
	must(t, s.Close())
	s = f.open(t)
	same(t, "secret", secretOf(t, s, "bob", "grant"), state.Secret{Current: three, Former: two})
	same(t, "ann's", secretOf(t, s, "ann", "grant"), state.Secret{Current: sealed("ann", "grant", 1, "ann's")})
	must(t, s.RemoveSecret(within(t), three.Name))
	must(t, s.RemoveSecret(within(t), three.Name))
	same(t, "removed secret", secretOf(t, s, "bob", "grant"), state.Secret{})
}

// secretRace: of those who renew one secret at the same time, one does.
func secretRace(t *testing.T, f Fixture) {
	stores := []state.Store{f.open(t), f.open(t)}
	must(t, stores[0].SaveSecret(within(t), 0, sealed("bob", "grant", 1, "0")))
	var won atomic.Int64
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			s := stores[w%2]
			for range 5 {
				found, err := s.Secret(within(t), state.SecretName{Account: "bob", Purpose: "grant"})
				if err != nil {
					t.Error(err)
					return
				}
				err = s.SaveSecret(within(t), found.Current.Version, sealed("bob", "grant", found.Current.Version+1, fmt.Sprint(w)))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, state.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	got := secretOf(t, stores[0], "bob", "grant")
	if got.Current.Version != won.Load()+1 || got.Former.Version != won.Load() {
		t.Errorf("versions %d and %d after %d changes: one was lost", got.Current.Version, got.Former.Version, won.Load())
	}
}

func reseal(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.SaveSecret(within(t), 0, sealed("ann", "grant", 1, "a")))
	must(t, s.SaveSecret(within(t), 0, sealed("bob", "grant", 1, "one")))
	must(t, s.SaveSecret(within(t), 1, sealed("bob", "grant", 2, "two")))
	newer := sealed("carl", "grant", 1, "c")
	newer.Key = "k2"
	must(t, s.SaveSecret(within(t), 0, newer))
	mixed := sealed("dora", "grant", 1, "d")
	must(t, s.SaveSecret(within(t), 0, mixed))
	mixed.Version, mixed.Key = 2, "k2"
	must(t, s.SaveSecret(within(t), 1, mixed))

	keys, err := s.SealedKeys(within(t))
	must(t, err)
	same(t, "keys", keys, map[string]int{"k1": 3, "k2": 2})
	var names []string
	after := state.SecretName{}
	for {
		page, err := s.SealedOtherwise(within(t), "k2", after, 2)
		must(t, err)
		for _, found := range page {
			after = found.Current.Name
			names = append(names, after.Account)
			is := found
			is.Current.Key, is.Current.Data = "k2", append([]byte("new "), is.Current.Data...)
			if is.Former.Version > 0 {
				is.Former.Key, is.Former.Data = "k2", append([]byte("new "), is.Former.Data...)
			}
			must(t, s.Reseal(within(t), found, is))
			isErr(t, "the same again", s.Reseal(within(t), found, is), state.ErrConflict)
		}
		if len(page) == 0 {
			break
		}
	}
	same(t, "sealed otherwise", names, []string{"ann", "bob", "dora"})
	want := state.Secret{Current: sealed("bob", "grant", 2, "new two"), Former: sealed("bob", "grant", 1, "new one")}
	want.Current.Key, want.Former.Key = "k2", "k2"
	same(t, "sealed anew", secretOf(t, s, "bob", "grant"), want)
	keys, err = s.SealedKeys(within(t))
	must(t, err)
	same(t, "keys", keys, map[string]int{"k2": 4})
}

func consents(t *testing.T, f Fixture) {
	s := f.open(t)
	isErr(t, "notice of no loss", s.NoticeDelivered(within(t), "bob"), state.ErrNotFound)
	must(t, s.LoseConsent(within(t), "bob"))
	first, err := s.Consent(within(t), "bob")
	must(t, err)
	if first.Lost.IsZero() || !first.Noticed.IsZero() {
		t.Errorf("consent %+v, want lost and not noticed", first)
	}
	must(t, s.NoticeDelivered(within(t), "bob"))
	must(t, s.LoseConsent(within(t), "bob")) // known already
	must(t, s.Close())
	s = f.open(t)
	again, err := s.Consent(within(t), "bob")
	must(t, err)
	if !again.Lost.Equal(first.Lost) || again.Noticed.IsZero() {
		t.Errorf("consent %+v, want lost at %v as before, and noticed", again, first.Lost)
	}
	all, err := s.LostConsents(within(t))
	must(t, err)
	same(t, "lost consents", all, map[string]state.Consent{"bob": again})
	must(t, s.RegainConsent(within(t), "bob"))
	must(t, s.RegainConsent(within(t), "bob"))
	back, err := s.Consent(within(t), "bob")
	must(t, err)
	same(t, "consent regained", back, state.Consent{})
}

func invitations(t *testing.T, f Fixture) {
	s := f.open(t)
	expires := time.Now().Add(time.Hour)
	must(t, s.Invite(within(t), state.Invitation{Account: "bob", Token: state.TokenHash{1}, Expires: expires}))
	must(t, s.Invite(within(t), state.Invitation{Account: "ann", Token: state.TokenHash{2}, Expires: time.Now().Add(-time.Second)}))
	must(t, s.Close())
	s = f.open(t)
	got, err := s.Invitation(within(t), state.TokenHash{1})
	must(t, err)
	if got.Account != "bob" || !got.Expires.Equal(expires) || got.Created.IsZero() {
		t.Errorf("invitation %+v, want bob's until %v", got, expires)
	}
	_, err = s.Invitation(within(t), state.TokenHash{2})
	isErr(t, "expired invitation", err, state.ErrNotFound)
	_, err = s.UseInvitation(within(t), state.TokenHash{2})
	isErr(t, "use of an expired invitation", err, state.ErrNotFound)

	var won atomic.Int64
	var guests sync.WaitGroup
	for range 8 {
		guests.Go(func() {
			switch got, err := s.UseInvitation(within(t), state.TokenHash{1}); {
			case err == nil && got.Account == "bob":
				won.Add(1)
			case !errors.Is(err, state.ErrNotFound):
				t.Error(err)
			}
		})
	}
	guests.Wait()
	if won.Load() != 1 {
		t.Errorf("%d used one invitation, want 1", won.Load())
	}

	// Several are good side by side, but no more than 5, until one is used.
	for n := range byte(6) {
		must(t, s.Invite(within(t), state.Invitation{Account: "bob", Token: state.TokenHash{10 + n}, Expires: expires}))
	}
	_, err = s.Invitation(within(t), state.TokenHash{10})
	isErr(t, "oldest of 6 invitations", err, state.ErrNotFound)
	must(t, s.Invite(within(t), state.Invitation{Account: "bob", Token: state.TokenHash{11}, Expires: expires.Add(time.Hour)}))
	got, err = s.Invitation(within(t), state.TokenHash{11})
	must(t, err)
	if !got.Expires.Equal(expires.Add(time.Hour)) {
		t.Errorf("invitation made again: until %v, want %v", got.Expires, expires.Add(time.Hour))
	}
	_, err = s.UseInvitation(within(t), state.TokenHash{15})
	must(t, err)
	for n := range byte(6) {
		_, err = s.Invitation(within(t), state.TokenHash{10 + n})
		isErr(t, "invitation beside the one that was used", err, state.ErrNotFound)
	}
}
