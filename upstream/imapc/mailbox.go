package imapc

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A mailbox is what SELECT told about it.
type mailbox struct {
	messages    int
	uidValidity uint32
	notSticky   bool // its UIDs do not last: RFC 4315 section 3
	readOnly    bool
	undeletable bool // it says that \Deleted is not for this user to set: RFC 3501 section 7.1
}

// selectMailbox selects the mailbox of the options.
func (c *conn) selectMailbox(ctx context.Context) (mailbox, error) {
	return c.selectNamed(ctx, c.listedName())
}

// selectNamed selects a mailbox by the server's own name.
func (c *conn) selectNamed(ctx context.Context, name string) (mailbox, error) {
	c.listing = nil
	return c.selectAnd(ctx, name, nil)
}

// selectAnd selects a mailbox. The library's Select would not tell of
// UIDNOTSTICKY and READ-ONLY, and gives up over codes it cannot read. With it
// go the commands that need not wait for the answer: ID before it, and l's
// behind it, if l is not nil. That one is still to be waited for.
func (c *conn) selectAnd(ctx context.Context, name string, l *lister) (box mailbox, err error) {
	var queries []*query
	if c.caps.Has(imap.CapID) && !c.identified && !c.isNetEase() {
		queries = append(queries, newQuery(c.identity(), ignore))
	}
	c.identified, c.selected, c.heard, c.snapshot = true, name, -1, nil
	box.messages = -1
	selected := newQuery("SELECT "+quote(name), box.learn)
	queries = append(queries, selected)
	bounds := c.searched()
	if l != nil {
		queries, bounds = append(queries, l.query), c.listed()
	}
	defer c.during(ctx, bounds)()
	end := c.roundTrip()
	c.g.send(queries...)
	s, err := selected.wait()
	end()
	doing := "select " + printable([]byte(name))
	if err != nil {
		return box, c.lost(doing, err)
	}
	if s.kind != "OK" {
		return box, refused(doing, s, upstream.ErrUnavailable)
	}
	if box.messages < 0 { // it must say so, RFC 9051 section 6.3.2
		return box, fmt.Errorf("%s: no number of messages: %w: %w", doing, errProtocol, upstream.ErrUnavailable)
	}
	box.readOnly = s.code == "READ-ONLY"
	if l != nil {
		c.heard = selected.news
	}
	return box, nil
}

// learn reads one untagged response to SELECT.
func (b *mailbox) learn(line []byte) error {
	if s, ok := parseStatus(line); ok {
		switch s.code {
		case "UIDVALIDITY":
			n, err := strconv.ParseUint(s.arg, 10, 32)
			if err != nil {
				return fmt.Errorf("UIDVALIDITY %s: %w", printable([]byte(s.arg)), errProtocol)
			}
			b.uidValidity = uint32(n)
		case "UIDNOTSTICKY":
			b.notSticky = true
		case "PERMANENTFLAGS":
			b.undeletable = !strings.Contains(strings.ToLower(s.arg), `\deleted`)
		}
		return nil
	}
	if n, word, ok := numbered(line); ok && hasPrefixFold(word, "EXISTS") {
		b.messages = int(n)
	}
	return nil
}

// mailboxName encodes a name as the server expects it: in UTF-8 where it knows
// only IMAP4rev2, else in modified UTF-7, also where it knows both, as rev2 is
// then not enabled. RFC 3501 section 5.1.3, RFC 9051 section 6.3.1.
func (c *conn) mailboxName(name string) string {
	if c.caps.Has(imap.CapIMAP4rev2) && !c.caps.Has(imap.CapIMAP4rev1) {
		return name
	}
	return modifiedUTF7(name)
}

var modifiedBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

func modifiedUTF7(name string) string {
	var out strings.Builder
	var shifted []byte
	flush := func() {
		if len(shifted) > 0 {
			out.WriteString("&" + modifiedBase64.EncodeToString(shifted) + "-")
			shifted = shifted[:0]
		}
	}
	for _, r := range name {
		switch {
		case r == '&':
			flush()
			out.WriteString("&-")
		case ' ' <= r && r <= '~':
			flush()
			out.WriteRune(r)
		default:
			for _, u := range utf16.AppendRune(nil, r) {
				shifted = append(shifted, byte(u>>8), byte(u))
			}
		}
	}
	flush()
	return out.String()
}
