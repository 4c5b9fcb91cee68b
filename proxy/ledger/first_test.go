package ledger

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
)

// What first writes is what bind and settle would write.
func TestFirstListingIsWrittenAsAnyOther(t *testing.T) {
	for _, c := range []struct {
		name  string
		shape func(*mailbox)
		slow  bool // left to bind and settle
	}{
		{name: "names", shape: func(*mailbox) {}},
		{name: "identities", shape: func(b *mailbox) { b.identity = "gmail:" }},
		{name: "names that are identities", shape: func(b *mailbox) { b.validity, b.identity = "", objectID }},
		{name: "no dates", shape: func(b *mailbox) { b.undated = true }},
		{name: "a template", shape: func(b *mailbox) { b.uidl = func(_ *mailbox, m message) string { return fmt.Sprintf("%08x", m.name) } }},
		{name: "empty", shape: func(b *mailbox) { b.messages = nil }},
		{name: "two alike", shape: func(b *mailbox) { b.uidl = func(_ *mailbox, m message) string { return fmt.Sprint("u", m.name/2) } }, slow: true},
		{name: "a space", shape: func(b *mailbox) { b.uidl = func(_ *mailbox, m message) string { return fmt.Sprint("u ", m.name) } }, slow: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			box := newLargeMailbox(2*segmentSize + 7)
			c.shape(box)
			quick, slow := bindingOf(t, box), bindingOf(t, box)
			_, ok := quick.first()
			if ok == c.slow {
				t.Fatalf("first says %t, want %t", ok, !c.slow)
			}
			if c.slow {
				if len(quick.book.put) > 0 {
					t.Errorf("%d segments put all the same", len(quick.book.put))
				}
				return
			}
			slow.mustBind()
			if err := slow.bind(); err != nil {
				t.Fatal(err)
			}
			slow.noteBack()
			if _, derivable, err := slow.settle(); err != nil || !derivable {
				t.Fatalf("settle: %t, %v", derivable, err)
			}
			if diff := cmp.Diff(slow.book.head, quick.book.head); diff != "" {
				t.Errorf("head (-settle +first):\n%s", diff)
			}
			if len(slow.book.put) != len(quick.book.put) {
				t.Fatalf("%d segments, want %d", len(quick.book.put), len(slow.book.put))
			}
			for i, p := range slow.book.put {
				if got := quick.book.put[i]; got.ID != p.ID || !bytes.Equal(got.Data, p.Data) {
					t.Errorf("segment %d is another one", i)
				}
			}
		})
	}
}

// bindingOf is a binding of the mailbox's listing to an account that has no
// ledger.
func bindingOf(t *testing.T, box *mailbox) *binding {
	t.Helper()
	o := New(box, newStore(t), Options{Origin: "imap a"})
	inner, err := box.Open(t.Context(), upstream.Account{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := inner.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := &maildrop{Maildrop: inner, opener: o, account: "bob", view: newView(l)}
	b, err := d.newBinding(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.headers = map[int]Header{}
	if err := b.walk(); err != nil {
		t.Fatal(err)
	}
	return b
}
