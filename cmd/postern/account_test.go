package main

import (
	"os"
	"path/filepath"
	"testing"
)

// secretIn writes a file with a secret, and returns its name.
func secretIn(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAccountsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann.scans@provider.example", "there", 2)
	server.add(t, "bob@provider.example", "bob's own", 3)
	server.add(t, "ann@example.org", "ann's own", 4)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
accounts:
  - {user: Ann@example.org, upstream: office, upstream_user: "{local}.scans@provider.example", upstream_password_file: %q, password_file: %q}
routes:
  - {user: "*@closed.example", upstream: office, login: account}
  - {user: "*", upstream: office, upstream_user: "{local}@provider.example"}
`, server.address, secretIn(t, "there"), secretIn(t, "Scanner in the hall")))
	at := p.addresses(t)[0]
	account := dialPOP(t, at, nil)
	account.login("ann@EXAMPLE.org", "Scanner in the hall", "+OK")
	account.say("STAT", "+OK 2 ")
	account.say("QUIT", "+OK")

	route := dialPOP(t, at, nil)
	route.login("bob@example.org", "bob's own", "+OK")
	route.say("STAT", "+OK 3 ")
	route.say("QUIT", "+OK")

	for user, password := range map[string]string{
		"ann@example.org":    "ann's own", // the upstream's: an account never goes by a route
		"bob@closed.example": "bob's own",
	} {
		c := dialPOP(t, at, nil)
		c.login(user, password, "-ERR [AUTH] ")
		c.Close()
	}
}
