package migrate

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"postern/upstream"
)

// A TLSMode is how a connection to the old server is encrypted.
type TLSMode int

const (
	Implicit TLSMode = iota // from the first octet
	STLS                    // by STLS; never without if that fails
	Off                     // not at all
)

// An OldServer is a running POP3 server, and how to log in there.
type OldServer struct {
	Address   string // host:port
	TLS       TLSMode
	TLSConfig *tls.Config // nil means Go's defaults, and the host of Address
	User      string
	Password  upstream.Secret

	// Connections is how many are tried to have at a time, since many servers
	// admit one only; 0 means 4.
	Connections int
}

const (
	dialTime   = 20 * time.Second
	answerTime = 2 * time.Minute // for the next octets of an answer

	// atOnce is how many commands are sent before their answers are read, where
	// the server has the capability PIPELINING (RFC 2449 section 6.8).
	atOnce = 50

	maxReply  = 1024 // RFC 2449 section 4: 512, with room to spare
	maxHeader = 1<<20 + 64<<10
)

// A refusal is an -ERR of the server.
type refusal struct{ command, text string }

func (r refusal) Error() string {
	return fmt.Sprintf("%s: the old server says %q", r.command, r.text)
}

// A client is one connection to the old server.
type client struct {
	conn       net.Conn
	in         *bufio.Reader
	pipelining bool
	stop       func() bool // ends the watch over the context

	numbers map[string]int // message numbers, by unique-id
}

// dial connects and logs in. The caller closes the client. The connection ends
// with ctx.
func (o OldServer) dial(ctx context.Context) (*client, error) {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, stop: context.AfterFunc(ctx, func() { conn.Close() })}
	if err := c.begin(ctx, o); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// begin comes from the first octet to a login.
func (c *client) begin(ctx context.Context, o OldServer) error {
	if o.TLS == Implicit {
		if err := c.startTLS(ctx, o); err != nil {
			return err
		}
	}
	c.in = bufio.NewReaderSize(c.conn, 64<<10)
	if _, err := c.reply("greeting"); err != nil {
		return err
	}
	if o.TLS == STLS {
		if _, err := c.ask("STLS"); err != nil {
			return err
		}
		if c.in.Buffered() > 0 {
			return errors.New("STLS: the old server goes on without TLS")
		}
		if err := c.startTLS(ctx, o); err != nil {
			return err
		}
		c.in = bufio.NewReaderSize(c.conn, 64<<10)
	}
	return c.login(o)
}

func (c *client) startTLS(ctx context.Context, o OldServer) error {
	config := o.TLSConfig.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(o.Address)
	}
	secure := tls.Client(c.conn, config)
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	c.conn = secure
	return nil
}

// login logs in. What the server answers to the password is not told: some
// repeat it.
func (c *client) login(o OldServer) error {
	password := o.Password.Reveal()
	if strings.ContainsAny(o.User+password, "\r\n\x00") {
		return errors.New("the name or the password has a line end in it")
	}
	if _, err := c.ask("USER " + o.User); err != nil {
		return err
	}
	if err := c.send("PASS " + password); err != nil {
		return err
	}
	if _, err := c.reply("PASS"); err != nil {
		if r, ok := errors.AsType[refusal](err); ok {
			err = refusal{r.command, strings.ReplaceAll(r.text, password, "***")}
		}
		return err
	}
	if err := c.capabilities(); err != nil {
		return err
	}
	return nil
}

// capabilities asks whether commands may be sent ahead. Old servers have no CAPA.
func (c *client) capabilities() error {
	_, err := c.ask("CAPA")
	if _, refused := errors.AsType[refusal](err); refused {
		return nil
	}
	if err != nil {
		return err
	}
	return c.lines(func(line string) error {
		c.pipelining = c.pipelining || strings.EqualFold(line, "PIPELINING")
		return nil
	})
}

// close ends the session. There is nothing to remove, so QUIT may be lost.
func (c *client) close() {
	c.stop()
	c.conn.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c.conn, "QUIT\r\n")
	c.conn.Close()
}

func (c *client) send(commands ...string) error {
	c.conn.SetWriteDeadline(time.Now().Add(answerTime))
	_, err := io.WriteString(c.conn, strings.Join(commands, "\r\n")+"\r\n")
	return err
}

// ask sends a command and reads the first line of its answer.
func (c *client) ask(command string) (string, error) {
	if err := c.send(command); err != nil {
		return "", err
	}
	return c.reply(command)
}

// reply reads a status line.
func (c *client) reply(command string) (string, error) {
	line, err := c.line(maxReply)
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	if text, ok := strings.CutPrefix(line, "+OK"); ok {
		return strings.TrimSpace(text), nil
	}
	if text, ok := strings.CutPrefix(line, "-ERR"); ok {
		return "", refusal{command, strings.TrimSpace(text)}
	}
	return "", fmt.Errorf("%s: the old server does not speak POP3: %.80q", command, line)
}

// line reads one line of at most max octets, without its end.
func (c *client) line(max int) (string, error) {
	c.conn.SetReadDeadline(time.Now().Add(answerTime))
	var line []byte
	for {
		part, err := c.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > max {
			return "", fmt.Errorf("a line of more than %d octets", max)
		}
		switch {
		case err == nil:
			return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", fmt.Errorf("the old server broke off: %w", err)
		}
	}
}

// lines reads a multi-line answer after its status line.
func (c *client) lines(do func(line string) error) error {
	for n := 0; ; n++ {
		line, err := c.line(maxHeader)
		if err != nil {
			return err
		}
		if line == "." {
			return nil
		}
		if n > maxMessages {
			return fmt.Errorf("more than %d lines", maxMessages)
		}
		if err := do(strings.TrimPrefix(line, ".")); err != nil {
			return err
		}
	}
}

// list reads a listing: message numbers and what stands beside them.
func (c *client) list(command string, take func(number int, text string) error) error {
	if _, err := c.ask(command); err != nil {
		return err
	}
	return c.lines(func(line string) error {
		number, text, _ := strings.Cut(line, " ")
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("%s: %.80q is no line of a listing", command, line)
		}
		return take(int(n), strings.TrimSpace(text))
	})
}

// header reads a message's header, of at most maxHeader octets, in an answer to
// TOP that was asked for.
func (c *client) header() (string, error) {
	if _, err := c.reply("TOP"); err != nil {
		return "", err
	}
	var text strings.Builder
	err := c.lines(func(line string) error {
		if text.Len() < maxHeader {
			text.WriteString(line)
			text.WriteString("\r\n")
		}
		return nil
	})
	return text.String(), err
}
