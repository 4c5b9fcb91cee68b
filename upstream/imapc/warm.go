package imapc

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

const (
	// A connection is used for so long after its login at the most: until then
	// a password that was changed or withdrawn may go unnoticed.
	maxWarmLife = 10 * time.Minute

	defaultWarm   = 1000            // connections
	maxWarmOctets = 64 << 20        // of listings that are kept with connections
	warmWait      = 5 * time.Second // for a sign of life; then another connection is opened
	idleAfter     = time.Second     // a client that comes back sooner costs the server no IDLE
)

// A Stable keeps connections of accounts that have left, for a while, so that
// their next login need not connect and log in again. Several upstreams may
// share it.
//
// A connection belongs to one account of one Upstream, so of one configuration,
// and to whoever knows the password that it was opened with. One session after
// the other uses it, with its mailbox selected all the time. So the server has to
// tell of everything that happens to that, while the connection is idle by IDLE
// (RFC 2177) and else with the answer to NOOP: if there is nothing to tell, what
// the last session has listed is what there is. Anything but that, however
// harmless, and the mailbox is selected and listed anew.
type Stable struct {
	limit int
	key   [32]byte // of this process

	mu      sync.Mutex
	closed  bool
	parked  map[place]*parked
	order   list.List      // of *parked, the first is to leave first
	octets  int            // of their listings
	leaving sync.WaitGroup // those that say goodbye
}

// A place in a stable.
type place struct {
	u       *Upstream
	account string // login name
}

type parked struct {
	place
	c       *conn
	listing *listing // of the mailbox, nil if not kept
	until   time.Time
	timer   *time.Timer
	element *list.Element

	idling sync.Mutex // held while IDLE is sent
}

// NewStable returns a Stable for so many connections; the oldest make room.
func NewStable(limit int) *Stable {
	s := &Stable{limit: max(limit, 1), parked: make(map[place]*parked)}
	rand.Read(s.key[:])
	return s
}

// Close says goodbye to the servers. Connections that sessions are using end
// with these from now on.
func (s *Stable) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, p := range s.parked {
		s.dismiss(p)
	}
	s.mu.Unlock()
	s.leaving.Wait()
	return nil
}

// proof is what is kept of a password, or of what stands for tokens that come
// and go; nil if nothing is to be kept. The key sees to it that it is worth
// nothing outside of this process.
func (s *Stable) proof(a upstream.Account) []byte {
	h := hmac.New(sha256.New, s.key[:])
	user := sha256.Sum256([]byte(a.User))
	h.Write(user[:])
	if a.Tokens == nil {
		h.Write([]byte("password " + a.Password.Reveal()))
		return h.Sum(nil)
	}
	key := a.Tokens.Key().Reveal()
	if key == "" {
		return nil
	}
	h.Write([]byte("tokens " + key))
	return h.Sum(nil)
}

// park keeps a connection if it is certain that nothing is left on it of the
// session, and tells whether it does.
func (s *Stable) park(u *Upstream, account string, c *conn, l *listing) bool {
	stay := min(u.o.Warm, maxWarmLife-time.Since(c.born))
	if stay < 2*idleAfter || len(c.proof) == 0 || !c.clean() {
		return false
	}
	p := &parked{place: place{u, account}, c: c, until: time.Now().Add(stay)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if before := s.parked[p.place]; before != nil {
		s.dismiss(before) // with another password perhaps, and older in any case
	}
	for len(s.parked) >= s.limit {
		s.dismiss(s.order.Front().Value.(*parked))
	}
	if n := l.octets(); l.uidValidity == c.box.uidValidity && s.octets+n <= maxWarmOctets {
		p.listing = l.again()
		s.octets += n
	}
	s.parked[p.place] = p
	p.element = s.order.PushBack(p)
	p.timer = time.AfterFunc(idleAfter, func() { s.settle(p) })
	return true
}

// clean tells whether every command was answered, on the mailbox that was listed.
func (c *conn) clean() bool {
	c.g.mu.Lock()
	quiet := c.g.err == nil && len(c.g.asked) == 0 && c.g.await == (await{})
	c.g.mu.Unlock()
	return quiet && c.flying() == nil && c.listing == nil && c.snapshot == nil &&
		c.selected == c.listedName() && c.box.uidValidity != 0 && !c.box.notSticky
}

// settle has the server tell what happens, once it looks as if the client stays
// away for a while, and then sees to the end of it.
func (s *Stable) settle(p *parked) {
	p.idling.Lock()
	defer p.idling.Unlock()
	if !s.keeps(p) {
		return
	}
	if p.c.caps.Has(imap.CapIdle) || p.c.caps.Has(imap.CapIMAP4rev2) {
		p.c.g.idle()
	}
	p.timer = time.AfterFunc(time.Until(p.until), func() { s.expire(p) })
}

func (s *Stable) keeps(p *parked) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parked[p.place] == p
}

// take returns the account's connection if there is one, and it was opened with
// this password. One that was opened with another stays, until it is known which
// of them is right.
func (s *Stable) take(u *Upstream, a upstream.Account) *parked {
	proof := s.proof(a)
	s.mu.Lock()
	p := s.parked[place{u, a.User}]
	if p == nil || len(proof) == 0 || !hmac.Equal(p.c.proof, proof) {
		s.mu.Unlock()
		return nil
	}
	s.remove(p)
	s.mu.Unlock()
	p.idling.Lock() // an IDLE that is being sent is sent
	defer p.idling.Unlock()
	p.timer.Stop()
	if p.c.g.broken() != nil {
		return nil
	}
	if time.Since(p.c.born) > maxWarmLife {
		p.c.g.Close()
		return nil
	}
	return p
}

// judged gives up a connection of the account that was opened with another
// password than the server accepts now, and any if it refuses one: it may be the
// password of the connection that is not right any more.
func (s *Stable) judged(u *Upstream, a upstream.Account, accepted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.parked[place{u, a.User}]; p != nil && !(accepted && hmac.Equal(p.c.proof, s.proof(a))) {
		s.dismiss(p)
	}
}

// makeRoom gives up the connections of the account at a server that says that it
// has too many: those that were opened with another password, or by the policy of
// another route.
func (s *Stable) makeRoom(u *Upstream, a upstream.Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, p := range s.parked {
		if at.account == a.User && at.u.o.Address == u.o.Address {
			s.dismiss(p)
		}
	}
}

// expire gives a connection up, if it is parked still.
func (s *Stable) expire(p *parked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked[p.place] == p {
		s.dismiss(p)
	}
}

// remove takes a connection out. s.mu is held.
func (s *Stable) remove(p *parked) {
	delete(s.parked, p.place)
	s.order.Remove(p.element)
	s.octets -= p.listing.octets()
}

// dismiss gives a connection up that is parked. s.mu is held.
func (s *Stable) dismiss(p *parked) {
	s.remove(p)
	s.leaving.Go(func() {
		p.idling.Lock()
		defer p.idling.Unlock()
		p.timer.Stop()
		if p.c.g.broken() == nil {
			p.c.logout()
		}
	})
}

// octets is about what a listing takes in memory.
func (l *listing) octets() int {
	if l == nil {
		return 0
	}
	return 8*len(l.entries) + 32*len(l.large) + len(l.identities.text) + 4*len(l.identities.ends)
}

// again returns the listing as a later session may begin with it.
func (l *listing) again() *listing {
	copy := *l
	copy.unsaved, copy.reused = false, false // the session that leaves saves it
	copy.entries = slices.Clip(l.entries)
	copy.large = maps.Clone(l.large)
	copy.identities.text, copy.identities.ends = slices.Clip(l.identities.text), slices.Clip(l.identities.ends)
	return &copy
}

// reopen is openToList on the connection that the account's last session has
// left; nil if there is none, or it is of no use.
func (u *Upstream) reopen(ctx context.Context, account upstream.Account) *conn {
	if u.o.Warm <= 0 {
		return nil
	}
	p := u.o.Stable.take(u, account)
	if p != nil {
		if err := p.wake(ctx); err != nil {
			u.o.Log.Debug("warm connection given up", "account", account.User, "err", err)
			p.c.g.Close()
			p = nil
		}
	}
	if hook := u.o.Hooks.WarmReuse; hook != nil {
		hook(p != nil)
	}
	if p == nil {
		return nil
	}
	return p.c
}

// wake sees that the connection lives, and has it show what the mailbox holds
// now: in one round trip, unless the server tells only then that it has changed.
func (p *parked) wake(ctx context.Context) error {
	c := p.c
	c.paid = cost{c.trips.Load(), c.g.passed.Load()}
	if err := c.g.endIdle(ctx, warmWait); err != nil {
		return err
	}
	if p.listing != nil && c.heard == c.g.heard() {
		quiet, err := c.quiet(ctx)
		if err != nil {
			return err
		}
		if quiet {
			c.snapshot = p.listing
			c.snapshot.reused = true
			return nil
		}
	}
	if p.listing == nil {
		p.listing = p.u.kept(ctx, p.account)
	}
	return c.selectToList(ctx, p.listing)
}

// quiet tells whether nothing has happened to the mailbox since it was listed.
func (c *conn) quiet(ctx context.Context) (bool, error) {
	defer c.during(ctx, await{idle: min(warmWait, c.o.IdleTimeout)})()
	q := newQuery("NOOP", ignore)
	q.strict = true
	end := c.roundTrip()
	c.g.send(q)
	s, err := q.wait()
	end()
	switch {
	case err != nil:
		return false, c.lost("noop", err)
	case s.kind != "OK":
		return false, refused("noop", s, upstream.ErrUnavailable)
	}
	return q.news == c.heard, nil
}
