package imapc

import (
	"bytes"
	"compress/flate"
	"context"
	"io"
	"math"
	"net"
	"slices"

	"github.com/emersion/go-imap/v2"
)

const capDeflate = imap.Cap("COMPRESS=DEFLATE")

// compress has the server compress what it sends from now on, where it offers
// that and it is asked for (RFC 4978). It costs a round trip, as nothing may be
// sent behind the command; so it is not done where the library may yet do that.
func (c *conn) compress(ctx context.Context) error {
	if !c.o.Compress || !c.told || !c.caps.Has(capDeflate) {
		return nil
	}
	defer c.during(ctx, c.answered())()
	q := newQuery("COMPRESS DEFLATE", ignore)
	q.deflates = true
	end := c.roundTrip()
	c.g.send(q)
	s, err := q.wait()
	end()
	if err != nil {
		return c.lost("compress", err)
	}
	if s.kind != "OK" {
		c.o.Log.Debug("not compressed", "err", s)
	}
	return nil
}

// deflate compresses the connection from here on. first was received behind the
// line that says so. Only the reader calls it.
func (g *guard) deflate(first []byte) {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conn = newDeflated(g.conn, first)
}

// A deflated connection is compressed on the way here only: what goes the other
// way are commands, not worth the half megabyte that a compressor takes, and goes
// in blocks that are stored as they are (RFC 1951 section 3.2.4), with an empty one
// behind them: some decompressors, Go's among them, wait for that.
//
// What comes out of it is held against the same limits as without compression, by
// the guard that reads from it, and no more of it is in memory than the 32 KiB
// that the format looks back.
type deflated struct {
	net.Conn
	r io.Reader
}

func newDeflated(conn net.Conn, first []byte) *deflated {
	return &deflated{conn, flate.NewReader(io.MultiReader(bytes.NewReader(first), conn))}
}

func (d *deflated) Read(p []byte) (int, error) { return d.r.Read(p) }

func (d *deflated) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+64)
	for block := range slices.Chunk(p, math.MaxUint16) {
		out = appendStored(out, block)
	}
	out = appendStored(out, nil)
	if _, err := d.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func appendStored(dst, block []byte) []byte {
	n := uint16(len(block))
	return append(append(dst, 0, byte(n), byte(n>>8), byte(^n), byte(^n>>8)), block...)
}
