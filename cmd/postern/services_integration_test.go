package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"postern/proxy/vault"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

// A service is what clients connect to: the gateway in front of some upstream,
// or a POP3 server that is the oracle of the tests themselves.
type service struct {
	address map[string]string // by transport
	ca      string
	process *process // nil for an oracle
	config  string   // of the process
	// account makes a user with an empty mailbox.
	account func(t testing.TB) account
}

// An account is a user of a service, and their mailbox as others see it.
type account struct {
	upstreamtest.Mailbox
	user, password string
}

const password = "open sesame"

var users atomic.Int32

func newUser() string { return fmt.Sprintf("user%d@example.org", users.Add(1)) }

func dovecotAccounts(s *dovecot.Server) func(t testing.TB) account {
	return func(t testing.TB) account {
		name := newUser()
		return account{s.AddUser(t, name, password), name, password}
	}
}

func cyrusAccounts(s *cyrus.Server) func(t testing.TB) account {
	return func(t testing.TB) account {
		name := newUser()
		return account{s.AddUser(t, name, password), name, password}
	}
}

// nativePOP3 is Dovecot's own POP3 server.
func nativePOP3(s *dovecot.Server) service {
	return service{
		address: map[string]string{plaintext: s.POP3, stls: s.POP3, implicit: s.POP3S},
		ca:      s.CAFile,
		account: dovecotAccounts(s),
	}
}

// gatewayWithAccounts runs postern in front of Dovecot for those who have an
// account: with a password that postern made, and another name and password at
// Dovecot, which are sealed in the state.
func gatewayWithAccounts(t *testing.T, d *dovecot.Server) service {
	t.Helper()
	key := filepath.Join(t.TempDir(), "vault.key")
	if err := os.WriteFile(key, []byte(vault.NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	var config string
	open := func(t testing.TB) account {
		there := dovecotAccounts(d)(t)
		user := strings.Replace(there.user, "user", "Scanner", 1)
		said := command(t, "account", "add", user, "-c", config, "--upstream-user", there.user, "--upstream-password-file", secretIn(t, there.password))
		return account{there.Mailbox, user, strings.ReplaceAll(passwordIn(t, said), " ", "")}
	}
	s := gatewayWith(t, d, open, fmt.Sprintf(`
vault: {key_file: %q}
upstreams: {there: {protocol: imap, address: %q, tls: implicit, ca_file: %q}}
routes: [{user: "*", upstream: there, login: account}]
`, key, d.IMAPS, d.CAFile))
	config = s.config
	return s
}

// gatewayTo runs postern in front of the upstream that lines of configuration
// describe. It shows the certificate of d, and has to end well.
func gatewayTo(t *testing.T, d *dovecot.Server, accounts func(t testing.TB) account, upstream string, args ...any) service {
	t.Helper()
	return gatewayWith(t, d, accounts, fmt.Sprintf(`
upstreams:
  there: {%s}
routes:
  - {user: "*", upstream: there}
`, fmt.Sprintf(upstream, args...)))
}

// gatewayWith runs postern with listeners for every transport, and more lines of
// configuration.
func gatewayWith(t *testing.T, d *dovecot.Server, accounts func(t testing.TB) account, more string) service {
	t.Helper()
	config := writeConfig(t, `
limits: {connections_per_address: 100}
listeners:
  - {address: "127.0.0.1:0", tls: off}
  - {address: "127.0.0.1:0", tls: stls, certificate: %[1]q, key: %[2]q}
  - {address: "127.0.0.1:0", tls: implicit, certificate: %[1]q, key: %[2]q}
%[3]s`, d.CertFile, d.KeyFile, more)
	p := spawn(t, "serve", "--config", config)
	t.Cleanup(func() {
		p.Process.Signal(syscall.SIGTERM)
		if code := p.end(t); code != 0 {
			t.Errorf("postern: exit code %d", code)
		}
		if t.Failed() {
			t.Logf("postern's log:\n%s", p.output())
		}
	})
	at := p.addresses(t)
	return service{
		address: map[string]string{plaintext: at[0], stls: at[1], implicit: at[2]},
		ca:      d.CAFile,
		process: p,
		config:  config,
		account: accounts,
	}
}
