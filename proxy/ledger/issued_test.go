package ledger

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/proxy/state"
)

func TestIssued(t *testing.T) {
	store, err := state.Open(t.Context(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	issued, err := Issued(t.Context(), store, "ann")
	if err != nil || len(issued) != 0 {
		t.Errorf("of nobody: %v, %v; want nothing", issued, err)
	}
	if _, err := Import(t.Context(), store, "ann", []Known{{UIDL: "a", Name: "1"}, {UIDL: "b", Name: "2"}}); err != nil {
		t.Fatal(err)
	}
	issued, err = Issued(t.Context(), store, "ann")
	if diff := cmp.Diff(map[string]bool{"a": true, "b": true}, issued); diff != "" || err != nil {
		t.Errorf("%v, and (-want +got):\n%s", err, diff)
	}
	if l, err := store.Ledger(t.Context(), "nobody"); err != nil || l.Version != 0 {
		t.Errorf("looking made a ledger: %+v, %v", l, err)
	}
}

// What a client was shown is remembered as it was shown, without what it
// removed, and whatever has become of the upstream meanwhile.
func TestRemembered(t *testing.T) {
	box, store := newMailbox(5), newStore(t)
	box.uidl = func(_ *mailbox, m message) string { return fmt.Sprintf("old-%d", m.name) }
	opener := New(box, store, Options{})
	login(t, opener).close()
	box.uidl = nil // and yet the UIDLs stay
	s := login(t, opener)
	if n, err := s.Remove(t.Context(), []int{1}); n != 1 || err != nil {
		t.Fatalf("removed %d, %v; want 1", n, err)
	}
	s.close()
	l, err := Remembered(t.Context(), store, "bob")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range l.Len() {
		got = append(got, fmt.Sprintf("%s %d", l.AppendUIDL(nil, i), l.Size(i)))
	}
	var want []string
	for _, n := range []int{0, 2, 3, 4} {
		want = append(want, fmt.Sprintf("old-%d %d", n+1, len(letter(n))))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if l, err := Remembered(t.Context(), store, "nobody"); err != nil || l.Len() != 0 {
		t.Errorf("of nobody: %v, %v; want nothing", l, err)
	}
}
