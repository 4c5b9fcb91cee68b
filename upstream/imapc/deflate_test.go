package imapc

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A squeezed connection is compressed by the server.
type squeezed struct {
	net.Conn
	w    *flate.Writer
	sent *atomic.Int64 // octets on the wire
}

func (s squeezed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil {
		err = s.w.Flush()
	}
	return n, err
}

type metered struct {
	io.Writer
	n *atomic.Int64
}

func (c metered) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Writer.Write(p)
}

// squeeze answers COMPRESS, with the first octets that are compressed in the same
// segment as the answer.
func (c *fakeConn) squeeze(sent *atomic.Int64) {
	var both strings.Builder
	fmt.Fprintf(&both, "%s OK compressed\r\n", c.tag)
	early, _ := flate.NewWriter(&both, 1)
	io.WriteString(early, "* OK still here\r\n")
	early.Flush()
	io.WriteString(c.Conn, both.String())
	raw := c.Conn
	w, _ := flate.NewWriter(metered{raw, sent}, flate.BestCompression)
	c.r = bufio.NewReader(flate.NewReader(bufio.NewReader(io.MultiReader(c.r, raw))))
	c.Conn = squeezed{raw, w, sent}
}

// onCompressed has a fake compress what it sends.
func onCompressed(t *testing.T, test func(t *testing.T, f *fake, sent *atomic.Int64)) {
	t.Helper()
	bubble(t, func(t *testing.T, f *fake) {
		var sent atomic.Int64
		f.caps += " COMPRESS=DEFLATE"
		f.code = "[CAPABILITY " + f.caps + "] "
		f.options.Compress = true
		f.fault = onCommand("COMPRESS", func(c *fakeConn) bool { c.squeeze(&sent); return true })
		test(t, f, &sent)
	})
}

func TestCompressed(t *testing.T) {
	onCompressed(t, func(t *testing.T, f *fake, sent *atomic.Int64) {
		f.fill(300, 4000)
		d := f.list()
		received := 0
		for i := range d.listing.Len() {
			got, err := fetchAll(t, d, i)
			if want := f.messages[i].raw; got != want || err != nil {
				t.Fatalf("message %d: %.40q, %v; want %.40q", i, got, err, want)
			}
			received += len(got)
		}
		if n, err := d.Remove(t.Context(), []int{0, 7, 299}); n != 3 || err != nil {
			t.Errorf("removed %d, %v", n, err)
		}
		if got := f.sent("COMPRESS"); len(got) != 1 {
			t.Errorf("sent %q", got)
		}
		if sent.Load() == 0 || sent.Load() > int64(received) {
			t.Errorf("%d octets on the wire for %d", sent.Load(), received)
		}
	})
}

// It is sent only after the login, and only where it was asked for and is
// offered; whoever will not, need not.
func TestCompressIsNotForced(t *testing.T) {
	for name, c := range map[string]struct {
		caps, answer string
		off, untold  bool
		sent         int
	}{
		"not offered":       {caps: "IMAP4rev1 UIDPLUS"},
		"not asked for":     {caps: "IMAP4rev1 UIDPLUS COMPRESS=DEFLATE", off: true},
		"not told":          {caps: "IMAP4rev1 UIDPLUS COMPRESS=DEFLATE", untold: true},
		"refused":           {caps: "IMAP4rev1 UIDPLUS COMPRESS=DEFLATE", answer: "NO [COMPRESSIONACTIVE] TLS does", sent: 1},
		"unknown after all": {caps: "IMAP4rev1 UIDPLUS COMPRESS=DEFLATE", answer: "BAD what?", sent: 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps, f.options.Compress = c.caps, !c.off
				if !c.untold {
					f.code = "[CAPABILITY " + c.caps + "] "
				}
				f.fault = onCommand("COMPRESS", func(conn *fakeConn) bool { conn.say("%s %s", conn.tag, c.answer); return true })
				d := f.list()
				if got, err := fetchAll(t, d, 2); got != f.messages[2].raw || err != nil {
					t.Errorf("%.40q, %v", got, err)
				}
				all := f.sent("")
				login := indexOf(all, "LOGIN")
				if at := indexOf(all, "COMPRESS"); len(f.sent("COMPRESS")) != c.sent || c.sent > 0 && at < login {
					t.Errorf("sent %q", all)
				}
			})
		})
	}
}

func indexOf(commands []string, prefix string) int {
	for i, c := range commands {
		if strings.HasPrefix(c, prefix) {
			return i
		}
	}
	return -1
}

// What comes out of few octets is bounded as if all of it had come.
func TestCompressionBomb(t *testing.T) {
	const large = 64 << 20
	zeros := func(c *fakeConn) {
		some := strings.Repeat("0", 1<<20)
		for range large >> 20 {
			if _, err := io.WriteString(c, some); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		bomb func(c *fakeConn)
		max  int64 // octets on the wire
	}{
		"endless line":      {func(c *fakeConn) { c.begin("* OK "); zeros(c) }, maxLine / 100},
		"endless responses": {func(c *fakeConn) { c.begin("%s", strings.Repeat("* OK still here\r\n", large/17)) }, maxOctets / 50},
		"literal":           {func(c *fakeConn) { c.say("* 1 FETCH (UID 3 BODY[] {%d}", large); zeros(c) }, 1 << 16},
		"not deflate":       {func(c *fakeConn) { io.WriteString(c.Conn.(squeezed).Conn, strings.Repeat("\xff", 100)) }, 1 << 16},
	} {
		t.Run(name, func(t *testing.T) {
			onCompressed(t, func(t *testing.T, f *fake, sent *atomic.Int64) {
				f.options.MaxMessage = 1 << 20
				d := f.list()
				before := sent.Load()
				f.fault = func(conn *fakeConn, command string) bool {
					if strings.Contains(command, "BODY.PEEK") {
						c.bomb(conn)
						return drop(conn)
					}
					return drop(conn)
				}
				_, err := fetchAll(t, d, 0)
				if !errors.Is(err, upstream.ErrUnavailable) {
					t.Errorf("%v, want ErrUnavailable", err)
				}
				if n := sent.Load() - before; n > c.max {
					t.Errorf("%d octets of the bomb were taken, want at most %d", n, c.max)
				}
			})
		})
	}
}

// A message that compresses a thousandfold passes, whole.
func TestCompressedThousandfold(t *testing.T) {
	onCompressed(t, func(t *testing.T, f *fake, sent *atomic.Int64) {
		f.messages = f.messages[:1]
		f.messages[0].raw = "Subject: zeros\r\n\r\n" + strings.Repeat(strings.Repeat("0", 70)+"\r\n", 30<<20/72)
		d := f.list()
		r, err := d.Fetch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		if want := int64(len(f.messages[0].raw)); n != want || err != nil {
			t.Errorf("%d octets, %v; want %d", n, err, want)
		}
		if sent.Load() > n/100 {
			t.Errorf("%d octets on the wire for %d", sent.Load(), n)
		}
	})
}

func TestCompressedOnRealServers(t *testing.T) {
	const plugin = "protocol imap {\n  mail_plugins = imap_zlib\n}\n"
	for name, start := range map[string]func(t *testing.T) *service{
		"Dovecot": func(t *testing.T) *service { return onDovecot(t, plugin) },
		"Cyrus":   func(t *testing.T) *service { return onCyrus(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			want := append(s.raw, prose(t)...)
			for _, letter := range want[len(s.raw):] {
				s.deliver(t, letter)
			}
			for _, compress := range []bool{false, true} {
				var received atomic.Int64
				d := openAndList(t, New(Options{Address: s.address, TLS: TLSOff, Compress: compress, Dial: counting(&received)}), s.account)
				defer d.Close()
				octets := 0
				for i := range want {
					got, err := fetchAll(t, d, i)
					if got != want[i] || err != nil {
						t.Fatalf("message %d: %.40q, %v; want %.40q", i, got, err, want[i])
					}
					octets += len(got)
				}
				t.Logf("%d octets of mail in %d on the wire, compressed: %v", octets, received.Load(), compress)
				if is := received.Load() < int64(octets); is != compress {
					t.Errorf("compressed: %v, want %v", is, compress)
				}
			}
		})
	}
}

// prose returns letters of a few kB of English.
func prose(t *testing.T) (letters []string) {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no texts: %v", err)
	}
	for i, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(bytes.Split(text, []byte("\n")), 40) {
			header, _, _ := strings.Cut(upstreamtest.Letter(len(letters), 0), "\r\n\r\n")
			letters = append(letters, fmt.Sprintf("%s\r\nX-Part: %d\r\n\r\n%s\r\n", header, i, bytes.Join(part, []byte("\r\n"))))
		}
	}
	return letters
}

// counting dials connections whose received octets are counted.
func counting(n *atomic.Int64) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countingConn{c, n}, nil
	}
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}
