package imapc

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
)

var errProtocol = errors.New("not as the protocol has it")

// A query is a command of this package's own, and what becomes of it.
type query struct {
	tag  string
	line func([]byte) error // called with every untagged response

	running bool // the reader has it; under guard.mu
	done    chan struct{}
	status  status
	err     error
}

func (q *query) finish(s status, err error) {
	q.status, q.err = s, err
	close(q.done)
}

// ask sends a command and hands every untagged response to line: without its
// end of line, each literal in it replaced by an empty string. line runs on the
// library's reader and may fail, which ends the connection. An error means that
// the answer did not come to its end; a NO or BAD is a status.
//
// No command of the library may be waiting for its answer, but for a CAPABILITY
// that it sends by itself after LOGIN.
func (g *guard) ask(command string, line func([]byte) error) (status, error) {
	q := &query{tag: "P" + rand.Text()[:8], line: line, done: make(chan struct{})}
	g.mu.Lock()
	if g.err != nil {
		defer g.mu.Unlock()
		return status{}, g.err
	}
	g.asked = q // before the command is sent, so that no answer is missed
	g.mu.Unlock()
	g.Write([]byte(q.tag + " " + command + "\r\n")) // a failure finishes q
	<-q.done
	return q.status, q.err
}

// readers are lent to queries, so that a waiting connection has no buffer.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 32<<10) }}

// answer reads the answer to the query that is waiting, if one is.
func (g *guard) answer() error {
	g.mu.Lock()
	q := g.asked
	if q != nil {
		q.running = true
	}
	g.mu.Unlock()
	if q == nil {
		return nil
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(source{g})
	s, forward, err := g.readAnswer(q, r)
	if err != nil {
		err = g.fail(err)
	}
	rest, _ := r.Peek(r.Buffered())
	g.stash = append(append(forward, rest...), g.stash...)
	r.Reset(nil)
	readers.Put(r)
	g.mu.Lock()
	g.asked = nil
	g.mu.Unlock()
	q.finish(s, err)
	return err
}

// source is the stream as a query reads it.
type source struct{ g *guard }

func (s source) Read(p []byte) (int, error) {
	n, err := s.g.take(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readAnswer reads to the tagged response of q. What the library waits for
// meanwhile is to be forwarded to it.
func (g *guard) readAnswer(q *query, r *bufio.Reader) (s status, forward []byte, err error) {
	var long []byte
	for {
		line, err := g.response(r, &long)
		if err != nil {
			return s, forward, err
		}
		s, isStatus := parseStatus(line)
		if isStatus && s.tag == q.tag {
			if s.kind != "OK" {
				g.note(s)
			}
			if s.code == "COPYUID" {
				s.arg = codeArgument(line)
			}
			return s, forward, nil
		}
		switch {
		case isStatus && s.tag != "" || hasPrefixFold(line, "* CAPABILITY"):
			if forward = append(append(forward, line...), "\r\n"...); len(forward) > maxSmall {
				return s, forward, errTooLong
			}
			continue // another tag: the library knows if it is one of its own
		case isStatus:
			g.note(s)
		case !hasPrefixFold(line, "* "):
			return s, forward, fmt.Errorf("response %s: %w", printable(line), errProtocol)
		}
		if err := q.line(line); err != nil {
			return s, forward, err
		}
	}
}

// response reads one response, in r's buffer or, where it does not fit or holds
// a literal, in *long.
func (g *guard) response(r *bufio.Reader, long *[]byte) ([]byte, error) {
	*long = (*long)[:0]
	for {
		part, err := r.ReadSlice('\n')
		if err := g.spend(len(part)); err != nil {
			return nil, err
		}
		if len(*long)+len(part) > maxLine {
			return nil, errTooLong
		}
		if err == bufio.ErrBufferFull {
			*long = append(*long, part...)
			continue
		}
		if err != nil {
			return nil, err
		}
		if n, ok := literalMark(part); ok && !isText(*long, part) {
			if err := g.admit(n); err != nil {
				return nil, err
			}
			mark := bytes.LastIndexByte(part, '{')
			*long = append(append(*long, part[:mark]...), `""`...)
			if _, err := r.Discard(int(n)); err != nil {
				return nil, err
			}
			continue
		}
		if len(*long) == 0 {
			return trimEOL(part), nil
		}
		*long = append(*long, part...)
		return trimEOL(*long), nil
	}
}

// isText tells whether the response that begins with head, or else with part,
// ends in free text, where nothing is a literal.
func isText(head, part []byte) bool {
	if len(head) == 0 {
		head = part
	}
	_, ok := parseStatus(head)
	return ok || head[0] == '+'
}

func trimEOL(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}
