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
)

// Each row of docs/faults.md has a test that is named after it.
func TestFaultTableIsTested(t *testing.T) {
	tested := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
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
}
