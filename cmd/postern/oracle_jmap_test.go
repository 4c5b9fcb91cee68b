package main

import (
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/jmapc"
	"postern/upstream/upstreamtest/oracle"
)

// The same runs in front of a JMAP server. They happen in real time, many at
// once since most of it is spent waiting for the next attempt, so that a seed
// repeats what is asked for and what goes wrong, but not always in that order.
func TestOracleJMAP(t *testing.T) {
	t.Parallel()
	sums := oracleSums{verbs: jmapCommitVerbs, faults: jmapFaults}
	if *oracleSeed != 0 {
		playJMAP(t, *oracleSeed, &sums)
		return
	}
	first, wanted := uint64(1), faultedSessions(2_000)
	enough := func() bool { return sums.enough(wanted) }
	if *oracleSoak > 0 {
		first = rand.Uint64() >> 16
		end := time.Now().Add(*oracleSoak)
		enough = func() bool { return time.Now().After(end) }
	}
	var next atomic.Uint64
	next.Store(first)
	var workers sync.WaitGroup
	for range 24 {
		workers.Go(func() {
			for !enough() && !t.Failed() {
				playJMAP(t, next.Add(1)-1, &sums)
			}
		})
	}
	workers.Wait()
	sums.report(t, next.Load()-first)
}

var (
	jmapCommitVerbs = []string{"Email/get", "Email/set Email/get"}
	jmapFaults      = []oracle.Do{oracle.DropBefore, oracle.DropAfter, oracle.DropMiddle, oracle.Refuse, oracle.Half, oracle.Hollow, oracle.Bye, crash}

	// jmapRefusals are HTTP statuses, and errors of Email/set.
	jmapRefusals = []string{"503", "429", "500", "401", "403", "serverFail", "stateMismatch", "rateLimit", "forbidden", "requestTooLarge"}

	jmapPolicies = []upstream.Delete{upstream.DeleteExpunge, upstream.DeleteExpunge, upstream.DeleteTrash, upstream.DeleteArchive, upstream.DeleteFlag, upstream.DeleteNever}
)

// playJMAP makes one run with JMAP.
func playJMAP(t *testing.T, seed uint64, sums *oracleSums) {
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, seed, sums)
	server := oracle.NewJMAP(oracleUser, "secret")
	server.Fault = w.fault
	w.record, w.store, w.cut = &server.Record, server, func() {}
	w.flagged = func() []int { return nil }
	w.real, w.about, w.refusals = true, "JMAP", jmapRefusals
	var mu sync.Mutex
	var doors []*httptest.Server
	w.open = func(g *generation, store state.Store) upstream.Opener {
		door := httptest.NewServer(server.Handler(func() bool { return !g.dead.Load() }))
		mu.Lock()
		doors = append(doors, door)
		mu.Unlock()
		return jmapc.New(jmapc.Options{
			URL: door.URL + "/.well-known/jmap", PlainHTTP: true, Policy: w.rules.Policy,
			Journal: store.Journal("there"), Listings: listings{store, "there"},
		})
	}
	w.run(random, jmapPolicies)
	w.judge()
	mu.Lock()
	defer mu.Unlock()
	for _, door := range doors {
		door.CloseClientConnections()
		door.Close()
	}
}
