// Package consent is the web pages by which people let postern into their
// mailboxes. An administrator invites somebody; the one-time link leads to the
// provider, where they say yes; then they are shown what to type into their
// old mail client.
//
//	/accounts             for the administrator: every account, and how its consent is
//	/connect/{invitation} for the person who was invited
//	/connect/callback     where the provider sends them back to
//	/connect/done         the settings of their mail client
//
// The pages need no script and nothing from elsewhere. Whoever has the link may
// use it, so it is hard to guess, works once, and gives nobody anything but
// with the consent of the mailbox that it was made for. The answer of a
// provider counts only in the browser that asked for it (RFC 9700 section 4.7).
package consent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"postern/proxy/web"
	"postern/upstream"
)

// A Desk does what the pages are for. Several requests ask it at once.
type Desk interface {
	// Accounts lists accounts that need consent and have find in their name,
	// those first that miss it. There may be more of them.
	Accounts(ctx context.Context, find string) (found []Account, more bool, err error)

	// Invite makes a link's secret part for the owner of an account.
	Invite(ctx context.Context, account string) (invitation upstream.Secret, expires time.Time, err error)

	// Invited tells whom an invitation is for: ErrInvitation if for nobody.
	// It is not used up by that.
	Invited(ctx context.Context, invitation upstream.Secret) (Invitation, error)

	// Begin asks for consent. callback is where the provider's answer goes.
	Begin(ctx context.Context, invitation upstream.Secret, callback string) (Request, error)
}

// A Request is one consent that is being asked for.
type Request interface {
	// URL is the provider's page for it.
	URL() string

	// State is the secret by which its answer is known (RFC 6749 section 10.12).
	State() string

	// Finish takes the parameters of the provider's answer. With it the
	// invitation is used up, and the account can be used: ErrInvitation,
	// ErrRefused and ErrOther say what the person can do about a failure, and
	// any other error that they can try again.
	Finish(ctx context.Context, answer url.Values) (Settings, error)
}

// What a person is told in words of its own.
var (
	ErrInvitation = errors.New("no such invitation, or none any more")
	ErrRefused    = errors.New("consent was refused")
	ErrOther      = errors.New("consent is for another mailbox")
)

// An Account is one of those that the administrator sees.
type Account struct {
	Name     string // that clients log in with
	Login    string // of the mailbox at the provider
	Provider string // as people call it: Gmail
	Since    time.Time
	State    State
}

// A State is how an account's consent is.
type State string

const (
	Good  State = "good"
	Never State = "never given"
	Lost  State = "lost" // at Account.Since
)

// An Invitation is what a person is asked for.
type Invitation struct {
	Login    string // of the mailbox
	Provider string
	Expires  time.Time
}

// Settings are what is typed into a mail client.
type Settings struct {
	User     string
	Password upstream.Secret // empty where the account has one already
	Servers  []Server        // best first
}

// A Server is one address of postern's.
type Server struct {
	Name string
	Port string
	TLS  string // as clients call it: SSL/TLS, STARTTLS, none
}

// Options say how to show the pages. Desk and Public are needed.
type Options struct {
	Desk Desk

	// Public is the address under which browsers reach these pages.
	Public *url.URL

	// Password is the administrator's. Without one, nobody sees /accounts.
	Password upstream.Secret

	Log *slog.Logger // nil discards
}

// A Site serves the pages. It implements http.Handler.
type Site struct {
	options Options
	log     *slog.Logger
	pending *pending
	guesses chan struct{}
	handler http.Handler
}

// New returns a Site.
func New(o Options) *Site {
	s := &Site{options: o, log: o.Log, pending: newPending(), guesses: make(chan struct{}, maxGuesses)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connect/{invitation}", s.invited)
	mux.HandleFunc("POST /connect/{invitation}", s.begin)
	mux.HandleFunc("GET /connect/callback", s.callback)
	mux.HandleFunc("GET /connect/done", s.done)
	mux.HandleFunc("GET /accounts", s.administrator(s.accounts))
	mux.HandleFunc("POST /accounts", s.administrator(s.invite))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { s.trouble(w, http.StatusNotFound, noPage) })
	// Against forms of other sites: https://pkg.go.dev/net/http#CrossOriginProtection
	protection := http.NewCrossOriginProtection()
	// Without Sec-Fetch-Site, which older browsers lack, it compares the origin with
	// the host, and that may be another one behind whoever adds TLS.
	protection.AddTrustedOrigin(o.Public.Scheme + "://" + o.Public.Host)
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.trouble(w, http.StatusForbidden, foreign) }))
	s.handler = web.Protect(protection.Handler(limited(mux)), style, web.OwnForms)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// maxForm is far more than a form of these pages needs.
const maxForm = 4 << 10

func limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next.ServeHTTP(w, r)
	})
}

// address is a page's address for browsers.
func (s *Site) address(path ...string) string { return s.options.Public.JoinPath(path...).String() }

// Link is the address that an invitation is sent as, where public is that of the
// pages.
func Link(public *url.URL, invitation upstream.Secret) string {
	return public.JoinPath("connect", invitation.Reveal()).String()
}
