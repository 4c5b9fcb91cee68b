package main

import (
	"compress/gzip"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/cmd/internal/config"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

func TestCheckExplainsTheFile(t *testing.T) {
	certificate, key, _, _ := testCertificate(t)
	path := writeConfig(t, `
listeners:
  - {address: "127.0.0.1:1110", plaintext_login: [127.0.0.0/8, 10.1.0.0/16]}
  - {address: ":110", tls: stls, certificate: %[1]q, key: %[2]q, plaintext_login: []}
  - {address: ":995", tls: implicit, certificate: %[1]q, key: %[2]q, mechanisms: [user, external], client_ca: %[1]q}
admin: {address: "127.0.0.1:9110"}
upstreams:
  office: {protocol: imap, address: "imap.example.org:993"}
  private: {protocol: imap, address: "imap.example.net:143", tls: starttls, ca_file: %[1]q}
  here: {protocol: imap, address: "127.0.0.1:143", tls: off}
  pinned: {protocol: jmap, url: "https://jmap.example.org/jmap", fingerprint: %[3]q}
  looked-up: {protocol: jmap, domain: example.org, credentials: bearer}
  spare: {protocol: jmap, url: "http://jmap.example.org/jmap", plain_http: true}
state: {path: state, removals_kept: 36h}
routes:
  - {user: "*@example.org", upstream: office, delete: archive, archive_folder: Old/POP3, uidl: dovecot}
  - {user: "*@example.net", upstream: private, mark_seen: true, require_retr: true, grace: 12h}
  - {user: root, upstream: here, delete: never}
  - {user: "a*", upstream: pinned, delete: trash, grace: 12h}
  - {user: "*", upstream: looked-up}
`, certificate, key, strings.Repeat("ab", 32))
	code, out, err := runHere("", "check", "-c", path)
	if code != exitFine || err != "" {
		t.Errorf("exit code %d and %q on standard error, want 0 and nothing", code, err)
	}
	out = strings.ReplaceAll(out, filepath.Dir(certificate), "/etc/postern/tls")
	out = strings.ReplaceAll(out, filepath.Join(filepath.Dir(path), "state"), "/var/lib/postern")
	golden(t, "check.txt", strings.ReplaceAll(out, path, "postern.yaml"))
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "state")); !os.IsNotExist(err) {
		t.Errorf("check left the state directory behind: %v", err)
	}
}

// checkAgainst runs check --connect with an upstream of these lines.
func checkAgainst(t *testing.T, upstream, user, password string) (code int, said string) {
	t.Helper()
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {%s}}
routes: [{user: "*", upstream: office}]
`, upstream)
	code, out, err := runHere(password+"\n", "check", "-c", path, "--connect", "--user", user, "--password-file", "-")
	return code, out + err
}

func TestCheckConnects(t *testing.T) {
	const password = "Canary-c0rrect-h0rse"
	certificate, _, serverTLS, _ := testCertificate(t)
	other, _, _, _ := testCertificate(t)
	named := *serverTLS.Certificates[0].Leaf
	digest := sha256.Sum256(named.Raw)
	encrypted, bare := startIMAP(t, serverTLS), startIMAP(t, nil)
	for _, s := range []*memoryIMAP{encrypted, bare} {
		s.add(t, "ann", password, 3)
	}
	at := fmt.Sprintf("protocol: imap, address: %q, ", encrypted.address)
	for _, c := range []struct {
		name, upstream string
		code           int
		says           string
	}{
		{"private authority", at + fmt.Sprintf("ca_file: %q", certificate), 0, `3 messages`},
		{"pinned", at + fmt.Sprintf("fingerprint: %x", digest), 0, `3 messages`},
		{"plaintext", fmt.Sprintf("protocol: imap, address: %q, tls: off", bare.address), 0, `in the clear`},
		{"pinned to another", at + "fingerprint: " + strings.Repeat("ab", 32), 1, `another certificate than the one that fingerprint names`},
		{"unknown authority", at, 1, `No authority that is trusted here`},
		{"other authority", at + fmt.Sprintf("ca_file: %q", other), 1, `No authority that is trusted here`},
		{"other name", at + fmt.Sprintf("ca_file: %q, server_name: imap.example.org", certificate), 1, `is for another name`},
		{"no TLS there", fmt.Sprintf("protocol: imap, address: %q", bare.address), 1, `does not speak TLS on this port`},
		{"no STARTTLS there", fmt.Sprintf("protocol: imap, address: %q, tls: starttls", bare.address), 1, `offers no STARTTLS`},
		{"nobody there", `protocol: imap, address: "127.0.0.1:1"`, 1, `could not be reached`},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := checkAgainst(t, c.upstream, "ann", password)
			if code != c.code || !regexp.MustCompile(c.says).MatchString(said) {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, c.code, c.says, said)
			}
			if strings.Contains(said, password) {
				t.Errorf("the password is printed:\n%s", said)
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		code, said := checkAgainst(t, fmt.Sprintf("protocol: imap, address: %q, tls: off", bare.address), "ann", "wrong")
		if code != exitFailed || !strings.Contains(said, "refused the name or the password") {
			t.Errorf("exit code %d, want 1 and the reason:\n%s", code, said)
		}
	})
	if n := encrypted.messages(t, "ann"); n != 3 {
		t.Errorf("%d messages left, want 3", n)
	}
}

// A server on which the usual removal is impossible is no dead end.
func TestCheckTellsWhatHelps(t *testing.T) {
	for removal, want := range map[string]bool{
		"impossible: the server has no UIDPLUS":               true,
		"impossible: the server has neither MOVE nor UIDPLUS": true,
		"impossible: mailbox is read-only":                    false,
	} {
		r := imapc.Report{CapabilitiesAfter: []string{"IMAP4rev1"}, Mailbox: "INBOX", Removal: removal}
		helps := slices.ContainsFunc(imapFindings(config.Upstream{}, r), func(f finding) bool {
			return f.what == "what helps" && strings.Contains(f.text, "delete: flag")
		})
		if helps != want {
			t.Errorf("%s: told what helps is %v, want %v", removal, helps, want)
		}
	}
}

func TestCheckConnectsToJMAP(t *testing.T) {
	t.Parallel()
	server := jmapserver.New("ann", "a")
	for i := range 3 {
		server.Deliver(t, upstreamtest.Letter(i, 400))
	}
	web := httptest.NewServer(server)
	defer web.Close()
	encrypted := httptest.NewUnstartedServer(server)
	encrypted.Config.ErrorLog = log.New(io.Discard, "", 0) // one client below does not trust it
	encrypted.StartTLS()
	defer encrypted.Close()
	digest := sha256.Sum256(encrypted.Certificate().Raw)
	for _, c := range []struct {
		name, upstream, password string
		code                     int
		says                     string
	}{
		{"plain HTTP", fmt.Sprintf("url: %q, plain_http: true", web.URL+"/.well-known/jmap"), "a", 0, `inbox +3 messages`},
		{"token", fmt.Sprintf("url: %q, plain_http: true, credentials: bearer", web.URL+"/.well-known/jmap"), "a", 0, `inbox +3 messages`},
		{"pinned", fmt.Sprintf("url: %q, fingerprint: %x", encrypted.URL+"/.well-known/jmap", digest), "a", 0, `inbox +3 messages`},
		{"unknown authority", fmt.Sprintf("url: %q", encrypted.URL+"/.well-known/jmap"), "a", 1, `No authority that is trusted here`},
		{"wrong password", fmt.Sprintf("url: %q, plain_http: true", web.URL+"/.well-known/jmap"), "b", 1, `refused the name or the password`},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := checkAgainst(t, "protocol: jmap, "+c.upstream, "ann", c.password)
			if code != c.code || !regexp.MustCompile(c.says).MatchString(said) {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, c.code, c.says, said)
			}
		})
	}
}

func TestPasswordFile(t *testing.T) {
	server := startIMAP(t, nil)
	server.add(t, "ann", "with spaces ", 1)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("with spaces \r\nand a remark\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: office}]
`, server.address)
	code, out, err := runHere("", "check", "-c", path, "--connect", "--user", "ann", "--password-file", file)
	if code != exitFine {
		t.Errorf("exit code %d, want 0:\n%s%s", code, out, err)
	}
}

// Resumption of a session does not go past the pin.
func TestPinHoldsWhenASessionIsResumed(t *testing.T) {
	_, _, server, _ := testCertificate(t)
	digest := sha256.Sum256(server.Certificates[0].Leaf.Raw)
	verify := pinned(digest[:])
	state := tls.ConnectionState{DidResume: true, PeerCertificates: nil}
	if err := verify(state); err == nil {
		t.Error("a resumed session without a certificate was taken for the pinned server")
	}
	state.PeerCertificates = append(state.PeerCertificates, server.Certificates[0].Leaf)
	if err := verify(state); err != nil {
		t.Errorf("the pinned certificate: %v", err)
	}
}

// A check before the first start of a new version finds nothing wrong with the
// state of the old one.
func TestCheckWithTheStateOfAnEarlierVersion(t *testing.T) {
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
`)
	f, err := os.Open("../../proxy/state/testdata/v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	dir := stateOf(t, path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "state.db"), content)
	if said := command(t, "check", "-c", path); !strings.Contains(said, "of an earlier version") {
		t.Errorf("check says\n%s\nwant it to tell of the state", said)
	}
}
