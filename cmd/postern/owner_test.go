//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/proxy/state"
)

// Root who tries the gateway by hand must not leave files that the service, which
// runs as somebody else, cannot open. What belongs to root serves root, whoever
// the directory belongs to.
func TestRootLeavesTheStateOfOthersAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to others")
	}
	config := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
`)
	dir := filepath.Join(filepath.Dir(config), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const root, nobody = 0, 65534
	own := func(path string, uid int) {
		t.Helper()
		if err := os.Chown(path, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
	refuses := func() {
		t.Helper()
		for _, command := range []string{"serve", "uidl accept --user ann@example.org"} {
			refused(t, "belongs to user 65534", append(strings.Fields(command), "-c", config)...)
		}
	}

	own(dir, nobody)
	refused(t, "belongs to user 65534", "serve", "-c", config)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("root left %v in somebody's directory, %v; want nothing", entries, err)
	}
	own(dir, root)
	store, err := state.Open(t.Context(), state.Options{Dir: dir, Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	own(filepath.Join(dir, "state.db"), nobody)
	refuses()
	own(dir, nobody)
	refuses()
	own(filepath.Join(dir, "state.db"), root)
	if err := checkOwner(dir); err != nil {
		t.Errorf("a state of root's in a directory of somebody's: %v", err)
	}
}
