package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/cmd/internal/config"
	"postern/proxy/state"
)

// secretIn writes a file with a secret, and returns its name.
func secretIn(t testing.TB, text string) string {
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

// vaultConfig is a gateway to a server, with a vault whose key is in the file
// vault.key beside it, and nobody let in but by an account.
func vaultConfig(t *testing.T, server *memoryIMAP) (path, key string) {
	t.Helper()
	path = writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
vault: {key_file: vault.key}
routes: [{user: "*", upstream: office, login: account}]
`, server.address)
	return path, filepath.Join(filepath.Dir(path), "vault.key")
}

// The password of a device outlives its account. Where a route takes everybody,
// that is said when the account is removed, and what postern made goes nowhere.
func TestRemovedAccountUnderARouteForAll(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	config, _ := vaultConfig(t, server)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), ", login: account", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "vault", "new-key", "-c", config)
	at := spawn(t, "serve", "-c", config).addresses(t)[0]
	said := command(t, "account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "there"))
	password := regexp.MustCompile(`password +([a-z0-9 ]+)`).FindStringSubmatch(said)[1]
	server.add(t, "hall", strings.ReplaceAll(password, " ", ""), 2) // what would be let in if it were asked
	if said := command(t, "account", "remove", "hall", "-c", config, "--yes"); !strings.Contains(said, "The route * takes that user now") {
		t.Errorf("account remove says\n%s\nwant a word about the route", said)
	}
	for _, typed := range []string{password, strings.ReplaceAll(password, " ", "")} {
		c := dialPOP(t, at, nil)
		c.login("hall", typed, "-ERR [AUTH] wrong user name or password")
		c.Close()
	}
}

// command runs a command that has to succeed, and returns what it prints.
func command(t testing.TB, args ...string) string {
	t.Helper()
	code, out, err := runHere("", args...)
	if code != exitFine {
		t.Fatalf("postern %s: exit code %d and\n%s", strings.Join(args, " "), code, err)
	}
	return out
}

// refused runs a command that has to fail, and say that.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	if code, out, err := runHere("", args...); code == exitFine || !strings.Contains(err, want) {
		t.Errorf("postern %s: exit code %d, %q and %q, want it to fail with %q", strings.Join(args, " "), code, out, err, want)
	}
}

var shownPassword = regexp.MustCompile(`(?m)^  password +((?:[a-z2-9]{4} ){6}[a-z2-9]{4})$`)

// passwordIn finds the password that a command shows.
func passwordIn(t testing.TB, out string) string {
	t.Helper()
	found := shownPassword.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no password is shown:\n%s", out)
	}
	return found[1]
}

// The life of an account, all of it beside a gateway that runs.
func TestAccountCommands(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "scans@example.org", "there", 2)
	config, key := vaultConfig(t, server)
	refused(t, "postern vault new-key", "account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "there"))
	command(t, "vault", "new-key", "-c", config)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file %v, %v; want 0600", info.Mode(), err)
	}
	p := spawn(t, "serve", "-c", config)
	at := p.addresses(t)[0]
	in := func(password string) {
		t.Helper()
		c := dialPOP(t, at, nil)
		c.login("HALL", password, "+OK")
		c.say("STAT", "+OK 2 ")
		c.say("QUIT", "+OK")
	}
	out := func(password string) {
		t.Helper()
		c := dialPOP(t, at, nil)
		c.login("hall", password, "-ERR [AUTH] wrong user name or password")
		c.Close()
	}

	said := command(t, "account", "add", "Hall", "-c", config, "--upstream-user", "scans@example.org", "--upstream-password-file", secretIn(t, "there"))
	for _, want := range []string{"The account Hall is made, at office.", "  server     127.0.0.1, port 0, no encryption", "  user name  Hall", "not shown again"} {
		if !strings.Contains(said, want) {
			t.Errorf("account add says\n%s\nwant %q in it", said, want)
		}
	}
	first := passwordIn(t, said)
	in(first)
	in(strings.ReplaceAll(first, " ", ""))
	refused(t, "there is an account hall already", "account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "x"))

	second := passwordIn(t, command(t, "account", "password", "hall", "-c", config, "--label", "desk", "--network", "127.0.0.1"))
	refused(t, `hall has a password "desk" already`, "account", "password", "hall", "-c", config, "--label", "desk")
	refused(t, "cannot both be standard input", "account", "add", "hall", "-c", config, "--password-file", "-", "--upstream-password-file", "-")
	third := passwordIn(t, command(t, "account", "password", "hall", "-c", config, "--label", "far", "--network", "192.0.2.0/24"))
	in(second)
	out(third)
	command(t, "account", "password", "hall", "-c", config, "--revoke", "client")
	refused(t, "has no password with the label", "account", "password", "hall", "-c", config, "--revoke", "client")
	out(first)
	in(second)

	// The password upstream changes there first.
	server.add(t, "moved@example.org", "renewed", 2)
	refused(t, "there is no account nobody", "account", "password", "nobody", "-c", config, "--upstream", "--password-file", secretIn(t, "x"))
	command(t, "account", "password", "hall", "-c", config, "--upstream", "--password-file", secretIn(t, "wrong there"))
	c := dialPOP(t, at, nil)
	c.login("hall", second, "-ERR [SYS/PERM] ") // it is not the client's password that is wrong
	c.say("QUIT", "+OK")
	command(t, "account", "password", "hall", "-c", config, "--upstream", "--password-file", secretIn(t, "there"))
	in(second)

	command(t, "account", "disable", "hall", "-c", config)
	out(second)
	command(t, "account", "enable", "hall", "-c", config)
	in(second)

	p.Process.Signal(syscall.SIGTERM)
	p.end(t)
	var line accountLine
	if err := json.Unmarshal([]byte(command(t, "account", "list", "-c", config, "--json")), &line); err != nil {
		t.Fatal(err)
	}
	if line.User != "hall" || line.Login != "scans@example.org" || line.Credential != "password" || line.State != "fine" || len(line.Passwords) != 2 ||
		line.Passwords[0].Used == nil || line.Passwords[1].Used != nil {
		t.Errorf("account list --json: %+v, want hall with two passwords, the first of them used", line)
	}
	table := command(t, "account", "list", "-c", config)
	for _, want := range []string{"USER  KEPT IN", "hall  state", "desk", "127.0.0.1/32", "192.0.2.0/24"} {
		if !strings.Contains(table, want) {
			t.Errorf("account list says\n%s\nwant %q in it", table, want)
		}
	}

	refused(t, "give --yes", "account", "remove", "hall", "-c", config)
	command(t, "account", "remove", "hall", "-c", config, "--yes")
	refused(t, "there is no account hall", "account", "remove", "hall", "-c", config, "--yes")
	if got := command(t, "account", "list", "-c", config, "--json"); got != "" {
		t.Errorf("after the removal: %s", got)
	}
	for _, secret := range []string{"there", first, second} {
		if strings.Contains(p.output(), secret) && secret != "there" {
			t.Errorf("the log tells a password:\n%s", p.output())
		}
	}
}

// What an administrator takes away is taken from open sessions, too.
func TestAccountCommandsAndOpenSessions(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "hall", "there", 3)
	config, _ := vaultConfig(t, server)
	command(t, "vault", "new-key", "-c", config)
	at := spawn(t, "serve", "-c", config).addresses(t)[0]
	add := []string{"account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "there")}
	password := passwordIn(t, command(t, add...))
	for _, take := range [][]string{
		{"account", "disable", "hall"},
		{"account", "password", "hall", "--revoke", "client"},
		{"account", "remove", "hall", "--yes"},
	} {
		c := dialPOP(t, at, nil)
		c.login("hall", password, "+OK")
		c.say("DELE 1", "+OK")
		command(t, append(take, "-c", config)...)
		c.say("QUIT", "-ERR [SYS/PERM] 1 of 1 deleted messages not removed")
		c.expectEnd()
		if n := server.messages(t, "hall"); n != 3 {
			t.Errorf("%q, with a session open: %d messages are left, want 3", take, n)
		}
		switch take[1] {
		case "disable":
			command(t, "account", "enable", "hall", "-c", config)
		case "password":
			password = passwordIn(t, command(t, "account", "password", "hall", "-c", config))
		}
	}
}

// S7: a key that is missing, or another one, keeps the gateway from starting, as
// long as anything is sealed; and so does a configuration that names none.
func TestFaultS7KeyMissingOrWrong(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "hall", "there", 1)
	config, key := vaultConfig(t, server)
	command(t, "vault", "new-key", "-c", config)
	password := passwordIn(t, command(t, "account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "there")))
	right, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	without := filepath.Join(filepath.Dir(config), "without.yaml")
	if err := os.WriteFile(without, []byte(strings.Replace(string(text), "vault: {key_file: vault.key}", "accounts: [{user: x, upstream: office, upstream_password_file: vault.key, password_file: vault.key}]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "the configuration names no vault", "serve", "-c", without)
	refused(t, "the configuration names no vault", "check", "-c", without)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	refused(t, "vault.key: no such file", "serve", "-c", config)
	command(t, "vault", "new-key", "-c", config) // in place of the one that was lost
	refused(t, "Put the missing key back", "serve", "-c", config)
	refused(t, "Put the missing key back", "check", "-c", config)
	refused(t, "Put the missing key back", "account", "password", "hall", "-c", config)
	wrong, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, append(wrong, right...), 0o600); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, "serve", "-c", config)
	c := dialPOP(t, p.addresses(t)[0], nil)
	c.login("hall", password, "+OK")
	c.say("QUIT", "+OK")
}

// What seals and opens nothing needs no key: somebody who has to lock a device out
// may be where the key is not, or have lost it.
func TestLockingOutNeedsNoKey(t *testing.T) {
	t.Parallel()
	config, key := vaultConfig(t, startIMAP(t, nil))
	command(t, "vault", "new-key", "-c", config)
	command(t, "account", "add", "hall", "-c", config, "--upstream-password-file", secretIn(t, "there"))
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	refused(t, "vault.key: no such file", "account", "password", "hall", "-c", config)
	for _, args := range [][]string{
		{"account", "disable", "hall"},
		{"account", "enable", "hall"},
		{"account", "password", "hall", "--revoke", "client"},
		{"account", "remove", "hall", "--yes"},
	} {
		command(t, append(args, "-c", config)...)
	}
	command(t, "vault", "new-key", "-c", config)
	command(t, "check", "-c", config) // nothing is left that the lost key has sealed
}

// S7: keys change while the gateway runs, and the old one can go in the end.
func TestFaultS7Rekey(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	config, key := vaultConfig(t, server)
	command(t, "vault", "new-key", "-c", config)
	var passwords []string
	for _, user := range []string{"ann", "bob", "carl"} {
		server.add(t, user, "there", 1)
		passwords = append(passwords, passwordIn(t, command(t, "account", "add", user, "-c", config, "--keep-text", "--upstream-password-file", secretIn(t, "there"))))
	}
	p := spawn(t, "serve", "-c", config)
	at := p.addresses(t)[0]
	in := func(at, user, password string) {
		t.Helper()
		c := dialPOP(t, at, nil)
		c.login(user, password, "+OK")
		c.say("QUIT", "+OK")
	}
	in(at, "ann", passwords[0])
	if said := command(t, "vault", "new-key", "-c", config); !strings.Contains(said, "postern rekey") {
		t.Errorf("a second key says %q, want what to do next", said)
	}
	in(at, "bob", passwords[1])
	said := command(t, "rekey", "-c", config)
	if !strings.Contains(said, "6 secrets sealed anew") || !strings.Contains(said, "can be taken away") {
		t.Errorf("rekey says %q, want six secrets, and that the old key can go", said)
	}
	in(at, "carl", passwords[2]) // by the gateway that began with the old key alone
	if said := command(t, "rekey", "-c", config); !strings.Contains(said, "0 secrets") {
		t.Errorf("a second rekey says %q, want nothing to do", said)
	}
	p.Process.Signal(syscall.SIGTERM)
	p.end(t)
	keys, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(keys), "\n")
	if err := os.WriteFile(key, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = spawn(t, "serve", "-c", config)
	in(p.addresses(t)[0], "ann", passwords[0])
}

// An account that takes tokens says whether there are any.
func TestAccountListTellsOfConsent(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {gmail: {provider: gmail, oauth: {client_id: x}}}
vault: {key_file: vault.key}
accounts: [{user: bob, upstream: gmail, password_file: %q}]
`, secretIn(t, "bob's"))
	command(t, "vault", "new-key", "-c", path)
	said := command(t, "account", "add", "ann@gmail.com", "-c", path)
	if !strings.Contains(said, "postern account connect ann@gmail.com") {
		t.Errorf("account add says\n%s\nwant to hear of consent", said)
	}
	table := func(want ...string) {
		t.Helper()
		got := command(t, "account", "list", "-c", path)
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(got) {
				t.Errorf("account list says\n%s\nwant %s in it", got, w)
			}
		}
	}
	table(`(?m)^bob .* oauth +consent missing `, `(?m)^ann@gmail.com .* oauth +consent missing `)
	store, err := state.Open(t.Context(), state.Options{Dir: stateOf(t, path)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c, err := config.Load(path, checkUIDL)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"ann@gmail.com", "bob"} {
		if err := store.SaveSecret(t.Context(), 0, state.Sealed{Name: grantOf(c, user), Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.LoseConsent(t.Context(), "ann@gmail.com"); err != nil {
		t.Fatal(err)
	}
	table(`(?m)^bob .* oauth +fine `, `(?m)^ann@gmail.com .* oauth +consent lost 20`)

	// Bob is taken to another provider, which is not shown what Google gave.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.NewReplacer("{user: bob, upstream: gmail", "{user: bob, upstream: outlook", "upstreams: {", "upstreams: {outlook: {provider: outlook, oauth: {client_id: y}}, ").Replace(string(text))
	if err := os.WriteFile(path, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	table(`(?m)^bob .* outlook .* oauth +consent missing `)
}

// Commands about a user's mail find an account's, under its name upstream, and
// log in there with what postern keeps.
func TestCommandsKnowAccounts(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "scans", "there", 3)
	server.folder(t, "scans", "Trash")
	config := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
vault: {key_file: vault.key}
routes:
  - {user: "*", upstream: office, login: account, delete: archive, archive_folder: Trash}
`, server.address)
	command(t, "vault", "new-key", "-c", config)
	password := passwordIn(t, command(t, "account", "add", "Hall", "-c", config, "--upstream-user", "scans", "--upstream-password-file", secretIn(t, "there")))
	p := spawn(t, "serve", "-c", config)
	c := dialPOP(t, p.addresses(t)[0], nil)
	c.login("hall", password, "+OK")
	c.say("DELE 2", "+OK")
	c.say("QUIT", "+OK")
	c.expectEnd()
	if got := command(t, "removals", "-c", config, "--user", "HALL"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "kept") {
		t.Errorf("removals says\n%s\nwant the one message", got)
	}
	if got := command(t, "undelete", "-c", config, "--user", "hall"); got != "1 message brought back.\n" {
		t.Errorf("undelete says %q, want one message, and to be asked nothing", got)
	}
	if n := server.messages(t, "scans"); n != 3 {
		t.Errorf("%d messages upstream, want all three again", n)
	}
	got := command(t, "check", "-c", config, "--connect", "--user", "hall")
	for _, want := range []string{"in the state", "1 account", "*  office, for accounts only", "office, as scans", "3 messages"} {
		if !strings.Contains(got, want) {
			t.Errorf("check says\n%s\nwant %q in it", got, want)
		}
	}
	command(t, "uidl", "accept", "-c", config, "--user", "hall")
	refused(t, "is for accounts only", "uidl", "accept", "-c", config, "--user", "nobody")
	command(t, "account", "disable", "hall", "-c", config)
	refused(t, "the account is disabled", "check", "-c", config, "--connect", "--user", "hall")
}

// Two mailboxes never share a ledger of unique-ids, and one has the same
// whichever way a client gets there.
func TestLedgerAccount(t *testing.T) {
	c, err := config.Load(writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams:
  office: {protocol: imap, address: "imap.example.org:993"}
  shop: {protocol: imap, address: "imap.example.net:993"}
vault: {key_file: vault.key}
routes:
  - {user: "*@example.org", upstream: office}
  - {user: "a*", upstream: shop}
`), checkUIDL)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ upstream, login, want string }{
		{"office", "Bob@Example.org", "bob@example.org"},
		{"shop", "bob@example.org", "bob@example.org"}, // moved there
		{"shop", "Ann", "ann"},                         // as who has no account
		{"office", "ann", "office\x00ann"},
		{"office", "bob", "office\x00bob"},
		{"shop", "bob", "shop\x00bob"},
		{"shop", "a bob", "a bob"},
		{"office", "\u212aim@example.org", "\u212aim@example.org"}, // a Kelvin sign: looks like kim, and is somebody else
	} {
		if got := ledgerAccount(c, test.upstream, test.login); got != test.want {
			t.Errorf("%s at %s: ledger %q, want %q", test.login, test.upstream, got, test.want)
		}
	}
}

// A script that makes accounts takes their passwords, and how to reach them, as
// JSON. One that a person chose is not told again.
func TestAccountsForScripts(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "scans@example.org", "there", 2)
	config, _ := vaultConfig(t, server)
	command(t, "vault", "new-key", "-c", config)
	at := spawn(t, "serve", "-c", config).addresses(t)[0]
	told := func(args ...string) map[string]any {
		t.Helper()
		out := command(t, append(args, "-c", config, "--json")...)
		if strings.Count(out, "\n") != 1 {
			t.Errorf("postern %s --json says %q, want one line", strings.Join(args, " "), out)
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(out), &line); err != nil {
			t.Fatalf("postern %s --json says %q: %v", strings.Join(args, " "), out, err)
		}
		return line
	}
	in := func(line map[string]any) {
		t.Helper()
		password, _ := line["password"].(string)
		if !regexp.MustCompile(`^[a-z2-9]{28}$`).MatchString(password) {
			t.Errorf("the password %q is not 28 letters and digits", password)
		}
		delete(line, "password")
		c := dialPOP(t, at, nil)
		c.login("hall", password, "+OK")
		c.say("QUIT", "+OK")
	}

	first := told("account", "add", "Hall", "--upstream-user", "scans@example.org", "--upstream-password-file", secretIn(t, "there"))
	in(first)
	servers := []any{map[string]any{"host": "127.0.0.1", "port": "0", "security": "no encryption"}}
	want := map[string]any{"user": "Hall", "upstream": "office", "state": "fine", "label": "client", "servers": servers}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("account add --json (-want +got):\n%s", diff)
	}
	second := told("account", "password", "hall", "--label", "desk", "--network", "127.0.0.1", "--network", "192.0.2.0/24")
	in(second)
	want = map[string]any{"user": "hall", "upstream": "office", "label": "desk", "networks": []any{"127.0.0.1/32", "192.0.2.0/24"}, "servers": servers}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("account password --json (-want +got):\n%s", diff)
	}
	chosen := told("account", "add", "ann", "--password-file", secretIn(t, "correct horse battery"), "--upstream-password-file", secretIn(t, "there"))
	if _, ok := chosen["password"]; ok {
		t.Errorf("a chosen password is told again: %v", chosen)
	}
	none := told("account", "add", "bob", "--no-password", "--upstream-password-file", secretIn(t, "there"))
	if diff := cmp.Diff(map[string]any{"user": "bob", "upstream": "office", "state": "fine"}, none); diff != "" {
		t.Errorf("account add --no-password --json (-want +got):\n%s", diff)
	}
	refused(t, "--json is for a new password", "account", "password", "hall", "-c", config, "--json", "--revoke", "desk")
}
