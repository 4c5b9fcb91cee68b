package imapc

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A Report is what Describe found. Its strings are printable ASCII of bounded
// length, and hold no secret.
type Report struct {
	Address     string
	TLS         string // "TLS 1.3", or empty without TLS
	Cipher      string // cipher suite
	Certificate string // subject and last day of the server's certificate
	Greeting    string
	Server      []string // "name: value", what the server says of itself (RFC 2971)

	CapabilitiesBefore []string // login; sorted
	CapabilitiesAfter  []string

	Mailbox     string
	Messages    int
	UIDValidity uint32
	ReadOnly    bool

	// Removal is how messages would be removed, or why they cannot be.
	Removal   string
	Removable bool

	// Sizes says whether the sizes that the server states are true, as far as
	// one message tells.
	Sizes string

	Took time.Duration // to connect, log in and select
}

// Describe logs in, looks at the mailbox without changing anything, and tells
// what it found. On error the Report holds what was found until then.
func (u *Upstream) Describe(ctx context.Context, account upstream.Account) (Report, error) {
	began := time.Now()
	r := Report{Address: u.o.Address}
	account, err := withToken(ctx, account, upstream.Secret{})
	if err != nil {
		return r, err
	}
	c, err := u.connect(ctx)
	if err != nil {
		return r, err
	}
	d := newMaildrop(u, account, c)
	defer d.Close()
	r.connection(c)
	err = c.login(ctx, account)
	r.CapabilitiesBefore, r.CapabilitiesAfter = names(c.before), names(c.caps)
	if err != nil {
		return r, err
	}
	c.identify(ctx, func(fields []byte) { r.Server = idFields(fields) })
	c.identified = true
	if c.box, err = c.selectMailbox(ctx); err != nil {
		return r, err
	}
	d.uidValidity = c.box.uidValidity
	r.Took = time.Since(began)
	r.mailbox(c)
	r.removal(ctx, c)
	if _, err := d.List(ctx); err != nil {
		return r, err
	}
	r.Sizes, err = d.compareSizes(ctx)
	return r, err
}

func (r *Report) connection(c *conn) {
	r.Greeting = c.greeting.String()
	if c.tls == nil {
		return
	}
	r.TLS = tls.VersionName(c.tls.Version)
	r.Cipher = tls.CipherSuiteName(c.tls.CipherSuite)
	if len(c.tls.PeerCertificates) > 0 {
		leaf := c.tls.PeerCertificates[0]
		r.Certificate = printable([]byte(leaf.Subject.String() + ", valid until " + leaf.NotAfter.UTC().Format(time.DateOnly)))
	}
}

func (r *Report) mailbox(c *conn) {
	r.Mailbox = printable([]byte(c.o.Mailbox))
	r.Messages, r.UIDValidity, r.ReadOnly = c.box.messages, c.box.uidValidity, c.box.readOnly
}

// removal tells what would become of a message that a client removes.
func (r *Report) removal(ctx context.Context, c *conn) {
	w, err := c.way()
	to := ""
	if err == nil && (w == byMove || w == byCopy) {
		to, err = c.destination(ctx)
		to = printable([]byte(quote(to)))
	}
	if err == nil && w != byNothing && c.box.undeletable {
		// Only foretold: servers were never held to tell the truth here, and
		// what a removal finds out counts.
		err = errors.New(`by its PERMANENTFLAGS, the mailbox does not let this user set \Deleted`)
	}
	if err != nil {
		r.Removal = "impossible: " + strings.TrimSuffix(printable([]byte(err.Error())), ": "+upstream.ErrRejected.Error())
		return
	}
	r.Removable = true
	switch w {
	case byExpunge:
		r.Removal = "UID STORE and UID EXPUNGE of the very messages, verified"
		if c.gmail() {
			r.Removal += "; Gmail then archives them, or removes them, as the account's IMAP settings say"
		}
	case byExpungeAlone:
		r.Removal = "UID STORE of the very messages, and EXPUNGE if nothing else is flagged, verified"
	case byMove:
		r.Removal = "UID MOVE to " + to + ", verified"
	case byCopy:
		r.Removal = "UID COPY to " + to + ", then UID STORE and UID EXPUNGE of the very messages, verified"
	case byFlag:
		r.Removal = `UID STORE of \Deleted, verified; what is flagged is not listed`
		if c.gmail() {
			r.Removal += "; Gmail may expunge it by itself"
		}
	case byNothing:
		r.Removal = "never: what clients remove stays"
	}
}

// names lists capabilities, sorted and fit to be printed.
func names(caps imap.CapSet) []string {
	var all []string
	for c := range caps {
		all = append(all, printable([]byte(c)))
	}
	slices.Sort(all)
	return all[:min(len(all), maxNames)]
}

const maxNames = 100 // of capabilities and ID fields that a Report holds

// idFields reads the list of an ID response: ("name" "x" "vendor" NIL).
func idFields(list []byte) []string {
	var words []string
	list = bytes.Trim(list, "()")
	for list = trimSpace(list); len(list) > 0; list = trimSpace(list) {
		n := valueLen(append(list[:len(list):len(list)], ' '))
		if n == 0 {
			break
		}
		words = append(words, unquote(list[:n]))
		list = list[n:]
	}
	var fields []string
	for k := 0; k+1 < len(words) && len(fields) < maxNames; k += 2 {
		if words[k+1] != "NIL" {
			fields = append(fields, printable([]byte(words[k]+": "+words[k+1])))
		}
	}
	return fields
}

func unquote(word []byte) string {
	if len(word) < 2 || word[0] != '"' {
		return string(word)
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(string(word[1 : len(word)-1]))
}

// The newest message up to this size is fetched, to compare its size with what
// the server says: Exchange and others estimate it.
const maxProbe = 1 << 20

func (d *maildrop) compareSizes(ctx context.Context) (string, error) {
	for i := d.listing.Len() - 1; i >= max(0, d.listing.Len()-maxNames); i-- {
		stated := d.listing.Size(i)
		if stated > maxProbe {
			continue
		}
		r, err := d.Fetch(ctx, i)
		if err != nil {
			return "", err
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		switch {
		case err != nil:
			return "", err
		case n == stated:
			return fmt.Sprintf("true for the message looked at (%d octets)", n), nil
		}
		return fmt.Sprintf("estimates: a message of %d octets is stated as %d", n, stated), nil
	}
	return "not known: no message of up to 1 MiB to look at", nil
}
