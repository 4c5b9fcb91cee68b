package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

var (
	errDraining = errors.New("draining")
	errCut      = errors.New("cut off")
)

// A wire is a session's end of the connection: lines in, replies out, each
// within its time. All but drain and cut are the session's goroutine's.
type wire struct {
	conn  net.Conn // the TLS connection, once there is one
	raw   net.Conn // below TLS: what closes without waiting for anybody
	lines lineReader
	out   writer

	writeLimit time.Duration // for a chunk

	mu       sync.Mutex
	waiting  bool                    // for a line
	giveUp   context.CancelCauseFunc // ends the handshake or login under way; nil without one
	draining bool
	isCut    bool
	shielded bool // from being cut
}

func newWire(conn net.Conn, writeLimit time.Duration) *wire {
	w := &wire{conn: conn, raw: conn, writeLimit: writeLimit}
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		w.raw = t.NetConn()
	}
	w.lines = newLineReader(readerFunc(w.read))
	w.out.dst = writerFunc(w.write)
	return w
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (w *wire) read(p []byte) (int, error) { return w.conn.Read(p) }

// write sends one chunk, for which the client has writeLimit.
func (w *wire) write(chunk []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.writeLimit)); err != nil {
		return 0, err
	}
	return w.conn.Write(chunk)
}

// readLine returns the next line, which the client has to end before the
// deadline: octets that trickle in do not extend it. Replies wait in out as
// long as the client's next command is here already.
func (w *wire) readLine(deadline time.Time) ([]byte, error) {
	if w.lines.ready() {
		return w.lines.next()
	}
	if err := w.out.flush(); err != nil {
		return nil, err
	}
	if err := w.wait(deadline); err != nil {
		return nil, err
	}
	line, err := w.lines.next()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = false
	if w.draining && errors.Is(err, os.ErrDeadlineExceeded) {
		err = errDraining
	}
	return line, err
}

func (w *wire) wait(deadline time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining {
		return errDraining
	}
	w.waiting = true
	return w.conn.SetReadDeadline(deadline)
}

// drain makes readLine return errDraining as soon as it has to wait. What runs
// within untilDrain is not waited for.
func (w *wire) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
	if w.waiting {
		w.conn.SetReadDeadline(time.Unix(1, 0))
	}
	if w.giveUp != nil {
		w.giveUp(errDraining)
	}
}

// untilDrain returns a context that ends by itself after limit, and with the
// cause errDraining as soon as the drain begins. done frees it.
func (w *wire) untilDrain(ctx context.Context, limit time.Duration) (_ context.Context, done func()) {
	ctx, giveUp := context.WithCancelCause(ctx)
	ctx, cancel := context.WithTimeout(ctx, limit)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveUp = giveUp
	if w.draining {
		giveUp(errDraining)
	}
	return ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.giveUp = nil
		cancel()
		giveUp(nil)
	}
}

// cut closes the connection at once, unless it is shielded.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	if !w.shielded {
		w.raw.Close()
	}
}

func (w *wire) wasCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isCut
}

// shield keeps cut from closing the connection from now on. It is too late for
// that when it answers false.
func (w *wire) shield() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shielded = !w.isCut
	return w.shielded
}

// startTLS continues the dialogue inside TLS. Nothing that came before it is
// read after it: the caller saw to it that no octet was buffered.
func (w *wire) startTLS(ctx context.Context, config *tls.Config, limit time.Duration) error {
	if err := w.out.flush(); err != nil {
		return err
	}
	if err := w.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	conn := tls.Server(w.conn, config)
	if err := w.handshake(ctx, conn, limit); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = conn
	return nil
}

// A tlsConn is a *tls.Conn, or something around one.
type tlsConn interface {
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// handshake lets a TLS client in within limit, or gives up when draining: a
// client that never ends it would hold that up for as long as it may take.
func (w *wire) handshake(ctx context.Context, conn tlsConn, limit time.Duration) error {
	ctx, done := w.untilDrain(ctx, limit)
	defer done()
	err := conn.HandshakeContext(ctx)
	if err != nil && context.Cause(ctx) == errDraining {
		return errDraining
	}
	return err
}

// What a client sent that nobody reads makes the kernel reset the connection,
// and a reset may overtake the last reply. So the rest is read for a moment.
const (
	lingerTime   = time.Second
	lingerOctets = 256 << 10
)

// close ends the connection; politely means that the client has been told.
func (w *wire) close(politely bool) {
	half, ok := w.conn.(interface{ CloseWrite() error })
	if politely && ok && half.CloseWrite() == nil {
		w.conn.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, w.conn, lingerOctets)
	}
	if w.out.err != nil || w.wasCut() {
		w.raw.Close() // a TLS connection would wait for the client once more
	} else {
		w.conn.Close()
	}
}
