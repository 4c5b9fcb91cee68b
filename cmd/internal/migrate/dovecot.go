package migrate

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"postern/proxy/ledger"
)

// Dovecot reads a dovecot-uidlist (versions 1 and 3; doc.dovecot.org, "Maildir
// Mailbox Format"). A unique-id that Dovecot saved with a message counts, else
// form computes it. Sizes and headers come from the maildir that the file is
// in, as far as its messages are there. name is how the new server names a
// message, if it kept UIDVALIDITY and UID.
func Dovecot(path string, form, name Form) (*Map, error) {
	files, err := openMaildir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	m, seen := &Map{}, map[string]bool{}
	var validity uint32
	err = lines(path, func(n int, line string) (err error) {
		if n == 1 {
			validity, err = uidlistHeader(line)
			return err
		}
		k, base, sizeKnown, err := uidlistLine(line, validity, form, name)
		if err != nil {
			return err
		}
		if err := files.read(base, &k, sizeKnown); err != nil {
			return err
		}
		m.add(k, seen)
		return nil
	})
	return m, err
}

var errUIDList = errors.New("not a line of a dovecot-uidlist")

// uidlistHeader reads the UIDVALIDITY: 3 V<uidvalidity> N<next uid> G<guid>, or
// in version 1: 1 <uidvalidity> <next uid>.
func uidlistHeader(line string) (validity uint32, err error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "1" && fields[0] != "3" {
		return 0, errors.New("not a dovecot-uidlist of version 1 or 3")
	}
	if fields[0] == "1" {
		return number32(fields[1])
	}
	for _, f := range fields[1:] {
		if f[0] == 'V' {
			return number32(f[1:])
		}
	}
	return 0, errUIDList
}

// uidlistLine reads a message: <uid> <fields> :<file name>, of which P is the
// unique-id and W the size; in version 1 there are no fields and no colon.
func uidlistLine(line string, validity uint32, form, name Form) (k ledger.Known, base string, sizeKnown bool, err error) {
	number, rest, _ := strings.Cut(line, " ")
	uid, err := number32(number)
	if err != nil || uid == 0 || rest == "" {
		return k, "", false, errUIDList
	}
	for rest != "" && rest[0] >= 'A' && rest[0] <= 'Z' {
		var field string
		if field, rest, _ = strings.Cut(rest, " "); rest == "" {
			return k, "", false, errUIDList
		}
		switch field[0] {
		case 'P':
			k.UIDL = field[1:]
		case 'W':
			k.Size, err = strconv.ParseInt(field[1:], 10, 64)
			if sizeKnown = err == nil && k.Size >= 0; !sizeKnown {
				return k, "", false, errUIDList
			}
		}
	}
	file := strings.TrimPrefix(rest, ":")
	if k.UIDL == "" {
		k.UIDL = form(validity, uid)
	}
	k.Name = name(validity, uid)
	if size, ok := sizeIn(file); ok && !sizeKnown {
		k.Size, sizeKnown = size, true
	}
	return k, baseName(file), sizeKnown, nil
}

func number32(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.20q is not a number", text)
	}
	return uint32(n), nil
}
