package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is which of postern's packages each of them may import: those below
// it, never those beside it or above. Tests may import upstreamtest, too.
var allowed = map[string][]string{
	"cmd/postern": {"cmd/internal/config", "cmd/internal/demo", "cmd/internal/logsink", "cmd/internal/migrate", "proxy", "proxy/accounts", "proxy/admin", "proxy/auth", "proxy/consent", "proxy/ledger",
		"proxy/metrics", "proxy/notice", "proxy/pop3", "proxy/retention", "proxy/state", "proxy/vault", "upstream", "upstream/imapc", "upstream/jmapc", "upstream/oauth", "upstream/provider", "upstream/spool"},
	"cmd/internal/config":  {"upstream/provider"},
	"cmd/internal/demo":    {},
	"cmd/internal/logsink": {},
	"cmd/internal/migrate": {"proxy/ledger", "upstream"},

	"proxy":           {"proxy/pop3", "upstream"},
	"proxy/admin":     {"proxy/pop3", "proxy/web", "upstream"},
	"proxy/auth":      {"proxy/pop3", "upstream"},
	"proxy/metrics":   {"proxy/pop3", "upstream"},
	"proxy/ledger":    {"proxy/state", "upstream"},
	"proxy/retention": {"proxy/state", "upstream"},
	"proxy/accounts":  {"proxy/auth", "proxy/pop3", "proxy/state", "proxy/vault", "upstream"},
	"proxy/vault":     {"proxy/state", "upstream"},
	"proxy/state":     {"upstream"},
	"proxy/notice":    {"upstream"},
	"proxy/consent":   {"proxy/web", "upstream"},
	"proxy/web":       {},
	"proxy/pop3":      {"upstream"},

	"upstream":          {},
	"upstream/imapc":    {"upstream", "upstream/spool"},
	"upstream/jmapc":    {"upstream", "upstream/spool"},
	"upstream/oauth":    {"upstream"},
	"upstream/provider": {},
	"upstream/spool":    {},

	// Equipment for tests, which no program imports.
	"proxy/state/statetest": {"proxy/state", "upstream"},
	"upstream/upstreamtest": {"upstream"},
}

// foreign is what some packages may import of other people's: the protocol code
// knows no IMAP, JMAP, Prometheus, YAML or SQL.
var foreign = map[string][]string{
	"upstream":          {},
	"upstream/oauth":    {"golang.org/x/"},
	"upstream/provider": {},
	"upstream/spool":    {},
	"proxy/pop3":        {"golang.org/x/"},
	"proxy/auth":        {"golang.org/x/", "github.com/xdg-go/scram"},
	"proxy":             {"golang.org/x/"},
}

// A goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportsGoDownOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "postern/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for packages := json.NewDecoder(bytes.NewReader(out)); ; seen++ {
		var p goPackage
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		checkImports(t, strings.TrimPrefix(p.ImportPath, "postern/"), p.Imports)
	}
	if seen < len(allowed) {
		t.Errorf("go list tells of %d packages, want at least %d", seen, len(allowed))
	}
}

func checkImports(t *testing.T, name string, imports []string) {
	ours, known := allowed[name]
	if !known && isTool(name) {
		return
	}
	if !known {
		t.Errorf("%s is not in the picture: say in this test what it may import", name)
		return
	}
	others, restricted := foreign[name]
	for _, i := range imports {
		inside, isOurs := strings.CutPrefix(i, "postern/")
		if isOurs && !slices.Contains(ours, inside) {
			t.Errorf("%s must not import %s", name, inside)
		}
		isStandard := !strings.Contains(strings.SplitN(i, "/", 2)[0], ".")
		if restricted && !isOurs && !isStandard && !slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(i, o) }) {
			t.Errorf("%s must not import %s", name, i)
		}
	}
}

// isTool tells whether a package is a program or test equipment of its own,
// which nothing that is shipped imports.
func isTool(name string) bool {
	return strings.HasPrefix(name, "cmd/popbench") || strings.HasPrefix(name, "upstream/upstreamtest/")
}
