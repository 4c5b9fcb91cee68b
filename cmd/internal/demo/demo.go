// Package demo is what postern's demo needs beside postern: some mail, an IMAP
// server in memory that holds it, and a certificate for TLS.
package demo

import (
	"bytes"
	"embed"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
)

//go:embed mail/*.eml
var files embed.FS

// Mail returns the messages of the demo, with CRLF line endings.
func Mail() ([][]byte, error) {
	entries, err := files.ReadDir("mail")
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, e := range entries {
		raw, err := files.ReadFile("mail/" + e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")))
	}
	return all, nil
}

// capabilities of the server: those that it has beside bare IMAP4rev1. Without
// UIDPLUS postern would not remove anything.
var capabilities = imap.CapSet{
	imap.CapIMAP4rev1:  {},
	imap.CapUIDPlus:    {},
	imap.CapESearch:    {},
	imap.CapMove:       {},
	imap.CapNamespace:  {},
	imap.CapStatusSize: {},
	imap.CapUnselect:   {},
}

// A Server is an IMAP server in memory, on loopback, with one account.
type Server struct {
	imap *imapserver.Server
	addr net.Addr
}

// Start starts a server whose INBOX holds the messages.
func Start(user, password string, messages [][]byte, log *slog.Logger) (*Server, error) {
	account := imapmemserver.NewUser(user, password)
	if err := fill(account, messages); err != nil {
		return nil, err
	}
	accounts := imapmemserver.New()
	accounts.AddUser(account)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{addr: listener.Addr()}
	s.imap = imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return accounts.NewSession(), nil, nil
		},
		Caps:         capabilities,
		Logger:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		InsecureAuth: true, // it never leaves the machine
	})
	go s.imap.Serve(listener) // until Close
	return s, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() string { return s.addr.String() }

// Close ends the server and its connections.
func (s *Server) Close() error { return s.imap.Close() }

func fill(account *imapmemserver.User, messages [][]byte) error {
	if err := account.Create("INBOX", nil); err != nil {
		return err
	}
	for _, m := range messages {
		options := imap.AppendOptions{Time: received(m)}
		if _, err := account.Append("INBOX", literal{bytes.NewReader(m)}, &options); err != nil {
			return fmt.Errorf("append: %w", err)
		}
	}
	return nil
}

// received is when a message says that it was written.
func received(message []byte) time.Time {
	m, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		return time.Time{}
	}
	date, _ := m.Header.Date()
	return date
}

// A literal is an imap.LiteralReader.
type literal struct{ *bytes.Reader }

// Size implements imap.LiteralReader.
func (l literal) Size() int64 { return l.Reader.Size() }
