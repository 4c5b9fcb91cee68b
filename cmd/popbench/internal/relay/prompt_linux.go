package relay

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A promptConn acknowledges at once what it receives. Otherwise a server that
// leaves Nagle's algorithm on, as Cyrus does, would wait up to 40 ms for the
// relay, and not for whom it is to be told apart from.
type promptConn struct {
	*net.TCPConn
	raw syscall.RawConn
}

func prompt(c net.Conn) conn {
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return tcp
	}
	return &promptConn{tcp, raw}
}

func (c *promptConn) Read(b []byte) (int, error) {
	// The kernel forgets it, so it is said each time; if it cannot be said,
	// the connection is only slower.
	c.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	return c.TCPConn.Read(b)
}
