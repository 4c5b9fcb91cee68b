// Package load puts a POP3 server to work the way its clients do, checks that
// everything it sends is complete, and says how long it took. It knows POP3
// and nothing of the server behind it.
package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A Target is a POP3 server and who to be there.
type Target struct {
	Address  string // host:port
	TLS      string // "off", "stls" or "implicit"
	Config   *tls.Config
	User     string // %d in it stands for the number of the session, from 1
	Password string
	Timeout  time.Duration // for the server to send or take something; 0 means a minute
}

// user is the target as session i of several, from 0, sees it.
func (t Target) user(i int) Target {
	t.User = strings.ReplaceAll(t.User, "%d", strconv.Itoa(i+1))
	return t
}

// A client is one POP3 session. Its methods stand for commands, and fail on
// anything but a positive, complete reply.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
	release func() bool
}

const readOctets = 128 << 10

// dial connects and, where the target wants that, starts TLS. The session is
// cut when ctx ends.
func (t Target) dial(ctx context.Context) (*client, error) {
	c := &client{timeout: t.Timeout}
	if c.timeout == 0 {
		c.timeout = time.Minute
	}
	dialer := net.Dialer{Timeout: c.timeout}
	conn, err := dialer.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	c.release = context.AfterFunc(ctx, func() { conn.Close() })
	c.use(conn)
	if err := c.open(t); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) open(t Target) error {
	if t.TLS == "implicit" {
		c.use(tls.Client(c.conn, t.tlsConfig()))
	}
	if _, err := c.reply("greeting"); err != nil {
		return err
	}
	if t.TLS == "stls" {
		if _, err := c.command("STLS"); err != nil {
			return err
		}
		c.use(tls.Client(c.conn, t.tlsConfig()))
	}
	return nil
}

func (t Target) tlsConfig() *tls.Config {
	config := t.Config.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(t.Address)
	}
	return config
}

// login connects and logs in.
func (t Target) login(ctx context.Context) (*client, error) {
	c, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.authenticate(t); err != nil {
		c.close()
		return nil, fmt.Errorf("log in as %s: %w", t.User, err)
	}
	return c, nil
}

func (c *client) authenticate(t Target) error {
	if _, err := c.command("USER " + t.User); err != nil {
		return err
	}
	if err := c.send("PASS " + t.Password); err != nil {
		return err
	}
	_, err := c.reply("PASS")
	return err
}

func (c *client) use(conn net.Conn) {
	c.conn = conn
	c.buffer(readOctets)
}

func (c *client) buffer(octets int) {
	c.r = bufio.NewReaderSize(&patient{c.conn, c.timeout}, octets)
}

func (c *client) close() {
	c.release()
	c.conn.Close()
}

// patient gives every Read its own deadline.
type patient struct {
	net.Conn
	timeout time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(p.timeout))
	return p.Conn.Read(b)
}

// A Refusal is the server's -ERR.
type Refusal struct{ Command, Text string }

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %q", r.Command, r.Text) }

// command sends a line and returns the text after +OK.
func (c *client) command(line string) (string, error) {
	if err := c.send(line); err != nil {
		return "", err
	}
	return c.reply(line)
}

func (c *client) send(lines ...string) error {
	c.conn.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err := c.conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
	return err
}

func (c *client) reply(to string) (string, error) {
	line, err := c.line()
	if err != nil {
		return "", fmt.Errorf("%s: %w", to, err)
	}
	if text, ok := strings.CutPrefix(string(line), "+OK"); ok {
		return strings.TrimSpace(text), nil
	}
	return "", &Refusal{to, string(line)}
}

// line reads a line of at most readOctets and takes its CRLF off.
func (c *client) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, unexpected(err)
	}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, fmt.Errorf("line ends in LF alone: %.60q", line)
	}
	return text, nil
}

// unexpected words the end of a connection that should have gone on.
func unexpected(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("the server sends nothing: %w", err)
	}
	return fmt.Errorf("connection ended too soon: %w", err)
}

// stat returns the drop listing. RFC 1939 section 5.
func (c *client) stat() (messages int, octets int64, err error) {
	text, err := c.command("STAT")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(text, "%d %d", &messages, &octets); err != nil {
		return 0, 0, fmt.Errorf("STAT answers %q", text)
	}
	return messages, octets, nil
}

// list returns the size of every message.
func (c *client) list() ([]int64, error) {
	var sizes []int64
	err := c.listing("LIST", func(value []byte) error {
		size, err := strconv.ParseInt(string(value), 10, 64)
		sizes = append(sizes, size)
		return err
	})
	return sizes, err
}

// uidl returns how many unique-ids there are, and checks that no two that
// follow each other are equal.
func (c *client) uidl() (n int, err error) {
	var last []byte
	err = c.listing("UIDL", func(value []byte) error {
		if len(value) < 1 || len(value) > 70 || bytes.Equal(value, last) {
			return errors.New("no unique-id")
		}
		last = append(last[:0], value...)
		n++
		return nil
	})
	return n, err
}

// listing sends a command and calls each with the value of line 1, 2, 3...
func (c *client) listing(command string, each func(value []byte) error) error {
	if _, err := c.command(command); err != nil {
		return err
	}
	for want := 1; ; want++ {
		line, err := c.line()
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", command, want, err)
		}
		if string(line) == "." {
			return nil
		}
		number, value, _ := bytes.Cut(line, []byte(" "))
		if n, err := strconv.Atoi(string(number)); err != nil || n != want {
			return fmt.Errorf("%s: %.80q is not the line of message %d", command, line, want)
		}
		if err := each(value); err != nil {
			return fmt.Errorf("%s: %.80q: %w", command, line, err)
		}
	}
}

// quit ends the session in order.
func (c *client) quit() error {
	_, err := c.command("QUIT")
	return err
}
