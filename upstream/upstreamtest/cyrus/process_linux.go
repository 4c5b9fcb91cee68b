package cyrus

import (
	"os"
	"os/user"
	"syscall"
)

// attributes are those of a process that runs as the user that Cyrus runs as:
// in a session of its own, since at its end the master signals its whole group,
// and ended by the kernel should the test die.
func attributes(as *user.User) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if os.Getuid() == 0 {
		a.Credential = &syscall.Credential{Uid: uint32(number(as.Uid)), Gid: uint32(number(as.Gid))}
	}
	return a
}

// killGroup ends what is left of a process's group.
func killGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGKILL) }
