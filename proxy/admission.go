package proxy

import (
	"container/list"
	"context"
	"net/netip"
	"sync"

	"postern/proxy/pop3"
)

// The limits that Options.Refused tells of.
const (
	Total      = "total"   // MaxConnections, all of them logged in
	PerAddress = "address" // MaxPerAddress
	Evicted    = "evicted" // MaxConnections: cut off in favour of a newer connection
)

// An admission counts connections and decides who may come in.
type admission struct {
	max, maxPerAddress int

	mu        sync.Mutex
	open      int
	strangers *list.List // the *places that are not logged in, oldest first
	addresses map[netip.Prefix]int
}

// A place is what a connection holds while it is open.
type place struct {
	admission *admission
	address   netip.Prefix
	evict     func()
	stranger  *list.Element // nil once logged in, evicted or left
	gone      bool
}

func newAdmission(max, maxPerAddress int) *admission {
	if max == 0 {
		max = 10_000
	}
	if maxPerAddress == 0 {
		maxPerAddress = 100
	}
	return &admission{max: max, maxPerAddress: maxPerAddress, strangers: list.New(), addresses: make(map[netip.Prefix]int)}
}

// enter gives a connection its place, or names the limit that denies it one.
// When all places are taken, the one that has been a stranger longest is
// called back through its evict and loses its place at once: whoever only
// holds connections open cannot keep others out.
func (a *admission) enter(addr netip.Addr, evict func()) (p *place, limit string) {
	p = &place{admission: a, address: pop3.ClientNetwork(addr), evict: evict}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addresses[p.address] >= a.maxPerAddress {
		return nil, PerAddress
	}
	if a.open >= a.max {
		oldest := a.strangers.Front()
		if oldest == nil {
			return nil, Total
		}
		victim := oldest.Value.(*place)
		victim.remove()
		victim.evict()
	}
	a.open++
	a.addresses[p.address]++
	p.stranger = a.strangers.PushBack(p)
	return p, ""
}

// known makes the place one of a client that has logged in.
func (p *place) known() {
	p.admission.mu.Lock()
	defer p.admission.mu.Unlock()
	p.forget()
}

// leave gives the place back.
func (p *place) leave() {
	p.admission.mu.Lock()
	defer p.admission.mu.Unlock()
	p.remove()
}

func (p *place) remove() {
	if !p.gone {
		p.forget()
		p.gone = true
		p.admission.open--
	}
}

// forget takes the place off the strangers.
func (p *place) forget() {
	if p.stranger == nil {
		return
	}
	a := p.admission
	a.strangers.Remove(p.stranger)
	p.stranger = nil
	if a.addresses[p.address]--; a.addresses[p.address] == 0 {
		delete(a.addresses, p.address)
	}
}

func (a *admission) count() (open, strangers int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open, a.strangers.Len()
}

// placeKey finds a connection's place in the context of its session.
type placeKey struct{}

// admitting is an Exchanger that notes which connections logged in. It offers
// no mechanisms if its Authenticator is no Exchanger.
type admitting struct{ pop3.Authenticator }

func (a admitting) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	login, err := a.Authenticator.Authenticate(ctx, c)
	return admitted(ctx, login, err)
}

func (a admitting) Mechanisms(c pop3.Client) []string {
	if x, ok := a.Authenticator.(pop3.Exchanger); ok {
		return x.Mechanisms(c)
	}
	return nil
}

func (a admitting) Exchange(mechanism string, c pop3.Client) pop3.Exchange {
	return admittingExchange{a.Authenticator.(pop3.Exchanger).Exchange(mechanism, c)}
}

type admittingExchange struct{ pop3.Exchange }

func (x admittingExchange) Login(ctx context.Context) (pop3.Login, error) {
	login, err := x.Exchange.Login(ctx)
	return admitted(ctx, login, err)
}

// admitted leaves it to the session to give back a maildrop that was opened
// while the place was lost: the session's context has ended then.
func admitted(ctx context.Context, login pop3.Login, err error) (pop3.Login, error) {
	if err == nil {
		ctx.Value(placeKey{}).(*place).known()
	}
	return login, err
}
