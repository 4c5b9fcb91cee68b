package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"

	"postern/upstream/upstreamtest"
)

// A memoryIMAP is an IMAP server in memory, for tests that want to hold it up.
type memoryIMAP struct {
	address  string
	accounts *imapmemserver.Server

	mu        sync.Mutex
	users     map[string]*imapmemserver.User
	expunging func() // called before messages are expunged
}

// startIMAP starts a server, with implicit TLS if config is not nil.
func startIMAP(t *testing.T, config *tls.Config) *memoryIMAP {
	t.Helper()
	m := &memoryIMAP{accounts: imapmemserver.New(), users: map[string]*imapmemserver.User{}, expunging: func() {}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	server := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &memorySession{m.accounts.NewSession().(imapserver.SessionIMAP4rev2), m}, nil, nil
		},
		Caps:         imap.CapSet{imap.CapIMAP4rev1: {}, imap.CapUIDPlus: {}, imap.CapESearch: {}, imap.CapMove: {}, imap.CapNamespace: {}},
		Logger:       log.New(io.Discard, "", 0),
		InsecureAuth: true,
	})
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return m
}

// add adds an account with n messages.
func (m *memoryIMAP) add(t *testing.T, user, password string, n int) {
	t.Helper()
	u := imapmemserver.NewUser(user, password)
	if err := u.Create("INBOX", nil); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		raw := upstreamtest.Letter(i, 400)
		if _, err := u.Append("INBOX", bytesLiteral{bytes.NewReader([]byte(raw))}, &imap.AppendOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	m.accounts.AddUser(u)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users[user] = u
}

// folder adds a mailbox to an account.
func (m *memoryIMAP) folder(t *testing.T, user, name string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.users[user].Create(name, nil); err != nil {
		t.Fatal(err)
	}
}

// messages is how many an account has now.
func (m *memoryIMAP) messages(t *testing.T, user string) int {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	status, err := m.users[user].Status("INBOX", &imap.StatusOptions{NumMessages: true})
	if err != nil {
		t.Fatal(err)
	}
	return int(*status.NumMessages)
}

func (m *memoryIMAP) beforeExpunge(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expunging = f
}

type bytesLiteral struct{ *bytes.Reader }

func (l bytesLiteral) Size() int64 { return l.Reader.Size() }

type memorySession struct {
	imapserver.SessionIMAP4rev2
	server *memoryIMAP
}

func (s *memorySession) Expunge(w *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	s.server.mu.Lock()
	wait := s.server.expunging
	s.server.mu.Unlock()
	wait()
	return s.SessionIMAP4rev2.Expunge(w, uids)
}
