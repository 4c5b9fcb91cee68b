package upstreamtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
)

// A Mailbox is the store behind a maildrop under test, as another client of
// that store sees it.
type Mailbox interface {
	// Deliver adds a message as the newest.
	Deliver(t testing.TB, raw string)
	// Take removes one message for good, behind every open maildrop's back.
	Take(t testing.TB, raw string)
	// Messages returns what the mailbox holds, oldest first.
	Messages(t testing.TB) []string
}

// A Fixture is one fresh, empty mailbox and the way to open it.
type Fixture struct {
	Opener  upstream.Opener
	Account upstream.Account // the right credentials
	Mailbox Mailbox
	// Samples are the messages that this store accepts unchanged; nil means
	// the whole Corpus.
	Samples []Sample
}

// Test is the suite that every Maildrop passes. fixture makes a fresh mailbox
// for each case and cleans up after it.
func Test(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, f Fixture)
	}{
		{"WrongPasswordIsErrAuth", wrongPassword},
		{"EmptyMailboxIsAnEmptyListing", emptyMailbox},
		{"EveryMessageArrivesAsStored", everyMessage},
		{"SizesAreOctets", sizesAreOctets},
		{"ManyMessagesOldestFirst", manyMessages},
		{"UIDLsAreValidUniqueAndLasting", uidls},
		{"FetchInAnyOrderAndAgain", anyOrder},
		{"AbandonedFetchSpoilsNothing", abandonedFetch},
		{"TopHoldsHeaderAndLines", top},
		{"SnapshotIgnoresNewMail", snapshot},
		{"MessageGoneSinceListing", gone},
		{"RemoveTakesExactlyTheNamed", remove},
		{"RemoveOfNothing", removeNothing},
		{"RemoveTwiceIsOnce", removeTwice},
		{"RemoveOfTheAlreadyGone", removeGone},
		{"RemoveMany", removeMany},
		{"RemoveSparesNewMail", removeSparesNewMail},
		{"RemoveAfterAbandonedFetch", removeAfterAbandonedFetch},
		{"CloseRemovesNothing", closeRemovesNothing},
		{"CloseInMidFetch", closeInMidFetch},
		{"CancelledListIsAnError", cancelledList},
		{"CancelledFetchNeverLooksWhole", cancelledFetch},
		{"TwoMaildropsOnOneMailbox", twoMaildrops},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fixture(t)) })
	}
}

func (f Fixture) samples() []Sample {
	if f.Samples != nil {
		return f.Samples
	}
	return Corpus()
}

// deliver fills the mailbox with the first n letters of a series.
func (f Fixture) deliver(t *testing.T, n int) []string {
	t.Helper()
	var raw []string
	for i := range n {
		raw = append(raw, Letter(i, 600+37*i%900))
		f.Mailbox.Deliver(t, raw[i])
	}
	return raw
}

// open logs in and lists; the maildrop is closed when the test ends.
func (f Fixture) open(t *testing.T) (upstream.Maildrop, upstream.Listing) {
	t.Helper()
	ctx := within(t, time.Minute)
	d, err := f.Opener.Open(ctx, f.Account)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	l, err := d.List(ctx)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return d, l
}

// within bounds one step: no step of the suite takes long on a working store.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func fetch(t *testing.T, d upstream.Maildrop, i int) string {
	t.Helper()
	r, err := d.Fetch(within(t, time.Minute), i)
	if err != nil {
		t.Fatalf("fetch %d: %v", i, err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("fetch %d: after %d octets: %v", i, len(text), err)
	}
	if err := r.Close(); err != nil {
		t.Fatalf("fetch %d: close: %v", i, err)
	}
	return string(text)
}

func uidl(l upstream.Listing, i int) string { return string(l.AppendUIDL(nil, i)) }

func uidlsOf(l upstream.Listing) []string {
	var all []string
	for i := range l.Len() {
		all = append(all, uidl(l, i))
	}
	return all
}

// same compares messages without printing megabytes of them.
func same(t *testing.T, what string, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s: %d octets, want %d; they part at %d: got %.40q, want %.40q", what, len(got), len(want), at, got[at:], want[at:])
}

// holds checks the mailbox, message by message.
func (f Fixture) holds(t *testing.T, want []string) {
	t.Helper()
	got := f.Mailbox.Messages(t)
	if diff := cmp.Diff(subjects(want), subjects(got)); diff != "" {
		t.Errorf("mailbox (-want +got):\n%s", diff)
	}
}

func subjects(messages []string) []string {
	all := []string{}
	for _, raw := range messages {
		_, rest, _ := strings.Cut(raw, "Subject: ")
		subject, _, _ := strings.Cut(rest, "\r\n")
		all = append(all, fmt.Sprintf("%s (%d octets)", subject, len(raw)))
	}
	return all
}

func wrongPassword(t *testing.T, f Fixture) {
	for _, a := range []upstream.Account{
		{User: f.Account.User, Password: upstream.NewSecret("not the password")},
		{User: f.Account.User, Password: upstream.NewSecret("with \"quotes\" and \\ and sp ace")},
		{User: "nobody-" + f.Account.User, Password: f.Account.Password},
	} {
		d, err := f.Opener.Open(within(t, time.Minute), a)
		if !errors.Is(err, upstream.ErrAuth) {
			t.Errorf("open as %q: %v, want ErrAuth", a.User, err)
		}
		if err == nil {
			d.Close()
		}
	}
}

func emptyMailbox(t *testing.T, f Fixture) {
	if _, l := f.open(t); l.Len() != 0 {
		t.Errorf("%d messages, want none", l.Len())
	}
}

func everyMessage(t *testing.T, f Fixture) {
	samples := f.samples()
	for _, s := range samples {
		f.Mailbox.Deliver(t, s.Raw)
	}
	d, l := f.open(t)
	if l.Len() != len(samples) {
		t.Fatalf("%d messages, want %d", l.Len(), len(samples))
	}
	for i, s := range samples {
		same(t, s.Name, fetch(t, d, i), s.Raw)
	}
}

func sizesAreOctets(t *testing.T, f Fixture) {
	samples := f.samples()
	for _, s := range samples {
		f.Mailbox.Deliver(t, s.Raw)
	}
	_, l := f.open(t)
	for i, s := range samples {
		if got, want := l.Size(i), int64(len(s.Raw)); got != want {
			t.Errorf("%s: size %d, want %d", s.Name, got, want)
		}
	}
}

func manyMessages(t *testing.T, f Fixture) {
	raw := f.deliver(t, 300)
	d, l := f.open(t)
	if l.Len() != len(raw) {
		t.Fatalf("%d messages, want %d", l.Len(), len(raw))
	}
	for i := range raw {
		same(t, fmt.Sprint("message ", i), fetch(t, d, i), raw[i])
	}
}

func uidls(t *testing.T, f Fixture) {
	f.deliver(t, 20)
	_, first := f.open(t)
	seen := map[string]bool{}
	for _, u := range uidlsOf(first) {
		if len(u) < 1 || len(u) > 70 || strings.ContainsFunc(u, func(r rune) bool { return r < 0x21 || r > 0x7E }) {
			t.Errorf("%q is no unique-id", u)
		}
		if seen[u] {
			t.Errorf("%q stands for two messages", u)
		}
		seen[u] = true
	}
	_, second := f.open(t)
	if diff := cmp.Diff(uidlsOf(first), uidlsOf(second)); diff != "" {
		t.Errorf("the next session shows other unique-ids:\n%s", diff)
	}
}

func anyOrder(t *testing.T, f Fixture) {
	raw := f.deliver(t, 12)
	d, _ := f.open(t)
	for _, i := range []int{0, 1, 2, 3, 11, 10, 9, 4, 4, 5, 0, 6, 8, 7, 7, 8, 9} {
		same(t, fmt.Sprint("message ", i), fetch(t, d, i), raw[i])
	}
}

func abandonedFetch(t *testing.T, f Fixture) {
	big := Letter(100, 3<<20)
	f.Mailbox.Deliver(t, big)
	raw := f.deliver(t, 3)
	d, _ := f.open(t)
	for range 3 {
		r, err := d.Fetch(within(t, time.Minute), 0)
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 1000)
		if _, err := io.ReadFull(r, part); err != nil {
			t.Fatal(err)
		}
		r.Close()
		same(t, "the message after it", fetch(t, d, 2), raw[1])
	}
	same(t, "the abandoned message", fetch(t, d, 0), big)
}

func top(t *testing.T, f Fixture) {
	samples := f.samples()
	for _, s := range samples {
		f.Mailbox.Deliver(t, s.Raw)
	}
	d, _ := f.open(t)
	for i, s := range samples {
		for _, n := range []int{0, 1, 5, 1000000} {
			r, err := d.Top(within(t, time.Minute), i, n)
			if err != nil {
				t.Fatalf("%s: top %d: %v", s.Name, n, err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatalf("%s: top %d: %v", s.Name, n, err)
			}
			r.Close()
			header, body, _ := strings.Cut(s.Raw, "\r\n\r\n")
			least := header + "\r\n\r\n" + strings.Join(firstLines(body, n), "")
			if len(least) > len(s.Raw) {
				least = s.Raw
			}
			if !strings.HasPrefix(string(got), least) {
				same(t, fmt.Sprintf("%s: top %d", s.Name, n), string(got), least)
			}
			if !strings.HasPrefix(s.Raw, string(got)) {
				same(t, fmt.Sprintf("%s: top %d is not how the message begins", s.Name, n), string(got), s.Raw)
			}
		}
	}
}

func firstLines(body string, n int) []string {
	lines := strings.SplitAfter(body, "\r\n")
	return lines[:min(n, len(lines))]
}

func snapshot(t *testing.T, f Fixture) {
	raw := f.deliver(t, 3)
	d, l := f.open(t)
	before := uidlsOf(l)
	late := Letter(50, 900)
	f.Mailbox.Deliver(t, late)
	for i := range raw {
		same(t, fmt.Sprint("message ", i), fetch(t, d, i), raw[i])
	}
	if diff := cmp.Diff(before, uidlsOf(l)); diff != "" {
		t.Errorf("the listing changed:\n%s", diff)
	}
	d2, l2 := f.open(t)
	if l2.Len() != 4 || !slices.Equal(uidlsOf(l2)[:3], before) {
		t.Fatalf("next session: %q, want %q and one more", uidlsOf(l2), before)
	}
	same(t, "the late message", fetch(t, d2, 3), late)
}

// gone: some stores still deliver a message that was removed after the
// listing; what they may not do is to deliver another, or a part of it.
func gone(t *testing.T, f Fixture) {
	raw := f.deliver(t, 4)
	d, _ := f.open(t)
	f.Mailbox.Take(t, raw[1])
	r, err := d.Fetch(within(t, time.Minute), 1)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(r)
		r.Close()
		if err == nil {
			same(t, "the message that is gone", string(text), raw[1])
		}
	} else if !errors.Is(err, upstream.ErrGone) {
		t.Errorf("fetch: %v, want ErrGone", err)
	}
	for _, i := range []int{0, 2, 3} {
		same(t, fmt.Sprint("message ", i), fetch(t, d, i), raw[i])
	}
}

func remove(t *testing.T, f Fixture) {
	raw := f.deliver(t, 10)
	d, l := f.open(t)
	before := uidlsOf(l)
	for i := range raw {
		if err := d.Removable(i); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	removed, err := d.Remove(within(t, time.Minute), []int{1, 2, 5, 9})
	if removed != 4 || err != nil {
		t.Fatalf("removed %d, %v; want 4", removed, err)
	}
	f.holds(t, pick(raw, 0, 3, 4, 6, 7, 8))
	_, after := f.open(t)
	if diff := cmp.Diff(pick(before, 0, 3, 4, 6, 7, 8), uidlsOf(after)); diff != "" {
		t.Errorf("unique-ids of the rest:\n%s", diff)
	}
}

func pick(from []string, at ...int) []string {
	var some []string
	for _, i := range at {
		some = append(some, from[i])
	}
	return some
}

func removeNothing(t *testing.T, f Fixture) {
	raw := f.deliver(t, 2)
	d, _ := f.open(t)
	if removed, err := d.Remove(within(t, time.Minute), nil); removed != 0 || err != nil {
		t.Errorf("removed %d, %v", removed, err)
	}
	f.holds(t, raw)
}

func removeTwice(t *testing.T, f Fixture) {
	raw := f.deliver(t, 3)
	d, _ := f.open(t)
	for range 2 {
		if removed, err := d.Remove(within(t, time.Minute), []int{1}); removed != 1 || err != nil {
			t.Fatalf("removed %d, %v; want 1", removed, err)
		}
	}
	f.holds(t, pick(raw, 0, 2))
}

func removeGone(t *testing.T, f Fixture) {
	raw := f.deliver(t, 4)
	d, _ := f.open(t)
	f.Mailbox.Take(t, raw[2])
	if removed, err := d.Remove(within(t, time.Minute), []int{0, 2}); removed != 2 || err != nil {
		t.Fatalf("removed %d, %v; want 2", removed, err)
	}
	f.holds(t, pick(raw, 1, 3))
}

func removeMany(t *testing.T, f Fixture) {
	raw := f.deliver(t, 1200)
	d, _ := f.open(t)
	var odd []int
	var rest []string
	for i := range raw {
		if i%2 == 1 {
			odd = append(odd, i)
		} else {
			rest = append(rest, raw[i])
		}
	}
	if removed, err := d.Remove(within(t, time.Minute), odd); removed != len(odd) || err != nil {
		t.Fatalf("removed %d, %v; want %d", removed, err, len(odd))
	}
	f.holds(t, rest)
}

func removeSparesNewMail(t *testing.T, f Fixture) {
	raw := f.deliver(t, 3)
	d, _ := f.open(t)
	late := Letter(60, 900)
	f.Mailbox.Deliver(t, late)
	if removed, err := d.Remove(within(t, time.Minute), []int{0, 1, 2}); removed != len(raw) || err != nil {
		t.Fatalf("removed %d, %v; want 3", removed, err)
	}
	f.holds(t, []string{late})
}

func removeAfterAbandonedFetch(t *testing.T, f Fixture) {
	big := Letter(100, 3<<20)
	f.Mailbox.Deliver(t, big)
	raw := f.deliver(t, 2)
	d, _ := f.open(t)
	r, err := d.Fetch(within(t, time.Minute), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if removed, err := d.Remove(within(t, time.Minute), []int{1}); removed != 1 || err != nil {
		t.Fatalf("removed %d, %v; want 1", removed, err)
	}
	f.holds(t, []string{big, raw[1]})
}

func closeRemovesNothing(t *testing.T, f Fixture) {
	raw := f.deliver(t, 3)
	d, _ := f.open(t)
	fetch(t, d, 0)
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	f.holds(t, raw)
}

func closeInMidFetch(t *testing.T, f Fixture) {
	big := Letter(100, 3<<20)
	f.Mailbox.Deliver(t, big)
	d, _ := f.open(t)
	r, err := d.Fetch(within(t, time.Minute), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { d.Close(); close(done) }()
	select {
	case <-done:
	case <-within(t, 10*time.Second).Done():
		t.Fatal("Close hangs while a message is being fetched")
	}
	r.Close()
	f.holds(t, []string{big})
}

func cancelledList(t *testing.T, f Fixture) {
	f.deliver(t, 2)
	d, err := f.Opener.Open(within(t, time.Minute), f.Account)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if l, err := d.List(ctx); err == nil {
		t.Errorf("a listing of %d messages, want an error", l.Len())
	}
}

func cancelledFetch(t *testing.T, f Fixture) {
	big := Letter(100, 8<<20)
	f.Mailbox.Deliver(t, big)
	d, _ := f.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := d.Fetch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	// What had been read ahead may still come, but the end of it may not look
	// like the end of the message.
	rest, err := io.ReadAll(r)
	if err == nil && len(rest)+1000 != len(big) {
		t.Errorf("%d of %d octets looked like the whole message", len(rest)+1000, len(big))
	}
}

func twoMaildrops(t *testing.T, f Fixture) {
	raw := f.deliver(t, 6)
	one, _ := f.open(t)
	two, _ := f.open(t)
	if removed, err := one.Remove(within(t, time.Minute), []int{0, 1}); removed != 2 || err != nil {
		t.Fatalf("one removed %d, %v; want 2", removed, err)
	}
	if removed, err := two.Remove(within(t, time.Minute), []int{1, 2}); removed != 2 || err != nil {
		t.Fatalf("two removed %d, %v; want 2", removed, err)
	}
	same(t, "message 5", fetch(t, two, 5), raw[5])
	f.holds(t, raw[3:])
}
