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

	flushes      int
	unsent, sent tally // of what is in buf, and of what left it
}

// A tally counts what there is of messages.
type tally struct {
	ends   int   // of messages that RETR sends, and so messages whole once they are sent
	octets int64 // of messages as the client has them, so without the dots added
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
			w.sent.ends += w.unsent.ends
			w.sent.octets += w.unsent.octets
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
	w.buf, w.unsent = nil, tally{}
}

// A mark is a place between two replies.
type mark struct {
	flushes, octets int
	unsent          tally
}

func (w *writer) mark() mark { return mark{w.flushes, len(w.buf), w.unsent} }

// rollback takes back what was written since m, if none of it was sent.
func (w *writer) rollback(m mark) bool {
	if w.flushes != m.flushes {
		return false
	}
	w.buf, w.unsent = w.buf[:m.octets], m.unsent
	return true
}
