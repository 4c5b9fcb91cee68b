package metrics

import (
	"context"
	"errors"
	"slices"
	"testing"

	"postern/upstream"
)

// A memory is a journal that answers as it is told.
type memory struct {
	pending []upstream.Intent
	err     error
}

func (m memory) Begin(context.Context, upstream.Intent) (int64, error)      { return 7, m.err }
func (m memory) End(context.Context, int64, []upstream.Removal) error       { return m.err }
func (m memory) Pending(context.Context, string) ([]upstream.Intent, error) { return m.pending, m.err }

func wantLines(t *testing.T, m *Metrics, want ...string) {
	t.Helper()
	page := scrape(t, m)
	for _, w := range want {
		if !slices.Contains(page, w) {
			t.Errorf("no line %s", w)
		}
	}
}

func TestRemovalsAreCounted(t *testing.T) {
	m, _, _ := full()
	ctx := t.Context()
	j := m.Journal("office", memory{pending: []upstream.Intent{{ID: 9, Policy: "expunge"}, {ID: 10, Policy: "shred"}}})
	id, err := j.Begin(ctx, upstream.Intent{Policy: "trash"})
	if err != nil || id != 7 {
		t.Fatalf("Begin: %d, %v; want 7, nil", id, err)
	}
	if err := j.End(ctx, id, make([]upstream.Removal, 3)); err != nil {
		t.Fatal(err)
	}
	if pending, err := j.Pending(ctx, "ann"); err != nil || len(pending) != 2 {
		t.Fatalf("Pending: %v, %v; want 2 intents", pending, err)
	}
	j.End(ctx, 9, make([]upstream.Removal, 2))
	j.End(ctx, 10, make([]upstream.Removal, 1)) // of a version that knows more
	j.End(ctx, 11, make([]upstream.Removal, 1)) // begun before this process
	wantLines(t, m,
		`postern_removals_total{policy="trash",upstream="office"} 3`,
		`postern_removals_total{policy="expunge",upstream="office"} 2`,
		`postern_removals_total{policy="unknown",upstream="office"} 2`,
		`postern_removals_resumed_total{upstream="office"} 2`,
		`postern_removal_journal_failed_total{upstream="office"} 0`,
	)
}

func TestJournalFailuresAreCounted(t *testing.T) {
	m, _, _ := full()
	ctx, broken := t.Context(), errors.New("disk full")
	j := m.Journal("office", memory{err: broken})
	_, begin := j.Begin(ctx, upstream.Intent{Policy: "trash"})
	_, pending := j.Pending(ctx, "ann")
	for _, err := range []error{begin, pending, j.End(ctx, 7, make([]upstream.Removal, 3))} {
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	}
	wantLines(t, m,
		`postern_removal_journal_failed_total{upstream="office"} 3`,
		`postern_removals_total{policy="trash",upstream="office"} 0`,
	)
}

// TestOpenIntentsAreBounded: what never ends does not pile up.
func TestOpenIntentsAreBounded(t *testing.T) {
	m, _, _ := full()
	j := m.Journal("office", memory{}).(*journal)
	for id := range int64(maxOpen + 10) {
		j.note(id, intent{})
	}
	if len(j.open) > maxOpen {
		t.Errorf("%d intents kept in mind, want at most %d", len(j.open), maxOpen)
	}
}

func TestLedgersAreCounted(t *testing.T) {
	m, _, _ := full()
	l := m.Ledger("office")
	l.Churned()
	l.Rebound(40)
	l.Failed(errors.New("damaged"))
	m.Purged("office")(5)
	wantLines(t, m,
		`postern_uidl_churn_refused_total{upstream="office"} 1`,
		`postern_uidls_rebound_total{upstream="office"} 40`,
		`postern_uidl_ledger_failed_total{upstream="office"} 1`,
		`postern_kept_messages_purged_total{upstream="office"} 5`,
	)
}
