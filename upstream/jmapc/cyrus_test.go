package jmapc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
)

// onCyrus returns an Upstream on a real server, over plain http.
func onCyrus(t testing.TB, s *cyrus.Server, o Options) *Upstream {
	o.URL, o.PlainHTTP = s.JMAP, true
	u := New(o)
	t.Cleanup(func() { u.Close() })
	return u
}

func TestCyrus(t *testing.T) {
	s := cyrus.Start(t)
	users := 0
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		users++
		m := s.AddUser(t, fmt.Sprint("user", users), "pass word:\"x\"")
		return upstreamtest.Fixture{Opener: onCyrus(t, s, Options{}), Account: m.Account(), Mailbox: m}
	})
}

func TestCyrusWithSmallLimits(t *testing.T) {
	// Sizes are in kilobytes.
	s := cyrus.Start(t, "jmap_max_objects_in_get: 10", "jmap_max_objects_in_set: 5", "jmap_max_calls_in_request: 4",
		"jmap_max_size_request: 2", "expunge_mode: immediate")
	users := 0
	upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
		users++
		m := s.AddUser(t, fmt.Sprintf("user%d@example.org", users), "secret")
		return upstreamtest.Fixture{Opener: onCyrus(t, s, Options{}), Account: m.Account(), Mailbox: m}
	})
}

// TestCyrusPOP3Agrees compares with Cyrus's own POP3 server on the same mailbox.
func TestCyrusPOP3Agrees(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	for _, sample := range upstreamtest.Corpus() {
		m.Deliver(t, sample.Raw)
	}
	d, l := open(t, onCyrus(t, s, Options{}), m.Account())
	conn, err := net.Dial("tcp", s.POP3)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	pop := textproto.NewConn(conn)
	popLine(t, pop, "")
	popLine(t, pop, "USER bob")
	popLine(t, pop, "PASS secret")
	for i := range l.Len() {
		var n int
		var size int64
		if _, err := fmt.Sscanf(popLine(t, pop, fmt.Sprint("LIST ", i+1)), "+OK %d %d", &n, &size); err != nil || size != l.Size(i) {
			t.Errorf("message %d: %d octets (%v), listed with %d", i, size, err, l.Size(i))
		}
		popLine(t, pop, fmt.Sprint("RETR ", i+1))
		if diff := cmp.Diff(dotted(t, pop.R), lines(read(t, d, i))); diff != "" {
			t.Errorf("message %d (-POP3 +JMAP):\n%s", i, diff)
		}
	}
}

func popLine(t *testing.T, pop *textproto.Conn, command string) string {
	t.Helper()
	if command != "" {
		pop.PrintfLine("%s", command)
	}
	line, err := pop.ReadLine()
	if err != nil || !strings.HasPrefix(line, "+OK") {
		t.Fatalf("%s: %q, %v", command, line, err)
	}
	return line
}

// dotted reads a multi-line response, line by line.
func dotted(t *testing.T, r *bufio.Reader) (all []string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == ".\r\n" {
			return all
		}
		all = append(all, strings.TrimSuffix(strings.TrimPrefix(line, "."), "\r\n"))
	}
}

// lines is how POP3 shows a message: a missing line end comes with the dot.
func lines(raw string) []string {
	return strings.Split(strings.TrimSuffix(raw, "\r\n"), "\r\n")
}

// TestCyrusIdenticalMessagesAreListedOnce: what Cyrus stores once has one id,
// and removing it removes every copy in the inbox.
func TestCyrusIdenticalMessagesAreListedOnce(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	raw := upstreamtest.Letter(1, 700)
	m.DeliverAll(t, []string{raw, raw, raw, raw})
	d, l := open(t, onCyrus(t, s, Options{}), m.Account())
	if l.Len() != 1 {
		t.Fatalf("%d messages, want 1", l.Len())
	}
	if n, err := d.Remove(t.Context(), []int{0}); n != 1 || err != nil {
		t.Errorf("removed %d, %v; want 1", n, err)
	}
	if left := m.Messages(t); len(left) != 0 {
		t.Errorf("%d copies left in the inbox", len(left))
	}
}

// TestCyrusCopyInArchiveStays: the copy is the same Email.
func TestCyrusCopyInArchiveStays(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	raw := []string{upstreamtest.Letter(1, 700), upstreamtest.Letter(2, 700)}
	m.DeliverAll(t, raw)
	m.Copy(t, 2, "Archive")
	d, _ := open(t, onCyrus(t, s, Options{}), m.Account())
	if n, err := d.Remove(t.Context(), []int{0, 1}); n != 2 || err != nil {
		t.Errorf("removed %d, %v; want 2", n, err)
	}
	if left := m.Messages(t); len(left) != 0 {
		t.Errorf("%d messages left in the inbox", len(left))
	}
	if diff := cmp.Diff(raw[1:], m.In(t, "Archive")); diff != "" {
		t.Errorf("Archive:\n%s", diff)
	}
}

func TestCyrusOverTLS(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	raw := upstreamtest.Letter(1, 100_000)
	m.Deliver(t, raw)
	u := New(Options{URL: s.JMAPS, TLSConfig: trusting(t, s.CAFile)})
	defer u.Close()
	d, _ := open(t, u, m.Account())
	if got := read(t, d, 0); got != raw {
		t.Errorf("%d octets, want the %d delivered", len(got), len(raw))
	}
	// Without trust in its certificate the server is not told anything.
	blind := New(Options{URL: s.JMAPS})
	defer blind.Close()
	if _, err := blind.Open(t.Context(), m.Account()); upstream.Kind(err) != "unavailable" {
		t.Errorf("unknown certificate: %v, want unavailable", err)
	}
}

func TestCyrusDescribe(t *testing.T) {
	s := cyrus.Start(t)
	m := s.AddUser(t, "bob", "secret")
	m.DeliverAll(t, []string{upstreamtest.Letter(1, 700), upstreamtest.Letter(2, 700)})
	r, err := onCyrus(t, s, Options{}).Describe(t.Context(), m.Account())
	if err != nil {
		t.Fatal(err)
	}
	if r.SessionURL != strings.Replace(s.JMAP, wellKnown, "/jmap", 1) || r.Account != "bob" || r.Messages != 2 || r.ReadOnly {
		t.Errorf("got %+v", r)
	}
	if r.MaxObjectsInGet != 4096 || len(r.Mailboxes) != 6 || len(r.Capabilities) < 5 {
		t.Errorf("got %+v", r)
	}
}

func TestCyrusUnknownUser(t *testing.T) {
	s := cyrus.Start(t)
	_, err := onCyrus(t, s, Options{}).Open(t.Context(), bob)
	if upstream.Kind(err) != "auth" {
		t.Errorf("got %v, want auth", err)
	}
}

// open logs in and lists.
func open(t testing.TB, u *Upstream, a upstream.Account) (upstream.Maildrop, upstream.Listing) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := u.Open(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	l, err := d.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return d, l
}

func read(t testing.TB, d upstream.Maildrop, i int) string {
	t.Helper()
	r, err := d.Fetch(context.Background(), i)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
