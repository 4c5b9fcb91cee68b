package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// socketOptions prepares a listening socket; what it accepts inherits them.
//
// TCP_USER_TIMEOUT ends a connection whose peer acknowledges nothing for so
// long, where TCP alone would retransmit for a quarter of an hour. It also ends
// one whose peer acknowledges but takes nothing (a window of zero; measured on
// Linux 6), so that pop3.Limits.Write has no effect beyond it.
func socketOptions(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadPeer.Milliseconds()))
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
