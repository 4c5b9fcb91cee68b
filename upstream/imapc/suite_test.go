package imapc

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"go.uber.org/goleak"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
)

func TestMain(m *testing.M) {
	// The library's server locks itself up for ever after a failed write.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/emersion/go-imap/v2/imapserver.(*Conn).serve"))
}

func TestSuiteOnMemory(t *testing.T) { upstreamtest.Test(t, newMemory) }

// A memory is a mailbox on the library's server in memory.
type memory struct {
	address string
	user    *imapmemserver.User
}

func newMemory(t *testing.T) upstreamtest.Fixture {
	user := imapmemserver.NewUser("bob", "secret")
	if err := user.Create("INBOX", nil); err != nil {
		t.Fatal(err)
	}
	store := imapmemserver.New()
	store.AddUser(user)
	server := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return store.NewSession(), nil, nil
		},
		Caps:         imap.CapSet{imap.CapIMAP4rev1: {}, imap.CapUIDPlus: {}},
		InsecureAuth: true,
	})
	l := listen(t)
	served := make(chan struct{})
	go func() { server.Serve(l); close(served) }()
	t.Cleanup(func() { server.Close(); <-served })
	return upstreamtest.Fixture{
		Opener:  New(Options{Address: l.Addr().String(), TLS: TLSOff}),
		Account: upstream.Account{User: "bob", Password: upstream.NewSecret("secret")},
		Mailbox: memory{l.Addr().String(), user},
		// That server adds the empty line which is missing at the end of a header.
		Samples: slices.DeleteFunc(upstreamtest.Corpus(), func(s upstreamtest.Sample) bool { return s.Name == "header only" }),
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (m memory) Deliver(t testing.TB, raw string) {
	t.Helper()
	if _, err := m.user.Append("INBOX", literalReader{strings.NewReader(raw)}, &imap.AppendOptions{}); err != nil {
		t.Fatal(err)
	}
}

type literalReader struct{ *strings.Reader }

func (r literalReader) Size() int64 { return r.Reader.Size() }

// client is the other client of the mailbox.
func (m memory) client(t testing.TB) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialInsecure(m.address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login("bob", "secret").Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (m memory) fetch(t testing.TB, c *imapclient.Client) []*imapclient.FetchMessageBuffer {
	t.Helper()
	all, err := c.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true,
		BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (m memory) Messages(t testing.TB) []string {
	t.Helper()
	c := m.client(t)
	defer c.Close()
	var all []string
	for _, message := range m.fetch(t, c) {
		all = append(all, string(message.BodySection[0].Bytes))
	}
	return all
}

func (m memory) Take(t testing.TB, raw string) {
	t.Helper()
	c := m.client(t)
	defer c.Close()
	for _, message := range m.fetch(t, c) {
		if string(message.BodySection[0].Bytes) == raw {
			set := imap.UIDSetNum(message.UID)
			c.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close()
			c.UIDExpunge(set).Close()
			return
		}
	}
	t.Fatalf("no such message to take: %.60q", raw)
}

func TestSuiteOnDovecot(t *testing.T) {
	server := dovecot.Start(t)
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"Plaintext", Options{Address: server.IMAP, TLS: TLSOff}},
		{"STARTTLS", Options{Address: server.IMAP, TLS: TLSStartTLS, TLSConfig: trust(t, server.CAFile)}},
		{"ImplicitTLS", Options{Address: server.IMAPS, TLSConfig: trust(t, server.CAFile)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			upstreamtest.Test(t, func(t *testing.T) upstreamtest.Fixture {
				mailbox := server.AddUser(t, strings.ReplaceAll(t.Name(), "/", "-"), "pass word\"\\")
				return upstreamtest.Fixture{Opener: New(c.o), Account: mailbox.Account(), Mailbox: mailbox}
			})
		})
	}
}

// A handshake is not made anew for each session.
func TestTLSResumes(t *testing.T) {
	server := dovecot.Start(t)
	mailbox := server.AddUser(t, "resumes", "secret")
	for _, o := range []Options{{Address: server.IMAP, TLS: TLSStartTLS}, {Address: server.IMAPS}} {
		o.TLSConfig = trust(t, server.CAFile)
		o.TLSConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		u := New(o)
		for k := range 2 {
			d, err := u.Open(t.Context(), mailbox.Account())
			if err != nil {
				t.Fatal(err)
			}
			if got := d.(*maildrop).c.tls.DidResume; got != (k > 0) {
				t.Errorf("%v: session %d resumed: %v", o.TLS, k, got)
			}
			d.Close()
		}
	}
}

func trust(t testing.TB, file string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", file)
	}
	return &tls.Config{RootCAs: roots}
}
