package imapc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

var errProtocol = errors.New("not as the protocol has it")

// A query is a command of this package's own, and what becomes of it.
type query struct {
	tag     string
	command string
	line    func([]byte) error // called with every untagged response

	strict   bool          // nothing else is to be answered: whatever comes is news, see guard.news
	deflates bool          // an OK is followed by compressed octets
	more     chan struct{} // IDLE only: closed when the server is ready to be told DONE

	running bool          // the reader has it; under guard.mu
	done    chan struct{} // closed when what follows stands
	status  status
	err     error
	news    int // guard.news when it was answered
}

// newQuery makes a query that hands every untagged response to line: without
// its end of line, each literal in it replaced by an empty string. line runs on
// the library's reader and may fail, which ends the connection.
func newQuery(command string, line func([]byte) error) *query {
	return &query{tag: "P" + rand.Text()[:8], command: command, line: line, done: make(chan struct{})}
}

func (q *query) finish(s status, err error) {
	q.status, q.err = s, err
	close(q.done)
}

// wait returns the answer. An error means that it did not come to its end; a NO
// or BAD is a status.
func (q *query) wait() (status, error) {
	<-q.done
	return q.status, q.err
}

// ask sends a command and waits for the answer.
func (g *guard) ask(command string, line func([]byte) error) (status, error) {
	q := newQuery(command, line)
	g.send(q)
	return q.wait()
}

// send sends commands, one behind the other, without waiting for answers. They
// are answered in this order, but a server may overtake itself where that makes
// no difference (RFC 9051 section 5.5).
//
// No command of the library may be waiting for its answer, but for a CAPABILITY
// that it sends by itself after LOGIN.
func (g *guard) send(queries ...*query) {
	var text []byte
	g.mu.Lock()
	err := g.err
	if err == nil {
		g.asked = append(g.asked, queries...) // before they are sent, so that no answer is missed
	}
	if g.idling != nil {
		text, g.idling = append(text, "DONE\r\n"...), nil
	}
	for _, q := range queries {
		text = append(append(append(append(text, q.tag...), ' '), q.command...), "\r\n"...)
		if q.more != nil {
			g.idling = q
		}
	}
	g.mu.Unlock()
	if err != nil {
		for _, q := range queries {
			q.finish(status{}, err)
		}
		return
	}
	g.Write(text) // a failure finishes them
}

// idle has the server tell what happens to the mailbox, until another command
// of ours is sent (RFC 2177). Silence is what is hoped for, and no error.
func (g *guard) idle() {
	q := newQuery("IDLE", ignore)
	q.strict, q.more = true, make(chan struct{})
	g.send(q)
}

// endIdle waits until another command may be sent, if the server is to idle.
func (g *guard) endIdle(ctx context.Context, wait time.Duration) error {
	g.mu.Lock()
	q := g.idling
	g.mu.Unlock()
	if q == nil {
		return nil
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	select {
	case <-q.more:
	case <-q.done: // it would not idle, or is gone
	case <-late.C:
		return errSilent
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// readers are lent to queries, so that a waiting connection has no buffer.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 32<<10) }}

// answer reads the answer to the first query that is waiting, if one is.
func (g *guard) answer() error {
	q := g.first()
	if q == nil {
		return nil
	}
	r := q.reader()
	r.Reset(source{g})
	s, forward, err := g.readAnswer(q, r)
	if err != nil {
		err = g.fail(err)
	}
	rest, _ := r.Peek(r.Buffered())
	rest = append(bytes.Clone(rest), g.stash...)
	if q.deflates && err == nil && s.kind == "OK" {
		g.deflate(rest)
		rest = nil
	}
	g.stash = append(forward, rest...)
	q.putBack(r)
	q.news = g.heard()
	g.answered(q.tag)
	q.finish(s, err)
	return err
}

// reader returns what to read the answer with: little for one that may not come
// for minutes.
func (q *query) reader() *bufio.Reader {
	if q.more != nil {
		return bufio.NewReaderSize(nil, idleBuffer)
	}
	return readers.Get().(*bufio.Reader)
}

const idleBuffer = 256

func (q *query) putBack(r *bufio.Reader) {
	if q.more == nil {
		r.Reset(nil)
		readers.Put(r)
	}
}

// first returns the query to be answered now, for the reader to finish.
func (g *guard) first() *query {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.asked) == 0 {
		return nil
	}
	g.asked[0].running = true
	return g.asked[0]
}

// answered removes the query of a tag from those that wait, and returns it.
func (g *guard) answered(tag string) *query {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := slices.IndexFunc(g.asked, func(q *query) bool { return q.tag == tag })
	if k < 0 {
		return nil
	}
	q := g.asked[k]
	g.asked = slices.Delete(g.asked, k, k+1)
	if g.idling == q {
		g.idling = nil
	}
	return q
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
	ready := q.more
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
		if isStatus && s.tag != "" {
			if early := g.answered(s.tag); early != nil {
				early.news = g.heard()
				early.finish(s, nil)
				continue
			}
		}
		switch {
		case isStatus && s.tag != "" && q.strict:
			return s, forward, fmt.Errorf("response %s: %w", printable(line), errProtocol)
		case isStatus && s.tag != "" || hasPrefixFold(line, "* CAPABILITY"):
			if forward = append(append(forward, line...), "\r\n"...); len(forward) > maxSmall {
				return s, forward, errTooLong
			}
			continue // another tag: the library knows if it is one of its own
		case isStatus:
			g.note(s)
		case ready != nil && line[0] == '+':
			close(ready)
			ready = nil
			continue
		case !hasPrefixFold(line, "* "):
			return s, forward, fmt.Errorf("response %s: %w", printable(line), errProtocol)
		}
		if isNews(line, s) || q.strict && !s.harmless() {
			g.hear()
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
