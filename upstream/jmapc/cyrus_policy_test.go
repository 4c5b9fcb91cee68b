package jmapc

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
)

// TestCyrusPolicies removes two messages of four, one of which is in Archive
// too, and brings them back or purges them.
func TestCyrusPolicies(t *testing.T) {
	s := cyrus.Start(t)
	users := 0
	for _, c := range []struct {
		name    string
		policy  upstream.Policy
		folder  string // where they are kept
		restore bool   // can bring them back
		purged  string // what Archive holds after a purge
	}{
		{"expunge", upstream.Policy{}, "", false, "2"},
		{"grace", upstream.Policy{Grace: time.Hour}, "Trash", true, "2"},
		{"trash", upstream.Policy{Delete: upstream.DeleteTrash}, "Trash", true, "2"},
		{"archive", upstream.Policy{Delete: upstream.DeleteArchive}, "Archive", true, "2"},
		{"folder", upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Archive/Old mail/2026"}, "\"Archive/Old mail/2026\"", true, "2"},
		{"flag", upstream.Policy{Delete: upstream.DeleteFlag}, "INBOX", true, "2"},
	} {
		for _, purge := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, purge), func(t *testing.T) {
				users++
				m := s.AddUser(t, fmt.Sprint("user", users), "secret")
				raw := []string{upstreamtest.Letter(0, 700), upstreamtest.Letter(1, 700), upstreamtest.Letter(2, 700), upstreamtest.Letter(3, 700)}
				m.DeliverAll(t, raw)
				m.Copy(t, 3, "Archive")
				j := new(notebook)
				u := onCyrus(t, s, Options{Policy: c.policy, Journal: j, Listings: newShelf()})
				d, l := open(t, u, m.Account())
				before := rows(l)
				if n, err := d.Remove(t.Context(), []int{1, 2}); n != 2 || err != nil {
					t.Fatalf("removed %d, %v; want 2", n, err)
				}
				next, l := open(t, u, m.Account())
				if diff := cmp.Diff([]string{before[0], before[3]}, rows(l)); diff != "" {
					t.Errorf("listed after the removal:\n%s", diff)
				}
				if c.folder != "" {
					if got := m.In(t, c.folder); !slices.Contains(got, raw[1]) {
						t.Errorf("message 1 is not in %s", c.folder)
					}
				}
				if got := m.In(t, "Archive"); !slices.Contains(got, raw[2]) {
					t.Error("message 2 is gone from Archive")
				}
				if len(j.removed) != 2 || j.open() != 0 {
					t.Fatalf("journal: %+v, %d open", j.removed, j.open())
				}
				kept := slices.DeleteFunc(j.removed, func(r upstream.Removal) bool { return r.Kept == (upstream.Place{}) })
				keeper := next.(upstream.Keeper)
				if !purge {
					done, err := keeper.Restore(t.Context(), kept)
					if err != nil || slices.Contains(done, false) || c.restore != (len(done) > 0) {
						t.Errorf("restored %v, %v", done, err)
					}
					if c.restore && !slices.Contains(m.Messages(t), raw[1]) {
						t.Error("message 1 is not back")
					}
				} else {
					done, err := keeper.Purge(t.Context(), kept)
					if err != nil || slices.Contains(done, false) {
						t.Errorf("purged %v, %v", done, err)
					}
					if c.folder != "" && slices.Contains(m.In(t, c.folder), raw[1]) {
						t.Errorf("message 1 is still in %s", c.folder)
					}
				}
				if got := m.In(t, "Archive"); !slices.Contains(got, raw[2]) {
					t.Error("message 2 is gone from Archive in the end")
				}
				if got := m.Messages(t); !slices.Contains(got, raw[0]) || !slices.Contains(got, raw[3]) {
					t.Error("what was never marked is gone")
				}
			})
		}
	}
}

// TestCyrusResume cuts a session off in the middle of its removal, before or
// after Cyrus had it. The next login finds out which, and removes nothing.
func TestCyrusResume(t *testing.T) {
	s := cyrus.Start(t)
	users := 0
	for _, c := range []struct {
		name    string
		policy  upstream.Policy
		arrived bool
		folder  string // where they are kept
	}{
		{"expunge", upstream.Policy{}, true, ""},
		{"expunge", upstream.Policy{}, false, ""},
		{"trash", upstream.Policy{Delete: upstream.DeleteTrash}, true, "Trash"},
		{"trash", upstream.Policy{Delete: upstream.DeleteTrash}, false, "Trash"},
		{"flag", upstream.Policy{Delete: upstream.DeleteFlag}, true, "INBOX"},
		{"flag", upstream.Policy{Delete: upstream.DeleteFlag}, false, "INBOX"},
	} {
		t.Run(fmt.Sprint(c.name, c.arrived), func(t *testing.T) {
			users++
			m := s.AddUser(t, fmt.Sprint("user", users), "secret")
			raw := []string{upstreamtest.Letter(0, 700), upstreamtest.Letter(1, 700), upstreamtest.Letter(2, 700)}
			m.DeliverAll(t, raw)
			front := newCutter(t, s, c.arrived)
			j := new(notebook)
			u := newUpstream(t, Options{URL: front.url, Policy: c.policy, Journal: j})
			d, l := open(t, u, m.Account())
			before := rows(l)
			front.armed.Store(true)
			if n, err := d.Remove(t.Context(), []int{0, 2}); n != 0 || upstream.Kind(err) != "unavailable" || j.open() != 1 {
				t.Fatalf("removed %d, %v; %d intents pending", n, err, j.open())
			}
			front.armed.Store(false)
			front.cut.Store(false)
			_, l = open(t, u, m.Account())
			want, noted := before, 0
			if c.arrived {
				want, noted = before[1:2], 2
			}
			if diff := cmp.Diff(want, rows(l)); diff != "" {
				t.Errorf("listed afterwards:\n%s", diff)
			}
			if j.open() != 0 || len(j.removed) != noted || front.sets.Load() != 1 {
				t.Fatalf("%d intents pending, removed %+v, %d removals sent; want 0, %d and 1", j.open(), j.removed, front.sets.Load(), noted)
			}
			for _, r := range j.removed {
				if kept := r.Kept != (upstream.Place{}); kept != (c.folder != "") {
					t.Errorf("%s is kept in %+v", r.Name, r.Kept)
				}
			}
			if c.folder != "" && c.arrived && !slices.Contains(m.In(t, c.folder), raw[0]) {
				t.Errorf("message 0 is not in %s", c.folder)
			}
			if got := m.Messages(t); !slices.Contains(got, raw[1]) || !c.arrived && len(got) != 3 {
				t.Errorf("%d messages are left, or what was never marked is gone", len(got))
			}
		})
	}
}

// A cutter stands in front of Cyrus. Once armed it cuts off the next Email/set,
// and whatever comes after that.
type cutter struct {
	url        string
	armed, cut atomic.Bool
	sets       atomic.Int32
}

func newCutter(t *testing.T, s *cyrus.Server, arrive bool) *cutter {
	t.Helper()
	target, err := url.Parse(s.JMAP)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = ""
	c := &cutter{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // of which Cyrus makes its URLs
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || c.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		isSet := bytes.Contains(body, []byte("Email/set"))
		if isSet {
			c.sets.Add(1)
		}
		if !isSet || !c.armed.Load() {
			proxy.ServeHTTP(w, r)
			return
		}
		c.cut.Store(true)
		if arrive {
			proxy.ServeHTTP(httptest.NewRecorder(), r)
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(front.Close)
	c.url = front.URL
	return c
}

func TestCyrusMarkSeen(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	m.DeliverAll(t, []string{upstreamtest.Letter(0, 700), upstreamtest.Letter(1, 700)})
	d, _ := open(t, onCyrus(t, s, Options{Policy: upstream.Policy{Seen: true}}), m.Account())
	if err := d.MarkSeen(t.Context(), []int{1}); err != nil {
		t.Fatal(err)
	}
	got := bareKeywords(t, s, m.Account())
	if want := "[map[] map[$seen:true]]"; got != want {
		t.Errorf("keywords %s, want %s", got, want)
	}
}

func bareKeywords(t *testing.T, s *cyrus.Server, a upstream.Account) string {
	b := newBare(s, a, true)
	var ids []string
	for _, e := range b.list(t) {
		ids = append(ids, fmt.Sprintf("%q", e.ID))
	}
	text := b.request(t, "POST", "/jmap/", fmt.Sprintf(`{"using":["urn:ietf:params:jmap:core","urn:ietf:params:jmap:mail"],
		"methodCalls":[["Email/get",{"accountId":%q,"ids":[%s],"properties":["keywords"]},"0"]]}`, a.User, strings.Join(ids, ",")))
	var answer struct{ MethodResponses [][]any }
	decode(t, text, &answer)
	var all []any
	for _, e := range answer.MethodResponses[0][1].(map[string]any)["list"].([]any) {
		all = append(all, e.(map[string]any)["keywords"])
	}
	return fmt.Sprint(all)
}

// TestCyrusKeptListing: another client changes the mailbox in every way.
func TestCyrusKeptListing(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	var raw []string
	for i := range 30 {
		raw = append(raw, upstreamtest.Letter(i, 700))
	}
	m.DeliverAll(t, raw)
	kept := newShelf()
	u := onCyrus(t, s, Options{Listings: kept})
	requests := 0
	u.o.Hooks.RoundTrip = func() { requests++ }
	open(t, u, m.Account())
	for _, c := range []struct {
		name   string
		change func(t *testing.T)
		most   int // requests
	}{
		{"nothing", func(t *testing.T) {}, 1},
		{"new mail", func(t *testing.T) { m.Deliver(t, upstreamtest.Letter(100, 900)) }, 1},
		{"deleted", func(t *testing.T) { m.Take(t, raw[4]) }, 1},
		{"deleted and delivered again", func(t *testing.T) { m.Take(t, raw[6]); m.Deliver(t, raw[6]) }, 2},
		{"delivered again", func(t *testing.T) { m.Deliver(t, raw[4]) }, 1},
		{"a second copy", func(t *testing.T) { m.Deliver(t, raw[8]) }, 2},
		{"flagged", func(t *testing.T) { m.Do(t, "SELECT INBOX", `STORE 2:5 +FLAGS (\Seen \Flagged)`) }, 1},
		{"moved away", func(t *testing.T) { m.Do(t, "SELECT INBOX", "MOVE 3 Archive") }, 1},
		{"moved back", func(t *testing.T) { m.Do(t, "SELECT Archive", "MOVE 1 INBOX") }, 2},
		{"copied elsewhere", func(t *testing.T) { m.Copy(t, 2, "Archive") }, 1},
		{"new mail elsewhere", func(t *testing.T) { m.Copy(t, 5, "Trash") }, 1},
		{"marked as deleted", func(t *testing.T) { m.Do(t, "SELECT INBOX", `STORE 9 +FLAGS (\Deleted)`) }, 1},
		{"unmarked", func(t *testing.T) { m.Do(t, "SELECT INBOX", `STORE 9 -FLAGS (\Deleted)`) }, 2},
		{"the newest gone", func(t *testing.T) { m.Take(t, upstreamtest.Letter(100, 900)) }, 1},
		{"old mail", func(t *testing.T) { m.Do(t, "APPEND INBOX \" 1-Jan-2020 00:00:00 +0000\" {8+}\r\nA: b\r\n\r\n") }, 2},
		{"all gone", func(t *testing.T) { m.Do(t, "SELECT INBOX", `STORE 1:* +FLAGS (\Deleted)`, "EXPUNGE") }, 2},
		{"new mail in an empty mailbox", func(t *testing.T) { m.Deliver(t, raw[1]); m.Deliver(t, raw[2]) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change(t)
			requests = 0
			_, l := open(t, u, m.Account())
			n := requests
			_, want := open(t, onCyrus(t, s, Options{}), m.Account())
			if diff := cmp.Diff(rows(want), rows(l)); diff != "" {
				t.Errorf("listing (-full +kept):\n%s", diff)
			}
			if n > c.most {
				t.Errorf("%d requests, want %d", n, c.most)
			}
		})
	}
}

// TestCyrusIdentities: the same messages by IMAP and by JMAP.
func TestCyrusIdentities(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	m.DeliverAll(t, []string{upstreamtest.Letter(0, 700), upstreamtest.Letter(1, 700), upstreamtest.Letter(2, 700)})
	_, byJMAP := open(t, onCyrus(t, s, Options{}), m.Account())
	d, err := imapc.New(imapc.Options{Address: s.IMAP, TLS: imapc.TLSOff}).Open(t.Context(), m.Account())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	byIMAP, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, two := byJMAP.(upstream.Identified), byIMAP.(upstream.Identified)
	if one.Len() != 3 || two.Len() != 3 {
		t.Fatalf("%d and %d messages, want 3", one.Len(), two.Len())
	}
	for i := range one.Len() {
		if a, b := one.AppendIdentity(nil, i), two.AppendIdentity(nil, i); string(a) != string(b) || len(a) == 0 {
			t.Errorf("message %d is %q by JMAP, %q by IMAP", i, a, b)
		}
	}
}
