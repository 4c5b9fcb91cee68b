package compare

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/cmd/popbench/internal/load"
	"postern/upstream/upstreamtest/cyrus"
)

var errNotHere = errors.New("not on this machine")

// A harness stands for a test where there is none: package cyrus serves tests,
// and a Cyrus takes too much setting up to do it twice. What would fail a test
// panics with a failure, which attempt turns into an error.
type harness struct {
	testing.TB // nil: what is not below is not called
	b          *bench
}

type failure struct{ error }

func (h harness) Helper()                   {}
func (h harness) Context() context.Context  { return context.Background() }
func (h harness) Cleanup(f func())          { h.b.atEnd(f) }
func (h harness) Failed() bool              { return false }
func (h harness) Logf(f string, a ...any)   { h.b.logf(f, a...) }
func (h harness) Error(a ...any)            { h.b.logf("%s", fmt.Sprint(a...)) }
func (h harness) Errorf(f string, a ...any) { h.b.logf(f, a...) }
func (h harness) Fatal(a ...any)            { panic(failure{errors.New(fmt.Sprint(a...))}) }
func (h harness) Fatalf(f string, a ...any) { panic(failure{fmt.Errorf(f, a...)}) }
func (h harness) Skip(a ...any)             { panic(failure{fmt.Errorf("%s: %w", fmt.Sprint(a...), errNotHere)}) }

func attempt(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.error
		default:
			panic(r)
		}
	}()
	f()
	return nil
}

// jmap: the drain with Cyrus as the upstream, beside 4 concurrent downloads.
func (b *bench) jmap(ctx context.Context) error {
	var server *cyrus.Server
	m := drainBox(b.few(2000))
	err := attempt(func() {
		server = cyrus.Start(harness{b: b})
		server.AddUser(harness{b: b}, m.user, password)
	})
	if errors.Is(err, errNotHere) {
		b.logf("jmap left out: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.fill(ctx, server.IMAP); err != nil {
		return err
	}
	address := strings.Split(server.JMAP, "/")[2]
	for _, rtt := range b.distances(0, near, far) {
		if err := b.jmapAt(ctx, address, m, rtt); err != nil {
			return err
		}
	}
	return nil
}

const downloads = 4 // at once, of the bare reader

func (b *bench) jmapAt(ctx context.Context, address string, m *mailbox, rtt time.Duration) error {
	g, err := b.posternNamed(ctx, fmt.Sprint("postern-jmap-", rtt), rtt, posternOptions{jmap: address})
	if err != nil {
		return err
	}
	distant, _, err := b.distant(address, rtt)
	if err != nil {
		return err
	}
	reader, err := newJMAPReader(ctx, distant, m.user)
	if err != nil {
		return err
	}
	if n := len(reader.blobs); n != m.messages {
		return fmt.Errorf("bare JMAP: %d of %d messages: %w", n, m.messages, errContent)
	}
	ours, err := m.drainedBy(ctx, g)
	if err != nil {
		return err
	}
	if ours.scenario != (load.Drain{Messages: m.messages}) {
		ours.digest = 0 // the first of a part are others here: JMAP has no order of arrival
	}
	var bare []float64
	for range max(b.Rounds, 1) {
		if err := b.run(ctx, ours); err != nil {
			return err
		}
		rate, err := reader.drain(ctx, patience(rtt, m.messages)*downloads, m)
		if err != nil {
			return err
		}
		bare = append(bare, rate)
	}
	b.atLeast(Row{Line: "jmap", What: "RETR one at a time, Cyrus", RTT: rtt, Unit: perSecond,
		Ours: ours.median(load.Result.MessageRate), By: "4 bare downloads at once", Theirs: median(bare), Note: ours.note(m)}, 1)
	return nil
}
