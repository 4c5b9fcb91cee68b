package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"
)

// A Vault says where the keys are that secrets in the state are sealed with. At
// most one is set.
type Vault struct {
	KeyFile    string
	KeyEnv     string // an environment variable
	Credential string // of systemd: a file in $CREDENTIALS_DIRECTORY
}

// Set tells whether there is a vault.
func (v Vault) Set() bool { return v != Vault{} }

// An Account has a password of postern's own, and another credential upstream.
type Account struct {
	User         string
	Upstream     string // its name
	UpstreamUser string // login name there, a template; "" for User

	// What its clients log in with. One is set.
	PasswordFile string
	PasswordHash string         // argon2id
	Networks     []netip.Prefix // where it is good; none for everywhere

	UpstreamPasswordFile string // what postern logs in with; "" for tokens
}

// Who may use a route.
const (
	PassThrough  = "passthrough" // whoever the upstream lets in
	AccountsOnly = "account"     // who has an account
)

func (v *Vault) fields() []field {
	return []field{
		{"key_file", into(&v.KeyFile, text)},
		{"key_env", into(&v.KeyEnv, environmentName)},
		{"credential", into(&v.Credential, credentialName)},
	}
}

func (a *Account) fields() []field {
	return []field{
		{"user", into(&a.User, accountName)},
		{"upstream", into(&a.Upstream, text)},
		{"upstream_user", into(&a.UpstreamUser, loginTemplate)},
		{"upstream_password_file", into(&a.UpstreamPasswordFile, text)},
		{"password_file", into(&a.PasswordFile, text)},
		{"password_hash", a.readHash},
		{"networks", listInto(&a.Networks, network)},
	}
}

// readHash takes a hash as it is: its dollar signs name no variable.
func (a *Account) readHash(v value) {
	if !strings.HasPrefix(v.node.Value, "$argon2") {
		into(&a.PasswordHash, passwordHash)(v)
		return
	}
	hash, err := passwordHash(v.node.Value)
	if err != nil {
		v.fault("%v", err)
	}
	a.PasswordHash = hash
}

func (c *Config) readAccounts(v value) {
	v.list(func(item value) {
		var a Account
		item.mapping(a.fields()...)
		c.Accounts = append(c.Accounts, a)
	})
}

// environmentName is for the name of one that holds a key. The text is not shown: who
// writes ${NAME} there has put the key itself in its place.
func environmentName(text string) (string, error) {
	if text == "" || strings.Trim(text, labelOctets) != "" {
		return "", errors.New("not the name of an environment variable, such as POSTERN_VAULT_KEY")
	}
	return text, nil
}

func credentialName(text string) (string, error) {
	if text == "" || strings.Trim(text, labelOctets+".") != "" || strings.HasPrefix(text, ".") {
		return "", errors.New("not the name of a systemd credential: the unit has it in LoadCredential=")
	}
	return text, nil
}

// accountName accepts the name of one user.
func accountName(text string) (string, error) {
	switch {
	case text == "" || len(text) > 255 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || strings.TrimSpace(text) != text:
		return "", fmt.Errorf("%q is not a name to log in with", text)
	case strings.Contains(text, "*"):
		return "", fmt.Errorf("%q is not one name: a pattern is for routes", text)
	}
	return text, nil
}

var placeholder = regexp.MustCompile(`\{(user|local|domain)\}`)

// loginTemplate accepts a name, in which {user}, {local} and {domain} stand for
// the client's.
func loginTemplate(text string) (string, error) {
	switch {
	case text == "" || strings.ContainsFunc(text, unicode.IsControl):
		return "", errors.New("not a name at the upstream")
	case strings.ContainsAny(placeholder.ReplaceAllString(text, ""), "{}"):
		return "", fmt.Errorf("%q has braces around something else than user, local or domain", text)
	}
	return text, nil
}

// A hash that costs more than that would be a way to keep postern busy.
const (
	maxHashMemory     = 256 << 10 // KiB
	maxHashIterations = 16
)

func passwordHash(text string) (string, error) {
	cost, _, _, err := argon2id.DecodeHash(text)
	switch {
	case err != nil:
		return "", errors.New("not an argon2id hash, such as $argon2id$v=19$m=19456,t=2,p=1$...: argon2 -id -e makes one")
	case cost.Memory > maxHashMemory || cost.Iterations > maxHashIterations:
		return "", fmt.Errorf("this hash takes %d MiB and %d passes for each login: at most %d and %d are allowed",
			cost.Memory>>10, cost.Iterations, maxHashMemory>>10, maxHashIterations)
	}
	return text, nil
}

func (c *Config) checkVault(d *decoder) {
	set := 0
	for _, key := range []string{"key_file", "key_env", "credential"} {
		if d.has("vault." + key) {
			set++
		}
	}
	switch {
	case d.has("vault") && set != 1 && !d.blamed("vault"):
		d.fault("vault", "needs one of key_file, key_env and credential, to say where its keys are")
	case c.Vault.Set() && c.State.Off:
		d.fault("vault", "needs the state that state: off does without")
	}
}

func (c *Config) checkAccounts(d *decoder) {
	first := map[string]int{}
	for i, a := range c.Accounts {
		at := item("accounts", i)
		required(d, at, "user", "upstream")
		if !c.Upstream(a.Upstream).OAuth.Set() {
			required(d, at, "upstream_password_file")
		}
		if a.Upstream != "" && !c.hasUpstream(a.Upstream) {
			d.fault(at+".upstream", "there is no upstream %q%s", a.Upstream, c.upstreamHint(a.Upstream))
		}
		switch {
		case !d.has(at+".password_file") && !d.has(at+".password_hash"):
			d.fault(at+".password_file", "missing: give the clients' password in password_file, or its hash in password_hash")
		case d.has(at+".password_file") && d.has(at+".password_hash"):
			d.fault(at+".password_hash", "is for an account without password_file: give one of the two")
		}
		if k, twice := first[foldName(a.User)]; twice && a.User != "" {
			d.fault(at+".user", "%q is the user of accounts[%d] already", a.User, k)
		} else {
			first[foldName(a.User)] = i
		}
	}
}

// foldName is what names of users are compared by: as proxy/auth does it, capitals
// do not count, and nothing else is taken for something else.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// checkAccountFiles looks at the files that hold passwords of accounts.
func (c *Config) checkAccountFiles(d *decoder) {
	for i, a := range c.Accounts {
		for key, name := range map[string]string{"password_file": a.PasswordFile, "upstream_password_file": a.UpstreamPasswordFile} {
			if name == "" {
				continue
			}
			at := item("accounts", i) + "." + key
			content, ok := readNamed(d, at, name)
			line, _, _ := strings.Cut(string(content), "\n")
			if ok && strings.TrimRight(line, "\r") == "" {
				d.fault(at, "the first line of %s is empty: it must be the password", name)
			}
			warnOfReaders(d, at, name)
		}
	}
}

// Account returns the account of a user, if the configuration has one.
func (c *Config) Account(user string) (Account, bool) {
	for _, a := range c.Accounts {
		if foldName(a.User) == foldName(user) {
			return a, true
		}
	}
	return Account{}, false
}

// Policy returns the route that says what becomes of an account's messages: the
// first that has its user and leads to its upstream, or else one that says
// nothing.
func (c *Config) Policy(user, upstream string) Route {
	for _, r := range c.Routes {
		if r.Upstream == upstream && covers(r.User, user) {
			return r
		}
	}
	r := defaultRoute()
	r.User, r.Upstream = user, upstream
	if known := c.Upstream(upstream).profile().Delete; known != "" {
		r.Delete = known
	}
	return r
}

// HasAccounts tells whether somebody may have one: in the file, or in the state,
// which takes a vault.
func (c *Config) HasAccounts() bool { return len(c.Accounts) > 0 || c.Vault.Set() }
