package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// A process is a server that this program started, and ends.
type process struct {
	name string
	log  string // file with its output
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a server as an account, or as this program where that is nil. Its
// output goes to a file in dir.
func start(dir string, as *user.User, name string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".out"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := exec.Command(name, args...)
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if as != nil && os.Getuid() == 0 {
		uid, gid := ids(as)
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	p := &process{name, log.Name(), c, make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal comes when this thread ends, so it has to last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.Start()
		started <- err
		if err == nil {
			c.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process and waits for it.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// ready waits until the process accepts connections and, where it is one that
// does, greets.
func (p *process) ready(ctx context.Context, address string, greets bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := probe(address, greets)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s %w: %s", p.name, errEnded, p.output())
		case <-ctx.Done():
			return fmt.Errorf("%s at %s: %w", p.name, address, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// output is the last that the process wrote.
func (p *process) output() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-1000):])
}

func probe(address string, greets bool) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !greets {
		return nil
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// freeAddresses sets each to an address on loopback that nobody listens on, no
// two the same.
func freeAddresses(addresses ...*string) error {
	for _, a := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		*a = l.Addr().String()
	}
	return nil
}

var errEnded = errors.New("ended before it was ready")

// withRetry calls start again where a server ended at once: somebody else may
// have taken a port after it was found to be free.
func withRetry(start func() error) (err error) {
	for range 3 {
		if err = start(); !errors.Is(err, errEnded) {
			return err
		}
	}
	return err
}

// mailUser is who a mail server runs as: root leaves that to the user mail.
func mailUser() (*user.User, error) {
	if os.Getuid() == 0 {
		return user.Lookup("mail")
	}
	return user.Current()
}

// ids are the numbers of an account; the user database has nothing else there.
func ids(u *user.User) (uid, gid int) {
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}
