// Package config turns a YAML file into a checked Config. It is strict: an
// unknown key, a value without a unit, a route that nobody can reach are
// faults, and all faults of a file are reported at once, each with its line,
// its key and a hint.
//
// Of postern's packages it imports what is known of mail providers, which is
// data. What it returns is handed on by cmd/postern, piece by piece, as the
// options of the packages that do the work.
package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// A Config is what the operator wrote, with defaults for what was left out.
type Config struct {
	Log             Log
	Limits          Limits
	ShutdownTimeout time.Duration // how long sessions may finish after SIGTERM
	Listeners       []Listener
	Admin           Admin
	Consent         Consent
	State           State
	Vault           Vault
	Upstreams       []Upstream // in the order of the file
	Accounts        []Account
	Routes          []Route // for who has no account; the first that matches wins

	Warnings []Fault // what is allowed, but probably not meant
}

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Limits bound what clients may cost.
type Limits struct {
	Connections           int
	ConnectionsPerAddress int // that are not logged in
	LoginTimeout          time.Duration
	IdleTimeout           time.Duration
	WriteTimeout          time.Duration
	Errors                int
	LoginAttempts         int
	LoginDelay            time.Duration // least time between two logins of an account; 0 is none
	WarmConnections       int           // upstream connections that are kept for a next login
}

// How a connection is protected.
const (
	TLSOff      = "off"
	TLSImplicit = "implicit"
	TLSSTLS     = "stls"     // listeners
	TLSStartTLS = "starttls" // upstreams
)

// A Listener is an address that POP3 clients connect to.
type Listener struct {
	Address     string
	Name        string // of the host, as people type it; "" for one in the certificate
	TLS         string // TLSOff, TLSSTLS or TLSImplicit
	Certificate string // PEM file: the certificate, then its chain
	Key         string // PEM file

	// PlaintextLogin are the networks that may log in without TLS; never nil.
	PlaintextLogin []netip.Prefix

	Mechanisms []string // ways to log in; nil for those that suit every client
	ClientCA   string   // PEM file: who certifies clients; "" asks for no certificates
}

// Admin is the operator's HTTP listener.
type Admin struct {
	Address string // "" for none
}

// State is what postern remembers from one session to the next.
type State struct {
	Off          bool          // nothing
	Path         string        // directory
	RemovalsKept time.Duration // how long the log of removals is kept
	Cache        int64         // octets of cached listings
}

// The protocols of an upstream.
const (
	IMAP = "imap"
	JMAP = "jmap"
)

// An Upstream is a server that keeps the mail.
type Upstream struct {
	Name     string
	Provider string // of package provider; "" for none
	Protocol string // IMAP or JMAP
	OAuth    OAuth

	// Whom to trust: the system's roots, or else those in CAFile, or else
	// only the certificate with this SHA-256 fingerprint.
	CAFile      string
	Fingerprint []byte

	// IMAP only.
	Address    string
	TLS        string // TLSImplicit, TLSStartTLS or TLSOff
	ServerName string // in the certificate; "" for the host of Address
	MaxMessage int64  // octets of the largest message that is carried
	Compress   bool   // what the server sends
	Insecure   bool   // passwords may travel in the clear to another machine

	PreferXOAUTH2 bool // for tokens, where OAUTHBEARER is offered too

	// JMAP only. Either URL or Domain is set.
	URL         string // of the session resource
	Domain      string // to look the session resource up for
	Credentials string // Basic or Bearer
	PlainHTTP   bool   // the URL may be http
}

// What a client's password is to a JMAP upstream.
const (
	Basic  = "basic"  // a password
	Bearer = "bearer" // an access token
)

// A Route says where the mail of some users is.
type Route struct {
	User     string // pattern; * stands for any run of characters
	Upstream string // its name

	Login        string // PassThrough or AccountsOnly
	UpstreamUser string // login name upstream, a template; "" for the client's

	// What becomes of messages that clients remove.
	Delete         string        // DeleteExpunge, DeleteTrash, DeleteArchive, DeleteFlag or DeleteNever
	ArchiveFolder  string        // for DeleteArchive; "" for what the upstream marks as its archive
	Grace          time.Duration // how long they are kept before they are gone for good; 0 is not at all, or for ever where they were moved
	RequireRetr    bool          // only those that were delivered whole
	ExpungeIfAlone bool          // IMAP: EXPUNGE without UIDs, if nothing else is flagged

	MarkSeen bool          // what clients retrieved
	UIDL     string        // IMAP: template; "" for postern's own
	Warm     time.Duration // how long the upstream connection of a session is kept for the next one; 0 is not at all
	Churn    Churn
}

// What becomes of a message that a client removes.
const (
	DeleteExpunge = "expunge"
	DeleteTrash   = "trash"
	DeleteArchive = "archive"
	DeleteFlag    = "flag"
	DeleteNever   = "never"
)

// Churn is when a login is refused because its client would download most of
// the mailbox again.
type Churn struct {
	Off         bool
	Known       int // messages that were known, at least
	GonePercent int // of them, more
	NewPercent  int // of those gone, at least
}

// Default returns the settings that hold where a file says nothing.
func Default() Config {
	return Config{
		Log: Log{Level: "info", Format: "text"},
		Limits: Limits{
			Connections:           10_000,
			ConnectionsPerAddress: 100,
			LoginTimeout:          time.Minute,
			IdleTimeout:           10 * time.Minute,
			WriteTimeout:          time.Minute,
			Errors:                20,
			LoginAttempts:         3,
			WarmConnections:       1000,
		},
		ShutdownTimeout: time.Minute,
		Consent:         defaultConsent(),
		State:           State{Path: "/var/lib/postern", RemovalsKept: 90 * day, Cache: 1 << 30},
	}
}

// defaultRoute is a route of which nothing is said but whose mail is where.
func defaultRoute() Route {
	return Route{Login: PassThrough, Delete: DeleteExpunge, Churn: Churn{Known: 50, GonePercent: 50, NewPercent: 50}}
}

// loopback is who may log in without TLS unless the file names others.
func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Load reads the file at path. Names of files in it are relative to the
// directory it lies in; those files are read too, to see whether they can be.
// checkUIDL tells what is wrong with a UIDL template. The error is Faults, or
// what prevents the file from being read.
func Load(path string, checkUIDL func(template string) error) (*Config, error) {
	return load(path, checkUIDL, func(*Config, *decoder) {})
}

// Check does what Load does, and tries whether this process may write where the
// state is to be. It leaves nothing there.
func Check(path string, checkUIDL func(template string) error) (*Config, error) {
	return load(path, checkUIDL, (*Config).tryState)
}

func load(path string, checkUIDL func(template string) error, further func(*Config, *decoder)) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c, d := parse(path, text, os.LookupEnv, checkUIDL)
	c.resolve(filepath.Dir(path))
	c.checkFiles(d)
	further(c, d)
	if err := d.done(c); err != nil {
		return nil, err
	}
	return c, nil
}

// resolve makes the names of files relative to dir.
func (c *Config) resolve(dir string) {
	join := func(name *string) {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	for i := range c.Listeners {
		join(&c.Listeners[i].Certificate)
		join(&c.Listeners[i].Key)
		join(&c.Listeners[i].ClientCA)
	}
	for i := range c.Upstreams {
		join(&c.Upstreams[i].CAFile)
		for _, name := range c.Upstreams[i].OAuth.files() {
			join(name)
		}
	}
	for i := range c.Accounts {
		join(&c.Accounts[i].PasswordFile)
		join(&c.Accounts[i].UpstreamPasswordFile)
	}
	join(&c.Vault.KeyFile)
	join(&c.State.Path)
	join(&c.Consent.PasswordFile)
}

// Route returns the route that takes a user, if there is one, and the upstream
// that keeps their mail.
func (c *Config) Route(user string) (Route, Upstream, bool) {
	for _, r := range c.Routes {
		if covers(r.User, user) {
			return r, c.Upstream(r.Upstream), true
		}
	}
	return Route{}, Upstream{}, false
}

// Upstream returns the upstream of that name; one without a name if there is none.
func (c *Config) Upstream(name string) Upstream {
	for _, u := range c.Upstreams {
		if u.Name == name {
			return u
		}
	}
	return Upstream{}
}
