package pop3

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// How long a line may be, in octets without its end.
const (
	maxCommandOctets  = 512      // twice what RFC 2449 section 4 allows, and a bit
	maxPasswordOctets = 1 << 10  // PASS
	maxLineOctets     = 12 << 10 // AUTH and what follows it (RFC 4954 section 4); nothing is longer
)

// lineBufferOctets is what a waiting session keeps; most commands are shorter
// than 20 octets.
const lineBufferOctets = 512

// errLineTooLong means that the place in the dialogue is lost.
var errLineTooLong = errors.New("line too long")

// A lineReader cuts what a client sends into lines.
type lineReader struct{ buf *bufio.Reader }

func newLineReader(src io.Reader) lineReader {
	return lineReader{bufio.NewReaderSize(src, lineBufferOctets)}
}

// ready tells whether next would return without reading from the client.
func (r lineReader) ready() bool {
	waiting, _ := r.buf.Peek(r.buf.Buffered())
	return bytes.IndexByte(waiting, '\n') >= 0
}

// buffered is how many octets were read from the client, but not yet returned.
func (r lineReader) buffered() int { return r.buf.Buffered() }

// next returns the next line without its CRLF (or LF: old stacks send that),
// valid until the next call. What the client had not ended when it went away
// is no line: half a QUIT must not remove anything.
func (r lineReader) next() ([]byte, error) {
	line, err := r.buf.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		line, err = r.long(line)
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
}

// long reads on where the buffer was too small.
func (r lineReader) long(start []byte) ([]byte, error) {
	line := bytes.Clone(start)
	for {
		more, err := r.buf.ReadSlice('\n')
		line = append(line, more...)
		if len(line) > maxLineOctets+len("\r\n") {
			return nil, errLineTooLong
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}
