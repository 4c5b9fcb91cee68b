package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
)

// A generation is one life of the gateway.
type generation struct {
	w      *world
	server *pop3.Server
	dead   atomic.Bool
	end    context.CancelFunc
	ctx    context.Context

	writing sync.RWMutex // held to die: what is half written is not read by the next one
}

// noLock lets everybody in: nothing that must be safe may rest on a lock.
type noLock struct{}

func (noLock) Lock(context.Context, string) (release func(), err error) { return func() {}, nil }

var errDead = errors.New("the gateway is dead")

// die ends the gateway between two octets. Another one is there before anybody
// notices.
func (g *generation) die() {
	w := g.w
	w.dying.Lock()
	defer w.dying.Unlock()
	g.writing.Lock()
	gone := w.calm.Load() || g.dead.Swap(true)
	g.writing.Unlock()
	if gone {
		return
	}
	w.restart()
	w.cut()
	now := w.record.Now()
	w.mu.Lock()
	for s, by := range w.running {
		if by == g && s.Ended == 0 {
			s.Ended = now
		}
	}
	w.mu.Unlock()
	g.end()
}

// A mortalStore forgets nothing, but a dead gateway writes nothing there.
type mortalStore struct {
	state.Store
	g *generation
}

func (s mortalStore) Journal(name string) upstream.Journal {
	return mortalJournal{s.Store.Journal(name), s.g}
}

func (s mortalStore) SaveLedger(ctx context.Context, account string, change state.LedgerChange) (version int64, err error) {
	err = s.g.write(func() error {
		version, err = s.Store.SaveLedger(ctx, account, change)
		return err
	})
	return version, err
}

func (s mortalStore) Settle(ctx context.Context, fate state.Fate, ids ...int64) error {
	return s.g.write(func() error { return s.Store.Settle(ctx, fate, ids...) })
}

// write has the gateway write something if it lives, and live until it has.
func (g *generation) write(do func() error) error {
	g.writing.RLock()
	defer g.writing.RUnlock()
	if g.dead.Load() {
		return errDead
	}
	return do()
}

type mortalJournal struct {
	upstream.Journal
	g *generation
}

func (j mortalJournal) Begin(ctx context.Context, intent upstream.Intent) (id int64, err error) {
	err = j.g.write(func() error {
		if j.g.w.chance("journal begin") {
			return errDead
		}
		id, err = j.Journal.Begin(ctx, intent)
		return err
	})
	return id, err
}

func (j mortalJournal) End(ctx context.Context, id int64, removed []upstream.Removal) error {
	return j.g.write(func() error {
		if j.g.w.chance("journal end") {
			return errDead
		}
		return j.Journal.End(ctx, id, removed)
	})
}
