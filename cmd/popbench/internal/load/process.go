package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// PSS is the memory of a process and its descendants in octets, pages shared
// with others counted in part. Linux only.
func PSS(pid int) (octets int64, err error) {
	for _, p := range family(pid) {
		n, err := pssOf(p)
		if err != nil && p == pid {
			return 0, err
		}
		octets += n // a child that has just ended counts as nothing
	}
	return octets, nil
}

func pssOf(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "Pss:" {
			kilo, err := strconv.ParseInt(f[1], 10, 64)
			return kilo << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of process %d", pid)
}

// CPU is the processor time that a process has used, its descendants not
// counted, in steps of 10 ms. Linux only.
func CPU(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	const user, system = 11, 12 // proc(5): fields 14 and 15, of which two come before f
	var ticks int64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on all that Go runs on
}

// stat returns the fields of /proc/pid/stat after the name of the program,
// which may hold anything: the state is first, then the parent.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat holds %q", pid, text)
	}
	return f, nil
}

// family returns a process and all its descendants.
func family(pid int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		child, _ := strconv.Atoi(filepath.Base(dir))
		if f, err := stat(child); err == nil {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
