// Package retention removes for good what removals kept, once the account's
// grace period is over. It stands next to an adapter, since it needs what only
// adapters have (upstream.Keeper): whatever wraps maildrops goes around it.
//
// # When it purges
//
// After a session, never during one: when a maildrop is closed whose listing
// was read and whose account has something to purge, its connection stays open
// a little longer for that, in a goroutine of this package, while the session's
// client is answered and the maildrop's lock is given back. That is safe, since
// a purge names only messages that were moved out of the maildrop before. It
// takes at most 30 seconds, at most 8 of them run at a time, and what is left
// over waits for the account's next session. A failure costs nobody anything
// but a line in the log.
//
// An account that nobody logs in to keeps what it kept: there are no
// credentials to reach it with.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"postern/proxy/state"
	"postern/upstream"
)

// Options say what to purge. Upstream and Policy are needed.
type Options struct {
	Upstream string          // its name in the configuration, as in the journal
	Policy   upstream.Policy // of the route; nothing is purged unless it has a Grace

	Purged func(messages int) // if not nil, told of each purge, for metrics; must not block
	Log    *slog.Logger       // nil discards
	Now    func() time.Time   // nil means time.Now
}

const (
	purgeTime = 30 * time.Second // for all that follows one session
	lookTime  = time.Second      // for looking whether there is something to purge
	batch     = 200              // messages in one call
	atOnce    = 8                // purges under way
)

// An Opener opens the maildrops of another one, and purges behind them. It
// implements upstream.Opener. Close ends it.
type Opener struct {
	inner   upstream.Opener
	store   state.Store
	options Options
	places  chan struct{} // one for each purge under way

	ctx     context.Context // of purges
	cancel  context.CancelFunc
	mu      sync.Mutex // guards closed, and working.Go against working.Wait
	closed  bool
	working sync.WaitGroup
}

// New returns an Opener for the maildrops of inner. The caller closes it
// before it closes the store.
func New(inner upstream.Opener, store state.Store, o Options) *Opener {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Opener{inner: inner, store: store, options: o, places: make(chan struct{}, atOnce)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Open implements upstream.Opener.
func (o *Opener) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	drop, err := o.inner.Open(ctx, account)
	if err != nil {
		return nil, err
	}
	keeper, ok := drop.(upstream.Keeper)
	if !ok || o.options.Policy.Grace <= 0 {
		return drop, nil
	}
	return &maildrop{Maildrop: drop, opener: o, keeper: keeper, account: account.User}, nil
}

// Close breaks off the purges under way and waits for their end. Maildrops may
// still be used, and are no longer purged behind.
func (o *Opener) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel()
	o.working.Wait()
}

// A maildrop remembers whether it is fit for a purge.
type maildrop struct {
	upstream.Maildrop
	opener  *Opener
	keeper  upstream.Keeper
	account string
	listed  bool // adapters want to be listed before anything else
	once    sync.Once
	err     error
}

// List implements upstream.Maildrop.
func (d *maildrop) List(ctx context.Context) (upstream.Listing, error) {
	l, err := d.Maildrop.List(ctx)
	d.listed = err == nil
	return l, err
}

// Shown implements upstream.Recorder, as far as the adapter does.
func (d *maildrop) Shown(l upstream.Listing) {
	if r, ok := d.Maildrop.(upstream.Recorder); ok {
		r.Shown(l)
	}
}

// Close implements upstream.Maildrop: at once, or in a moment if there is
// something to purge.
func (d *maildrop) Close() error {
	d.once.Do(func() {
		if !d.listed || !d.opener.purgeBehind(d) {
			d.err = d.Maildrop.Close()
		}
	})
	return d.err
}

// purgeBehind starts the purge that closes the maildrop, if there is something
// to purge and room to do so.
func (o *Opener) purgeBehind(d *maildrop) bool {
	due := o.due(d.account)
	if due == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	select {
	case o.places <- struct{}{}:
	default:
		return false
	}
	o.working.Go(func() {
		defer func() { <-o.places }()
		defer o.survive()
		o.purge(d, due)
	})
	return true
}

// survive keeps a panic from ending more than its purge.
func (o *Opener) survive() {
	if p := recover(); p != nil {
		o.options.Log.Error("purge panicked", "err", fmt.Sprintf("panic with a value of type %T", p), "stack", string(debug.Stack()))
	}
}

// due returns the first of an account's messages that are to be purged.
func (o *Opener) due(account string) []state.Removed {
	ctx, cancel := context.WithTimeout(o.ctx, lookTime)
	defer cancel()
	due, err := o.next(ctx, account, 0)
	if err != nil && o.ctx.Err() == nil {
		o.options.Log.Warn("kept messages not looked for", "account", account, "upstream", o.options.Upstream, "err", err)
	}
	return due
}

// next returns messages that are to be purged, later ones than after: those
// that were removed by the policy of today longer than its grace ago. What
// another policy kept was not promised to go.
func (o *Opener) next(ctx context.Context, account string, after int64) ([]state.Removed, error) {
	before := o.options.Now().Add(-o.options.Policy.Grace)
	for {
		kept, err := o.store.Removals(ctx, state.Query{
			Upstream: o.options.Upstream, Account: account, Kept: true, Before: before, After: after, Limit: batch,
		})
		if err != nil || len(kept) == 0 {
			return nil, err
		}
		var due []state.Removed
		for _, r := range kept {
			if r.Policy == o.options.Policy.Delete.String() {
				due = append(due, r)
			}
		}
		if due != nil {
			return due, nil
		}
		after = kept[len(kept)-1].ID
	}
}

// purge removes what is due for good, and closes the maildrop.
func (o *Opener) purge(d *maildrop, due []state.Removed) {
	log := o.options.Log.With("account", d.account, "upstream", o.options.Upstream)
	defer func() {
		if err := d.Maildrop.Close(); err != nil {
			log.Debug("maildrop closed", "err", err)
		}
	}()
	ctx, cancel := context.WithTimeout(o.ctx, purgeTime)
	defer cancel()
	purged, err := o.purgeAll(ctx, d, due)
	if o.options.Purged != nil && purged > 0 {
		o.options.Purged(purged)
	}
	switch {
	case err != nil && o.ctx.Err() == nil:
		log.Warn("kept messages not purged, to be tried after the next session", "purged", purged, "err", err)
	case purged > 0:
		log.Info("kept messages purged", "purged", purged, "grace", o.options.Policy.Grace)
	}
}

// purgeAll goes on until nothing is due. What does not go is passed over, so
// that it keeps nothing else from going.
func (o *Opener) purgeAll(ctx context.Context, d *maildrop, due []state.Removed) (purged int, err error) {
	for len(due) > 0 {
		n, err := o.purgeSome(ctx, d.keeper, due)
		purged += n
		if err != nil {
			return purged, err
		}
		if due, err = o.next(ctx, d.account, due[len(due)-1].ID); err != nil {
			return purged, err
		}
	}
	return purged, nil
}

// purgeSome purges one batch, and settles also what went before a failure.
func (o *Opener) purgeSome(ctx context.Context, keeper upstream.Keeper, due []state.Removed) (int, error) {
	kept := make([]upstream.Removal, len(due))
	for i := range due {
		kept[i] = due[i].Removal
	}
	done, err := keeper.Purge(ctx, kept)
	var ids []int64
	for i := range min(len(done), len(due)) {
		if done[i] {
			ids = append(ids, due[i].ID)
		}
	}
	if len(ids) == 0 {
		return 0, err
	}
	// Even if the time is up: what is not settled is only purged again, but
	// the operator would read that it is still there.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if settled := o.store.Settle(settling, state.Purged, ids...); settled != nil {
		err = errors.Join(err, fmt.Errorf("settle: %w", settled))
	}
	return len(ids), err
}
