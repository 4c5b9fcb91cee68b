package demo

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/mail"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
)

func TestMailIsRealistic(t *testing.T) {
	messages, err := Mail()
	if err != nil {
		t.Fatal(err)
	}
	if len(messages) != 10 {
		t.Errorf("%d messages, want 10", len(messages))
	}
	all := string(bytes.Join(messages, nil))
	for what, part := range map[string]string{
		"8-bit text":        "Gr\xc3\xbc\xc3\x9fe\r\n",
		"a lone dot":        "\r\n.\r\n",
		"a leading dot":     "\r\n.gitignore\r\n",
		"an attachment":     "Content-Disposition: attachment",
		"HTML":              "text/html",
		"a message in one":  "message/rfc822",
		"a long line":       "item-000900;item-000901",
		"no final line end": "See you tomorrow",
	} {
		if !strings.Contains(all, part) {
			t.Errorf("no message has %s", what)
		}
	}
	if strings.Contains(strings.ReplaceAll(all, "\r\n", ""), "\n") {
		t.Error("a bare LF is left")
	}
	var last time.Time
	for i, m := range messages {
		parsed, err := mail.ReadMessage(bytes.NewReader(m))
		if err != nil {
			t.Errorf("message %d: %v", i+1, err)
			continue
		}
		date, err := parsed.Header.Date()
		if err != nil || !date.After(last) {
			t.Errorf("message %d: date %v, %v; want one after %v", i+1, date, err, last)
		}
		last = date
	}
}

func TestServerHoldsTheMail(t *testing.T) {
	messages, err := Mail()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start("ann", "secret", messages, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := imapclient.DialInsecure(s.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Login("ann", "wrong").Wait(); err == nil {
		t.Error("a wrong password was taken")
	}
	if err := c.Login("ann", "secret").Wait(); err != nil {
		t.Fatal(err)
	}
	box, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	if int(box.NumMessages) != len(messages) || !c.Caps().Has("UIDPLUS") {
		t.Errorf("%d messages and capabilities %v, want %d and UIDPLUS", box.NumMessages, c.Caps(), len(messages))
	}
}

func TestCertificateIsTrustedAsPrinted(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := WriteCertificate(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	for _, host := range []string{"127.0.0.1", "localhost", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}
