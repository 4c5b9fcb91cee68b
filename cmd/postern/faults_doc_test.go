package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	faultRow  = regexp.MustCompile(`(?m)^\| ([UCHS][0-9]+) \|`)
	faultTest = regexp.MustCompile(`(?m)^func TestFault((?:[A-Z][0-9]+)+)[A-Z]`)
	faultName = regexp.MustCompile(`[A-Z][0-9]+`)
	anyTest   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	namedTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
)

// Each row of docs/faults.md has a test that is named after it, and each test
// that is named there is one.
func TestFaultTableIsTested(t *testing.T) {
	tested, tests := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range anyTest.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		for _, m := range faultTest.FindAllSubmatch(text, -1) {
			for _, row := range faultName.FindAllString(string(m[1]), -1) {
				tested[row] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := faultRow.FindAllSubmatch(read(t, "../../docs/faults.md"), -1)
	if len(rows) < 40 {
		t.Errorf("docs/faults.md: found %d rows, want at least 40", len(rows))
	}
	for _, m := range rows {
		if row := string(m[1]); !tested[row] {
			t.Errorf("no test has %s in its name: want func TestFault%s...", row, row)
		}
	}
	named := namedTest.FindAllSubmatch(read(t, "../../docs/faults.md"), -1)
	if len(named) < 20 {
		t.Errorf("docs/faults.md: found the names of %d tests, want at least 20", len(named))
	}
	for _, m := range named {
		if name := string(m[1]); !tests[name] {
			t.Errorf("docs/faults.md names %s, which is no test", name)
		}
	}
}
