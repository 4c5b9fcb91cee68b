//go:build unix

package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// claim keeps a second server out of the directory. The kernel lifts the lock
// when the process ends, however it does.
func claim(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another postern serves from it")
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// opening keeps other processes from opening the files of a directory until
// the caller is done: SQLite waits for no lock while it turns a file to WAL,
// it refuses. A file system that knows no such lock goes without.
func opening(dir string) (done func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {} // what is opened next tells why
	}
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return func() { f.Close() }
		}
	}
}
