package migrate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/proxy/ledger"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

func form(t *testing.T, name string) Form {
	t.Helper()
	u, err := imapc.ParseUIDL(name)
	if err != nil {
		t.Fatal(err)
	}
	return u.Of
}

// A reading is what a Fetch saves, by unique-id.
type reading struct {
	mu    sync.Mutex
	known map[string]ledger.Known
	calls int
}

func (r *reading) save(known []ledger.Known) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.known == nil {
		r.known = map[string]ledger.Known{}
	}
	for _, k := range known {
		r.known[k.UIDL] = k
	}
	return nil
}

// fetch reads all of a server, which must go well.
func fetch(t *testing.T, o OldServer) *reading {
	t.Helper()
	var r reading
	result, err := Fetch{Server: o, Save: r.save}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Skipped) > 0 || result.Messages != len(r.known) {
		t.Fatalf("%d messages, %d read, skipped %v", result.Messages, len(r.known), result.Skipped)
	}
	return &r
}

// wantSame compares a map that was read from files with what the server says.
func wantSame(t *testing.T, m *Map, server *reading) {
	t.Helper()
	if len(m.Skipped) > 0 {
		t.Errorf("skipped: %v", m.Skipped)
	}
	got := map[string]ledger.Known{}
	for _, k := range m.Known {
		if k.Received.IsZero() {
			t.Errorf("%s has no date", k.UIDL)
		}
		if k.Name == "" {
			t.Errorf("%s has no name", k.UIDL)
		}
		k.Received, k.Name = server.known[k.UIDL].Received, "" // which POP3 does not tell
		got[k.UIDL] = k
	}
	if diff := cmp.Diff(server.known, got); diff != "" {
		t.Errorf("the server's map (-) and that of its files (+):\n%s", diff)
	}
}

// odd are messages that servers store differently from how they came.
var odd = []string{
	"Subject: one\r\n\r\nfirst\r\n",
	"Subject: bare\n\nline feeds\n",
	"Subject: no end\r\n\r\nof the last line",
	"Subject: folded\r\n and\r\n\tfolded\r\nX-Eight: gr\xfc\xdfe\r\n\r\n.\r\n..\r\n",
	"Subject: only a header\r\n",
}

func TestDovecotsFilesAndDovecotsServerAgree(t *testing.T) {
	for name, config := range map[string]string{
		"computed":   "",
		"saved":      "protocol pop3 {\npop3_save_uidl = yes\npop3_uidl_format = saved-%v-%u\n}",
		"compressed": "mail_plugins = $mail_plugins zlib\nplugin {\nzlib_save = gz\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := dovecot.Start(t, config)
			box := s.AddUser(t, "ann", "secret")
			for i := range 120 {
				box.Deliver(t, upstreamtest.Letter(i, 300))
			}
			for _, raw := range odd {
				box.Deliver(t, raw)
			}
			account := box.Account()
			server := fetch(t, OldServer{Address: s.POP3, TLS: Off, User: account.User, Password: account.Password})
			home := strings.TrimSpace(s.Doveadm(t, "user", "-f", "home", "ann"))
			m, err := Dovecot(filepath.Join(home, "maildir", "dovecot-uidlist"), form(t, "dovecot"), form(t, "postern"))
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, m, server)
			saved := strings.HasPrefix(m.Known[0].UIDL, "saved-")
			if saved != (name == "saved") {
				t.Errorf("the first unique-id is %s", m.Known[0].UIDL)
			}
		})
	}
}

// TestTLS reads through both kinds of TLS, and refuses a server that it does
// not know.
func TestTLS(t *testing.T) {
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	box.Deliver(t, odd[0])
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	o := OldServer{Address: s.POP3S, User: "ann", Password: box.Account().Password, TLSConfig: &tls.Config{RootCAs: roots}}
	fetch(t, o)
	o.Address, o.TLS = s.POP3, STLS
	fetch(t, o)
	o.TLSConfig = nil
	if _, err := (Fetch{Server: o, Save: new(reading).save}).Run(t.Context()); err == nil {
		t.Error("a server with a certificate of nobody's was believed")
	}
}

func TestCyrussFilesAndCyrussServerAgree(t *testing.T) {
	for _, format := range []string{"cyrus", "uidonly", "dovecot", "courier"} {
		t.Run(format, func(t *testing.T) {
			s := cyrus.Start(t, "uidl_format: "+format)
			box := s.AddUser(t, "ann", "secret")
			for i := range 5 {
				box.Deliver(t, upstreamtest.Letter(i, 300))
			}
			box.Deliver(t, odd[0])
			account := box.Account()
			server := fetch(t, OldServer{Address: s.POP3, TLS: Off, User: account.User, Password: account.Password})
			ours := map[string]string{"uidonly": "cyrus-uid", "courier": "cyrus-courier"}[format]
			if ours == "" {
				ours = format
			}
			m, err := Cyrus(mailboxDir(t, filepath.Dir(s.CAFile)), form(t, ours), form(t, "postern"))
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, m, server)
		})
	}
}

// mailboxDir finds the one directory below that has messages in it.
func mailboxDir(t *testing.T, below string) string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(below, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "1." {
			found = append(found, filepath.Dir(path))
		}
		return nil
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("directories with messages: %v, %v; want one", found, err)
	}
	return found[0]
}

// TestManyConnections: Dovecot lets several clients in, and takes commands ahead.
func TestManyConnections(t *testing.T) {
	s := dovecot.Start(t)
	box := s.AddUser(t, "ann", "secret")
	const n = 3*part + 7
	home := strings.TrimSpace(s.Doveadm(t, "user", "-f", "home", "ann"))
	box.Deliver(t, odd[0]) // which makes the maildir
	sample, _ := filepath.Glob(filepath.Join(home, "maildir", "*", "1*"))
	if len(sample) != 1 {
		t.Fatalf("files of one message: %v", sample)
	}
	info, err := os.Stat(sample[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range n - 1 {
		name := filepath.Join(filepath.Dir(sample[0]), fmt.Sprintf("%d.M%dP1.test", 1_700_000_000+i, i))
		if err := os.WriteFile(name, []byte(upstreamtest.Letter(i, 200)), info.Mode()); err != nil {
			t.Fatal(err)
		}
		own(t, name, info)
	}
	account := box.Account()
	var seen []int
	var r reading
	result, err := Fetch{
		Server: OldServer{Address: s.POP3, TLS: Off, User: account.User, Password: account.Password, Connections: 3},
		Save:   r.save,
		Progress: func(done, all int) {
			if all != n {
				t.Errorf("progress of %d messages, want %d", all, n)
			}
			seen = append(seen, done)
		},
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if result.Messages != n || len(r.known) != n || r.calls != 4 {
		t.Errorf("%d messages, %d read in %d parts; want %d, %[4]d and 4", result.Messages, len(r.known), r.calls, n)
	}
	if !slices.IsSorted(seen) || seen[len(seen)-1] != n {
		t.Errorf("progress ended at %d, want %d, without going back", seen[len(seen)-1], n)
	}
}
