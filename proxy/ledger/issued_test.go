package ledger

import (
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
