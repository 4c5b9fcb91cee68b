package jmapc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// A till gives the token of the day, and the next day's where that is refused.
type till struct {
	mu      sync.Mutex
	day     int
	today   int // that a new token is at least of
	last    int // there are no days after it; 0: there are
	err     error
	refused []string
}

func (s *till) Token(_ context.Context, refused upstream.Secret) (upstream.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := refused.Reveal(); text != "" {
		s.refused = append(s.refused, text)
		if s.err != nil {
			return upstream.Secret{}, s.err
		}
		if text == s.token() && (s.last == 0 || s.day < s.last) {
			s.day = max(s.day+1, s.today)
		}
	}
	return upstream.NewSecret(s.token()), nil
}

func (s *till) Key() upstream.Secret { return upstream.NewSecret("ann's grant") }

func (s *till) token() string { return fmt.Sprintf("day-%d", s.day) }

func (s *till) account() upstream.Account { return upstream.Account{User: "bob", Tokens: s} }

// takes makes the server take that day's token only, from one request to the
// next: if there were a moment without any, the till would run ahead of it.
func takes(s *jmapserver.Server, day int) { s.AllowOnly(fmt.Sprintf("Bearer day-%d", day)) }

// dawn is takes for a till that may not have been asked for some days, since
// what was read ahead needs no token.
func (s *till) dawn(server *jmapserver.Server, day int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.today = day
	takes(server, day)
}

func TestUpstreamWithTokens(t *testing.T) {
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		s := jmapserver.New("bob", "secret")
		takes(s, 0)
		return upstreamtest.Fixture{Opener: newUpstream(t, Options{URL: serve(t, s)}), Account: new(till).account(), Mailbox: s}
	})
}

// U11: the token ends in the middle of a session, which goes on with the next
// one: with downloads under way, with methods, and with a removal.
func TestFaultU11TokenExpiresInMidSession(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	var letters []string
	for i := range 6 {
		letters = append(letters, upstreamtest.Letter(i, 5000))
		s.Deliver(t, letters[i])
	}
	takes(s, 0)
	tokens := new(till)
	d, _ := open(t, newUpstream(t, Options{URL: serve(t, s)}), tokens.account())
	if _, err := d.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range letters {
		tokens.dawn(s, i)
		if got := read(t, d, i); got != letters[i] {
			t.Errorf("message %d on day %d: %d octets, want %d", i, i, len(got), len(letters[i]))
		}
	}
	tokens.dawn(s, len(letters))
	if n, err := d.Remove(t.Context(), []int{1, 4}); n != 2 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	want := slices.Delete(slices.Delete(slices.Clone(letters), 4, 5), 1, 2)
	if got := s.Messages(t); !slices.Equal(got, want) {
		t.Errorf("%d messages are left, want the %d that were not removed", len(got), len(want))
	}
}

func TestRefusedToken(t *testing.T) {
	for name, test := range map[string]struct {
		tokens *till
		want   error
	}{
		"there is no other":    {&till{last: 1}, upstream.ErrAuth},
		"consent is withdrawn": {&till{err: upstream.ErrConsent}, upstream.ErrConsent},
		"the provider is away": {&till{err: upstream.ErrUnavailable}, upstream.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			takes(s, 9)
			_, err := newUpstream(t, Options{URL: serve(t, s)}).Open(t.Context(), test.tokens.account())
			if !errors.Is(err, test.want) || test.want != upstream.ErrAuth && errors.Is(err, upstream.ErrAuth) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if strings.Contains(fmt.Sprint(err), "day-") {
				t.Errorf("%v shows a token", err)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		s := jmapserver.New("bob", "secret")
		s.Revoke()
		tokens := new(till)
		_, err := newUpstream(t, Options{URL: serve(t, s)}).Open(t.Context(), tokens.account())
		if !errors.Is(err, upstream.ErrAuth) || len(tokens.refused) != 1 {
			t.Errorf("%v after %d refusals, want ErrAuth after 1 and another token", err, len(tokens.refused))
		}
	})
}

// The next login of a source is a single request, whichever token it has by then.
func TestKnownByTheirSource(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	takes(s, 0)
	var mu sync.Mutex
	sessions := 0
	s.HTTP = func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/session" {
			sessions++
		}
		return false
	}
	u, tokens := newUpstream(t, Options{URL: serve(t, s)}), new(till)
	for day := range 3 {
		takes(s, day)
		tokens.day = day
		open(t, u, tokens.account())
	}
	mu.Lock()
	defer mu.Unlock()
	if sessions != 1 {
		t.Errorf("the session was asked for %d times, want once", sessions)
	}
}
