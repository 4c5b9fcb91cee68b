package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/cmd/internal/config"
)

// A canary is a secret that must be found nowhere but in the vault.
type canary struct{ name, secret string }

// sightings are the forms in which a secret may have got somewhere: as it is, in
// capitals or not, in hexadecimal, in a URL, and within anything that was put
// into base64, such as the messages of PLAIN, XOAUTH2 and HTTP Basic, wherever in
// that it begins.
func (c canary) sightings() map[string]string {
	forms := map[string]string{
		"as it is":       strings.ToLower(c.secret),
		"in hexadecimal": hex.EncodeToString([]byte(c.secret)),
		"in a URL":       strings.ToLower(url.QueryEscape(c.secret)),
		"in a path":      strings.ToLower(url.PathEscape(c.secret)),
	}
	for offset := range 3 {
		// What stands before it and behind it changes the octets at the edges.
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + c.secret))
		whole := (offset + len(c.secret)) / 3 * 4
		from := (offset*8 + 5) / 6
		forms["in base64, from octet "+string(rune('0'+offset))] = strings.ToLower(text[from:whole])
		forms["in base64 for URLs, from octet "+string(rune('0'+offset))] = strings.ToLower(strings.NewReplacer("+", "-", "/", "_").Replace(text[from:whole]))
	}
	return forms
}

// silent checks that no canary is found in text.
func silent(t *testing.T, where string, text []byte, canaries ...canary) {
	t.Helper()
	text = bytes.ToLower(text)
	for _, c := range canaries {
		for form, what := range c.sightings() {
			if bytes.Contains(text, []byte(what)) {
				t.Errorf("%s holds %s, %s", where, c.name, form)
			}
		}
	}
}

// silentFiles checks the files in a directory.
func silentFiles(t *testing.T, dir string, canaries ...canary) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		silent(t, path, text, canaries...)
		n++
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("%d files in %s, %v", n, dir, err)
	}
}

// What the tests below claim rests on this: a canary is seen in every form.
func TestCanariesAreSeen(t *testing.T) {
	c := canary{"it", "Canary-0f+the/mine?s"}
	for _, before := range []string{"", "a", "ab", "abc", "user=ann\x01auth=Bearer "} {
		text := before + c.secret + "\x01\x01"
		for form, shown := range map[string]string{
			"raw": text, "base64": base64.StdEncoding.EncodeToString([]byte(text)), "base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(text)),
			"hexadecimal": hex.EncodeToString([]byte(text)), "query": url.QueryEscape(text), "path": url.PathEscape(text), "capitals": strings.ToUpper(text),
		} {
			seen := false
			for _, what := range c.sightings() {
				seen = seen || strings.Contains(strings.ToLower(shown), what)
			}
			if !seen {
				t.Errorf("not seen in %s behind %q: %q", form, before, shown)
			}
		}
	}
}

// What is secret of accounts is found in no log, metric, page, file of the state
// or output of a command, whatever a client does with it.
func TestNoSecretOfAnAccountIsTold(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			server := startIMAP(t, nil)
			upstreams := []canary{{"the upstream password of the state", "Canary-5ealed-upstream"}, {"that of the configuration", "Canary-c0nfigured-upstream"}}
			chosen, configured, wrong := canary{"a chosen password", "Canary ch0sen password"}, canary{"a configured password", "Canary-c0nfigured-client"}, canary{"a wrong password", "Canary-wr0ng-battery"}
			server.add(t, "scans", upstreams[0].secret, 2)
			server.add(t, "bob", upstreams[1].secret, 2)
			path := writeConfig(t, `
log: {level: debug, format: %s}
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
vault: {key_file: vault.key}
accounts: [{user: bob, upstream: office, upstream_password_file: %q, password_file: %q}]
routes: [{user: "*", upstream: office, login: account}]
`, format, server.address, secretIn(t, upstreams[1].secret), secretIn(t, configured.secret))
			command(t, "vault", "new-key", "-c", path)
			key, err := os.ReadFile(filepath.Join(filepath.Dir(path), "vault.key"))
			if err != nil {
				t.Fatal(err)
			}
			generated := canary{"a generated password", strings.ReplaceAll(passwordIn(t, command(t, "account", "add", "hall", "-c", path,
				"--keep-text", "--upstream-user", "scans", "--upstream-password-file", secretIn(t, upstreams[0].secret))), " ", "")}
			said := command(t, "account", "password", "hall", "-c", path, "--label", "head", "--password-file", secretIn(t, chosen.secret))
			all := append(upstreams, chosen, configured, wrong, generated, canary{"the key", strings.TrimSpace(string(key))})

			p := spawn(t, "serve", "-c", path)
			at := p.addresses(t)
			for user, secret := range map[string]string{"hall": generated.secret, "HALL": chosen.secret, "bob": configured.secret} {
				c := dialPOP(t, at[0], nil)
				c.say("PASS "+secret, "-ERR") // out of turn
				c.say(secret, "-ERR")         // as if it were a command
				c.say("AUTH "+secret, "-ERR")
				c.say("AUTH PLAIN "+plain(user, secret)+"x", "-ERR")
				c.say("AUTH PLAIN "+plain(user, secret), "+OK")
				c.retrieve(1)
				c.say("QUIT", "+OK")
			}
			stranger := dialPOP(t, at[0], nil)
			stranger.login("hall", wrong.secret, "-ERR [AUTH]")
			stranger.Close()
			_, metrics := get(t, "http://"+at[1]+"/metrics")
			_, page := get(t, "http://"+at[1]+"/")
			dir := stateOf(t, path)
			silentFiles(t, dir, all...) // the write-ahead log too, as it is now
			command(t, "vault", "new-key", "-c", path)
			for name, text := range map[string]string{
				"account password": said,
				"account list":     command(t, "account", "list", "-c", path) + command(t, "account", "list", "-c", path, "--json"),
				"rekey":            command(t, "rekey", "-c", path),
				"check":            command(t, "check", "-c", path),
				"metrics":          metrics,
				"status page":      page,
			} {
				silent(t, name, []byte(text), all...)
			}
			p.Process.Signal(syscall.SIGTERM)
			if code := p.end(t); code != exitFine {
				t.Errorf("exit code %d, want 0", code)
			}
			if !strings.Contains(p.output(), "RETR") || !strings.Contains(metrics, `postern_account_logins_total{result="wrong_password"} 1`) {
				t.Fatalf("not all was logged and counted:\n%s", p.output())
			}
			silent(t, "output", []byte(p.output()), all...)
			silentFiles(t, dir, all...)
		})
	}
}

// stateOf is the directory of the state that a configuration names.
func stateOf(t *testing.T, path string) string {
	t.Helper()
	c, err := config.Load(path, checkUIDL)
	if err != nil {
		t.Fatal(err)
	}
	return c.State.Path
}
