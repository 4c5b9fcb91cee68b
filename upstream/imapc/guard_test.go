package imapc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A canned is a connection that brings what it holds, in pieces of any size.
type cannedConn struct {
	io.Reader
	closed bool
}

func (c *cannedConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *cannedConn) Close() error                     { c.closed = true; return nil }
func (c *cannedConn) LocalAddr() net.Addr              { return nil }
func (c *cannedConn) RemoteAddr() net.Addr             { return nil }
func (c *cannedConn) SetDeadline(time.Time) error      { return nil }
func (c *cannedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *cannedConn) SetWriteDeadline(time.Time) error { return nil }

func newCanned(r io.Reader) *guard {
	o := New(Options{}).o
	c := &cannedConn{Reader: r}
	return newGuard(c, c, nil, &o)
}

// The end of the stream is an error with a name, wherever it comes.
func TestGuardTellsWhereTheStreamEnds(t *testing.T) {
	for stream, want := range map[string]error{
		"":                                     io.EOF,
		"* OK ready\r\n":                       io.EOF,
		"* OK ready":                           io.ErrUnexpectedEOF,
		"* 1 FETCH (UID 3 BODY[] {5}\r\n":      io.ErrUnexpectedEOF,
		"* 1 FETCH (UID 3 BODY[] {5}\r\nabcd":  io.ErrUnexpectedEOF,
		"* 1 FETCH (UID 3 BODY[] {5}\r\nabcde": io.ErrUnexpectedEOF,
		"* 1 FETCH (UID 3 BODY[] {5}\r\nabcde)\r\n":                            io.EOF,
		"* 1 FETCH (UID 3 BODY[] {5} \r\nabcd":                                 io.ErrUnexpectedEOF,
		"* 1 FETCH (UID 3 BODY[] {5}\nabcd":                                    io.ErrUnexpectedEOF,
		"* 1 FETCH (A {0}\r\n B {2}\r\n\r\n)\r\n":                              io.EOF,
		"* OK in text {5}\r\n":                                                 io.EOF,
		"T1 NO [X] in text {5}\r\n":                                            io.EOF,
		"+ in text {5}\r\n":                                                    io.EOF,
		"* BYE " + strings.Repeat("x", 600) + " {5}\n":                         io.EOF,
		"* 1 FETCH (X \"" + strings.Repeat("x", 600) + "\" BODY[] {5}\r\nabcd": io.ErrUnexpectedEOF,
		"* LIST () NIL {70000}\r\n":                                            errTooLong,
		"* " + strings.Repeat("x", maxLine) + "\r\n":                           errTooLong,
	} {
		for _, r := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream)), iotest.DataErrReader(strings.NewReader(stream))} {
			g := newCanned(r)
			got, err := io.ReadAll(readerOnly{g})
			if want == io.EOF {
				if err != nil {
					t.Errorf("%.40q: %v, want io.EOF", stream, err)
				}
			} else if !errors.Is(err, want) {
				t.Errorf("%.40q: %v, want %v", stream, err, want)
			}
			if !strings.HasPrefix(stream, string(got)) || want != errTooLong && string(got) != stream {
				t.Errorf("%.40q: read %.40q", stream, got)
			}
			if _, again := g.Read(make([]byte, 1)); !errors.Is(again, want) || !g.socket.(*cannedConn).closed {
				t.Errorf("%.40q: then %v, want %v and a closed connection", stream, again, want)
			}
		}
	}
}

func TestGuardKeepsWhatTheServerSaid(t *testing.T) {
	g := newCanned(strings.NewReader("* OK [ALERT] mind the step\r\n* 1 EXISTS\r\nT1 OK [CAPABILITY IMAP4rev1] done\r\n"))
	io.ReadAll(readerOnly{g})
	words, code := g.said()
	if got := words.String(); got != "OK [ALERT] mind the step" || code != "CAPABILITY" {
		t.Errorf("said %q, code %q", got, code)
	}
}

// Nothing but an answer that is waited for makes silence an error.
func TestIdleConnectionIsNotCut(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		time.Sleep(time.Hour)
		wantWhole(t, d, 0, f.messages[0].raw)
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// U18, U20: news between and within commands changes nothing.
func TestNewsAtAnyTime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			c.say("* 17 EXISTS\r\n* 1 RECENT\r\n* 1 EXPUNGE\r\n* 2 FETCH (FLAGS (\\Seen))\r\n* FLAGS (\\Seen)\r\n* OK still here")
			return false
		}
		for i := range f.messages {
			wantWhole(t, d, i, f.messages[i].raw)
		}
		wantRemoved(t, f, d, []int{0, 3}, 2, nil, 5, 6)
		if f.connections != 1 {
			t.Errorf("%d connections, want 1", f.connections)
		}
	})
}

// news that the library cannot read costs the connection, and no message.
func TestNewsThatTheLibraryCannotRead(t *testing.T) {
	for _, news := range []string{"* VANISHED 1:7", "* XFOO", "* 1 FETCH (X-GM-MSGID 7)", "* 2 UIDFETCH (FLAGS ())", "*  4 EXISTS", "nonsense", "", "\x00"} {
		bubble(t, func(t *testing.T, f *fake) {
			d := f.list()
			f.fault = onCommand("UID FETCH", func(c *fakeConn) bool { c.say("%s", news); return false })
			wantWhole(t, d, 0, f.messages[0].raw)
			wantWhole(t, d, 1, f.messages[1].raw)
		})
	}
}

// What a guard lets through is what came, whatever it is and however it is cut
// up, and a query sees the lines that the library does not.
func FuzzGuard(f *testing.F) {
	f.Add([]byte("* OK ready\r\n* 1 FETCH (UID 3 BODY[] {5}\r\nabcde)\r\nT1 OK done\r\n"), 3)
	f.Add([]byte("* LIST () NIL {70000}\r\n"), 1)
	f.Add([]byte("* 1 FETCH (X {9223372036854775807}\r\n"), 7)
	f.Add([]byte("+ go {3}\r\n* BYE [X {3}\r\n"), 4)
	f.Add(canned(20), 50)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		size = max(1, size%5000)
		g := newCanned(bytes.NewReader(stream))
		var got []byte
		for part := make([]byte, size); ; {
			n, err := g.Read(part)
			got = append(got, part[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(stream, got) || g.broken() == io.EOF && len(got) != len(stream) {
			t.Errorf("%q came out as %q (%v)", stream, got, g.broken())
		}
		if len(g.head) > headOctets || cap(g.tail) > 8*tailOctets {
			t.Errorf("keeps %d and %d octets", len(g.head), cap(g.tail))
		}
	})
}

// FuzzAsk: a query ends, and hands over no octet of what follows it.
func FuzzAsk(f *testing.F) {
	f.Add([]byte("* 1 FETCH (UID 3 RFC822.SIZE 9)\r\n"), []byte("* 2 EXISTS\r\n"))
	f.Add([]byte("* 1 FETCH (X {3}\r\nabc UID 3 RFC822.SIZE 9)\r\nT9 OK x\r\n"), []byte("* BYE\r\n"))
	f.Add([]byte("* CAPABILITY IMAP4rev1\r\n* OK {5}\r\n"), []byte(""))
	f.Fuzz(func(t *testing.T, answer, after []byte) {
		g := newCanned(nil)
		q := &query{tag: "P1", done: make(chan struct{}), line: func(line []byte) error {
			if len(line) > 0 && line[len(line)-1] == '\n' {
				t.Errorf("line %q", line)
			}
			return nil
		}}
		stream := append(bytes.Clone(answer), "P1 OK done\r\n"...)
		g.conn.(*cannedConn).Reader = bytes.NewReader(append(stream, after...))
		g.asked = []*query{q}
		g.answer()
		<-q.done
		if q.err == nil && !bytes.HasSuffix(append(bytes.Clone(g.stash), mustReadAll(g.conn)...), after) {
			t.Errorf("after the answer came %q, want %q", g.stash, after)
		}
	})
}

func mustReadAll(r io.Reader) []byte {
	all, err := io.ReadAll(r)
	if err != nil {
		panic(err)
	}
	return all
}

// A listing of 100,000 messages through the guard, as in a session.
func BenchmarkList100000(b *testing.B) {
	text := canned(100000)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		g := newCanned(io.MultiReader(bytes.NewReader(text), strings.NewReader("P1 OK done\r\n")))
		g.begin(await{octets: 1 << 30})
		l := &listing{entries: make([]uint64, 0, 100000)}
		q := &query{tag: "P1", done: make(chan struct{}), line: func(line []byte) error {
			uid, size, err := parseSize(line)
			l.add(uid, size)
			return err
		}}
		g.asked = []*query{q}
		g.answer()
		if <-q.done; q.err != nil || l.Len() != 100000 {
			b.Fatal(q.err, l.Len())
		}
	}
}
