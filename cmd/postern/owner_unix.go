//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// keepOwner gives f the owner of the file that it is to replace.
func keepOwner(f *os.File, of fs.FileInfo) error {
	if s, ok := of.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return f.Chown(int(s.Uid), int(s.Gid))
	}
	return nil
}

// shareWithGroup lets the group of a directory read a new file in it, if root
// makes it: that is how a service reads what it must not change.
func shareWithGroup(f *os.File, dir fs.FileInfo) error {
	s, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || s.Gid == 0 {
		return nil
	}
	return errors.Join(f.Chown(0, int(s.Gid)), f.Chmod(0o640))
}

// checkOwner keeps root from leaving files in the state that a gateway which runs
// as somebody else cannot write to.
func checkOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Join(dir, "state.db"))
	if err != nil { // there is nothing of anybody's yet
		info, err = os.Stat(dir)
	}
	if err != nil {
		return nil
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
		return fmt.Errorf("the state in %s belongs to user %d, and what root writes there would be out of its reach: run this as that user, with sudo -u '#%[2]d'", dir, s.Uid)
	}
	return nil
}
