package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"postern/proxy/pop3"
	"postern/upstream"
)

// proofs remember which credentials were found good lately and from where, to what
// they led, and when each maildrop was opened last. They never stand in for whoever
// checks the credentials: they only tell an owner, who need not wait for other
// people's guesses and may know that a login comes too soon, from a stranger,
// before anybody is asked.
//
// Credentials are kept as a MAC under a key that lives as long as the process.
type proofs struct {
	key [32]byte

	mu     sync.Mutex
	good   *table[guess, maildrop]
	logins *table[string, time.Time] // by the name of the maildrop
}

// A guess stands for a name and a password. The zero guess is none: of a
// client that sends no password.
type guess [sha256.Size]byte

// guess stands for what a client sent, from where it is: a password that is good
// there only proves nothing elsewhere.
func (g *Gate) guess(c pop3.Credentials) guess {
	return g.proofs.guess(pop3.ClientNetwork(c.Remote.Addr()).String()+"\x00"+Fold(c.User), secret(c))
}

const (
	proofLife = 24 * time.Hour
	maxProofs = 1 << 17
)

func newProofs(life time.Duration) *proofs {
	p := &proofs{
		good:   newTable[guess, maildrop](maxProofs, life),
		logins: newTable[string, time.Time](maxProofs, life),
	}
	rand.Read(p.key[:])
	return p
}

func (p *proofs) guess(name string, password upstream.Secret) (mac guess) {
	h := hmac.New(sha256.New, p.key[:])
	binary.Write(h, binary.BigEndian, uint64(len(name)))
	h.Write([]byte(name))
	h.Write([]byte(password.Reveal()))
	h.Sum(mac[:0])
	return mac
}

// find tells where these credentials led if they were good the last time.
func (p *proofs) find(g guess) (maildrop, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good.get(g)
}

// last returns when the maildrop was opened last.
func (p *proofs) last(m maildrop) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logins.get(m.name)
}

// keep notes a login.
func (p *proofs) keep(g guess, m maildrop) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logins.put(m.name, time.Now())
	if g != (guess{}) {
		p.good.put(g, m)
	}
}

// forget drops credentials that are good no longer.
func (p *proofs) forget(g guess) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.good.remove(g)
}
