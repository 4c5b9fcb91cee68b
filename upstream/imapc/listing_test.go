package imapc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"postern/upstream"
)

func TestParseSize(t *testing.T) {
	for line, want := range map[string]string{
		"* 1 FETCH (UID 3 RFC822.SIZE 912)":                                    "3 912",
		"* 1 FETCH (RFC822.SIZE 912 UID 3)":                                    "3 912",
		"* 1 fetch (uid 3 rfc822.size 912)":                                    "3 912",
		"*  1  FETCH  ( UID  3  RFC822.SIZE  912 )":                            "3 912",
		`* 1 FETCH (FLAGS (\Seen $x (a (b))) UID 3 MODSEQ (17) RFC822.SIZE 9)`: "3 9",
		`* 1 FETCH (X "a \" ) b" UID 3 RFC822.SIZE 912)`:                       "3 912",
		`* 1 FETCH (BODY[HEADER.FIELDS (A B)]<0> "" UID 3 RFC822.SIZE 912)`:    "3 912",
		`* 1 FETCH (ENVELOPE (NIL "UID 7" NIL) UID 3 RFC822.SIZE 912)`:         "3 912",
		"* 1 FETCH (UID 4294967295 RFC822.SIZE 0)":                             "4294967295 0",
		"* 1 FETCH (UID 3 RFC822.SIZE 5000000000)":                             "3 5000000000",
		`* 1 FETCH (UID 3 FLAGS (\Seen))`:                                      "3 -1",
		`* 1 FETCH (FLAGS (\Seen))`:                                            "0 -1",
		"* 1 FETCH ()":                                                         "0 -1",
		"* 1 EXPUNGE":                                                          "0 -1",
		"* 23 EXISTS":                                                          "0 -1",
		"* VANISHED 1:7":                                                       "0 -1",
		"* OK still here":                                                      "0 -1",
		"":                                                                     "0 -1",
		"* 1 FETCH (UID 0 RFC822.SIZE 912)":                                    "error",
		"* 1 FETCH (UID 4294967296 RFC822.SIZE 912)":                           "error",
		"* 1 FETCH (UID 99999999999999999999999 RFC822.SIZE 912)":              "error",
		"* 1 FETCH (UID -3 RFC822.SIZE 912)":                                   "error",
		"* 1 FETCH (UID 3 RFC822.SIZE -1)":                                     "error",
		"* 1 FETCH (UID 3 RFC822.SIZE 1099511627777)":                          "error",
		"* 1 FETCH (UID 3x RFC822.SIZE 912)":                                   "error",
		"* 1 FETCH (UID 3 RFC822.SIZE)":                                        "error",
		"* 1 FETCH (UID 3 RFC822.SIZE 912":                                     "error",
		"* 1 FETCH (UID 3 X (a RFC822.SIZE 912)":                               "error",
		"* 1 FETCH UID 3 RFC822.SIZE 912":                                      "error",
		"* 1 FETCH (UID 3 \"x RFC822.SIZE 912)":                                "error",
		"* 1 FETCH " + strings.Repeat("(", 1000000):                            "error",
	} {
		uid, size, err := parseSize([]byte(line))
		got := fmt.Sprint(uid, " ", size)
		if err != nil {
			got = "error"
			if len(err.Error()) > 300 {
				t.Errorf("%.60s: an error of %d octets", line, len(err.Error()))
			}
		}
		if got != want {
			t.Errorf("%.60s: %s, want %s", line, got, want)
		}
	}
}

// lists answers the listing with these lines and a tagged OK.
func lists(lines ...string) func(*fakeConn, string) bool {
	return func(c *fakeConn, command string) bool {
		if !strings.HasPrefix(command, "UID FETCH 1:*") {
			return false
		}
		for _, l := range lines {
			c.say("%s", l)
		}
		c.ok("done")
		return true
	}
}

func TestListInAnyOrderAmongOtherNews(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fault = lists("* 4 FETCH (UID 9 RFC822.SIZE 5000000000)", "* 5 EXISTS", "* 2 FETCH (UID 5 FLAGS ())",
			"* 1 FETCH (X-WHAT {5}\r\n* 1 F UID 3 RFC822.SIZE 30)", "* 0 RECENT", "* OK [ALERT] look {5}",
			"* 3 FETCH (RFC822.SIZE 60 UID 6)", "* XFOO {3}\r\nabc (", "* 2 FETCH (UID 5 RFC822.SIZE 4294967295)")
		d := f.open()
		l, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range l.Len() {
			got = append(got, fmt.Sprintf("%s=%d", l.AppendUIDL(nil, i), l.Size(i)))
		}
		want := "[77.3=30 77.5=4294967295 77.6=60 77.9=5000000000]"
		if fmt.Sprint(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// U23, U25 and their like: a listing is whole, or there is none.
func TestBadListingIsNeverShort(t *testing.T) {
	four := []string{"* 1 FETCH (UID 3 RFC822.SIZE 30)", "* 2 FETCH (UID 5 RFC822.SIZE 30)",
		"* 3 FETCH (UID 6 RFC822.SIZE 30)", "* 4 FETCH (UID 9 RFC822.SIZE 30)"}
	with := func(lines ...string) func(*fakeConn, string) bool { return lists(append(lines, four...)...) }
	for name, fault := range map[string]func(*fakeConn, string) bool{
		"none":        lists(),
		"one missing": lists(four[1:]...),
		"duplicate":   with("* 5 FETCH (UID 9 RFC822.SIZE 30)"),
		"zero":        with("* 5 FETCH (UID 0 RFC822.SIZE 30)"),
		"over 2^32-1": with("* 5 FETCH (UID 4294967296 RFC822.SIZE 30)"),
		"negative":    with("* 5 FETCH (UID 10 RFC822.SIZE -30)"),
		"cut": func(c *fakeConn, command string) bool {
			c.begin("%s\r\n* 2 FETCH (UID 5 RFC82", four[0])
			return drop(c)
		},
		"cut after a line":  func(c *fakeConn, command string) bool { c.say("%s", strings.Join(four, "\r\n")); return drop(c) },
		"BYE":               func(c *fakeConn, command string) bool { c.say("* BYE bye"); return drop(c) },
		"NO":                func(c *fakeConn, command string) bool { c.say("%s NO no", c.tag); return true },
		"BAD":               func(c *fakeConn, command string) bool { c.say("%s BAD no", c.tag); return true },
		"another tag":       func(c *fakeConn, command string) bool { c.say("T9 OK done"); return true },
		"a continuation":    func(c *fakeConn, command string) bool { c.say("+ go on"); return true },
		"nonsense":          func(c *fakeConn, command string) bool { c.say("\x00\xff"); return true },
		"an empty line":     func(c *fakeConn, command string) bool { c.say(""); return true },
		"literal too large": with("* 5 FETCH (X {65537}"),
		"literal 2^63-1":    with("* 5 FETCH (X {9223372036854775807}"),
		"literal 2^63":      with("* 5 FETCH (X {9223372036854775808}"),
		"silence":           func(*fakeConn, string) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.fault = func(c *fakeConn, command string) bool {
					return strings.HasPrefix(command, "UID FETCH") && fault(c, command)
				}
				d := f.open()
				l, err := d.List(t.Context())
				wantError(t, "list", err, upstream.ErrUnavailable)
				if l != nil {
					t.Errorf("a listing of %d messages", l.Len())
				}
			})
		})
	}
}

func TestMessageExpungedWhileListing(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fault = lists("* 1 FETCH (UID 3 RFC822.SIZE 30)", "* 2 EXPUNGE", "* 2 FETCH (UID 6 RFC822.SIZE 30)", "* 3 FETCH (UID 9 RFC822.SIZE 30)")
		d := f.open()
		f.take(5)
		l, err := d.List(t.Context())
		if err != nil || l.Len() != 3 {
			t.Errorf("%v, %v; want 3 messages", l, err)
		}
	})
}

// U20, U25: that a message was expunged meanwhile does not account for another
// one that the server left out.
func TestFaultU25MessageLeftOutWhileOneIsExpunged(t *testing.T) {
	for _, always := range []bool{false, true} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Listings = new(shelf)
			first := true
			f.fault = func(c *fakeConn, command string) bool {
				if !strings.HasPrefix(command, "UID FETCH 1:*") || !first && !always {
					return false
				}
				if first {
					f.take(5) // which is listed all the same
				}
				first = false
				c.say("* 1 FETCH (UID 3 RFC822.SIZE 913)\r\n* 2 FETCH (UID 5 RFC822.SIZE 913)\r\n* 4 FETCH (UID 9 RFC822.SIZE 913)\r\n* 2 EXPUNGE")
				c.ok("done") // and where is 6?
				return true
			}
			l, err := f.open().List(t.Context())
			if always {
				wantError(t, "list", err, upstream.ErrUnavailable)
				return
			}
			if err != nil || l.Len() != 3 || string(l.AppendUIDL(nil, 1)) != "77.6" {
				t.Errorf("%v, %v; want UIDs 3, 6 and 9", l, err)
			}
		})
	}
}

// U25: a mailbox of which the server does not say how many messages it has is
// not empty.
func TestFaultU25SelectThatTellsNothing(t *testing.T) {
	for name, answer := range map[string]string{"nothing": "", "no number": "* OK [UIDVALIDITY 77] valid\r\n"} {
		bubble(t, func(t *testing.T, f *fake) {
			selected := onCommand("SELECT", func(c *fakeConn) bool { c.say("%s%s OK done", answer, c.tag); return true })
			f.fault = func(c *fakeConn, command string) bool {
				return selected(c, command) || hollow("UID FETCH")(c, command)
			}
			d, err := f.upstream().Open(t.Context(), f.account())
			if err == nil {
				f.opened = append(f.opened, d)
				_, err = d.List(t.Context())
			}
			wantError(t, name, err, upstream.ErrUnavailable)
		})
	}
}

func TestListIsAskedTwiceWhenMessagesVanish(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.fault = onCommand("UID FETCH", func(c *fakeConn) bool {
			f.take(5)
			c.say("%s NO [EXPUNGEISSUED] some messages are gone", c.tag)
			return true
		})
		d := f.open()
		_, err := d.List(t.Context())
		wantError(t, "list", err, upstream.ErrUnavailable) // four were there, three are shown, nothing says why
		if got := f.sent("UID FETCH"); len(got) != 2 {
			t.Errorf("sent %q", got)
		}
	})
}

func TestTooManyMessages(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.MaxMessages = 3
		d := f.open()
		_, err := d.List(t.Context())
		wantError(t, "list", err, errTooLong)
		f.take(3)
		f.opened[0].Close()
		f.fault = lists("* 1 FETCH (UID 3 RFC822.SIZE 30)", "* 2 FETCH (UID 5 RFC822.SIZE 30)", "* 3 FETCH (UID 6 RFC822.SIZE 30)", "* 4 FETCH (UID 9 RFC822.SIZE 30)")
		d = f.open()
		_, err = d.List(t.Context())
		wantError(t, "list of more than there are", err, errTooLong)
	})
}

// Some servers take "1:*" for an error where there is no message.
func TestEmptyMailboxIsNoError(t *testing.T) {
	for _, answer := range []string{"OK done", "NO no such message", "BAD no such message"} {
		bubble(t, func(t *testing.T, f *fake) {
			f.messages = nil
			f.fault = onCommand("UID FETCH", func(c *fakeConn) bool { c.say("%s %s", c.tag, answer); return true })
			l, err := f.open().List(t.Context())
			if err != nil || l.Len() != 0 {
				t.Errorf("%s: %v, %v", answer, l, err)
			}
		})
	}
}

// U34: neither a line without end nor lines without end fill the memory.
func TestFloodIsCutAtTheLimit(t *testing.T) {
	for name, chunk := range map[string]string{
		"line":        strings.Repeat("x", 1<<16),
		"quoted":      `* LIST "` + strings.Repeat("(", 1<<16),
		"parentheses": "* 1 FETCH " + strings.Repeat("(", 1<<16),
		"lines":       strings.Repeat("* 1 EXISTS\r\n", 1<<13),
		"literals":    strings.Repeat("* X {9}\r\n123456789\r\n", 1<<13),
		"statuses":    strings.Repeat("* NO [ALERT] oh\r\n", 1<<13),
		"NUL":         strings.Repeat("\x00", 1<<16),
	} {
		for _, command := range []string{"LOGIN", "SELECT", "UID FETCH 1:*", "UID FETCH 3", "UID STORE"} {
			if name != "line" && command != "LOGIN" && command != "SELECT" {
				continue // these are read as LOGIN or as SELECT is
			}
			t.Run(name+" "+command, func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fake) {
					f.options.MaxMessages = 1000
					var octets atomic.Int64
					f.fault = func(c *fakeConn, sent string) bool {
						if !strings.HasPrefix(sent, command) {
							return false
						}
						for octets.Load() < 64<<20 {
							n, err := io.WriteString(c, chunk)
							octets.Add(int64(n))
							if err != nil {
								break
							}
						}
						c.Close()
						return true
					}
					d, err := f.upstream().Open(t.Context(), f.account())
					if err == nil {
						defer d.Close()
						_, err = d.List(t.Context())
					}
					if err == nil {
						_, err = d.Fetch(t.Context(), 0)
					}
					if err == nil {
						_, err = d.Remove(t.Context(), []int{0})
					}
					if n := octets.Load(); err == nil || n >= 64<<20 {
						t.Errorf("%v after %d octets", err, n)
					}
				})
			})
		}
	}
}

// canned is a listing as a server sends it.
func canned(messages int) []byte {
	var b bytes.Buffer
	for i := range messages {
		fmt.Fprintf(&b, "* %d FETCH (UID %d RFC822.SIZE %d)\r\n", i+1, 3*i+1, 1000+i%70000)
	}
	return b.Bytes()
}

func BenchmarkParseSize100000(b *testing.B) {
	lines := bytes.Split(bytes.TrimSuffix(canned(100000), []byte("\r\n")), []byte("\r\n"))
	b.ReportAllocs()
	for b.Loop() {
		l := &listing{entries: make([]uint64, 0, len(lines))}
		for _, line := range lines {
			uid, size, err := parseSize(line)
			if err != nil {
				b.Fatal(err)
			}
			l.add(uid, size)
		}
		if err := l.sort(); err != nil || l.Len() != 100000 {
			b.Fatal(err, l.Len())
		}
	}
}

func BenchmarkAppendUIDL100000(b *testing.B) {
	l := &listing{uidValidity: math.MaxUint32}
	for i := range uint32(100000) {
		l.add(i+1, 1000)
	}
	dst := make([]byte, 0, 70)
	b.ReportAllocs()
	for b.Loop() {
		for i := range l.Len() {
			dst = l.AppendUIDL(dst[:0], i)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add([]byte("* 1 FETCH (UID 3 RFC822.SIZE 912)"))
	f.Add([]byte(`* 1 FETCH (FLAGS (\Seen $x (a (b))) UID 3 MODSEQ (17) RFC822.SIZE 912)`))
	f.Add([]byte(`* 1 FETCH (BODY[HEADER.FIELDS (A B)]<0> "" X "a \" ) b" UID 3 RFC822.SIZE 5000000000)`))
	f.Fuzz(func(t *testing.T, line []byte) {
		uid, size, err := parseSize(line)
		if size < -1 || size > maxSize || err != nil && (uid != 0 || size != -1) {
			t.Errorf("UID %d, size %d, %v", uid, size, err)
		}
		if err != nil && !errors.Is(err, errProtocol) {
			t.Error(err)
		}
		if uid != 0 && size >= 0 {
			again := fmt.Sprintf("* 1 FETCH (UID %d RFC822.SIZE %d)", uid, size)
			if u, s, err := parseSize([]byte(again)); u != uid || s != size || err != nil {
				t.Errorf("%s: UID %d, size %d, %v", again, u, s, err)
			}
		}
	})
}

func FuzzParseSearch(f *testing.F) {
	f.Add([]byte("* SEARCH 1 2 3 (MODSEQ 5)"))
	f.Add([]byte(`* ESEARCH (TAG "x") UID COUNT 3 ALL 1:4,9`))
	f.Fuzz(func(t *testing.T, line []byte) {
		found, _, err := parseSearch(line)
		for _, r := range found {
			if r.first > r.last || err != nil {
				t.Errorf("range %d:%d, %v", r.first, r.last, err)
			}
		}
	})
}

// parseSize is parseItems where nothing else is wanted.
func parseSize(line []byte) (uid uint32, size int64, err error) {
	return parseItems(line, func([]byte, []byte) {})
}

func TestIsFlagged(t *testing.T) {
	for value, want := range map[string]bool{
		`(\Deleted)`: true, `(\Seen \deleted $X)`: true, `()`: false, `(\Seen)`: false, `(\DeletedX)`: false, `NIL`: false, `"\Deleted"`: false,
	} {
		if got := isFlagged([]byte("flags"), []byte(value)); got != want {
			t.Errorf("FLAGS %s: %v, want %v", value, got, want)
		}
		if isFlagged([]byte("KEYWORDS"), []byte(value)) {
			t.Errorf("KEYWORDS %s are flags", value)
		}
	}
}
