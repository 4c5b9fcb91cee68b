package migrate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/proxy/ledger"
)

// Cyrus reads a mailbox's directory: UIDVALIDITY from its cyrus.index, and each
// message from its file, which is named for the UID and holds the message as
// it goes over the wire. Messages that were expunged and not cleaned up yet
// are among them. name is as for Dovecot.
func Cyrus(dir string, form, name Form) (*Map, error) {
	validity, err := cyrusValidity(filepath.Join(dir, "cyrus.index"))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var uids []uint32
	for _, e := range entries {
		if digits, ok := strings.CutSuffix(e.Name(), "."); ok {
			if uid, err := number32(digits); err == nil && uid > 0 {
				uids = append(uids, uid)
			}
		}
	}
	slices.Sort(uids)
	m, seen := &Map{}, map[string]bool{}
	for _, uid := range uids {
		k := ledger.Known{UIDL: form(validity, uid), Name: name(validity, uid)}
		if err := readMessage(filepath.Join(dir, fmt.Sprintf("%d.", uid)), &k, false); err != nil {
			return nil, err
		}
		m.add(k, seen)
	}
	return m, nil
}

// Where the index's header has things, as its version says
// (imap/mailbox.h of Cyrus IMAP 2.3 to 3.12).
const (
	cyrusVersionAt    = 8
	cyrusValidityAt   = 44 // before version 20
	cyrusValidityAt20 = 92
	cyrusHeader       = 96
	oldestCyrus       = 6
	newestCyrus       = 20
)

func cyrusValidity(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	header := make([]byte, cyrusHeader)
	if _, err := io.ReadFull(f, header); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	version, at := binary.BigEndian.Uint32(header[cyrusVersionAt:]), cyrusValidityAt
	if version < oldestCyrus || version > newestCyrus {
		return 0, fmt.Errorf("%s: an index of version %d, not %d to %d", path, version, oldestCyrus, newestCyrus)
	}
	if version >= 20 {
		at = cyrusValidityAt20
	}
	validity := binary.BigEndian.Uint32(header[at:])
	if validity == 0 {
		return 0, fmt.Errorf("%s: %w", path, errors.New("no UIDVALIDITY"))
	}
	return validity, nil
}
