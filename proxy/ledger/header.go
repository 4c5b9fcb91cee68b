package ledger

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"slices"
	"strings"
)

// A Header identifies a message's header across servers. It is the first 12
// octets of the SHA-256 of the header's fields in a form that survives what
// servers do to them:
//   - the header ends at the first empty line, or with the message;
//   - line ends are LF; space, tab and CR are left out; each run of other
//     control characters, 8-bit characters and question marks is one question
//     mark;
//   - fields that servers add, drop or edit after delivery (see edited) are
//     left out, as are lines that are no field, and continuations of nothing
//     but white space;
//   - a line of nothing but CRs, at which some servers end the header and some
//     do not, ends what counts.
//
// These are the observations that Dovecot's pop3-migration plugin rests on
// (src/plugins/pop3-migration/pop3-migration-plugin.c, src/lib-mail/message-header-hash.c
// of Dovecot 2.4); the value itself is not the same.
type Header [12]byte

// edited are the fields that do not count, in lower case.
var edited = []string{
	"content-length", "return-path", "status", "x-imap", "x-imapbase", "x-keywords",
	"x-message-flag", "x-status", "x-uid", "x-uidl", "x-yahoo-newman-property",
}

// maxHeader is how long a header may be to be identified: beyond it may lie
// anything.
const maxHeader = 1 << 20

// HeaderOf reads a message, or its beginning as TOP delivers it, as far as its
// header goes. ok is false for a header that is too long.
func HeaderOf(message io.Reader) (h Header, ok bool, err error) {
	hasher := newHasher()
	buffer := make([]byte, 4096)
	for !hasher.done {
		n, err := message.Read(buffer)
		hasher.Write(buffer[:n])
		if err == io.EOF {
			break
		}
		if err != nil && !hasher.done {
			return Header{}, false, err
		}
	}
	h, ok = hasher.sum()
	return h, ok, nil
}

// A hasher takes the beginning of a message in pieces. It ignores what follows
// the header.
type hasher struct {
	digest hash.Hash
	line   []byte // so far, without its end
	octets int
	done   bool // the header's end was seen
	long   bool // too long to identify
	ended  bool // nothing that follows counts
	skip   bool // the field of this line and its continuations
	out    []byte
}

func newHasher() *hasher { return &hasher{digest: sha256.New()} }

// Write implements io.Writer. It never fails.
func (h *hasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !h.done {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		h.octets += len(p) - len(rest)
		if h.octets > maxHeader {
			h.long, h.done, h.line = true, true, nil
			break
		}
		h.line = append(h.line, part...)
		if whole {
			h.take(h.line)
			h.line = h.line[:0]
		}
		p = rest
	}
	return n, nil
}

// sum returns the header's identity. What was written is the whole header, or
// the whole message.
func (h *hasher) sum() (sum Header, ok bool) {
	if !h.done && len(h.line) > 0 {
		h.take(h.line)
	}
	h.done = true
	copy(sum[:], h.digest.Sum(nil))
	return sum, !h.long
}

// take adds a line.
func (h *hasher) take(line []byte) {
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if len(line) == 0 {
		h.done = true
		return
	}
	if len(bytes.Trim(line, "\r")) == 0 {
		h.ended = true
	}
	if line[0] == ' ' || line[0] == '\t' {
		if len(bytes.Trim(line, " \t\r")) == 0 {
			return
		}
	} else {
		h.skip = !counts(line)
	}
	if h.skip || h.ended {
		return
	}
	h.out = normalise(h.out[:0], line)
	h.digest.Write(h.out)
}

// counts tells whether a line begins a field that identifies the message.
func counts(line []byte) bool {
	name, _, found := bytes.Cut(line, []byte{':'})
	if !found || len(name) == 0 || slices.ContainsFunc(name, func(c byte) bool { return c <= 0x20 || c >= 0x7f }) {
		return false
	}
	return !slices.Contains(edited, strings.ToLower(string(name)))
}

func normalise(dst, line []byte) []byte {
	unknown := false
	for _, c := range line {
		switch {
		case c == ' ' || c == '\t' || c == '\r':
			continue
		case c < 0x20 || c >= 0x7f || c == '?':
			if !unknown {
				dst = append(dst, '?')
			}
			unknown = true
		default:
			dst = append(dst, c)
			unknown = false
		}
	}
	return append(dst, '\n')
}
