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

// quiet is how long the log hears no more of connections that one limit turns
// away: a flood must not fill it.
const quiet = time.Minute

// A muted is what the log does not hear of a limit.
type muted struct {
	since    time.Time // the last line
	unlogged int       // connections turned away from then on
}

// logRefused lets an operator see whom a limit hits: with one address, all who
// share it. It is called by start, one at a time.
func (s *Server) logRefused(l *listener, limit string, remote netip.Addr) {
	m := l.muted[limit]
	if time.Since(m.since) < quiet {
		m.unlogged++
		l.muted[limit] = m
		return
	}
	s.log.Warn("connections turned away", "listener", l.name, "limit", limit, "remote", remote, "unlogged", m.unlogged)
	l.muted[limit] = muted{since: time.Now()}
}

// remoteOf returns the address that a connection comes from.
func remoteOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}
