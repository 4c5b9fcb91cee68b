package consent

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"postern/upstream"
)

// pending holds what goes on between two pages of one browser, which is known
// by a cookie: a consent that was asked for, then the settings that it led to.
// It is kept in memory alone: after a restart, people begin again with their
// link, which is good for as long as nothing came of it.
type pending struct {
	mu       sync.Mutex
	browsers map[[sha256.Size]byte]*visit
}

// A visit is what one browser is at.
type visit struct {
	until      time.Time
	invitation upstream.Secret // that it began with
	request    Request         // until it is finished
	settings   *Settings       // after that
}

const (
	requestLife  = 15 * time.Minute // for a person to log in at the provider
	settingsLife = 10 * time.Minute // for them to type the settings in
	maxVisits    = 1000             // that are asked, and as many that are shown settings
	maxEach      = 5                // that are asked by one invitation
)

func newPending() *pending { return &pending{browsers: map[[sha256.Size]byte]*visit{}} }

// newBrowser is the secret of a cookie.
func newBrowser() upstream.Secret { return upstream.NewSecret(rand.Text()) }

// put has a browser be at something else. When too many people are asked, the
// first of them makes room, and sooner one who has the same link: nobody who has
// one can drive others away, or take settings from the screen that are not shown
// again.
func (p *pending) put(browser upstream.Secret, v visit, life time.Duration) {
	v.until = time.Now().Add(life)
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, other := range p.browsers {
		if time.Now().After(other.until) {
			delete(p.browsers, key)
		}
	}
	if v.settings == nil {
		p.makeRoom(maxEach, func(other *visit) bool { return other.settings == nil && other.invitation == v.invitation })
	}
	p.makeRoom(maxVisits, func(other *visit) bool { return (other.settings == nil) == (v.settings == nil) })
	p.browsers[sha256.Sum256([]byte(browser.Reveal()))] = &v
}

// makeRoom drops the oldest of some visits if there are so many.
func (p *pending) makeRoom(most int, among func(*visit) bool) {
	n := 0
	var oldest [sha256.Size]byte
	for key, v := range p.browsers {
		if !among(v) {
			continue
		}
		if n++; n == 1 || v.until.Before(p.browsers[oldest].until) {
			oldest = key
		}
	}
	if n >= most {
		delete(p.browsers, oldest)
	}
}

// get returns what a browser is at, if anything.
func (p *pending) get(browser upstream.Secret) (visit, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.look(sha256.Sum256([]byte(browser.Reveal())))
}

// take is get for the request of that state, which is answered once only.
func (p *pending) take(browser upstream.Secret, state string) (Request, bool) {
	key := sha256.Sum256([]byte(browser.Reveal()))
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.look(key)
	if !ok || v.request == nil || !equal(v.request.State(), state) {
		return nil, false
	}
	delete(p.browsers, key)
	return v.request, true
}

func (p *pending) look(key [sha256.Size]byte) (visit, bool) {
	v := p.browsers[key]
	if v == nil || time.Now().After(v.until) {
		return visit{}, false
	}
	return *v, true
}
