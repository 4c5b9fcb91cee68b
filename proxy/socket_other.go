//go:build !linux

package proxy

import "syscall"

func socketOptions(_, _ string, _ syscall.RawConn) error { return nil }
