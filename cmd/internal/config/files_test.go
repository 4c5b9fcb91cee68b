package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// writePair makes a certificate and its key in dir, valid until then.
func writePair(t *testing.T, dir, certificate, key string, end time.Time) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, dir, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

func write(t *testing.T, dir, name, text string) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "cert.pem", "key.pem", time.Now().Add(time.Hour))
	writePair(t, dir, "cert2.pem", "key2.pem", time.Now().Add(time.Hour))
	write(t, dir, "notes.txt", "not a certificate")
	write(t, dir, "short", "11 letters!\nand a second line\n")
	path := write(t, dir, "postern.yaml", `
listeners:
  - {address: ":1995", tls: implicit, certificate: cert.pem, key: key.pem}
  - {address: ":2995", tls: implicit, certificate: cert.pem, key: key2.pem}
  - {address: ":3995", tls: implicit, certificate: absent.pem, key: absent-key.pem}
  - {address: ":4995", tls: implicit, certificate: cert.pem, key: key.pem, client_ca: notes.txt}
upstreams:
  good: {protocol: imap, address: "imap.example.org:993", ca_file: cert.pem}
  junk: {protocol: imap, address: "imap.example.org:993", ca_file: notes.txt}
  gone: {protocol: jmap, domain: example.org, ca_file: absent.pem}
routes: [{user: "a*", upstream: good}, {user: "b*", upstream: junk}, {user: "*", upstream: gone}]
admin: {address: "127.0.0.1:9110"}
consent: {public_url: "http://127.0.0.1:9110", password_file: short}
`)
	_, err := Load(path, anyUIDL)
	if err == nil {
		t.Fatal("nothing was found wrong")
	}
	got := strings.ReplaceAll(err.Error(), dir+"/", "")
	want := strings.TrimSpace(`
postern.yaml:4: listeners[1].certificate: does not go with the key: tls: private key does not match public key
postern.yaml:5: listeners[2].certificate: cannot read absent.pem: no such file or directory
postern.yaml:5: listeners[2].key: cannot read absent-key.pem: no such file or directory
postern.yaml:6: listeners[3].client_ca: no certificate in notes.txt: it must hold PEM
postern.yaml:9: upstreams.junk.ca_file: no certificate in notes.txt: it must hold PEM
postern.yaml:10: upstreams.gone.ca_file: cannot read absent.pem: no such file or directory
postern.yaml:13: consent.password_file: the first line of short is to be a password of 12 characters or more`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestDoubtfulFilesAreWarnedOf(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "cert.pem", "key.pem", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	write(t, dir, "vault.key", "")
	write(t, dir, "password", "correct horse")
	for name, mode := range map[string]fs.FileMode{"key.pem": 0o644, "vault.key": 0o604, "password": 0o644, "state": 0o777} {
		if name == "state" {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Check(write(t, dir, "postern.yaml", `
listeners: [{address: ":995", tls: implicit, certificate: cert.pem, key: key.pem}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
vault: {key_file: vault.key}
state: {path: state}
admin: {address: "127.0.0.1:9110"}
consent: {public_url: "https://pop.example.org", password_file: password}
`), anyUIDL)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(Faults(c.Warnings).Error(), dir+"/", "")
	want := strings.TrimSpace(`
postern.yaml:2: listeners[0].certificate: expired on 2026-03-01: clients will refuse it
postern.yaml:2: listeners[0].key: everybody on this machine may read key.pem (mode 0644): 0600 is enough
postern.yaml:5: vault.key_file: everybody on this machine may read vault.key (mode 0604): 0600 is enough
postern.yaml:6: state.path: everybody on this machine may write to state (mode 0777): 0700 is enough
postern.yaml:8: consent.password_file: everybody on this machine may read password (mode 0644): 0600 is enough`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestUnreadableConfigs(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"absent":    filepath.Join(dir, "absent.yaml"),
		"directory": dir,
		"huge":      write(t, dir, "huge.yaml", strings.Repeat("#", maxFileSize+1)),
	} {
		if c, err := Load(path, anyUIDL); err == nil || c != nil {
			t.Errorf("%s: %v, %v; want an error", name, c, err)
		}
	}
}

// Check tells whether the state can be written, and leaves nothing behind; Load
// does not ask, since other users' commands need not write there.
func TestStateIsTriedByCheckOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "notes.txt", "")
	if err := os.MkdirAll(filepath.Join(dir, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "closed"), 0o500); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"there":        "",
		"new":          "",
		"new/and/more": "",
		"notes.txt":    "postern.yaml:5: state.path: cannot write to DIR/notes.txt: not a directory; it has to belong to the user that postern runs as",
		"notes.txt/in": "postern.yaml:5: state.path: cannot write to DIR/notes.txt/in: not a directory; it has to belong to the user that postern runs as",
	}
	if os.Geteuid() != 0 { // whom no permission stops
		cases["closed"] = "postern.yaml:5: state.path: cannot write to DIR/closed: permission denied; it has to belong to the user that postern runs as"
		cases["closed/in"] = "postern.yaml:5: state.path: cannot make DIR/closed/in: DIR/closed: permission denied; make it, and give it to the user that postern runs as"
	}
	for state, want := range cases {
		path := write(t, dir, "postern.yaml", `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
state: {path: `+state+`}
`)
		if _, err := Load(path, anyUIDL); err != nil {
			t.Errorf("%s: Load: %v", state, err)
		}
		got := ""
		if _, err := Check(path, anyUIDL); err != nil {
			got = strings.ReplaceAll(strings.TrimPrefix(err.Error(), dir+"/"), dir, "DIR")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", state, got, want)
		}
	}
	left := 0
	filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { left++; return nil })
	if left != 5 { // dir, postern.yaml, notes.txt, there, closed
		t.Errorf("%d files and directories afterwards, want the 5 from before", left)
	}
}

// A file without content can be made on a disk that is full.
func TestFullDiskIsNoticed(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk, on Linux")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "postern-test", dir).CombinedOutput(); err != nil {
		t.Skipf("no small disk here: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 128<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v, want it to be full", err)
	}
	_, err := Check(write(t, t.TempDir(), "postern.yaml", minimal+"state: {path: "+dir+"}\n"), anyUIDL)
	if want := "state.path: cannot write to " + dir + ": no space left on device"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAccountFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "good", "password\n")
	write(t, dir, "empty", "\npassword\n")
	write(t, dir, "open", "password")
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := write(t, dir, "postern.yaml", `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
accounts:
  - {user: ann, upstream: office, password_file: good, upstream_password_file: absent}
  - {user: bob, upstream: office, password_file: empty, upstream_password_file: good}
`)
	_, err := Load(path, anyUIDL)
	want := strings.TrimSpace(`
postern.yaml:5: accounts[0].upstream_password_file: cannot read absent: no such file or directory
postern.yaml:6: accounts[1].password_file: the first line of empty is empty: it must be the password`)
	if err == nil || strings.ReplaceAll(err.Error(), dir+"/", "") != want {
		t.Errorf("faults:\n%v\nwant:\n%s", err, want)
	}
	path = write(t, dir, "postern.yaml", `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
accounts: [{user: ann, upstream: office, password_file: open, upstream_password_file: good}]
`)
	c, err := Load(path, anyUIDL)
	if err != nil || len(c.Warnings) != 1 || c.Warnings[0].Key != "accounts[0].password_file" {
		t.Errorf("%v, warnings %v; want one of the file that everybody may read", err, c.Warnings)
	}
}

func TestOAuthFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "soon.pem", "key.pem", time.Now().Add(10*24*time.Hour))
	writePair(t, dir, "late.pem", "open.pem", time.Now().Add(-time.Hour))
	if err := os.Chmod(filepath.Join(dir, "open.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "notes.txt", "not a certificate")
	write(t, dir, "empty", "\n")
	path := write(t, dir, "postern.yaml", `
listeners: [{address: "127.0.0.1:1110"}]
vault: {key_env: KEY}
upstreams:
  a: {provider: gmail, oauth: {client_id: x, client_secret_file: absent}}
  b: {provider: gmail, oauth: {client_id: x, client_secret_file: empty, ca_file: notes.txt}}
  c: {provider: microsoft365, oauth: {grant: client_credentials, tenant: t, client_id: x, certificate: notes.txt, key: key.pem}}
  d: {provider: microsoft365, oauth: {grant: client_credentials, tenant: t, client_id: x, certificate: soon.pem, key: key.pem}}
  e: {provider: microsoft365, oauth: {grant: client_credentials, tenant: t, client_id: x, certificate: late.pem, key: open.pem}}
`)
	c, err := Load(path, anyUIDL)
	if err == nil {
		t.Fatalf("nothing was found wrong: %+v", c)
	}
	want := []string{
		"postern.yaml:5: upstreams.a.oauth.client_secret_file: cannot read absent: no such file or directory",
		"postern.yaml:6: upstreams.b.oauth.client_secret_file: empty is empty",
		"postern.yaml:6: upstreams.b.oauth.ca_file: no certificate in notes.txt: it must hold PEM",
		"postern.yaml:7: upstreams.c.oauth.certificate: no certificate: it must hold PEM",
	}
	got := strings.Split(strings.ReplaceAll(err.Error(), dir+"/", ""), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := regexp.MustCompile(`(?m)^  [abc]: .*\n`).ReplaceAllString(string(text), "")
	c, err = Load(write(t, dir, "postern.yaml", good), anyUIDL)
	if err != nil {
		t.Fatal(err)
	}
	warned := Faults(c.Warnings).Error()
	for _, words := range []string{"d.oauth.certificate: expires on", "e.oauth.certificate: expired on", "e.oauth.key: everybody on this machine may read"} {
		if !strings.Contains(warned, words) {
			t.Errorf("warnings %s\nwant one with %q", warned, words)
		}
	}
}
