package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"postern/proxy"
	book "postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
	"postern/proxy/vault"
	"postern/upstream"
	"postern/upstream/oauth"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/oidc"
	"postern/upstream/upstreamtest/private"
)

// A saslClient is a program that logs in by a mechanism.
type saslClient struct {
	client
	mechanism string
	transport string
	unable    func(t *testing.T) string // why this build of it cannot; nil if it can
}

const (
	anyCertificate = "cert.pem" // the client's, in its directory
	itsKey         = "key.pem"
)

// saslClients are what POP3 programs of Debian 12 can do. mpop and fetchmail are
// told which mechanism to take; curl takes the one that it is told to prefer.
var saslClients = []saslClient{
	{curlWith("AUTH=EXTERNAL", "--cert", anyCertificate, "--key", itsKey), "EXTERNAL", implicit, nil},
	{curlWith("AUTH=EXTERNAL", "--cert", anyCertificate, "--key", itsKey, "--sasl-ir"), "EXTERNAL", stls, nil},
	{curlWith("AUTH=CRAM-MD5"), "CRAM-MD5", plaintext, nil},
	{curlWith("AUTH=+APOP"), "APOP", plaintext, nil},
	{curlWith("AUTH=XOAUTH2", "--oauth2-bearer"), "XOAUTH2", implicit, nil},
	{curlWith("AUTH=XOAUTH2", "--sasl-ir", "--oauth2-bearer"), "XOAUTH2", implicit, nil},
	{curlWith("AUTH=OAUTHBEARER", "--oauth2-bearer"), "OAUTHBEARER", stls, nil},
	{curlWith("AUTH=OAUTHBEARER", "--sasl-ir", "--oauth2-bearer"), "OAUTHBEARER", implicit, nil},
	{curlWith("AUTH=SCRAM-SHA-256"), "SCRAM-SHA-256", implicit, lacks("gsasl", "curl", "--version")},
	{fetchmailWith("protocol pop3", "protocol apop"), "APOP", plaintext, nil},
	{fetchmailWith("timeout 60", "auth cram-md5 timeout 60"), "CRAM-MD5", stls, nil},
	{mpopWith("scram-sha-256"), "SCRAM-SHA-256", implicit, lacks(" scram-sha-256 ", "mpop", "--version")},
	{mpopWith("scram-sha-256"), "SCRAM-SHA-256", plaintext, lacks(" scram-sha-256 ", "mpop", "--version")},
	{mpopWith("cram-md5"), "CRAM-MD5", plaintext, lacks(" cram-md5 ", "mpop", "--version")},
	{mpopWith("apop"), "APOP", implicit, lacks(" apop ", "mpop", "--version")},
	{mpopWith("external", "tls_cert_file "+anyCertificate, "tls_key_file "+itsKey), "EXTERNAL", implicit, lacks(" external ", "mpop", "--version")},
	{mpopWith("xoauth2"), "XOAUTH2", implicit, lacks(" xoauth2 ", "mpop", "--version")},
	{mpopWith("oauthbearer"), "OAUTHBEARER", stls, lacks(" oauthbearer ", "mpop", "--version")},
	{mpopWith("login"), "LOGIN", implicit, lacks(" login ", "mpop", "--version")},
	{getmailAPOP, "APOP", plaintext, nil},
	{poplibAPOP, "APOP", plaintext, nil},
}

// TestSASLClients lets real clients log in by every mechanism that they know, with
// the right secret and with a wrong one.
func TestSASLClients(t *testing.T) {
	for _, c := range saslClients {
		t.Run(c.name+" "+c.mechanism+" "+c.transport, func(t *testing.T) {
			private.Program(t, c.program)
			if c.unable != nil {
				if why := c.unable(t); why != "" {
					t.Skip(why)
				}
			}
			t.Parallel()
			s := startAccounts(t)
			right, wrong := s.run(t, c, false), s.run(t, c, true)
			c.mustDownload(t, right)
			c.got(t, right.dir, s.raw)
			if o := c.start(t, wrong); !c.refused(o) {
				t.Errorf("with a wrong secret: exit code %d\n%s", o.code, o.output)
			}
			if got := downloaded(t, wrong.dir); len(got) != 0 {
				t.Errorf("with a wrong secret: %d messages downloaded", len(got))
			}
		})
	}
}

// lacks tells when a program does not say of itself that it can do something.
func lacks(word string, command ...string) func(t *testing.T) string {
	return func(t *testing.T) string {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), word) {
			return ""
		}
		return fmt.Sprintf("this %s was built without%s", command[0], strings.TrimRight(" "+strings.TrimSpace(word), " "))
	}
}

func clientNamed(name string) client {
	for _, c := range clients {
		if c.name == name {
			return c
		}
	}
	panic(name)
}

// curlWith is curl with a login option. Where the last of the others is
// --oauth2-bearer, the password is its value; where there is a certificate, there
// is no password, or curl would not take EXTERNAL.
func curlWith(login string, others ...string) client {
	c := clientNamed("curl")
	c.command = func(t testing.TB, r *run) *exec.Cmd {
		args := append([]string{"--login-options", login}, others...)
		switch {
		case args[len(args)-1] == "--oauth2-bearer":
			args = append(args, r.password)
			r.password = ""
		case strings.Contains(login, "EXTERNAL"):
			r.password = ""
		}
		cmd := curl(t, r)
		cmd.Args = append(cmd.Args, args...)
		return cmd
	}
	return c
}

// rewritten replaces text in a file of a client's.
func rewritten(t testing.TB, r *run, name, old, new string) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q in it", name, old)
	}
	r.file(t, name, strings.Replace(string(text), old, new, 1))
}

func fetchmailWith(old, new string) client {
	c := clientNamed("fetchmail")
	c.command = func(t testing.TB, r *run) *exec.Cmd {
		cmd := fetchmail(t, r)
		rewritten(t, r, "fetchmailrc", old, new)
		return cmd
	}
	return c
}

func mpopWith(mechanism string, more ...string) client {
	c := clientNamed("mpop")
	c.command = func(t testing.TB, r *run) *exec.Cmd {
		cmd := mpop(t, r)
		rewritten(t, r, "mpoprc", "auth user", strings.Join(append([]string{"auth " + mechanism}, more...), "\n"))
		return cmd
	}
	return c
}

var getmailAPOP = func() client {
	c := clientNamed("getmail6")
	c.command = func(t testing.TB, r *run) *exec.Cmd {
		cmd := getmail(t, r)
		rewritten(t, r, "getmailrc", "timeout = 60", "timeout = 60\nuse_apop = true")
		return cmd
	}
	return c
}()

// poplibAPOP is the script for poplib with apop in the place of user and pass_.
var poplibAPOP = func() client {
	c := clientNamed("poplib")
	c.command = func(t testing.TB, r *run) *exec.Cmd {
		cmd := poplib(t, r)
		script, err := os.ReadFile(cmd.Args[1])
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args[1] = r.file(t, "client.py", string(script))
		rewritten(t, r, "client.py", "pop.user(user)\n    pop.pass_(os.environ[\"PASSWORD\"])", "pop.apop(user, os.environ[\"PASSWORD\"])")
		return cmd
	}
	return c
}()

// An accountServer is a gateway with an account of postern's own, ann@example.org,
// and a route for everybody else, whose upstream takes the token "good".
type accountServer struct {
	address  map[string]string
	ca       string
	password string // of the account
	raw      []string

	authority *signer // of clients' certificates
}

func startAccounts(t *testing.T) accountServer {
	t.Helper()
	s := accountServer{authority: newSigner(t)}
	mailbox := upstreamtest.NewMemory("ann@provider.example", "there")
	for i := range 3 {
		s.raw = append(s.raw, upstreamtest.Letter(i, 400))
		mailbox.Deliver(t, s.raw[i])
	}
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir(), Serve: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	ring := vault.NewKey()
	sealed, err := vault.Open(t.Context(), store, func() (*vault.Keyring, error) { return vault.ParseKeyring([]byte(ring)) })
	if err != nil {
		t.Fatal(err)
	}
	registrar, err := book.NewRegistrar(t.Context(), store, sealed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := registrar.Add(t.Context(), book.NewAccount{Name: "ann@example.org", Upstream: "one", Login: "ann@provider.example",
		Credential: book.Password, Secret: upstream.NewSecret("there")}, &book.Wanted{Label: "scanner", KeepText: true})
	if err != nil {
		t.Fatal(err)
	}
	s.password = text.Reveal()
	accounts, err := book.New(t.Context(), book.Options{Store: store, Vault: sealed,
		Opener: func(string, string) upstream.Opener { return mailbox }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(accounts.Close)
	s.listen(t, auth.New(auth.Options{Locker: store, Accounts: accounts,
		Routes: []auth.Route{{User: "*", Upstream: "one", Opener: tokenMailbox{mailbox}}}}))
	return s
}

func (s *accountServer) listen(t *testing.T, gate *auth.Gate) {
	t.Helper()
	certFile, keyFile, _, _ := testCertificate(t)
	certificate, err := proxy.LoadCertificate(certFile, keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	mechanisms := []string{"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5", "APOP", "EXTERNAL", "XOAUTH2", "OAUTHBEARER"}
	server, err := proxy.Listen(proxy.Options{Authenticator: gate, Listeners: []proxy.Listener{
		{Address: "127.0.0.1:0", Mechanisms: mechanisms},
		{Address: "127.0.0.1:0", TLS: proxy.STLS, Certificate: certificate, ClientCAs: s.authority.pool(), PlaintextLogin: []netip.Prefix{}, Mechanisms: mechanisms},
		{Address: "127.0.0.1:0", TLS: proxy.Implicit, Certificate: certificate, ClientCAs: s.authority.pool(), Mechanisms: mechanisms},
	}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		server.Serve()
		close(served)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Shutdown(ctx)
		<-served
	})
	s.ca, s.address = certFile, map[string]string{}
	for i, transport := range []string{plaintext, stls, implicit} {
		s.address[transport] = server.Addrs()[i].String()
	}
}

// run prepares a client's run, with its right secret or a wrong one.
func (s accountServer) run(t *testing.T, c saslClient, wrong bool) run {
	t.Helper()
	r := run{address: s.address[c.transport], transport: c.transport, ca: s.ca, dir: t.TempDir(),
		user: "ann@example.org", password: s.password, messages: len(s.raw)}
	named := r.user
	if strings.Contains(c.mechanism, "OAUTH") {
		r.user, r.password = "bob@example.org", "good"
	}
	if wrong {
		r.password, named = "wrong", "eve@example.org"
	}
	s.authority.sign(t, filepath.Join(r.dir, anyCertificate), filepath.Join(r.dir, itsKey), named)
	return r
}

// TestSCRAMPlusOverTLS: no program of Debian 12 binds SCRAM to TLS 1.3, so that the
// client here is the library's.
func TestSCRAMPlusOverTLS(t *testing.T) {
	s := startAccounts(t)
	c, state := dialTLS(t, s.address[implicit], &tls.Config{InsecureSkipVerify: true})
	c.expect("+OK POP3 server ready <")
	binding, err := scram.NewTLSExporterBinding(&state)
	if err != nil {
		t.Fatal(err)
	}
	c.scram("SCRAM-SHA-256-PLUS", "ann@example.org", s.password, binding)
	c.say("STAT", "+OK 3 ")
}

// dialTLS connects, and tells of the TLS connection.
func dialTLS(t *testing.T, address string, config *tls.Config) (popClient, tls.ConnectionState) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	c := popClient{t, textproto.NewConn(conn)}
	t.Cleanup(func() { c.Close() })
	return c, conn.ConnectionState()
}

// scram logs in, and makes sure that the server knows the password, too.
func (c popClient) scram(mechanism, user, password string, binding scram.ChannelBinding) {
	c.t.Helper()
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		c.t.Fatal(err)
	}
	talk := client.NewConversation()
	if binding.IsSupported() {
		talk = client.NewConversationWithChannelBinding(binding)
	}
	c.say("AUTH "+mechanism, "+ ")
	line := "+ "
	for more := true; more; {
		text, err := base64.StdEncoding.DecodeString(line[len("+ "):])
		if err != nil {
			c.t.Fatal(err)
		}
		response, err := talk.Step(string(text))
		if err != nil {
			c.t.Fatal(err)
		}
		if err := c.PrintfLine("%s", base64.StdEncoding.EncodeToString([]byte(response))); err != nil {
			c.t.Fatal(err)
		}
		if line, err = c.ReadLine(); err != nil {
			c.t.Fatal(err)
		}
		more = strings.HasPrefix(line, "+ ")
	}
	if !strings.HasPrefix(line, "+OK") || !talk.Valid() {
		c.t.Fatalf("got %q (the server is proved: %v), want a login", line, talk.Valid())
	}
}

// TestMechanismsOfAListener: what a configuration says of a listener is what its
// clients find.
func TestMechanismsOfAListener(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "there", 2)
	certificate, key, _, trusting := testCertificate(t)
	dir, authority := t.TempDir(), newSigner(t)
	devices, device, itsKey, secret := filepath.Join(dir, "devices.pem"), filepath.Join(dir, "device.pem"), filepath.Join(dir, "device-key.pem"), filepath.Join(dir, "secret")
	authority.sign(t, device, itsKey, "Ann@example.org")
	for file, text := range map[string]string{secret: "here\n", secret + "-there": "there\n",
		devices: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.certificate.Raw}))} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners:
  - {address: "127.0.0.1:0"}
  - {address: "127.0.0.1:0", mechanisms: [apop, scram-sha-256]}
  - {address: "127.0.0.1:0", tls: implicit, certificate: %[1]q, key: %[2]q, client_ca: %[3]q, mechanisms: [external, xoauth2, user]}
upstreams: {office: {protocol: imap, address: %[4]q, tls: off}}
accounts: [{user: ann@example.org, upstream: office, upstream_user: ann, upstream_password_file: %[5]q, password_file: %[6]q}]
routes: [{user: "*", upstream: office}]
`, certificate, key, devices, server.address, secret+"-there", secret))
	at := p.addresses(t)

	usual := dialPOP(t, at[0], nil)
	usual.capable("USER", "SASL PLAIN LOGIN")
	usual.say("APOP ann@example.org 0", "-ERR APOP is not available")
	usual.login("ann@example.org", "here", "+OK")
	usual.say("QUIT", "+OK")

	proving := dialPOP(t, at[1], nil)
	proving.capable("SASL SCRAM-SHA-256")
	proving.say("USER ann@example.org", "-ERR [SYS/PERM]")
	proving.say("AUTH PLAIN", "-ERR mechanism not supported")
	proving.scram("SCRAM-SHA-256", "ann@example.org", "here", scram.ChannelBinding{})
	proving.say("STAT", "+OK 2 ")
	proving.say("QUIT", "+OK")

	stranger, _ := dialTLS(t, at[2], trusting)
	stranger.expect("+OK")
	stranger.capable("USER", "SASL XOAUTH2")
	pair, err := tls.LoadX509KeyPair(device, itsKey)
	if err != nil {
		t.Fatal(err)
	}
	trusting.Certificates = []tls.Certificate{pair}
	known, _ := dialTLS(t, at[2], trusting)
	known.expect("+OK")
	known.capable("USER", "SASL XOAUTH2 EXTERNAL")
	known.say("AUTH EXTERNAL =", "+OK maildrop has 2 messages")
	known.say("QUIT", "+OK")
}

// TestGeneratedPasswordsAreProved: the password that postern account shows opens the
// account by SCRAM, and by APOP if it was told to keep it.
func TestGeneratedPasswordsAreProved(t *testing.T) {
	t.Parallel()
	server := startIMAP(t, nil)
	server.add(t, "ann", "there", 2)
	config := writeConfig(t, `
listeners: [{address: "127.0.0.1:0", mechanisms: [user, scram-sha-256, apop]}]
upstreams: {office: {protocol: imap, address: %q, tls: off}}
vault: {key_file: vault.key}
routes: [{user: "*", upstream: office, login: account}]
`, server.address)
	command(t, "vault", "new-key", "-c", config)
	at := spawn(t, "serve", "-c", config).addresses(t)[0]
	added := command(t, "account", "add", "hall", "-c", config, "--upstream-user", "ann", "--upstream-password-file", secretIn(t, "there"))
	kept := command(t, "account", "password", "hall", "-c", config, "--label", "old scanner", "--keep-text")
	if want := "need it without spaces, in small letters"; !strings.Contains(added, want) {
		t.Errorf("account add says\n%s\nwant %q in it", added, want)
	}
	apop := func(password, want string) {
		t.Helper()
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c := popClient{t, textproto.NewConn(conn)}
		defer c.Close()
		greeting, err := c.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		_, timestamp, _ := strings.Cut(greeting, "<")
		c.say(fmt.Sprintf("APOP hall %x", md5.Sum([]byte("<"+timestamp+password))), want)
	}
	for _, said := range []string{added, kept} {
		password := strings.ReplaceAll(passwordIn(t, said), " ", "")
		c := dialPOP(t, at, nil)
		c.scram("SCRAM-SHA-256", "hall", password, scram.ChannelBinding{})
		c.say("STAT", "+OK 2 ")
		c.say("QUIT", "+OK")
		c.expectEnd()
	}
	apop(strings.ReplaceAll(passwordIn(t, kept), " ", ""), "+OK maildrop has 2 messages")
	apop(strings.ReplaceAll(passwordIn(t, added), " ", ""), "-ERR [AUTH]")
}

// TestClientsOwnTokens: a token that the client brings along is verified by a real
// mail server, which asks a real authorization server; and is worth nothing once
// it was revoked there.
func TestClientsOwnTokens(t *testing.T) {
	t.Parallel()
	issuer := oidc.Start(t, oidc.Options{})
	d := dovecot.Start(t, append(dovecot.Tokens(t, issuer.Introspection(), "oauthbearer xoauth2"), "auth_cache_size = 0")...)
	const ann = "ann@example.org"
	mailbox := d.AddUser(t, ann, "a password")
	raw := []string{upstreamtest.Letter(1, 3000), upstreamtest.Letter(2, 900)}
	deliver(t, mailbox, raw)
	app := &oauth.Application{Name: "client", Issuer: issuer.Issuer, ClientID: oidc.ClientID, ClientSecret: upstream.NewSecret(oidc.ClientSecret),
		BasicSecret: true, Scopes: []string{"openid", "offline_access"}, Parameters: map[string]string{"prompt": "consent"}}
	request, err := app.Begin(t.Context(), ann, "http://127.0.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	grant, err := request.Finish(t.Context(), issuer.Consent(t, request.URL(), ann).Query())
	if err != nil {
		t.Fatal(err)
	}
	p := spawn(t, "serve", "-c", writeConfig(t, `
log: {level: debug}
listeners: [{address: "127.0.0.1:0", tls: implicit, certificate: %q, key: %q, mechanisms: [xoauth2, oauthbearer]}]
upstreams: {there: {protocol: imap, address: %q, tls: off}}
routes: [{user: "*", upstream: there}]
`, d.CertFile, d.KeyFile, d.IMAP))
	at := p.addresses(t)[0]
	for _, c := range []client{
		curlWith("AUTH=XOAUTH2", "--oauth2-bearer"),
		curlWith("AUTH=OAUTHBEARER", "--sasl-ir", "--oauth2-bearer"),
		mpopWith("xoauth2"),
		mpopWith("oauthbearer"),
	} {
		r := run{address: at, transport: implicit, ca: d.CAFile, dir: t.TempDir(), user: ann, password: grant.AccessToken.Reveal(), messages: len(raw)}
		c.mustDownload(t, r)
		c.got(t, r.dir, raw)
	}
	issuer.Revoke(t, grant.AccessToken.Reveal())
	c := curlWith("AUTH=XOAUTH2", "--oauth2-bearer")
	r := run{address: at, transport: implicit, ca: d.CAFile, dir: t.TempDir(), user: ann, password: grant.AccessToken.Reveal(), messages: len(raw)}
	if o := c.start(t, r); !c.refused(o) {
		t.Errorf("with a revoked token: exit code %d\n%s", o.code, o.output)
	}
	if strings.Contains(p.output(), grant.AccessToken.Reveal()) {
		t.Error("the log holds the token")
	}
}

// TestCertificatesPage: who does what the page says has a certificate that logs in.
func TestCertificatesPage(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"openssl", "curl"} {
		private.Program(t, program)
	}
	server := startIMAP(t, nil)
	server.add(t, "ann", "there", 2)
	certificate, key, _, _ := testCertificate(t)
	r := newReader(t, map[string]string{"here": "here\n", "there": "there\n", "postern.yaml": fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0", tls: implicit, certificate: %q, key: %q, client_ca: devices.pem}]
state: {path: state}
upstreams: {office: {protocol: imap, address: %q, tls: off}}
accounts: [{user: hall@example.org, upstream: office, upstream_user: ann, upstream_password_file: there, password_file: here}]
routes: [{user: "*", upstream: office, login: account}]
`, certificate, key, server.address)})
	all := examples(t, "certificates.md")
	if len(all) != 6 {
		t.Fatalf("%d commands on the page, want 6", len(all))
	}
	for _, e := range all[:5] { // postern starts when it finds the authority
		r.run(t, e)
	}
	at := spawn(t, "serve", "-c", filepath.Join(r.dir, "postern.yaml")).addresses(t)[0]
	out := r.run(t, all[5], "pop.example.org", "localhost:"+at[strings.LastIndex(at, ":")+1:], "curl", "curl -sS --cacert "+certificate)
	if got := strings.Count(out, "\n"); got != 2 {
		t.Errorf("curl lists %q, want 2 messages", out)
	}
}

// capable wants CAPA to tell of these ways to log in and no others.
func (c popClient) capable(want ...string) {
	c.t.Helper()
	lines := slices.DeleteFunc(c.lines("CAPA"), func(l string) bool { return l != "USER" && !strings.HasPrefix(l, "SASL") })
	if !slices.Equal(lines, want) {
		c.t.Errorf("capabilities: got %q, want %q", lines, want)
	}
}

// A tokenMailbox is a mailbox behind the token "good".
type tokenMailbox struct{ *upstreamtest.Memory }

func (m tokenMailbox) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	if a.Tokens == nil {
		return nil, upstream.ErrAuth
	}
	if token, err := a.Tokens.Token(ctx, upstream.Secret{}); err != nil || token.Reveal() != "good" {
		return nil, upstream.ErrAuth
	}
	return m.Memory.Open(ctx, m.Account())
}

// A signer certifies clients.
type signer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	s := &signer{certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "devices"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, s.certificate, s.certificate, &s.key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *signer) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.certificate)
	return pool
}

// sign writes a client's certificate and its key.
func (s *signer) sign(t *testing.T, certFile, keyFile, mail string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "scanner 7"}, EmailAddresses: []string{mail},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, s.certificate, &key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
