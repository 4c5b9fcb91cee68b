// Package private runs mail servers and other programs for tests and
// measurements, beside whatever the machine may run of them as a service: each
// with a directory, an account and ports of its own. None outlives whoever
// started it, however that comes to its end. Linux only.
package private

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// A Server is a program with what it needs. Its methods are called one after
// the other.
type Server struct {
	Dir string     // it is the account's, and goes at the end
	As  *user.User // who the program runs as

	held    []io.Closer // its ports
	running *running    // nil before Start
}

// New makes the directory of a server, below one that the account may enter;
// empty means that for temporary files. Where this process is root's, the
// server will run as the account: mail servers refuse to be root.
func New(below, name, account string) (*Server, error) {
	as, err := user.Current()
	if err == nil && as.Uid == "0" && account != "" {
		as, err = user.Lookup(account)
	}
	if err != nil {
		return nil, fmt.Errorf("whom %s runs as: %w", name, err)
	}
	// The name is short: that of a socket in it has at most 108 octets.
	dir, err := os.MkdirTemp(below, name)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, As: as}
	return s, errors.Join(os.Chmod(dir, 0o755), s.own(dir))
}

// IDs are the numbers of the account.
func (s *Server) IDs() (uid, gid int) {
	uid, _ = strconv.Atoi(s.As.Uid) // from the user database, so it is one
	gid, _ = strconv.Atoi(s.As.Gid)
	return uid, gid
}

func (s *Server) own(path string) error {
	if os.Getuid() != 0 {
		return nil
	}
	uid, gid := s.IDs()
	return os.Lchown(path, uid, gid)
}

// MakeDirs makes directories below the server's own.
func (s *Server) MakeDirs(names ...string) error {
	for _, name := range names {
		path := filepath.Join(s.Dir, name)
		if err := errors.Join(os.Mkdir(path, 0o755), s.own(path)); err != nil {
			return err
		}
	}
	return nil
}

// Write writes a file in the server's directory.
func (s *Server) Write(name, text string) error {
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return s.own(path)
}

// Hold sets each address to a port of 127.0.0.1 that nobody else gets until the
// server ends, and that the server can listen on.
func (s *Server) Hold(addresses ...*string) error {
	for _, a := range addresses {
		port, held, err := hold()
		if err != nil {
			return fmt.Errorf("hold a port: %w", err)
		}
		s.held = append(s.held, held)
		*a = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return nil
}

// Command returns a command that runs as the account, in the directory.
func (s *Server) Command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = s.Dir
	s.runAs(c)
	return c
}

const logName = "log"

// Start starts the program. What it prints goes to its log, which it may write
// to itself as Dir/log.
func (s *Server) Start(c *exec.Cmd) (err error) {
	log, err := os.OpenFile(filepath.Join(s.Dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := s.own(log.Name()); err != nil {
		return err
	}
	s.running, err = s.run(c)
	return err
}

// Log is the end of what the program has said.
func (s *Server) Log() string {
	const most = 100_000
	text, err := os.ReadFile(filepath.Join(s.Dir, logName))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// PID is the program's. It runs.
func (s *Server) PID() int { return s.running.pid }

// Await waits until the server is ready, as check tells.
func (s *Server) Await(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-s.running.done:
			return fmt.Errorf("ended before it was ready: %s", s.Log())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %s", err, s.Log())
		case <-tick.C:
		}
	}
}

// Greets tells whether what listens at address says want to whoever says hello.
func Greets(address, hello, want string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, hello) // an error comes back from the read
	got := make([]byte, len(want))
	if _, err = io.ReadFull(conn, got); err == nil && string(got) != want {
		err = fmt.Errorf("%s says %q, not %q", address, got, want)
	}
	return err
}

// End ends the program with all that it has started, and removes the directory.
func (s *Server) End() {
	if s.running != nil {
		s.running.end()
	}
	for _, h := range s.held {
		h.Close()
	}
	s.running, s.held = nil, nil
	os.RemoveAll(s.Dir)
}
