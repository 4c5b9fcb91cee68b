package migrate

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// own gives a file to who has another one.
func own(t *testing.T, name string, other fs.FileInfo) {
	t.Helper()
	owner, ok := other.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	if err := os.Chown(name, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}
