package jmapc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// A shelf is an upstream.ListingCache in memory.
type shelf struct {
	mu    sync.Mutex
	texts map[string][]byte
	saves int
}

func newShelf() *shelf { return &shelf{texts: map[string][]byte{}} }

func (s *shelf) Load(_ context.Context, account, key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.texts[account+"\x00"+key]
}

func (s *shelf) Save(_ context.Context, account, key string, listing []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts[account+"\x00"+key] = listing
	s.saves++
}

// rows are what a listing shows.
func rows(l upstream.Listing) []string {
	all := []string{}
	for i := range l.Len() {
		all = append(all, fmt.Sprintf("%s %d", l.AppendUIDL(nil, i), l.Size(i)))
	}
	return all
}

// full lists without anything kept.
func full(t testing.TB, s *jmapserver.Server, url string, policy upstream.Policy) []string {
	t.Helper()
	_, l := open(t, newUpstream(t, Options{URL: url, Policy: policy}), bob)
	return rows(l)
}

// TestKeptListing: however the mailbox changed, the listing is what a session
// without a kept one sees, and small changes cost one small request.
func TestKeptListing(t *testing.T) {
	late := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		change func(s *jmapserver.Server, ids []string)
		again  bool // the inbox is listed anew
	}{
		{"nothing", func(*jmapserver.Server, []string) {}, false},
		{"something elsewhere", func(s *jmapserver.Server, _ []string) { s.Touch() }, false},
		{"new mail", func(s *jmapserver.Server, _ []string) {
			s.Add(upstreamtest.Letter(90, 700), jmapserver.Inbox)
			s.Add(upstreamtest.Letter(91, 700), jmapserver.Inbox)
		}, false},
		{"new mail elsewhere", func(s *jmapserver.Server, _ []string) { s.Add(upstreamtest.Letter(90, 700), jmapserver.Trash) }, false},
		{"new mail in the same second", func(s *jmapserver.Server, ids []string) {
			s.Date(s.Add(upstreamtest.Letter(90, 700), jmapserver.Inbox), time.Date(2026, 1, 1, 0, 0, len(ids), 0, time.UTC))
		}, false},
		{"old mail that is new", func(s *jmapserver.Server, ids []string) {
			s.Date(s.Add(upstreamtest.Letter(90, 700), jmapserver.Inbox), time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
		}, true},
		{"gone for good", func(s *jmapserver.Server, _ []string) { s.Take(t, upstreamtest.Letter(7, 600)) }, false},
		{"the newest gone", func(s *jmapserver.Server, ids []string) { s.Take(t, upstreamtest.Letter(len(ids)-1, 600)) }, false},
		{"all gone", func(s *jmapserver.Server, ids []string) {
			for i := range ids {
				s.Take(t, upstreamtest.Letter(i, 600))
			}
		}, false},
		{"moved away", func(s *jmapserver.Server, ids []string) { s.Move(ids[3], jmapserver.Trash) }, false},
		{"moved away and back", func(s *jmapserver.Server, ids []string) {
			s.Move(ids[3], jmapserver.Trash)
			s.Move(ids[3], jmapserver.Inbox)
		}, false},
		{"moved in", func(s *jmapserver.Server, ids []string) {
			s.Move("M0000041", jmapserver.Inbox)
			s.Date("M0000041", time.Date(2026, 1, 1, 0, 0, 10, 0, time.UTC))
		}, true},
		{"moved in as the newest", func(s *jmapserver.Server, ids []string) {
			s.Move("M0000041", jmapserver.Inbox)
			s.Date("M0000041", late)
		}, false},
		{"flagged", func(s *jmapserver.Server, ids []string) { s.Flag(ids[3], "$seen"); s.Flag(ids[39], "$seen") }, false},
		{"redelivered", func(s *jmapserver.Server, ids []string) {
			s.Take(t, upstreamtest.Letter(5, 600))
			s.Rename(s.Add(upstreamtest.Letter(5, 600), jmapserver.Inbox), ids[5])
		}, true},
		{"updated to be the newest", func(s *jmapserver.Server, ids []string) { s.Date(ids[5], late) }, true},
		{"updated to be older", func(s *jmapserver.Server, ids []string) {
			s.Date(ids[5], time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
		}, true},
		{"more than one wants to hear", func(s *jmapserver.Server, ids []string) {
			for range maxChanges + 1 {
				s.Add(upstreamtest.Letter(90, 600), jmapserver.Inbox)
			}
		}, true},
		{"cannotCalculateChanges", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/changes", func(int, dict) *jmapserver.Answer { return jmapserver.Error("cannotCalculateChanges") })
		}, true},
		{"changes of another state", func(s *jmapserver.Server, _ []string) {
			s.Take(t, upstreamtest.Letter(7, 600))
			lie(s, "Email/changes", func(_ int, args dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Email/changes", Args: dict{"oldState": "1", "newState": "99",
					"created": []any{}, "updated": []any{}, "destroyed": []any{}}}
			})
		}, true},
		{"changes that say nothing", func(s *jmapserver.Server, _ []string) { // as to a made-up state
			s.Take(t, upstreamtest.Letter(7, 600))
			lie(s, "Email/changes", func(_ int, args dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Email/changes", Args: dict{"oldState": args["sinceState"], "newState": "99",
					"created": []any{}, "updated": []any{}, "destroyed": []any{}}}
			})
		}, true},
		{"changes that leave out the newest", func(s *jmapserver.Server, ids []string) {
			s.Take(t, upstreamtest.Letter(len(ids)-1, 600))
			s.Date(s.Add(upstreamtest.Letter(90, 600), jmapserver.Inbox), time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
			lie(s, "Email/changes", func(_ int, args dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Email/changes", Args: dict{"oldState": args["sinceState"], "newState": "99",
					"created": []any{}, "updated": []any{}, "destroyed": []any{}}}
			})
		}, true},
		{"null changes", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/changes", func(int, dict) *jmapserver.Answer { return &jmapserver.Answer{Name: "Email/changes"} })
		}, true},
	} {
		for _, known := range []bool{true, false} { // the session, too
			t.Run(fmt.Sprint(c.name, known), func(t *testing.T) {
				s := jmapserver.New("bob", "secret")
				var ids []string
				for i := range 40 {
					ids = append(ids, s.Add(upstreamtest.Letter(i, 600), jmapserver.Inbox))
				}
				s.Add(upstreamtest.Letter(80, 600), jmapserver.Archive)
				url, kept := serve(t, s), newShelf()
				u := newUpstream(t, Options{URL: url, Listings: kept})
				open(t, u, bob)
				if !known {
					u = newUpstream(t, Options{URL: url, Listings: kept})
				}
				for range 2 { // the second with what the first one kept
					c.change(s, ids)
					before := len(s.Calls())
					_, l := open(t, u, bob)
					calls := s.Calls()[before:]
					s.Method = nil
					if diff := cmp.Diff(full(t, s, url, upstream.Policy{}), rows(l)); diff != "" {
						t.Errorf("listing (-full +kept):\n%s", diff)
					}
					queries := len(slices.DeleteFunc(slices.Clone(calls), func(c string) bool { return c != "Email/query" }))
					if c.again != (queries > 1) {
						t.Errorf("%d queries, want the listing anew: %v; calls: %v", queries, c.again, calls)
					}
					if sessions := slices.Contains(calls, "session"); sessions == known {
						t.Errorf("calls %v, want the session known: %v", calls, known)
					}
					known = true
					c.change = func(*jmapserver.Server, []string) {}
					c.again = false
				}
			})
		}
	}
}

// TestKeptListingFollowsAnyHistory with changes at random.
func TestKeptListingFollowsAnyHistory(t *testing.T) {
	for _, policy := range []upstream.Policy{{}, {Delete: upstream.DeleteFlag}} {
		random := rand.New(rand.NewPCG(1, 2))
		s := jmapserver.New("bob", "secret")
		var ids []string
		add := func(boxes ...string) {
			ids = append(ids, s.Add(upstreamtest.Letter(random.IntN(1000), 600+random.IntN(5)), boxes...))
		}
		for range 30 {
			add(jmapserver.Inbox)
		}
		url := serve(t, s)
		u := newUpstream(t, Options{URL: url, Listings: newShelf(), Policy: policy})
		for round := range 150 {
			for range random.IntN(4) {
				id := ids[random.IntN(len(ids))]
				switch random.IntN(7) {
				case 0:
					s.Move(id, jmapserver.Inbox)
				case 1:
					s.Move(id, jmapserver.Trash)
				case 2:
					s.Flag(id, "$seen")
				case 3:
					s.Flag(id, hiddenKeyword)
				case 4:
					s.Date(id, time.Date(2026, 1, 1, 0, 0, random.IntN(60), 0, time.UTC))
				case 5:
					add(jmapserver.Inbox)
				case 6:
					add(jmapserver.Archive)
				}
			}
			d, l := open(t, u, bob)
			if diff := cmp.Diff(full(t, s, url, policy), rows(l)); diff != "" {
				t.Fatalf("round %d (-full +kept):\n%s", round, diff)
			}
			if l.Len() > 20 {
				if _, err := d.Remove(t.Context(), []int{random.IntN(l.Len())}); err != nil {
					t.Fatal(err)
				}
			}
			d.Close()
			ids = slices.DeleteFunc(ids, func(id string) bool {
				return slices.ContainsFunc(s.Destroyed(), func(d jmapserver.Destroyed) bool { return d.ID == id })
			})
		}
		nothingShared(t, s)
	}
}

// TestDamagedKeptListingIsNone: cut anywhere, changed anywhere in its header, or
// of somebody else.
func TestDamagedKeptListingIsNone(t *testing.T) {
	s, _, _ := letters5(t, Options{})
	kept := newShelf()
	url := serve(t, s)
	u := newUpstream(t, Options{URL: url, Listings: kept})
	open(t, u, bob)
	key := "bob\x00jmap"
	good := kept.texts[key]
	want := full(t, s, url, upstream.Policy{})
	damaged := [][]byte{nil, []byte("{}\n"), []byte("null\n"), append(slices.Clone(good), 0)}
	for n := range len(good) {
		damaged = append(damaged, good[:n])
	}
	for _, change := range [][2]string{
		{`"Account":"a1"`, `"Account":"a2"`}, {`"Inbox":"mb-1"`, `"Inbox":"mb-2"`}, {`"Version":1`, `"Version":2`},
		{`"Messages":5`, `"Messages":4`}, {`"Messages":5`, `"Messages":-1`}, {`"Messages":5`, `"Messages":9000000000`}, {`"Total":5`, `"Total":6`},
	} {
		damaged = append(damaged, []byte(strings.Replace(string(good), change[0], change[1], 1)))
	}
	for n, text := range damaged {
		kept.texts[key] = text
		_, l := open(t, u, bob)
		if diff := cmp.Diff(want, rows(l)); diff != "" {
			t.Errorf("damage %d:\n%s", n, diff)
		}
	}
}

// TestLoginOfTheKnown: with credentials that worked before it is one request,
// which the server judges.
func TestLoginOfTheKnown(t *testing.T) {
	s, u, _ := letters5(t, Options{Listings: newShelf(), Warm: time.Minute})
	requests, trips := 0, 0
	var served []bool
	u.o.Hooks.RoundTrip = func() { requests++ }
	u.o.Hooks.WarmReuse = func(hit bool) { served = append(served, hit) }
	u.o.Hooks.Session = func(roundTrips int, octets int64) {
		if trips += roundTrips; octets < 500 || octets > 10_000 {
			t.Errorf("a session of %d octets", octets)
		}
	}
	poll := func() {
		d, _ := open(t, u, bob)
		d.Close()
	}
	poll()
	if requests != trips {
		t.Errorf("%d requests, and the session took %d", requests, trips)
	}
	requests = 0
	poll()
	if requests != 1 || !slices.Equal(served, []bool{false, true}) {
		t.Errorf("%d requests, served by what was remembered: %v; want 1, the second", requests, served)
	}
	wrong := upstream.Account{User: "bob", Password: upstream.NewSecret("wrong")}
	if _, err := u.Open(t.Context(), wrong); upstream.Kind(err) != "auth" {
		t.Errorf("wrong password: %v, want auth", err)
	}
	s.Revoke()
	if _, err := u.Open(t.Context(), bob); upstream.Kind(err) != "auth" {
		t.Errorf("a password that worked before: %v, want auth", err)
	}
}

// A connection outlives the time between two polls, and a read that waits for the
// next request outlives the connection.
func TestConnectionsWait(t *testing.T) {
	for warm, want := range map[time.Duration]time.Duration{0: 50 * time.Second, time.Minute: time.Minute, 5 * time.Minute: 5 * time.Minute} {
		if got := newTransport(Options{Warm: warm}).IdleConnTimeout; got != want {
			t.Errorf("warm for %v: connections wait %v, want %v", warm, got, want)
		}
	}
}

// TestMemoryIsBounded: it forgets what is too much or too old.
func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	for i := range maxKnown + 10 {
		m.remember(fmt.Sprint(i), facts{}, "inbox")
	}
	if len(m.known) != maxKnown {
		t.Errorf("%d entries, want %d", len(m.known), maxKnown)
	}
	if _, ok := m.find(fmt.Sprint(maxKnown + 9)); !ok {
		t.Error("the newest is forgotten")
	}
	key := m.key(fmt.Sprint(maxKnown + 9))
	k := m.known[key]
	k.until = time.Now().Add(-time.Second)
	m.known[key] = k
	if _, ok := m.find(fmt.Sprint(maxKnown + 9)); ok {
		t.Error("what is too old is still known")
	}
}

func TestIdentities(t *testing.T) {
	_, u, ids := letters5(t, Options{})
	_, l := open(t, u, bob)
	named := l.(upstream.Identified)
	for i, id := range ids {
		if name, identity := string(named.AppendName(nil, i)), string(named.AppendIdentity(nil, i)); name != id || identity != "objectid:"+id {
			t.Errorf("message %d: name %q, identity %q", i, name, identity)
		}
		if !named.Received(i).IsZero() {
			t.Error("a date that was never asked for")
		}
	}
}
