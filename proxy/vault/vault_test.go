package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"postern/proxy/state"
	"postern/upstream"
)

// A ring is a keyring that an operator can change.
type ring struct {
	mu    sync.Mutex
	lines []string
	err   error
}

func (r *ring) set(lines ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = lines
}

func (r *ring) source() (*Keyring, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	return ParseKeyring([]byte(strings.Join(r.lines, "\n")))
}

func storeAt(t *testing.T, dir string) state.Store {
	t.Helper()
	s, err := state.Open(t.Context(), state.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func opened(t *testing.T, s state.Secrets, source Source) *Vault {
	t.Helper()
	v, err := Open(t.Context(), s, source)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func name(account, purpose string) state.SecretName {
	return state.SecretName{Account: account, Purpose: purpose}
}

// put adds the generation of a secret that follows n others.
func put(t *testing.T, v *Vault, name state.SecretName, n int64, text string) {
	t.Helper()
	now, err := v.Get(t.Context(), name)
	if err != nil || (n == 0) != (now.Version == 0) {
		t.Fatalf("before Put: %+v, %v; want %d generations", now, err, n)
	}
	if got, err := v.Put(t.Context(), name, now.Version, upstream.NewSecret(text)); err != nil || got <= now.Version {
		t.Fatalf("Put: version %d after %d, %v", got, now.Version, err)
	}
}

// wantText checks a secret of n generations, as far as that can be seen.
func wantText(t *testing.T, v *Vault, name state.SecretName, text, former string, n int64) {
	t.Helper()
	got, err := v.Get(t.Context(), name)
	if err != nil || got.Text.Reveal() != text || got.Former.Reveal() != former || (n == 0) != (got.Version == 0) {
		t.Errorf("%v: got %q, before it %q, version %d, %v; want %q, %q, %d generations",
			name, got.Text.Reveal(), got.Former.Reveal(), got.Version, err, text, former, n)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func TestPutAndGet(t *testing.T) {
	dir := t.TempDir()
	r := &ring{lines: []string{NewKey()}}
	v := opened(t, storeAt(t, dir), r.source)
	n := name("ann", "grant")
	wantText(t, v, n, "", "", 0)
	put(t, v, n, 0, "one")
	put(t, v, n, 1, "two")
	was, err := v.store.Secret(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Put(t.Context(), n, was.Former.Version, upstream.NewSecret("other two"))
	wantErr(t, "a version that was", err, state.ErrConflict)
	wantText(t, opened(t, storeAt(t, dir), r.source), n, "two", "one", 2)
	_, err = v.Put(t.Context(), n, was.Current.Version, upstream.NewSecret(strings.Repeat("x", maxSecret+1)))
	if err == nil {
		t.Error("a huge secret: no error")
	}
}

// A secret that comes after a removed one of the same name is told from it.
func TestVersionsAreNotUsedAgain(t *testing.T) {
	v := opened(t, storeAt(t, t.TempDir()), (&ring{lines: []string{NewKey()}}).source)
	n := name("ann", "grant")
	put(t, v, n, 0, "one")
	before, err := v.Get(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	put(t, v, n, 0, "another")
	if after, err := v.Get(t.Context(), n); err != nil || after.Version == before.Version {
		t.Errorf("version %d again, %v", after.Version, err)
	}
	_, err = v.Put(t.Context(), n, before.Version, upstream.NewSecret("one's successor"))
	wantErr(t, "what follows the removed one", err, state.ErrConflict)
}

// What is sealed for one place opens in no other: neither an account's in
// another's, nor one purpose's for another, nor an old generation as a new one.
func TestSealedOpensInItsPlaceOnly(t *testing.T) {
	r := &ring{lines: []string{NewKey(), NewKey()}}
	v := opened(t, storeAt(t, t.TempDir()), r.source)
	right, err := v.seal(name("ann", "grant"), 2, upstream.NewSecret("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.open(right); err != nil {
		t.Fatalf("in its own place: %v", err)
	}
	for what, change := range map[string]func(*state.Sealed){
		"another account":             func(s *state.Sealed) { s.Name.Account = "bob" },
		"another purpose":             func(s *state.Sealed) { s.Name.Purpose = "upstream-password" },
		"account and purpose shifted": func(s *state.Sealed) { s.Name = name("anng", "rant") },
		"another version":             func(s *state.Sealed) { s.Version = 3 },
		"another key":                 func(s *state.Sealed) { s.Key = v.ring.keys[1].id },
		"a bit flipped":               func(s *state.Sealed) { s.Data = bytes.Clone(s.Data); s.Data[20] ^= 1 },
		"cut off":                     func(s *state.Sealed) { s.Data = s.Data[:10] },
		"nothing":                     func(s *state.Sealed) { s.Data = nil },
	} {
		wrong := right
		change(&wrong)
		_, err := v.open(wrong)
		wantErr(t, what, err, ErrDamaged)
		if err != nil && strings.Contains(err.Error(), "secret\"") {
			t.Errorf("%s: the error tells the secret: %v", what, err)
		}
	}
}

// The attack of 2c: somebody who can write the database swaps two rows.
func TestSwappedRowsDoNotOpen(t *testing.T) {
	s := storeAt(t, t.TempDir())
	v := opened(t, s, (&ring{lines: []string{NewKey()}}).source)
	ann, bob := name("ann", "grant"), name("bob", "grant")
	put(t, v, ann, 0, "ann's")
	put(t, v, bob, 0, "bob's")
	of := func(n state.SecretName) state.Secret {
		found, err := s.Secret(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	was, other := of(ann), of(bob)
	is := was
	is.Current.Data = other.Current.Data
	if err := s.Reseal(t.Context(), was, is); err != nil {
		t.Fatal(err)
	}
	_, err := v.Get(t.Context(), ann)
	wantErr(t, "bob's blob in ann's row", err, ErrDamaged)
	wantText(t, v, bob, "bob's", "", 1)
}

// S7: a key that is missing or wrong keeps a gateway from starting, if anything
// is sealed, and the reason tells what to do.
func TestMissingOrWrongKeyRefusesToOpen(t *testing.T) {
	s := storeAt(t, t.TempDir())
	right, wrong := NewKey(), NewKey()
	if _, err := Open(t.Context(), s, nil); err != nil {
		t.Errorf("nothing sealed, no key: %v", err)
	}
	if _, err := Open(t.Context(), s, (&ring{lines: []string{wrong}}).source); err != nil {
		t.Errorf("nothing sealed, any key: %v", err)
	}
	put(t, opened(t, s, (&ring{lines: []string{right}}).source), name("ann", "grant"), 0, "secret")
	for what, c := range map[string]struct {
		source Source
		hint   string
	}{
		"missing": {nil, "the configuration names no vault"},
		"wrong":   {(&ring{lines: []string{wrong}}).source, "Put the missing key back"},
	} {
		_, err := Open(t.Context(), s, c.source)
		wantErr(t, what, err, ErrNoKey)
		if err != nil && !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: %q, want %q in it", what, err, c.hint)
		}
	}
	for _, lines := range [][]string{{right}, {wrong, right}, {right, wrong}} {
		wantText(t, opened(t, s, (&ring{lines: lines}).source), name("ann", "grant"), "secret", "", 1)
	}
	broken := errors.New("cannot be read")
	_, err := Open(t.Context(), s, (&ring{err: broken}).source)
	wantErr(t, "a keyring that cannot be read", err, broken)
}

func TestWithoutKeysNothingIsSealed(t *testing.T) {
	v := opened(t, storeAt(t, t.TempDir()), nil)
	_, err := v.Put(t.Context(), name("ann", "grant"), 0, upstream.NewSecret("secret"))
	wantErr(t, "Put", err, ErrNoKey)
	_, err = v.Rekey(t.Context(), func(int) {})
	wantErr(t, "Rekey", err, ErrNoKey)
}

// S7: rotation. While it goes on, and when it was broken off, everything opens.
func TestRekeyCanBeBrokenOff(t *testing.T) {
	s := storeAt(t, t.TempDir())
	old, new := NewKey(), NewKey()
	r := &ring{lines: []string{old}}
	server := opened(t, s, r.source)
	const n = 250
	for i := range n {
		put(t, server, name(fmt.Sprintf("user%03d", i), "grant"), 0, fmt.Sprint("one ", i))
		if i%2 == 0 {
			put(t, server, name(fmt.Sprintf("user%03d", i), "grant"), 1, fmt.Sprint("two ", i))
		}
	}
	all := func(v *Vault) {
		t.Helper()
		for i := range n {
			if i%2 == 0 {
				wantText(t, v, name(fmt.Sprintf("user%03d", i), "grant"), fmt.Sprint("two ", i), fmt.Sprint("one ", i), 2)
			} else {
				wantText(t, v, name(fmt.Sprintf("user%03d", i), "grant"), fmt.Sprint("one ", i), "", 1)
			}
		}
	}
	r.set(new, old)
	command := opened(t, s, r.source)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := command.Rekey(ctx, func(done int) {
		if done == 120 {
			cancel()
		}
	})
	if done != 120 || err == nil {
		t.Errorf("broken off: %d and %v, want 120 and an error", done, err)
	}
	all(server) // which has not heard of the new key
	all(command)
	if _, err := Open(t.Context(), s, (&ring{lines: []string{new}}).source); !errors.Is(err, ErrNoKey) {
		t.Errorf("without the old key while something needs it: %v, want ErrNoKey", err)
	}
	if done, err := opened(t, s, r.source).Rekey(t.Context(), func(int) {}); done != n-120 || err != nil {
		t.Errorf("begun again: %d and %v, want %d", done, err, n-120)
	}
	all(opened(t, s, (&ring{lines: []string{new}}).source))
	if done, err := command.Rekey(t.Context(), func(int) {}); done != 0 || err != nil {
		t.Errorf("once more: %d and %v, want nothing to do", done, err)
	}
}

// A running server seals under the new key as soon as the keyring has it.
func TestNewKeyIsTakenUp(t *testing.T) {
	s := storeAt(t, t.TempDir())
	old, new := NewKey(), NewKey()
	r := &ring{lines: []string{old}}
	server := opened(t, s, r.source)
	put(t, server, name("ann", "grant"), 0, "one")
	r.set(new, old)
	put(t, server, name("ann", "grant"), 1, "two")
	found, err := s.Secret(t.Context(), name("ann", "grant"))
	if err != nil || found.Current.Key == found.Former.Key {
		t.Errorf("keys %s and %s, %v; want another one for the later", found.Current.Key, found.Former.Key, err)
	}
	r.err = errors.New("gone for a moment")
	put(t, server, name("ann", "grant"), 2, "three")
	wantText(t, server, name("ann", "grant"), "three", "two", 3)
}

// A keyring that lacks the former key, half written or put there by mistake, locks
// a running server out of nothing.
func TestKeyringWithoutTheFormerKey(t *testing.T) {
	s := storeAt(t, t.TempDir())
	old, new := NewKey(), NewKey()
	r := &ring{lines: []string{old}}
	server := opened(t, s, r.source)
	put(t, server, name("ann", "grant"), 0, "ann's")
	r.set(new)
	put(t, server, name("bob", "grant"), 0, "bob's")
	wantText(t, server, name("ann", "grant"), "ann's", "", 1)
	r.set(new, old)
	wantText(t, opened(t, s, r.source), name("bob", "grant"), "bob's", "", 1)
}

func TestRekeyLeavesWhatDoesNotOpen(t *testing.T) {
	s := storeAt(t, t.TempDir())
	old, new := NewKey(), NewKey()
	r := &ring{lines: []string{old}}
	v := opened(t, s, r.source)
	put(t, v, name("ann", "grant"), 0, "ann's")
	put(t, v, name("zoe", "grant"), 0, "zoe's")
	if err := s.SaveSecret(t.Context(), 0, state.Sealed{Name: name("bob", "grant"), Version: 1, Key: v.ring.keys[0].id, Data: []byte("damaged")}); err != nil {
		t.Fatal(err)
	}
	r.set(new, old)
	done, err := opened(t, s, r.source).Rekey(t.Context(), func(int) {})
	if done != 2 || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "bob") {
		t.Errorf("%d and %v, want the two others, and to hear of bob's", done, err)
	}
}

func TestParseKeyring(t *testing.T) {
	a, b := NewKey(), NewKey()
	if a == b {
		t.Fatal("the same key twice")
	}
	ring, err := ParseKeyring([]byte("# made today\n\n" + a + "\r\n  " + b + "  \n" + a + "\n"))
	if err != nil || len(ring.keys) != 2 {
		t.Fatalf("%v, %v; want two keys", ring, err)
	}
	for _, shown := range []string{fmt.Sprint(ring), fmt.Sprintf("%+v", ring), fmt.Sprintf("%#v", ring)} {
		if shown != "keys "+ring.keys[0].id+", "+ring.keys[1].id {
			t.Errorf("shown as %q, want nothing but the fingerprints", shown)
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "comments only": "# a\n#b\n", "short": a[:40], "long": a + "AAAA", "words": "correct horse battery staple", "two on a line": a + " " + b,
	} {
		_, err := ParseKeyring([]byte(text))
		if err == nil {
			t.Errorf("%s: no error", what)
		} else if strings.Contains(err.Error(), "horse") || strings.Contains(err.Error(), a[:16]) {
			t.Errorf("%s: the error shows the text: %v", what, err)
		}
	}
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte("# comment\n" + NewKey() + "\n"))
	f.Add([]byte{0, '\n', 0xff})
	f.Fuzz(func(t *testing.T, text []byte) {
		if ring, err := ParseKeyring(text); err == nil && len(ring.IDs()) == 0 {
			t.Error("a keyring without a key")
		}
	})
}
