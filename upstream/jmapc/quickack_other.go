//go:build !linux

package jmapc

import "net"

// quickAck returns nil: only Linux lets a program ask for it.
func quickAck(net.Conn) func() { return nil }
