package jmapc

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest/jmapserver"
)

func lost() *jmapserver.Answer { panic(http.ErrAbortHandler) }

func failed() *jmapserver.Answer { return jmapserver.Error("serverFail") }

// A mood is how a server answers methods, and may change at any time: a request
// that is cut off may not be over when the next one comes.
type mood struct {
	atomic.Pointer[func(name string, args dict) *jmapserver.Answer]
}

// moody gives a server that has had no request yet a mood, at first a good one.
func moody(s *jmapserver.Server) *mood {
	m := &mood{}
	s.Method = func(name string, args dict) *jmapserver.Answer {
		if answer := m.Load(); answer != nil {
			return (*answer)(name, args)
		}
		return nil
	}
	return m
}

func (m *mood) set(answer func(name string, args dict) *jmapserver.Answer) { m.Store(&answer) }

// on answers one method.
func (m *mood) on(method string, answer func() *jmapserver.Answer) {
	m.set(func(name string, _ dict) *jmapserver.Answer {
		if name != method {
			return nil
		}
		return answer()
	})
}

// TestSmallRequests: a server that takes little at once gets little at once.
func TestSmallRequests(t *testing.T) {
	s, u, _ := letters5(t, Options{})
	s.MaxSizeRequest = 1300
	d, _ := open(t, u, bob)
	if n, err := d.Remove(t.Context(), []int{0, 1, 2, 3, 4}); n != 5 || err != nil {
		t.Errorf("removed %d, %v; want 5", n, err)
	}
	if n := sets(s); n < 2 || n > 5 {
		t.Errorf("%d requests, want some", n)
	}
}

// TestArchiveThatCannotBeMade: nothing is moved, and it is tried again another time.
func TestArchiveThatCannotBeMade(t *testing.T) {
	for name, answer := range map[string]func() *jmapserver.Answer{
		"an error":   failed,
		"lost":       lost,
		"no outcome": func() *jmapserver.Answer { return &jmapserver.Answer{Name: "Mailbox/set", Args: dict{}} },
	} {
		t.Run(name, func(t *testing.T) {
			j := new(notebook)
			s, u, _ := letters5(t, Options{Journal: j, Policy: upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}})
			m := moody(s)
			d, _ := open(t, u, bob)
			m.on("Mailbox/set", answer)
			n, err := d.Remove(t.Context(), []int{0})
			if n != 0 || upstream.Kind(err) != "unavailable" || sets(s) != 0 || j.last != 0 {
				t.Errorf("removed %d, %v, %d sets, %d intents; want nothing", n, err, sets(s), j.last)
			}
			m.Store(nil)
			if n, err := d.Remove(t.Context(), []int{0}); n != 1 || err != nil {
				t.Errorf("removed %d, %v; want 1", n, err)
			}
		})
	}
	t.Run("server gone", func(t *testing.T) {
		s, u, _ := letters5(t, Options{Policy: upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}})
		m := moody(s)
		d, _ := open(t, u, bob)
		m.set(func(string, dict) *jmapserver.Answer { return lost() })
		if n, err := d.Remove(t.Context(), []int{0}); n != 0 || upstream.Kind(err) != "unavailable" {
			t.Errorf("removed %d, %v; want unavailable", n, err)
		}
	})
}

// TestOutcomeThatCannotBeNoted: they are gone all the same, and the next login
// notes it.
func TestOutcomeThatCannotBeNoted(t *testing.T) {
	var log strings.Builder
	j := &notebook{noEnd: errors.New("disk full")}
	_, u, ids := letters5(t, Options{Journal: j, Log: slog.New(slog.NewTextHandler(&log, nil))})
	d, _ := open(t, u, bob)
	if n, err := d.Remove(t.Context(), []int{1}); n != 1 || err != nil {
		t.Errorf("removed %d, %v; want 1", n, err)
	}
	open(t, u, bob)
	for _, warning := range []string{"removal not noted", "unfinished removal not settled"} {
		if !strings.Contains(log.String(), `level=WARN msg="`+warning) {
			t.Errorf("log lacks %q:\n%s", warning, log.String())
		}
	}
	if j.open() != 1 || j.names() != "" {
		t.Errorf("%d intents pending, removed %q", j.open(), j.names())
	}
	j.noEnd = nil
	open(t, u, bob)
	if j.open() != 0 || j.names() != ids[1] {
		t.Errorf("%d intents pending, removed %q; want %s", j.open(), j.names(), ids[1])
	}
}

// TestLoginWithoutItsJournal: what is unfinished threatens no mail.
func TestLoginWithoutItsJournal(t *testing.T) {
	_, u, _ := letters5(t, Options{Journal: &notebook{noPending: errors.New("disk broken")}})
	if _, l := open(t, u, bob); l.Len() != 5 {
		t.Errorf("%d messages, want 5", l.Len())
	}
}

// interrupted makes the journal hold a removal of message 1 whose outcome nobody
// knows.
func interrupted(t *testing.T) (*mood, *Upstream, *notebook) {
	t.Helper()
	j := new(notebook)
	s, u, _ := letters5(t, Options{Journal: j})
	m := moody(s)
	d, _ := open(t, u, bob)
	var cut atomic.Bool
	m.set(func(name string, _ dict) *jmapserver.Answer {
		if cut.Store(cut.Load() || name == "Email/set"); cut.Load() {
			return lost()
		}
		return nil
	})
	if n, err := d.Remove(t.Context(), []int{1}); n != 0 || err == nil || j.open() != 1 {
		t.Fatalf("removed %d, %v; %d intents pending", n, err, j.open())
	}
	m.Store(nil)
	return m, u, j
}

// looks answers each Email/get that asks where messages are.
func (m *mood) looks(look func() *jmapserver.Answer) {
	m.set(func(name string, args dict) *jmapserver.Answer {
		if properties, _ := args["properties"].([]any); name == "Email/get" && slices.Contains(properties, any("mailboxIds")) {
			return look()
		}
		return nil
	})
}

// TestEmptyAnswerSettlesNothing: a message that is neither shown nor said to be
// gone is neither.
func TestEmptyAnswerSettlesNothing(t *testing.T) {
	m, u, j := interrupted(t)
	m.looks(func() *jmapserver.Answer { return emailsOf() })
	d, err := u.Open(t.Context(), bob)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if j.open() != 1 || j.names() != "" {
		t.Errorf("%d intents pending, removed %q; want 1 and nothing", j.open(), j.names())
	}
}

// TestLoginThatIsGivenUpSettlesNoMore: of two intents the second is not looked at.
func TestLoginThatIsGivenUpSettlesNoMore(t *testing.T) {
	m, u, j := interrupted(t)
	second := j.pending[0]
	second.ID = 77
	j.pending = append(j.pending, second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var looks atomic.Int32
	m.looks(func() *jmapserver.Answer {
		looks.Add(1)
		cancel()
		return lost()
	})
	if d, err := u.Open(ctx, bob); err == nil {
		d.Close()
	}
	if looks.Load() != 1 || j.open() != 2 {
		t.Errorf("%d looks, %d intents pending; want 1 and 2", looks.Load(), j.open())
	}
}

// TestReadOnlyAccountKeepsEverything: nothing is restored, purged or marked.
func TestReadOnlyAccountKeepsEverything(t *testing.T) {
	s, u, ids := letters5(t, Options{Policy: upstream.Policy{Seen: true}})
	s.Session = func(session map[string]any) {
		session["accounts"].(dict)[jmapserver.AccountID].(dict)["isReadOnly"] = true
	}
	d, _ := open(t, u, bob)
	kept := []upstream.Removal{{Name: ids[0], Size: sizeOf(0), Kept: upstream.Place{Mailbox: jmapserver.Trash, Name: ids[0]}}}
	k := d.(upstream.Keeper)
	for name, do := range map[string]func(context.Context, []upstream.Removal) ([]bool, error){"restore": k.Restore, "purge": k.Purge} {
		if done, err := do(t.Context(), kept); !errors.Is(err, upstream.ErrRejected) || len(done) != 1 || done[0] {
			t.Errorf("%s: %v, %v; want rejected", name, done, err)
		}
	}
	if err := d.MarkSeen(t.Context(), []int{0}); !errors.Is(err, upstream.ErrRejected) {
		t.Errorf("marked as read: %v; want rejected", err)
	}
	if sets(s) != 0 {
		t.Errorf("%d sets", sets(s))
	}
}

// TestMarkingThatFails: the error says so, and nothing else happens.
func TestMarkingThatFails(t *testing.T) {
	for name, answer := range map[string]func() *jmapserver.Answer{"an error": failed, "lost": lost} {
		t.Run(name, func(t *testing.T) {
			s, u, ids := letters5(t, Options{Policy: upstream.Policy{Seen: true}})
			m := moody(s)
			d, _ := open(t, u, bob)
			m.on("Email/set", answer)
			if err := d.MarkSeen(t.Context(), []int{0}); upstream.Kind(err) != "unavailable" {
				t.Errorf("got %v, want unavailable", err)
			}
			if got := s.Keywords(ids[0]); len(got) > 0 {
				t.Errorf("keywords %q", got)
			}
		})
	}
}
