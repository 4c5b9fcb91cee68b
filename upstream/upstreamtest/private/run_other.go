//go:build !linux

package private

import (
	"errors"
	"io"
	"os/exec"
)

type running struct {
	pid  int
	done chan struct{}
}

var errLinux = errors.New("private servers run on Linux only")

func (s *Server) runAs(*exec.Cmd)                 {}
func (s *Server) run(*exec.Cmd) (*running, error) { return nil, errLinux }
func (r *running) end()                           {}
func hold() (int, io.Closer, error)               { return 0, nil, errLinux }
