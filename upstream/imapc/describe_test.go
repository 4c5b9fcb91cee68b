package imapc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
)

func TestDescribe(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps = "IMAP4rev1 UIDPLUS ID"
		r, err := f.upstream().Describe(t.Context(), f.account())
		if err != nil {
			t.Fatal(err)
		}
		if r.Greeting != "OK ready" || !slices.Equal(r.Server, []string{"name: fake"}) || r.Messages != 4 || r.UIDValidity != 77 ||
			!r.Removable || r.TLS != "" || !strings.HasPrefix(r.Sizes, "true") || len(r.CapabilitiesAfter) != 3 {
			t.Errorf("%+v", r)
		}
	})
}

func TestDescribeFindsWhatIsWrong(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.uidValidity = "77] valid\r\n* OK [PERMANENTFLAGS (\\Seen)" // as Cyrus says to a user without the right t (RFC 4314)
		r, err := f.upstream().Describe(t.Context(), f.account())
		if err != nil {
			t.Fatal(err)
		}
		if want := `impossible: by its PERMANENTFLAGS, the mailbox does not let this user set \Deleted`; r.ReadOnly || r.Removable || r.Removal != want {
			t.Errorf("read-only %v, removable %v, removal %q, want no, no, %q", r.ReadOnly, r.Removable, r.Removal, want)
		}
	})
	bubble(t, func(t *testing.T, f *fake) {
		f.caps, f.readOnly = "IMAP4rev1 ID \xff", true
		f.messages[3].size = 100
		f.fault = onCommand("ID", func(c *fakeConn) bool {
			c.say("* ID (\"name\" \"a\\\"b\x1b[31m\" \"vendor\" {3}\r\nabc \"os\")")
			c.ok("done")
			return true
		})
		r, err := f.upstream().Describe(t.Context(), f.account())
		if err != nil {
			t.Fatal(err)
		}
		if !r.ReadOnly || r.Removable || r.Removal != "impossible: mailbox is read-only" || !strings.HasPrefix(r.Sizes, "estimates") {
			t.Errorf("%+v", r)
		}
		if text := fmt.Sprint(r); strings.Contains(text, "\x1b") || strings.Contains(text, "\xff") || strings.Contains(text, password) || !strings.Contains(text, `name: a"b?[31m`) {
			t.Errorf("unfit to be printed: %q", text)
		}
	})
	bubble(t, func(t *testing.T, f *fake) {
		f.fault = onCommand("LOGIN", func(c *fakeConn) bool { c.say("%s NO no", c.tag); return true })
		r, err := f.upstream().Describe(t.Context(), f.account())
		wantError(t, "describe", err, upstream.ErrAuth)
		if r.Greeting == "" || len(r.CapabilitiesBefore) == 0 {
			t.Errorf("%+v does not tell what was found until then", r)
		}
	})
}

func TestDescribeDovecot(t *testing.T) {
	server := dovecot.Start(t)
	mailbox := server.AddUser(t, "bob", "secret")
	mailbox.Deliver(t, upstreamtest.Letter(0, 3000))
	r, err := New(Options{Address: server.IMAPS, TLSConfig: trust(t, server.CAFile)}).Describe(t.Context(), mailbox.Account())
	if err != nil {
		t.Fatal(err)
	}
	if r.TLS != "TLS 1.3" || r.Cipher == "" || !strings.Contains(r.Certificate, "localhost") || !slices.Contains(r.Server, "name: Dovecot") ||
		r.Messages != 1 || !r.Removable || !strings.HasPrefix(r.Sizes, "true") {
		t.Errorf("%+v", r)
	}
}
