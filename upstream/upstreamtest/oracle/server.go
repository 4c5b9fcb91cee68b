package oracle

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Server speaks IMAP on connections in memory. Its exported fields are set
// before the first of them.
type Server struct {
	Record Record

	// Capabilities is what CAPABILITY says; UIDPLUS and MOVE are refused where
	// they are not in it.
	Capabilities string

	// Fault is asked for every command before it is carried out, without any
	// lock held: it may do what another client does, and may wait.
	Fault func(s Step) Fault

	mu       sync.Mutex
	accounts map[string]*account
	made     int // messages
	dialed   int
	open     map[*conn]bool
}

// NewServer returns a server without accounts.
func NewServer() *Server {
	return &Server{
		Capabilities: "IMAP4rev1 UIDPLUS MOVE SPECIAL-USE",
		Fault:        func(Step) Fault { return Fault{} },
		accounts:     map[string]*account{},
		open:         map[*conn]bool{},
	}
}

// A Step is a command that the server has read.
type Step struct {
	Conn    int    // the connection, counting from 1
	N       int    // the command on it, counting from 1
	Account string // empty before the login
	Verb    string // such as "UID STORE"
	Command string // without its tag
}

// A Fault is what a command comes to. The zero value is what it should.
type Fault struct {
	Do    Do
	Reply string // of Refuse: what follows the tag
	After func() // called once the command is carried out, before it is answered

	Rewrite func(answer string) string // makes another answer of the server's

	// Speak answers instead of the server, which does nothing; false ends the
	// connection.
	Speak func(tag string, conn io.ReadWriter) bool
}

// Do is what is done with a command.
type Do string

const (
	Obey       Do = ""
	DropBefore Do = "connection lost before the command was carried out"
	DropAfter  Do = "connection lost before the answer"
	DropMiddle Do = "connection lost in the middle of the answer"
	Refuse     Do = "refused"
	Half       Do = "carried out for every other message, then refused"
	Hollow     Do = "answered OK, and not carried out"
	Gaps       Do = "answered OK, with every other message left out"
	Bye        Do = "BYE"
	Silence    Do = "carried out, and never answered"
)

// Dial opens a connection. It is imapc.Options.Dial.
func (s *Server) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	s.mu.Lock()
	s.dialed++
	c := &conn{Conn: server, s: s, n: s.dialed, r: bufio.NewReader(server)}
	s.open[c] = true
	s.mu.Unlock()
	go c.serve()
	return client, nil
}

// Bye says goodbye on every connection that is open, and closes it.
func (s *Server) Bye(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut(func(c *conn) bool {
		fmt.Fprintf(c, "* BYE %s\r\n", text)
		return true
	})
}

// Cut closes every connection that is open. What was not carried out by then
// never is.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut(func(*conn) bool { return true })
}

func (s *Server) cut(which func(*conn) bool) {
	for c := range s.open {
		if which(c) {
			c.cut = true
			c.Close()
			delete(s.open, c)
		}
	}
}

// A conn is one connection.
type conn struct {
	net.Conn
	s   *Server
	n   int
	r   *bufio.Reader
	cut bool // under Server.mu

	commands int
	account  *account // nil before the login
	box      *box     // selected
	examined bool
	view     []*entry // by sequence number, as the client knows them
	looked   int64    // when the client last searched for what is flagged \Deleted
	out      bytes.Buffer
}

func (c *conn) serve() {
	defer c.leave()
	io.WriteString(c, "* OK ready\r\n")
	for {
		line, err := c.line()
		if err != nil {
			return
		}
		tag, command, _ := strings.Cut(line, " ")
		c.commands++
		if !c.step(tag, command) || strings.EqualFold(command, "LOGOUT") {
			return
		}
	}
}

func (c *conn) leave() {
	c.s.mu.Lock()
	delete(c.s.open, c)
	c.s.mu.Unlock()
	c.Close()
}

// line reads a command, its literals as quoted strings.
func (c *conn) line() (string, error) {
	var whole string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimRight(line, "\r\n")
		at := strings.LastIndexByte(line, '{')
		if at < 0 || !strings.HasSuffix(line, "}") {
			return whole + line, nil
		}
		size := strings.TrimSuffix(line[at+1:len(line)-1], "+")
		n, err := strconv.Atoi(size)
		if err != nil || n > 1<<20 {
			return "", fmt.Errorf("literal %q", size)
		}
		if !strings.HasSuffix(line, "+}") {
			io.WriteString(c, "+ go on\r\n")
		}
		literal := make([]byte, n)
		if _, err := io.ReadFull(c.r, literal); err != nil {
			return "", err
		}
		whole += line[:at] + strconv.Quote(string(literal))
	}
}

// step carries out a command and answers it, as well as the fault allows. It
// returns whether the connection goes on.
func (c *conn) step(tag, command string) bool {
	verb, args := split(command)
	at := Step{Conn: c.n, N: c.commands, Verb: verb, Command: command}
	if c.account != nil {
		at.Account = c.account.name
	}
	f := c.s.Fault(at)
	if f.Speak != nil {
		return f.Speak(tag, c)
	}
	if f.Do == DropBefore || !c.obey(tag, verb, args, command, f) {
		return false
	}
	if f.After != nil {
		f.After()
	}
	answer := c.out.Bytes()
	if f.Rewrite != nil {
		answer = []byte(f.Rewrite(c.out.String()))
	}
	switch f.Do {
	case DropAfter:
		return false
	case DropMiddle:
		c.Write(answer[:len(answer)/2])
		return false
	case Bye:
		io.WriteString(c, "* BYE [UNAVAILABLE] going down\r\n")
		return false
	case Silence:
		io.Copy(io.Discard, c.r) // until the client has had enough
		return false
	}
	_, err := c.Write(answer)
	return err == nil
}

// obey carries out a command and leaves the answer in out; false if the
// connection was cut.
func (c *conn) obey(tag, verb, args, command string, f Fault) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.out.Reset()
	if c.cut {
		return false
	}
	result := f.Reply
	switch {
	case f.Do == Refuse && verb == "LOGIN" && !strings.Contains(result, "UNAVAILABLE"):
		c.s.Record.add(Event{Kind: Refused, Conn: c.n, Command: result})
	case f.Do == Refuse || f.Do == Bye:
	case f.Do == Hollow:
		result = "OK done"
	default:
		result = c.do(verb, args, cause{c.n, command}, f.Do == Half || f.Do == Gaps)
		if f.Do == Half {
			result = "NO [OVERQUOTA] only half of it"
		}
	}
	c.tellNews()
	fmt.Fprintf(&c.out, "%s %s\r\n", tag, result)
	return true
}

// split parts a command from its arguments; UID belongs to the command.
func split(command string) (verb, args string) {
	verb, args, _ = strings.Cut(command, " ")
	verb = strings.ToUpper(verb)
	if verb == "UID" {
		word, rest, _ := strings.Cut(args, " ")
		verb, args = "UID "+strings.ToUpper(word), rest
	}
	return verb, args
}

// tellNews brings the client's view of the mailbox up to date.
func (c *conn) tellNews() {
	if c.box == nil {
		return
	}
	there := map[*entry]bool{}
	for _, e := range c.box.entries {
		there[e] = true
	}
	for k := len(c.view) - 1; k >= 0; k-- {
		if !there[c.view[k]] {
			fmt.Fprintf(&c.out, "* %d EXPUNGE\r\n", k+1)
		}
	}
	known := 0
	for _, e := range c.view {
		if there[e] {
			known++
		}
	}
	c.view = slices.Clone(c.box.entries)
	if len(c.view) > known {
		fmt.Fprintf(&c.out, "* %d EXISTS\r\n", len(c.view))
	}
}
