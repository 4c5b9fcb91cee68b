package jmapc

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
)

func in(s *jmapserver.Server, box string) string { return strings.Join(left(s, box), " ") }

// TestPolicies removes messages 1 to 3 of five: 2 is in the archive too, and 3
// in the trash.
func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		name                                string
		policy                              upstream.Policy
		inbox, archive, trash, destroyed    string
		kept                                string
		restored, archiveAfter, trashAfter  string // after Restore
		purgedArchive, purgedTrash, purgedD string // after Purge instead
	}{
		{name: "expunge", policy: upstream.Policy{}, inbox: "15", archive: "3", trash: "4", destroyed: "2",
			restored: "15", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4", purgedD: "2"},
		{name: "trash", policy: upstream.Policy{Delete: upstream.DeleteTrash}, inbox: "15", archive: "3", trash: "234", kept: "23",
			restored: "1235", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4", purgedD: "2"},
		{name: "grace", policy: upstream.Policy{Grace: time.Hour}, inbox: "15", archive: "3", trash: "234", kept: "23",
			restored: "1235", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4", purgedD: "2"},
		{name: "archive", policy: upstream.Policy{Delete: upstream.DeleteArchive}, inbox: "15", archive: "234", trash: "4", kept: "24",
			restored: "1245", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4", purgedD: "2"},
		{name: "flag", policy: upstream.Policy{Delete: upstream.DeleteFlag}, inbox: "12345", archive: "3", trash: "4", kept: "234",
			restored: "12345", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4", purgedD: "2"},
		{name: "never", policy: upstream.Policy{Delete: upstream.DeleteNever}, inbox: "12345", archive: "3", trash: "4",
			restored: "12345", archiveAfter: "3", trashAfter: "4", purgedArchive: "3", purgedTrash: "4"},
	} {
		for _, purge := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				j := new(notebook)
				s, u, ids := letters5(t, Options{Policy: c.policy, Journal: j})
				s.Move(ids[2], jmapserver.Inbox, jmapserver.Archive)
				s.Move(ids[3], jmapserver.Inbox, jmapserver.Trash)
				d, l := open(t, u, bob)
				for i := range l.Len() {
					if err := d.Removable(i); err != nil {
						t.Errorf("message %d: %v", i, err)
					}
				}
				before := len(s.Calls())
				if n, err := d.Remove(t.Context(), []int{1, 2, 3}); n != 3 || err != nil {
					t.Fatalf("removed %d, %v; want 3", n, err)
				}
				if c.policy.Delete == upstream.DeleteNever && len(s.Calls()) != before {
					t.Errorf("asked for %v", s.Calls()[before:])
				}
				wantIn(t, "removed", s, c.inbox, c.archive, c.trash, c.destroyed)
				var kept []upstream.Removal
				var keptNames []string
				for _, r := range j.removed {
					if r.Kept != (upstream.Place{}) {
						kept, keptNames = append(kept, r), append(keptNames, r.Name)
					}
				}
				slices.Sort(keptNames)
				if got := strings.Join(keptNames, " "); got != names(c.kept) {
					t.Errorf("kept %s, want %s", got, names(c.kept))
				}
				next, l2 := open(t, u, bob)
				if want := 5 - 3; c.name != "never" && l2.Len() != want {
					t.Errorf("the next session shows %v, want %d", uidls(l2), want)
				}
				k := next.(upstream.Keeper)
				if purge {
					done, err := k.Purge(t.Context(), kept)
					if err != nil || slices.Contains(done, false) {
						t.Errorf("purge: %v, %v", done, err)
					}
					inbox := c.inbox
					if c.name == "flag" {
						inbox = "15"
					}
					wantIn(t, "purged", s, inbox, c.purgedArchive, c.purgedTrash, c.purgedD)
				} else {
					done, err := k.Restore(t.Context(), kept)
					if err != nil || slices.Contains(done, false) {
						t.Errorf("restore: %v, %v", done, err)
					}
					wantIn(t, "restored", s, c.restored, c.archiveAfter, c.trashAfter, c.destroyed)
					if _, l3 := open(t, u, bob); strings.Join(uidls(l3), " ") != names(c.restored) {
						t.Errorf("restored: the listing shows %v, want %s", uidls(l3), names(c.restored))
					}
				}
				nothingShared(t, s)
			})
		}
	}
}

func wantIn(t *testing.T, when string, s *jmapserver.Server, inbox, archive, trash, destroyed string) {
	t.Helper()
	gone := []string{}
	for _, d := range s.Destroyed() {
		gone = append(gone, d.ID)
	}
	slices.Sort(gone)
	for what, got := range map[string][2]string{
		"inbox":     {in(s, jmapserver.Inbox), inbox},
		"archive":   {in(s, jmapserver.Archive), archive},
		"trash":     {in(s, jmapserver.Trash), trash},
		"destroyed": {strings.Join(gone, " "), destroyed},
	} {
		if got[0] != names(got[1]) {
			t.Errorf("%s: %s: %s, want %s", when, what, got[0], names(got[1]))
		}
	}
}

// nothingShared: whatever happens, nothing is destroyed that is in more than one
// mailbox.
func nothingShared(t *testing.T, s *jmapserver.Server) {
	t.Helper()
	for _, d := range s.Destroyed() {
		if len(d.Boxes) != 1 {
			t.Errorf("%s was destroyed while it was in %v", d.ID, d.Boxes)
		}
	}
}

// TestKeptMessageThatSomebodyChanged is not what was kept any more.
func TestKeptMessageThatSomebodyChanged(t *testing.T) {
	for _, c := range []struct {
		name             string
		change           func(s *jmapserver.Server, id string)
		size             int64
		restored, purged bool
		destroyed        int // by Purge
	}{
		{"nothing", func(*jmapserver.Server, string) {}, 0, true, true, 1},
		{"moved on", func(s *jmapserver.Server, id string) { s.Move(id, jmapserver.Archive) }, 0, true, true, 0},
		{"taken back", func(s *jmapserver.Server, id string) { s.Move(id, jmapserver.Inbox) }, 0, true, true, 0},
		{"copied back", func(s *jmapserver.Server, id string) { s.Move(id, jmapserver.Inbox, jmapserver.Trash) }, 0, true, true, 0},
		{"filed as well", func(s *jmapserver.Server, id string) { s.Move(id, jmapserver.Trash, jmapserver.Archive) }, 0, true, true, 0},
		{"gone", func(s *jmapserver.Server, id string) { s.Take(t, upstreamtest.Letter(1, 600)) }, 0, false, true, 0},
		{"another size", func(*jmapserver.Server, string) {}, 1, false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, purge := range []bool{false, true} {
				j := new(notebook)
				s, u, ids := letters5(t, Options{Policy: upstream.Policy{Delete: upstream.DeleteTrash}, Journal: j})
				d, _ := open(t, u, bob)
				if n, err := d.Remove(t.Context(), []int{1}); n != 1 || err != nil {
					t.Fatalf("removed %d, %v", n, err)
				}
				kept := j.removed
				kept[0].Size += c.size
				c.change(s, ids[1])
				k := d.(upstream.Keeper)
				do, want := k.Restore, c.restored
				if purge {
					do, want = k.Purge, c.purged
				}
				done, err := do(t.Context(), kept)
				if err != nil || done[0] != want {
					t.Errorf("purge %v: done %v, %v; want %v", purge, done, err, want)
				}
				if purge && len(s.Destroyed()) != c.destroyed {
					t.Errorf("destroyed %v, want %d", s.Destroyed(), c.destroyed)
				}
				if !purge && c.restored && !slices.Contains(left(s, jmapserver.Inbox), ids[1]) {
					t.Error("not back in the inbox")
				}
				nothingShared(t, s)
			}
		})
	}
}

// TestForeignPlacesStayUndone: those of IMAP, and none at all.
func TestForeignPlacesStayUndone(t *testing.T) {
	s, u, ids := letters5(t, Options{})
	d, _ := open(t, u, bob)
	kept := []upstream.Removal{
		{Name: "5", Size: 600, Kept: upstream.Place{Mailbox: "Trash", Validity: "77", Name: "5"}},
		{Name: ids[0], Size: sizeOf(0)},
		{Name: ids[1], Size: sizeOf(1), Kept: upstream.Place{Mailbox: jmapserver.Inbox, Name: ids[1]}}, // not hidden
	}
	done, err := d.(upstream.Keeper).Purge(t.Context(), kept)
	if diff := cmp.Diff([]bool{false, false, true}, done); diff != "" || err != nil || sets(s) != 0 {
		t.Errorf("%v, %d sets; done:\n%s", err, sets(s), diff)
	}
}

func TestDestinations(t *testing.T) {
	without := func(role string) func([]jmapserver.Mailbox) []jmapserver.Mailbox {
		return func(all []jmapserver.Mailbox) []jmapserver.Mailbox {
			return slices.DeleteFunc(all, func(m jmapserver.Mailbox) bool { return m.Role == role })
		}
	}
	readOnly := func(id string) func([]jmapserver.Mailbox) []jmapserver.Mailbox {
		return func(all []jmapserver.Mailbox) []jmapserver.Mailbox {
			for i := range all {
				all[i].ReadOnly = all[i].ReadOnly || all[i].ID == id
			}
			return all
		}
	}
	same := func(all []jmapserver.Mailbox) []jmapserver.Mailbox { return all }
	folder := func(name string) upstream.Policy {
		return upstream.Policy{Delete: upstream.DeleteArchive, Folder: name}
	}
	for _, c := range []struct {
		name   string
		policy upstream.Policy
		edit   func([]jmapserver.Mailbox) []jmapserver.Mailbox
		box    string // "" if nothing may be removed
	}{
		{"no trash", upstream.Policy{Delete: upstream.DeleteTrash}, without("trash"), ""},
		{"no trash for a grace", upstream.Policy{Grace: 1}, without("trash"), ""},
		{"read-only trash", upstream.Policy{Delete: upstream.DeleteTrash}, readOnly(jmapserver.Trash), ""},
		{"no archive", upstream.Policy{Delete: upstream.DeleteArchive}, without("archive"), ""},
		{"trash by its name", folder("Papierkorb"), same, jmapserver.Trash},
		{"the inbox", folder("Posteingang"), same, ""},
		{"to be made", folder("Old"), same, "mb-4"},
		{"to be made in another", folder("Papierkorb/2026/Mai"), same, "mb-5"},
		{"may not be made there", folder("Papierkorb/Mai"), readOnly(jmapserver.Trash), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, u, ids := letters5(t, Options{Policy: c.policy})
			s.SetMailboxes(c.edit)
			for round := range 2 { // what was made is found again
				d, _ := open(t, u, bob)
				refused := d.Removable(0)
				n, err := d.Remove(t.Context(), []int{0})
				if c.box == "" {
					if n != 0 || !errors.Is(err, upstream.ErrRejected) || !errors.Is(refused, upstream.ErrRejected) || sets(s) != 0 {
						t.Fatalf("removed %d, %v (removable: %v), %d sets; want rejected", n, err, refused, sets(s))
					}
					continue
				}
				if n != 1 || err != nil || refused != nil {
					t.Fatalf("removed %d, %v (removable: %v); want 1", n, err, refused)
				}
				if got := in(s, c.box); got != strings.Join(ids[:round+1], " ") {
					t.Errorf("in the destination: %s; mailboxes: %+v", got, s.Mailboxes())
				}
			}
		})
	}
}

// TestDestinationThatAnotherSessionMade in the same moment.
func TestDestinationThatAnotherSessionMade(t *testing.T) {
	s, u, ids := letters5(t, Options{Policy: upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old/Mail"}})
	one, _ := open(t, u, bob)
	two, _ := open(t, u, bob)
	for i, d := range []upstream.Maildrop{one, two} {
		if n, err := d.Remove(t.Context(), []int{i}); n != 1 || err != nil {
			t.Errorf("session %d removed %d, %v; want 1", i, n, err)
		}
	}
	if got := in(s, "mb-5"); got != strings.Join(ids[:2], " ") || len(s.Mailboxes()) != 5 {
		t.Errorf("%s in the folder; mailboxes: %+v", got, s.Mailboxes())
	}
}

func TestMarkSeen(t *testing.T) {
	for _, want := range []bool{false, true} {
		s, u, ids := letters5(t, Options{Policy: upstream.Policy{Seen: want}})
		s.MaxObjectsInSet = 2
		s.Flag(ids[1], "$flagged")
		d, _ := open(t, u, bob)
		s.Take(t, upstreamtest.Letter(4, 600)) // gone meanwhile: nothing to mark
		if err := d.MarkSeen(t.Context(), []int{0, 1, 2, 4}); err != nil {
			t.Fatal(err)
		}
		for i, keywords := range map[int]string{0: "$seen", 1: "$flagged $seen", 2: "$seen", 3: ""} {
			if !want {
				keywords = strings.TrimSuffix(strings.TrimSuffix(keywords, "$seen"), " ")
			}
			if got := strings.Join(s.Keywords(ids[i]), " "); got != keywords {
				t.Errorf("seen %v: message %d has %q, want %q", want, i, got, keywords)
			}
		}
		if !want && sets(s) != 0 {
			t.Error("asked for what the policy does not want")
		}
	}
}
