package jmapc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail"
)

const (
	maxKnown = 10_000    // accounts that are remembered
	knownFor = time.Hour // for servers whose session state never changes, such as Cyrus 3.6
)

// A memory remembers the facts of sessions that credentials opened, so that the
// next login with them is a single request. That lets nobody in: the entry is
// found by the credentials themselves, or by what stands for tokens that come and
// go, and the request carries them, so that the server judges them at every login.
type memory struct {
	secret [32]byte // keys the hashes, which are of no use elsewhere
	mu     sync.Mutex
	known  map[credentials]known
}

type credentials [sha256.Size]byte

type known struct {
	facts
	inbox jmap.ID
	until time.Time
}

func newMemory() *memory {
	m := &memory{known: make(map[credentials]known)}
	rand.Read(m.secret[:]) // never fails
	return m
}

func (m *memory) key(proof string) (c credentials) {
	mac := hmac.New(sha256.New, m.secret[:])
	mac.Write([]byte(proof))
	mac.Sum(c[:0])
	return c
}

func (m *memory) find(proof string) (known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[m.key(proof)]
	return k, ok && proof != "" && time.Now().Before(k.until)
}

// remember keeps what a login found out; any other entry makes room for it.
func (m *memory) remember(proof string, f facts, inbox jmap.ID) {
	if proof == "" {
		return
	}
	f.capabilities = plain
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.known {
		if len(m.known) < maxKnown {
			break
		}
		delete(m.known, other)
	}
	m.known[m.key(proof)] = known{f, inbox, time.Now().Add(knownFor)}
}

func (m *memory) forget(proof string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, m.key(proof))
}

// plain are the capabilities that every session in use has.
var plain = map[jmap.URI]json.RawMessage{jmap.CoreURI: nil, mail.URI: nil}
