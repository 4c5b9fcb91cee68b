package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"postern/proxy/state"
	"postern/upstream"
)

func TestSegmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z0-9.]{0,20}`)
		var entries []*entry
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			e := &entry{name: word.Draw(t, "name"), identity: word.Draw(t, "identity"),
				size: rapid.Int64Min(0).Draw(t, "size"), received: rapid.Int64Range(-1<<40, 1<<40).Draw(t, "received"),
				gone: rapid.Int64Range(0, 1<<20).Draw(t, "gone"), flags: flags(rapid.IntRange(0, 15).Draw(t, "flags"))}
			e.uidl = rapid.SampledFrom([]string{e.name, "other" + e.name}).Draw(t, "uidl")
			if rapid.Bool().Draw(t, "object") {
				e.identity = objectID + e.name
			}
			if e.flags&hashed != 0 {
				copy(e.header[:], word.Draw(t, "header"))
			}
			entries = append(entries, e)
		}
		got, err := decode(encode(entries))
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if diff := cmp.Diff(*e, got[i], cmp.AllowUnexported(entry{}), cmpopts.IgnoreFields(entry{}, "from")); diff != "" {
				t.Fatalf("entry %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(encode([]*entry{{uidl: "1.1", name: "1.1", size: 5, received: 7, flags: hashed}, {uidl: "x", name: "1.2", identity: "objectid:1.2"}}))
	f.Add([]byte{formatVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := decode(data)
		if err != nil {
			if !errors.Is(err, state.ErrDamaged) {
				t.Errorf("%v, want ErrDamaged", err)
			}
			return
		}
		all := make([]*entry, len(entries))
		for i := range entries {
			all[i] = &entries[i]
		}
		again, err := decode(encode(all))
		if err != nil || len(again) != len(entries) {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
	})
}

func FuzzDecodeRetired(f *testing.F) {
	f.Add(encodeRetired([]retired{1, 1 << 63}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if hashes, err := decodeRetired(data); err == nil && !bytes.Equal(encodeRetired(hashes), data) {
			t.Errorf("%x decodes to %x", data, hashes)
		}
	})
}

// A poll that finds new mail writes one segment, one that finds nothing none,
// and segments neither grow past their size nor crumble.
func TestSegmentsWritten(t *testing.T) {
	box := newMailbox(0)
	for i := range 3*segmentSize - 20 {
		box.deliver(fmt.Sprintf("Subject: %d\r\n\r\n", i))
	}
	store := &counting{Store: newStore(t)}
	o := New(box, store, Options{})
	polls := func(what string, saves, segments int) {
		t.Helper()
		store.saves, store.put = 0, 0
		shown(t, o, box)
		if store.put != segments || store.saves != saves {
			t.Errorf("%s: %d segments written in %d saves, want %d in %d", what, store.put, store.saves, segments, saves)
		}
	}
	polls("first login", 1, 3)
	polls("nothing new", 0, 0)
	for i := range 5 {
		box.deliver(fmt.Sprintf("Subject: new %d\r\n\r\n", i))
	}
	polls("five new", 1, 1)
	for i := range 30 {
		box.deliver(fmt.Sprintf("Subject: newer %d\r\n\r\n", i))
	}
	polls("more than the last segment holds", 1, 1)
	box.take(5, 6)
	polls("one gone", 1, 2) // its segment, and that of what is gone
	box.uidl = func(_ *mailbox, m message) string { return fmt.Sprint(m.name) }
	polls("another template", 1, 0)
	for i := range 200 {
		box.deliver(fmt.Sprintf("Subject: newest %d\r\n\r\n", i))
		shown(t, o, box)
	}
	b, err := openBook(t.Context(), store, "bob")
	if err != nil {
		t.Fatal(err)
	}
	var counts []int
	for _, r := range b.Live {
		counts = append(counts, r.Count)
	}
	if len(counts) != 4 {
		t.Errorf("segments of %v entries, want four", counts)
	}
}

type counting struct {
	state.Store
	saves, put int
}

func (c *counting) SaveLedger(ctx context.Context, account string, change state.LedgerChange) (int64, error) {
	c.saves++
	c.put += len(change.Put)
	return c.Store.SaveLedger(ctx, account, change)
}

// A column is a listing as an IMAP adapter keeps it.
type column struct {
	n        int
	validity uint32
	dated    bool
}

func (c column) Len() int         { return c.n }
func (c column) Size(i int) int64 { return int64(2000 + i*7919%60000) }
func (c column) AppendName(dst []byte, i int) []byte {
	return strconv.AppendInt(append(strconv.AppendUint(dst, uint64(c.validity), 10), '.'), int64(i+1), 10)
}
func (c column) AppendUIDL(dst []byte, i int) []byte            { return c.AppendName(dst, i) }
func (c column) AppendIdentity(dst []byte, _ int) []byte        { return dst }
func (c column) List(context.Context) (upstream.Listing, error) { return c, nil }
func (c column) Close() error                                   { return nil }
func (c column) Received(i int) time.Time {
	if !c.dated {
		return time.Time{}
	}
	return start.Add(time.Duration(i) * 700 * time.Second)
}

type columnDrop struct {
	upstream.Maildrop
	column
}

func (d columnDrop) List(ctx context.Context) (upstream.Listing, error) { return d.column.List(ctx) }
func (d columnDrop) Close() error                                       { return nil }

type columnOpener struct{ column *column }

func (o columnOpener) Open(context.Context, upstream.Account) (upstream.Maildrop, error) {
	return columnDrop{column: *o.column}, nil
}

// BenchmarkList is what the ledger adds to a login on 100,000 messages.
func BenchmarkList(b *testing.B) {
	for _, c := range []struct {
		name   string
		before func(*column)
		each   func(*column, int)
		pinned bool
		first  bool // no login before
	}{
		{name: "first", first: true},
		{name: "unchanged"},
		{name: "unchanged, pinned", pinned: true},
		{name: "five new", each: func(c *column, i int) { c.n += 5 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			store := newStore(b)
			col := &column{n: 100_000, validity: 1700000000, dated: true}
			o := New(columnOpener{col}, store, Options{Churn: Churn{Known: -1}})
			list := func() {
				s, err := tryLogin(o)
				if err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
			if c.first {
				account := 0
				o.options.Account = func(upstream.Account) string { account++; return fmt.Sprint("bob", account) }
				b.ReportAllocs()
				for b.Loop() {
					list()
				}
				return
			}
			list()
			if c.pinned {
				col.validity++ // bound by date, so that no UIDL is natural
				list()
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if c.each != nil {
					c.each(col, i)
				}
				list()
			}
			b.StopTimer()
			book, err := openBook(b.Context(), store, "bob")
			if err != nil {
				b.Fatal(err)
			}
			blobs, err := book.blobs(b.Context(), book.Live)
			if err != nil {
				b.Fatal(err)
			}
			octets := 0
			for _, blob := range blobs {
				octets += len(blob)
			}
			b.ReportMetric(float64(octets)/float64(col.n), "octets/message")
		})
	}
}
