package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newTerminal returns both sides of a pseudo-terminal: what a person types on,
// and what a program reads.
func newTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// Whoever just presses Enter has not chosen the empty password.
func TestAskPassword(t *testing.T) {
	for typed, want := range map[string]string{"secret\n": "", "\n": "no password was typed"} {
		person, terminal := newTerminal(t)
		var said strings.Builder
		p := &program{in: terminal, err: &said, drain: t.Context()}
		if _, err := person.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		got, err := p.askPassword("ann")
		if want == "" && (err != nil || got.Reveal() != "secret") {
			t.Errorf("%q typed: %q, %v; want it", typed, got.Reveal(), err)
		}
		if want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%q typed: error %v, want %s", typed, err, want)
		}
		if said.String() != "Password of ann: \n" {
			t.Errorf("asked %q", &said)
		}
	}
}
