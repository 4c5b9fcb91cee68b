package accounts

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"postern/proxy/state"
)

// uses collect when passwords were used, and write it down now and then: a login
// does not wait for the disk on account of that. A crash loses the last minute.
type uses struct {
	store state.Accounts
	log   *slog.Logger
	stop  chan struct{}
	ended chan struct{}

	mu   sync.Mutex
	last map[[2]string]time.Time // by account and label; bounded by those there are
}

const (
	usesPause = time.Minute
	usesTime  = 10 * time.Second // for writing them down
)

func noteUses(store state.Accounts, log *slog.Logger) *uses {
	u := &uses{store: store, log: log, stop: make(chan struct{}), ended: make(chan struct{}), last: make(map[[2]string]time.Time)}
	go u.write()
	return u
}

func (u *uses) note(use state.Use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[[2]string{use.Account, use.Label}] = use.At
}

func (u *uses) write() {
	defer close(u.ended)
	tick := time.NewTicker(usesPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.flush()
		case <-u.stop:
			u.flush()
			return
		}
	}
}

// flush writes down what there is. What cannot be written is let go: the next
// login tells as much.
func (u *uses) flush() {
	u.mu.Lock()
	last := u.last
	u.last = make(map[[2]string]time.Time)
	u.mu.Unlock()
	if len(last) == 0 {
		return
	}
	all := make([]state.Use, 0, len(last))
	for of, at := range last {
		all = append(all, state.Use{Account: of[0], Label: of[1], At: at})
	}
	ctx, cancel := context.WithTimeout(context.Background(), usesTime)
	defer cancel()
	if err := u.store.NoteUse(ctx, all); err != nil {
		u.log.Warn("last use of client passwords not written down", "err", err)
	}
}

func (u *uses) close() {
	close(u.stop)
	<-u.ended
}
