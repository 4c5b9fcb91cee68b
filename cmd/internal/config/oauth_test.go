package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A provider's name is all that an upstream needs, and what the file says
// counts more.
func TestProviderFillsIn(t *testing.T) {
	c, err := parsed(`
listeners: [{address: "127.0.0.1:1110"}]
vault: {key_env: KEY}
upstreams:
  google:
    provider: gmail
    oauth: {client_id: id, client_secret_file: secret}
  workspace:
    provider: gmail
    oauth: {grant: service_account, service_account_file: key.json}
  office:
    provider: microsoft365
    oauth: {grant: client_credentials, tenant: contoso.com, client_id: id, certificate: c, key: k}
  fast: {provider: fastmail}
  bridge: {provider: proton-bridge, address: "127.0.0.1:2143"}
  yandex: {provider: yandex}
  own:
    protocol: imap
    address: "imap.example.org:993"
    oauth: {client_id: id, issuer: "https://login.example.org", scopes: [mail]}
routes:
  - {user: "a*", upstream: google}
  - {user: "b*", upstream: google, delete: expunge}
  - {user: "c*", upstream: fast}
  - {user: "*", upstream: own}
`)
	if err != nil {
		t.Fatal(err)
	}
	imap := Upstream{Protocol: IMAP, TLS: TLSImplicit, MaxMessage: 4 << 30, Credentials: Basic}
	google := imap
	google.Name, google.Provider, google.Address = "google", "gmail", "imap.gmail.com:993"
	google.OAuth = OAuth{Grant: ByConsent, ClientID: "id", ClientSecretFile: "secret", SecretBy: PostSecret, Scopes: []string{"https://mail.google.com/"},
		Auth: "https://accounts.google.com/o/oauth2/v2/auth", Token: "https://oauth2.googleapis.com/token"}
	office := imap
	office.Name, office.Provider, office.Address = "office", "microsoft365", "outlook.office365.com:993"
	office.OAuth = OAuth{Grant: ByClientCredentials, ClientID: "id", Certificate: "c", Key: "k", Tenant: "contoso.com", SecretBy: PostSecret,
		Scopes: []string{"https://outlook.office365.com/.default"},
		Auth:   "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/authorize", Token: "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token",
		Device: "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/devicecode"}
	fast := Upstream{Name: "fast", Provider: "fastmail", Protocol: JMAP, URL: "https://api.fastmail.com/jmap/session", Credentials: Bearer, TLS: TLSImplicit, MaxMessage: 4 << 30}
	bridge := imap
	bridge.Name, bridge.Provider, bridge.Address, bridge.TLS = "bridge", "proton-bridge", "127.0.0.1:2143", TLSStartTLS
	yandex := imap
	yandex.Name, yandex.Provider, yandex.Address, yandex.PreferXOAUTH2 = "yandex", "yandex", "imap.yandex.com:993", true
	own := imap
	own.Name, own.Address = "own", "imap.example.org:993"
	own.OAuth = OAuth{Grant: ByConsent, ClientID: "id", Issuer: "https://login.example.org", Scopes: []string{"mail"}, SecretBy: BasicSecret}
	for _, want := range []Upstream{google, office, fast, bridge, yandex, own} {
		if diff := cmp.Diff(want, c.Upstream(want.Name)); diff != "" {
			t.Errorf("upstream %s (-want +got):\n%s", want.Name, diff)
		}
	}
	if got := c.Upstream("workspace").OAuth; !got.ForAll() || got.ServiceAccount != "key.json" || len(got.Scopes) != 1 {
		t.Errorf("workspace has %+v", got)
	}

	// What removing means at Gmail is the trash, unless the file says otherwise;
	// then it is told what that comes to.
	for i, want := range []string{DeleteTrash, DeleteExpunge, DeleteExpunge, DeleteExpunge} {
		if got := c.Routes[i].Delete; got != want {
			t.Errorf("routes[%d] removes by %s, want %s", i, got, want)
		}
	}
	var warned []string
	for _, w := range c.Warnings {
		if !strings.Contains(w.Text, "no route leads here") {
			warned = append(warned, w.Key)
		}
	}
	if diff := cmp.Diff([]string{"routes[1].delete"}, warned); diff != "" {
		t.Errorf("warned of (-want +got):\n%s", diff)
	}
}
