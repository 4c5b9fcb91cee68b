package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/pop3"
	"postern/upstream/upstreamtest"
)

// refusals notes what Options.Refused is told.
type refusals struct {
	mu   sync.Mutex
	told []string
}

func (r *refusals) note(_, limit string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, limit)
}

func (r *refusals) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait() // it is told after the client
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, want) {
		t.Errorf("refused: got %q, want %q", r.told, want)
	}
}

// The log tells whom a limit hits, a line a minute however many there are.
func TestTurnedAwayAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		_, p := pipe(t, Options{Authenticator: doorman{}, MaxPerAddress: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
		p.dial(t, "192.0.2.1").expect("+OK")
		for range 3 {
			p.dial(t, "192.0.2.1").expect(refusal[:10])
		}
		time.Sleep(quiet / 2)
		p.dial(t, "192.0.2.1").expect(refusal[:10])
		time.Sleep(quiet/2 + time.Second)
		p.dial(t, "192.0.2.1").expect("+OK") // the first was too slow to log in
		p.dial(t, "192.0.2.1").expect(refusal[:10])
		synctest.Wait()
		var got []string
		for line := range strings.Lines(log.String()) {
			if _, text, ok := strings.Cut(line, `level=WARN msg="connections turned away" `); ok {
				got = append(got, strings.TrimSpace(text))
			}
		}
		want := []string{`listener=pipe limit=address remote=192.0.2.1 unlogged=0`, `listener=pipe limit=address remote=192.0.2.1 unlogged=3`}
		if !slices.Equal(got, want) {
			t.Errorf("logged are %q, want %q", got, want)
		}
	})
}

// Only connections that are not logged in count for an address.
func TestPerAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told refusals
		_, p := pipe(t, Options{Authenticator: doorman{}, MaxPerAddress: 2, Refused: told.note})
		open := func(remote, greeting string) *client {
			t.Helper()
			c := p.dial(t, remote)
			c.expect(greeting)
			return c
		}
		first := open("192.0.2.1", "+OK")
		open("192.0.2.1", "+OK")
		open("192.0.2.1", refusal[:10])
		open("192.0.2.2", "+OK")
		first.login("ann")
		third := open("192.0.2.1", "+OK")
		open("192.0.2.1", refusal[:10])
		third.Close()
		synctest.Wait()
		open("192.0.2.1", "+OK")
		first.say("QUIT", "+OK")
		open("192.0.2.1", refusal[:10])

		open("2001:db8::1", "+OK")
		open("2001:db8::2", "+OK")
		open("2001:db8::3", refusal[:10])
		open("2001:db8:0:1::3", "+OK")
		told.want(t, PerAddress, PerAddress, PerAddress, PerAddress)
	})
}

// A crowd behind one address gets in, all at once, with the limits that hold
// unless they are set.
func TestCrowdFromOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told refusals
		s, p := pipe(t, Options{Authenticator: doorman{}, Refused: told.note})
		var crowd []*client
		for range 64 {
			crowd = append(crowd, p.dial(t, "192.0.2.1"))
		}
		for _, c := range crowd {
			c.expect("+OK")
		}
		if open, strangers := s.Connections(); open != 64 || strangers != 64 {
			t.Errorf("got %d open and %d strangers, want 64 of each", open, strangers)
		}
		for i, c := range crowd {
			c.login(fmt.Sprint("user", i))
		}
		told.want(t)
	})
}

// When every place is taken, those who have not logged in make room, the oldest
// first; those who have are never touched.
func TestTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told refusals
		_, p := pipe(t, Options{Authenticator: doorman{}, MaxConnections: 3, Refused: told.note})
		owner := p.dial(t, "192.0.2.1")
		owner.expect("+OK")
		owner.login("ann")
		var strangers []*client
		for i := range 5 {
			c := p.dial(t, fmt.Sprintf("192.0.2.%d", 10+i))
			c.expect("+OK")
			strangers = append(strangers, c)
		}
		for _, c := range strangers[:3] {
			c.ended()
		}
		told.want(t, Evicted, Evicted, Evicted)
		for i, c := range strangers[3:] {
			c.login(fmt.Sprint("late", i))
		}
		excess := p.dial(t, "192.0.2.99")
		excess.expect("-ERR [SYS/TEMP] too many connections")
		excess.ended()
		told.want(t, Evicted, Evicted, Evicted, Total)
		strangers[4].say("QUIT", "+OK")
		synctest.Wait()
		p.dial(t, "192.0.2.99").expect("+OK")
	})
}

// A client whose place is given away while it logs in gets no maildrop, and the
// maildrop that was opened for it does not stay open.
func TestEvictedInLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := make(chan struct{}), make(chan struct{})
		memory := upstreamtest.NewMemory("ann", "right")
		door := authenticator(func(context.Context, pop3.Credentials) (pop3.Login, error) {
			close(asked)
			<-answer
			drop, err := memory.Open(context.Background(), memory.Account())
			return pop3.Login{Maildrop: drop, Account: "ann"}, err
		})
		_, p := pipe(t, Options{Authenticator: door, MaxConnections: 1})
		first := p.dial(t, "192.0.2.1")
		first.expect("+OK")
		first.say("USER ann", "+OK")
		go fmt.Fprint(first, "PASS right\r\n")
		<-asked
		p.dial(t, "192.0.2.2").expect("+OK")
		close(answer)
		synctest.Wait()
		if opened, closed := memory.Handles(); opened != 1 || closed != 1 {
			t.Errorf("maildrops: %d opened, %d closed, want 1 and 1", opened, closed)
		}
	})
}

type authenticator func(context.Context, pop3.Credentials) (pop3.Login, error)

func (f authenticator) Authenticate(ctx context.Context, c pop3.Credentials) (pop3.Login, error) {
	return f(ctx, c)
}

// A refused client of implicit TLS costs no handshake and reads no plaintext.
func TestRefusedWithoutHandshake(t *testing.T) {
	cert, trust := certificate(t, "one")
	handshakes := make(chan uint16, 10)
	s := serve(t, Options{Authenticator: doorman{}, MaxPerAddress: 1,
		Listeners: []Listener{{TLS: Implicit, Certificate: cert}},
		Hooks:     func(string) pop3.Hooks { return pop3.Hooks{TLS: func(v uint16) { handshakes <- v }} },
	})
	first, err := dialTLS(t, s, 0, trust.client())
	if err != nil {
		t.Fatal(err)
	}
	first.expect("+OK")
	dial(t, s, 0).ended()
	if _, err := dialTLS(t, s, 0, trust.client()); err == nil {
		t.Error("got a second TLS connection, want it closed")
	}
	if version := <-handshakes; version != tls.VersionTLS13 || len(handshakes) != 0 {
		t.Errorf("handshakes: got TLS version %x and %d more, want one of TLS 1.3", version, len(handshakes))
	}
}

// However places are taken, kept and left, the counts come out even.
func TestAdmissionCounts(t *testing.T) {
	a := newAdmission(50, 5)
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			var mine []*place
			for range 2000 {
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(30))})
				if p, limit := a.enter(addr, func() {}); limit == "" {
					mine = append(mine, p)
				}
				if open, strangers := a.count(); open > 50 || strangers > open {
					t.Errorf("got %d open and %d strangers, want at most 50 and %d", open, strangers, open)
				}
				if len(mine) == 0 {
					continue
				}
				p := mine[random.IntN(len(mine))]
				p.known()
				if random.IntN(2) == 0 {
					p.leave()
					p.leave()
				}
			}
			for _, p := range mine {
				p.leave()
			}
		})
	}
	clients.Wait()
	if open, strangers := a.count(); open != 0 || strangers != 0 || len(a.addresses) != 0 {
		t.Errorf("at the end: got %d open, %d strangers, %d addresses, want none", open, strangers, len(a.addresses))
	}
}
