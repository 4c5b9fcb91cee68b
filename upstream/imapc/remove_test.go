package imapc

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
)

// onCommand answers the first command that begins with prefix by a fault.
func onCommand(prefix string, fault func(c *fakeConn) bool) func(*fakeConn, string) bool {
	var done atomic.Bool
	return func(c *fakeConn, command string) bool {
		return strings.HasPrefix(command, prefix) && done.CompareAndSwap(false, true) && fault(c)
	}
}

func drop(c *fakeConn) bool { c.Close(); return true }

func wantRemoved(t *testing.T, f *fake, d *maildrop, messages []int, removed int, kind error, left ...uint32) {
	t.Helper()
	n, err := d.Remove(t.Context(), messages)
	if n != removed || !errors.Is(err, kind) {
		t.Errorf("removed %d, %v; want %d, %v", n, err, removed, kind)
	}
	if got := f.uids(); !slices.Equal(got, left) {
		t.Errorf("left are UIDs %v, want %v", got, left)
	}
}

func TestRemoveNamesTheMessagesAndNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		wantRemoved(t, f, d, []int{2, 0, 1, 0}, 3, nil, 9)
		want := []string{
			`SELECT "INBOX"`,
			"UID FETCH 3,5:6 (UID RFC822.SIZE FLAGS)",
			`UID STORE 3,5:6 +FLAGS.SILENT (\Deleted)`,
			"UID EXPUNGE 3,5:6",
			`SELECT "INBOX"`,
			"UID SEARCH UID 3,5:6",
		}
		all := f.sent("")
		if got := all[len(all)-6:]; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

// U22
func TestMailboxWithoutLastingUIDsIsReadOnly(t *testing.T) {
	for name, set := range map[string]func(f *fake){
		"zero":      func(f *fake) { f.uidValidity = "0" },
		"missing":   func(f *fake) { f.uidValidity = "" },
		"notSticky": func(f *fake) { f.uidValidity = "77] ok\r\n* NO [UIDNOTSTICKY" },
		"read-only": func(f *fake) { f.readOnly = true }, // U24
		"UIDPLUS":   func(f *fake) { f.caps = "IMAP4rev1 MOVE" },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				set(f)
				d := f.list()
				wantError(t, "removable", d.Removable(0), upstream.ErrRejected)
				wantRemoved(t, f, d, []int{0}, 0, upstream.ErrRejected, 3, 5, 6, 9)
				if got := f.sent("UID STORE"); got != nil {
					t.Errorf("sent %q", got)
				}
				wantWhole(t, d, 0, f.messages[0].raw)
			})
		})
	}
}

// A UIDVALIDITY that is no number is none that could be compared later.
func TestMalformedUIDValidity(t *testing.T) {
	for _, value := range []string{"x", "4294967296", "-1"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.uidValidity = value
			_, err := f.upstream().Open(t.Context(), f.account())
			wantError(t, value, err, upstream.ErrUnavailable)
		})
	}
}

// U30: where the library would copy, flag and EXPUNGE instead of MOVE, nothing
// is sent at all. checkWire looks for COPY, MOVE and EXPUNGE in every test.
func TestMoveFallbackIsNeverUsed(t *testing.T) {
	for _, caps := range []string{"IMAP4rev1", "IMAP4rev1 MOVE", "IMAP4rev1 UIDPLUS", "IMAP4rev2"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = caps
			d := f.list()
			d.Remove(t.Context(), []int{0, 1})
			for _, word := range []string{"UID MOVE", "UID COPY", "COPY", "MOVE", "EXPUNGE", "CLOSE"} {
				if got := f.sent(word); got != nil {
					t.Errorf("%s: sent %q", caps, got)
				}
			}
		})
	}
}

// U32
func TestRemoveLeavesAnotherMessageUnderTheSameUID(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		mistaken := 0
		f.options.Hooks.Mistaken = func() { mistaken++ }
		d := f.list()
		f.change(5, func(m *fakeMessage) { m.raw = upstreamtest.Letter(50, 5000) })
		wantRemoved(t, f, d, []int{0, 1}, 1, upstream.ErrRejected, 5, 6, 9)
		if slices.Contains(f.flagged, 5) || mistaken != 1 {
			t.Errorf("flagged UIDs %v, told of %d mistaken messages, want not 5, and one", f.flagged, mistaken)
		}
	})
}

// U32, where the other message has the same size, and the server tells messages
// apart. One without an identity is told by its size alone.
func TestFaultU32AnotherMessageOfTheSameSize(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		mistaken := 0
		f.options.Hooks.Mistaken = func() { mistaken++ }
		f.caps += " OBJECTID"
		for uid, id := range map[uint32]string{3: "M3", 5: "M5", 6: "", 9: "M9"} {
			f.change(uid, func(m *fakeMessage) { m.id = id })
		}
		d := f.list()
		f.change(5, func(m *fakeMessage) { m.id = "M55" })
		f.change(6, func(m *fakeMessage) { m.id = "M6" })
		f.change(9, func(m *fakeMessage) { m.id = "" })
		wantRemoved(t, f, d, []int{0, 1, 2, 3}, 3, upstream.ErrRejected, 5)
		if slices.Contains(f.flagged, 5) || mistaken != 1 {
			t.Errorf("flagged UIDs %v, told of %d mistaken messages, want not 5, and one", f.flagged, mistaken)
		}
	})
}

// An identity of one kind says nothing of one of another, as when a server is
// upgraded in mid-session.
func TestIdentitiesOfTwoKinds(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " OBJECTID"
		f.change(3, func(m *fakeMessage) { m.id = "M3" })
		d := f.list()
		f.caps = "IMAP4rev1 UIDPLUS X-GM-EXT-1"
		f.fault = onNth(1, "UID FETCH 3 ", func(c *fakeConn, _ string) bool {
			c.say("* 1 FETCH (X-GM-MSGID 77 UID 3 RFC822.SIZE %d)", f.messages[0].stated())
			c.ok("done")
			return true
		})
		d.c.g.Close()
		wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
		if got := f.sent("UID FETCH 3 (UID RFC822.SIZE X-GM-MSGID FLAGS)"); len(got) != 1 {
			t.Errorf("sent %q, want one look", f.sent("UID FETCH 3 "))
		}
	})
}

// An OK to FETCH without data, as some servers give it for messages that they
// cannot convert, does not make a message gone.
func TestMessageThatIsNotShownIsNotTakenForGone(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onCommand("UID FETCH 3,5 (UID RFC822.SIZE FLAGS)", func(c *fakeConn) bool {
			c.say("* 1 FETCH (UID 3 RFC822.SIZE %d)", f.messages[0].stated())
			c.ok("done")
			return true
		})
		wantRemoved(t, f, d, []int{0, 1}, 1, upstream.ErrUnavailable, 5, 6, 9)
	})
}

// hollow answers commands that begin with one of the prefixes by an OK alone,
// and does nothing.
func hollow(prefixes ...string) func(*fakeConn, string) bool {
	return func(c *fakeConn, command string) bool {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(command, p) }) {
			return false
		}
		c.ok("done")
		return true
	}
}

// A server that answers everything by OK, and nothing else, has removed nothing
// and says nothing of what is there.
func TestEmptyAnswersConfirmNothing(t *testing.T) {
	for _, policy := range []upstream.Delete{upstream.DeleteExpunge, upstream.DeleteTrash, upstream.DeleteFlag} {
		for _, prefixes := range [][]string{{"UID"}, {"UID FETCH"}, {"UID FETCH", "UID SEARCH"}, {"UID STORE", "UID EXPUNGE", "UID MOVE", "UID SEARCH"}} {
			t.Run(fmt.Sprint(policy, prefixes), func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fake) {
					f.caps += " MOVE"
					f.options.Policy.Delete = policy
					f.addBox("Trash", `\Trash`)
					j := f.journal()
					d := f.list()
					f.fault = hollow(prefixes...)
					wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrUnavailable, 3, 5, 6, 9)
					j.wantNames()
				})
			})
		}
	}
}

// U26
func TestRefusedStoreRemovesNothing(t *testing.T) {
	for answer, want := range map[string]error{
		"NO [OVERQUOTA] full":   upstream.ErrRejected,
		"NO [NOPERM] not yours": upstream.ErrRejected,
		"NO [SERVERBUG] oops":   upstream.ErrUnavailable,
		"BAD what?":             upstream.ErrUnavailable,
	} {
		bubble(t, func(t *testing.T, f *fake) {
			d := f.list()
			f.take(3)
			f.fault = onCommand("UID STORE", func(c *fakeConn) bool { c.say("%s %s", c.tag, answer); return true })
			wantRemoved(t, f, d, []int{0, 1, 2}, 1, want, 5, 6, 9)
			if len(f.expunged) > 0 {
				t.Errorf("expunged %v after %s", f.expunged, answer)
			}
		})
	}
}

func TestRefusedExpungeIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(c *fakeConn) bool {
			f.take(5) // one of the two
			c.say("* 2 EXPUNGE\r\n%s NO [NOPERM] no more", c.tag)
			return true
		})
		wantRemoved(t, f, d, []int{0, 1}, 1, upstream.ErrRejected, 3, 6, 9)
	})
}

// U27, U28, and every other place where the connection may be lost.
func TestRemoveCarriesOnAfterALostConnection(t *testing.T) {
	for _, step := range []string{"UID FETCH", "UID STORE", "UID EXPUNGE", "UID SEARCH"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(step, done), func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fake) {
					d := f.list()
					f.fault = func(c *fakeConn, command string) bool {
						if c.n > 1 || !strings.HasPrefix(command, step) {
							return false
						}
						if done { // the server did it, its answer is lost
							(&fakeConn{Conn: nowhere(), f: f}).do(command)
						}
						return drop(c)
					}
					wantRemoved(t, f, d, []int{0, 2}, 2, nil, 5, 9)
					if f.connections != 2 {
						t.Errorf("%d connections, want 2", f.connections)
					}
				})
			})
		}
	}
}

// Lost, and then the mailbox is another one.
func TestRemoveStopsWhenTheMailboxChanged(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onCommand("UID FETCH 3 ", func(c *fakeConn) bool { f.uidValidity = "78"; return drop(c) })
		wantRemoved(t, f, d, []int{0}, 0, upstream.ErrChanged, 3, 5, 6, 9)
	})
}

// U21: the mailbox has become another one, and the server tells so only to who
// selects it anew. That no message is there under the UID that was listed does
// not mean that it is gone.
func TestFaultU21RenumberedUnderTheSession(t *testing.T) {
	for name, marked := range map[string][]int{"none is there": {0, 1}, "some are": {0, 1, 3}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				j := f.journal()
				d := f.list()
				f.mu.Lock()
				f.uidValidity = "78"
				for k, uid := range []uint32{9, 10, 11, 12} {
					f.messages[k].uid = uid
				}
				f.messages[0], f.messages[3] = fakeMessage{uid: 9, raw: f.messages[3].raw}, fakeMessage{uid: 12, raw: f.messages[0].raw}
				f.mu.Unlock()
				wantRemoved(t, f, d, marked, 0, upstream.ErrChanged, 9, 10, 11, 12)
				if len(f.flagged) > 0 {
					t.Errorf("flagged %v", f.flagged)
				}
				j.wantNames()
				j.wantPending()
			})
		})
	}
}

// A search tells nothing of a mailbox that was not selected, or is another one.
func TestMailboxIsSelectedBeforeItIsSearched(t *testing.T) {
	for name, answer := range map[string]func(f *fake, c *fakeConn) bool{
		"refused": func(_ *fake, c *fakeConn) bool { return refuseIt(c, "") },
		"hollow":  func(_ *fake, c *fakeConn) bool { c.ok("done"); return true },
		"lost":    func(_ *fake, c *fakeConn) bool { return drop(c) },
	} {
		for nth := 1; nth <= 2; nth++ { // before the removal, and behind it
			bubble(t, func(t *testing.T, f *fake) {
				j := f.journal()
				d := f.list()
				f.fault = onNth(nth, "SELECT", func(c *fakeConn, _ string) bool { return answer(f, c) })
				n, err := d.Remove(t.Context(), []int{0})
				if n != 1 || err != nil || f.connections != 2 {
					t.Errorf("%s, %d: removed %d, %v; %d connections", name, nth, n, err, f.connections)
				}
				j.wantNames("3")
			})
		}
	}
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		d := f.list()
		f.fault = onNth(2, "SELECT", func(*fakeConn, string) bool { f.uidValidity, f.messages = "78", nil; return false })
		n, err := d.Remove(t.Context(), []int{0})
		if n != 0 || errors.Is(err, upstream.ErrChanged) || !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("removed %d, %v", n, err)
		}
		j.wantNames()
		j.wantPending()
	})
}

func TestRemoveEndsWithItsBudget(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool { return strings.HasPrefix(command, "UID") }
		began := time.Now()
		n, err := d.Remove(t.Context(), []int{0})
		if n != 0 || err == nil || passed(began) != removeTime {
			t.Errorf("removed %d, %v after %v; want 0 and an error after %v", n, err, passed(began), removeTime)
		}
	})
}

// U29: somebody took the flag away again. It is not set a second time.
func TestUndeletedMessageStaysAndIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(*fakeConn) bool {
			f.change(3, func(m *fakeMessage) { m.deleted = false })
			return false
		})
		wantRemoved(t, f, d, []int{0, 1}, 1, upstream.ErrUnavailable, 3, 6, 9)
		if got := f.sent("UID STORE"); len(got) != 1 {
			t.Errorf("sent %q, want one STORE", got)
		}
	})
}

// The OK to UID EXPUNGE proves nothing.
func TestExpungeThatDoesNothingIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(c *fakeConn) bool { c.ok("done"); return true })
		wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrUnavailable, 3, 5, 6, 9)
	})
}

// What others have flagged stays, and what they flag meanwhile.
func TestRemoveSparesWhatOthersFlagged(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.change(9, func(m *fakeMessage) { m.deleted = true })
		d := f.list()
		f.fault = onCommand("UID EXPUNGE", func(*fakeConn) bool {
			f.change(6, func(m *fakeMessage) { m.deleted = true })
			return false
		})
		wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
	})
}

// How servers answer UID SEARCH, and what it says about UIDs 3 and 5 that were
// to be removed and of which 3 is still there.
func TestSearchAnswers(t *testing.T) {
	for answer, removed := range map[string]int{
		"* SEARCH 3":                    1,
		"* search 3 (MODSEQ 17)":        1,
		"* SEARCH 3 9":                  1,
		"* SEARCH\r\n* SEARCH 3":        1,
		"* ":                            0, // no answer
		"* 4 EXISTS":                    0,
		`* ESEARCH (TAG "x") UID ALL 3`: 1,
		`* ESEARCH (TAG "x") UID COUNT 1 ALL 1:4`:           1,
		`* ESEARCH UID ALL 9,3`:                             1, // ESEARCH without TAG
		`* ESEARCH (TAG "x") ALL 1:4294967295`:              0, // ESEARCH without UID: sequence numbers
		`* ESEARCH (TAG "x") UID ALL 3:4,6:4294967295`:      1, // a range to 2^32-1
		`* ESEARCH (TAG "x") UID`:                           2,
		"* SEARCH":                                          2,
		`* ESEARCH (TAG "x") UID ALL 4294967295:1`:          0,
		"* SEARCH 1 2 3 4 5 6 7 8 9 10 11 4294967295 3 3 3": 0,
	} {
		t.Run(answer, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				d := f.list()
				f.fault = func(c *fakeConn, command string) bool {
					switch {
					case strings.HasPrefix(command, "UID EXPUNGE 3"):
						f.take(5)
						c.ok("done")
					case strings.HasPrefix(command, "UID SEARCH"):
						c.say("%s", answer)
						c.ok("done")
					default:
						return false
					}
					return true
				}
				n, err := d.Remove(t.Context(), []int{0, 1})
				if n != removed || (err == nil) != (removed == 2) {
					t.Errorf("removed %d, %v; want %d", n, err, removed)
				}
			})
		})
	}
}

// Neither SEARCH nor FETCH tells: it is not known.
func TestNoAnswerAtAll(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		expunged := false
		f.fault = func(c *fakeConn, command string) bool {
			expunged = expunged || strings.HasPrefix(command, "UID EXPUNGE")
			switch {
			case strings.HasPrefix(command, "UID SEARCH"):
				c.ok("done")
			case expunged && strings.HasPrefix(command, "UID FETCH"):
				c.say("%s NO not now", c.tag)
			default:
				return false
			}
			return true
		}
		wantRemoved(t, f, d, []int{0}, 0, upstream.ErrUnavailable, 5, 6, 9)
	})
}

func TestMalformedSearchIsNotAnEmptyOne(t *testing.T) {
	for _, answer := range []string{"* SEARCH x", "* SEARCH 4294967296", "* SEARCH 3-5", `* ESEARCH (TAG "x") UID ALL 1:*`} {
		malformed := func(c *fakeConn) bool {
			c.say("%s\r\n%s OK done", answer, c.tag)
			return true
		}
		bubble(t, func(t *testing.T, f *fake) {
			d := f.list()
			f.fault = onCommand("UID SEARCH", malformed)
			// The next try finds the messages gone.
			if n, err := d.Remove(t.Context(), []int{0, 1}); n != 2 || err != nil {
				t.Errorf("%s: removed %d, %v", answer, n, err)
			}
		})
		bubble(t, func(t *testing.T, f *fake) {
			d := f.list()
			f.fault = func(c *fakeConn, command string) bool {
				return strings.HasPrefix(command, "UID SEARCH") && malformed(c)
			}
			// Who never answers the question never confirms the removal.
			if n, err := d.Remove(t.Context(), []int{0, 1}); n != 0 || !errors.Is(err, upstream.ErrUnavailable) {
				t.Errorf("%s, always: removed %d, %v", answer, n, err)
			}
		})
	}
}

// A set of 196 KB made Dovecot answer BAD. Sparse UIDs of ten digits are the
// worst case.
func TestLongSetsAreSplit(t *testing.T) {
	for caps, most := range map[string]int{"IMAP4rev1 UIDPLUS": 1000, "IMAP4rev1 UIDPLUS CONDSTORE": 4200} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = caps
			f.messages = nil
			var all []int
			for i := range 1500 {
				f.messages = append(f.messages, fakeMessage{uid: math.MaxUint32 - 5000 + 2*uint32(i), raw: "x: y\r\n"})
				all = append(all, i)
			}
			d := f.list()
			wantRemoved(t, f, d, all, len(all), nil)
			for _, command := range f.sent("UID ") {
				if len(command) > most {
					t.Errorf("a command of %d octets, want at most %d", len(command), most)
				}
			}
		})
	}
}

// A refused chunk is counted, and the others are removed.
func TestOneRefusedChunkAmongMany(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		all := f.crowd(1000)
		d := f.list()
		f.fault = onCommand("UID STORE", func(c *fakeConn) bool { c.say("%s NO no", c.tag); return true })
		n, err := d.Remove(t.Context(), all)
		wantError(t, "remove", err, upstream.ErrUnavailable)
		if n != 1000-small || len(f.uids()) != small {
			t.Errorf("removed %d, %d left; want %d and %d", n, len(f.uids()), 1000-small, small)
		}
	})
}

// nowhere is the connection of a server whose answers are lost.
func nowhere() net.Conn {
	client, server := net.Pipe()
	client.Close()
	return server
}

// Whatever is marked, whatever others do and wherever the connection breaks:
// only marked messages are flagged or expunged, and the count is true.
func TestRemoveUnderRandomFaults(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		messages := rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 1, 4, rapid.ID).Draw(r, "marked")
		events := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "drop", "drop after", "NO", "take", "flag", "unflag", "deliver", "resize"}), 4, 12).Draw(r, "events")
		bubble(t, func(t *testing.T, f *fake) {
			d := f.list()
			before := f.uids()
			at, taken, resized := 0, map[uint32]bool{}, map[uint32]bool{}
			f.fault = func(c *fakeConn, command string) bool {
				if !strings.HasPrefix(command, "UID ") || at == len(events) {
					return false
				}
				event, uid := events[at], before[at%len(before)]
				at++
				switch event {
				case "drop":
					return drop(c)
				case "drop after":
					(&fakeConn{Conn: nowhere(), f: f}).do(command)
					return drop(c)
				case "NO":
					c.say("%s NO no", c.tag)
					return true
				case "take":
					f.take(uid)
					taken[uid] = true
				case "flag":
					f.change(uid, func(m *fakeMessage) { m.deleted = true })
				case "unflag":
					f.change(uid, func(m *fakeMessage) { m.deleted = false })
				case "deliver":
					f.mu.Lock()
					f.messages = append(f.messages, fakeMessage{uid: uint32(100 + at), raw: upstreamtest.Letter(at, 700)})
					f.mu.Unlock()
				case "resize":
					f.change(uid, func(m *fakeMessage) { m.raw += "another" })
					resized[uid] = true
				}
				return false
			}
			removed, err := d.Remove(t.Context(), messages)
			var marked []uint32
			for _, i := range messages {
				marked = append(marked, before[i])
			}
			for _, uid := range append(f.flagged, f.expunged...) {
				if !slices.Contains(marked, uid) {
					t.Errorf("UID %d was flagged or expunged, marked were %v", uid, marked)
				}
			}
			gone := 0
			for _, uid := range marked {
				if !slices.Contains(f.uids(), uid) {
					gone++
				}
			}
			if removed > gone || err == nil && gone != len(marked) {
				t.Errorf("removed %d of %v, %v; %d are gone", removed, marked, err, gone)
			}
			for _, uid := range before {
				if !slices.Contains(marked, uid) && !taken[uid] && !slices.Contains(f.uids(), uid) {
					t.Errorf("UID %d was not marked and is gone", uid)
				}
			}
		})
	})
}

func TestWithin(t *testing.T) {
	uids := []uint32{3, 5, 6, 9, 4294967295}
	for _, c := range []struct {
		ranges []uidRange
		want   []uint32
	}{
		{nil, nil},
		{[]uidRange{{1, 2}, {4, 4}, {7, 8}, {10, 4294967294}}, nil},
		{[]uidRange{{9, 9}, {3, 3}, {3, 3}}, []uint32{3, 9}},
		{[]uidRange{{5, 9}, {4, 6}, {6, 6}}, []uint32{5, 6, 9}},
		{[]uidRange{{9, 4294967295}}, []uint32{9, 4294967295}},
		{[]uidRange{{0, 4294967295}, {0, 0}}, uids},
	} {
		if got := within(uids, c.ranges); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.ranges, got, c.want)
		}
	}
	if got := within(nil, []uidRange{{1, 2}}); got != nil {
		t.Errorf("of none: %v", got)
	}
}

func TestUIDSet(t *testing.T) {
	for want, uids := range map[string][]uint32{
		"1":                                  {1},
		"1:3":                                {1, 2, 3},
		"1,3,5:6":                            {1, 3, 5, 6},
		"2,2147483648:2147483649,4294967295": {2, 1 << 31, 1<<31 + 1, math.MaxUint32},
		"4294967294:4294967295":              {math.MaxUint32 - 1, math.MaxUint32},
		"7,9":                                {7, 7, 9},
	} {
		if got := uidSet(uids); got != want {
			t.Errorf("%v: %s, want %s", uids, got, want)
		}
	}
}

// Dovecot, with another client that flags, unflags and removes.
func TestRemoveOnDovecotSparesWhatOthersFlagged(t *testing.T) {
	server := dovecot.Start(t)
	mailbox := server.AddUser(t, "bob", "secret")
	for i := range 5 {
		mailbox.Deliver(t, upstreamtest.Letter(i, 600))
	}
	u := New(Options{Address: server.IMAP, TLS: TLSOff})
	d, err := u.Open(t.Context(), mailbox.Account())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	mailbox.Do(t, `UID STORE 2,4 +FLAGS (\Deleted)`)
	if n, err := d.Remove(t.Context(), []int{0, 2}); n != 2 || err != nil {
		t.Errorf("removed %d, %v; want 2", n, err)
	}
	if got := fmt.Sprint(mailbox.UIDs(t)); got != "[2 4 5]" {
		t.Errorf("left are UIDs %s, want 2, 4 and 5", got)
	}
	mailbox.SetUIDValidity(t, 4711)
	d.(*maildrop).c.g.Close()
	n, err := d.Remove(t.Context(), []int{4})
	wantError(t, "remove after UIDVALIDITY changed", err, upstream.ErrChanged)
	if got := fmt.Sprint(n, len(mailbox.UIDs(t))); got != "0 3" {
		t.Errorf("removed, left: %s", got)
	}
}
