package proxy

import (
	"net"
	"net/netip"
	"time"
)

// The pause after a failure to accept doubles from the first to the longest.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
)

// accept takes connections from l until the listener is closed by Shutdown. No
// other error ends it: an accept that fails for want of file descriptors or
// memory works again when sessions have ended, and until then a pause keeps the
// loop from spinning.
func (s *Server) accept(l *listener) {
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		if err == nil {
			if pause > 0 {
				s.log.Info("accepting again", "listener", l.name)
				pause = 0
			}
			s.start(l, conn)
			continue
		}
		if s.isDraining() {
			return
		}
		if pause == 0 {
			s.log.Warn("cannot accept connections", "listener", l.name, "err", err)
		}
		pause = min(max(2*pause, firstPause), longestPause)
		time.Sleep(pause)
	}
}

// refusal is the greeting of a connection that is one too many. RFC 1939
// section 4 speaks of a positive greeting only; clients take another for a
// refusal, and tell it from a connection that failed.
const refusal = "-ERR [SYS/TEMP] too many connections\r\n"

// refuse closes a connection that a limit does not admit. A client of implicit
// TLS is only closed on: it could read an answer after a handshake, which costs
// more than the limit is there to save.
func (l *listener) refuse(conn net.Conn) {
	if l.wrap == nil {
		conn.SetDeadline(time.Now().Add(time.Second)) // an empty socket buffer takes it at once
		conn.Write([]byte(refusal))
	}
	conn.Close()
}

func (l *listener) tellRefused(limit string) {
	if l.refused != nil {
		l.refused(l.name, limit)
	}
}

// remoteOf returns the address that a connection comes from.
func remoteOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}
