package imapc

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A UIDL is the form in which unique-ids are shown. The zero value is postern's
// own, UIDVALIDITY and UID with a dot between them.
//
// No two messages of a mailbox have the same unique-id in any of them. A form
// without UIDVALIDITY gives them out again when the mailbox is renumbered,
// though, and a client then takes a new message for one that it knows: such a
// form is for a mailbox whose clients know that form already.
type UIDL struct{ parts []uidlPart }

const maxUIDL = 70 // octets, RFC 1939 section 7

// A uidlPart is some text, followed by a number unless that is 0.
type uidlPart struct {
	text      string
	number    byte // 'u': UID, 'v': UIDVALIDITY
	base      int
	pad       int // with zeros to so many digits
	reverse   bool
	uppercase bool
}

// uidlNames are the forms that have a name: that of the server whose clients
// stay in step by it.
//
// Courier's are what print_uidl in courier-imap's pop3dserver.c writes (revision
// 1.46 of 2010-07-11), and what its 1.0.16 in Debian 12 was seen to issue
// (2026-11): UID5-1700000000 for a message whose line in courierpop3dsizelist
// ends in 5:1700000000:0, UID6 for one that ends in 6:0:0. Dovecot's
// documentation of pop3_uidl_format has %v-%u and %u for them, and Cyrus's
// "uidl_format: courier" is %v-%u, which Courier does not issue.
var uidlNames = map[string]string{
	"postern":       "%v.%u",
	"dovecot":       "%08Xu%08Xv", // its default since 1.0; Cyrus with "uidl_format: dovecot"
	"dovecot-0.99":  "%v.%u",
	"cyrus":         "%v.%u",      // since 2.1.4: "uidl_format: cyrus"
	"cyrus-uid":     "%u",         // until 2.1.3, and "uidl_format: uidonly"
	"cyrus-courier": "%v-%u",      // "uidl_format: courier"
	"courier":       "UID%u-%v",   // since it has a UIDVALIDITY (versions 2 and 3 of its list)
	"courier-1":     "UID%u",      // from before that
	"uw":            "%08Xv%08Xu", // ipop3d
}

// ParseUIDL reads the name of a form (postern, dovecot, dovecot-0.99, cyrus,
// cyrus-uid, cyrus-courier, courier, courier-1, uw), or a template in the language of
// Dovecot's pop3_uidl_format. Empty means postern's own.
//
// In a template %u is the UID and %v the UIDVALIDITY. Between the percent sign
// and the letter stand, in this order, a width beginning with 0 to pad with
// zeros, and X for hexadecimal, L and U for lower and upper case, R for the
// other way round. Dovecot 2.4 writes %{uid | hex(8) | upper}, which is read
// too. Two percent signs are one.
func ParseUIDL(form string) (UIDL, error) {
	if form == "" {
		return UIDL{}, nil
	}
	template, named := uidlNames[form]
	if !named {
		if template = form; !strings.Contains(form, "%") {
			return UIDL{}, fmt.Errorf("%q is neither a template nor one of %s", form, uidlNameList())
		}
	}
	u, err := parseTemplate(template)
	if err == nil {
		err = u.check()
	}
	if err != nil {
		return UIDL{}, fmt.Errorf("%q: %w", form, err)
	}
	return u, nil
}

func uidlNameList() string {
	var all []string
	for name := range uidlNames {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func parseTemplate(template string) (u UIDL, err error) {
	var text strings.Builder
	for rest := template; rest != ""; {
		if rest[0] != '%' {
			text.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		if strings.HasPrefix(rest, "%%") {
			text.WriteByte('%')
			rest = rest[2:]
			continue
		}
		p := uidlPart{text: text.String(), base: 10}
		if rest, err = p.parse(rest[1:]); err != nil {
			return u, err
		}
		u.parts = append(u.parts, p)
		text.Reset()
	}
	if text.Len() > 0 {
		u.parts = append(u.parts, uidlPart{text: text.String()})
	}
	return u, nil
}

// parse reads what follows a percent sign, and returns what follows that.
func (p *uidlPart) parse(text string) (rest string, err error) {
	width := 0
	for width < len(text) && '0' <= text[width] && text[width] <= '9' {
		width++
	}
	if width > 0 {
		if text[0] != '0' {
			return "", errors.New("a width without a leading 0 would cut numbers off")
		}
		if p.pad, err = strconv.Atoi(text[:width]); err != nil || p.pad > maxUIDL {
			return "", fmt.Errorf("width %s is more than %d", text[:width], maxUIDL)
		}
	}
	for k := width; k < len(text); k++ {
		switch b := text[k]; b {
		case 'u', 'v':
			p.number = b
			return text[k+1:], nil
		case '{':
			inside, rest, closed := strings.Cut(text[k+1:], "}")
			if !closed {
				return "", errors.New("%{ without }")
			}
			return rest, p.parseLong(inside)
		default:
			if err := p.modify(b); err != nil {
				return "", err
			}
		}
	}
	return "", errors.New("a % without its letter")
}

// modify takes a modifier of Dovecot 2.3. They work on one another's result:
// after X there are letters to be changed, before there are none.
func (p *uidlPart) modify(b byte) error {
	switch b {
	case 'X':
		if p.reverse || p.base == 16 {
			return errors.New("modifier X must come first")
		}
		p.base = 16
	case 'L', 'U':
		p.uppercase = b == 'U' && p.base == 16
	case 'R':
		p.reverse = !p.reverse
	default:
		return fmt.Errorf("%%%c is not known: only UID (%%u) and UIDVALIDITY (%%v) are, with 0, X, L, U and R", printable([]byte{b})[0])
	}
	return nil
}

// parseLong reads what stands between braces.
func (p *uidlPart) parseLong(inside string) error {
	words := strings.Split(inside, "|")
	switch name := strings.TrimSpace(words[0]); name {
	case "uid":
		p.number = 'u'
	case "uidvalidity":
		p.number = 'v'
	default:
		return fmt.Errorf("%%{%s} is not known: only %%{uid} and %%{uidvalidity} are", name)
	}
	for _, filter := range words[1:] {
		filter = strings.TrimSpace(filter)
		width, isHex := strings.CutPrefix(filter, "hex(")
		switch {
		case filter == "hex":
			filter = "X"
		case isHex:
			n, err := strconv.Atoi(strings.TrimSuffix(width, ")"))
			if err != nil || n < 8 || n > maxUIDL {
				return fmt.Errorf("%s: the width is to be 8 to %d, or numbers would be cut off", filter, maxUIDL)
			}
			p.pad, filter = n, "X"
		case filter == "lower":
			filter = "L"
		case filter == "upper":
			filter = "U"
		case filter == "reverse":
			filter = "R"
		default:
			return fmt.Errorf("%q is not known: only hex, lower, upper and reverse are", filter)
		}
		if err := p.modify(filter[0]); err != nil {
			return err
		}
	}
	return nil
}

// check holds a form against what a unique-id may be. A UID in whole makes it
// unique: of two UIDs of the same length one digit differs at the same place,
// and whatever else the UID makes part of the form is never longer for a lower
// UID than for a higher one.
func (u UIDL) check() error {
	if !slices.ContainsFunc(u.parts, func(p uidlPart) bool { return p.number == 'u' }) {
		return errors.New("without the UID (%u) all messages would have one unique-id")
	}
	longest := u.append(nil, math.MaxUint32, math.MaxUint32)
	if len(longest) > maxUIDL {
		return fmt.Errorf("up to %d octets, which is over %d", len(longest), maxUIDL)
	}
	for _, p := range u.parts {
		if p.reverse && p.pad > 0 {
			return errors.New("zeros before reversed digits would make UIDs 1 and 10 one")
		}
	}
	for _, b := range longest {
		if b <= ' ' || b > '~' {
			return fmt.Errorf("octet %#02x cannot be in a unique-id", b)
		}
	}
	return nil
}

// Of returns the unique-id of a message.
func (u UIDL) Of(uidValidity, uid uint32) string { return string(u.append(nil, uidValidity, uid)) }

// append appends the unique-id of a message to dst.
func (u UIDL) append(dst []byte, uidValidity, uid uint32) []byte {
	if len(u.parts) == 0 { // postern's own, of which every login makes as many as there are messages
		dst = strconv.AppendUint(dst, uint64(uidValidity), 10)
		return strconv.AppendUint(append(dst, '.'), uint64(uid), 10)
	}
	for _, p := range u.parts {
		dst = append(dst, p.text...)
		switch p.number {
		case 'u':
			dst = p.append(dst, uid)
		case 'v':
			dst = p.append(dst, uidValidity)
		}
	}
	return dst
}

func (p uidlPart) append(dst []byte, number uint32) []byte {
	var buf [10]byte
	digits := strconv.AppendUint(buf[:0], uint64(number), p.base)
	for n := len(digits); n < p.pad; n++ {
		dst = append(dst, '0')
	}
	if p.reverse {
		slices.Reverse(digits)
	}
	if p.uppercase {
		for k, b := range digits {
			if 'a' <= b && b <= 'f' {
				digits[k] = b - 'a' + 'A'
			}
		}
	}
	return append(dst, digits...)
}
