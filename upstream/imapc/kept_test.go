package imapc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A shelf is an upstream.ListingCache in memory.
type shelf struct {
	mu    sync.Mutex
	all   map[string][]byte
	saves int
}

func (s *shelf) Load(_ context.Context, account, key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.all[account+" "+key])
}

func (s *shelf) Save(_ context.Context, account, key string, listing []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string][]byte)
	}
	s.all[account+" "+key] = listing
	s.saves++
}

// session lists and leaves; it returns what was listed.
func (f *fake) session() (string, bool) {
	f.t.Helper()
	d := f.list()
	var all []string
	for i := range d.listing.Len() {
		all = append(all, fmt.Sprintf("%s=%d", d.listing.AppendUIDL(nil, i), d.listing.Size(i)))
	}
	reused := d.toKeep.reused
	d.Close()
	synctest.Wait()
	f.commands = slices.DeleteFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, "LOG") || c == "CAPABILITY" })
	return strings.Join(all, " "), reused
}

func (f *fake) truth() string {
	var all []string
	for _, m := range f.messages {
		all = append(all, fmt.Sprintf("%s.%d=%d", f.uidValidity, m.uid, m.stated()))
	}
	return strings.Join(all, " ")
}

func (f *fake) deliver(uid uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = append(f.messages, fakeMessage{uid: uid, raw: upstreamtest.Letter(int(uid), 300)})
	f.ring()
}

// What is shown is what is there, whatever has become of the mailbox since; and
// no more is asked than it takes to know that.
func TestKeptListingIsTrueOrNotUsed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fake)
		sent   []string
		reused bool
	}{
		"unchanged":    {func(f *fake) {}, []string{"SELECT", "UID FETCH 10:*"}, true},
		"new mail":     {func(f *fake) { f.deliver(12); f.deliver(40) }, []string{"SELECT", "UID FETCH 10:*"}, true},
		"one gone":     {func(f *fake) { f.take(5) }, []string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9"}, true},
		"last gone":    {func(f *fake) { f.take(9) }, []string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9"}, true},
		"gone and new": {func(f *fake) { f.take(5); f.deliver(10) }, []string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9"}, true},
		"all gone":     {func(f *fake) { f.messages = nil }, []string{"SELECT", "UID FETCH 10:*"}, false},
		"all new":      {func(f *fake) { f.messages = nil; f.deliver(11) }, []string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9"}, true},
		"UIDVALIDITY":  {func(f *fake) { f.uidValidity = "78" }, []string{"SELECT", "UID FETCH 10:*", "UID FETCH 1:*"}, false},
		"another size": {func(f *fake) { f.change(9, func(m *fakeMessage) { m.size = 7 }) }, []string{"SELECT", "UID FETCH 10:*", "UID FETCH 1:*"}, false},
		"another identity": {func(f *fake) { f.change(9, func(m *fakeMessage) { m.id = "M99" }) },
			[]string{"SELECT", "UID FETCH 10:*", "UID FETCH 1:*"}, false},
		"no identity":   {func(f *fake) { f.change(9, func(m *fakeMessage) { m.id = "" }) }, []string{"SELECT", "UID FETCH 10:*"}, true},
		"a lower UID":   {func(f *fake) { f.deliver(4) }, []string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9", "UID FETCH 1:*"}, false},
		"no FETCH 10:*": {func(f *fake) { f.fault = refuses("UID FETCH 10:*") }, []string{"SELECT", "UID FETCH 10:*", "UID FETCH 1:*"}, false},
		"gone, no SEARCH": {func(f *fake) { f.take(5); f.fault = refuses("UID SEARCH") },
			[]string{"SELECT", "UID FETCH 10:*", "UID SEARCH UID 1:9", "UID FETCH 1:*"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.options.Listings = new(shelf)
				f.caps += " OBJECTID"
				f.change(9, func(m *fakeMessage) { m.id = "M9" })
				if got, reused := f.session(); got != f.truth() || reused {
					t.Fatalf("first: %s, reused %v; want %s", got, reused, f.truth())
				}
				f.commands = nil
				c.change(f)
				slices.SortFunc(f.messages, func(a, b fakeMessage) int { return int(a.uid) - int(b.uid) })
				got, reused := f.session()
				if got != f.truth() || reused != c.reused {
					t.Errorf("%s, reused %v; want %s, %v", got, reused, f.truth(), c.reused)
				}
				if !slices.EqualFunc(f.commands, c.sent, strings.HasPrefix) {
					t.Errorf("sent %q, want %q", f.commands, c.sent)
				}
				f.fault = nil
				if got, _ := f.session(); got != f.truth() {
					t.Errorf("once more: %s, want %s", got, f.truth())
				}
			})
		})
	}
}

// listOn is list with an Upstream of the test's own.
func (f *fake) listOn(u *Upstream) *maildrop {
	f.t.Helper()
	d, err := u.Open(f.t.Context(), f.account())
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.opened = append(f.opened, d)
	if _, err := d.List(f.t.Context()); err != nil {
		f.t.Fatalf("list: %v", err)
	}
	return d.(*maildrop)
}

// U32: a kept listing is believed as long as the numbers are right, and may have
// a message that is another one by now. Whoever finds that out in a removal sees
// to it that the next session reads the mailbox anew.
func TestFaultU32ListingThatWasDisprovedIsNotKept(t *testing.T) {
	for _, warm := range []time.Duration{0, time.Minute} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Listings, f.options.Warm = new(shelf), warm
			u := f.upstream()
			d := f.listOn(u)
			d.Close()
			synctest.Wait()
			f.change(5, func(m *fakeMessage) { m.raw += "another" })
			d = f.listOn(u)
			wantRemoved(t, f, d, []int{0, 1}, 1, upstream.ErrRejected, 5, 6, 9)
			d.Close()
			synctest.Wait()
			d = f.listOn(u)
			if got, want := d.listing.Size(0), int64(f.messages[0].stated()); got != want || d.toKeep.reused {
				t.Errorf("warm for %v: UID 5 is listed with %d octets, want %d", warm, got, want)
			}
			wantRemoved(t, f, d, []int{0}, 1, nil, 6, 9)
			u.o.Stable.Close()
		})
	}
}

func refuses(command string) func(*fakeConn, string) bool {
	return onCommand(command, func(c *fakeConn) bool { c.say("%s BAD no", c.tag); return true })
}

// A message that comes at the end of the answer makes up for one that is gone:
// the number is right, and the listing is not.
func TestKeptListingIsNotCountedWithLaterMail(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Listings = new(shelf)
		f.session()
		f.take(5)
		f.deliver(10)
		f.fault = onCommand("UID FETCH 10:*", func(c *fakeConn) bool {
			f.fault = nil
			f.deliver(12)
			c.say("* 4 FETCH (UID 10 RFC822.SIZE %d)", f.messages[3].stated())
			c.say("* 5 EXISTS")
			c.say("%s OK done", c.tag)
			return true
		})
		if got, _ := f.session(); got != f.truth() {
			t.Errorf("listed %s, want %s", got, f.truth())
		}
	})
}

// What a session has removed, the next one does not look for.
func TestRemovedMessagesAreForgotten(t *testing.T) {
	for name, removed := range map[string][]int{"some": {1, 2}, "the last": {3}, "all": {0, 1, 2, 3}} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Listings = new(shelf)
			d := f.list()
			if n, err := d.Remove(t.Context(), removed); n != len(removed) || err != nil {
				t.Fatalf("%s: removed %d, %v", name, n, err)
			}
			d.Close()
			synctest.Wait()
			f.commands = nil
			got, reused := f.session()
			if got != f.truth() || reused == (len(f.messages) == 0) || len(f.commands) != 2 {
				t.Errorf("%s: %s, reused %v, sent %q; want %s", name, got, reused, f.commands, f.truth())
			}
		})
	}
}

// What was not changed is not written again.
func TestUnchangedListingIsNotSaved(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		kept := new(shelf)
		f.options.Listings = kept
		for range 3 {
			f.session()
		}
		if kept.saves != 1 {
			t.Errorf("saved %d times, want once", kept.saves)
		}
		f.deliver(10)
		f.session()
		f.session()
		if kept.saves != 2 {
			t.Errorf("saved %d times, want twice", kept.saves)
		}
	})
}

// No listing that is damaged, or another mailbox's, is one.
func TestDamagedListingIsNone(t *testing.T) {
	l := &listing{uidValidity: 77, identities: identities{kind: objectID}}
	for _, uid := range []uint32{3, 5, 1 << 31} {
		l.add(uid, int64(uid)*2)
		l.identities.add([]byte(fmt.Sprint("M", uid)))
	}
	data := encodeListing(l, "salt")
	if got := decodeListing(data, "salt", 3); got == nil || !slices.Equal(got.entries, l.entries) || got.Size(2) != 1<<32 ||
		string(got.AppendIdentity(nil, 1)) != "objectid:M5" || got.uidValidity != 77 {
		t.Fatalf("%+v came back of %+v", got, l)
	}
	if decodeListing(data, "pepper", 3) != nil || decodeListing(data, "salt", 2) != nil || decodeListing(nil, "salt", 3) != nil {
		t.Error("another mailbox's, one over the limit, or nothing was taken")
	}
	for i := range data {
		for bit := range 8 {
			damaged := bytes.Clone(data)
			damaged[i] ^= 1 << bit
			if decodeListing(damaged, "salt", 3) != nil {
				t.Errorf("taken with bit %d of octet %d changed", bit, i)
			}
		}
		if decodeListing(data[:i], "salt", 3) != nil {
			t.Errorf("%d octets were taken", i)
		}
	}
}

func TestListingIsKeptAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]byte{noIdentity, objectID, gmailID}).Draw(t, "kind")
		l := &listing{uidValidity: rapid.Uint32().Draw(t, "uidvalidity"), identities: identities{kind: kind}}
		for _, uid := range rapid.SliceOfDistinct(rapid.Uint32Min(1), rapid.ID).Draw(t, "uids") {
			l.add(uid, rapid.Int64Range(0, maxSize).Draw(t, "size"))
			l.identities.add([]byte(rapid.StringMatching(`[A-Za-z0-9]{0,20}`).Draw(t, "identity")))
		}
		if err := l.sort(); err != nil {
			t.Fatal(err)
		}
		got := decodeListing(encodeListing(l, ""), "", l.Len())
		if got == nil || !slices.Equal(got.entries, l.entries) {
			t.Fatalf("%+v came back of %+v", got, l)
		}
		for i := range l.Len() {
			if got.Size(i) != l.Size(i) || !bytes.Equal(got.identities.at(i), l.identities.at(i)) {
				t.Errorf("message %d: %d %q, want %d %q", i, got.Size(i), got.identities.at(i), l.Size(i), l.identities.at(i))
			}
		}
	})
}

// A garbled listing, though with its sum, is no reason to panic.
func FuzzDecodeListing(f *testing.F) {
	f.Add([]byte{keptVersion, noIdentity, 77, 1, 3, 9})
	f.Add([]byte{keptVersion, objectID, 77, 1, 3, 9, 1, 'M'})
	f.Fuzz(func(t *testing.T, text []byte) {
		sum := keptSum(text, "")
		if l := decodeListing(append(text, sum[:]...), "", 1000); l != nil {
			for i := range l.Len() {
				if l.uid(i) == 0 || i > 0 && l.uid(i) <= l.uid(i-1) || l.Size(i) < 0 {
					t.Errorf("%v", l.entries)
				}
			}
		}
	})
}

func TestIdentities(t *testing.T) {
	for caps, want := range map[string]string{
		" OBJECTID":            "77.3 objectid:Mb, 77.5 objectid:Ma, 77.6 , 77.9 objectid:Mc",
		" X-GM-EXT-1":          "77.3 gmail:1278455344230334865, 77.5 , 77.6 gmail:7, 77.9 ",
		" X-GM-EXT-1 OBJECTID": "77.3 objectid:Mb, 77.5 objectid:Ma, 77.6 , 77.9 objectid:Mc",
		"":                     "77.3 , 77.5 , 77.6 , 77.9 ",
	} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Listings = new(shelf)
			f.caps += caps
			f.fault = lists("* 2 FETCH (UID 5 EMAILID (Ma) RFC822.SIZE 3)", "* 1 FETCH (EMAILID (Mb) UID 3 X-GM-MSGID 1278455344230334865 RFC822.SIZE 3)",
				"* 3 FETCH (UID 6 RFC822.SIZE 3 EMAILID NIL X-GM-MSGID 7)", "* 4 FETCH (UID 9 EMAILID (Mc) X-GM-MSGID (8) RFC822.SIZE 3)")
			d := f.list()
			var got []string
			for i := range d.listing.Len() {
				got = append(got, string(d.listing.AppendName(nil, i))+" "+string(d.listing.AppendIdentity(nil, i)))
			}
			if text := strings.Join(got, ", "); text != want {
				t.Errorf("%s: %s, want %s", caps, text, want)
			}
		})
	}
}
