package notice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"postern/upstream"
)

// A desk keeps one account.
type desk struct {
	lost  Lost
	told  bool
	known upstream.Listing
	err   error
}

func (d *desk) Lost(context.Context, upstream.Account) (Lost, bool, error) {
	return d.lost, !d.told, d.err
}

func (d *desk) Told(_ context.Context, _ upstream.Account, lost Lost) error {
	if lost != d.lost {
		return fmt.Errorf("told of %v, want %v", lost, d.lost)
	}
	d.told = true
	return d.err
}

func (d *desk) Remembered(context.Context, upstream.Account) (upstream.Listing, error) {
	return d.known, nil
}

// known is a listing of two messages.
type known struct{}

func (known) Len() int                            { return 2 }
func (known) Size(i int) int64                    { return int64(100 + i) }
func (known) AppendUIDL(dst []byte, i int) []byte { return fmt.Appendf(dst, "known-%d", i) }

var since = time.Date(2026, 11, 20, 8, 30, 0, 0, time.UTC)

func newDesk() *desk {
	return &desk{known: known{}, lost: Lost{Account: "scanner@example.org", Provider: "Gmail", Since: since,
		Link: "https://pop.example.org/connect/abc"}}
}

// An opener's logins end as they are told to.
type opener struct{ err error }

func (o opener) Open(context.Context, upstream.Account) (upstream.Maildrop, error) { return nil, o.err }

func open(t *testing.T, d *desk) (upstream.Maildrop, upstream.Listing) {
	t.Helper()
	drop, err := New(opener{fmt.Errorf("token: %w", upstream.ErrConsent)}, d).Open(t.Context(), upstream.Account{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := drop.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return drop, l
}

// The client is shown all that it knows, so that it forgets nothing, and the
// notice as the newest.
func TestListing(t *testing.T) {
	_, l := open(t, newDesk())
	var got []string
	for i := range l.Len() {
		got = append(got, string(l.AppendUIDL(nil, i)))
	}
	if want := "known-0 known-1 postern-consent-1795163400"; strings.Join(got, " ") != want {
		t.Errorf("UIDLs %q, want %q", got, want)
	}
	if l.Size(0) != 100 || l.Size(1) != 101 {
		t.Errorf("sizes %d and %d, want 100 and 101", l.Size(0), l.Size(1))
	}
}

// Of the messages that are known, none is shown as anything else, and none
// seems to be removed.
func TestKnownMessagesAreOutOfReach(t *testing.T) {
	d := newDesk()
	drop, _ := open(t, d)
	for name, err := range map[string]error{
		"Fetch":     second(drop.Fetch(t.Context(), 0)),
		"Top":       second(drop.Top(t.Context(), 1, 5)),
		"Removable": drop.Removable(0),
		"Remove":    second(drop.Remove(t.Context(), []int{2, 1})),
	} {
		if !errors.Is(err, upstream.ErrUnreadable) {
			t.Errorf("%s: got %v, want ErrUnreadable", name, err)
		}
	}
	if drop.MarkSeen(t.Context(), []int{0, 1}); d.told {
		t.Error("the client counts as told, and never saw the notice")
	}
}

func second[T any](_ T, err error) error { return err }

// The client was told once its session ended well, whether it removes the
// notice or leaves it: neither is heard of where the session broke off.
func TestToldOnce(t *testing.T) {
	for name, end := range map[string]func(upstream.Maildrop) error{
		"removed": func(m upstream.Maildrop) error { return second(m.Remove(t.Context(), []int{2})) },
		"left":    func(m upstream.Maildrop) error { return m.MarkSeen(t.Context(), []int{2}) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			for range 2 { // the first session breaks off
				drop, l := open(t, d)
				if got := read(t, drop); int64(len(got)) != l.Size(2) {
					t.Errorf("%d octets, want %d", len(got), l.Size(2))
				}
				if err := errors.Join(drop.Close()); err != nil || d.told {
					t.Fatalf("told %t, %v; want false before the end", d.told, err)
				}
			}
			drop, _ := open(t, d)
			if err := end(drop); err != nil || !d.told {
				t.Fatalf("told %t, %v; want true", d.told, err)
			}
			_, err := New(opener{upstream.ErrConsent}, d).Open(t.Context(), upstream.Account{})
			if !errors.Is(err, upstream.ErrConsent) {
				t.Errorf("login after that: %v, want ErrConsent", err)
			}
		})
	}
}

func read(t *testing.T, drop upstream.Maildrop) string {
	t.Helper()
	r, err := drop.Fetch(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Other failures are none of its business, and its own make none better.
func TestOtherErrorsPass(t *testing.T) {
	for _, want := range []error{upstream.ErrAuth, upstream.ErrUnavailable, upstream.ErrRejected} {
		if _, err := New(opener{want}, newDesk()).Open(t.Context(), upstream.Account{}); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	d := newDesk()
	d.err = errors.New("disk")
	if _, err := New(opener{upstream.ErrConsent}, d).Open(t.Context(), upstream.Account{}); !errors.Is(err, upstream.ErrConsent) || !errors.Is(err, d.err) {
		t.Errorf("got %v, want both errors", err)
	}
}

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		name         string
		lost         Lost
		to, from     string
		parts, lacks []string
	}{
		{name: "with a link", lost: newDesk().lost, to: "<scanner@example.org>", from: "postern@example.org",
			parts: []string{"Gmail wants the owner", "scanner@example.org", "20 November 2026, 08:30 UTC", "    https://pop.example.org/connect/abc\r\n"},
			lacks: []string{"postern account connect"}},
		{name: "without", lost: Lost{Account: "scanner", Provider: "Microsoft 365", Since: since}, to: "undisclosed-recipients:;", from: "postern@postern.invalid",
			parts: []string{"    postern account connect scanner\r\n", "Microsoft 365 wants"}, lacks: []string{"browser"}},
		{name: "a name that is not ASCII", lost: Lost{Account: "jörg", Provider: "Gmail", Since: since}, to: "undisclosed-recipients:;", from: "postern@postern.invalid",
			parts: []string{"account     jörg"}},
		{name: "a hostile name", lost: Lost{Account: "x\r\nBcc: y@example.org\r\n\r\n.", Provider: "Gmail", Since: since}, to: "undisclosed-recipients:;", from: "postern@postern.invalid",
			parts: []string{"account     xBcc: y@example.org."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := c.lost.message()
			if strings.Contains(strings.ReplaceAll(raw, "\r\n", ""), "\n") || !strings.HasSuffix(raw, "\r\n") {
				t.Errorf("line endings are not all CRLF: %q", raw)
			}
			m, err := mail.ReadMessage(strings.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			from, err := m.Header.AddressList("From")
			if err != nil || from[0].Address != c.from {
				t.Errorf("from %v, %v; want %s", from, err, c.from)
			}
			if got := m.Header.Get("To"); got != c.to {
				t.Errorf("to %q, want %q", got, c.to)
			}
			if got := m.Header.Get("Bcc"); got != "" {
				t.Errorf("the account's name made a header field: %q", got)
			}
			if date, err := m.Header.Date(); err != nil || !date.Equal(since) {
				t.Errorf("date %v, %v; want %v", date, err, since)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			if err != nil || !strings.Contains(subject, printable(c.lost.Account)) {
				t.Errorf("subject %q, %v; want the account in it", subject, err)
			}
			check(t, m, c.parts, c.lacks)
		})
	}
}

func check(t *testing.T, m *mail.Message, parts, lacks []string) {
	t.Helper()
	body := m.Body
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range parts {
		if !strings.Contains(string(b), want) {
			t.Errorf("body lacks %q:\n%s", want, b)
		}
	}
	for _, not := range lacks {
		if strings.Contains(string(b), not) {
			t.Errorf("body has %q:\n%s", not, b)
		}
	}
}
