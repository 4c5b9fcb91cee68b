package jmapc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

// left returns the ids of listing5 that are in a mailbox.
func left(s *jmapserver.Server, box string) []string {
	all := []string{}
	for _, raw := range s.In(box) {
		for i := range 5 {
			if raw == upstreamtest.Letter(i, 600) {
				all = append(all, fmt.Sprintf("M%07d", i+1))
			}
		}
	}
	return all
}

// sets counts how often the removal was sent.
func sets(s *jmapserver.Server) int {
	return len(slices.DeleteFunc(s.Calls(), func(c string) bool { return c != "Email/set" }))
}

// TestRemove removes messages 1 and 2 of five while something goes wrong.
func TestRemove(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   func(s *jmapserver.Server, ids []string)
		removed int
		kind    string
		left    string // in the inbox
		sets    int    // at most
	}{
		{"nothing", func(*jmapserver.Server, []string) {}, 2, "", "145", 1},
		{"stateMismatch once", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(n int, _ dict) *jmapserver.Answer {
				if n == 1 {
					return jmapserver.Error("stateMismatch")
				}
				return nil
			})
		}, 2, "", "145", 2},
		{"stateMismatch for ever", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer { return jmapserver.Error("stateMismatch") })
		}, 0, "unavailable", "12345", 3},
		{"something else changes in between", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(n int, _ dict) *jmapserver.Answer {
				if n == 1 {
					s.Touch()
				}
				return nil
			})
		}, 2, "", "145", 2},
		{"filed elsewhere in between", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(n int, _ dict) *jmapserver.Answer {
				if n == 1 {
					s.Move(ids[1], jmapserver.Inbox, jmapserver.Archive)
				}
				return nil
			})
		}, 2, "", "145", 2},
		{"in another mailbox too", func(s *jmapserver.Server, ids []string) {
			s.Move(ids[1], jmapserver.Inbox, jmapserver.Archive)
		}, 2, "", "145", 1},
		{"out of the inbox already", func(s *jmapserver.Server, ids []string) {
			s.Move(ids[1], jmapserver.Archive)
			s.Move(ids[2], jmapserver.Trash)
		}, 2, "", "145", 0},
		{"refused for a while", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer {
				return setAnswer(ids[1], "rateLimit")
			})
		}, 0, "unavailable", "12345", 2},
		{"refused for a moment", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(n int, args dict) *jmapserver.Answer {
				if n == 1 {
					s.Move(ids[2], jmapserver.Trash)
					return setAnswer(ids[1], "serverUnavailable")
				}
				if destroy := fmt.Sprint(args["destroy"]); destroy != "["+ids[1]+"]" {
					t.Errorf("asked again to destroy %s, want %s alone", destroy, ids[1])
				}
				return nil
			})
		}, 2, "", "145", 2},
		{"refused for good", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer {
				return setAnswer(ids[1], "forbidden")
			})
		}, 0, "rejected", "12345", 1},
		{"refused in part", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(_ int, args dict) *jmapserver.Answer {
				args["destroy"] = []any{ids[2]} // the server leaves the other one out
				return nil
			})
		}, 1, "unavailable", "1245", 1},
		{"success that is none", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Email/set", Args: dict{"destroyed": ids[1:3]}}
			})
		}, 0, "unavailable", "12345", 1},
		{"unknown id reported as destroyed", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(_ int, args dict) *jmapserver.Answer {
				s.Method = nil
				return &jmapserver.Answer{Name: "Email/set", Args: dict{"destroyed": []string{"M9999999"}}}
			})
		}, 0, "unavailable", "12345", 1},
		{"null everywhere", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Email/set", Args: dict{"notDestroyed": dict{ids[1]: nil}}}
			})
		}, 0, "unavailable", "12345", 1},
		{"serverPartialFail", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer { return jmapserver.Error("serverPartialFail") })
		}, 0, "unavailable", "12345", 1},
		{"accountReadOnly", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer { return jmapserver.Error("accountReadOnly") })
		}, 0, "rejected", "12345", 1},
		{"another size than listed", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/get", func(_ int, args dict) *jmapserver.Answer {
				if slices.Contains(args["properties"].([]any), any("mailboxIds")) && sets(s) == 0 {
					boxes := dict{jmapserver.Inbox: true}
					a := emailsOf(
						dict{"id": ids[1], "size": 7, "mailboxIds": boxes},
						dict{"id": ids[2], "size": len(upstreamtest.Letter(2, 600)), "mailboxIds": boxes})
					a.Args.(dict)["state"] = "5" // five were delivered
					return a
				}
				return nil
			})
		}, 1, "rejected", "1245", 1},
		{"shown without its mailboxes", func(s *jmapserver.Server, ids []string) {
			looks(s, func(after bool) *jmapserver.Answer {
				return emailsOf(dict{"id": ids[1], "size": sizeOf(1)}, dict{"id": ids[2], "size": sizeOf(2), "mailboxIds": dict{}})
			})
		}, 0, "unavailable", "12345", 0},
		{"shown without its mailboxes afterwards", func(s *jmapserver.Server, ids []string) {
			looks(s, func(after bool) *jmapserver.Answer {
				if !after {
					return nil
				}
				return emailsOf(dict{"id": ids[1], "size": sizeOf(1)}, dict{"id": ids[2], "size": sizeOf(2), "mailboxIds": nil})
			})
		}, 0, "unavailable", "145", 1},
		{"shown without a state", func(s *jmapserver.Server, ids []string) {
			looks(s, func(after bool) *jmapserver.Answer {
				boxes := dict{jmapserver.Inbox: true}
				a := emailsOf(dict{"id": ids[1], "size": sizeOf(1), "mailboxIds": boxes}, dict{"id": ids[2], "size": sizeOf(2), "mailboxIds": boxes})
				a.Args.(dict)["state"] = ""
				return a
			})
		}, 0, "unavailable", "12345", 0},
		{"shown a message it never asked for", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/get", func(_ int, args dict) *jmapserver.Answer {
				if slices.Contains(args["properties"].([]any), any("mailboxIds")) && sets(s) == 0 {
					return emailsOf(dict{"id": ids[4], "size": len(upstreamtest.Letter(4, 600)), "mailboxIds": dict{jmapserver.Inbox: true}})
				}
				return nil
			})
		}, 0, "unavailable", "12345", 0},
		{"the answer is lost", func(s *jmapserver.Server, ids []string) {
			lie(s, "Email/set", func(n int, _ dict) *jmapserver.Answer {
				s.Move(ids[1], jmapserver.Trash)
				s.Move(ids[2], jmapserver.Trash)
				panic(http.ErrAbortHandler)
			})
		}, 2, "", "145", 1},
		{"the request is lost", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(int, dict) *jmapserver.Answer { panic(http.ErrAbortHandler) })
		}, 0, "unavailable", "12345", 1},
		{"truncated answer", func(s *jmapserver.Server, _ []string) {
			s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/api" {
					w.Write([]byte(`{"methodResponses": [["Email/get", {"list": [`))
					return true
				}
				return false
			}
		}, 0, "unavailable", "12345", 0},
		{"429", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/get", func(int, dict) *jmapserver.Answer { return nil })
			s.HTTP = func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(429)
				return true
			}
		}, 0, "unavailable", "12345", 0},
		{"no state", func(s *jmapserver.Server, _ []string) {
			lie(s, "Email/set", func(_ int, args dict) *jmapserver.Answer {
				if args["ifInState"] == nil {
					return jmapserver.Error("invalidArguments")
				}
				return nil
			})
		}, 2, "", "145", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			u, ids := listing5(t, s)
			d, _ := open(t, u, bob)
			c.fault(s, ids)
			archived := left(s, jmapserver.Archive)
			removed, err := d.Remove(t.Context(), []int{1, 2})
			if removed != c.removed || upstream.Kind(err) != c.kind {
				t.Errorf("removed %d and got %v, want %d and %q", removed, err, c.removed, c.kind)
			}
			if got := strings.Join(left(s, jmapserver.Inbox), " "); got != names(c.left) {
				t.Errorf("left in the inbox: %s, want %s", got, names(c.left))
			}
			for _, id := range archived {
				if !slices.Contains(left(s, jmapserver.Archive), id) {
					t.Errorf("%s is gone from the archive", id)
				}
			}
			if n := sets(s); n > c.sets {
				t.Errorf("the removal was sent %d times, want %d at most", n, c.sets)
			}
		})
	}
}

// looks answers each Email/get that asks where messages are; after tells whether
// one was to be removed before.
func looks(s *jmapserver.Server, answer func(after bool) *jmapserver.Answer) {
	lie(s, "Email/get", func(_ int, args dict) *jmapserver.Answer {
		if slices.Contains(args["properties"].([]any), any("mailboxIds")) {
			return answer(sets(s) > 0)
		}
		return nil
	})
}

func setAnswer(id, kind string) *jmapserver.Answer {
	return &jmapserver.Answer{Name: "Email/set", Args: dict{"notDestroyed": dict{id: dict{"type": kind}}}}
}

// names turns "135" into the ids of those messages.
func names(digits string) string {
	all := []string{}
	for _, d := range digits {
		all = append(all, "M000000"+string(d))
	}
	return strings.Join(all, " ")
}

// TestFiledMessageStaysWhereItIs: only the inbox loses it, also if it was filed
// between the look and the removal.
func TestFiledMessageStaysWhereItIs(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	u, ids := listing5(t, s)
	d, _ := open(t, u, bob)
	s.Move(ids[0], jmapserver.Inbox, jmapserver.Archive)
	lie(s, "Email/set", func(n int, _ dict) *jmapserver.Answer {
		if n == 1 {
			s.Move(ids[1], jmapserver.Inbox, jmapserver.Archive)
		}
		return nil
	})
	if n, err := d.Remove(t.Context(), []int{0, 1, 2}); n != 3 || err != nil {
		t.Errorf("removed %d, %v; want 3", n, err)
	}
	if diff := cmp.Diff(ids[:2], left(s, jmapserver.Archive)); diff != "" {
		t.Errorf("archive:\n%s", diff)
	}
	if diff := cmp.Diff(ids[3:], left(s, jmapserver.Inbox)); diff != "" {
		t.Errorf("inbox:\n%s", diff)
	}
}

// TestIDsAreNeverLeftOut: without ids Email/get means all messages.
func TestIDsAreNeverLeftOut(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	u, _ := listing5(t, s)
	s.Method = func(name string, args dict) *jmapserver.Answer {
		if _, ok := args["ids"].([]any); name == "Email/get" && !ok {
			t.Errorf("Email/get without ids: %v", args)
		}
		return nil
	}
	d, _ := open(t, u, bob)
	for _, messages := range [][]int{nil, {}, {0}, {0}, {0, 0, 1}} {
		if n, err := d.Remove(t.Context(), messages); err != nil || n > 2 {
			t.Errorf("removed %d of %v, %v", n, messages, err)
		}
	}
	if got := left(s, jmapserver.Inbox); len(got) != 3 {
		t.Errorf("left: %v, want three", got)
	}
}

func TestReadOnly(t *testing.T) {
	for name, fault := range map[string]func(s *jmapserver.Server){
		"account": func(s *jmapserver.Server) {
			s.Session = func(session map[string]any) {
				session["accounts"].(dict)[jmapserver.AccountID].(dict)["isReadOnly"] = true
			}
		},
		"mailbox": func(s *jmapserver.Server) {
			lie(s, "Mailbox/get", func(int, dict) *jmapserver.Answer {
				return &jmapserver.Answer{Name: "Mailbox/get", Args: dict{"list": []any{
					dict{"id": jmapserver.Inbox, "role": "inbox", "myRights": dict{"mayReadItems": true}},
				}}}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := jmapserver.New("bob", "secret")
			fault(s)
			u, _ := listing5(t, s)
			d, _ := open(t, u, bob)
			if err := d.Removable(0); !errors.Is(err, upstream.ErrRejected) {
				t.Errorf("removable: %v, want rejected", err)
			}
			if n, err := d.Remove(t.Context(), []int{0}); n != 0 || !errors.Is(err, upstream.ErrRejected) {
				t.Errorf("removed %d, %v; want rejected", n, err)
			}
			if sets(s) != 0 {
				t.Error("the server was asked for it")
			}
		})
	}
}

// TestInboxIDIsEscapedInPatches: it stands in a JSON pointer (RFC 6901).
func TestInboxIDIsEscapedInPatches(t *testing.T) {
	m := &message{ID: "M1", MailboxIDs: map[string]bool{"a/b~c": true, "x": true}}
	s := m.unlink("a/b~c")
	if v, ok := s.patch["mailboxIds/a~1b~0c"]; s.destroy || len(s.patch) != 1 || !ok || v != nil {
		t.Errorf("got %+v, want a patch that takes it out of the one mailbox", s)
	}
}

func TestRemoveEndsWithTheContext(t *testing.T) {
	s := jmapserver.New("bob", "secret")
	u, _ := listing5(t, s)
	d, _ := open(t, u, bob)
	ctx, cancel := context.WithCancel(t.Context())
	lie(s, "Email/set", func(int, dict) *jmapserver.Answer { cancel(); panic(http.ErrAbortHandler) })
	if n, err := d.Remove(ctx, []int{0, 1}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("removed %d, %v; want cancelled", n, err)
	}
}
