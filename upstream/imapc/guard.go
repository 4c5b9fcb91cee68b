package imapc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"postern/upstream"
)

const (
	maxLine       = 1 << 20  // octets of one response, literals not counted
	maxOctets     = 8 << 20  // of all responses to one command, literals not counted
	maxSmall      = 64 << 10 // octets of a literal that is not a message
	headOctets    = 512      // of a response, kept to see what it is
	tailOctets    = 24       // of a line, enough for " {18446744073709551615}\r\n"
	slowestOctets = 60 << 10 // that a message must bring in each slowestWindow of waiting
	slowestWindow = time.Minute
)

var (
	errTooLong = errors.New("response over the limit")
	errSlow    = errors.New("message comes too slowly")
	errSilent  = errors.New("no answer in time")
)

// A guard is the net.Conn that the library reads from and writes to. It
//   - ends a Read that waits too long, but only while an answer is awaited;
//   - follows the stream (responses, lines, literals) and ends it at the limits;
//   - keeps the first error with its type, and answers with it ever after;
//   - notes what the server says by OK, NO, BAD and BYE, which the library drops;
//   - reads the answers to this package's own commands itself, see ask.
//
// The stream is looked at in the reader's own buffer, so a guard that waits
// holds none.
type guard struct {
	conn   net.Conn // the socket, or TLS on it
	socket net.Conn // closed without a word, so that closing never waits
	write  time.Duration
	hooks  upstream.Hooks
	passed atomic.Int64 // octets, both ways

	writing sync.Mutex // lines do not mix

	mu     sync.Mutex
	err    error    // what ended the connection
	await  await    // zero: nothing is awaited
	octets int64    // left of await.octets
	asked  []*query // commands of ours, not yet answered
	idling *query   // that of asked which the server idles in, until it is told DONE
	news   int      // responses that tell of more than was asked, see isNews
	words  status   // the last NO, BAD, BYE or ALERT
	code   string   // of the last tagged response to the library

	// The rest belongs to whoever reads: the library's reader, or the one who
	// reads a literal while the reader waits. Never both.
	stash   []byte // to be read before the socket
	literal int64  // octets of the current literal still to come
	line    int    // octets of the current response so far, literals not counted
	head    []byte // its beginning
	tail    []byte // the end of its current line
	late    error  // came with octets
	waited  time.Duration
	brought int64
}

// An await bounds the answer to a command.
type await struct {
	idle    time.Duration // until the next octet
	literal int64         // octets of one literal
	octets  int64         // of everything else; 0 means maxOctets
}

// newGuard guards conn. The library will read first before what conn brings.
func newGuard(conn, socket net.Conn, first []byte, o *Options) *guard {
	return &guard{conn: conn, socket: socket, stash: first, octets: maxOctets, write: o.WriteTimeout, hooks: o.Hooks}
}

// begin starts to wait for an answer: from now on silence is an error.
func (g *guard) begin(a await) {
	if a.octets == 0 {
		a.octets = maxOctets
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.await, g.octets = a, a.octets
	g.setDeadline() // also for a Read that is waiting already
}

// end: no answer is awaited any more.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.await = await{}
	g.setDeadline()
}

func (g *guard) setDeadline() {
	var at time.Time
	if g.await.idle > 0 {
		at = time.Now().Add(g.await.idle)
	}
	g.conn.SetReadDeadline(at)
}

// fail ends the connection because of err, unless it has ended before, and
// returns why it ended.
func (g *guard) fail(err error) error {
	g.mu.Lock()
	first := g.err == nil
	if first {
		g.err = err
	}
	err = g.err
	unanswered := g.asked
	if len(unanswered) > 0 && unanswered[0].running {
		unanswered = unanswered[1:] // the reader finishes that one
	}
	g.asked = nil
	g.mu.Unlock()
	for _, q := range unanswered {
		q.finish(status{}, err)
	}
	if first {
		g.socket.Close()
		if g.hooks.Disconnected != nil {
			g.hooks.Disconnected()
		}
	}
	return err
}

// broken returns what ended the connection, nil if nothing did.
func (g *guard) broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Read implements net.Conn for the library.
func (g *guard) Read(p []byte) (int, error) {
	for {
		n, err := g.take(p)
		if err != nil {
			return 0, err
		}
		k, err := g.follow(p[:n])
		if err != nil {
			return 0, g.fail(err)
		}
		if k < n {
			g.stash = append(bytes.Clone(p[k:n]), g.stash...)
		}
		if k > 0 {
			return k, nil
		}
		if err := g.answer(); err != nil {
			return 0, g.fail(err)
		}
	}
}

// take reads what is stashed, or else from the socket.
func (g *guard) take(p []byte) (int, error) {
	if len(g.stash) == 0 {
		return g.receive(p)
	}
	n := copy(p, g.stash)
	if g.stash = g.stash[n:]; len(g.stash) == 0 {
		g.stash = nil
	}
	return n, nil
}

func (g *guard) receive(p []byte) (int, error) {
	g.mu.Lock()
	if g.err != nil {
		defer g.mu.Unlock()
		return 0, g.err
	}
	g.setDeadline()
	began := time.Now()
	g.mu.Unlock()
	n, err := 0, g.late
	if err == nil {
		n, err = g.conn.Read(p)
	}
	g.count(n, 0)
	switch {
	case n > 0 && err != nil:
		g.late = err // what it means is known after these octets
	case err != nil:
		return 0, g.fail(g.typed(err))
	case g.tooSlow(n, began):
		return 0, g.fail(errSlow)
	}
	return n, nil
}

// tooSlow tells that a message has come at less than the slowest rate, waiting
// for the client not counted.
func (g *guard) tooSlow(n int, began time.Time) bool {
	if g.literal == 0 {
		g.waited, g.brought = 0, 0
		return false
	}
	g.waited += time.Since(began)
	g.brought += int64(n)
	if g.waited < slowestWindow {
		return false
	}
	slow := g.brought < slowestOctets
	g.waited, g.brought = 0, 0
	return slow
}

// typed says what a read error means here: an end in the middle of something
// is not a clean end.
func (g *guard) typed(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF) && (g.literal > 0 || g.line > 0):
		return io.ErrUnexpectedEOF
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

// follow looks at what was received. It returns how much of it is for the
// library: what comes after that answers a command of ours.
func (g *guard) follow(p []byte) (int, error) {
	for k := 0; k < len(p); {
		if g.literal > 0 {
			n := min(g.literal, int64(len(p)-k))
			g.literal -= n
			k += int(n)
			continue
		}
		if g.line == 0 && g.asking() {
			return k, nil
		}
		end := bytes.IndexByte(p[k:], '\n') + 1
		whole := end > 0
		if !whole {
			end = len(p) - k
		}
		if err := g.followLine(p[k:k+end], whole); err != nil {
			return k, err
		}
		k += end
	}
	return len(p), nil
}

func (g *guard) asking() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked) > 0
}

// followLine takes a line, or a part of one if it is not whole.
func (g *guard) followLine(part []byte, whole bool) error {
	if err := g.spend(len(part)); err != nil {
		return err
	}
	if g.line += len(part); g.line > maxLine {
		return errTooLong
	}
	g.head = append(g.head, part[:min(len(part), headOctets-len(g.head))]...)
	g.tail = append(g.tail, part[max(0, len(part)-tailOctets):]...)
	if !whole {
		g.tail = g.tail[:copy(g.tail, g.tail[max(0, len(g.tail)-tailOctets):])]
		return nil
	}
	s, isStatus := parseStatus(g.head)
	n, isLiteral := literalMark(g.tail)
	g.tail = g.tail[:0]
	if isLiteral && !isStatus && g.head[0] != '+' {
		g.literal = n
		return g.admit(n)
	}
	if isStatus {
		g.note(s)
	}
	if isNews(g.head, s) {
		g.hear()
	}
	g.head, g.line = g.head[:0], 0
	return nil
}

// spend counts n octets against the limit of the answer awaited.
func (g *guard) spend(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.octets -= int64(n); g.octets < 0 {
		return errTooLong
	}
	return nil
}

// admit says whether a literal of n octets may come.
func (g *guard) admit(n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > max(maxSmall, g.await.literal) {
		return fmt.Errorf("literal of %d octets: %w", n, errTooLong)
	}
	return nil
}

// note keeps what the server said.
func (g *guard) note(s status) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.tag != "" {
		g.code = s.code
	}
	if s.kind != "OK" && s.kind != "PREAUTH" || s.code == "ALERT" {
		g.words = s
	}
}

// hear counts a response that tells of more than was asked.
func (g *guard) hear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.news++
}

// heard returns how many there were.
func (g *guard) heard() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.news
}

// said returns the last NO, BAD, BYE or ALERT, and the code of the last tagged
// response to the library.
func (g *guard) said() (words status, code string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.words, g.code
}

// Write implements net.Conn for the library.
func (g *guard) Write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := g.broken(); err != nil {
		return 0, err
	}
	g.conn.SetWriteDeadline(time.Now().Add(g.write))
	n, err := g.conn.Write(p)
	g.count(0, n)
	if err != nil {
		return n, g.fail(err)
	}
	return n, nil
}

func (g *guard) count(received, sent int) {
	g.passed.Add(int64(received + sent))
	if received+sent > 0 && g.hooks.Octets != nil {
		g.hooks.Octets(received, sent)
	}
}

// Close implements net.Conn. It does not wait.
func (g *guard) Close() error {
	g.fail(net.ErrClosed)
	return nil
}

func (g *guard) LocalAddr() net.Addr  { return g.socket.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr { return g.socket.RemoteAddr() }

// The library's deadlines bound whole literals and whole responses, which cuts
// a slow client off, and do not bound waiting. The guard has its own.

func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }
