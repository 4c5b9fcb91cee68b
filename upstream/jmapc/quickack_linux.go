package jmapc

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck returns a function that acknowledges what c has received and will
// receive next at once. Linux falls back to delaying by itself, so it is called
// before each read (tcp(7), TCP_QUICKACK).
func quickAck(c net.Conn) func() {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	set := func(fd uintptr) {
		// Failing costs speed only.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	}
	return func() { _ = raw.Control(set) }
}
