package dovecot

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream/upstreamtest"
)

func TestMailboxHoldsWhatWasDelivered(t *testing.T) {
	for _, format := range []string{"maildir", "sdbox", "mdbox"} {
		t.Run(format, func(t *testing.T) {
			m := Start(t, Format(format)).AddUser(t, "ann", "it's \"a\" pass:word")
			var want []string
			for _, s := range upstreamtest.Corpus() {
				m.Deliver(t, s.Raw)
				want = append(want, s.Raw)
			}
			if !slices.Equal(m.Messages(t), want) {
				t.Errorf("the corpus came back changed")
			}
			m.Take(t, want[1])
			if got, want := m.Messages(t), slices.Delete(want, 1, 2); !slices.Equal(got, want) {
				t.Errorf("%d messages after Take, want the other %d", len(got), len(want))
			}
		})
	}
}

func TestListeners(t *testing.T) {
	s := Start(t)
	s.AddUser(t, "ann", "secret").Deliver(t, upstreamtest.Letter(1, 600))
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, c := range []struct {
		address  string
		implicit bool
		greeting string
		login    string
		answer   string
	}{
		{s.IMAP, false, "* OK", "a LOGIN ann secret", "a OK"},
		{s.IMAPS, true, "* OK", "a LOGIN ann secret", "a OK"},
		{s.IMAP, false, "* OK", "a LOGIN ann wrong", "a NO [AUTHENTICATIONFAILED]"},
		{s.POP3, false, "+OK", "USER ann\r\nPASS secret\r\nSTAT", "+OK 1 "},
		{s.POP3S, true, "+OK", "USER ann\r\nPASS secret\r\nSTAT", "+OK 1 "},
		{s.POP3, false, "+OK", "USER ann\r\nPASS wrong", "-ERR [AUTH]"},
	} {
		t.Run(c.answer, func(t *testing.T) {
			conn, err := net.Dial("tcp", c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if c.implicit {
				conn = tls.Client(conn, &tls.Config{ServerName: "localhost", RootCAs: roots})
			}
			r := bufio.NewReader(conn)
			expect(t, r, c.greeting)
			fmt.Fprintf(conn, "%s\r\n", c.login)
			expect(t, r, c.answer)
		})
	}
}

// expect reads lines up to one that starts with want.
func expect(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	var got []string
	for {
		line, err := r.ReadString('\n')
		got = append(got, line)
		if err != nil {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
		if strings.HasPrefix(line, want) {
			return
		}
	}
}

func TestWithoutHidesCapabilities(t *testing.T) {
	for _, hidden := range []string{"", "UIDPLUS", "MOVE"} {
		m := Start(t, Without(hidden)).AddUser(t, "ann", "secret")
		answers := m.imap.Do(t, "CAPABILITY")
		got := strings.Fields(strings.TrimPrefix(answers[0].Text, "* CAPABILITY "))
		want := slices.DeleteFunc(strings.Fields(allCapabilities), func(c string) bool { return c == hidden })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("without %q:\n%s", hidden, diff)
		}
	}
}

// TestAllCapabilities keeps the constant in step with the installed version.
func TestAllCapabilities(t *testing.T) {
	m := Start(t).AddUser(t, "ann", "secret")
	want := strings.TrimPrefix(m.imap.Do(t, "CAPABILITY")[0].Text, "* CAPABILITY ")
	if diff := cmp.Diff(want, allCapabilities); diff != "" {
		t.Errorf("-offered +allCapabilities:\n%s", diff)
	}
}

func TestSetUIDValidity(t *testing.T) {
	m := Start(t).AddUser(t, "ann", "secret")
	m.Deliver(t, upstreamtest.Letter(1, 600))
	m.SetUIDValidity(t, 4242)
	var all []string
	for _, r := range m.imap.Do(t, "SELECT INBOX") {
		all = append(all, r.Text)
	}
	if text := strings.Join(all, "\n"); !strings.Contains(text, "[UIDVALIDITY 4242]") {
		t.Errorf("got %s, want UIDVALIDITY 4242", text)
	}
}

func TestServerEndsWithTheTest(t *testing.T) {
	var s *Server
	t.Run("serve", func(t *testing.T) {
		s = Start(t)
		s.AddUser(t, "ann", "secret").Deliver(t, upstreamtest.Letter(1, 600))
	})
	if conn, err := net.Dial("tcp", s.IMAP); err == nil {
		io.Copy(io.Discard, conn)
		t.Error("still listening")
	}
	if _, err := os.Stat(s.private.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", s.private.Dir)
	}
}
