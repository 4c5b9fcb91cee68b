package imapc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"postern/upstream"
)

const (
	maxWarm        = 1000             // connections that are kept at once
	maxWarmLife    = 30 * time.Minute // from the login to the last use of it: a password may be withdrawn meanwhile
	maxWarmListing = 10_000           // messages of a listing that is kept with its connection
)

// A stable keeps connections of accounts that have left, for a while, so that
// their next login need not connect and log in again. A connection belongs to
// one account and to whoever knows the password that it was opened with. It is
// used by one session after the other, and selects its mailbox anew for each:
// what a session sees is as fresh as on any other connection.
type stable struct {
	stay time.Duration // 0: nothing is kept
	key  [32]byte      // of this process

	mu     sync.Mutex
	parked map[string]*parked // by login name
}

type parked struct {
	c       *conn
	listing *listing // of the mailbox, nil if not kept
	expire  *time.Timer
}

func newStable(stay time.Duration) *stable {
	s := &stable{stay: stay, parked: make(map[string]*parked)}
	rand.Read(s.key[:])
	return s
}

// proof is what is kept of a password, or of what stands for tokens that come
// and go; nil if nothing is to be kept. The key sees to it that it is worth
// nothing outside of this process.
func (s *stable) proof(a upstream.Account) []byte {
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
func (s *stable) park(account string, c *conn, l *listing) bool {
	if s.stay <= 0 || len(c.proof) == 0 || !c.clean() || time.Since(c.born) > maxWarmLife-s.stay {
		return false
	}
	p := &parked{c: c}
	if l.Len() <= maxWarmListing && l.uidValidity == c.box.uidValidity {
		p.listing = l.again()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.parked[account]
	if before == nil && len(s.parked) >= maxWarm {
		return false
	}
	if before != nil {
		s.dismiss(before) // with another password perhaps, and older in any case
	}
	s.parked[account] = p
	p.expire = time.AfterFunc(s.stay, func() { s.release(account, p) })
	return true
}

// clean tells whether every command was answered, on the mailbox that was listed.
func (c *conn) clean() bool {
	c.g.mu.Lock()
	quiet := c.g.err == nil && len(c.g.asked) == 0 && c.g.await == (await{})
	c.g.mu.Unlock()
	return quiet && c.flying() == nil && c.listing == nil && c.selected == c.listedName() &&
		c.box.uidValidity != 0 && !c.box.notSticky
}

// take returns the account's connection if there is one, and it was opened with
// this password. One that was opened with another stays: whoever tries
// passwords must not be able to do anything to it.
func (s *stable) take(a upstream.Account) *parked {
	if s.stay <= 0 {
		return nil
	}
	proof := s.proof(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parked[a.User]
	if p == nil || len(proof) == 0 || !hmac.Equal(p.c.proof, proof) {
		return nil
	}
	delete(s.parked, a.User)
	p.expire.Stop()
	if p.c.g.broken() != nil {
		return nil
	}
	return p
}

// release gives a connection up, if it is parked still.
func (s *stable) release(account string, p *parked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked[account] == p {
		delete(s.parked, account)
		s.dismiss(p)
	}
}

func (s *stable) dismiss(p *parked) {
	p.expire.Stop()
	go func() {
		if p.c.g.broken() == nil {
			p.c.logout()
		}
	}()
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
	p := u.warm.take(account)
	if hook := u.o.Hooks.WarmReuse; hook != nil && u.warm.stay > 0 {
		hook(p != nil)
	}
	if p == nil {
		return nil
	}
	if p.listing == nil {
		p.listing = u.kept(ctx, account.User)
	}
	c := p.c
	if err := c.selectToList(ctx, p.listing); err != nil {
		u.o.Log.Debug("warm connection given up", "account", account.User, "err", err)
		c.g.Close()
		return nil
	}
	return c
}
