package imapc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// onBody makes a fault for the FETCH of a body. It is called with the section
// that the server would send.
func onBody(fault func(c *fakeConn, uid uint32, name, data string) bool) func(*fakeConn, string) bool {
	return func(c *fakeConn, command string) bool {
		args, ok := strings.CutPrefix(command, "UID FETCH ")
		if !ok {
			return false
		}
		c.f.mu.Lock()
		messages := slices.Clone(c.f.messages)
		c.f.mu.Unlock()
		for _, m := range messages {
			if name, data, ok := m.section(args); ok && setOf(args).has(m.uid) {
				return fault(c, m.uid, name, data)
			}
		}
		return false
	}
}

func wantWhole(t *testing.T, d *maildrop, i int, want string) {
	t.Helper()
	got, err := fetchAll(t, d, i)
	if err != nil || got != want {
		t.Errorf("message %d: %d octets, %v; want %d", i, len(got), err, len(want))
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// U14: the server closes in the middle of a message, and again each time.
func TestLiteralEOFIsNotTheEndOfTheMessage(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			c.begin("* 1 FETCH (UID %d %s {%d}\r\n%s", uid, name, len(data), data[:len(data)/2])
			c.Close()
			return true
		})
		got, err := fetchAll(t, d, 0)
		if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d octets of %d: %v, want an error", len(got), len(f.messages[0].raw), err)
		}
		if !strings.HasPrefix(f.messages[0].raw, got) {
			t.Errorf("what came is not how the message begins")
		}
		if n := f.connections; n > 2+maxResumes {
			t.Errorf("%d connections", n)
		}
	})
}

func TestLostConnectionResumesWhereItBroke(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			if c.n > 3 {
				return false
			}
			c.begin("* 1 FETCH (UID %d %s {%d}\r\n%s", uid, name, len(data), data[:200])
			c.Close()
			return true
		})
		wantWhole(t, d, 0, f.messages[0].raw)
		if got := f.sent("UID FETCH 3 (UID BODY.PEEK[]<"); len(got) != 3 {
			t.Errorf("resumed with %q, want three", got)
		}
	})
}

func TestResumeRefusesAnotherMessage(t *testing.T) {
	for name, change := range map[string]func(f *fake){
		"UIDVALIDITY": func(f *fake) { f.uidValidity = "78" },
		"gone":        func(f *fake) { f.take(3) },
		"size":        func(f *fake) { f.change(3, func(m *fakeMessage) { m.size = 1 }) },
		"identity":    func(f *fake) { f.change(3, func(m *fakeMessage) { m.id = "M33" }) },
		"longer":      func(f *fake) { f.change(3, func(m *fakeMessage) { m.size = len(m.raw); m.raw += "more" }) },
		"shorter":     func(f *fake) { f.change(3, func(m *fakeMessage) { m.size = len(m.raw); m.raw = m.raw[:500] }) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps += " OBJECTID"
				f.change(3, func(m *fakeMessage) { m.id = "M3" })
				d := f.list()
				whole := f.messages[0].raw
				broken := false
				f.fault = func(c *fakeConn, command string) bool {
					if broken || !strings.Contains(command, "BODY.PEEK") {
						return false
					}
					broken = true
					c.begin("* 1 FETCH (UID 3 BODY[] {%d}\r\n%s", len(whole), whole[:400])
					change(f)
					c.Close()
					return true
				}
				got, err := fetchAll(t, d, 0)
				if err == nil || !strings.HasPrefix(whole, got) {
					t.Errorf("%d of %d octets and %v, want an error", len(got), len(whole), err)
				}
				if name == "UIDVALIDITY" {
					wantError(t, "fetch", err, upstream.ErrChanged)
				}
			})
		})
	}
}

// U11: the connection is lost between two commands.
func TestLostConnectionBetweenCommandsIsNotNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			if c.n == 1 {
				c.say("* BYE Session invalidated - AccessTokenExpired")
				c.Close()
			}
			return c.n == 1
		}
		for i := range f.messages {
			wantWhole(t, d, i, f.messages[i].raw)
		}
		if f.connections != 2 {
			t.Errorf("%d connections, want 2", f.connections)
		}
	})
}

// U21: the mailbox on the new connection is another one.
func TestChangedUIDValidityEndsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.uidValidity = "78"
		d.c.g.Close()
		_, err := d.Fetch(t.Context(), 0)
		wantError(t, "fetch", err, upstream.ErrChanged)
		removed, err := d.Remove(t.Context(), []int{0})
		wantError(t, "remove", err, upstream.ErrChanged)
		if removed != 0 || len(f.flagged) > 0 {
			t.Errorf("removed %d, flagged %v", removed, f.flagged)
		}
	})
}

// Credentials that were right at login are not wrong because a second login fails.
func TestReconnectIsNeverErrAuth(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "LOGIN") {
				c.say("%s NO [AUTHENTICATIONFAILED] no", c.tag)
				return true
			}
			return false
		}
		d.c.g.Close()
		_, err := d.Fetch(t.Context(), 0)
		wantError(t, "fetch", err, upstream.ErrUnavailable)
		if errors.Is(err, upstream.ErrAuth) {
			t.Errorf("%v, not ErrAuth", err)
		}
	})
}

func TestUnsolicitedFetchStealsNoMessage(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		times := 0
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			if times++; times == 1 {
				c.say(`* 1 FETCH (UID %d FLAGS (\Seen))`, uid)
			}
			return false
		})
		wantWhole(t, d, 0, f.messages[0].raw)
	})
}

// The library cannot tell which message it is until it is through. That must
// be an error, not an empty message.
func TestUIDAfterLiteralIsNotAnEmptyMessage(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			c.say("* 1 FETCH (%s {%d}\r\n%s UID %d)", name, len(data), data, uid)
			c.ok("done")
			return true
		})
		_, err := fetchAll(t, d, 0)
		wantError(t, "fetch", err, upstream.ErrUnreadable)
	})
}

func TestUndeliveredMessageIsUnreadableAndStays(t *testing.T) {
	for name, answer := range map[string]string{
		"OK without data": "",
		"NIL":             "* 1 FETCH (UID 3 BODY[] NIL)\r\n",
		"empty":           "* 1 FETCH (UID 3 BODY[] {0}\r\n)\r\n",
		"empty string":    "* 1 FETCH (UID 3 BODY[] \"\")\r\n",
		"another message": "* 2 FETCH (UID 5 BODY[] {3}\r\nabc)\r\n",
		"another section": "* 1 FETCH (UID 3 BODY[HEADER] {3}\r\nabc)\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				d := f.list()
				f.fault = onBody(func(c *fakeConn, uid uint32, _, _ string) bool {
					if uid != 3 {
						return false
					}
					c.say("%s%s OK done", answer, c.tag)
					return true
				})
				_, err := fetchAll(t, d, 0)
				wantError(t, "fetch", err, upstream.ErrUnreadable)
				wantError(t, "removable", d.Removable(0), upstream.ErrUnreadable)
				removed, err := d.Remove(t.Context(), []int{0, 1})
				wantError(t, "remove", err, upstream.ErrUnreadable)
				if got := fmt.Sprint(removed, f.uids()); got != "1 [3 6 9]" {
					t.Errorf("removed, left: %s", got)
				}
				f.fault = nil
				wantWhole(t, d, 0, f.messages[0].raw)
				if err := d.Removable(0); err != nil {
					t.Errorf("removable after it was delivered: %v", err)
				}
			})
		})
	}
}

// U19: other messages are not affected.
func TestMessageGoneIsErrGone(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.take(5)
		f.fault = func(c *fakeConn, command string) bool {
			c.say("* 2 EXPUNGE\r\n* 3 EXISTS")
			return false
		}
		_, err := d.Fetch(t.Context(), 1)
		wantError(t, "fetch", err, upstream.ErrGone)
		wantWhole(t, d, 2, f.messages[1].raw)
		removed, err := d.Remove(t.Context(), []int{1})
		if removed != 1 || err != nil {
			t.Errorf("removed %d, %v", removed, err)
		}
	})
}

func TestRefusedFetch(t *testing.T) {
	for answer, want := range map[string]error{
		"NO FETCH Server error":                   upstream.ErrUnavailable, // Yahoo
		"NO [UNAVAILABLE] later":                  upstream.ErrUnavailable,
		"NO [LIMIT] later":                        upstream.ErrBusy,
		"NO [AUTHENTICATIONFAILED] log in again":  upstream.ErrUnavailable,
		"NO cannot be converted":                  upstream.ErrUnreadable,
		"BAD Request is throttled. Suggested ...": upstream.ErrUnavailable,
	} {
		t.Run(answer, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				d := f.list()
				f.fault = onBody(func(c *fakeConn, _ uint32, _, _ string) bool {
					c.say("%s %s", c.tag, answer)
					return true
				})
				_, err := d.Fetch(t.Context(), 0)
				wantError(t, "fetch", err, want)
				wantError(t, "removable", d.Removable(0), upstream.ErrUnreadable)
			})
		})
	}
}

// U17: a server that says nothing more, at whatever point.
func TestSilentServer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			c.begin("* 1 FETCH (UID %d %s {%d}\r\n%s", uid, name, len(data), data[:100])
			return true
		})
		began := time.Now()
		got, err := fetchAll(t, d, 0)
		wantError(t, "fetch", err, errSilent)
		wantError(t, "fetch", err, upstream.ErrUnavailable)
		// Once more on a new connection, which may be the better one.
		if want := 2 * d.u.o.IdleTimeout; passed(began) != want || len(got) != 200 {
			t.Errorf("%d octets and an error after %v, want 200 and %v", len(got), passed(began), want)
		}
	})
}

func TestSilentServerBeforeAnything(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool { return strings.Contains(command, "BODY") }
		began := time.Now()
		_, err := d.Fetch(t.Context(), 0)
		wantError(t, "fetch", err, upstream.ErrUnavailable)
		if want := 3 * d.u.o.IdleTimeout; passed(began) != want {
			t.Errorf("took %v, want %v", passed(began), want)
		}
	})
}

// U16: one octet a second keeps every deadline and is too slow all the same.
func TestTrickleIsCutAtTheSlowestRate(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.messages[0].raw = upstreamtest.Letter(0, 100000)
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			c.say("* 1 FETCH (UID %d %s {%d}", uid, name, len(data))
			for i := range data {
				time.Sleep(time.Second)
				if _, err := io.WriteString(c, data[i:i+1]); err != nil {
					break
				}
			}
			return true
		})
		began := time.Now()
		_, err := fetchAll(t, d, 0)
		wantError(t, "fetch", err, errSlow)
		if passed(began) != slowestWindow {
			t.Errorf("cut after %v, want %v", passed(began), slowestWindow)
		}
	})
}

// The library gives a whole literal five minutes; a slow client may need more.
func TestSlowClientKeepsItsMessage(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.messages[0].raw = upstreamtest.Letter(0, 300000)
		d := f.list()
		r, err := d.Fetch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var got bytes.Buffer
		for part := make([]byte, 10000); err == nil; {
			var n int
			n, err = r.Read(part)
			got.Write(part[:n])
			time.Sleep(time.Minute)
		}
		if err != io.EOF || got.String() != f.messages[0].raw {
			t.Errorf("%d octets and %v, want all %d", got.Len(), err, len(f.messages[0].raw))
		}
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// 50 messages are abandoned, big ones and small: the bubble sees to it that no
// goroutine is left, the race detector to the rest.
func TestFiftyAbortsLeakNothing(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.messages[0].raw = upstreamtest.Letter(0, 3*maxDrain)
		f.messages[1].raw = upstreamtest.Letter(1, maxDrain/2)
		d := f.list()
		for k := range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := d.Fetch(ctx, k%2)
			if err != nil {
				t.Fatalf("fetch %d: %v", k, err)
			}
			if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
				t.Fatalf("fetch %d: %v", k, err)
			}
			if k%3 == 0 {
				cancel()
			}
			r.Close()
			cancel()
		}
		wantWhole(t, d, 2, f.messages[2].raw)
		if f.connections < 20 || f.connections > 45 {
			t.Errorf("%d connections: small rests should be drained, large ones not", f.connections)
		}
	})
}

func TestCloseWithOpenLiteralReturnsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.messages[0].raw = upstreamtest.Letter(0, 3*maxDrain)
		d := f.list()
		r, err := d.Fetch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		d.Close()
		if passed(began) != 0 {
			t.Errorf("Close took %v", passed(began))
		}
		if _, err := r.Read(make([]byte, 10)); err == nil || err == io.EOF {
			t.Errorf("read after Close: %v, want an error", err)
		}
		r.Close()
	})
}

// Two bodies on their way at once make the library wait for ever on Dovecot:
// the second Fetch ends the first.
func TestOneFetchAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		first, err := d.Fetch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		wantWhole(t, d, 1, f.messages[1].raw)
		if _, err := first.Read(make([]byte, 10)); err == nil || err == io.EOF {
			t.Errorf("reading on: %v, want an error", err)
		}
		first.Close()
		wantWhole(t, d, 2, f.messages[2].raw)
	})
}

// A server that stops in the rest of an abandoned message costs the connection,
// not the client's time.
func TestDrainIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			if c.n > 1 {
				return false
			}
			c.begin("* 1 FETCH (UID %d %s {%d}\r\n%s", uid, name, len(data), data[:200])
			return true
		})
		r, err := d.Fetch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.Close()
		if passed(began) != 0 {
			t.Errorf("Close took %v", passed(began))
		}
		wantWhole(t, d, 0, f.messages[0].raw)
		if passed(began) != drainTime {
			t.Errorf("the next message came after %v, want %v", passed(began), drainTime)
		}
	})
}

func TestCancelledContextEndsEveryCall(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, d *maildrop) error{
		"Fetch":  func(ctx context.Context, d *maildrop) error { _, err := d.Fetch(ctx, 0); return err },
		"Top":    func(ctx context.Context, d *maildrop) error { _, err := d.Top(ctx, 0, 3); return err },
		"Remove": func(ctx context.Context, d *maildrop) error { _, err := d.Remove(ctx, []int{0}); return err },
		"List":   func(ctx context.Context, d *maildrop) error { _, err := d.List(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				d := f.list()
				f.fault = func(*fakeConn, string) bool { return true }
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				began := time.Now()
				err := call(ctx, d)
				wantError(t, name, err, context.DeadlineExceeded)
				if passed(began) != 7*time.Second {
					t.Errorf("took %v, want 7s", passed(began))
				}
			})
		})
	}
}

// U15: Exchange estimates sizes. What it sends is the message.
func TestEstimatedSizeIsNoMatter(t *testing.T) {
	for _, size := range []int{1, 100000} {
		bubble(t, func(t *testing.T, f *fake) {
			f.messages[0].size = size
			d := f.list()
			wantWhole(t, d, 0, f.messages[0].raw)
			if removed, err := d.Remove(t.Context(), []int{0}); removed != 1 || err != nil {
				t.Errorf("removed %d, %v", removed, err)
			}
		})
	}
}

func TestMessageOverTheLimitIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.MaxMessage = 100000
		f.messages[0].raw = upstreamtest.Letter(0, 200000)
		d := f.list()
		_, err := d.Fetch(t.Context(), 0)
		wantError(t, "fetch", err, upstream.ErrUnavailable)
		wantWhole(t, d, 1, f.messages[1].raw)
	})
}

func TestTopAsksForLittle(t *testing.T) {
	long := strings.Repeat("Received: by somebody\r\n", 400) + "\r\n" + strings.Repeat("0123456789\r\n", 100000)
	for name, c := range map[string]struct {
		raw    string
		n      int
		octets int // at most
	}{
		"header":         {long, 0, 9300},
		"header only":    {"Subject: no body\r\n", 0, 18},
		"header only, 5": {"Subject: no body\r\n", 5, 18},
		"few lines":      {long, 5, 14000},
		"many lines":     {long, 2000, 200000},
		"all lines":      {long, 1000000, len(long)},
		"no end of line": {long + "end", 100001, len(long) + 3},
		"bare LF":        {strings.ReplaceAll(long, "\r\n", "\n"), 5, 14000},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.messages[0].raw = c.raw
				d := f.list()
				r, err := d.Top(t.Context(), 0, c.n)
				if err != nil {
					t.Fatal(err)
				}
				got, err := read(r)
				if err != nil || !strings.HasPrefix(c.raw, got) || len(got) > c.octets {
					t.Errorf("%d octets, %v; want a beginning of at most %d", len(got), err, c.octets)
				}
				end := "\r\n"
				if !strings.Contains(c.raw, end) {
					end = "\n"
				}
				header, body, found := strings.Cut(c.raw, end+end)
				want := header
				if found {
					want += end + end + strings.Join(firstLines(body, end, c.n), "")
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("%d octets do not hold the header and %d lines: %d", len(got), c.n, len(want))
				}
			})
		})
	}
}

func firstLines(body, end string, n int) []string {
	lines := strings.SplitAfter(body, end)
	return lines[:min(n, len(lines))]
}

func TestTopResumes(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.messages[0].raw = upstreamtest.Letter(0, 400000)
		d := f.list()
		f.fault = onBody(func(c *fakeConn, uid uint32, name, data string) bool {
			if c.n%2 == 0 {
				return false
			}
			c.begin("* 1 FETCH (UID %d %s {%d}\r\n%s", uid, name, len(data), data[:len(data)/3])
			c.Close()
			return true
		})
		r, err := d.Top(t.Context(), 0, 2000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(r)
		if err != nil || !strings.HasPrefix(f.messages[0].raw, got) || strings.Count(got, "\n") < 2000 {
			t.Errorf("%d octets, %d lines, %v", len(got), strings.Count(got, "\n"), err)
		}
	})
}
