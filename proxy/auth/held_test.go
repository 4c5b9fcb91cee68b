package auth

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// errTaken is what is said of a session whose account was taken from its client.
var errTaken = errors.New("taken away")

// sessionOf logs in to an account that is the client's until still says otherwise.
func sessionOf(t *testing.T, box *upstreamtest.Memory, still func(context.Context) error) (*Gate, pop3.Login) {
	t.Helper()
	for i := range 3 {
		box.Deliver(t, upstreamtest.Letter(i, 100))
	}
	g := New(Options{Locker: state.Off(), Accounts: residents{
		"ann": {Name: "ann", Upstream: "one", Opener: box, Login: "ann", Password: upstream.NewSecret("there"), Still: still}}})
	login, err := g.Authenticate(t.Context(), with("ann", "here-ann"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := login.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g, login
}

// Once the account is taken from its client, a session shows and removes nothing
// more, and the next one can have the maildrop.
func TestSessionEndsWithItsAccount(t *testing.T) {
	for name, use := range map[string]func(pop3.Login) error{
		"fetch": func(l pop3.Login) error { _, err := l.Fetch(t.Context(), 0); return err },
		"top":   func(l pop3.Login) error { _, err := l.Top(t.Context(), 0, 1); return err },
		"seen":  func(l pop3.Login) error { return l.MarkSeen(t.Context(), []int{0}) },
		"remove": func(l pop3.Login) error {
			n, err := l.Remove(t.Context(), []int{0, 1})
			if n != 0 {
				t.Errorf("%d messages removed, want none", n)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := upstreamtest.NewMemory("ann", "there")
				var said error
				g, login := sessionOf(t, box, func(context.Context) error { return said })
				time.Sleep(lookPause)
				if err := login.MarkSeen(t.Context(), nil); err != nil {
					t.Errorf("before: got error %v, want none", err)
				}
				said = errTaken
				time.Sleep(lookPause)
				wantErr(t, "after", use(login), errTaken)
				if opened, closed := box.Handles(); opened != 1 || closed != 1 {
					t.Errorf("%d maildrops opened and %d closed, want 1 and 1 at once", opened, closed)
				}
				unlocked(t, g, "ann")
				said = nil // whatever comes later
				wantErr(t, "again", use(login), errTaken)
				wantErr(t, "DELE", login.Removable(2), errTaken)
				if n := len(box.Messages(t)); n != 3 {
					t.Errorf("%d messages are left, want all 3", n)
				}
				if err := login.Close(); err != nil {
					t.Errorf("close: got error %v, want none", err)
				}
			})
		})
	}
}

// Looking costs a reading of the state, so it is done now and then, but always
// before something is removed.
func TestSessionLooksNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		_, login := sessionOf(t, upstreamtest.NewMemory("ann", "there"), func(context.Context) error { looks++; return nil })
		defer login.Close()
		want := func(what string, n int) {
			t.Helper()
			if looks != n {
				t.Errorf("%s: looked %d times, want %d", what, looks, n)
			}
		}
		fetch := func() {
			r, err := login.Fetch(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
		}
		fetch()
		want("right after the login", 0)
		time.Sleep(lookPause)
		for range 100 {
			fetch()
		}
		want("many fetches later", 1)
		for range 2 {
			if n, err := login.Remove(t.Context(), []int{0}); n != 1 || err != nil {
				t.Errorf("removed %d, %v; want 1", n, err)
			}
		}
		want("with each removal", 3)
	})
}
