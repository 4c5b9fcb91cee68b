// Package jmapc opens maildrops on JMAP servers (the c is for client). It
// shows the mailbox whose role is inbox in the primary mail account of the
// credentials given.
//
// RFC 8620 (JMAP core), 8621 (JMAP mail), 6570 (URI templates, level 1), 7617
// and 6750 (Basic and Bearer credentials).
//
// go-jmap supplies the types and the encoding of requests and answers. All
// HTTP below it is this package's own: which origin is told the credentials,
// what a status means, how much is read. Every Maildrop belongs to the
// goroutine that uses it; what it reads ahead runs in goroutines of its own,
// which end when it is closed.
package jmapc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"postern/upstream"
	"postern/upstream/spool"
)

// A Scheme is how a password proves an account.
type Scheme int

const (
	Basic  Scheme = iota // user name and password (RFC 7617)
	Bearer               // the password is a token that names its user (RFC 6750)
)

// Options describe one JMAP server. URL or Domain is needed.
type Options struct {
	// URL is the session URL. A redirect is followed within its origin only.
	URL string
	// Domain, where URL is empty, is looked up: https://domain/.well-known/jmap,
	// then the SRV record _jmap._tcp (RFC 8620 section 2.2). What is found has to
	// be inside the domain, and no name but the domain's own may have a
	// loopback, private or link-local address.
	Domain string
	// Scheme is how the account's password is sent. Tokens are always borne.
	Scheme Scheme
	// PlainHTTP allows a URL that begins with http: the credentials and the
	// mail then cross the network in the clear.
	PlainHTTP bool
	// TLSConfig is used for every connection; nil means Go's defaults.
	TLSConfig *tls.Config

	// MaxMessages is how long a listing may be; 0 means 1,000,000.
	MaxMessages int
	// ReadAhead is how many octets of the next messages one maildrop reads before
	// it is asked for them; 0 means 8 MiB, a negative number none.
	ReadAhead int64
	// Pool bounds what is read ahead of the clients of all upstreams that share
	// it; nil means one of its own.
	Pool *spool.Pool

	// Policy is what removing and reading a message does upstream.
	Policy upstream.Policy
	// Journal remembers removals that a crash could cut in two; nil: none.
	Journal upstream.Journal
	// Listings keeps listings from one session to the next; nil: none.
	Listings upstream.ListingCache

	// Warm is how long a connection waits for the next request of any account;
	// 50 seconds at least. Each request proves its own account.
	Warm time.Duration

	Hooks   upstream.Hooks
	Log     *slog.Logger // nil discards
	Version string       // of postern, for the User-Agent
}

const (
	defaultMaxMessages = 1_000_000
	defaultReadAhead   = 8 << 20
)

// An Upstream opens maildrops on one JMAP server (upstream.Opener). It is safe
// for use by several goroutines.
type Upstream struct {
	o         Options
	transport *http.Transport
	// found is the session URL that worked last, after discovery and
	// redirects; nil before the first login and after a failed one.
	found  atomic.Pointer[url.URL]
	memory *memory
	// Tests replace these.
	pause     func(ctx context.Context, d time.Duration) error
	lookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// New makes an Upstream. It connects nowhere yet; what is wrong with the
// options is told by Open.
func New(o Options) *Upstream {
	if o.MaxMessages == 0 {
		o.MaxMessages = defaultMaxMessages
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = defaultReadAhead
	}
	if o.Pool == nil {
		o.Pool = spool.NewPool(spool.Limits{})
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Upstream{o: o, transport: newTransport(o), memory: newMemory(), pause: pause, lookupSRV: net.DefaultResolver.LookupSRV}
}

// Close closes the connections that no maildrop is using. The Upstream and its
// maildrops go on working.
func (u *Upstream) Close() error {
	u.transport.CloseIdleConnections()
	return nil
}

// Open implements upstream.Opener.
func (u *Upstream) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	began := time.Now()
	d, err := u.open(ctx, account)
	if u.o.Hooks.LoggedIn != nil {
		u.o.Hooks.LoggedIn(time.Since(began), err)
	}
	if err != nil {
		return nil, fmt.Errorf("jmap login: %w", err)
	}
	d.opened = true
	return d, nil
}

func (u *Upstream) open(ctx context.Context, account upstream.Account) (*maildrop, error) {
	p, err := u.o.Scheme.proof(account)
	if err != nil {
		return nil, err
	}
	d, err := u.reopen(ctx, account, p)
	if err != nil {
		return nil, err
	}
	if hook := u.o.Hooks.WarmReuse; hook != nil && u.o.Warm > 0 {
		hook(d != nil)
	}
	if d == nil {
		if d, err = u.login(ctx, account, p); err != nil {
			return nil, err
		}
		if !d.stale {
			u.memory.remember(p.key, d.session.facts, d.inbox)
		}
	}
	d.resume(ctx)
	return d, nil
}

// reopen logs in by what an earlier login with the same credentials found out.
// It returns nil if there was none, or if that may not hold any more: then only a
// login from the beginning can tell what is wrong. A server that is not there is
// not waited for twice.
func (u *Upstream) reopen(ctx context.Context, account upstream.Account, p proof) (*maildrop, error) {
	k, ok := u.memory.find(p.key)
	if !ok || p.borne && k.belongsTo(account.User) != nil {
		return nil, nil
	}
	d := newMaildrop(u, newWire(u, p, k.url), account)
	s, err := newSession(d.wire, k.facts)
	if err == nil {
		d.use(s)
		err = d.enter(ctx, k.inbox)
	}
	if err == nil && !d.stale {
		return d, nil
	}
	d.Close()
	u.memory.forget(p.key)
	var unreachable *net.OpError
	if ctx.Err() != nil || errors.As(err, &unreachable) {
		return nil, err
	}
	return nil, nil
}

// login opens the inbox from the beginning.
func (u *Upstream) login(ctx context.Context, account upstream.Account, p proof) (*maildrop, error) {
	d, err := u.authenticate(ctx, account, p)
	if err != nil {
		return nil, loginError(err)
	}
	if err := d.session.belongsTo(account.User); p.borne && err != nil {
		d.Close()
		return nil, err
	}
	if err := d.enter(ctx, ""); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// authenticate fetches the session, which is what proves the credentials.
func (u *Upstream) authenticate(ctx context.Context, account upstream.Account, p proof) (*maildrop, error) {
	at, err := u.sessionURL(ctx)
	if err != nil {
		return nil, err
	}
	d := newMaildrop(u, newWire(u, p, at), account)
	if err := u.again(ctx, func() error { return d.refresh(ctx) }); err != nil {
		d.Close()
		u.forget(at, err)
		return nil, err
	}
	u.found.Store(d.session.url)
	return d, nil
}

// forget makes the next login look again where the session is, unless it was
// there and only refused this one.
func (u *Upstream) forget(at *url.URL, err error) {
	var status *httpError
	if errors.As(err, &status) && status.Status != http.StatusNotFound && status.Status != http.StatusGone {
		return
	}
	u.found.CompareAndSwap(at, nil)
}

// loginError gives err the meaning that only a login can: these credentials
// were refused, or came too often.
func loginError(err error) error {
	var status *httpError
	if !errors.As(err, &status) {
		return err
	}
	switch status.Status {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %v", upstream.ErrAuth, status)
	case http.StatusTooManyRequests:
		return upstream.WithBackoff(fmt.Errorf("%w: %v", upstream.ErrTooSoon, status), status.backoff())
	}
	return err
}
