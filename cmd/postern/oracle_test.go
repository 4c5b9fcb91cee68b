package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/auth"
	"postern/proxy/ledger"
	"postern/proxy/pop3"
	"postern/proxy/retention"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest/oracle"
)

var (
	oracleSeed = flag.Uint64("oracle.seed", 0, "play only the oracle's run with this seed, and tell everything that happens")
	oracleSoak = flag.Duration("oracle.soak", 0, "play the oracle's runs for so long, from a random seed on")
)

// faultedSessions is how many sessions a test wants to meet a fault: all where
// everything is to be shown, else a tenth of them, and less in a hurry.
func faultedSessions(all int64) int64 {
	switch {
	case testing.Short():
		return all / 100
	case os.Getenv("POSTERN_REAL") != "1" || raced:
		return all / 10
	}
	return all
}

// The oracle's runs: the whole gateway, its lock replaced by none, in front of a
// mail store that knows what became of every message. In each, several clients
// of one account do what clients do, and what they should not; another client
// flags, unflags, expunges and delivers meanwhile; connections break and
// commands fail at any step, and the gateway dies. Whatever happens, nothing is
// removed that no client wanted removed, and no answer to QUIT is untrue.
//
// A run happens in a bubble, where time passes only while everybody waits, and
// every actor waits for times of its own: a seed makes the same run again.
func TestOracle(t *testing.T) {
	if *oracleSeed != 0 {
		synctest.Test(t, func(t *testing.T) { play(t, *oracleSeed, &oracleSums{faults: oracleFaults}) })
		return
	}
	sums := oracleSums{verbs: commitVerbs, faults: oracleFaults}
	first, wanted := uint64(1), faultedSessions(20_000)
	enough := func() bool { return sums.enough(wanted) }
	if *oracleSoak > 0 {
		first = rand.Uint64() >> 16
		end := time.Now().Add(*oracleSoak)
		enough = func() bool { return time.Now().After(end) }
	}
	var next atomic.Uint64
	next.Store(first)
	t.Run("Runs", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for !enough() && !t.Failed() {
					seed := next.Add(1) - 1
					synctest.Test(t, func(t *testing.T) { play(t, seed, &sums) })
				}
			})
		}
	})
	sums.report(t, next.Load()-first)
}

// oracleSums are what all runs came to.
type oracleSums struct {
	verbs  []string    // every one of which
	faults []oracle.Do // is to meet each of these

	sessions, faulted, removed, confirmed atomic.Int64

	mu    sync.Mutex
	steps map[string]int // by command and fault
}

func (s *oracleSums) count(verb string, do oracle.Do) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.steps == nil {
		s.steps = map[string]int{}
	}
	s.steps[verb+": "+string(do)]++
}

// enough tells whether so many sessions met a fault. Chance may leave one out
// that is to be met: then it takes some more.
func (s *oracleSums) enough(wanted int64) bool {
	n := s.faulted.Load()
	return n >= wanted && (n >= 5*wanted || len(s.missing()) == 0)
}

// missing are the steps of the commit that were not met yet.
func (s *oracleSums) missing() (steps []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, verb := range s.verbs {
		for _, do := range s.faults {
			if step := verb + ": " + string(do); isPossible(verb, do, true) && s.steps[step] == 0 {
				steps = append(steps, step)
			}
		}
	}
	return steps
}

// report wants every fault at every step of the commit to have been met.
func (s *oracleSums) report(t *testing.T, runs uint64) {
	t.Logf("%d runs, %d sessions, %d of them met a fault; %d messages removed, %d answers of QUIT that say so",
		runs, s.sessions.Load(), s.faulted.Load(), s.removed.Load(), s.confirmed.Load())
	if testing.Short() {
		return
	}
	for _, step := range s.missing() {
		t.Errorf("never met: %s", step)
	}
	if s.removed.Load() == 0 || s.confirmed.Load() == 0 {
		t.Error("nothing was removed at all")
	}
}

// commitVerbs are the commands of a commit, which break more often than others.
var commitVerbs = []string{"UID FETCH", "UID STORE", "UID EXPUNGE", "UID SEARCH"}

var oracleFaults = []oracle.Do{oracle.DropBefore, oracle.DropAfter, oracle.DropMiddle, oracle.Refuse,
	oracle.Half, oracle.Hollow, oracle.Bye, oracle.Silence, oracle.Do(crash)}

const crash = "met by the end of the gateway"

// An oracleStore is what the gateway is in front of, by IMAP or by JMAP, and
// what other clients do there.
type oracleStore interface {
	Deliver(user string, n int) []int
	IDs(user, box string) []int
	Flag(user string, id int)
	Unflag(user string, id int)
	Take(user string, id int)
	Discard(user string, id int)
	Restore(user string, id int)
	Renumber(user string)
	Swap(user string, id int) int
}

// A world is one run.
type world struct {
	t      *testing.T
	seed   uint64
	sums   *oracleSums
	record *oracle.Record
	store  oracleStore
	open   func(g *generation, store state.Store) upstream.Opener
	cut    func() // every connection of the gateway upstream
	// flagged tells which messages the gateway has flagged and left there.
	flagged  func() []int
	real     bool // time passes as it does: nobody waits without need
	rules    oracle.Rules
	state    state.Store // nil: none
	mishap   float64     // how likely a command of a commit is to go wrong
	calm     atomic.Bool // nothing goes wrong any more
	dying    sync.Mutex
	refusals []string // how the server says no
	mortal   bool     // nothing goes wrong but that the gateway dies
	about    string

	purges []*retention.Opener // of every generation

	mu         sync.Mutex
	generation *generation
	sessions   []*oracle.Session
	running    map[*oracle.Session]*generation
	hit        map[*oracle.Session]bool // met a fault
	trace      []string
	failed     bool
	serving    sync.WaitGroup // sessions
}

const (
	oracleUser  = "bob@oracle.example"
	oracleOther = "eve@oracle.example" // has the same UIDs
)

func newWorld(t *testing.T, seed uint64, sums *oracleSums) *world {
	return &world{t: t, seed: seed, sums: sums, running: map[*oracle.Session]*generation{}, hit: map[*oracle.Session]bool{}}
}

// play makes one run with IMAP, in a bubble.
func play(t *testing.T, seed uint64, sums *oracleSums) {
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, seed, sums)
	server := oracle.NewServer()
	server.Capabilities = drawCapabilities(random)
	server.Fault = w.fault
	w.about, w.refusals = server.Capabilities, imapRefusals
	w.record, w.store, w.cut = &server.Record, server, server.Cut
	w.flagged = func() []int { return server.Pending(oracleUser) }
	w.open = func(g *generation, store state.Store) upstream.Opener {
		return imapc.New(imapc.Options{
			Address: "imap.oracle.example:143", TLS: imapc.TLSOff, Policy: w.rules.Policy,
			Journal: store.Journal("there"), Listings: listings{store, "there"},
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if g.dead.Load() {
					return nil, errDead
				}
				return server.Dial(ctx, network, address)
			},
		})
	}
	for _, user := range []string{oracleUser, oracleOther} {
		server.AddAccount(user, "secret")
	}
	w.run(random, oraclePolicies)
	w.judge()
}

// drawCapabilities chooses what the server can do.
func drawCapabilities(r *rand.Rand) string {
	caps := "IMAP4rev1 SPECIAL-USE"
	if r.IntN(4) > 0 {
		caps += " UIDPLUS"
	}
	for _, c := range []string{"MOVE", "ESEARCH", "ID", "UNSELECT"} {
		if r.IntN(2) == 0 {
			caps += " " + c
		}
	}
	return caps
}

// run plays a world to its end.
func (w *world) run(random *rand.Rand, policies []upstream.Delete) {
	t := w.t
	w.rules.Policy.Delete = policies[random.IntN(len(policies))]
	w.rules.Policy.ExpungeAlone = random.IntN(4) == 0
	w.rules.Policy.Seen = random.IntN(4) == 0
	w.mishap = []float64{0.05, 0.15, 0.3}[random.IntN(3)]
	w.mortal = random.IntN(8) == 0
	if random.IntN(3) == 0 {
		w.rules.Policy.Grace = time.Duration(1+random.IntN(4000)) * time.Millisecond
		if w.real {
			w.rules.Policy.Grace /= 100
		}
	}
	if w.mortal || w.rules.Policy.Grace > 0 || random.IntN(6) == 0 {
		store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		w.state = store
	}
	defer w.endPurges()
	w.restart()
	var actors, others sync.WaitGroup
	for n := range 2 + random.IntN(2) {
		user := oracleUser
		if n == 2 && !w.real {
			user = oracleOther
		}
		w.store.Deliver(user, 1+random.IntN(5))
		actors.Go(func() { w.client(user, uint64(n)) })
	}
	stop := make(chan struct{})
	if !w.real {
		others.Go(func() { w.others(stop) })
	}
	actors.Wait()
	close(stop)
	others.Wait()
	w.settle()
}

// restart begins a life of the gateway.
func (w *world) restart() {
	g := &generation{w: w}
	g.ctx, g.end = context.WithCancel(context.Background())
	store := w.state
	if store == nil {
		store = state.Off()
	}
	mortal := mortalStore{store, g}
	purging := retention.New(w.open(g, mortal), mortal, retention.Options{Upstream: "there", Policy: w.rules.Policy})
	pinned := ledger.New(purging, mortal, ledger.Options{Origin: "oracle"})
	g.server = &pop3.Server{
		Authenticator: auth.New(auth.Options{
			Routes: []auth.Route{{User: "*", Upstream: "there", Opener: pinned}},
			Locker: noLock{},
		}),
		PlaintextLogin: func(netip.Addr) bool { return true },
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation, w.purges = g, append(w.purges, purging)
}

func (w *world) endPurges() {
	for _, p := range w.purges {
		p.Close()
	}
}

// chance tells whether the journal cannot be written now.
func (w *world) chance(what string) bool {
	now := w.record.Now()
	r := rand.New(rand.NewPCG(w.seed, 1<<40+uint64(now)))
	if w.calm.Load() || r.IntN(25) != 0 {
		return false
	}
	w.tell("%s fails", what)
	return true
}

// tell keeps a line for when the run fails.
func (w *world) tell(format string, args ...any) {
	at := w.record.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%5d ", at)+fmt.Sprintf(format, args...))
}

// wait lets a time of up to most pass.
func (w *world) wait(r *rand.Rand, most time.Duration) {
	d := time.Duration(1 + r.Int64N(int64(most)))
	if !w.real {
		time.Sleep(d)
	}
}

// fault decides what goes wrong with a command.
func (w *world) fault(s oracle.Step) oracle.Fault {
	r := rand.New(rand.NewPCG(w.seed, uint64(s.Conn)<<20|uint64(s.N)))
	w.wait(r, 20*time.Millisecond)
	f := oracle.Fault{}
	if w.calm.Load() || s.Verb == "LOGOUT" || s.Verb == "CAPABILITY" {
		w.tell("connection %d: %s", s.Conn, s.Command)
		return f
	}
	odds := w.mishap / 10
	switch {
	case isCommit(s):
		odds = w.mishap
	case strings.Contains(s.Command, "BODY.PEEK[]<"): // the rest of a message that broke off
		odds = 2 * w.mishap
	case strings.Contains(s.Command, "BODY"):
		odds = w.mishap
	}
	if isCommit(s) || w.real {
		w.meddle(r)
	}
	if r.Float64() < odds {
		f = w.mischief(r, s)
	}
	w.tell("connection %d: %s %s %s", s.Conn, s.Command, f.Do, f.Reply)
	return f
}

var oraclePolicies = []upstream.Delete{upstream.DeleteExpunge, upstream.DeleteExpunge, upstream.DeleteExpunge,
	upstream.DeleteTrash, upstream.DeleteArchive, upstream.DeleteFlag, upstream.DeleteNever}

// isCommit tells whether a command can belong to the UPDATE state.
func isCommit(s oracle.Step) bool {
	switch s.Verb {
	case "UID STORE", "UID EXPUNGE", "UID MOVE", "UID COPY", "UID SEARCH", "EXPUNGE", "Email/get", "Email/set Email/get":
		return true
	}
	return s.Verb == "UID FETCH" && !strings.Contains(s.Command, ":*") && !strings.Contains(s.Command, "BODY")
}

// imapRefusals are how IMAP servers say no.
var imapRefusals = []string{"NO no", "NO [OVERQUOTA] full", "NO [NOPERM] not yours", "NO [SERVERBUG] oops", "NO [UNAVAILABLE] later",
	"NO [TRYCREATE] where to?", "NO [EXPUNGEISSUED] gone", "BAD what?", "NO [LIMIT] too many", "NO [INUSE] busy"}

// isPossible tells whether a fault is one that a gateway can survive: it has to
// believe who logged it in, and which messages there are. A commit need not: it
// asks again.
func isPossible(verb string, do oracle.Do, commit bool) bool {
	switch verb {
	case "LOGIN", "SELECT", "UID FETCH":
		return do != oracle.Hollow && do != oracle.Half || commit
	}
	return true
}

// mischief chooses a fault.
func (w *world) mischief(r *rand.Rand, s oracle.Step) oracle.Fault {
	do := w.sums.faults[r.IntN(len(w.sums.faults))]
	if w.mortal {
		do = crash
	}
	if !isPossible(s.Verb, do, isCommit(s)) {
		do = oracle.Refuse
		if strings.HasPrefix(s.Command, "UID FETCH 1:* ") {
			do = oracle.Gaps
		}
	}
	if isCommit(s) {
		w.sums.count(s.Verb, do)
	}
	w.mu.Lock()
	for session := range w.running {
		if session.Account == s.Account || do == crash {
			w.hit[session] = true
		}
	}
	g := w.generation
	w.mu.Unlock()
	f := oracle.Fault{Do: do}
	switch do {
	case oracle.Refuse:
		f.Reply = w.refusals[r.IntN(len(w.refusals))]
		if s.Verb == "LOGIN" {
			f.Reply = "NO [UNAVAILABLE] later" // or every later login waits for long
		}
	case crash:
		if f.Do = oracle.Obey; r.IntN(2) == 0 {
			g.die()
		} else {
			f.After = g.die
		}
	}
	return f
}

// others is the other client. It acts now and then until it is stopped.
func (w *world) others(stop chan struct{}) {
	r := rand.New(rand.NewPCG(w.seed, 1<<50))
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(1 + r.Int64N(int64(300*time.Millisecond)))):
			w.meddle(r)
		}
	}
}

// meddle does what another client may do at any moment, or nothing.
func (w *world) meddle(r *rand.Rand) {
	user := oracleUser
	ids := w.store.IDs(user, "INBOX")
	if len(ids) == 0 {
		w.store.Deliver(user, 1)
		return
	}
	id := ids[r.IntN(len(ids))]
	act := r.IntN(40)
	if w.mortal && act > 10 {
		return
	}
	discarded := w.store.IDs(user, oracle.Trash)
	switch act {
	case 0, 1, 2:
		w.store.Flag(user, id)
	case 3, 4, 5:
		w.store.Unflag(user, id)
	case 6, 7:
		w.store.Take(user, id)
	case 8, 9, 10:
		w.store.Deliver(user, 1+r.IntN(2))
	case 11:
		if r.IntN(3) == 0 {
			w.tell("INBOX renumbered")
			w.store.Renumber(user)
		}
	case 12, 13:
		if r.IntN(2) == 0 && w.swappable() {
			w.tell("message %d became %d", id, w.store.Swap(user, id))
		}
	case 14:
		w.store.Discard(user, id)
	case 15, 16:
		if len(discarded) > 0 {
			w.store.Restore(user, discarded[r.IntN(len(discarded))])
		}
	}
}

// swappable tells whether no commit is under way: once a message was looked at
// again, no gateway can know that it is another one.
func (w *world) swappable() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.running {
		if s.Quit != 0 && s.Ended == 0 {
			return false
		}
	}
	w.rules.Lenient = true
	return true
}

// settle lets the sessions to come succeed, and then looks for what a session
// that was cut off has left.
func (w *world) settle() {
	w.dying.Lock()
	w.calm.Store(true)
	w.dying.Unlock()
	// The server may have asked to be left alone for a while, or refused the
	// password a moment ago, which the gateway remembers.
	if w.real {
		w.restart()
	} else {
		time.Sleep(time.Hour)
	}
	s := w.newSession("last", oracleUser)
	c := w.dial(s)
	if c.login() && c.scan() {
		c.quit()
		c.bye()
	}
	c.close()
	w.serving.Wait()
	if !w.real {
		time.Sleep(time.Minute) // for those who are saying goodbye
	}
	if s.Answer == "" {
		w.fail("the last session, with nothing in its way, failed")
	}
	if w.state == nil {
		return
	}
	intents, err := w.state.Journal("there").Pending(w.t.Context(), oracleUser)
	if err != nil || len(intents) > 0 {
		w.fail("pending after the last session: %v, %v", intents, err)
	}
	expunges := w.rules.Policy.Delete == upstream.DeleteExpunge && w.rules.Policy.Grace == 0 && strings.Contains(w.about, "UIDPLUS")
	w.mustBePurged()
	w.mustBeRecorded()
	if left := w.flagged(); w.mortal && expunges && len(left) > 0 {
		w.fail("left behind by gateways that died: messages %v are flagged, and not expunged", left)
	}
}

// mustBePurged wants nothing to be kept that was when the last session began,
// where all that is needed for that is there.
func (w *world) mustBePurged() {
	if w.rules.Policy.Grace == 0 || w.real || w.lenient() || !strings.Contains(w.about, "UIDPLUS") {
		return
	}
	isRenumbered := func(e oracle.Event) bool { return e.Kind == oracle.Renumbered }
	if w.rules.Policy.Delete == upstream.DeleteFlag && slices.ContainsFunc(w.record.Events(), isRenumbered) {
		return // what was hidden cannot be told any more
	}
	kept, err := w.state.Removals(w.t.Context(), state.Query{Kept: true, Account: oracleUser, Before: time.Now().Add(-30 * time.Minute)})
	if err != nil || len(kept) > 0 {
		w.fail("kept beyond its time: %v, %v", kept, err)
	}
}

// mustBeRecorded wants removals to be recorded under unique-ids that a client
// was shown which asked for them.
func (w *world) mustBeRecorded() {
	recorded, err := w.state.Removals(w.t.Context(), state.Query{Account: oracleUser})
	if err != nil {
		w.fail("%v", err)
	}
	w.mu.Lock()
	known := map[string]int{}
	for _, s := range w.sessions {
		for n, uidl := range s.UIDLs {
			if id := s.Shown[n]; s.Account == oracleUser && s.Asked[id] && s.Quit != 0 {
				known[uidl] = id
			}
		}
	}
	lenient := w.rules.Lenient
	w.mu.Unlock()
	for _, r := range recorded {
		if id, ok := known[r.UIDL]; !lenient && (!ok || id != oracle.IDOf(int(r.Size))) {
			w.fail("message %d is recorded as removed under the unique-id %s, of message %d", oracle.IDOf(int(r.Size)), r.UIDL, id)
		}
	}
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = true
	w.t.Errorf("seed %d: "+format, append([]any{w.seed}, args...)...)
}

// judge holds what happened against what was asked for.
func (w *world) judge() {
	w.mu.Lock()
	var sessions []oracle.Session
	for _, s := range w.sessions {
		sessions = append(sessions, *s)
		w.sums.sessions.Add(1)
		if w.hit[s] {
			w.sums.faulted.Add(1)
		}
		if len(s.Marked) > 0 && strings.HasPrefix(s.Answer, "+OK") {
			w.sums.confirmed.Add(1)
		}
	}
	w.mu.Unlock()
	events := w.record.Events()
	for _, e := range events {
		if e.Kind == oracle.Left && e.Conn != 0 {
			w.sums.removed.Add(1)
		}
	}
	for _, wrong := range oracle.Judge(w.rules, events, sessions) {
		w.fail("%s", wrong)
	}
	w.mu.Lock()
	failed := w.failed
	w.mu.Unlock()
	if failed || *oracleSeed != 0 {
		w.t.Logf("policy %+v, capabilities %s, state %v\n%s", w.rules.Policy, w.about, w.state != nil, w.story(events))
		w.t.Logf("to play this run again: go test ./cmd/postern -run 'TestOracle$' -oracle.seed %d", w.seed)
	}
}

// story is everything that happened, in order.
func (w *world) story(events []oracle.Event) string {
	lines := slices.Clone(w.trace)
	for _, e := range events {
		lines = append(lines, e.String())
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(a[:min(5, len(a))], b[:min(5, len(b))]) })
	return strings.Join(lines, "\n")
}
