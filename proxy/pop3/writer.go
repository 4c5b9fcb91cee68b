package pop3

import (
	"io"
	"sync"
)

// chunkOctets is how much a client is sent in one write, which it has
// Limits.Write to take.
const chunkOctets = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunkOctets]byte) }}

// A writer gathers replies and sends them in chunks. It holds a chunk only
// while something is unsent: a session that waits for its client holds none.
type writer struct {
	dst io.Writer
	buf []byte // unsent; nil, or a chunk of the pool from its first octet on
	err error  // of the write that failed; nothing is sent after it

	flushes int
	ends    int // messages whose end is unsent
	sent    int // messages sent whole
}

// reserve makes room for n more octets in buf, so that they go out in one
// write. n is at most chunkOctets.
func (w *writer) reserve(n int) {
	if cap(w.buf)-len(w.buf) < n {
		w.flush()
	}
	if w.buf == nil {
		w.buf = chunks.Get().(*[chunkOctets]byte)[:0]
	}
}

// WriteString never fails; the error waits in err.
func (w *writer) WriteString(text string) {
	for len(text) > 0 {
		w.reserve(1)
		n := min(len(text), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, text[:n]...)
		text = text[n:]
	}
}

func (w *writer) flush() error {
	if w.err == nil && len(w.buf) > 0 {
		if _, w.err = w.dst.Write(w.buf); w.err == nil {
			w.sent += w.ends
		}
		w.flushes++
	}
	w.discard()
	return w.err
}

// discard forgets what is unsent and gives the chunk back.
func (w *writer) discard() {
	if cap(w.buf) == chunkOctets {
		chunks.Put((*[chunkOctets]byte)(w.buf[:chunkOctets]))
	}
	w.buf, w.ends = nil, 0
}

// A mark is a place between two replies.
type mark struct{ flushes, octets int }

func (w *writer) mark() mark { return mark{w.flushes, len(w.buf)} }

// rollback takes back what was written since m, if none of it was sent.
func (w *writer) rollback(m mark) bool {
	if w.flushes != m.flushes {
		return false
	}
	w.buf = w.buf[:m.octets]
	return true
}
