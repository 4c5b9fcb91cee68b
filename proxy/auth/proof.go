package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"postern/upstream"
)

// proofs remember which credentials an upstream last found good, and when. They
// never stand in for the upstream: they only tell an owner, who need not wait for
// other people's guesses and may know that a login comes too soon, from a
// stranger, before the upstream is asked.
//
// A password is kept as a MAC under a key that lives as long as the process.
type proofs struct {
	key [32]byte

	mu    sync.Mutex
	known *table[string, proof]
}

type proof struct {
	mac  [sha256.Size]byte
	last time.Time
}

const (
	proofLife = 24 * time.Hour
	maxProofs = 1 << 17
)

func newProofs(life time.Duration) *proofs {
	p := &proofs{known: newTable[string, proof](maxProofs, life)}
	rand.Read(p.key[:])
	return p
}

func (p *proofs) mac(account string, password upstream.Secret) (mac [sha256.Size]byte) {
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte(account)) // holds exactly one NUL before the user's name,
	h.Write([]byte{0})       // and neither name nor password holds another
	h.Write([]byte(password.Reveal()))
	h.Sum(mac[:0])
	return mac
}

// match tells whether these credentials were good the last time.
func (p *proofs) match(account string, password upstream.Secret) bool {
	mac := p.mac(account, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.known.get(account)
	return ok && hmac.Equal(known.mac[:], mac[:])
}

// last returns when the account last logged in.
func (p *proofs) last(account string) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.known.get(account)
	return known.last, ok
}

// keep notes a login.
func (p *proofs) keep(account string, password upstream.Secret) {
	mac := p.mac(account, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known.put(account, proof{mac, time.Now()})
}

// forget drops credentials that are good no longer.
func (p *proofs) forget(account string, password upstream.Secret) {
	mac := p.mac(account, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.known.get(account); ok && hmac.Equal(known.mac[:], mac[:]) {
		p.known.remove(account)
	}
}
