// Package imapc shows the mailbox of an IMAP account as an upstream.Maildrop.
//
// The library imapclient speaks the protocol for logging in and for reading
// messages. It does so over a guard, this package's own net.Conn, which holds
// the deadlines and limits that the library has none of, keeps the first I/O
// error, and lends its place in the stream to commands of ours whose answers
// the library could not read or would read slowly: SELECT, the listing,
// SEARCH, STORE, MOVE and UID EXPUNGE (see guard and ask).
//
// One connection has one goroutine, the library's reader. It ends when the
// guard is closed, provided that no literal is left half read: see body.
//
// Never sent: CLOSE, sequence numbers, and EXPUNGE without UIDs, but for the
// policy that asks for it (see expungeAlone).
//
// RFC 3501 and 9051 (IMAP), 2595 and 8314 (TLS), 2971 (ID), 4315 (UIDPLUS),
// 4616 and 4959 (AUTHENTICATE PLAIN), 4978 (COMPRESS), 5530 (response codes), 7628 (OAUTHBEARER).
package imapc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"postern/upstream"
	"postern/upstream/spool"
)

// A TLSMode is how a connection is encrypted. The zero value is the safe one.
type TLSMode int

const (
	TLSImplicit TLSMode = iota // from the first octet, RFC 8314
	TLSStartTLS                // by STARTTLS; never without if that fails
	TLSOff                     // not at all
)

func (m TLSMode) String() string {
	switch m {
	case TLSImplicit:
		return "implicit"
	case TLSStartTLS:
		return "starttls"
	case TLSOff:
		return "off"
	}
	return "unknown"
}

// Options say which server to use and how. A zero field means the default.
type Options struct {
	Address string // host:port
	TLS     TLSMode
	// TLSConfig decides whom to trust; nil means the system's roots. An empty
	// ServerName is the host of Address, an unset MinVersion is TLS 1.2.
	TLSConfig *tls.Config
	Mailbox   string // INBOX

	// PreferXOAUTH2 sends tokens by XOAUTH2 where OAUTHBEARER is offered too.
	PreferXOAUTH2 bool

	Policy  upstream.Policy  // what becomes of messages that clients remove and read
	Journal upstream.Journal // of removals; nil: none
	UIDL    UIDL             // the form of unique-ids

	ConnectTimeout time.Duration // for TCP, TLS and the greeting together; 20 seconds
	IdleTimeout    time.Duration // for the next octets while an answer is awaited; 30 seconds
	SearchTimeout  time.Duration // the same where the server may have to think; 60 seconds
	WriteTimeout   time.Duration // for the server to take what is sent; 30 seconds

	MaxMessage  int64 // octets of one message; 4 GiB
	MaxMessages int   // messages in the mailbox; 2,000,000

	// Compress has the server compress what it sends, where it can (RFC 4978).
	Compress bool

	Version string // of this program, for ID (RFC 2971)

	// Dial opens the TCP connection; nil means a net.Dialer, which tries every
	// address of the host, IPv6 and IPv4 side by side (RFC 8305).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Listings keeps listings from one session to the next; nil keeps none.
	Listings upstream.ListingCache
	// Warm is how long a connection is kept for the account's next login after
	// a session has ended; 0 keeps none.
	Warm time.Duration
	// Stable keeps them, for all upstreams that share it; nil makes one for
	// this upstream alone.
	Stable *Stable
	// Pool bounds what is read ahead of the clients of all upstreams that share
	// it; nil makes one for this upstream alone.
	Pool *spool.Pool

	Hooks upstream.Hooks
	Log   *slog.Logger // nil discards
}

// An Upstream opens accounts on one IMAP server. Safe for use by several
// goroutines.
type Upstream struct {
	o      Options
	habits habits
	known  foreknowledge
}

// New returns an Upstream. It does not connect.
func New(o Options) *Upstream {
	setDefault(&o.Mailbox, "INBOX")
	setDefault(&o.ConnectTimeout, 20*time.Second)
	setDefault(&o.IdleTimeout, 30*time.Second)
	setDefault(&o.SearchTimeout, time.Minute)
	setDefault(&o.WriteTimeout, 30*time.Second)
	setDefault(&o.MaxMessage, 4<<30)
	setDefault(&o.MaxMessages, 2_000_000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pool == nil {
		o.Pool = spool.NewPool(spool.Limits{})
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Stable == nil {
		o.Stable = NewStable(defaultWarm)
	}
	o.TLSConfig = tlsConfig(o)
	return &Upstream{o: o}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// tlsConfig is the caller's configuration with the defaults that it left out.
func tlsConfig(o Options) *tls.Config {
	c := &tls.Config{}
	if o.TLSConfig != nil {
		c = o.TLSConfig.Clone()
	}
	if c.ServerName == "" {
		c.ServerName = host(o.Address)
	}
	setDefault(&c.MinVersion, tls.VersionTLS12)
	return c
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// Open implements upstream.Opener: it logs in, selects the mailbox, and settles
// what an earlier session began to remove.
func (u *Upstream) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	c, err := u.openToList(ctx, account)
	if err != nil {
		return nil, err
	}
	if c, err = u.settled(ctx, c, account); err != nil {
		return nil, err
	}
	return newMaildrop(u, account, c), nil
}
