package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// noFile keeps the name of the file out of what is compared.
const noFile = "f"

func noEnvironment(string) (string, bool) { return "", false }

func anyUIDL(template string) error {
	if template == "bad" {
		return errors.New("no such template")
	}
	return nil
}

func parsed(text string) (*Config, error) {
	c, d := parse(noFile, []byte(text), noEnvironment, anyUIDL)
	return c, d.done(c)
}

// A file in testdata says in its own lines what is wrong with it: "#! LINE:
// KEY: TEXT", LINE being 0 where none is named.
func wanted(t *testing.T, text string) string {
	var want []string
	for line := range strings.Lines(text) {
		if fault, ok := strings.CutPrefix(line, "#! "); ok {
			want = append(want, noFile+":"+strings.TrimSpace(fault))
		}
	}
	if want == nil {
		t.Fatal("the file does not say what is wrong with it")
	}
	slices.SortStableFunc(want, func(a, b string) int { return lineOf(t, a) - lineOf(t, b) })
	return strings.ReplaceAll(strings.Join(want, "\n"), noFile+":0:", noFile+":")
}

func lineOf(t *testing.T, fault string) (line int) {
	if _, err := fmt.Sscanf(fault, noFile+":%d:", &line); err != nil {
		t.Fatalf("%q names no line: %v", fault, err)
	}
	return line
}

func eachFile(t *testing.T, pattern string, test func(t *testing.T, text string)) {
	names, _ := filepath.Glob(pattern)
	if len(names) == 0 {
		t.Fatalf("no files %s", pattern)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			test(t, string(text))
		})
	}
}

func TestBadFiles(t *testing.T) {
	eachFile(t, "testdata/bad/*.yaml", func(t *testing.T, text string) {
		_, err := parsed(text)
		if err == nil {
			t.Fatal("nothing was found wrong")
		}
		if diff := cmp.Diff(wanted(t, text), err.Error()); diff != "" {
			t.Errorf("faults (-want +got):\n%s", diff)
		}
	})
}

func TestWarnings(t *testing.T) {
	eachFile(t, "testdata/warned/*.yaml", func(t *testing.T, text string) {
		c, err := parsed(text)
		if err != nil {
			t.Fatalf("faults: %v", err)
		}
		if diff := cmp.Diff(wanted(t, text), Faults(c.Warnings).Error()); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
	})
}

const minimal = `
listeners: [{address: "127.0.0.1:1110"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
`

func TestDefaults(t *testing.T) {
	got, err := parsed(minimal)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listeners = []Listener{{Address: "127.0.0.1:1110", TLS: "off", PlaintextLogin: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}}
	want.Upstreams = []Upstream{{Name: "office", Protocol: "imap", Address: "imap.example.org:993",
		TLS: "implicit", MaxMessage: 4 << 30, Credentials: "basic"}}
	want.Routes = []Route{{User: "*", Upstream: "office", Login: "passthrough", Delete: "expunge", Churn: Churn{Known: 50, GonePercent: 50, NewPercent: 50}}}
	if diff := cmp.Diff(&want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	text := `
log: {level: debug, format: json}
limits:
  connections: 1
  connections_per_address: 2
  login_timeout: 3s
  idle_timeout: 4h
  write_timeout: 5m30s
  errors: 6
  login_attempts: 7
  login_delay: 8s
  warm_connections: 9
shutdown_timeout: 9s
listeners:
  - address: "[::1]:110"
    name: pop.example.org
    tls: stls
    certificate: c.pem
    key: ${KEY}.pem
    plaintext_login: [192.0.2.1, "2001:db8::/32"]
    mechanisms: [user, scram-sha-256, external]
    client_ca: ca.pem
admin: {address: "localhost:9110"}
consent: {public_url: "https://pop.example.org/mail", password_file: admin-password, invitations: 2d, notice: false}
state: {path: state, removals_kept: 31d, cache: 3MiB}
upstreams:
  i:
    protocol: imap
    address: imap.example.org:143
    tls: starttls
    server_name: mail.example.org
    ca_file: /ca.pem
    max_message: 10MiB
    compress: true
  j:
    protocol: jmap
    url: http://jmap.example.org/jmap
    plain_http: true
    credentials: bearer
    fingerprint: AA:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff
  k: {protocol: jmap, domain: example.org}
  l: {protocol: imap, address: "10.0.0.1:143", tls: off, insecure: true}
vault: {key_file: vault.key}
accounts:
  - user: Scanner@example.org
    upstream: i
    upstream_user: "{user}.scans"
    upstream_password_file: secrets/up
    password_file: secrets/pop
    networks: [192.0.2.0/24]
  - {user: ann, upstream: j, upstream_password_file: /up, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$YTMyb2N0ZXRz"}
  - {user: bob, upstream: j, upstream_password_file: /up, password_hash: "${HASH}"}
routes:
  - {user: "$$*", upstream: i, login: passthrough, upstream_user: "{local}@{domain}"}
  - user: "a*"
    upstream: i
    delete: archive
    archive_folder: Old/POP3
    grace: 30d
    require_retr: true
    mark_seen: true
    expunge_if_alone: true
    uidl: dovecot
    warm: 90s
    churn: {known: 1, gone_percent: 2, new_percent: 3}
  - {user: "b*", upstream: i, delete: trash, grace: 36h, churn: off}
  - {user: "c*", upstream: j, delete: flag, grace: 0d, login: account}
  - {user: "*", upstream: j, delete: never, warm: 0s}
`
	const hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$YTMyb2N0ZXRz"
	env := func(name string) (string, bool) {
		value, ok := map[string]string{"KEY": "k", "HASH": hash}[name]
		return value, ok
	}
	got, d := parse(noFile, []byte(text), env, anyUIDL)
	if err := d.done(got); err != nil {
		t.Fatal(err)
	}
	got.Warnings = nil
	got.resolve("/etc/postern")
	fingerprint := []byte("\xaa\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
	fingerprint = append(fingerprint, "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"...)
	want := &Config{
		Log: Log{"debug", "json"},
		Limits: Limits{Connections: 1, ConnectionsPerAddress: 2, LoginTimeout: 3 * time.Second, IdleTimeout: 4 * time.Hour,
			WriteTimeout: 330 * time.Second, Errors: 6, LoginAttempts: 7, LoginDelay: 8 * time.Second, WarmConnections: 9},
		ShutdownTimeout: 9 * time.Second,
		Listeners: []Listener{{Address: "[::1]:110", Name: "pop.example.org", TLS: "stls", Certificate: "/etc/postern/c.pem", Key: "/etc/postern/k.pem",
			PlaintextLogin: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32")},
			Mechanisms:     []string{"user", "scram-sha-256", "external"}, ClientCA: "/etc/postern/ca.pem"}},
		Admin:   Admin{"localhost:9110"},
		Consent: Consent{PublicURL: "https://pop.example.org/mail", PasswordFile: "/etc/postern/admin-password", Invitations: 2 * day},
		Upstreams: []Upstream{
			{Name: "i", Protocol: "imap", Address: "imap.example.org:143", TLS: "starttls", ServerName: "mail.example.org",
				CAFile: "/ca.pem", MaxMessage: 10 << 20, Compress: true, Credentials: "basic"},
			{Name: "j", Protocol: "jmap", URL: "http://jmap.example.org/jmap", PlainHTTP: true, Credentials: "bearer",
				Fingerprint: fingerprint, TLS: "implicit", MaxMessage: 4 << 30},
			{Name: "k", Protocol: "jmap", Domain: "example.org", Credentials: "basic", TLS: "implicit", MaxMessage: 4 << 30},
			{Name: "l", Protocol: "imap", Address: "10.0.0.1:143", TLS: "off", Insecure: true, Credentials: "basic", MaxMessage: 4 << 30},
		},
		State: State{Path: "/etc/postern/state", RemovalsKept: 31 * 24 * time.Hour, Cache: 3 << 20},
		Vault: Vault{KeyFile: "/etc/postern/vault.key"},
		Accounts: []Account{
			{User: "Scanner@example.org", Upstream: "i", UpstreamUser: "{user}.scans", UpstreamPasswordFile: "/etc/postern/secrets/up",
				PasswordFile: "/etc/postern/secrets/pop", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			{User: "ann", Upstream: "j", UpstreamPasswordFile: "/up", PasswordHash: hash},
			{User: "bob", Upstream: "j", UpstreamPasswordFile: "/up", PasswordHash: hash},
		},
		Routes: []Route{
			{User: "$*", Upstream: "i", Login: "passthrough", UpstreamUser: "{local}@{domain}", Delete: "expunge", Churn: Churn{Known: 50, GonePercent: 50, NewPercent: 50}},
			{User: "a*", Upstream: "i", Login: "passthrough", Delete: "archive", ArchiveFolder: "Old/POP3", Grace: 30 * 24 * time.Hour, RequireRetr: true,
				MarkSeen: true, ExpungeIfAlone: true, UIDL: "dovecot", Warm: 90 * time.Second, Churn: Churn{Known: 1, GonePercent: 2, NewPercent: 3}},
			{User: "b*", Upstream: "i", Login: "passthrough", Delete: "trash", Grace: 36 * time.Hour, Churn: Churn{Off: true, Known: 50, GonePercent: 50, NewPercent: 50}},
			{User: "c*", Upstream: "j", Login: "account", Delete: "flag", Churn: Churn{Known: 50, GonePercent: 50, NewPercent: 50}},
			{User: "*", Upstream: "j", Login: "passthrough", Delete: "never", Churn: Churn{Known: 50, GonePercent: 50, NewPercent: 50}},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestWithoutState(t *testing.T) {
	c, err := parsed(minimal + "state: off\n")
	if err != nil {
		t.Fatal(err)
	}
	if !c.State.Off {
		t.Error("state: off is not taken")
	}
}

func TestAnchorsAreFollowed(t *testing.T) {
	c, err := parsed(`
listeners:
  - {address: "127.0.0.1:1110", plaintext_login: &office [192.0.2.0/24]}
  - {address: "127.0.0.1:2110", plaintext_login: *office}
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*", upstream: office}]
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Listeners[1].PlaintextLogin); got != "[192.0.2.0/24]" {
		t.Errorf("networks of the second listener: %s", got)
	}
}

// Package proxy takes nil for loopback, and an empty list for nobody.
func TestNobodyInPlaintext(t *testing.T) {
	c, err := parsed(strings.Replace(minimal, `:1110"`, `:1110", tls: stls, certificate: c, key: k, plaintext_login: []`, 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Listeners[0].PlaintextLogin; got == nil || len(got) != 0 {
		t.Errorf("networks %#v, want an empty list that is not nil", got)
	}
}

func TestAnyFreePortMayBeAskedForTwice(t *testing.T) {
	_, err := parsed(strings.Replace(minimal, `[{address: "127.0.0.1:1110"}]`, `[{address: "127.0.0.1:0"}, {address: "127.0.0.1:0"}]`, 1))
	if err != nil {
		t.Error(err)
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"*", "*@example.org", true},
		{"*@example.org", "*", false},
		{"*@example.org", "ann@example.org", true},
		{"*@example.org", "Ann@Example.ORG", true},
		{"*@example.org", "*@*.example.org", false},
		{"*example.org", "*@*.example.org", true},
		{"a*b*c", "a*xbx*c", true},
		{"a*b", "a", false},
		{"ab*ba", "aba", false},
		{"ann", "ann", true},
		{"ann", "a*", false},
		{"**", "*", true},
	} {
		if got := covers(c.a, c.b); got != c.want {
			t.Errorf("covers(%q, %q) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestRoute(t *testing.T) {
	c, err := parsed(`
listeners: [{address: "127.0.0.1:1110"}]
upstreams:
  office: {protocol: imap, address: "imap.example.org:993"}
  fast: {protocol: jmap, domain: example.org}
routes: [{user: "*@example.org", upstream: office}, {user: "b*", upstream: fast}]
`)
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{
		"ann@example.org": "office",
		"Bob@Example.ORG": "office",
		"bob@example.net": "fast",
		"ann@example.net": "",
	} {
		if route, got, ok := c.Route(user); route.Upstream != want || got.Name != want || ok != (want != "") {
			t.Errorf("route of %s: %q, %v; want %q", user, got.Name, ok, want)
		}
	}
}

const example = "../../../config.example.yaml"

func TestExampleLoads(t *testing.T) {
	c, err := Load(example, anyUIDL)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", Faults(c.Warnings))
	}
	want := Default()
	got := Config{Log: c.Log, Limits: c.Limits, ShutdownTimeout: c.ShutdownTimeout, Consent: c.Consent, State: c.State}
	for _, r := range c.Routes {
		r.User, r.Upstream = "", ""
		if diff := cmp.Diff(defaultRoute(), r); diff != "" {
			t.Errorf("a route of the example shows other values than the defaults (-default +example):\n%s", diff)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example shows other values than the defaults (-default +example):\n%s", diff)
	}
}

// TestExampleShowsEveryKey loads the example with everything that is commented
// out made active. That must not make any key unknown, and must leave none out.
func TestExampleShowsEveryKey(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	active := regexp.MustCompile(`(?m)^#(  |[a-z-])`).ReplaceAll(text, []byte("$1"))
	_, d := parse(noFile, active, noEnvironment, anyUIDL)
	for _, f := range d.faults {
		if strings.Contains(f.Text, "unknown key") || strings.Contains(f.Text, "not YAML") || strings.Contains(f.Text, "stands here") {
			t.Error(f)
		}
	}
	shown := map[string]bool{}
	for path := range d.lines {
		shown[regexp.MustCompile(`\[\d+\]|upstreams\.[^.]+`).ReplaceAllStringFunc(path, func(part string) string {
			return strings.SplitN(part, ".", 2)[0][:1]
		})] = true
	}
	var c Config
	for prefix, fields := range map[string][]field{
		"": c.fields(), "log.": c.Log.fields(), "limits.": c.Limits.fields(), "admin.": c.Admin.fields(), "consent.": c.Consent.fields(), "state.": c.State.fields(),
		"listeners[.": new(Listener).fields(), "u.": new(Upstream).fields(), "routes[.": new(Route).fields(),
		"routes[.churn.": new(Churn).fields(), "u.oauth.": new(OAuth).fields(),
		"vault.": new(Vault).fields(), "accounts[.": new(Account).fields(),
	} {
		for _, f := range fields {
			if !shown[prefix+f.key] {
				t.Errorf("the example does not show %s%s", prefix, f.key)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("testdata/*/*.yaml")
	for _, name := range append(names, example) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parsed(text)
		if err == nil && (len(c.Listeners) == 0 || len(c.Upstreams) == 0 || len(c.Routes) == 0) {
			t.Errorf("accepted without listeners, upstreams or routes: %+v", c)
		}
		for _, fault := range append(c.Warnings, asFaults(err)...) {
			if fault.Line < 0 || fault.Line > strings.Count(text, "\n")+2 || strings.ContainsAny(fault.Key, "\r\n\x1b") {
				t.Errorf("odd fault %q", fault)
			}
		}
	})
}

func asFaults(err error) Faults {
	faults, _ := err.(Faults)
	return faults
}

func TestAccountsAndTheirPolicy(t *testing.T) {
	c, err := parsed(`
listeners: [{address: "127.0.0.1:1110"}]
upstreams:
  office: {protocol: imap, address: "imap.example.org:993"}
  shop: {protocol: imap, address: "imap.example.net:993"}
accounts: [{user: Ann, upstream: shop, upstream_password_file: u, password_file: p}]
routes:
  - {user: "a*", upstream: office, delete: trash}
  - {user: "*", upstream: shop, delete: never}
`)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := c.Account("aNN"); !ok || a.Upstream != "shop" {
		t.Errorf("account %+v, %v; want Ann's", a, ok)
	}
	if _, ok := c.Account("bob"); ok {
		t.Error("bob has an account")
	}
	for _, want := range []struct{ user, upstream, policy string }{
		{"ann", "office", DeleteTrash}, {"ann", "shop", DeleteNever}, {"bob", "office", DeleteExpunge}, {"bob", "shop", DeleteNever},
	} {
		if r := c.Policy(want.user, want.upstream); r.Delete != want.policy || r.Upstream != want.upstream || !(r.Churn.Known > 0) {
			t.Errorf("policy of %s at %s: %+v, want %s", want.user, want.upstream, r, want.policy)
		}
	}
}

// Accounts alone are enough for a gateway.
func TestAccountsNeedNoRoutes(t *testing.T) {
	for _, text := range []string{
		"vault: {key_env: POSTERN_KEY}\n",
		"accounts: [{user: ann, upstream: office, upstream_password_file: u, password_file: p}]\n",
	} {
		c, err := parsed("listeners: [{address: \"127.0.0.1:1110\"}]\nupstreams: {office: {protocol: imap, address: \"imap.example.org:993\"}}\n" + text)
		if err != nil || len(c.Warnings) > 0 || !c.HasAccounts() {
			t.Errorf("%s%v, %v; want no fault and no warning", text, err, c.Warnings)
		}
	}
}
