package metrics

import (
	"context"
	"sync"

	"postern/upstream"
)

// Ledger are hooks that count what happens to the UIDLs of an upstream's
// accounts.
type Ledger struct {
	Churned func()
	Rebound func(messages int)
	Failed  func(err error)
}

// Ledger returns such hooks.
func (m *Metrics) Ledger(name string) Ledger {
	t := m.table
	churned, rebound, failed := t.uidlChurned.WithLabelValues(name), t.uidlRebound.WithLabelValues(name), t.ledgerFailed.WithLabelValues(name)
	return Ledger{
		Churned: churned.Inc,
		Rebound: func(messages int) { rebound.Add(float64(messages)) },
		Failed:  func(error) { failed.Inc() },
	}
}

// Purged returns what counts messages of an upstream that were kept, and were
// purged when their grace was over.
func (m *Metrics) Purged(name string) func(messages int) {
	purged := m.table.purged.WithLabelValues(name)
	return func(messages int) { purged.Add(float64(messages)) }
}

// Journal returns a journal that counts the removals that j records: a removal
// by the policy of its intent, and an intent as resumed if another session
// than the one that began it ended it.
func (m *Metrics) Journal(name string, j upstream.Journal) upstream.Journal {
	t := m.table
	each(policies, func(p string) { t.removals.WithLabelValues(name, p) })
	t.resumed.WithLabelValues(name)
	t.journalFailed.WithLabelValues(name)
	return &journal{inner: j, table: t, name: name, open: map[int64]intent{}}
}

type journal struct {
	inner upstream.Journal
	table *table
	name  string

	mu   sync.Mutex
	open map[int64]intent // begun or found pending, and not ended yet
}

type intent struct {
	policy string
	found  bool // by a later login
}

// maxOpen bounds the intents that are kept in mind. They are as many as there
// are sessions in the UPDATE state, and those that were cut off in it.
const maxOpen = 10_000

func (j *journal) Begin(ctx context.Context, i upstream.Intent) (int64, error) {
	id, err := j.inner.Begin(ctx, i)
	if err != nil {
		j.table.journalFailed.WithLabelValues(j.name).Inc()
		return id, err
	}
	j.note(id, intent{policy: i.Policy})
	return id, nil
}

func (j *journal) Pending(ctx context.Context, account string) ([]upstream.Intent, error) {
	pending, err := j.inner.Pending(ctx, account)
	if err != nil {
		j.table.journalFailed.WithLabelValues(j.name).Inc()
	}
	for _, p := range pending {
		j.note(p.ID, intent{policy: p.Policy, found: true})
	}
	return pending, err
}

func (j *journal) note(id int64, i intent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.open) >= maxOpen {
		clear(j.open)
	}
	j.open[id] = i
}

func (j *journal) End(ctx context.Context, id int64, removed []upstream.Removal) error {
	if err := j.inner.End(ctx, id, removed); err != nil {
		j.table.journalFailed.WithLabelValues(j.name).Inc()
		return err
	}
	j.mu.Lock()
	i, ok := j.open[id]
	delete(j.open, id)
	j.mu.Unlock()
	if !ok {
		i.policy = "unknown"
	}
	j.table.removals.WithLabelValues(j.name, known(policies, i.policy)).Add(float64(len(removed)))
	if i.found {
		j.table.resumed.WithLabelValues(j.name).Inc()
	}
	return nil
}
