package jmapc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// A notebook is an upstream.Journal in memory.
type notebook struct {
	mu      sync.Mutex
	last    int64
	pending []upstream.Intent
	removed []upstream.Removal
	fail    error // of Begin

	noEnd, noPending error
}

func (n *notebook) Begin(_ context.Context, i upstream.Intent) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return 0, n.fail
	}
	n.last++
	i.ID, i.At = n.last, time.Now()
	n.pending = append(n.pending, i)
	return i.ID, nil
}

func (n *notebook) End(ctx context.Context, id int64, removed []upstream.Removal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := slices.IndexFunc(n.pending, func(i upstream.Intent) bool { return i.ID == id })
	if n.noEnd != nil {
		return n.noEnd
	}
	if at < 0 || ctx.Err() != nil {
		return errors.Join(errors.New("no such intent"), ctx.Err())
	}
	n.pending = slices.Delete(n.pending, at, at+1)
	n.removed = append(n.removed, removed...)
	return nil
}

func (n *notebook) Pending(_ context.Context, account string) (found []upstream.Intent, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.pending {
		if i.Account == account {
			found = append(found, i)
		}
	}
	return found, n.noPending
}

// open tells how many intents are pending, and names tells what was removed.
func (n *notebook) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.pending)
}

func (n *notebook) names() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := []string{}
	for _, r := range n.removed {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// letters5 makes a server with five letters in the inbox.
func letters5(t testing.TB, o Options) (*jmapserver.Server, *Upstream, []string) {
	s := jmapserver.New("bob", "secret")
	var ids []string
	for i := range 5 {
		ids = append(ids, s.Add(upstreamtest.Letter(i, 600), jmapserver.Inbox))
	}
	o.URL = serve(t, s)
	return s, newUpstream(t, o), ids
}

func sizeOf(i int) int64 { return int64(len(upstreamtest.Letter(i, 600))) }

// TestIntentStandsBeforeTheRemovalIsSent, and is struck out with what came of it.
func TestIntentStandsBeforeTheRemovalIsSent(t *testing.T) {
	j := new(notebook)
	s, u, ids := letters5(t, Options{Journal: j, Policy: upstream.Policy{Delete: upstream.DeleteTrash}})
	account := bob
	account.Session = "s1"
	d, _ := open(t, u, account)
	lie(s, "Email/set", func(int, dict) *jmapserver.Answer {
		pending, _ := j.Pending(t.Context(), "bob")
		if len(pending) != 1 {
			t.Fatalf("%d intents when the removal arrives, want 1", len(pending))
		}
		i := pending[0]
		if i.Account != "bob" || i.Session != "s1" || i.Policy != "trash" || i.Mailbox != jmapserver.Inbox || i.Validity != "" ||
			!strings.Contains(i.Names, ids[1]) || strings.Contains(i.Names, ids[0]) {
			t.Errorf("intent %+v", i)
		}
		return nil
	})
	if n, err := d.Remove(t.Context(), []int{1, 2}); n != 2 || err != nil {
		t.Fatalf("removed %d, %v; want 2", n, err)
	}
	want := []upstream.Removal{
		{Name: ids[1], UIDL: ids[1], Size: sizeOf(1), Kept: upstream.Place{Mailbox: jmapserver.Trash, Name: ids[1]}},
		{Name: ids[2], UIDL: ids[2], Size: sizeOf(2), Kept: upstream.Place{Mailbox: jmapserver.Trash, Name: ids[2]}},
	}
	if diff := cmp.Diff(want, j.removed); diff != "" || j.open() != 0 {
		t.Errorf("%d intents left; removed (-want +got):\n%s", j.open(), diff)
	}
}

// relabelled is a listing with unique-ids of somebody else's.
type relabelled struct{ upstream.Listing }

func (l relabelled) AppendUIDL(dst []byte, i int) []byte { return fmt.Appendf(dst, "old:%d", i) }

func TestRemovalsHaveTheUIDLsThatWereShown(t *testing.T) {
	j := new(notebook)
	_, u, ids := letters5(t, Options{Journal: j})
	d, l := open(t, u, bob)
	d.(upstream.Recorder).Shown(relabelled{l})
	if n, err := d.Remove(t.Context(), []int{1, 2}); n != 2 || err != nil {
		t.Fatalf("removed %d, %v; want 2", n, err)
	}
	want := []upstream.Removal{{Name: ids[1], UIDL: "old:1", Size: sizeOf(1)}, {Name: ids[2], UIDL: "old:2", Size: sizeOf(2)}}
	if diff := cmp.Diff(want, j.removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestWithoutAnIntentNothingIsRemoved(t *testing.T) {
	j := &notebook{fail: errors.New("disk full")}
	s, u, _ := letters5(t, Options{Journal: j})
	d, _ := open(t, u, bob)
	n, err := d.Remove(t.Context(), []int{0, 1})
	if n != 0 || upstream.Kind(err) != "unavailable" || sets(s) != 0 {
		t.Errorf("removed %d, %v, asked %d times; want nothing", n, err, sets(s))
	}
}

// TestUnknownOutcomeIsSettledAtTheNextLogin: by looking, never by removing again.
func TestUnknownOutcomeIsSettledAtTheNextLogin(t *testing.T) {
	for _, c := range []struct {
		name    string
		carried []int // messages that the server removed all the same
		kept    bool
		want    string
	}{
		{"nothing was carried out", nil, false, ""},
		{"half was", []int{1}, true, "2"},
		{"all was", []int{1, 2}, true, "23"},
		{"they are not where they were to be", []int{1, 2}, false, "23"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := new(notebook)
			s, u, ids := letters5(t, Options{Journal: j, Policy: upstream.Policy{Delete: upstream.DeleteTrash}})
			var healed atomic.Bool
			s.HTTP = func(http.ResponseWriter, *http.Request) bool {
				if sets(s) > 0 && !healed.Load() {
					panic(http.ErrAbortHandler)
				}
				return false
			}
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer { panic(http.ErrAbortHandler) })
			d, _ := open(t, u, bob)
			if n, err := d.Remove(t.Context(), []int{1, 2}); n != 0 || upstream.Kind(err) != "unavailable" {
				t.Fatalf("removed %d, %v; want unavailable", n, err)
			}
			if j.open() != 1 {
				t.Fatalf("%d intents pending, want 1", j.open())
			}
			to := jmapserver.Archive
			if c.kept {
				to = jmapserver.Trash
			}
			for _, i := range c.carried {
				s.Move(ids[i], to)
			}
			healed.Store(true)
			before := sets(s)
			_, l := open(t, u, bob)
			if want := 5 - len(c.carried); l.Len() != want {
				t.Errorf("%d messages, want %d", l.Len(), want)
			}
			if j.open() != 0 || j.names() != names(c.want) {
				t.Errorf("%d intents pending, removed %s; want %s", j.open(), j.names(), names(c.want))
			}
			for _, r := range j.removed {
				if (r.Kept != upstream.Place{}) != c.kept {
					t.Errorf("%s is kept in %+v", r.Name, r.Kept)
				}
			}
			if sets(s) != before {
				t.Error("something was removed once more")
			}
		})
	}
}

// TestStrangeIntentsHarmNoLogin: too old, of another mailbox, of another adapter,
// or not to be settled now.
func TestStrangeIntentsHarmNoLogin(t *testing.T) {
	good := fmt.Sprintf(`[{"Name":"M0000001","UIDL":"M0000001","Size":%d}]`, sizeOf(0))
	for _, c := range []struct {
		name   string
		intent upstream.Intent
		broken bool
		open   int
	}{
		{"too old", upstream.Intent{Mailbox: jmapserver.Inbox, Names: good, At: time.Now().Add(-8 * 24 * time.Hour)}, false, 0},
		{"another mailbox", upstream.Intent{Mailbox: "INBOX", Validity: "1", Names: "expunge 1 600", At: time.Now()}, false, 1},
		{"another mailbox, too old", upstream.Intent{Mailbox: "INBOX", At: time.Now().Add(-8 * 24 * time.Hour)}, false, 0},
		{"unreadable", upstream.Intent{Mailbox: jmapserver.Inbox, Names: "expunge 1 600", At: time.Now()}, false, 0},
		{"upstream broken", upstream.Intent{Mailbox: jmapserver.Inbox, Names: good, At: time.Now()}, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.intent.Account, c.intent.ID = "bob", 7
			j := &notebook{pending: []upstream.Intent{c.intent}}
			s, u, _ := letters5(t, Options{Journal: j})
			if c.broken {
				lie(s, "Email/get", func(_ int, args dict) *jmapserver.Answer {
					if slices.Contains(args["properties"].([]any), any("mailboxIds")) {
						return jmapserver.Error("serverFail")
					}
					return nil
				})
			}
			d, err := u.Open(t.Context(), bob)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if j.open() != c.open || j.names() != "" || sets(s) != 0 {
				t.Errorf("%d intents left, removed %q, %d sets; want %d and nothing", j.open(), j.names(), sets(s), c.open)
			}
		})
	}
}
