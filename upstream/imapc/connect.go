package imapc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"postern/upstream"
)

// connect opens a connection, encrypted as the options say, and reads the
// greeting. Nothing of what was read before TLS is kept.
func (u *Upstream) connect(ctx context.Context) (_ *conn, err error) {
	began := time.Now()
	if hook := u.o.Hooks.Connected; hook != nil {
		defer func() { hook(time.Since(began), err) }()
	}
	limited, cancel := context.WithTimeout(ctx, u.o.ConnectTimeout)
	defer cancel()
	socket, err := u.o.Dial(limited, "tcp", u.o.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: %w", u.o.Address, err, upstream.ErrUnavailable)
	}
	stop := context.AfterFunc(limited, func() { socket.Close() })
	c := &conn{o: &u.o, born: began, presumed: u.known.capabilities()}
	stream, first, err := c.greet(limited, socket)
	if !stop() {
		err = limited.Err() // an error of the socket is its consequence
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", err, upstream.ErrUnavailable)
		}
	}
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("connect to %s: %w", u.o.Address, unavailable(err))
	}
	c.g = newGuard(stream, socket, first, &u.o)
	c.lib = imapclient.New(c.g, &imapclient.Options{
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{Fetch: discard},
	})
	return c, nil
}

// greet reads the greeting and encrypts the connection. It returns what the
// library is to read from now on, and what it is to read first.
func (c *conn) greet(ctx context.Context, socket net.Conn) (stream net.Conn, first []byte, err error) {
	stream = socket
	if c.o.TLS == TLSImplicit {
		if stream, err = c.encrypt(ctx, socket); err != nil {
			return nil, nil, err
		}
	}
	line, rest, err := readLine(stream)
	if err != nil {
		return nil, nil, fmt.Errorf("greeting: %w", err)
	}
	c.greeting, _ = parseStatus(line)
	if c.greeting.kind != "OK" || c.greeting.tag != "" {
		// PREAUTH too: a maildrop that opens without credentials is not known
		// to be the right one, and before TLS it is an attack.
		return nil, nil, fmt.Errorf("greeting %s: %w", printable(trimEOL(line)), refusal(c.greeting, upstream.ErrUnavailable))
	}
	if c.o.TLS != TLSStartTLS {
		return stream, append(c.presume(line), rest...), nil
	}
	if len(rest) > 0 {
		return nil, nil, fmt.Errorf("greeting: %w", errInjected)
	}
	if stream, err = c.startTLS(ctx, socket); err != nil {
		return nil, nil, err
	}
	return stream, c.presume([]byte("* OK encrypted\r\n")), nil // the library asks for capabilities then, unless it is told
}

var errInjected = errors.New("plaintext where there should be none")

// startTLS encrypts a plaintext connection. The one line that it accepts is
// the answer to its command, and nothing may follow it: whatever else comes
// before TLS may come from anybody. RFC 9051 section 6.2.1.
func (c *conn) startTLS(ctx context.Context, socket net.Conn) (net.Conn, error) {
	tag := "P" + rand.Text()[:8] // not to be guessed, so not to be answered early
	if _, err := socket.Write([]byte(tag + " STARTTLS\r\n")); err != nil {
		return nil, fmt.Errorf("starttls: %w", err)
	}
	line, rest, err := readLine(socket)
	if err != nil {
		return nil, fmt.Errorf("starttls: %w", err)
	}
	s, ok := parseStatus(line)
	if !ok || s.tag != tag {
		return nil, fmt.Errorf("starttls: response %s: %w", printable(trimEOL(line)), errInjected)
	}
	if s.kind != "OK" {
		return nil, fmt.Errorf("starttls: %w: %w", s, upstream.ErrUnavailable)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("starttls: %w", errInjected)
	}
	return c.encrypt(ctx, socket)
}

func (c *conn) encrypt(ctx context.Context, socket net.Conn) (net.Conn, error) {
	t := tls.Client(socket, c.o.TLSConfig)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	state := t.ConnectionState()
	c.tls = &state
	return t, nil
}

// readLine reads one line and returns what came with it. It is for the few
// lines before there is a guard.
func readLine(r io.Reader) (line, rest []byte, err error) {
	buf := make([]byte, 0, 4096)
	for len(buf) < cap(buf) {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if end := bytes.IndexByte(buf, '\n') + 1; end > 0 {
			return buf[:end:end], buf[end:], nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errTooLong
}
