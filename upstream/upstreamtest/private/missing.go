package private

import (
	"os"
	"os/exec"
	"testing"
)

// Missing ends a test that cannot do without something, and says what: it is
// skipped, or fails where POSTERN_REAL is 1 and everything is to be there.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("POSTERN_REAL") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Program returns the path of a program that may be Missing.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "no "+name+" here: make test installs it")
	}
	return path
}
