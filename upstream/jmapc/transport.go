package jmapc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"postern/upstream"
)

const (
	dialTimeout = 10 * time.Second // connect, and again for the TLS handshake
	// silence is how long a server may send nothing while something is read
	// (longer where connections wait longer than that to be used again), and
	// take nothing while something is written.
	silence = time.Minute
)

// newTransport returns the connections that all accounts of an upstream share.
// That is safe because HTTP credentials belong to a request, never to its
// connection (RFC 9110 section 11: stateless): every request carries its own,
// schemes that would bind to a connection (NTLM, Negotiate) and cookies are not
// spoken, and net/http drops a connection whose answer was not read to its end.
//
// It speaks HTTP/1.1 only. Downloads are then independent streams, none held up
// by another; HTTP/2 with several streams at once on one connection stalls
// Cyrus 3.6 for seconds (seen 2026-11).
func newTransport(o Options) *http.Transport {
	idle := max(silence-10*time.Second, o.Warm)
	d := dialer{config: o.TLSConfig.Clone(), hooks: o.Hooks, silence: idle + 10*time.Second, configured: o.configuredHost()}
	if d.config == nil {
		d.config = new(tls.Config)
	}
	d.config.NextProtos = []string{"http/1.1"}
	if d.config.ClientSessionCache == nil {
		d.config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:              protocols,
		DialContext:            d.plain,
		DialTLSContext:         d.tls,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        idle,
		ResponseHeaderTimeout:  silence,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// A dialer opens connections and tells the hooks of them.
type dialer struct {
	config  *tls.Config
	hooks   upstream.Hooks
	silence time.Duration // that a read bears
	// configured is the host that may have any address.
	configured string
}

func (d dialer) plain(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, network, address, func(_ context.Context, c net.Conn) (net.Conn, error) { return c, nil })
}

func (d dialer) tls(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, network, address, func(ctx context.Context, c net.Conn) (net.Conn, error) {
		config := d.config
		if config.ServerName == "" {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			config = config.Clone()
			config.ServerName = host
		}
		over := tls.Client(c, config)
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return over, over.HandshakeContext(ctx)
	})
}

func (d dialer) dial(ctx context.Context, network, address string, secure func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	began := time.Now()
	c, err := (&net.Dialer{Timeout: dialTimeout, Control: d.control(hostPart(address))}).DialContext(ctx, network, address)
	if err == nil {
		raw := c
		if c, err = secure(ctx, newPromptConn(raw, d.silence)); err != nil {
			raw.Close()
		}
	}
	if d.hooks.Connected != nil {
		d.hooks.Connected(time.Since(began), err)
	}
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: c, hooks: d.hooks}, nil
}

// A promptConn is a TCP connection that neither waits for ever nor makes the
// server wait: it bounds silence, and acknowledges at once what it reads.
//
// The latter matters where a server leaves Nagle's algorithm on, as Cyrus does:
// each answer that takes more than one write then waits some 40 ms for the
// acknowledgement that the system likes to delay.
type promptConn struct {
	net.Conn
	silence     time.Duration
	acknowledge func() // nil where the system cannot
}

func newPromptConn(c net.Conn, silence time.Duration) *promptConn {
	return &promptConn{Conn: c, silence: silence, acknowledge: quickAck(c)}
}

func (c *promptConn) Read(p []byte) (int, error) {
	if c.acknowledge != nil {
		c.acknowledge()
	}
	c.SetReadDeadline(time.Now().Add(c.silence))
	return c.Conn.Read(p)
}

// Write also gives a Read that waits since the last request its time anew.
func (c *promptConn) Write(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(silence))
	return c.Conn.Write(p)
}

// A countedConn tells the hooks what passes, inside TLS.
type countedConn struct {
	net.Conn
	hooks  upstream.Hooks
	closed sync.Once
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.hooks.Octets != nil {
		c.hooks.Octets(n, 0)
	}
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.hooks.Octets != nil {
		c.hooks.Octets(0, n)
	}
	return n, err
}

func (c *countedConn) Close() error {
	c.closed.Do(func() {
		if c.hooks.Disconnected != nil {
			c.hooks.Disconnected()
		}
	})
	return c.Conn.Close()
}
