package private

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A running program leads a group of processes. A guard, a process of its own,
// ends that group if this process dies first: killed or crashed, it can do so
// itself no more. (The kernel's own signal to the children of the dead reaches
// the program only, and a Cyrus master that gets it alone never ends.)
type running struct {
	pid   int
	done  chan struct{} // closed when the program has ended
	guard *exec.Cmd
	alive io.Closer // what the guard watches
}

const (
	// announce becomes the program, after it has told the guard its pid.
	announce = `echo $$ >&0 && exec "$0" "$@" </dev/null`

	// guard reads to the end of its input, which comes with that of whoever
	// holds the other end of the pipe.
	guard = `trap "" INT TERM HUP
read -r group || exit
read -r _
kill -TERM -"$group"
sleep 2
kill -KILL -"$group"
cd / && rm -rf -- "$0"`
)

// patience is how long a program may take to end by itself. Nothing that it
// could still write is needed any more, and some never end: a Cyrus master (3.6)
// to which somebody connects when its children have gone is told of that
// connection for ever, by a pselect(2) that then lets no signal through.
const patience = 2 * time.Second

func (s *Server) runAs(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		uid, gid := s.IDs()
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
}

func (s *Server) run(c *exec.Cmd) (*running, error) {
	watched, alive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer watched.Close()
	r := &running{done: make(chan struct{}), guard: s.Command("/bin/sh", "-c", guard, s.Dir), alive: alive}
	r.guard.Stdin = watched
	if err := r.guard.Start(); err != nil {
		alive.Close()
		return nil, err
	}
	c.Args = append([]string{"/bin/sh", "-c", announce, c.Path}, c.Args[1:]...)
	c.Path, c.Stdin = "/bin/sh", alive
	if err := c.Start(); err != nil {
		return nil, errors.Join(err, r.dismiss())
	}
	r.pid = c.Process.Pid
	go func() {
		c.Wait()
		close(r.done)
	}()
	return r, nil
}

// end ends the group, then the guard.
func (r *running) end() {
	syscall.Kill(-r.pid, syscall.SIGTERM) // some masters alone would take their time
	select {
	case <-r.done:
	case <-time.After(patience):
	}
	syscall.Kill(-r.pid, syscall.SIGKILL)
	<-r.done
	r.dismiss()
}

func (r *running) dismiss() error {
	defer r.alive.Close()
	r.guard.Process.Kill()
	r.guard.Wait() // says that it was killed
	return nil
}

// hold binds a socket to a free port without listening. Nobody else is given
// that port then, but who asks for it by number and has SO_REUSEADDR, as all
// servers do, gets it, since nobody listens there. See socket(7).
func hold() (port int, held io.Closer, err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "held port")
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var bound syscall.Sockaddr
	if err == nil {
		bound, err = syscall.Getsockname(fd)
	}
	if err != nil {
		file.Close()
		return 0, nil, os.NewSyscallError("bind", err)
	}
	return bound.(*syscall.SockaddrInet4).Port, file, nil
}
