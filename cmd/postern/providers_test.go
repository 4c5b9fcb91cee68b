package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/cmd/internal/config"
	"postern/upstream/provider"
)

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// The configurations on the pages about providers are right, but for the files
// that they name, which a reader has.
func TestProviderPages(t *testing.T) {
	for page, want := range map[string]int{"gmail.md": 3, "microsoft365.md": 2, "fastmail.md": 2, "scanner.md": 1} {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		blocks := yamlBlock.FindAllStringSubmatch(string(text), -1)
		if len(blocks) != want {
			t.Errorf("%s has %d configurations, want %d", page, len(blocks), want)
		}
		for i, block := range blocks {
			_, err := config.Load(writeConfig(t, "%s", block[1]), checkUIDL)
			var faults config.Faults
			if err != nil && !errors.As(err, &faults) {
				t.Errorf("%s, configuration %d: %v", page, i, err)
			}
			for _, f := range faults {
				if !strings.Contains(f.Text, "no such file") {
					t.Errorf("%s, configuration %d: %v", page, i, f)
				}
			}
		}
	}
}

// Every page that a provider names is there, and README has every provider.
func TestProvidersAreDocumented(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range provider.Names() {
		p, _ := provider.Find(name)
		if p.Docs != "" {
			if _, err := os.Stat(filepath.Join("../../docs", p.Docs)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if known, _, _ := strings.Cut(name, "-"); name != "generic" && !strings.Contains(string(readme), known) {
			t.Errorf("README does not tell of %s", name)
		}
	}
}
