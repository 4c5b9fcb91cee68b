package load

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"time"
)

// A body is what came of a message.
type body struct {
	octets int64 // dot-stuffing undone, the final dot left out
	sum    uint32
	first  time.Time // when its first octet was here

	midLine bool // the last octet taken was not the end of a line
	last    byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body reads the lines of a multi-line reply up to the final dot. RFC 1939
// section 3. It works on many lines at a time: what the client spends is
// missing where client and server share a machine.
func (c *client) body() (b body, err error) {
	for want := 1; ; {
		if _, err := c.r.Peek(want); err != nil {
			return b, fmt.Errorf("after %d octets of a message, without the final dot: %w", b.octets, unexpected(err))
		}
		if b.first.IsZero() {
			b.first = time.Now()
		}
		here, _ := c.r.Peek(c.r.Buffered())
		lines := here[:bytes.LastIndexByte(here, '\n')+1]
		if len(lines) == 0 && !b.midLine && here[0] == '.' && len(here) < len(".\r\n") {
			want = len(here) + 1 // it may be the final dot
			continue
		}
		if len(lines) == 0 {
			lines = here // the beginning of one
		}
		n, done, err := b.take(lines)
		if err != nil || done {
			c.r.Discard(n)
			return b, err
		}
		c.r.Discard(n)
		want = 1
	}
}

// take adds whole lines, or a part of one that has no end in it. It returns
// how many octets it used; done says that they end in the final dot.
func (b *body) take(lines []byte) (used int, done bool, err error) {
	for used < len(lines) {
		if !b.midLine && lines[used] == '.' {
			if bytes.HasPrefix(lines[used:], []byte(".\r\n")) {
				return used + 3, true, nil
			}
			used++
		}
		n, err := b.run(lines[used:])
		if err != nil {
			return used, false, err
		}
		b.octets += int64(n)
		b.sum = crc32.Update(b.sum, castagnoli, lines[used:used+n])
		used += n
	}
	return used, false, nil
}

// run returns how many octets come before the next line that begins with a dot.
func (b *body) run(lines []byte) (n int, err error) {
	for n < len(lines) {
		length := bytes.IndexByte(lines[n:], '\n') + 1
		if length == 0 {
			b.midLine, b.last = true, lines[len(lines)-1]
			return len(lines), nil
		}
		if length > 1 {
			b.last = lines[n+length-2]
		}
		if b.last != '\r' {
			return n, fmt.Errorf("line of a message ends in LF alone: %.60q", lines[n:n+length])
		}
		n += length
		b.midLine, b.last = false, '\n'
		if n < len(lines) && lines[n] == '.' {
			break
		}
	}
	return n, nil
}
