package migrate

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"postern/proxy/ledger"
)

// A maildir finds the files of its messages by the part of their names that
// does not change.
type maildir map[string]string

// openMaildir reads the names of the files in dir/cur and dir/new. A directory
// that is not there has none.
func openMaildir(dir string) (maildir, error) {
	m := maildir{}
	for _, sub := range []string{"new", "cur"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			m[baseName(e.Name())] = filepath.Join(dir, sub, e.Name())
		}
	}
	return m, nil
}

// baseName is a file's name without its flags.
func baseName(name string) string {
	name, _, _ = strings.Cut(name, ":")
	return name
}

// sizeIn is the size that a file's name tells: W, where each line ending counts
// as two octets.
func sizeIn(name string) (size int64, ok bool) {
	for part := range strings.SplitSeq(baseName(name), ",") {
		if digits, found := strings.CutPrefix(part, "W="); found {
			size, err := strconv.ParseInt(digits, 10, 64)
			return size, err == nil && size >= 0
		}
	}
	return 0, false
}

// read fills in what the message's file tells: its date, its header, and its
// size unless that is known. A file that is not there tells nothing.
func (m maildir) read(base string, k *ledger.Known, sizeKnown bool) error {
	path, ok := m[base]
	if !ok {
		return nil
	}
	return readMessage(path, k, sizeKnown)
}

// readMessage reads a message's file. Servers keep the date when they received
// it as the file's time.
func readMessage(path string, k *ledger.Known, sizeKnown bool) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was moved meanwhile
	}
	if err != nil || !info.Mode().IsRegular() {
		return err // a pipe would wait for ever
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := plain(f)
	if err != nil {
		return nil // packed in a way that is not known here
	}
	c := &counter{r: text}
	h, ok, err := ledger.HeaderOf(c)
	if err == nil && !sizeKnown {
		_, err = io.Copy(io.Discard, io.LimitReader(c, maxMessage))
		k.Size = c.octets
	}
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // damaged
	}
	if err != nil {
		return err
	}
	k.Received = info.ModTime().Truncate(1e9)
	k.Header, k.HasHeader = h, ok
	return nil
}

// maxMessage is how far a message is read for its size: as far as postern
// carries one, and a packed one may be without end.
const maxMessage = 4 << 30

var errPacked = errors.New("packed")

// packed are how files begin that Dovecot's zlib and mail_crypt plugins wrote
// and that cannot be read here.
var packed = []string{"BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "\x04\x22\x4d\x18", "CRYPTED\x03\x07"}

// plain unpacks a file that is packed with gzip.
func plain(f io.Reader) (io.Reader, error) {
	r := bufio.NewReader(f)
	begin, _ := r.Peek(9)
	for _, p := range packed {
		if strings.HasPrefix(string(begin), p) {
			return nil, errPacked
		}
	}
	if strings.HasPrefix(string(begin), "\x1f\x8b") {
		return gzip.NewReader(r)
	}
	return r, nil
}

// A counter counts a message's octets as POP3 does: a line feed that is not
// preceded by a carriage return as two.
type counter struct {
	r      io.Reader
	octets int64
	last   byte
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for _, b := range p[:n] {
		c.octets++
		if b == '\n' && c.last != '\r' {
			c.octets++
		}
		c.last = b
	}
	return n, err
}
