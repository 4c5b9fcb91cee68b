//go:build !linux

package relay

import "net"

func newSleeper() sleeper { return plainSleeper{} }

func prompt(c net.Conn) conn { return c.(*net.TCPConn) }
