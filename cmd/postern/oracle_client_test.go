package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"postern/upstream/upstreamtest/oracle"
)

// A popSession is a POP3 client at work, which keeps the book of what it did.
type popSession struct {
	*oracle.Session
	w     *world
	r     *rand.Rand
	conn  net.Conn
	lines chan string
	left  int  // octets until the connection is lost; negative: it is not
	blind bool // does not wait for answers
	owed  []func(answer string)
}

func (w *world) newSession(name, user string) *oracle.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &oracle.Session{Name: name, Account: user, Got: map[int]bool{}, Asked: map[int]bool{}, Marked: map[int]bool{}}
	w.sessions = append(w.sessions, s)
	return s
}

// dial connects to the gateway that lives now.
func (w *world) dial(s *oracle.Session) *popSession {
	client, server := net.Pipe()
	c := &popSession{Session: s, w: w, conn: client, lines: make(chan string, 1<<8), left: -1,
		r: rand.New(rand.NewPCG(w.seed, uint64(len(s.Name))<<32))}
	go func() {
		defer close(c.lines)
		for in := bufio.NewReader(client); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			c.lines <- strings.TrimSuffix(line, "\r\n")
		}
	}()
	w.mu.Lock()
	g := w.generation
	w.running[s] = g
	w.mu.Unlock()
	s.Began = w.record.Now()
	w.serving.Go(func() {
		g.server.Serve(g.ctx, server)
		now := w.record.Now()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.running, s)
		if s.Ended == 0 {
			s.Ended, s.Noted = now, w.state != nil
		}
	})
	context.AfterFunc(g.ctx, func() { client.Close() })
	return c
}

func (c *popSession) close() { c.conn.Close() }

// send sends text, up to the point where the connection is lost, and tells
// whether all of it was taken.
func (c *popSession) send(text string) bool {
	if c.left >= 0 && c.left < len(text) {
		io.WriteString(c.conn, text[:c.left])
		c.close()
		return false
	}
	if c.left >= 0 {
		c.left -= len(text)
	}
	_, err := io.WriteString(c.conn, text)
	return err == nil
}

// answer reads one line.
func (c *popSession) answer() (line string, ok bool) {
	line, ok = <-c.lines
	return line, ok
}

// do sends a command and reads its answer, now or, if the client is blind, later.
func (c *popSession) do(command string, then func(answer string)) bool {
	if !c.blind {
		c.w.wait(c.r, 30*time.Millisecond)
	}
	if !c.send(command + "\r\n") {
		return false
	}
	if c.blind {
		c.owed = append(c.owed, then)
		return true
	}
	line, ok := c.answer()
	if ok {
		then(line)
	}
	return ok
}

// settle reads the answers that a blind client has not.
func (c *popSession) settle() bool {
	for _, then := range c.owed {
		line, ok := c.answer()
		if !ok {
			return false
		}
		then(line)
	}
	c.owed = nil
	return true
}

func (c *popSession) login() bool {
	if _, ok := c.answer(); !ok {
		return false
	}
	in := false
	return c.do("USER "+c.Account, func(string) {}) &&
		c.do("PASS secret", func(answer string) { in = strings.HasPrefix(answer, "+OK") }) && in
}

// body reads the lines of an answer, without the dots that were added; whole
// tells whether it came to its end.
func (c *popSession) body() (lines []string, whole bool) {
	for {
		line, ok := c.answer()
		switch {
		case !ok:
			return lines, false
		case line == ".":
			return lines, true
		}
		lines = append(lines, strings.TrimPrefix(line, "."))
	}
}

// scan reads the scan listing and the unique-ids.
func (c *popSession) scan() bool {
	column := func(command string) (column []string, ok bool) {
		whole := false
		c.do(command, func(string) { column, whole = c.body() })
		for k, line := range column {
			_, column[k], _ = strings.Cut(line, " ")
		}
		return column, whole
	}
	sizes, ok := column("LIST")
	if !ok {
		return false
	}
	for _, size := range sizes {
		octets := 0
		fmt.Sscan(size, &octets)
		c.Shown = append(c.Shown, oracle.IDOf(octets))
	}
	c.Listed = c.w.record.Now()
	c.UIDLs, ok = column("UIDL")
	return ok
}

// dele asks for the removal of message n, counting from 0.
func (c *popSession) dele(n int) bool {
	id := c.Shown[n]
	c.Asked[id] = true // unless it is refused
	return c.do(fmt.Sprintf("DELE %d", n+1), func(answer string) {
		switch {
		case strings.HasPrefix(answer, "+OK"):
			c.Asked[id], c.Marked[id] = true, true
		case !c.Marked[id]:
			delete(c.Asked, id)
		}
	})
}

// rset takes all marks back.
func (c *popSession) rset() bool {
	if !c.blind {
		return c.do("RSET", func(string) { clear(c.Asked); clear(c.Marked) })
	}
	// The answers to come are those to what was sent before.
	return c.settle() && c.do("RSET", func(string) {}) && c.settle() && func() bool {
		clear(c.Asked)
		clear(c.Marked)
		return true
	}()
}

// retr reads a message, which has to be the one that was shown.
func (c *popSession) retr(n int) bool {
	if c.blind {
		return true
	}
	alive := true
	ok := c.do(fmt.Sprintf("RETR %d", n+1), func(answer string) {
		if !strings.HasPrefix(answer, "+OK") {
			return
		}
		lines, whole := c.body()
		alive = whole
		c.Got[c.Shown[n]] = whole || c.Got[c.Shown[n]]
		if got := strings.Join(lines, "\r\n") + "\r\n"; whole && got != oracle.RawOf(c.Shown[n]) && !c.w.lenient() {
			c.w.fail("%s: message %d came as\n%s", c.Name, c.Shown[n], got)
		}
	})
	return ok && alive
}

func (w *world) lenient() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rules.Lenient
}

// quit sends QUIT, as far as the connection lasts.
func (c *popSession) quit() {
	const line = "QUIT\r\n"
	c.w.wait(c.r, 30*time.Millisecond)
	now := c.w.record.Now()
	c.w.mu.Lock()
	if c.left < 0 || c.left >= len(line) {
		c.Quit = now
	}
	c.w.mu.Unlock()
	c.send(line)
}

// bye reads the answer to QUIT.
func (c *popSession) bye() {
	if !c.settle() {
		return
	}
	if answer, ok := c.answer(); ok {
		c.Answered = c.w.record.Now()
		c.Answer = answer
		c.w.tell("%s: %s", c.Name, answer)
	}
}

// client makes sessions, one after another.
func (w *world) client(user string, n uint64) {
	r := rand.New(rand.NewPCG(w.seed, 1<<51+n))
	for k := range 2 + r.IntN(2) {
		w.wait(r, 200*time.Millisecond)
		s := w.newSession(fmt.Sprintf("client %d session %d", n, k), user)
		c := w.dial(s)
		c.r = r
		w.session(c, r)
		c.close()
	}
}

// session is what one client does.
func (w *world) session(c *popSession, r *rand.Rand) {
	if !c.login() || !c.scan() {
		return
	}
	w.tell("%s: shown %v as %v", c.Name, c.Shown, c.UIDLs)
	c.blind = r.IntN(5) == 0
	if r.IntN(4) == 0 {
		c.left = r.IntN(60)
		w.hits(c.Session)
	}
	for range r.IntN(8) {
		if len(c.Shown) == 0 || !w.command(c, r) {
			break
		}
	}
	w.tell("%s: wants %v removed", c.Name, c.Marked)
	switch r.IntN(8) {
	case 0: // gone without a word
		c.close()
	case 1: // half a word
		c.left = r.IntN(len("QUIT\r"))
		w.hits(c.Session)
		c.quit()
	case 2: // gone after it
		w.hits(c.Session)
		c.quit()
		c.close()
	default:
		c.quit()
		c.bye()
	}
}

// hits notes that a session met a fault: of its own client.
func (w *world) hits(s *oracle.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hit[s] = true
}

// command is one command of a session.
func (w *world) command(c *popSession, r *rand.Rand) bool {
	n := r.IntN(len(c.Shown))
	switch r.IntN(12) {
	case 0:
		return c.rset()
	case 1, 2, 3:
		return c.retr(n)
	case 4:
		return c.do("NOOP", func(string) {})
	}
	return c.dele(n)
}
