package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"postern/cmd/internal/config"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
)

// Whom postern account connect has nothing to ask, and why.
func TestConnectRefuses(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
vault: {key_file: vault.key}
upstreams:
  plain: {protocol: imap, address: "127.0.0.1:1", tls: off}
  own: {protocol: imap, address: "127.0.0.1:1", tls: off, oauth: {client_id: x, token_endpoint: "http://127.0.0.1:1/t", authorization_endpoint: "http://127.0.0.1:1/a"}}
  app: {provider: microsoft365, oauth: {grant: client_credentials, tenant: contoso.com, client_id: x, client_secret_file: %[1]q}}
accounts:
  - {user: fixed, upstream: own, password_file: %[1]q}
  - {user: shared, upstream: app, password_file: %[1]q}
  - {user: plain, upstream: plain, password_file: %[1]q, upstream_password_file: %[1]q}
routes:
  - {user: "*@example.org", upstream: plain}
`, secretIn(t, "a secret"))
	if code, _, err := runHere("", "vault", "new-key", "-c", path); code != exitFine {
		t.Fatal(err)
	}
	spawn(t, "serve", "-c", path).addresses(t)
	if code, _, err := runHere("", "account", "add", "device", "--upstream", "own", "--upstream-password-file", secretIn(t, "up"), "-c", path); code != exitFine {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"ann@example.org"}, "has no account: its route sends the client's own password", exitFailed},
		{[]string{"nobody"}, "no route takes the user", exitFailed},
		{[]string{"shared"}, "an administrator has, by grant: client_credentials", exitFailed},
		{[]string{"plain"}, "has no oauth in the configuration", exitFailed},
		{[]string{"device"}, "logs in upstream with a password", exitFailed},
		{[]string{"fixed", "--device"}, "takes no device codes", exitFailed},
		{[]string{"fixed", "--refresh-token-file", secretIn(t, "r-secret")}, "token endpoint could not be reached", exitFailed},
		{[]string{"fixed", "--device", "--paste"}, "three ways to do one thing", exitUsage},
		{nil, "USER is missing", exitUsage},
	} {
		code, out, err := runHere("", append(append([]string{"account", "connect"}, test.args...), "-c", path)...)
		if code != test.code || !strings.Contains(err, test.want) || strings.Contains(out+err, "r-secret") {
			t.Errorf("%q: exit code %d, %s%s\nwant %d and %q", test.args, code, out, err, test.code, test.want)
		}
	}
}

// Consent that is given anew takes the place of what does not open any more.
func TestConsentReplacesADamagedGrant(t *testing.T) {
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ring, err := vault.ParseKeyring([]byte(vault.NewKey()))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), store, func() (*vault.Keyring, error) { return ring, nil })
	if err != nil {
		t.Fatal(err)
	}
	g := grants{&config.Config{}, v, store}
	name := grantOf(g.config, "ann")
	if err := store.SaveSecret(t.Context(), 0, state.Sealed{Name: name, Version: 1, Key: ring.IDs()[0], Data: []byte("torn")}); err != nil {
		t.Fatal(err)
	}
	app := &oauth.Application{Name: "own", Endpoints: oauth.Endpoints{TokenURL: "https://127.0.0.1:1/t"}}
	_, err = oauth.NewKeeper(oauth.Options{Store: g}).Source("ann", "ann", app).Token(t.Context(), upstream.Secret{})
	if upstream.Kind(err) != "rejected" {
		t.Errorf("a token: %v, want it rejected: somebody has to do something", err)
	}
	if err := g.replace(t.Context(), "ann", oauth.Grant{RefreshToken: upstream.NewSecret("new")}); err != nil {
		t.Fatal(err)
	}
	if got, version, err := g.Grant(t.Context(), "ann"); err != nil || version == 0 || got.RefreshToken.Reveal() != "new" {
		t.Errorf("got %q, version %d, %v; want the new grant", got.RefreshToken.Reveal(), version, err)
	}
}

// What proves postern to a provider is looked at before anybody logs in.
func TestCheckReadsWhatProvesPostern(t *testing.T) {
	code, _, err := runHere("", "check", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
vault: {key_env: KEY}
upstreams: {w: {provider: gmail, oauth: {grant: service_account, service_account_file: %q}}}
routes: [{user: "*", upstream: w, login: account}]
`, secretIn(t, `{"type": "authorized_user"}`)))
	if code != exitUsage || !strings.Contains(err, "upstreams.w.oauth: ") || !strings.Contains(err, "not the key of a service account") {
		t.Errorf("exit code %d: %s", code, err)
	}
}

// The file of a service account says where its tokens are, unless the
// configuration does.
func TestServiceAccountKnowsItsEndpoint(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ file, configured, want, err string }{
		{"https://oauth2.example/token", "", "https://oauth2.example/token", ""},
		{"https://oauth2.example/token", "http://127.0.0.1:1/t", "http://127.0.0.1:1/t", ""},
		{"http://oauth2.example/token", "", "", "https"},
		{"", "", "", "https"},
	} {
		text, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "x@y", "token_uri": test.file,
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
		if err != nil {
			t.Fatal(err)
		}
		app, err := application(config.Upstream{OAuth: config.OAuth{Grant: config.ByServiceAccount, Token: test.configured, ServiceAccount: secretIn(t, string(text))}})
		switch {
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%+v: %v", test, err)
		case test.err == "" && (err != nil || app.TokenURL != test.want):
			t.Errorf("%+v: %v", test, err)
		}
	}
}
