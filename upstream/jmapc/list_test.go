package jmapc

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

type dict = map[string]any

// lie changes what the server answers to a method: the nth call of that name is
// given to edit, which returns the arguments to send instead of the true ones.
func lie(s *jmapserver.Server, name string, edit func(n int, args dict) *jmapserver.Answer) {
	var mu sync.Mutex // several requests may be under way
	n := 0
	s.Method = func(called string, args dict) *jmapserver.Answer {
		if called != name {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		return edit(n, args)
	}
}

func listing5(t *testing.T, s *jmapserver.Server) (*Upstream, []string) {
	var ids []string
	for i := range 5 {
		ids = append(ids, s.Add(upstreamtest.Letter(i, 600), jmapserver.Inbox))
	}
	return newUpstream(t, Options{URL: serve(t, s)}), ids
}

func list(t *testing.T, u *Upstream) (upstream.Listing, error) {
	t.Helper()
	d, err := u.Open(t.Context(), bob)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.List(t.Context())
}

// query answers Email/query with these ids.
func query(state string, total int, ids ...any) *jmapserver.Answer {
	return &jmapserver.Answer{Name: "Email/query", Args: dict{"queryState": state, "total": total, "ids": ids}}
}

func emailsOf(list ...any) *jmapserver.Answer {
	return &jmapserver.Answer{Name: "Email/get", Args: dict{"state": "1", "list": list, "notFound": nil}}
}

func entry(id string, size any) dict {
	return dict{"id": id, "blobId": "b" + id, "size": size, "receivedAt": "no date at all"}
}

// TestListing: a listing is whole, or an error.
func TestListing(t *testing.T) {
	for _, c := range []struct {
		name   string
		method string
		edit   func(n int, args dict) *jmapserver.Answer
		want   string // unique-ids, or the kind of error
	}{
		{"another order", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(entry("M0000005", 5), entry("M0000001", 1), entry("M0000003", 3), entry("M0000002", 2), entry("M0000004", 4))
		}, "M0000001 M0000002 M0000003 M0000004 M0000005"},
		{"one not found", "Email/get", func(int, dict) *jmapserver.Answer {
			a := emailsOf(entry("M0000001", 1), entry("M0000003", 3), entry("M0000004", 4), entry("M0000005", 5))
			a.Args.(dict)["notFound"] = []string{"M0000002"}
			return a
		}, "M0000001 M0000003 M0000004 M0000005"},
		{"one left out", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(entry("M0000001", 1), entry("M0000003", 3), entry("M0000004", 4), entry("M0000005", 5))
		}, "unavailable"},
		{"null list", "Email/get", func(int, dict) *jmapserver.Answer { return emailsOf() }, "unavailable"},
		{"negative size", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(entry("M0000001", -1))
		}, "unavailable"},
		{"size of a text", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(entry("M0000001", "big"))
		}, "unavailable"},
		{"huge size", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(entry("M0000001", 1<<52))
		}, "unavailable"},
		{"empty blobId", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(dict{"id": "M0000001", "blobId": "", "size": 1})
		}, "unavailable"},
		{"long blobId", "Email/get", func(int, dict) *jmapserver.Answer {
			return emailsOf(dict{"id": "M0000001", "blobId": strings.Repeat("x", 256), "size": 1})
		}, "unavailable"},
		{"the same page for ever", "Email/query", func(int, dict) *jmapserver.Answer {
			return query("1", 99, "M0000001", "M0000002")
		}, "unavailable"},
		{"a repetition", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			return query("1", 3, "M0000001", "M0000002", "M0000001")
		}, "M0000001 M0000002"},
		{"total too high", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			if n%2 == 0 {
				return query("1", 0)
			}
			return query("1", 99, "M0000001")
		}, "unavailable"},
		{"no total", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			if n == 2 {
				return query("1", 0)
			}
			return query("1", 0, "M0000001")
		}, "M0000001"},
		{"changes for ever", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			return query(fmt.Sprint(n), 99, fmt.Sprintf("M%07d", n))
		}, "unavailable"},
		{"changes once", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			if n == 1 {
				return query("0", 99, "M0000003")
			}
			return nil
		}, "M0000001 M0000002 M0000003 M0000004 M0000005"},
		{"asks for less", "Email/get", func(_ int, args dict) *jmapserver.Answer {
			if len(args["ids"].([]any)) > 2 && args["properties"] != nil {
				return jmapserver.Error("requestTooLarge")
			}
			return nil
		}, "unavailable"}, // 16 is the least that is tried
		{"busy once", "Email/query", func(n int, _ dict) *jmapserver.Answer {
			if n == 1 {
				return jmapserver.Error("serverUnavailable")
			}
			return nil
		}, "M0000001 M0000002 M0000003 M0000004 M0000005"},
		{"query forbidden", "Email/query", func(int, dict) *jmapserver.Answer { return jmapserver.Error("forbidden") }, "rejected"},
		{"get fails", "Email/get", func(int, dict) *jmapserver.Answer { return jmapserver.Error("serverFail") }, "unavailable"},
		{"null answer", "Email/query", func(int, dict) *jmapserver.Answer { return &jmapserver.Answer{Name: "Email/query"} }, "unavailable"},
		{"query that says nothing", "Email/query", func(int, dict) *jmapserver.Answer {
			return &jmapserver.Answer{Name: "Email/query", Args: dict{"ids": []any{}}}
		}, "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			lie(s, c.method, c.edit)
			u, _ := listing5(t, s)
			l, err := list(t, u)
			got := upstream.Kind(err)
			if err == nil {
				got = strings.Join(uidls(l), " ")
			}
			if got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

func uidls(l upstream.Listing) (all []string) {
	for i := range l.Len() {
		all = append(all, string(l.AppendUIDL(nil, i)))
	}
	return all
}

// TestListingAsksForLess: the page is halved until the server takes it.
func TestListingAsksForLess(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	for i := range 100 {
		s.Deliver(t, upstreamtest.Letter(i, 600))
	}
	lie(s, "Email/get", func(_ int, args dict) *jmapserver.Answer {
		if len(args["ids"].([]any)) > 40 {
			return jmapserver.Error("requestTooLarge")
		}
		return nil
	})
	l, err := list(t, newUpstream(t, Options{URL: serve(t, s)}))
	if err != nil || l.Len() != 100 {
		t.Errorf("%d messages, %v; want 100", l.Len(), err)
	}
}

// TestServersOwnLimit: a page shorter than asked for is not the last one.
func TestServersOwnLimit(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	lie(s, "Email/query", func(n int, args dict) *jmapserver.Answer {
		position, _ := args["position"].(float64)
		ids := []any{}
		for i := int(position); i < min(5, int(position)+2); i++ {
			ids = append(ids, fmt.Sprintf("M%07d", i+1))
		}
		return &jmapserver.Answer{Name: "Email/query", Args: dict{"queryState": "1", "ids": ids, "limit": 2}}
	})
	u, ids := listing5(t, s)
	l, err := list(t, u)
	if err != nil || !slices.Equal(uidls(l), ids) {
		t.Errorf("got %v and %v, want %v", uidls(l), err, ids)
	}
}

// pages is a server with so many messages, which shows ten at once; asked is
// given the position of each page before it is answered.
func pages(t *testing.T, messages int, asked func(position int) *jmapserver.Answer) *Upstream {
	s := jmapserver.New("bob", "secret")
	s.MaxObjectsInGet = 10
	for i := range messages {
		s.Add(upstreamtest.Letter(i, 600), jmapserver.Inbox)
	}
	s.Method = func(called string, args dict) *jmapserver.Answer {
		if called != "Email/query" {
			return nil
		}
		position, _ := args["position"].(float64)
		return asked(int(position))
	}
	return newUpstream(t, Options{URL: serve(t, s)})
}

// TestPagesAhead: the next pages are asked for before one has come, and each of
// them once.
func TestPagesAhead(t *testing.T) {
	var mu sync.Mutex
	times := map[int]int{}
	third := make(chan struct{})
	u := pages(t, 45, func(position int) *jmapserver.Answer {
		mu.Lock()
		defer mu.Unlock()
		times[position]++
		switch position {
		case 10:
			mu.Unlock()
			select {
			case <-third:
			case <-time.After(10 * time.Second):
				t.Error("the third page was not asked for while the second is on its way")
			}
			mu.Lock()
		case 20:
			close(third)
		}
		return nil
	})
	if l, err := list(t, u); err != nil || l.Len() != 45 {
		t.Fatalf("%v, want 45 messages", err)
	}
	if want := map[int]int{0: 1, 10: 1, 20: 1, 30: 1, 40: 1}; !maps.Equal(times, want) {
		t.Errorf("pages were asked for so often: %v, want %v", times, want)
	}
}

// TestPagesAheadThatFail: a page that failed when nobody waited for it is one
// that was not asked for.
func TestPagesAheadThatFail(t *testing.T) {
	for _, kind := range []string{"serverFail", "serverUnavailable", "forbidden", "requestTooLarge"} {
		t.Run(kind, func(t *testing.T) {
			var mu sync.Mutex
			failed := map[int]bool{}
			u := pages(t, 95, func(position int) *jmapserver.Answer {
				mu.Lock()
				defer mu.Unlock()
				if position%20 == 10 && !failed[position] {
					failed[position] = true
					return jmapserver.Error(kind)
				}
				return nil
			})
			l, err := list(t, u)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i := range 95 {
				want = append(want, fmt.Sprintf("M%07d", i+1))
			}
			if got := uidls(l); !slices.Equal(got, want) {
				t.Errorf("got %v, want M0000001 to M0000095", got)
			}
			if len(failed) != 5 {
				t.Errorf("failed at %v, want five pages", failed)
			}
		})
	}
}

// TestPagesAheadOfAnotherListing: pages of a mailbox that changed in between make
// no listing together with those before.
func TestPagesAheadOfAnotherListing(t *testing.T) {
	var mu sync.Mutex
	changed := false
	u := pages(t, 45, func(position int) *jmapserver.Answer {
		mu.Lock()
		defer mu.Unlock()
		if position == 30 && !changed {
			changed = true
			return query("another", 45, "M0000031")
		}
		return nil
	})
	l, err := list(t, u)
	if err != nil || l.Len() != 45 || !changed {
		t.Errorf("%v, changed: %v; want 45 messages of the second attempt", err, changed)
	}
}

func TestTooManyMessages(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	listing5(t, s)
	_, err := list(t, newUpstream(t, Options{URL: serve(t, s), MaxMessages: 4}))
	if upstream.Kind(err) != "rejected" {
		t.Errorf("got %v, want rejected", err)
	}
}

// TestUIDLOfUnusualIDs: what POP3 cannot carry is hashed, the same way for ever.
func TestUIDLOfUnusualIDs(t *testing.T) {
	l := new(listing)
	names := []string{
		strings.Repeat("a", 70), strings.Repeat("a", 71), strings.Repeat("a", 255),
		"with space", "caf\xc3\xa9", "\x00", ".starts-with-a-dot", "~!\"",
	}
	for _, id := range names {
		if err := l.add(&message{ID: id, BlobID: "b"}); err != nil {
			t.Fatal(err)
		}
	}
	got := uidls(l)
	seen := map[string]bool{}
	for i, u := range got {
		if len(u) < 1 || len(u) > 70 || strings.ContainsFunc(u, func(r rune) bool { return r < 0x21 || r > 0x7E }) || seen[u] {
			t.Errorf("%q: unique-id %q", names[i], u)
		}
		seen[u] = true
	}
	for i := range names {
		if shown := got[i] == names[i]; shown != (i == 0 || i == 7) {
			t.Errorf("%q is shown as %q", names[i], got[i])
		}
	}
	const want = ".eefa4cfbea79400c2f4239e1f702e02ebece761f78b6a35c9d2c167a79f9570c"
	if got[1] != want {
		t.Errorf("the hash changed, and with it what every client remembers: got %q, want %q", got[1], want)
	}
}

// TestBigListing: the numbers of a mailbox of 100,000 messages.
func TestBigListing(t *testing.T) {
	const n = 100_000
	s := jmapserver.New("bob", "secret")
	s.MaxObjectsInGet = 5000
	lie(s, "Email/query", func(_ int, args dict) *jmapserver.Answer {
		position, _ := args["position"].(float64)
		ids := []any{}
		for i := int(position); i < min(n, int(position)+4096); i++ {
			ids = append(ids, fmt.Sprintf("M%024d", i))
		}
		return query("1", n, ids...)
	})
	whole := s.Method
	s.Method = func(name string, args dict) *jmapserver.Answer {
		if name != "Email/get" {
			return whole(name, args)
		}
		var list []any
		for _, id := range args["ids"].([]any) {
			list = append(list, entry(id.(string), 1000))
		}
		return emailsOf(list...)
	}
	l, err := list(t, newUpstream(t, Options{URL: serve(t, s)}))
	if err != nil || l.Len() != n {
		t.Fatalf("%v, want %d messages", err, n)
	}
	if got, want := uidls(l)[n-1], fmt.Sprintf("M%024d", n-1); got != want || l.Size(n-1) != 1000 {
		t.Errorf("the last one is %q with %d octets, want %q with 1000", got, l.Size(n-1), want)
	}
	kept := l.(*listing)
	if octets := cap(kept.names) + 4*cap(kept.ends) + 8*cap(kept.sizes); octets > 120*n {
		t.Errorf("%d octets for each message", octets/n)
	}
}
