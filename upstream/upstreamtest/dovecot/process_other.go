//go:build !linux

package dovecot

import (
	"os"
	"os/user"
	"syscall"
)

// Dovecot gets its sockets in the way of systemd, so there is none to start.

func attributes(*user.User) *syscall.SysProcAttr { return nil }

func endGroup(p *os.Process) { p.Kill() }
