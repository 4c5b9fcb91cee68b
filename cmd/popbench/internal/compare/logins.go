package compare

import (
	"context"
	"fmt"
	"time"

	"postern/cmd/popbench/internal/load"
)

// poll: connect, login, STAT, UIDL, QUIT of unchanged mailboxes.
func (b *bench) poll(ctx context.Context) error {
	m, err := b.box(ctx, pollBox())
	if err != nil {
		return err
	}
	const most = 64
	var others []string
	for i := 2; i <= most; i++ {
		others = append(others, fmt.Sprint("poll", i))
	}
	if err := m.copyTo(b.storage, others...); err != nil {
		return err
	}
	five := map[int]float64{1: 5, 16: 5, 64: 5}
	fresh := pollCase{"fresh upstream", posternOptions{}, map[time.Duration]map[int]float64{0: {64: 2}, near: {16: 1.4}}, 4}
	warm := pollCase{"warm upstream", posternOptions{warm: true}, map[time.Duration]map[int]float64{0: five, near: five}, 1}
	cases := []pollCase{fresh, warm}
	if b.Warm == "" {
		b.logf("poll: warm upstreams are left out, --warm does not say how to have them")
		cases = cases[:1]
	}
	for _, rtt := range b.distances(0, near) {
		for _, c := range cases {
			if err := b.pollAt(ctx, rtt, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// A pollCase is a gateway that is polled, and what it is to reach.
type pollCase struct {
	what    string
	options posternOptions
	times   map[time.Duration]map[int]float64 // imapc's sessions a second: by distance, by sessions at once
	trips   float64                           // at most, a session
}

func (b *bench) pollAt(ctx context.Context, rtt time.Duration, c pollCase) error {
	g, err := b.posternNamed(ctx, fmt.Sprintf("postern-%v-%t", rtt, c.options.warm), rtt, c.options)
	if err != nil {
		return err
	}
	peer, err := b.imapc(ctx, rtt)
	if err != nil {
		return err
	}
	for _, t := range []*gateway{g, peer} {
		if err := t.warmEach(ctx, "poll", 64); err != nil {
			return err
		}
	}
	if c.options.warm {
		time.Sleep(2 * time.Second) // until the upstream idles on the connections that are kept
	}
	for _, n := range []int{1, 16, 64} {
		o := load.Poll{Concurrency: n, Duration: b.pollTime()}
		ours := &turn{g: g, user: "poll%d", scenario: o}
		theirs := &turn{g: peer, user: "poll%d", scenario: o}
		before, peerBefore := g.counters(), peer.counters()
		if err := b.play(ctx, ours, theirs); err != nil {
			return err
		}
		row := Row{Line: "poll", What: fmt.Sprintf("%s, %d at once", c.what, n), RTT: rtt, Unit: "sessions/s",
			Ours: ours.median(load.Result.SessionRate), By: "imapc", Theirs: theirs.median(load.Result.SessionRate)}
		if times, asked := c.times[rtt][n]; asked {
			b.atLeast(row, times)
		} else {
			b.told(row)
		}
		if rtt > 0 && n == 1 {
			row.Unit = "round trips"
			row.Ours = float64(g.counters().Since(before).RoundTrips) / ours.sessions()
			row.Theirs = float64(peer.counters().Since(peerBefore).RoundTrips) / theirs.sessions()
			b.atMost(row, c.trips)
		}
	}
	return nil
}

// warmEach warms one user after the other: user1, user2 and so on.
func (g *gateway) warmEach(ctx context.Context, user string, n int) error {
	for i := range n {
		if err := g.warm(ctx, fmt.Sprint(user, i+1), load.Poll{Count: 1}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) pollTime() time.Duration {
	if b.Quick {
		return time.Second
	}
	return 3 * time.Second
}

// list: the first and the second login to a mailbox of 100,000 messages.
func (b *bench) list(ctx context.Context) error {
	m, err := b.box(ctx, manyBox(b.few(100000)))
	if err != nil {
		return err
	}
	native := &turn{g: b.native(), user: m.user, scenario: load.List{}}
	if err := b.run(ctx, native); err != nil {
		return err
	}
	native.results = nil
	took := func(r load.Result) float64 { return 1000 * r.Seconds }
	for _, rtt := range b.distances(0, near) {
		i, err := b.imapc(ctx, rtt)
		if err != nil {
			return err
		}
		peer := &turn{g: i, user: m.user, scenario: load.List{}}
		begin := time.Now()
		if err := i.warm(ctx, m.user, load.List{}); err != nil {
			return err
		}
		cold := time.Since(begin).Seconds()
		first, kept := &turn{user: m.user, scenario: load.List{}}, &turn{user: m.user, scenario: load.List{}}
		var octets []float64
		for range max(b.Rounds, 1) {
			name := fmt.Sprintf("postern-list-%v", rtt)
			b.forget(name)
			g, err := b.posternNamed(ctx, name, rtt, posternOptions{})
			if err != nil {
				return err
			}
			first.g, kept.g = g, g
			for _, t := range []*turn{native, first, peer} {
				if err := b.run(ctx, t); err != nil {
					return err
				}
			}
			before := g.counters()
			if err := b.run(ctx, kept); err != nil {
				return err
			}
			octets = append(octets, float64(g.counters().Since(before).Down))
		}
		what := fmt.Sprintf("login, STAT, LIST, UIDL of %d", m.messages)
		row := Row{Line: "list", What: what + ", first time", RTT: rtt, Ours: first.median(took), Unit: "ms",
			By: "native warm", Theirs: native.median(took), Note: fmt.Sprintf("(imapc cold at 0 ms: %.0f ms)", 1000*cold)}
		if rtt > 0 {
			row.Theirs += 4 * float64(rtt.Milliseconds())
			row.By = "native warm and 4 RTT"
		}
		b.atMostTimes(row, 1)
		b.atMostTimes(Row{Line: "list", What: what + ", listing kept", RTT: rtt, Ours: kept.median(took), Unit: "ms",
			By: "imapc warm", Theirs: peer.median(took)}, 1/3.0)
		if rtt > 0 {
			b.atMost(Row{Line: "list", What: "upstream octets, listing kept", RTT: rtt, Ours: median(octets), Unit: "octets"}, 4096)
		}
	}
	return nil
}

// remove: DELE of 2,000 and QUIT.
func (b *bench) remove(ctx context.Context) error {
	m, err := b.box(ctx, deleteBox(b.few(2000)))
	if err != nil {
		return err
	}
	for _, rtt := range b.distances(0, near) {
		p, i, err := b.both(ctx, rtt)
		if err != nil {
			return err
		}
		ours, theirs := &turn{g: p, scenario: load.Delete{}}, &turn{g: i, scenario: load.Delete{}}
		for round := range max(b.Rounds, 1) {
			for _, t := range []*turn{ours, theirs} {
				t.user = fmt.Sprintf("delete-%s-%v-%d", t.g.name, rtt, round)
				if err := b.removeOnce(ctx, m, t); err != nil {
					return err
				}
			}
		}
		took := func(r load.Result) float64 { return 1000 * (r.Phase("messages") + r.Phase("end")) }
		row := Row{Line: "delete", What: fmt.Sprintf("DELE of %d, QUIT", m.messages), RTT: rtt, Ours: ours.median(took), Unit: "ms",
			By: "imapc and one RTT", Theirs: theirs.median(took) + float64(rtt.Milliseconds())}
		b.atMostTimes(row, 1)
	}
	return nil
}

// removeOnce empties a copy of the mailbox, and looks that it is empty.
func (b *bench) removeOnce(ctx context.Context, m *mailbox, t *turn) error {
	if err := m.copyTo(b.storage, t.user); err != nil {
		return err
	}
	defer b.storage.remove(t.user)
	if err := t.g.warm(ctx, t.user, load.Poll{Count: 1}); err != nil {
		return err
	}
	if err := b.run(ctx, t); err != nil {
		return err
	}
	left, err := load.Poll{Count: 1}.Run(ctx, b.native().as(t.user), nil)
	if err != nil {
		return err
	}
	if done := t.results[len(t.results)-1].Messages; done != m.messages || left.Messages != 0 {
		return fmt.Errorf("%s: %d of %d messages marked, %d left after QUIT: %w", t.g.name, done, m.messages, left.Messages, errContent)
	}
	return nil
}

// idle: memory of sessions that do nothing.
func (b *bench) idle(ctx context.Context) error {
	for _, o := range []struct {
		tls   bool
		what  string
		limit float64
	}{{false, "plaintext", 60}, {true, "TLS on both sides", 100}} {
		for _, n := range []int{500, 2000} {
			name := fmt.Sprintf("postern-idle-%v-%d", o.tls, n)
			g, err := b.posternNamed(ctx, name, 0, posternOptions{tls: o.tls})
			if err != nil {
				return err
			}
			if err := g.warmEach(ctx, "idle", 10); err != nil {
				return err
			}
			t := &turn{g: g, user: "idle%d", scenario: load.Idle{Sessions: b.few(n), Settle: 5 * time.Second, PID: g.pid}}
			err = b.run(ctx, t)
			b.forget(name)
			if err != nil {
				return err
			}
			b.atMost(Row{Line: "idle", What: fmt.Sprintf("PSS of a session, %d of them, %s", b.few(n), o.what),
				Ours: float64(t.results[0].Memory.PerSession) / 1000, Unit: "kB"}, o.limit)
		}
	}
	return nil
}
