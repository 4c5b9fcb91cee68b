package compare

import (
	"context"
	"fmt"
	"time"

	"postern/cmd/popbench/internal/load"
)

const (
	perSecond = "messages/s"
	mbPerSec  = "MB/s"
)

// patience is how many messages a peer gets that pays a round trip for each:
// its rate shows in a few.
func patience(rtt time.Duration, n int) int {
	if rtt == 0 {
		return n
	}
	return min(n, int(4*time.Second/rtt))
}

// drainedBy returns a turn of a gateway that drains all of the mailbox, or as
// much as is needed to see its rate if it takes a round trip for each message.
func (m *mailbox) drainedBy(ctx context.Context, g *gateway) (*turn, error) {
	if err := g.warm(ctx, m.user, load.Poll{Count: 1}); err != nil {
		return nil, err
	}
	n := patience(g.rtt, m.messages)
	r, err := load.Drain{Messages: n}.Run(ctx, g.as(m.user), nil)
	if err != nil {
		return nil, err
	}
	if r.Phase("messages") < 0.9*float64(n)*g.rtt.Seconds() || g.rtt == 0 {
		n = m.messages
	}
	return &turn{g: g, user: m.user, scenario: load.Drain{Messages: n}, digest: m.digests[n]}, nil
}

// drain: LIST, UIDL, RETR after RETR, at every distance.
func (b *bench) drain(ctx context.Context) error {
	m, err := b.box(ctx, drainBox(b.few(2000)))
	if err != nil {
		return err
	}
	whole := m.digests[m.messages]
	native := &turn{g: b.native(), user: m.user, scenario: load.Drain{}, digest: whole}
	turns := []*turn{native}
	ours, theirs := map[time.Duration]*turn{}, map[time.Duration]*turn{}
	for _, rtt := range b.distances(0, near, far) {
		p, i, err := b.both(ctx, rtt)
		if err != nil {
			return err
		}
		n := patience(rtt, m.messages)
		if ours[rtt], err = m.drainedBy(ctx, p); err != nil {
			return err
		}
		theirs[rtt] = &turn{g: i, user: m.user, scenario: load.Drain{Messages: n}, digest: m.digests[n]}
		if err := i.warm(ctx, m.user, load.Poll{Count: 1}); err != nil {
			return err
		}
		turns = append(turns, ours[rtt], theirs[rtt])
	}
	relayed, err := b.relayed(ctx, m)
	if err != nil {
		return err
	}
	if err := b.play(ctx, append(turns, relayed)...); err != nil {
		return err
	}
	var bare []float64
	for range max(b.Rounds, 1) {
		rate, err := bareIMAP(ctx, b.storage.imap, m)
		if err != nil {
			return err
		}
		bare = append(bare, rate)
	}
	bulk := median(bare)
	for _, rtt := range b.distances(0, near, far) {
		row := Row{Line: "drain", What: "RETR one at a time", RTT: rtt, Ours: ours[rtt].median(load.Result.MessageRate), Unit: perSecond}
		by := func(name string, t *turn, rate func(load.Result) float64) Row {
			row.Ours, row.By, row.Theirs = ours[rtt].median(rate), name, t.median(rate)
			row.Note = ours[rtt].note(m)
			return row
		}
		switch own := ours[0]; {
		case rtt == 0:
			b.atLeast(by("native", native, load.Result.MessageRate), 1)
			through := by("itself without", own, load.Result.MessageRate)
			through.What, through.Ours = "the same, behind the relay", relayed.median(load.Result.MessageRate)
			b.told(through)
		case own != nil:
			b.atLeast(by("itself at 0 ms", own, load.Result.MessageRate), 0.7)
		}
		b.told(by("imapc", theirs[rtt], load.Result.MessageRate))
		if own := ours[0]; rtt > 0 && own != nil {
			whole := by("itself at 0 ms", own, wholeRate)
			whole.What += ", from connecting to QUIT"
			b.told(whole)
		}
		row.Ours, row.By, row.Theirs = ours[rtt].median(load.Result.MessageRate), "bare IMAP, one command", bulk
		b.told(row)
	}
	return b.drainFar(ctx)
}

// relayed is the turn of a gateway behind a relay that delays nothing: it shows
// what the relay itself costs, which shares the machine.
func (b *bench) relayed(ctx context.Context, m *mailbox) (*turn, error) {
	g, err := b.posternNamed(ctx, "postern-relayed", time.Nanosecond, posternOptions{})
	if err != nil {
		return nil, err
	}
	return m.drainedBy(ctx, g)
}

// wholeRate is messages a second of all of a session.
func wholeRate(r load.Result) float64 { return float64(r.Messages) / r.Seconds }

// drainFar: more messages than take only a few round trips.
func (b *bench) drainFar(ctx context.Context) error {
	if len(b.distances(0)) == 0 || len(b.distances(near, far)) == 0 {
		return nil
	}
	m, err := b.box(ctx, farBox(b.few(8000)))
	if err != nil {
		return err
	}
	turns := map[time.Duration]*turn{}
	var all []*turn
	for _, rtt := range b.distances(0, near, far) {
		g, err := b.postern(ctx, rtt)
		if err != nil {
			return err
		}
		if turns[rtt], err = m.drainedBy(ctx, g); err != nil {
			return err
		}
		all = append(all, turns[rtt])
	}
	if err := b.play(ctx, all...); err != nil {
		return err
	}
	for _, rtt := range b.distances(near, far) {
		row := Row{Line: "drain", What: fmt.Sprintf("RETR one at a time, %d messages", m.messages), RTT: rtt, Unit: perSecond,
			By: "itself at 0 ms", Note: turns[rtt].note(m)}
		row.Ours, row.Theirs = turns[rtt].median(load.Result.MessageRate), turns[0].median(load.Result.MessageRate)
		b.atLeast(row, 0.7)
		row.What += ", from connecting to QUIT"
		row.Ours, row.Theirs = turns[rtt].median(wholeRate), turns[0].median(wholeRate)
		b.told(row)
	}
	return nil
}

// drainVariants: with DELE, pipelined, with TLS on both sides; at no distance.
func (b *bench) drainVariants(ctx context.Context) error {
	m, err := b.box(ctx, drainBox(b.few(2000)))
	if err != nil {
		return err
	}
	g, err := b.postern(ctx, 0)
	if err != nil {
		return err
	}
	secure, err := b.posternNamed(ctx, "postern-tls", 0, posternOptions{tls: true})
	if err != nil {
		return err
	}
	whole := m.digests[m.messages]
	plain := &turn{g: g, user: m.user, scenario: load.Drain{}, digest: whole}
	dele := &turn{g: g, user: m.user, scenario: load.Drain{Delete: true}, digest: whole}
	piped := &turn{g: g, user: m.user, scenario: load.Drain{Pipeline: 32}, digest: whole}
	overTLS := &turn{g: secure, user: m.user, scenario: load.Drain{}, digest: whole}
	native := &turn{g: b.native(), user: m.user, scenario: load.Drain{Delete: true}, digest: whole}
	for _, g := range []*gateway{g, secure} {
		if err := g.warm(ctx, m.user, load.Poll{Count: 1}); err != nil {
			return err
		}
	}
	if err := b.play(ctx, plain, dele, piped, overTLS, native); err != nil {
		return err
	}
	row := func(what string, t *turn) Row {
		return Row{Line: "variants", What: what, Ours: t.median(load.Result.MessageRate), Unit: perSecond,
			By: "plain drain", Theirs: plain.median(load.Result.MessageRate)}
	}
	deleted := row("DELE after each RETR", dele)
	b.atLeast(deleted, 0.95)
	deleted.By, deleted.Theirs = "native, the same", native.median(load.Result.MessageRate)
	b.told(deleted)
	b.atLeast(row("32 RETRs pipelined", piped), 1)
	b.told(row("TLS on both sides", overTLS))
	return nil
}

// top: TOP n 0 of all messages of a mailbox of 300. Dovecot keeps headers that
// it has seen, and what a client asks for is what it sees first: so every turn
// has a mailbox of its own.
func (b *bench) top(ctx context.Context) error {
	m, err := b.box(ctx, topBox(b.few(300)))
	if err != nil {
		return err
	}
	for _, rtt := range b.distances(0, near) {
		p, i, err := b.both(ctx, rtt)
		if err != nil {
			return err
		}
		ours, theirs := &turn{g: p}, &turn{g: i}
		var octets, bare []float64
		for round := range max(b.Rounds, 1) {
			rate, err := b.bareHeaders(ctx, m, fmt.Sprintf("top-bare-%v-%d", rtt, round))
			if err != nil {
				return err
			}
			bare = append(bare, rate)
			for _, t := range []*turn{ours, theirs} {
				t.user, t.scenario = fmt.Sprintf("top-%s-%v-%d", t.g.name, rtt, round), load.Top{}
				if t == theirs {
					t.scenario = load.Top{Messages: patience(rtt, m.messages)}
				}
				n, err := b.topOnce(ctx, m, t)
				if err != nil {
					return err
				}
				if t == ours {
					octets = append(octets, n)
				}
			}
		}
		row := Row{Line: "top", What: fmt.Sprintf("TOP n 0 of %d messages", m.messages), RTT: rtt, Unit: perSecond,
			Ours: ours.median(load.Result.MessageRate), By: "imapc", Theirs: theirs.median(load.Result.MessageRate)}
		b.atLeast(row, map[time.Duration]float64{0: 3, near: 100}[rtt])
		if rtt == 0 {
			row.By, row.Theirs = "bare IMAP, one command", median(bare)
			b.told(row)
		}
		if rtt > 0 {
			b.atMost(Row{Line: "top", What: "upstream octets for each octet of header", RTT: rtt, Ours: median(octets), Unit: "octets"}, 1.2)
		}
	}
	return nil
}

// topOnce takes a turn on a copy of the mailbox, and returns how many octets
// upstream sent for each octet of header, beside what it sends for a poll.
func (b *bench) topOnce(ctx context.Context, m *mailbox, t *turn) (octets float64, err error) {
	if err := m.copyTo(b.storage, t.user); err != nil {
		return 0, err
	}
	defer b.storage.remove(t.user)
	down := func(o scenario) (int64, error) {
		before := t.g.counters()
		_, err := o.Run(ctx, t.g.as(t.user), nil)
		return t.g.counters().Since(before).Down, err
	}
	if err := t.g.warm(ctx, t.user, load.Poll{Count: 1}); err != nil {
		return 0, err
	}
	poll, err := down(load.Poll{Count: 1})
	if err != nil {
		return 0, err
	}
	before := t.g.counters()
	if err := b.run(ctx, t); err != nil {
		return 0, err
	}
	r := t.results[len(t.results)-1]
	if want := m.headers[r.Messages]; r.Octets != want {
		return 0, fmt.Errorf("%s: %d octets of headers, not %d: %w", t.g.name, r.Octets, want, errContent)
	}
	return float64(t.g.counters().Since(before).Down-poll) / float64(r.Octets), nil
}

// big: 10 messages of 30 MB.
func (b *bench) big(ctx context.Context) error {
	m, err := b.box(ctx, bigBox(b.few(10)))
	if err != nil {
		return err
	}
	mb := func(r load.Result) float64 { return r.OctetRate() / 1e6 }
	for _, rtt := range b.distances(0, near, far) {
		// One that no other line has made grow yet.
		g, err := b.posternNamed(ctx, fmt.Sprintf("postern-big-%v", rtt), rtt, posternOptions{})
		if err != nil {
			return err
		}
		i, err := b.imapc(ctx, rtt)
		if err != nil {
			return err
		}
		turns := []*turn{{g: b.native()}, {g: g}, {g: i}}
		for _, t := range turns {
			if err := t.g.warm(ctx, m.user, load.Poll{Count: 1}); err != nil {
				return err
			}
			t.user, t.scenario, t.digest = m.user, load.Drain{}, m.digests[m.messages]
		}
		native, ours, peer := turns[0], turns[1], turns[2]
		growth := watchMemory(g.pid)
		err = b.play(ctx, turns...)
		grown := growth()
		if err != nil {
			return err
		}
		b.atLeast(Row{Line: "big", What: fmt.Sprintf("%d messages of 30 MB", m.messages), RTT: rtt,
			Ours: ours.median(mb), Unit: mbPerSec, By: "native", Theirs: native.median(mb)}, 1)
		b.told(Row{Line: "big", What: "the same", RTT: rtt, Ours: ours.median(mb), Unit: mbPerSec, By: "imapc", Theirs: peer.median(mb)})
		first := func(r load.Result) float64 { return r.FirstOctet.Max }
		b.atMost(Row{Line: "big", What: "longest wait for a first octet", RTT: rtt, Ours: ours.median(first), Unit: "ms",
			By: "imapc", Theirs: peer.median(first)}, float64(rtt.Milliseconds())+5)
		b.atMost(Row{Line: "big", What: "growth of memory", RTT: rtt, Ours: float64(grown) / 1e6, Unit: "MB"}, 10)
	}
	return nil
}

// watchMemory looks at the memory of a process until its answer is called
// for, which is how much it grew at most.
func watchMemory(pid int) (growth func() int64) {
	before, _ := load.PSS(pid)
	most := before
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if now, err := load.PSS(pid); err == nil {
				most = max(most, now)
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(stop); <-done; return most - before }
}

// cpu: processor time of the gateway for a drained MB, beside a relay that
// only copies.
func (b *bench) cpu(ctx context.Context) error {
	m, err := b.box(ctx, drainBox(b.few(2000)))
	if err != nil {
		return err
	}
	ours, err := b.postern(ctx, 0)
	if err != nil {
		return err
	}
	bare, err := b.bareRelay(ctx)
	if err != nil {
		return err
	}
	// The kernel counts in steps of 10 ms, and a relay needs few for a MB.
	const enough = 250e6
	var spent [2]time.Duration
	octets := 0.0
	for octets < enough {
		for i, g := range []*gateway{ours, bare} {
			d, err := b.drainCPU(ctx, g, m)
			if err != nil {
				return err
			}
			spent[i] += d
		}
		octets += float64(m.octets)
	}
	perMB := func(d time.Duration) float64 { return d.Seconds() * 1000 / (octets / 1e6) }
	b.atMostTimes(Row{Line: "cpu", What: "processor time for a drained MB", Ours: perMB(spent[0]), Unit: "ms",
		By: "bare TCP relay in Go", Theirs: perMB(spent[1])}, 3)
	return nil
}

// drainCPU is the processor time that a gateway spends on a drain.
func (b *bench) drainCPU(ctx context.Context, g *gateway, m *mailbox) (time.Duration, error) {
	before, err := load.CPU(g.pid)
	if err != nil {
		return 0, err
	}
	t := &turn{g: g, user: m.user, scenario: load.Drain{}, digest: m.digests[m.messages]}
	if err := b.run(ctx, t); err != nil {
		return 0, err
	}
	after, err := load.CPU(g.pid)
	return after - before, err
}
