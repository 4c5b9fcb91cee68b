// Package migrate reads which unique-ids another POP3 server gave to its
// clients: from the files of Dovecot, Courier and Cyrus, from a CSV file, or
// from the server itself, while it still runs. What it returns is what package
// ledger needs to know the messages again on the new server.
//
// It reads only. From a running server it takes the listings and the headers,
// with TOP, and never retrieves, marks or removes a message.
package migrate

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"postern/proxy/ledger"
)

// A Map is what was found out of another server's unique-ids.
type Map struct {
	Known   []ledger.Known
	Skipped []Skip // what cannot be known again
}

// A Skip is a message that clients may download again, and why.
type Skip struct {
	What   string // its unique-id, or where it stands
	Reason string
}

// A Form computes the unique-id of a message from its UIDVALIDITY and UID.
type Form func(uidValidity, uid uint32) string

// maxMessages is more than any mailbox holds.
const maxMessages = 2_000_000

// add takes a message into the map, if it is one that can be known again.
func (m *Map) add(k ledger.Known, seen map[string]bool) {
	reason := ""
	switch {
	case !isUIDL(k.UIDL):
		reason = "not a unique-id: 1 to 70 octets from ! to ~"
	case seen[k.UIDL]:
		reason = "another message has this unique-id, too"
	case !k.HasHeader && k.Name == "" && k.Identity == "" && k.Received.IsZero():
		reason = "nothing is known of its message"
	}
	if reason != "" {
		m.skip(k.UIDL, reason)
		return
	}
	seen[k.UIDL] = true
	m.Known = append(m.Known, k)
}

func (m *Map) skip(what, reason string) {
	m.Skipped = append(m.Skipped, Skip{fmt.Sprintf("%.80q", what), reason})
}

// isUIDL: RFC 1939 section 7.
func isUIDL(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 70
}

// maxLine is longer than any line of the files read here.
const maxLine = 64 << 10

// lines calls do for each line of a file, with its number, counted from 1.
func lines(path string, do func(n int, line string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		if n > maxMessages {
			return fmt.Errorf("%s: more than %d lines", path, maxMessages)
		}
		if err := do(n, s.Text()); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", path, n+1, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: %w", path, io.ErrUnexpectedEOF)
	}
	return nil
}
