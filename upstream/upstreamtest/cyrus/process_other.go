//go:build !linux

package cyrus

import (
	"os"
	"os/user"
	"syscall"
)

// There is no Cyrus to start: install.sh is for Debian.

func attributes(*user.User) *syscall.SysProcAttr { return nil }

func killGroup(*os.Process) {}
