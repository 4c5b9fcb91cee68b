package oauth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"postern/upstream"
)

// A Store keeps the grants of accounts, for several processes at once.
type Store interface {
	// Grant returns an account's grant; version 0 says that there is none.
	Grant(ctx context.Context, account string) (g Grant, version int64, err error)
	// SaveGrant puts g in the place of the grant of that version, and returns
	// its own: g is on disk then. ErrConflict says that another grant is there.
	SaveGrant(ctx context.Context, account string, version int64, g Grant) (int64, error)
	// ConsentLost notes that the account needs consent anew, and ConsentBack
	// that it does not.
	ConsentLost(ctx context.Context, account string) error
	ConsentBack(ctx context.Context, account string) error
}

// ErrConflict: somebody else saved a grant first.
var ErrConflict = errors.New("the grant changed meanwhile")

// Hooks are what a Keeper tells about its work, for metrics. Each may be nil,
// none may block.
type Hooks struct {
	// Refreshed: a provider was asked for a token, and answered after so long.
	Refreshed func(application string, took time.Duration, err error)
}

// Options are what a Keeper works with. Store is needed for grants only.
type Options struct {
	Store Store
	Hooks Hooks
	Log   *slog.Logger // nil discards
}

const (
	early     = 5 * time.Minute     // before its end a token is replaced, if it lasts for an hour
	margin    = 10 * time.Second    // to its end, a token is as good as ended, likewise
	lostPause = 10 * time.Minute    // between two tries with a grant that was refused
	badPause  = 5 * time.Second     // after a failure that may be over in a moment
	fixPause  = time.Minute         // after one that takes a person to mend
	newPause  = time.Minute         // a token so young is not replaced for being refused
	lookPause = time.Minute         // between two looks whether another process has changed the grant
	renewTime = 30 * time.Second    // for all that it takes to replace a token
	maxHeld   = 10_000              // accounts whose tokens are in memory
	idleTime  = 30 * 24 * time.Hour // without use, a grant is refreshed: Microsoft ends it after 90 days, Google after 6 months
)

// A Keeper keeps the access tokens of accounts good. Of one account there is
// one refresh at a time, and a token that it brings is on disk before anybody
// gets it: a provider may take the refresh token before it no more.
type Keeper struct {
	o       Options
	secret  string // of this process
	flights singleflight.Group

	mu     sync.Mutex
	held   map[string]*held // by account
	ends   map[string]end   // by account
	closed bool
	flying sync.WaitGroup
}

// A held is what is known of an account's grant. Only the flight of the account
// changes it.
type held struct {
	grant   Grant
	version int64
	read    time.Time // when it was what the store has; zero: it is in no store
	unsaved bool      // what a provider gave, and no disk has yet
	failed  error
	until   time.Time // failed answers everybody
}

// NewKeeper returns a Keeper.
func NewKeeper(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o, secret: rand.Text(), held: make(map[string]*held), ends: make(map[string]end)}
}

// Close waits for what is under way, so that nothing that a provider gives is
// lost, and lets nothing more begin. The Store is closed after it.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.flying.Wait()
}

// takeOff counts a flight, unless the Keeper is closed.
func (k *Keeper) takeOff() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.flying.Add(1)
	}
	return !k.closed
}

// Tend looks after a grant that nobody may have used for long: it notes how it
// is, for Standings, and refreshes it before the provider gives it up.
func (k *Keeper) Tend(ctx context.Context, account, login string, app *Application) error {
	if app.Flow != ByConsent {
		return nil
	}
	g, version, err := k.o.Store.Grant(ctx, account)
	if err != nil || version == 0 {
		return err
	}
	k.mu.Lock()
	k.note(account, app, g)
	k.mu.Unlock()
	if !g.Refused.IsZero() || within(g.Refreshed, idleTime) {
		return nil
	}
	_, err = k.Source(account, login, app).Token(ctx, upstream.Secret{})
	return err
}

// Source returns what gives an account's tokens. login is the account's name
// at the provider.
func (k *Keeper) Source(account, login string, app *Application) upstream.TokenSource {
	s := &source{k: k, app: app, account: account, login: login, key: "account " + app.Name + " " + account + "\x00" + app.For(login)}
	switch app.Flow {
	case ByClientCredentials: // one token for all
		s.key = "application " + app.Name
	case ByServiceAccount:
		s.key = "user " + app.Name + " " + login
	}
	return s
}

// A source gives the tokens of one account (upstream.TokenSource).
type source struct {
	k              *Keeper
	app            *Application
	account, login string
	key            string // of the token
}

// Key implements upstream.TokenSource.
func (s *source) Key() upstream.Secret {
	return upstream.NewSecret(s.k.secret + " " + s.key)
}

// Token implements upstream.TokenSource.
func (s *source) Token(ctx context.Context, refused upstream.Secret) (upstream.Secret, error) {
	for range 2 { // the second time if the flight was on behalf of another refusal
		if token, ok := s.k.ready(s.key, refused); ok {
			return token, nil
		}
		flight := s.k.flights.DoChan(s.key, func() (any, error) {
			if !s.k.takeOff() {
				return nil, fmt.Errorf("token: shutting down: %w", upstream.ErrUnavailable)
			}
			defer s.k.flying.Done()
			// Whoever waits may leave. A refresh token that was sent is used up,
			// so what comes back for it is kept in any case.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTime)
			defer cancel()
			return s.renew(ctx, refused)
		})
		select {
		case r := <-flight:
			if r.Err != nil {
				return upstream.Secret{}, r.Err
			}
			if token := r.Val.(upstream.Secret); token != refused {
				return token, nil
			}
		case <-ctx.Done():
			return upstream.Secret{}, fmt.Errorf("wait for a token: %w", ctx.Err())
		}
	}
	return refused, nil
}

// ready returns a token that needs nobody to be asked.
func (k *Keeper) ready(key string, refused upstream.Secret) (upstream.Secret, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[key]
	if h == nil || h.unsaved || h.toRead() || h.grant.AccessToken == refused || !h.grant.goodFor(early) {
		return upstream.Secret{}, false
	}
	return h.grant.AccessToken, true
}

// toRead tells whether it is time to look into the store again.
func (h *held) toRead() bool { return !h.read.IsZero() && !within(h.read, lookPause) }

// goodFor tells whether the access token lasts so much longer, or a fair part
// of its life if that is short.
func (g Grant) goodFor(d time.Duration) bool {
	d = min(d, g.Expiry.Sub(g.Refreshed)/10)
	return g.AccessToken.Reveal() != "" && time.Until(g.Expiry) > d
}

// within tells whether at was less than d ago. A time to come is none: then the
// clock was wrong.
func within(at time.Time, d time.Duration) bool {
	since := time.Since(at)
	return 0 <= since && since < d
}

// renew returns a token that is good, and not the one that was refused, unless
// that is a new one. It is the only one at work for its key.
func (s *source) renew(ctx context.Context, refused upstream.Secret) (upstream.Secret, error) {
	h := s.k.find(s.key)
	if s.app.Flow == ByConsent {
		if err := s.load(ctx, &h); err != nil && h.unsaved {
			return upstream.Secret{}, err
		} else if err != nil {
			return s.fallback(h.grant, refused, err)
		}
	}
	had := h.grant
	if had.AccessToken != refused && had.goodFor(early) {
		s.k.hold(s, h)
		return had.AccessToken, nil
	}
	if had.AccessToken == refused && within(had.Refreshed, newPause) {
		return refused, nil // it is not the token that is wrong
	}
	if h.failed != nil && time.Now().Before(h.until) {
		return s.fallback(had, refused, h.failed)
	}
	err := s.ask(ctx, &h)
	h.failed, h.until = err, time.Now().Add(badPause)
	if errors.Is(err, upstream.ErrRejected) && !errors.Is(err, upstream.ErrConsent) { // which has a pause of its own
		h.until = time.Now().Add(fixPause)
	}
	s.k.hold(s, h)
	if err != nil {
		return s.fallback(had, refused, err)
	}
	return h.grant.AccessToken, nil
}

// fallback is the old token for as long as it lasts, where none can be had now.
func (s *source) fallback(had Grant, refused upstream.Secret, err error) (upstream.Secret, error) {
	if had.AccessToken != refused && had.goodFor(margin) && !errors.Is(err, upstream.ErrConsent) {
		return had.AccessToken, nil
	}
	return upstream.Secret{}, err
}

// load takes up what the store has, which another process may have changed,
// unless there is something that the store has still to take.
func (s *source) load(ctx context.Context, h *held) error {
	if h.unsaved {
		return s.save(ctx, h, h.grant)
	}
	grant, version, err := s.k.o.Store.Grant(ctx, s.account)
	if err != nil {
		return fmt.Errorf("grant of %q: %w: %w", s.account, err, upstream.ErrUnavailable)
	}
	if version != h.version {
		*h = held{grant: grant, version: version}
	}
	h.read = time.Now()
	switch {
	case grant.RefreshToken.Reveal() == "" && !grant.goodFor(margin):
		return fmt.Errorf("%q has given no consent yet: %w", s.account, upstream.ErrConsent)
	case grant.For != "" && grant.For != s.app.For(s.login):
		return fmt.Errorf("%q has given consent for another mailbox than %q: %w", s.account, s.login, upstream.ErrConsent)
	}
	return nil
}

// ask gets a new token from the provider, and sees to it that it is kept.
func (s *source) ask(ctx context.Context, h *held) error {
	began := time.Now()
	if s.app.Flow != ByConsent {
		token, err := s.app.serve(ctx, s.login)
		s.tell(began, err)
		if err == nil {
			h.grant = h.grant.renewed(token)
		}
		return err
	}
	if within(h.grant.Refused, lostPause) {
		return fmt.Errorf("consent of %q was refused at %s, the next try is %s later: %w", s.account,
			h.grant.Refused.Format(time.RFC3339), lostPause, upstream.ErrConsent)
	}
	token, err := s.exchange(ctx, &h.grant)
	s.tell(began, err)
	switch {
	case errors.Is(err, upstream.ErrConsent):
		return s.lost(ctx, h, err)
	case err != nil:
		return fmt.Errorf("refresh the token of %q: %w", s.account, err)
	}
	back := !h.grant.Refused.IsZero()
	if err := s.save(ctx, h, h.grant.renewed(token)); err != nil {
		return err
	}
	if back {
		s.k.o.Log.Info("consent is good again", "account", s.account, "upstream", s.app.Name)
	}
	if err := s.k.o.Store.ConsentBack(ctx, s.account); err != nil {
		s.k.o.Log.Warn("consent not noted", "account", s.account, "err", err)
	}
	return nil
}

// exchange uses the refresh token, or the one before it where a provider does
// not know this one: it may be that an answer of its own never got here.
func (s *source) exchange(ctx context.Context, g *Grant) (*oauth2.Token, error) {
	token, err := s.app.refresh(ctx, g.RefreshToken)
	if !errors.Is(err, upstream.ErrConsent) || g.Former.Reveal() == "" {
		return token, err
	}
	token, second := s.app.refresh(ctx, g.Former)
	if second != nil {
		if !errors.Is(second, upstream.ErrConsent) {
			return nil, second // so that it is tried again
		}
		return nil, err
	}
	g.RefreshToken, g.Former = g.Former, upstream.Secret{}
	return token, nil
}

// save puts a grant on disk. What cannot be saved is kept in memory until it
// can, and given to nobody before.
func (s *source) save(ctx context.Context, h *held, g Grant) error {
	version, err := s.k.o.Store.SaveGrant(ctx, s.account, h.version, g)
	if errors.Is(err, ErrConflict) {
		// Another process may have noted that the provider refuses the refresh
		// token, which is no wonder if it is used up: this is what it was used for.
		if there, now, failed := s.k.o.Store.Grant(ctx, s.account); failed == nil && !there.Refused.IsZero() && there.leadsTo(g) {
			version, err = s.k.o.Store.SaveGrant(ctx, s.account, now, g)
		}
	}
	switch {
	case err == nil:
		h.grant, h.version, h.read, h.unsaved = g, version, time.Now(), false
		return nil
	case errors.Is(err, ErrConflict):
		return s.yield(ctx, h)
	}
	h.grant, h.unsaved = g, true
	s.k.hold(s, *h)
	s.k.o.Log.Error("token not saved, so not used", "account", s.account, "upstream", s.app.Name, "err", err)
	return fmt.Errorf("save the grant of %q: %w: %w", s.account, err, upstream.ErrUnavailable)
}

// yield takes up the grant that somebody else has saved first: another process
// that refreshed it, or the owner who consented anew.
func (s *source) yield(ctx context.Context, h *held) error {
	grant, version, err := s.k.o.Store.Grant(ctx, s.account)
	if err == nil {
		*h = held{grant: grant, version: version, read: time.Now()}
		s.k.hold(s, *h)
	}
	if err != nil || !grant.goodFor(margin) {
		return fmt.Errorf("grant of %q: %w: %w", s.account, ErrConflict, upstream.ErrUnavailable)
	}
	return nil
}

// lost notes that a grant is refused. It is kept: providers have been wrong.
func (s *source) lost(ctx context.Context, h *held, why error) error {
	g := h.grant
	g.Refused, g.Former = time.Now().UTC().Round(0), upstream.Secret{}
	version, err := s.k.o.Store.SaveGrant(ctx, s.account, h.version, g)
	if errors.Is(err, ErrConflict) {
		return s.yield(ctx, h)
	}
	if h.grant = g; err == nil {
		h.version = version
	}
	s.k.o.Log.Warn("consent lost", "account", s.account, "upstream", s.app.Name, "err", why)
	if err := s.k.o.Store.ConsentLost(ctx, s.account); err != nil {
		s.k.o.Log.Warn("lost consent not noted", "account", s.account, "err", err)
	}
	return fmt.Errorf("consent of %q: %w", s.account, why)
}

func (s *source) tell(began time.Time, err error) {
	if hook := s.k.o.Hooks.Refreshed; hook != nil {
		hook(s.app.Name, time.Since(began), err)
	}
}

// find returns what is held under a key, or nothing.
func (k *Keeper) find(key string) held {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[key]; h != nil {
		return *h
	}
	return held{}
}

// hold keeps it for the next one, in the place of any other if there are too
// many. What is not on disk stays.
func (k *Keeper) hold(s *source, h held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, of := range k.held {
		if len(k.held) < maxHeld {
			break
		}
		if !of.unsaved {
			delete(k.held, other)
		}
	}
	k.held[s.key] = &h
	if s.app.Flow == ByConsent {
		k.note(s.account, s.app, h.grant)
	}
}

// note keeps what Standings tells of a grant. The caller has the lock.
func (k *Keeper) note(account string, app *Application, g Grant) {
	k.ends[account] = end{app.Name, g.Ends, !g.Refused.IsZero(), time.Now()}
}

// An end is how an account's consent is.
type end struct {
	application string
	at          time.Time // zero: nobody says
	lost        bool
	noted       time.Time
}

// noteLife is for how long an account counts that is neither used nor tended:
// it is there no more.
const noteLife = 48 * time.Hour

// A Standing is how the consents of an application's accounts are, as far as
// anybody asked for them, or tended them, within two days.
type Standing struct {
	Good, Lost int
	Next       time.Time // when the first of the good ones ends; zero: no provider says
}

// Standings returns them by application.
func (k *Keeper) Standings() map[string]Standing {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(map[string]Standing)
	for account, e := range k.ends {
		if !within(e.noted, noteLife) {
			delete(k.ends, account)
			continue
		}
		s := all[e.application]
		if e.lost {
			s.Lost++
		} else {
			s.Good++
			if !e.at.IsZero() && (s.Next.IsZero() || e.at.Before(s.Next)) {
				s.Next = e.at
			}
		}
		all[e.application] = s
	}
	return all
}
