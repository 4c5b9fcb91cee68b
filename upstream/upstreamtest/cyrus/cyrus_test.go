package cyrus

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"

	"postern/upstream/upstreamtest"
)

func TestMailboxHoldsWhatWasDelivered(t *testing.T) {
	m := Start(t).AddUser(t, "ann", "it's \"a\" pass:word")
	var want []string
	for _, s := range upstreamtest.Corpus() {
		m.Deliver(t, s.Raw)
		want = append(want, s.Raw)
	}
	if !slices.Equal(m.Messages(t), want) {
		t.Error("the corpus came back changed")
	}
	m.Take(t, want[1])
	m.Copy(t, 1, "Archive")
	if got, want := m.Messages(t), slices.Delete(want, 1, 2); !slices.Equal(got, want) {
		t.Errorf("%d messages after Take, want the other %d", len(got), len(want))
	}
	if got := m.In(t, "Archive"); !slices.Equal(got, want[:1]) {
		t.Errorf("%d messages in Archive, want the one copied there", len(got))
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
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	for _, url := range []string{s.JMAP, s.JMAPS} {
		for password, want := range map[string]int{"secret": 200, "wrong": 401} {
			r, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth("ann", password)
			answer, err := (&http.Client{Transport: transport}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			if answer.StatusCode != want {
				t.Errorf("%s with password %q: status %d, want %d", url, password, answer.StatusCode, want)
			}
		}
	}
	conn, err := net.Dial("tcp", s.POP3)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pop := textproto.NewReader(bufio.NewReader(conn))
	io.WriteString(conn, "USER ann\r\nPASS secret\r\nSTAT\r\n")
	for _, want := range []string{"+OK", "+OK", "+OK", "+OK 1 "} {
		if line, err := pop.ReadLine(); err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("POP3: got %q and %v, want %q", line, err, want)
		}
	}
}

func TestServerEndsWithTheTest(t *testing.T) {
	var s *Server
	t.Run("serve", func(t *testing.T) { s = Start(t) })
	for _, address := range []string{s.IMAP, s.POP3} {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("%s still listens", address)
		}
	}
	if _, err := os.Stat(s.private.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", s.private.Dir)
	}
}

func TestConfigLinesReplace(t *testing.T) {
	got := merge("a: 1\nb: 2\n", []string{"b: 3", "c: 4"})
	if want := "c: 4\nb: 3\na: 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
