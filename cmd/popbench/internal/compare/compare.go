// Package compare measures the gateway of this checkout beside the programs it
// is to be compared with, on one machine, in one run, and prints the ratios.
//
// It starts everything itself, on loopback and in a directory that it removes:
// a Dovecot that holds the mail (its POP3 server is "native"), Dovecot's POP3
// server on that one's IMAP ("imapc"), the gateway ("postern"), a Cyrus for
// JMAP, and a relay that adds distance between a gateway and its upstream.
// Runs of contenders take turns, so that whatever else the machine does hits
// all of them. Timings never fail a run; a message that is not whole, or not
// the right one, does.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/cmd/popbench/internal/load"
	"postern/cmd/popbench/internal/relay"
)

// Options say what to compare.
type Options struct {
	Checkout string          // where the module is
	Postern  string          // the gateway's program; empty builds it from the checkout
	Lines    []string        // of the table, by name; none means all
	RTTs     []time.Duration // 0 need not be among them
	Rounds   int             // how often each contender runs
	Quick    bool            // small mailboxes
	Config   string          // more YAML for the gateway; DIR in it is a directory of its own
	Warm     string          // a line of YAML that makes a route keep its upstream connections warm
	Log      io.Writer       // what is being done
}

// Lines names the lines of the table, in order.
func Lines() []string {
	var names []string
	for _, l := range lines {
		names = append(names, l.name)
	}
	return names
}

var lines = []struct {
	name    string
	measure func(*bench, context.Context) error
}{
	{"drain", (*bench).drain},
	{"variants", (*bench).drainVariants},
	{"jmap", (*bench).jmap},
	{"top", (*bench).top},
	{"poll", (*bench).poll},
	{"list", (*bench).list},
	{"big", (*bench).big},
	{"delete", (*bench).remove},
	{"cpu", (*bench).cpu},
	{"idle", (*bench).idle},
}

// Check tells what there is not among what is to be measured.
func (o Options) Check() error {
	for _, name := range o.Lines {
		if !slices.Contains(Lines(), name) {
			return fmt.Errorf("no line %q, only %s", name, strings.Join(Lines(), ", "))
		}
	}
	for _, rtt := range o.RTTs {
		if rtt != 0 && rtt != near && rtt != far {
			return fmt.Errorf("no distance %v, only 0, %v and %v", rtt, near, far)
		}
	}
	return nil
}

// Run measures and reports. The report holds what was measured also where the
// run fails.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	b := &bench{Options: o, Report: newReport(), gateways: map[string]*gateway{}, boxes: map[string]*mailbox{}}
	defer b.end()
	if err := b.setUp(ctx); err != nil {
		return b.Report, err
	}
	for _, l := range lines {
		if len(o.Lines) > 0 && !slices.Contains(o.Lines, l.name) {
			continue
		}
		b.logf("%s", l.name)
		if err := l.measure(b, ctx); err != nil {
			return b.Report, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return b.Report, nil
}

// A bench is one run of all this.
type bench struct {
	Options
	*Report

	dir               string
	caFile            string
	certFile, keyFile string
	storage           *dovecot
	gateways          map[string]*gateway
	boxes             map[string]*mailbox
	ends              []func()
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.Log, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// atEnd has f called at the end of the run; last come, first called.
func (b *bench) atEnd(f func()) { b.ends = append(b.ends, f) }

func (b *bench) end() {
	for _, f := range slices.Backward(b.ends) {
		f()
	}
}

func (b *bench) setUp(ctx context.Context) (err error) {
	// Names of sockets in it have at most 108 octets, so it is a short one.
	if b.dir, err = os.MkdirTemp("", "popbench"); err != nil {
		return err
	}
	b.atEnd(func() { os.RemoveAll(b.dir) })
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if err := b.writeCertificate(); err != nil {
		return err
	}
	if b.Postern == "" {
		b.logf("build the gateway")
		if err := b.build(ctx); err != nil {
			return err
		}
	}
	b.storage, err = b.startStorage(ctx)
	return err
}

// box returns the mailbox of that name, filled.
func (b *bench) box(ctx context.Context, m *mailbox) (*mailbox, error) {
	if known, ok := b.boxes[m.user]; ok {
		return known, nil
	}
	begin := time.Now()
	if err := m.fill(ctx, b.storage.imap); err != nil {
		return nil, err
	}
	b.logf("%s: %d messages, %.0f MB, in %.1f s", m.user, m.messages, float64(m.octets)/1e6, time.Since(begin).Seconds())
	b.boxes[m.user] = m
	return m, nil
}

// few is full, or a twentieth of it in a quick run.
func (b *bench) few(full int) int {
	if b.Quick {
		return max(full/20, 3)
	}
	return full
}

// distances are the RTTs asked for that are among those.
func (b *bench) distances(among ...time.Duration) (some []time.Duration) {
	for _, rtt := range among {
		if slices.Contains(b.RTTs, rtt) {
			some = append(some, rtt)
		}
	}
	return some
}

const (
	near = 20 * time.Millisecond
	far  = 100 * time.Millisecond
)

// A gateway is a POP3 server that is measured.
type gateway struct {
	name   string
	rtt    time.Duration
	target load.Target
	relay  *relay.Relay // to its upstream; nil without distance
	pid    int
	end    func() // of the gateway's process; nil where nobody needs it before the end of the run
}

func (g *gateway) as(user string) load.Target {
	t := g.target
	t.User, t.Password = user, password
	return t
}

// counters are those of the way upstream, zero where there is none.
func (g *gateway) counters() relay.Counters {
	if g.relay == nil {
		return relay.Counters{}
	}
	return g.relay.Counters()
}

// warm has a scenario run once without distance and without being measured, so
// that indexes, caches and kept listings are there. imapc takes a round trip
// for each message that it sees for the first time.
func (g *gateway) warm(ctx context.Context, user string, o scenario) error {
	if g.relay != nil {
		g.relay.SetRTT(0)
		defer g.relay.SetRTT(g.rtt)
	}
	if _, err := o.Run(ctx, g.as(user), nil); err != nil {
		return fmt.Errorf("%s as %s: %w", g.name, user, err)
	}
	return nil
}

// A scenario is one of package load's.
type scenario interface {
	Run(context.Context, load.Target, load.Progress) (load.Result, error)
}

// distant returns an address at which to is, rtt away.
func (b *bench) distant(to string, rtt time.Duration) (address string, r *relay.Relay, err error) {
	if rtt == 0 {
		return to, nil, nil
	}
	l, err := listen()
	if err != nil {
		return "", nil, err
	}
	r = relay.New(to, rtt, 0)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Serve(ctx, l) }()
	b.atEnd(func() { cancel(); <-done })
	return l.Addr().String(), r, nil
}

func (b *bench) native() *gateway {
	return &gateway{name: "native", target: load.Target{Address: b.storage.pop3, TLS: "off"}, pid: b.storage.PID()}
}

// imapc returns the peer at a distance from the storage, started when first
// asked for.
func (b *bench) imapc(ctx context.Context, rtt time.Duration) (*gateway, error) {
	name := fmt.Sprintf("imapc-%v", rtt)
	if g, ok := b.gateways[name]; ok {
		return g, nil
	}
	address, r, err := b.distant(b.storage.imap, rtt)
	if err != nil {
		return nil, err
	}
	d, err := b.startIMAPC(ctx, name, address)
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "imapc", rtt: rtt, target: load.Target{Address: d.pop3, TLS: "off"}, relay: r, pid: d.PID()}
	b.gateways[name] = g
	return g, nil
}

// both returns the gateway and its peer at a distance from the storage.
func (b *bench) both(ctx context.Context, rtt time.Duration) (ours, theirs *gateway, err error) {
	if ours, err = b.postern(ctx, rtt); err != nil {
		return nil, nil, err
	}
	theirs, err = b.imapc(ctx, rtt)
	return ours, theirs, err
}

// postern returns the gateway at a distance from the storage.
func (b *bench) postern(ctx context.Context, rtt time.Duration) (*gateway, error) {
	return b.posternNamed(ctx, fmt.Sprintf("postern-%v", rtt), rtt, posternOptions{})
}

func (b *bench) posternNamed(ctx context.Context, name string, rtt time.Duration, o posternOptions) (*gateway, error) {
	if g, ok := b.gateways[name]; ok {
		return g, nil
	}
	to := b.storage.imap
	switch {
	case o.jmap != "":
		to = o.jmap
	case o.tls:
		to = b.storage.imaps
	}
	address, r, err := b.distant(to, rtt)
	if err != nil {
		return nil, err
	}
	p, target, err := b.startPostern(ctx, name, address, o)
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "postern", rtt: rtt, target: target, relay: r, pid: p.PID(), end: p.End}
	b.gateways[name] = g
	return g, nil
}

// forget makes posternNamed start that gateway anew, and ends the old one.
func (b *bench) forget(name string) {
	if g, ok := b.gateways[name]; ok {
		g.end()
		delete(b.gateways, name)
	}
}

var errContent = errors.New("wrong content")

// A turn is one contender's run in a round.
type turn struct {
	g        *gateway
	user     string
	scenario scenario
	digest   uint64 // of what is to arrive; 0 is not checked

	results []load.Result
}

// play runs all turns, one after the other, round after round.
func (b *bench) play(ctx context.Context, turns ...*turn) error {
	for range max(b.Rounds, 1) {
		for _, t := range turns {
			if err := b.run(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// run takes a turn once more, and says so.
func (b *bench) run(ctx context.Context, t *turn) error {
	r, err := t.scenario.Run(ctx, t.g.as(t.user), nil)
	if err == nil && t.digest != 0 && r.Digest != t.digest {
		err = errContent
	}
	if err != nil {
		return fmt.Errorf("%s at %v: %s as %s: %w", t.g.name, t.g.rtt, r.Scenario, t.user, err)
	}
	t.results = append(t.results, r)
	b.logf("  %s at %v: %s, %.2f s", t.g.name, t.g.rtt, r.Scenario, r.Seconds)
	return nil
}

// note says so where the turn is not about all of the mailbox.
func (t *turn) note(m *mailbox) string {
	if n := t.results[0].Messages; n < m.messages {
		return fmt.Sprintf("(first %d messages)", n)
	}
	return ""
}

// sessions is how many there were in all rounds.
func (t *turn) sessions() (n float64) {
	for _, r := range t.results {
		n += float64(r.Sessions)
	}
	return n
}

// median returns the median of a figure over the rounds.
func (t *turn) median(figure func(load.Result) float64) float64 {
	var all []float64
	for _, r := range t.results {
		all = append(all, figure(r))
	}
	return median(all)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }
