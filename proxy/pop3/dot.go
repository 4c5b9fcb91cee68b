package pop3

import (
	"bytes"
	"io"
)

// nulStandIn replaces NUL, at which some clients stop reading or hang (Outlook
// 2003). Dovecot sends the same for its outlook-no-nuls.
var nulStandIn = []byte{0x80}

// A dotWriter writes a message as a multi-line reply carries it, but for the
// final dot: every line ends in CRLF, whatever ended it before (a CR or an LF
// alone, or the end of the message), a line that begins with a dot gets one
// more (RFC 1939 section 3), and NUL becomes 0x80.
type dotWriter struct {
	w     *writer
	cut   bool // end after the header, the empty line and so many lines more:
	lines int
	full  bool // the cut is reached; the rest is not wanted

	cr     bool // the last octet was a CR; its line end is not written yet
	inLine bool // the current line holds something
	inBody bool // the empty line after the header was seen
}

// copy writes all that r has, or as much as the cut allows.
func (d *dotWriter) copy(r io.Reader) error {
	chunk := chunks.Get().(*[chunkOctets]byte)
	defer chunks.Put(chunk)
	for !d.full {
		n, err := r.Read(chunk[:])
		d.write(chunk[:n])
		switch {
		case d.w.err != nil:
			return d.w.err
		case err == io.EOF:
			d.finish()
			return d.w.err
		case err != nil:
			return err
		}
	}
	return nil
}

func (d *dotWriter) write(p []byte) {
	p = p[d.wholeLines(p):]
	for len(p) > 0 && !d.full {
		if d.cr {
			d.cr = false
			d.newline()
			if p[0] == '\n' {
				p = p[1:]
				p = p[d.wholeLines(p):] // only here: no line is looked at in vain twice
			}
			continue
		}
		end := plain(p)
		d.text(p[:end])
		if end == len(p) {
			return
		}
		switch p[end] {
		case '\r':
			d.cr = true
		case '\n':
			d.newline()
		case 0:
			d.text(nulStandIn)
		}
		p = p[end+1:]
	}
}

// longLine is how many octets a line has at most, the CRLF included (RFC 5322
// section 2.1.1). It bounds how far ahead wholeLines looks in vain.
const longLine = 1000

// wholeLines sends the lines at the beginning of p as most lines are: at a line's
// beginning, to be sent in full, with CRLF and neither another CR nor a NUL. It
// returns how many octets of p they are.
func (d *dotWriter) wholeLines(p []byte) (n int) {
	if d.cut || d.cr || d.inLine {
		return 0
	}
	w := d.w
	for n < len(p) {
		end := bytes.IndexByte(p[n:min(len(p), n+longLine)], '\n')
		if end < 1 || p[n+end-1] != '\r' {
			return n
		}
		line := p[n : n+end+1]
		if bytes.IndexByte(line, '\r') != end-1 || bytes.IndexByte(line, 0) >= 0 {
			return n
		}
		w.reserve(1 + len(line))
		if line[0] == '.' {
			w.buf = append(w.buf, '.')
		}
		w.buf = append(w.buf, line...)
		w.unsent.octets += int64(len(line))
		n += len(line)
	}
	return n
}

// plain is how far p goes without a CR, LF or NUL. One pass for all three: a
// search for each would take quadratic time on a message that is full of one.
func plain(p []byte) int {
	for i, c := range p {
		if c <= '\r' && (c == '\r' || c == '\n' || c == 0) {
			return i
		}
	}
	return len(p)
}

func (d *dotWriter) text(p []byte) {
	if len(p) == 0 {
		return
	}
	w := d.w
	if !d.inLine && p[0] == '.' {
		// Both dots go out in one write: should the message break off between
		// two writes, no client takes a single dot for its end.
		w.reserve(2)
		w.buf = append(w.buf, '.')
	}
	d.inLine = true
	for len(p) > 0 {
		w.reserve(1)
		n := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		w.unsent.octets += int64(n)
		p = p[n:]
	}
}

func (d *dotWriter) newline() {
	d.w.reserve(2)
	d.w.buf = append(d.w.buf, '\r', '\n')
	d.w.unsent.octets += 2
	switch {
	case d.inBody:
		d.lines--
	case !d.inLine:
		d.inBody = true
	}
	d.full = d.cut && d.inBody && d.lines <= 0
	d.inLine = false
}

// finish ends the last line where the message does not.
func (d *dotWriter) finish() {
	if d.cr || d.inLine {
		d.cr = false
		d.newline()
	}
}
