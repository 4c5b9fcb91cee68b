// Package statetest is the suite that every state.Store passes, whatever it
// keeps things in.
package statetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/proxy/state"
	"postern/upstream"
)

// A Fixture is fresh, empty state.
type Fixture struct {
	// Open opens it; after a Close, or beside another Store on the same state,
	// it finds what was there. The suite closes what it opens.
	Open func(t *testing.T) state.Store
	// Forgets says that the store keeps nothing beyond intents under way.
	Forgets bool
	// Shared says that two Stores open at once know each other's locks.
	Shared bool
}

// Test runs the suite. fixture makes fresh state for each case.
func Test(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, f Fixture)
		all  bool // also for a store that forgets
	}{
		{"IntentIsPendingUntilItEnds", pending, true},
		{"IntentsOfOthersAreNotMine", intentsApart, true},
		{"EndOfNoIntentIsAnError", endOfNone, true},
		{"EndedContextWritesNothing", endedContext, true},
		{"IntentOutlivesTheStore", intentLasts, false},
		{"EndRecordsEachRemoval", removals, false},
		{"EndWithoutRemovalLeavesNoTrace", endedEmpty, false},
		{"QuerySelects", query, false},
		{"QueryPages", paging, false},
		{"SettleOnlyOnce", settle, false},
		{"LedgerStartsEmpty", ledgerEmpty, true},
		{"LedgerOutlivesTheStore", ledgerLasts, false},
		{"LedgerChangesByVersionOnly", ledgerConflict, false},
		{"LedgerChangeIsAllOrNothing", ledgerAtomic, false},
		{"LedgersAreApart", ledgersApart, false},
		{"OneOfManyWritersWins", ledgerRace, false},
		{"ListingIsCachedOrMissing", listing, true},
		{"LockIsExclusive", lock, true},
		{"LockWaitsForALeaver", lockWaits, true},
		{"LockIsSharedByStores", lockShared, true},
		{"NoAccountIsNotFound", noAccounts, true},
		{"SeedStays", seedLasts, true},
		{"AccountOutlivesTheStore", accountLasts, false},
		{"AccountIsMadeOnce", accountOnce, false},
		{"AccountChangesByVersionOnly", accountVersions, false},
		{"AccountsAreSharedByStores", accountsShared, false},
		{"AccountsAreListed", accountsListed, false},
		{"RemovedAccountLeavesNothing", accountRemoved, false},
		{"RemovedPasswordTakesItsTextAlong", passwordRemoved, false},
		{"LastUseOnlyRises", uses, false},
		{"SecretKeepsTwoGenerations", secretGenerations, false},
		{"OneOfManyRenewalsWins", secretRace, false},
		{"SecretsAreSealedAnew", reseal, false},
		{"ConsentIsLostOnce", consents, false},
		{"InvitationIsUsedOnce", invitations, false},
		{"ClosedStoreFails", closed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fixture(t)
			if f.Forgets && !c.all {
				t.Skip("this store keeps nothing")
			}
			c.run(t, f)
		})
	}
}

// open opens the store and closes it when the test ends.
func (f Fixture) open(t *testing.T) state.Store {
	t.Helper()
	s := f.Open(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// An account name, mailbox or text may hold any octets that a client can send.
const odd = "o'dd\"; DROP TABLE intent; -- ü\xff\x01%"

func intent(account string) upstream.Intent {
	return upstream.Intent{Account: account, Session: "s-1", Policy: "expunge", Mailbox: odd, Validity: "1700000000", Names: "1:3,9"}
}

func begin(t *testing.T, s state.Store, up, account string) int64 {
	t.Helper()
	id, err := s.Journal(up).Begin(within(t), intent(account))
	must(t, err)
	return id
}

func pendingOf(t *testing.T, s state.Store, up, account string) []int64 {
	t.Helper()
	found, err := s.Journal(up).Pending(within(t), account)
	must(t, err)
	var ids []int64
	for _, i := range found {
		ids = append(ids, i.ID)
	}
	return ids
}

func pending(t *testing.T, f Fixture) {
	s := f.open(t)
	before := time.Now()
	one := begin(t, s, "office", odd)
	two := begin(t, s, "office", odd)
	found, err := s.Journal("office").Pending(within(t), odd)
	must(t, err)
	if len(found) != 2 || found[0].ID != one || found[1].ID != two {
		t.Fatalf("pending %+v, want %d and %d", found, one, two)
	}
	if at := found[0].At; at.Before(before.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
		t.Errorf("begun at %v, want about %v", at, before)
	}
	want := intent(odd)
	want.ID, want.At = one, found[0].At
	same(t, "intent", found[0], want)
	must(t, s.Journal("office").End(within(t), one, nil))
	same(t, "pending after one ended", pendingOf(t, s, "office", odd), []int64{two})
}

func intentsApart(t *testing.T, f Fixture) {
	s := f.open(t)
	mine := begin(t, s, "office", "bob")
	begin(t, s, "fast", "bob")
	begin(t, s, "office", "bobby")
	same(t, "pending", pendingOf(t, s, "office", "bob"), []int64{mine})
	if err := s.Journal("fast").End(within(t), mine, nil); err == nil {
		t.Error("another upstream's journal ended the intent")
	}
	same(t, "pending after that", pendingOf(t, s, "office", "bob"), []int64{mine})
}

func endOfNone(t *testing.T, f Fixture) {
	s := f.open(t)
	j := s.Journal("office")
	if err := j.End(within(t), 12345, nil); err == nil {
		t.Error("End of an intent that never was: no error")
	}
	id := begin(t, s, "office", "bob")
	must(t, j.End(within(t), id, []upstream.Removal{{Name: "1"}}))
	if err := j.End(within(t), id, []upstream.Removal{{Name: "1"}}); err == nil {
		t.Error("second End of an intent: no error")
	}
}

func endedContext(t *testing.T, f Fixture) {
	s := f.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Journal("office").Begin(ctx, intent("bob")); err == nil {
		t.Error("Begin with an ended context: no error")
	}
	same(t, "pending", pendingOf(t, s, "office", "bob"), []int64(nil))
	if _, err := s.Lock(ctx, "bob"); err == nil {
		t.Error("Lock with an ended context: no error")
	}
	s.SaveListing(ctx, state.ListingKey{Upstream: "office", Account: "bob"}, []byte("x"))
}

func intentLasts(t *testing.T, f Fixture) {
	s := f.open(t)
	id := begin(t, s, "office", "bob")
	must(t, s.Close())
	s = f.open(t)
	same(t, "pending", pendingOf(t, s, "office", "bob"), []int64{id})
	if next := begin(t, s, "office", "bob"); next <= id {
		t.Errorf("id %d after %d: given twice or falling", next, id)
	}
}

func removed(n int) []upstream.Removal {
	var all []upstream.Removal
	for i := range n {
		r := upstream.Removal{Name: fmt.Sprint(i), UIDL: odd + fmt.Sprint(i), Size: int64(i) << 33}
		if i%2 == 1 {
			r.Kept = upstream.Place{Mailbox: "Trash", Validity: "7", Name: fmt.Sprint(i + 100)}
		}
		all = append(all, r)
	}
	return all
}

func end(t *testing.T, s state.Store, up, account string, n int) {
	t.Helper()
	must(t, s.Journal(up).End(within(t), begin(t, s, up, account), removed(n)))
}

func find(t *testing.T, s state.Store, q state.Query) []state.Removed {
	t.Helper()
	found, err := s.Removals(within(t), q)
	must(t, err)
	return found
}

func removals(t *testing.T, f Fixture) {
	s := f.open(t)
	end(t, s, "office", odd, 3)
	must(t, s.Close())
	s = f.open(t)
	same(t, "pending", pendingOf(t, s, "office", odd), []int64(nil))
	got := find(t, s, state.Query{})
	var want []state.Removed
	for i, r := range removed(3) {
		want = append(want, state.Removed{ID: got[min(i, len(got)-1)].ID, At: got[0].At, Removal: r, Upstream: "office",
			Account: odd, Session: "s-1", Policy: "expunge", Mailbox: odd, Validity: "1700000000"})
	}
	same(t, "removals", got, want)
	if age := time.Since(got[0].At); age < -time.Minute || age > time.Minute {
		t.Errorf("recorded at %v, want about now", got[0].At)
	}
}

func endedEmpty(t *testing.T, f Fixture) {
	s := f.open(t)
	end(t, s, "office", "bob", 0)
	same(t, "removals", find(t, s, state.Query{}), []state.Removed(nil))
	same(t, "pending", pendingOf(t, s, "office", "bob"), []int64(nil))
}

func query(t *testing.T, f Fixture) {
	s := f.open(t)
	end(t, s, "office", "bob", 4)
	end(t, s, "fast", "bob", 1)
	end(t, s, "office", "ann", 2)
	begin(t, s, "office", "bob") // not ended: removed nothing yet
	all := find(t, s, state.Query{})
	last := all[len(all)-1].At
	for _, c := range []struct {
		name string
		q    state.Query
		want int
	}{
		{"everything", state.Query{}, 7},
		{"account", state.Query{Account: "bob"}, 5},
		{"upstream", state.Query{Upstream: "office"}, 6},
		{"both", state.Query{Upstream: "fast", Account: "bob"}, 1},
		{"nobody", state.Query{Account: "bo"}, 0},
		{"kept", state.Query{Account: "bob", Kept: true}, 2},
		{"since then", state.Query{Since: all[0].At}, 7},
		{"since later", state.Query{Since: last.Add(time.Nanosecond)}, 0},
		{"before", state.Query{Before: all[0].At}, 0},
		{"before later", state.Query{Before: last.Add(time.Nanosecond)}, 7},
		{"after", state.Query{After: all[2].ID}, 4},
		{"limit", state.Query{Limit: 3}, 3},
	} {
		if got := find(t, s, c.q); len(got) != c.want {
			t.Errorf("%s: %d removals, want %d", c.name, len(got), c.want)
		}
	}
}

func paging(t *testing.T, f Fixture) {
	s := f.open(t)
	end(t, s, "office", "bob", 1100)
	var names []string
	for q := (state.Query{}); ; {
		page := find(t, s, q)
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			names = append(names, r.Name)
		}
		q.After = page[len(page)-1].ID
	}
	var want []string
	for _, r := range removed(1100) {
		want = append(want, r.Name)
	}
	same(t, "names over all pages", names, want)
}

func settle(t *testing.T, f Fixture) {
	s := f.open(t)
	end(t, s, "office", "bob", 4)
	kept := find(t, s, state.Query{Kept: true})
	if len(kept) != 2 {
		t.Fatalf("%d kept, want 2", len(kept))
	}
	must(t, s.Settle(within(t), state.Undone, kept[0].ID))
	must(t, s.Settle(within(t), state.Purged, kept[0].ID, kept[1].ID, 999999))
	same(t, "kept", find(t, s, state.Query{Kept: true}), []state.Removed(nil))
	var fates []state.Fate
	for _, r := range find(t, s, state.Query{}) {
		fates = append(fates, r.Fate)
		if settled := !r.FateAt.IsZero(); settled != (r.Fate != state.Unsettled) {
			t.Errorf("fate %q at %v", r.Fate, r.FateAt)
		}
	}
	same(t, "fates", fates, []state.Fate{"", state.Undone, "", state.Purged})
	for _, fate := range []state.Fate{state.Unsettled, "lost"} {
		if err := s.Settle(within(t), fate, kept[0].ID); err == nil {
			t.Errorf("settled as %q: no error", fate)
		}
	}
}

func ledgerEmpty(t *testing.T, f Fixture) {
	s := f.open(t)
	l, err := s.Ledger(within(t), odd)
	must(t, err)
	same(t, "ledger", l, state.Ledger{})
	if _, err := s.Segments(within(t), odd, []int64{1}); !errors.Is(err, state.ErrConflict) {
		t.Errorf("a segment that is not there: %v, want ErrConflict", err)
	}
	found, err := s.Segments(within(t), odd, nil)
	must(t, err)
	same(t, "no segments", found, [][]byte(nil))
}

func save(t *testing.T, s state.Store, account string, c state.LedgerChange) int64 {
	t.Helper()
	v, err := s.SaveLedger(within(t), account, c)
	must(t, err)
	return v
}

// holds checks a ledger's head and segments.
func holds(t *testing.T, s state.Store, account string, version int64, head string, segments map[int64]string) {
	t.Helper()
	l, err := s.Ledger(within(t), account)
	must(t, err)
	same(t, "head of "+account, l, state.Ledger{Version: version, Head: []byte(head)})
	for id, want := range segments {
		got, err := s.Segments(within(t), account, []int64{id})
		if err != nil || len(got) != 1 || string(got[0]) != want {
			t.Errorf("segment %d of %s: %.40q, %v; want %.40q", id, account, got, err, want)
		}
	}
}

func ledgerLasts(t *testing.T, f Fixture) {
	s := f.open(t)
	large := string(bytes.Repeat([]byte{0, 'x', 255}, 100_000))
	v := save(t, s, odd, state.LedgerChange{Head: []byte("one"), Put: []state.Segment{{ID: 1, Data: []byte("a")}, {ID: 2, Data: []byte(large)}}})
	v = save(t, s, odd, state.LedgerChange{Version: v, Head: []byte("two"), Put: []state.Segment{{ID: 3, Data: nil}}, Drop: []int64{1}})
	must(t, s.Close())
	s = f.open(t)
	holds(t, s, odd, v, "two", map[int64]string{2: large, 3: ""})
	if _, err := s.Segments(within(t), odd, []int64{2, 1}); !errors.Is(err, state.ErrConflict) {
		t.Errorf("dropped segment: %v, want ErrConflict", err)
	}
	got, err := s.Segments(within(t), odd, []int64{3, 2})
	must(t, err)
	if len(got) != 2 || len(got[0]) != 0 || string(got[1]) != large {
		t.Errorf("segments 3 and 2 came in another order")
	}
}

func ledgerConflict(t *testing.T, f Fixture) {
	s := f.open(t)
	v := save(t, s, "bob", state.LedgerChange{Head: []byte("one")})
	for _, version := range []int64{0, v - 1, v + 1, -1} {
		if version == v {
			continue
		}
		_, err := s.SaveLedger(within(t), "bob", state.LedgerChange{Version: version, Head: []byte("lost")})
		if !errors.Is(err, state.ErrConflict) {
			t.Errorf("change from version %d of %d: %v, want ErrConflict", version, v, err)
		}
	}
	if _, err := s.SaveLedger(within(t), "ann", state.LedgerChange{Version: 5}); !errors.Is(err, state.ErrConflict) {
		t.Errorf("change of a ledger that is not there: %v, want ErrConflict", err)
	}
	holds(t, s, "bob", v, "one", nil)
}

func ledgerAtomic(t *testing.T, f Fixture) {
	s := f.open(t)
	v := save(t, s, "bob", state.LedgerChange{Head: []byte("one"), Put: []state.Segment{{ID: 1, Data: []byte("a")}}})
	_, err := s.SaveLedger(within(t), "bob", state.LedgerChange{Version: v, Head: []byte("two"),
		Put: []state.Segment{{ID: 2, Data: []byte("b")}, {ID: 1, Data: []byte("overwritten")}}})
	if err == nil {
		t.Error("a segment was overwritten: no error")
	}
	holds(t, s, "bob", v, "one", map[int64]string{1: "a"})
	if _, err := s.Segments(within(t), "bob", []int64{2}); !errors.Is(err, state.ErrConflict) {
		t.Errorf("segment of a change that failed: %v, want ErrConflict", err)
	}
}

func ledgersApart(t *testing.T, f Fixture) {
	s := f.open(t)
	b := save(t, s, "bob", state.LedgerChange{Head: []byte("bob's"), Put: []state.Segment{{ID: 1, Data: []byte("b")}}})
	a := save(t, s, "Bob", state.LedgerChange{Head: []byte("Bob's"), Put: []state.Segment{{ID: 1, Data: []byte("B")}}})
	a = save(t, s, "Bob", state.LedgerChange{Version: a, Head: []byte("Bob's"), Drop: []int64{1}})
	holds(t, s, "bob", b, "bob's", map[int64]string{1: "b"})
	holds(t, s, "Bob", a, "Bob's", nil)
}

func ledgerRace(t *testing.T, f Fixture) {
	stores := []state.Store{f.open(t), f.open(t)}
	var won atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			s := stores[i%len(stores)]
			for range 5 {
				l, err := s.Ledger(within(t), "bob")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = s.SaveLedger(within(t), "bob", state.LedgerChange{Version: l.Version, Head: []byte{byte(len(l.Head))}})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, state.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	l, err := stores[0].Ledger(within(t), "bob")
	must(t, err)
	if l.Version != won.Load() {
		t.Errorf("version %d after %d changes: one was lost", l.Version, won.Load())
	}
}

func listing(t *testing.T, f Fixture) {
	s := f.open(t)
	key := state.ListingKey{Upstream: "office", Account: odd, Name: "INBOX"}
	other := key
	other.Account = "ann"
	if got := s.Listing(within(t), key); got != nil {
		t.Errorf("listing that was never cached: %q", got)
	}
	s.SaveListing(within(t), key, []byte("one"))
	s.SaveListing(within(t), key, []byte("two"))
	s.SaveListing(within(t), other, []byte("ann's"))
	for k, want := range map[state.ListingKey]string{key: "two", other: "ann's"} {
		if got := s.Listing(within(t), k); string(got) != want && (got != nil || !f.Forgets) {
			t.Errorf("%v: got %q, want %q", k, got, want)
		}
	}
}

func lock(t *testing.T, f Fixture) {
	s := f.open(t)
	release, err := s.Lock(within(t), odd)
	must(t, err)
	if _, err := s.Lock(within(t), odd); !errors.Is(err, upstream.ErrBusy) {
		t.Errorf("second lock: %v, want ErrBusy", err)
	}
	other, err := s.Lock(within(t), "ann")
	must(t, err)
	other()
	release()
	again, err := s.Lock(within(t), odd)
	must(t, err)
	release() // a second release is not that of the next holder
	if _, err := s.Lock(within(t), odd); !errors.Is(err, upstream.ErrBusy) {
		t.Errorf("lock after a stale release: %v, want ErrBusy", err)
	}
	again()
}

func lockWaits(t *testing.T, f Fixture) {
	s := f.open(t)
	release, err := s.Lock(within(t), "bob")
	must(t, err)
	trying := make(chan struct{})
	got := make(chan error, 1)
	go func() {
		close(trying)
		release, err := s.Lock(within(t), "bob")
		if err == nil {
			release()
		}
		got <- err
	}()
	<-trying
	release()
	if err := <-got; err != nil {
		t.Errorf("lock of a maildrop that is being left: %v", err)
	}
}

func lockShared(t *testing.T, f Fixture) {
	if !f.Shared {
		t.Skip("the locks of this store are those of one process")
	}
	one, two := f.open(t), f.open(t)
	release, err := one.Lock(within(t), "bob")
	must(t, err)
	defer release()
	if _, err := two.Lock(within(t), "bob"); !errors.Is(err, upstream.ErrBusy) {
		t.Errorf("lock from another store: %v, want ErrBusy", err)
	}
}

func closed(t *testing.T, f Fixture) {
	s := f.open(t)
	must(t, s.Close())
	if _, err := s.Journal("office").Begin(within(t), intent("bob")); err == nil {
		t.Error("Begin on a closed store: no error")
	}
	if _, err := s.Ledger(within(t), "bob"); err == nil {
		t.Error("Ledger of a closed store: no error")
	}
	if got := s.Listing(within(t), state.ListingKey{}); got != nil {
		t.Errorf("listing of a closed store: %q", got)
	}
	s.SaveListing(within(t), state.ListingKey{}, []byte("x"))
}
