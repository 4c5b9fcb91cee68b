package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"postern/proxy/ledger"
)

// Courier reads the courierpop3dsizelist of a maildir (versions 0 to 3, as
// courier-imap's pop3dserver.c writes and reads it), and the headers of the
// messages there.
func Courier(dir string) (*Map, error) {
	path := filepath.Join(dir, "courierpop3dsizelist")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: Courier's POP3 server writes it at a user's first login", err)
	}
	files, err := openMaildir(dir)
	if err != nil {
		return nil, err
	}
	m, seen := &Map{}, map[string]bool{}
	err = lines(path, func(n int, line string) error {
		if n == 1 && strings.HasPrefix(line, "/") {
			if len(line) < 3 || line[1] < '1' || line[1] > '3' || line[2] != ' ' {
				return errors.New("not a courierpop3dsizelist of versions 0 to 3")
			}
			return nil
		}
		k, base, err := sizelistLine(line)
		if err == nil {
			err = files.read(base, &k, true)
		}
		if err == nil {
			m.add(k, seen)
		}
		return err
	})
	return m, err
}

var errSizeList = errors.New("not a line of a courierpop3dsizelist")

// sizelistLine reads a message: <file name> <size>[ <uid>[:<uidvalidity>[:<utf8>]]].
func sizelistLine(line string) (k ledger.Known, base string, err error) {
	fields := strings.Split(line, " ")
	if len(fields) < 2 || len(fields) > 3 || fields[0] == "" {
		return k, "", errSizeList
	}
	base = baseName(fields[0])
	if k.Size, err = strconv.ParseInt(fields[1], 10, 64); err != nil || k.Size < 0 {
		return k, "", errSizeList
	}
	var uid, validity uint32
	if len(fields) == 3 {
		parts := strings.Split(fields[2], ":")
		if uid, err = number32(parts[0]); err != nil {
			return k, "", errSizeList
		}
		if len(parts) > 1 {
			if validity, err = number32(parts[1]); err != nil {
				return k, "", errSizeList
			}
		}
	}
	switch {
	case uid == 0:
		k.UIDL = fileUIDL(base)
	case validity == 0:
		k.UIDL = fmt.Sprintf("UID%d", uid)
	default:
		k.UIDL = fmt.Sprintf("UID%d-%d", uid, validity)
	}
	return k, base, nil
}

// fileUIDL is what Courier makes of a file's name where it has no number.
func fileUIDL(base string) string {
	var b strings.Builder
	for i := range len(base) {
		if c := base[i]; c < 0x21 || c > 0x7e || strings.IndexByte(`'"+`, c) >= 0 {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
