package retention

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A cellar is an upstream that keeps what it removed. Purge asks it what to do.
type cellar struct {
	*upstreamtest.Memory
	purge func(ctx context.Context, kept []upstream.Removal) ([]bool, error)
}

func (c *cellar) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	d, err := c.Memory.Open(ctx, a)
	return keeper{d, c}, err
}

type keeper struct {
	upstream.Maildrop
	cellar *cellar
}

func (k keeper) Restore(context.Context, []upstream.Removal) ([]bool, error) {
	panic("nothing is restored here")
}

func (k keeper) Purge(ctx context.Context, kept []upstream.Removal) ([]bool, error) {
	return k.cellar.purge(ctx, kept)
}

// A scene is an upstream, a store and the Opener between them.
type scene struct {
	t      *testing.T
	cellar *cellar
	store  state.Store
	opener *Opener
	log    bytes.Buffer // read after the Opener was closed

	mu     sync.Mutex
	asked  []string // names that Purge was called with
	purged int      // as told to the hook
}

const grace = 24 * time.Hour

func newScene(t *testing.T, policy upstream.Policy) *scene {
	t.Helper()
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, store: store, cellar: &cellar{Memory: upstreamtest.NewMemory("ann", "secret")}}
	s.cellar.purge = func(_ context.Context, kept []upstream.Removal) ([]bool, error) {
		return slices.Repeat([]bool{true}, len(kept)), nil
	}
	s.opener = New(noting{s}, store, Options{
		Upstream: "office", Policy: policy,
		Purged: func(n int) { s.purged += n },
		Log:    slog.New(slog.NewTextHandler(&s.log, nil)),
		Now:    func() time.Time { return time.Now().Add(grace + time.Hour) },
	})
	t.Cleanup(func() {
		s.opener.Close()
		store.Close()
	})
	return s
}

// noting notes what is asked of the keeper.
type noting struct{ *scene }

func (n noting) Open(ctx context.Context, a upstream.Account) (upstream.Maildrop, error) {
	inner := n.cellar.purge
	c := &cellar{n.cellar.Memory, func(ctx context.Context, kept []upstream.Removal) ([]bool, error) {
		n.mu.Lock()
		for _, r := range kept {
			n.asked = append(n.asked, r.Kept.Name)
		}
		n.mu.Unlock()
		return inner(ctx, kept)
	}}
	return c.Open(ctx, a)
}

// removed records n messages that a removal of the account kept.
func (s *scene) removed(account, policy string, n int) {
	s.t.Helper()
	j := s.store.Journal("office")
	id, err := j.Begin(s.t.Context(), upstream.Intent{Account: account, Policy: policy, Mailbox: "INBOX", Names: "1:*"})
	if err != nil {
		s.t.Fatal(err)
	}
	var all []upstream.Removal
	for i := range n {
		all = append(all, upstream.Removal{Name: fmt.Sprint(i), Kept: upstream.Place{Mailbox: "Trash", Validity: "7", Name: fmt.Sprint(i)}})
	}
	if err := j.End(s.t.Context(), id, all); err != nil {
		s.t.Fatal(err)
	}
}

// session is one POP3 session, and whatever follows it.
func (s *scene) session() {
	s.t.Helper()
	drop := s.open()
	if _, err := drop.List(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if err := drop.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.opener.working.Wait()
}

func (s *scene) open() upstream.Maildrop {
	s.t.Helper()
	drop, err := s.opener.Open(s.t.Context(), s.cellar.Account())
	if err != nil {
		s.t.Fatal(err)
	}
	return drop
}

// fates counts what became of the account's removals.
func (s *scene) fates() map[state.Fate]int {
	s.t.Helper()
	all, err := s.store.Removals(s.t.Context(), state.Query{Limit: 10_000})
	if err != nil {
		s.t.Fatal(err)
	}
	fates := map[state.Fate]int{}
	for _, r := range all {
		fates[r.Fate]++
	}
	return fates
}

func (s *scene) want(purged, kept int) {
	s.t.Helper()
	if f := s.fates(); f[state.Purged] != purged || f[state.Unsettled] != kept {
		s.t.Errorf("%d purged and %d kept, want %d and %d", f[state.Purged], f[state.Unsettled], purged, kept)
	}
	if s.purged != purged {
		s.t.Errorf("hook was told of %d, want %d", s.purged, purged)
	}
	if opened, closed := s.cellar.Handles(); opened != closed {
		s.t.Errorf("%d maildrops opened, %d closed", opened, closed)
	}
}

var trash = upstream.Policy{Delete: upstream.DeleteTrash, Grace: grace}

func TestPurgeAfterTheSession(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 2*batch+7)
	s.removed("bob", "trash", 3)
	s.session()
	s.want(2*batch+7, 3)
	s.session()
	if got := len(s.asked); got != 2*batch+7 {
		t.Errorf("%d messages purged in two sessions, want each once: %d", got, 2*batch+7)
	}
}

func TestNothingIsPurgedEarly(t *testing.T) {
	s := newScene(t, trash)
	s.opener.options.Now = func() time.Time { return time.Now().Add(grace - time.Minute) }
	s.removed("ann", "trash", 1)
	s.session()
	s.want(0, 1)
}

// A grace is of days in the life of people: set the clock back, and it is longer.
func TestFaultH10GraceGoesByTheWallClock(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	for _, jump := range []time.Duration{-24 * time.Hour, 0, grace - time.Minute} {
		s.opener.options.Now = func() time.Time { return time.Now().Add(jump) }
		s.session()
		s.want(0, 1)
	}
	s.opener.options.Now = func() time.Time { return time.Now().Add(grace + 24*time.Hour) }
	s.session()
	s.want(1, 0)
}

// TestOnlyWhatThePolicyKept: what was moved to the trash while the route said
// that it stays there is not the present policy's to purge.
func TestOnlyWhatThePolicyKept(t *testing.T) {
	s := newScene(t, upstream.Policy{Delete: upstream.DeleteExpunge, Grace: grace})
	s.removed("ann", "trash", batch+1)
	s.removed("ann", "expunge", 2)
	s.session()
	s.want(2, batch+1)
}

func TestWithoutGraceNothingIsPurged(t *testing.T) {
	s := newScene(t, upstream.Policy{Delete: upstream.DeleteTrash})
	s.removed("ann", "trash", 1)
	s.session()
	s.want(0, 1)
}

// TestAnUnlistedMaildropIsNotUsed: a login that failed leaves nothing to rely on.
func TestAnUnlistedMaildropIsNotUsed(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	s.open().Close()
	s.cellar.Break(upstreamtest.Faults{List: upstream.ErrUnavailable})
	drop := s.open()
	if _, err := drop.List(t.Context()); !errors.Is(err, upstream.ErrUnavailable) {
		t.Fatalf("listing: %v, want %v", err, upstream.ErrUnavailable)
	}
	drop.Close()
	s.opener.working.Wait()
	s.want(0, 1)
}

// TestClosingWaitsForNothing: the client's answer and the maildrop's lock
// depend on Close.
func TestClosingWaitsForNothing(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	started, finish := make(chan struct{}), make(chan struct{})
	s.cellar.purge = func(context.Context, []upstream.Removal) ([]bool, error) {
		close(started)
		<-finish
		return []bool{true}, nil
	}
	drop := s.open()
	if _, err := drop.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	drop.Close() // would never return
	<-started
	close(finish)
	s.opener.working.Wait()
	s.want(1, 0)
}

// TestFailureSettlesWhatWent, and no more.
func TestFailureSettlesWhatWent(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 3)
	s.cellar.purge = func(context.Context, []upstream.Removal) ([]bool, error) {
		return []bool{true, false, true}, upstream.ErrUnavailable
	}
	s.session()
	s.want(2, 1)
	if !strings.Contains(s.log.String(), "level=WARN") {
		t.Errorf("log does not warn:\n%s", &s.log)
	}
}

// TestWhatDoesNotGoIsPassedOver, once in each session.
func TestWhatDoesNotGoIsPassedOver(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", batch)
	s.removed("ann", "trash", 5)
	s.cellar.purge = func(_ context.Context, kept []upstream.Removal) ([]bool, error) {
		return slices.Repeat([]bool{len(kept) < batch}, len(kept)), nil
	}
	s.session()
	s.want(5, batch)
}

// TestShortAnswers: a keeper that tells of fewer messages than it was asked for
// has not told of the others.
func TestShortAnswers(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 3)
	s.cellar.purge = func(context.Context, []upstream.Removal) ([]bool, error) { return []bool{true}, nil }
	s.session()
	s.want(1, 2)
}

func TestPanicEndsOnlyThePurge(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	s.cellar.purge = func(context.Context, []upstream.Removal) ([]bool, error) { panic("at the cellar") }
	s.session()
	s.want(0, 1)
	if log := s.log.String(); !strings.Contains(log, "purge panicked") || strings.Contains(log, "at the cellar") {
		t.Errorf("log:\n%s", log)
	}
}

// TestCloseEndsPurges, so that the store can be closed after it.
func TestCloseEndsPurges(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	s.cellar.purge = func(ctx context.Context, _ []upstream.Removal) ([]bool, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	drop := s.open()
	if _, err := drop.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	drop.Close()
	s.opener.Close()
	s.want(0, 1)
	s.session() // afterwards maildrops are only closed
	s.want(0, 1)
	if s.log.Len() > 0 {
		t.Errorf("log, want nothing:\n%s", &s.log)
	}
}

// TestPurgesAreBounded: with every place taken, a session is only closed.
func TestPurgesAreBounded(t *testing.T) {
	s := newScene(t, trash)
	s.removed("ann", "trash", 1)
	for range atOnce {
		s.opener.places <- struct{}{}
	}
	s.session()
	s.want(0, 1)
	for range atOnce {
		<-s.opener.places
	}
	s.session()
	s.want(1, 0)
}

// A recorder is told what is shown, through what purges behind it.
type recorder struct {
	keeper
	told *upstream.Listing
}

func (r recorder) Shown(l upstream.Listing) { *r.told = l }

func TestAdapterIsToldWhatIsShown(t *testing.T) {
	s := newScene(t, upstream.Policy{Grace: grace})
	var told upstream.Listing
	inner := s.cellar.Memory
	drop, err := inner.Open(t.Context(), inner.Account())
	if err != nil {
		t.Fatal(err)
	}
	d := &maildrop{Maildrop: recorder{keeper{drop, s.cellar}, &told}, opener: s.opener}
	defer d.Close()
	l, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if upstream.Recorder(d).Shown(l); told == nil {
		t.Error("the adapter is not told")
	}
}
