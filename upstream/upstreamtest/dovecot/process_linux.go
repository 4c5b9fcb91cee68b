package dovecot

import (
	"os"
	"os/user"
	"syscall"
)

// attributes are those of a process that runs as the user that Dovecot runs
// as: in a group of its own, and ended by the kernel should the test die.
func attributes(as *user.User) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if os.Getuid() == 0 {
		a.Credential = &syscall.Credential{Uid: uint32(number(as.Uid)), Gid: uint32(number(as.Gid))}
	}
	return a
}

// endGroup asks a process and its children to end. The master alone would wait
// a second for them.
func endGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGTERM) }
