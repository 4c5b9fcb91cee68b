package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/auth"
	"postern/proxy/ledger"
	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest/oracle"
)

// benched runs a test in a bubble, on a bench of its own.
func benched(t *testing.T, test func(b *faultBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFaultBench(t)
		test(b)
		b.wait()
	})
}

// A faultBench is a gateway, in a bubble, before a server whose faults are to
// order.
type faultBench struct {
	*oracle.Server
	t       *testing.T
	options imapc.Options // to be changed before the first session
	mail    []int         // what is in the mailbox at first, oldest first

	gateway  *pop3.Server // nil before the first session
	sessions sync.WaitGroup

	mu      sync.Mutex
	down    bool // the server cannot be reached
	faults  map[string][]oracle.Fault
	forever map[string]oracle.Fault
	sent    []string // the commands of the gateway
}

// newFaultBench has ten messages in a mailbox, one of them large.
func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{t: t, Server: oracle.NewServer(), faults: map[string][]oracle.Fault{}, forever: map[string]oracle.Fault{}}
	b.Server.Fault = b.fault
	b.AddAccount(oracleUser, "secret")
	b.mail = b.Deliver(oracleUser, 10)
	store := state.Off()
	b.options = imapc.Options{
		Address: "imap.oracle.example:143", TLS: imapc.TLSOff, Dial: b.dial,
		Journal: store.Journal("there"), Listings: listings{store, "there"},
	}
	return b
}

const largeMessage = 7 // its number; the oracle makes every seventh large

// wait wants every session to have ended, and nothing to have been sent that
// could remove what it does not name.
func (b *faultBench) wait() {
	b.t.Helper()
	b.sessions.Wait()
	time.Sleep(time.Minute) // for those who are saying goodbye
	b.Cut()
	for _, e := range b.Record.Events() {
		if e.Kind == oracle.Forbidden {
			b.t.Errorf("sent %q, which must never be", e.Command)
		}
	}
}

func (b *faultBench) dial(ctx context.Context, network, address string) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, errors.New("connection refused")
	}
	return b.Dial(ctx, network, address)
}

func (b *faultBench) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// stage is what a command is for, in the words of this file.
func stage(s oracle.Step) string {
	switch {
	case strings.Contains(s.Command, "BODY"):
		return "message"
	case s.Verb == "UID FETCH" && strings.Contains(s.Command, ":*"):
		return "listing"
	case s.Verb == "UID FETCH":
		return "look"
	}
	return s.Verb
}

// once orders faults for the next commands of a stage, one each.
func (b *faultBench) once(stage string, faults ...oracle.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[stage] = faults
}

// always orders a fault for every command of a stage.
func (b *faultBench) always(stage string, f oracle.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forever[stage] = f
}

func (b *faultBench) fault(s oracle.Step) oracle.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, s.Command)
	at := stage(s)
	if f, ok := b.forever[at]; ok {
		return f
	}
	if next := b.faults[at]; len(next) > 0 {
		b.faults[at] = next[1:]
		return next[0]
	}
	return oracle.Fault{}
}

// commands are those that the gateway has sent that begin so.
func (b *faultBench) commands(prefix string) (some []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.sent {
		if strings.HasPrefix(c, prefix) {
			some = append(some, c)
		}
	}
	return some
}

// connect begins a session.
func (b *faultBench) connect() popClient {
	b.t.Helper()
	if b.gateway == nil {
		pinned := ledger.New(imapc.New(b.options), state.Off(), ledger.Options{Origin: "faults"})
		b.gateway = &pop3.Server{
			Authenticator: auth.New(auth.Options{
				Routes: []auth.Route{{User: "*", Upstream: "there", Opener: pinned}},
				Locker: state.Off(),
			}),
			PlaintextLogin: func(netip.Addr) bool { return true },
		}
	}
	here, there := net.Pipe()
	b.sessions.Go(func() { b.gateway.Serve(context.Background(), there) })
	c := popClient{b.t, textproto.NewConn(here)}
	b.t.Cleanup(func() { c.Close() })
	c.expect("+OK")
	return c
}

// logIn begins a session, which must be answered like that.
func (b *faultBench) logIn(want string) popClient {
	b.t.Helper()
	c := b.connect()
	c.login(oracleUser, "secret", want)
	if !strings.HasPrefix(want, "+OK") {
		c.Close()
	}
	return c
}

// refused wants a login to be answered like that.
func (b *faultBench) refused(want string) {
	b.t.Helper()
	b.logIn(want)
}

// gets retrieves a message, and wants it to be that one.
func (c popClient) gets(number, id int) {
	c.t.Helper()
	c.say(fmt.Sprint("RETR ", number), "+OK")
	lines, err := c.ReadDotLines()
	if got, want := strings.Join(lines, "\r\n")+"\r\n", oracle.RawOf(id); err != nil || got != want {
		c.t.Errorf("message %d: got %.60q, %d octets, and %v; want message %d, %d octets", number, got, len(got), err, id, len(want))
	}
}

// breaksOff retrieves a message that must begin and not come to an end: no dot,
// only the end of the connection.
func (c popClient) breaksOff(number int) {
	c.t.Helper()
	began := time.Now()
	c.say(fmt.Sprint("RETR ", number), "+OK")
	rest, err := io.ReadAll(c.R)
	if took := time.Since(began); took > time.Minute {
		c.t.Errorf("a message that breaks off: the connection stayed open for %v, want it closed", took)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || strings.HasSuffix(string(rest), "\r\n.\r\n") || len(rest) > len(oracle.RawOf(largeMessage-1)) {
		c.t.Errorf("a message that breaks off: got %d octets, ending in %.20q, and %v; want no final dot", len(rest), rest[max(0, len(rest)-20):], err)
	}
}

// holds wants exactly these messages to be there, and the rest to be gone.
func (b *faultBench) holds(ids ...int) {
	b.t.Helper()
	if got := b.IDs(oracleUser, "INBOX"); !slices.Equal(got, ids) {
		b.t.Errorf("mailbox: got messages %v, want %v", got, ids)
	}
}

// without is the mail but for some numbers.
func (b *faultBench) without(numbers ...int) (ids []int) {
	for i, id := range b.mail {
		if !slices.Contains(numbers, i+1) {
			ids = append(ids, id)
		}
	}
	return ids
}

func refuse(reply string) oracle.Fault { return oracle.Fault{Do: oracle.Refuse, Reply: reply} }

func drop(do oracle.Do) oracle.Fault { return oracle.Fault{Do: do} }

// say answers with lines, in which TAG stands for that of the command, and
// goes on.
func say(lines ...string) oracle.Fault {
	return oracle.Fault{Speak: func(tag string, conn io.ReadWriter) bool {
		for _, l := range lines {
			if _, err := io.WriteString(conn, strings.Replace(l, "TAG", tag, 1)+"\r\n"); err != nil {
				return false
			}
		}
		return true
	}}
}

// rewrite replaces what matches a pattern in an answer.
func rewrite(pattern, by string) oracle.Fault {
	r := regexp.MustCompile(pattern)
	return oracle.Fault{Rewrite: func(answer string) string { return r.ReplaceAllString(answer, by) }}
}
