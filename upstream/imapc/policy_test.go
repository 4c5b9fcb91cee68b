package imapc

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
)

// trashed gives the fake a policy that moves to the trash, MOVE and a trash.
func (f *fake) trashed() *fakeJournal {
	f.caps = "IMAP4rev1 UIDPLUS MOVE SPECIAL-USE LIST-EXTENDED"
	f.options.Policy.Delete = upstream.DeleteTrash
	f.addBox("Papierkorb", `\HasNoChildren \Trash`)
	return f.journal()
}

func wantUIDs(t *testing.T, what string, got []uint32, want ...uint32) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: UIDs %v, want %v", what, got, want)
	}
}

// keptAt returns where the journal says that messages are kept, in order.
func keptAt(j *fakeJournal) (places []string) {
	for _, r := range j.all() {
		places = append(places, fmt.Sprintf("%s>%s.%s.%s", r.Name, r.Kept.Mailbox, r.Kept.Validity, r.Kept.Name))
	}
	return places
}

func TestTrashByMove(t *testing.T) {
	for _, policy := range []upstream.Policy{{Delete: upstream.DeleteTrash}, {Delete: upstream.DeleteExpunge, Grace: time.Hour}} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.trashed()
			f.options.Policy = policy
			d := f.list()
			before := len(f.sent(""))
			wantRemoved(t, f, d, []int{0, 2}, 2, nil, 5, 9)
			wantUIDs(t, "trash", f.in("Papierkorb"), 101, 102)
			if got := strings.Join(keptAt(j), " "); got != "3>Papierkorb.88.101 6>Papierkorb.88.102" {
				t.Errorf("kept: %s", got)
			}
			want := []string{
				`LIST (SPECIAL-USE) "" "*"`,
				`SELECT "INBOX"`, "UID FETCH 3,6 (UID RFC822.SIZE FLAGS)",
				`UID MOVE 3,6 "Papierkorb"`,
				`SELECT "INBOX"`,
				"UID SEARCH UID 3,6",
			}
			if got := f.sent("")[before:]; !slices.Equal(got, want) {
				t.Errorf("sent %q, want %q", got, want)
			}
			if i := j.begun[0]; i.Policy != policy.Delete.String() || !strings.HasPrefix(i.Names, "move 3,6 ") {
				t.Errorf("written down was %+v", i)
			}
		})
	}
}

// Without MOVE the copies are made and traced before anything is flagged.
func TestTrashByCopy(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.trashed()
		f.caps = "IMAP4rev1 UIDPLUS"
		d := f.list()
		before := len(f.sent(""))
		wantRemoved(t, f, d, []int{0, 2}, 2, nil, 5, 9)
		wantUIDs(t, "trash", f.in("Papierkorb"), 101, 102)
		if got := strings.Join(keptAt(j), " "); got != "3>Papierkorb.88.101 6>Papierkorb.88.102" {
			t.Errorf("kept: %s", got)
		}
		want := []string{
			`LIST "" "*"`,
			`SELECT "INBOX"`, "UID FETCH 3,6 (UID RFC822.SIZE FLAGS)",
			`UID COPY 3,6 "Papierkorb"`,
			`UID STORE 3,6 +FLAGS.SILENT (\Deleted)`,
			"UID EXPUNGE 3,6",
			"UID SEARCH UID 3,6",
		}
		if got := f.sent("")[before:]; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

// U30, U31: nothing is flagged whose copy is not known to be there.
func TestUntracedCopyRemovesNothing(t *testing.T) {
	for answer, c := range map[string]struct {
		left []uint32
		kind error
	}{
		"OK done":                         {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 5 101] done":      {[]uint32{3, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 3 101,102] done":  {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 0 3,5 1,2] done":     {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 3,5 *] done":      {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 * 1,2] done":      {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 3,5] done":        {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 3,5 1:9999999] x": {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 3,5 1,2":          {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"OK [COPYUID 88 6,9 1,2] done":    {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"NO [COPYUID 88 3,5 1,2] no":      {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"NO [OVERQUOTA] full":             {[]uint32{3, 5, 6, 9}, upstream.ErrRejected},
		"NO [TRYCREATE] no such mailbox":  {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
		"BAD what?":                       {[]uint32{3, 5, 6, 9}, upstream.ErrUnavailable},
	} {
		t.Run(answer, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.trashed()
				f.caps = "IMAP4rev1 UIDPLUS"
				d := f.list()
				f.fault = onCommand("UID COPY", func(c *fakeConn) bool { c.say("%s %s", c.tag, answer); return true })
				wantRemoved(t, f, d, []int{0, 1}, 4-len(c.left), c.kind, c.left...)
				if got := f.sent("CREATE"); got != nil {
					t.Errorf("sent %q", got)
				}
			})
		})
	}
}

// A copy that was traced is not made again when the connection is lost after it.
func TestCopyIsMadeOnce(t *testing.T) {
	for _, command := range []string{"UID STORE", "UID EXPUNGE", "UID SEARCH"} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.trashed()
			f.caps = "IMAP4rev1 UIDPLUS"
			d := f.list()
			f.fault = onCommand(command, drop)
			wantRemoved(t, f, d, []int{0, 1}, 2, nil, 6, 9)
			wantUIDs(t, "trash after "+command, f.in("Papierkorb"), 101, 102)
			if got := strings.Join(keptAt(j), " "); got != "3>Papierkorb.88.101 5>Papierkorb.88.102" {
				t.Errorf("kept: %s", got)
			}
		})
	}
}

// U26 after the copy: refused STORE and EXPUNGE leave the messages.
func TestRefusedAfterTheCopy(t *testing.T) {
	for _, command := range []string{"UID STORE", "UID EXPUNGE"} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.trashed()
			f.caps = "IMAP4rev1 UIDPLUS"
			d := f.list()
			f.fault = onCommand(command, func(c *fakeConn) bool { c.say("%s NO [NOPERM] no", c.tag); return true })
			wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrRejected, 3, 5, 6, 9)
			j.wantPending()
		})
	}
}

// U31: what a refused or a lost MOVE has moved is counted by fact.
func TestPartialMove(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(c *fakeConn) bool
		want   error
		n      int
		kept   string
		left   []uint32
	}{
		"refused": {func(c *fakeConn) bool {
			c.say("* OK [COPYUID 88 3 101] moved\r\n* 1 EXPUNGE")
			c.f.take(3)
			c.say("%s NO [OVERQUOTA] full", c.tag)
			return true
		}, upstream.ErrRejected, 1, "3>Papierkorb.88.101", []uint32{5, 6, 9}},
		"TRYCREATE": {func(c *fakeConn) bool { c.say("%s NO [TRYCREATE] gone", c.tag); return true },
			upstream.ErrUnavailable, 0, "", []uint32{3, 5, 6, 9}},
		"OK, and one stays": {func(c *fakeConn) bool { c.f.take(3); c.ok("[COPYUID 88 3 101] moved"); return true },
			upstream.ErrUnavailable, 1, "3>Papierkorb.88.101", []uint32{5, 6, 9}},
		"not told where": {func(c *fakeConn) bool { c.f.take(3); c.f.take(5); c.ok("moved"); return true },
			nil, 2, "3>.. 5>..", []uint32{6, 9}},
		"told in the tagged OK": {func(c *fakeConn) bool {
			c.f.take(3)
			c.f.take(5)
			c.ok("[COPYUID 88 3,5 7:8] moved")
			return true
		}, nil, 2, "3>Papierkorb.88.7 5>Papierkorb.88.8", []uint32{6, 9}},
		"lost after it": {func(c *fakeConn) bool { c.f.take(3); c.f.take(5); return drop(c) }, nil, 2, "3>.. 5>..", []uint32{6, 9}},
		"lost before":   {drop, nil, 2, "3>Papierkorb.88.101 5>Papierkorb.88.102", []uint32{6, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				j := f.trashed()
				d := f.list()
				f.fault = onCommand("UID MOVE", c.answer)
				wantRemoved(t, f, d, []int{0, 1}, c.n, c.want, c.left...)
				if got := strings.Join(keptAt(j), " "); got != c.kept {
					t.Errorf("kept: %s, want %s", got, c.kept)
				}
				j.wantPending()
			})
		})
	}
}

// A set of 372 sparse UIDs is longer than what is looked at of other status lines.
func TestLongCopyUID(t *testing.T) {
	for _, caps := range []string{"IMAP4rev1 UIDPLUS MOVE CONDSTORE", "IMAP4rev1 UIDPLUS CONDSTORE"} {
		bubble(t, func(t *testing.T, f *fake) {
			j := f.trashed()
			f.caps = caps
			f.messages = nil
			var all []int
			for i := range 600 {
				f.messages = append(f.messages, fakeMessage{uid: 4_000_000_000 + 2*uint32(i), raw: "x: y\r\n"})
				all = append(all, i)
			}
			d := f.list()
			wantRemoved(t, f, d, all, 600, nil)
			kept := keptAt(j)
			if len(kept) != 600 || kept[599] != "4000001198>Papierkorb.88.700" {
				t.Errorf("%d kept, the last %s", len(kept), kept[len(kept)-1])
			}
		})
	}
}

// What is moved to is found by its mark, in whatever way the server tells it.
func TestSpecialUse(t *testing.T) {
	for name, c := range map[string]struct {
		caps string
		list string // the answer to LIST (SPECIAL-USE), or its refusal
		all  string // to LIST "" "*"
		want string
	}{
		"extended":            {"MOVE SPECIAL-USE LIST-EXTENDED", `* LIST (\Trash) "/" Bin`, "", "Bin"},
		"rev2":                {"IMAP4rev2", `* LIST (\HasNoChildren \trash) "/" "A bin"`, "", "A bin"},
		"plain":               {"MOVE SPECIAL-USE", "", "* LIST () \"/\" Trash\r\n* LIST (\\Marked \\Trash) \"/\" \"[Gmail]/Bin\"", "[Gmail]/Bin"},
		"not offered":         {"MOVE", "", `* LIST (\Trash) "/" "Deleted Items"`, "Deleted Items"},
		"refused":             {"MOVE SPECIAL-USE LIST-EXTENDED", "BAD", `* LIST (\Trash) NIL Bin`, "Bin"},
		"told only plainly":   {"MOVE SPECIAL-USE LIST-EXTENDED", "* LIST () \"/\" x", `* LIST (\Trash) "/" Bin`, "Bin"},
		"the right name only": {"MOVE", "", "* LIST (\\HasNoChildren) \"/\" Trash", ""},
		"not there":           {"MOVE", "", "* LIST (\\Trash \\Noselect) \"/\" A\r\n* LIST (\\NonExistent \\Trash) \"/\" B", ""},
		"somebody else's": {"MOVE", "", "* LIST (\\Trash) \".\" Other.alice.Trash\r\n* LIST (\\Trash) \".\" INBOX.Trash\r\n" +
			"* LIST (\\Trash) \".\" INBOX.Uralt", "INBOX.Trash"},
		"quoted":    {"MOVE", "", `* LIST (\Trash) "/" "a \"b\" \\c" ("CHILDINFO" ("SUBSCRIBED"))`, `a \"b\" \\c`},
		"literal":   {"MOVE", "", "* LIST (\\Trash) \"/\" {5}\r\nTrash", ""},
		"flat":      {"MOVE", "", "* LIST (\\Trash) NIL B\r\n* LIST (\\Trash) NIL A", "A"},
		"delimiter": {"MOVE", "", `* LIST (\Trash) "\\" Trash`, "Trash"},
		"malformed": {"MOVE", "", "* LIST\r\n* LIST (\\Trash\r\n* LIST (\\Trash) \"/\"\r\n* LIST (\\Trash) \"/\" \"a", ""},
		"control":   {"MOVE", "", "* LIST (\\Trash) \"/\" \"a\x01b\"", ""},
		"too long":  {"MOVE", "", "* LIST (\\Trash) \"/\" " + strings.Repeat("x", 600), ""},
		"itself":    {"MOVE", "", `* LIST (\Trash) "/" inbox`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.options.Policy.Delete = upstream.DeleteTrash
				f.caps = "IMAP4rev1 " + c.caps
				d := f.list()
				f.fault = func(fc *fakeConn, command string) bool {
					answer := c.all
					switch {
					case strings.HasPrefix(command, "LIST (SPECIAL-USE)"):
						answer = c.list
					case strings.HasPrefix(command, "UID MOVE"):
						for _, uid := range f.uids() {
							f.take(uid)
						}
						fc.ok("moved")
						return true
					case !strings.HasPrefix(command, "LIST"):
						return false
					}
					if answer == "BAD" {
						fc.say("%s BAD what?", fc.tag)
						return true
					}
					fc.say("%s", answer)
					fc.ok("done")
					return true
				}
				n, err := d.Remove(t.Context(), []int{0})
				if c.want == "" {
					wantError(t, "remove", err, upstream.ErrRejected)
					if f.sent("UID MOVE") != nil || n != 0 {
						t.Errorf("removed %d; sent %q", n, f.sent("UID MOVE"))
					}
					return
				}
				if got := f.sent("UID MOVE"); n != 1 || !slices.Equal(got, []string{`UID MOVE 3 "` + c.want + `"`}) {
					t.Errorf("removed %d, %v; sent %q, want %s", n, err, got, c.want)
				}
				f.mu.Lock()
				f.commands = slices.DeleteFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, "UID MOVE") })
				f.mu.Unlock()
			})
		})
	}
}

// No trash is a matter for the operator; one that cannot be looked for is not.
func TestRefusedAndLostList(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.trashed()
		d := f.list()
		f.fault = onCommand(`LIST`, drop)
		wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "LIST") {
				c.say("%s NO [SERVERBUG] no", c.tag)
				return true
			}
			return false
		}
		wantRemoved(t, f, d, []int{1}, 0, upstream.ErrUnavailable, 5, 6, 9)
		j.wantPending()
	})
}

func TestArchive(t *testing.T) {
	for name, c := range map[string]struct {
		folder  string
		boxes   []string // name, attributes
		created []string
		to      string
		caps    string
	}{
		"by its mark":      {"", []string{"Alt", `\Archive`}, nil, "Alt", ""},
		"configured":       {"Old/POP3", []string{"Old.POP3", ""}, nil, "Old.POP3", ""},
		"created":          {"Old/Grün & Co", nil, []string{`CREATE "Old.Gr&APw-n &- Co"`}, "Old.Gr&APw-n &- Co", ""},
		"copied, created":  {"Old", nil, []string{`CREATE "Old"`}, "Old", "IMAP4rev1 UIDPLUS"},
		"rev2 alone":       {"Grün", []string{"Grün", ""}, nil, "Grün", "IMAP4rev2"},
		"Gmail's All Mail": {"", []string{"[Gmail]/All Mail", `\All`}, nil, "[Gmail]/All Mail", "IMAP4rev1 UIDPLUS MOVE X-GM-EXT-1"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps = "IMAP4rev1 UIDPLUS MOVE"
				if c.caps != "" {
					f.caps = c.caps
				}
				f.options.Policy = upstream.Policy{Delete: upstream.DeleteArchive, Folder: c.folder}
				for i := 0; i < len(c.boxes); i += 2 {
					f.addBox(c.boxes[i], c.boxes[i+1])
				}
				d := f.list()
				wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
				wantUIDs(t, c.to, f.in(c.to), 101)
				if got := f.sent("CREATE"); !slices.Equal(got, c.created) {
					t.Errorf("sent %q, want %q", got, c.created)
				}
			})
		})
	}
}

// A folder is created once; if that is refused, nothing is removed.
func TestArchiveThatCannotBeCreated(t *testing.T) {
	for answer, caps := range map[string]string{
		"NO [NOPERM] no": "UIDPLUS MOVE", "OK but not really": "UIDPLUS MOVE",
		"NO [NOPERM] never": "UIDPLUS", "OK but still not": "UIDPLUS",
	} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = "IMAP4rev1 " + caps
			f.options.Policy = upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}
			d := f.list()
			f.fault = onCommand("CREATE", func(c *fakeConn) bool { c.say("%s %s", c.tag, answer); return true })
			removed, err := d.Remove(t.Context(), []int{0, 1})
			if removed != 0 || err == nil || len(f.sent("CREATE")) != 1 || len(f.uids()) != 4 {
				t.Errorf("removed %d, %v; %d CREATEs, %d left", removed, err, len(f.sent("CREATE")), len(f.uids()))
			}
		})
	}
	bubble(t, func(t *testing.T, f *fake) { // lost while it is created
		f.caps = "IMAP4rev1 UIDPLUS MOVE"
		f.options.Policy = upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old/2026"}
		d := f.list()
		f.fault = onCommand("CREATE", func(c *fakeConn) bool { f.addBox("Old.2026", ""); return drop(c) })
		wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
	})
	bubble(t, func(t *testing.T, f *fake) { // lost while its name is looked for
		f.caps = "IMAP4rev1 UIDPLUS MOVE"
		f.options.Policy = upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old/2026"}
		f.addBox("Old.2026", "")
		d := f.list()
		f.fault = onCommand("LIST", drop)
		wantRemoved(t, f, d, []int{0}, 1, nil, 5, 6, 9)
	})
}

// What no server could do is said at DELE already, and nothing is sent.
func TestPoliciesThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		caps   string
		policy upstream.Policy
	}{
		"trash":          {"IMAP4rev1", upstream.Policy{Delete: upstream.DeleteTrash, ExpungeAlone: true}},
		"archive":        {"IMAP4rev1", upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}},
		"grace":          {"IMAP4rev1", upstream.Policy{Grace: time.Hour}},
		"MOVE alone":     {"IMAP4rev1 MOVE", upstream.Policy{}},
		"archive itself": {"IMAP4rev1 MOVE", upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Inbox"}},
		"unknown":        {"IMAP4rev1 UIDPLUS", upstream.Policy{Delete: 17}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				j := f.journal()
				f.caps, f.options.Policy = c.caps, c.policy
				d := f.list()
				wantError(t, "removable", d.Removable(0), upstream.ErrRejected)
				before := len(f.sent(""))
				wantRemoved(t, f, d, []int{0}, 0, upstream.ErrRejected, 3, 5, 6, 9)
				if got := f.sent("")[before:]; len(got) > 0 || len(j.begun) > 0 {
					t.Errorf("sent %q, written down %v", got, j.begun)
				}
			})
		})
	}
	bubble(t, func(t *testing.T, f *fake) {
		f.caps, f.options.Policy = "IMAP4rev1 MOVE", upstream.Policy{Delete: upstream.DeleteArchive, Folder: "a\x01b"}
		wantRemoved(t, f, f.list(), []int{0}, 0, upstream.ErrRejected, 3, 5, 6, 9)
	})
}

// The mailbox is another one after the first chunk: ErrChanged would say that
// nothing was removed.
func TestChangeAfterTheFirstChunk(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		all := f.crowd(2 * small)
		d := f.list()
		f.fault = onNth(2, "UID SEARCH", func(c *fakeConn, _ string) bool {
			f.uidValidity = "78"
			return drop(c)
		})
		n, err := d.Remove(t.Context(), all)
		if errors.Is(err, upstream.ErrChanged) || !errors.Is(err, upstream.ErrUnavailable) || n != small || len(j.removed[1]) != n {
			t.Errorf("removed %d, %v; noted %d", n, err, len(j.removed[1]))
		}
		j.wantPending()
	})
}

// Close ends a removal that waits to connect again.
func TestCloseEndsRemoval(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool {
			return (strings.HasPrefix(command, "UID STORE") || command == "SELECT \"INBOX\"" && c.n > 1) && drop(c)
		}
		result := make(chan error)
		go func() {
			_, err := d.Remove(t.Context(), []int{0})
			result <- err
		}()
		synctest.Wait()
		d.Close()
		wantError(t, "remove", <-result, upstream.ErrUnavailable)
	})
}

// Another connection may offer less than the first.
func TestServerThatLosesACapability(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		f.caps = "IMAP4rev1"
		f.fault = onCommand("UID STORE", drop)
		wantRemoved(t, f, d, []int{0}, 0, upstream.ErrRejected, 3, 5, 6, 9)
	})
}

func TestNeverRemovesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		f.options.Policy.Delete = upstream.DeleteNever
		f.readOnly, f.caps = true, "IMAP4rev1"
		d := f.list()
		d.undelivered[1] = true
		for i := range 4 {
			if err := d.Removable(i); err != nil {
				t.Errorf("removable %d: %v", i, err)
			}
		}
		before := len(f.sent(""))
		wantRemoved(t, f, d, []int{0, 1}, 2, nil, 3, 5, 6, 9)
		if got := f.sent("")[before:]; len(got) > 0 || len(j.begun) > 0 {
			t.Errorf("sent %q, written down %v", got, j.begun)
		}
	})
}

func TestFlagHides(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		f.caps = "IMAP4rev1"
		f.options.Policy.Delete = upstream.DeleteFlag
		d := f.list()
		wantRemoved(t, f, d, []int{0, 2}, 2, nil, 3, 5, 6, 9)
		if got := strings.Join(keptAt(j), " "); got != "3>INBOX.77.3 6>INBOX.77.6" {
			t.Errorf("kept: %s", got)
		}
		d = f.list()
		got := []uint32{}
		for i := range d.listing.Len() {
			got = append(got, d.listing.uid(i))
		}
		wantUIDs(t, "listed", got, 5, 9)
		wantWhole(t, d, 1, f.messages[3].raw)
	})
}

// What was flagged is looked for, not believed; what has gone is gone.
func TestFlagIsVerified(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(f *fake) func(c *fakeConn) bool
		on    string
		n     int
		kind  error
		kept  string
		left  []uint32
	}{
		"ignored": {func(*fake) func(c *fakeConn) bool { return func(c *fakeConn) bool { c.ok("done"); return true } },
			"UID STORE", 0, upstream.ErrUnavailable, "", []uint32{3, 5, 6, 9}},
		"refused": {func(*fake) func(c *fakeConn) bool {
			return func(c *fakeConn) bool { c.say("%s NO [NOPERM] no", c.tag); return true }
		}, "UID STORE", 0, upstream.ErrRejected, "", []uint32{3, 5, 6, 9}},
		"gone at once": {func(f *fake) func(c *fakeConn) bool {
			return func(c *fakeConn) bool { f.take(3); return false }
		}, "UID SEARCH", 2, nil, "3>.. 5>INBOX.77.5", []uint32{5, 6, 9}},
		"lost": {func(f *fake) func(c *fakeConn) bool { return drop }, "UID SEARCH", 2, nil,
			"3>INBOX.77.3 5>INBOX.77.5", []uint32{3, 5, 6, 9}},
		"search refused": {func(*fake) func(c *fakeConn) bool {
			return func(c *fakeConn) bool { c.say("%s NO no", c.tag); return true }
		}, "UID SEARCH", 0, upstream.ErrUnavailable, "", []uint32{3, 5, 6, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				j := f.journal()
				f.options.Policy.Delete = upstream.DeleteFlag
				d := f.list()
				f.fault = onCommand(c.on, c.fault(f))
				wantRemoved(t, f, d, []int{0, 1}, c.n, c.kind, c.left...)
				if got := strings.Join(keptAt(j), " "); got != c.kept {
					t.Errorf("kept: %s, want %s", got, c.kept)
				}
			})
		})
	}
}

// A listing that does not tell what is flagged is none: hidden mail would
// come back.
func TestFlaggedThatCannotBeFound(t *testing.T) {
	for answer, ok := range map[string]bool{"%s NO no": false, "%s OK no answer": false, "* SEARCH 1:10 3:4\r\n%s OK done": false,
		"* SEARCH 4 9 2\r\n%s OK done": true} {
		bubble(t, func(t *testing.T, f *fake) {
			f.options.Policy.Delete = upstream.DeleteFlag
			d := f.open()
			f.fault = func(c *fakeConn, command string) bool {
				if command != "UID SEARCH DELETED" {
					return false
				}
				c.say(answer, c.tag)
				return true
			}
			l, err := d.List(t.Context())
			switch {
			case strings.HasPrefix(answer, "*") && !ok: // hides everything
				if err != nil || l.Len() != 0 {
					t.Errorf("%s: %v", answer, err)
				}
			case ok && (err != nil || l.Len() != 3):
				t.Errorf("%s: %v, want 3 messages", answer, err)
			case !ok:
				wantError(t, answer, err, upstream.ErrUnavailable)
			}
		})
	}
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Policy.Delete = upstream.DeleteFlag
		f.messages = nil
		if d := f.list(); d.listing.Len() != 0 {
			t.Errorf("%d messages", d.listing.Len())
		}
	})
}

func alone(f *fake) {
	f.caps = "IMAP4rev1"
	f.options.Policy.ExpungeAlone = true
}

func TestExpungeAlone(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		alone(f)
		f.change(5, func(m *fakeMessage) { m.deleted = true }) // one of those to be removed
		d := f.list()
		before := len(f.sent(""))
		wantRemoved(t, f, d, []int{0, 1}, 2, nil, 6, 9)
		want := []string{
			`SELECT "INBOX"`, "UID FETCH 3,5 (UID RFC822.SIZE FLAGS)",
			"UID SEARCH DELETED",
			`UID STORE 3,5 +FLAGS.SILENT (\Deleted)`,
			"UID SEARCH DELETED",
			"EXPUNGE",
			"UID SEARCH UID 3,5",
		}
		if got := f.sent("")[before:]; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

// U30: no EXPUNGE where it would take another client's messages, and none where
// the server does not say.
func TestExpungeIsNotSentWhereOthersAreFlagged(t *testing.T) {
	for name, c := range map[string]struct {
		first, second string
		stores        int
		lost          bool
	}{
		"before":        {first: "* SEARCH 9"},
		"meanwhile":     {first: "* SEARCH", second: "* SEARCH 3 9", stores: 1},
		"range":         {first: "* ESEARCH (TAG \"x\") UID ALL 3:4294967295"},
		"no answer":     {first: "* 4 EXISTS"},
		"then no other": {first: "* SEARCH 3", second: "* 4 EXISTS", stores: 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				alone(f)
				d := f.list()
				answers := []string{c.first, c.second}
				f.fault = func(fc *fakeConn, command string) bool {
					if command != "UID SEARCH DELETED" {
						return false
					}
					fc.say("%s", answers[0])
					fc.ok("done")
					answers = answers[1:]
					return true
				}
				wantRemoved(t, f, d, []int{0}, 0, upstream.ErrUnavailable, 3, 5, 6, 9)
				if got := len(f.sent("UID STORE")); got != c.stores || f.sent("EXPUNGE") != nil {
					t.Errorf("%d STOREs, want %d; sent %q", got, c.stores, f.sent("EXPUNGE"))
				}
			})
		})
	}
	for _, command := range []string{"UID SEARCH DELETED", "UID STORE", "EXPUNGE", "UID SEARCH UID"} {
		bubble(t, func(t *testing.T, f *fake) {
			alone(f)
			d := f.list()
			f.fault = onCommand(command, drop)
			wantRemoved(t, f, d, []int{0, 3}, 2, nil, 5, 6)
			f.fault = onCommand(command, func(c *fakeConn) bool { c.say("%s NO no", c.tag); return true })
			n, err := d.Remove(t.Context(), []int{1})
			wantError(t, "remove after a refused "+command, err, upstream.ErrUnavailable)
			if n != 0 {
				t.Errorf("removed %d", n)
			}
		})
	}
}

func TestMarkSeen(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		d := f.list()
		before := len(f.sent(""))
		if err := d.MarkSeen(t.Context(), []int{0}); err != nil || len(f.sent("")) != before {
			t.Errorf("without the policy: %v, sent %q", err, f.sent("")[before:])
		}
		f.options.Policy.Seen = true
		d = f.list()
		before = len(f.sent(""))
		if err := d.MarkSeen(t.Context(), nil); err != nil || len(f.sent("")) != before {
			t.Errorf("nothing read: %v, sent %q", err, f.sent("")[before:])
		}
		if err := d.MarkSeen(t.Context(), []int{2, 0, 2}); err != nil {
			t.Error(err)
		}
		if got, want := f.sent("")[before:], []string{`UID STORE 3,6 +FLAGS.SILENT (\Seen)`}; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
		for _, m := range f.messages {
			if m.seen != (m.uid == 3 || m.uid == 6) || m.deleted {
				t.Errorf("UID %d: seen %v, deleted %v", m.uid, m.seen, m.deleted)
			}
		}
		f.fault = onCommand("UID STORE", func(c *fakeConn) bool { c.say("%s NO no", c.tag); return true })
		wantError(t, "refused", d.MarkSeen(t.Context(), []int{1}), upstream.ErrUnavailable)
		f.fault = onCommand("UID STORE", drop)
		wantError(t, "lost", d.MarkSeen(t.Context(), []int{1}), upstream.ErrUnavailable)
		f.uidValidity = "78"
		wantError(t, "changed", d.MarkSeen(t.Context(), []int{1}), upstream.ErrChanged)
		if f.messages[1].seen {
			t.Error("UID 5 was marked")
		}
		f.readOnly = true
		d = f.list()
		wantError(t, "read-only", d.MarkSeen(t.Context(), []int{1}), upstream.ErrRejected)
		d.Close()
		wantError(t, "closed", d.MarkSeen(t.Context(), []int{1}), net.ErrClosed)
	})
}

func TestManyAreSeenInChunks(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Policy.Seen = true
		all := f.crowd(1000)
		f.caps += " CONDSTORE"
		if err := f.list().MarkSeen(t.Context(), all); err != nil {
			t.Error(err)
		}
		if got := len(f.sent("UID STORE")); got != 3 {
			t.Errorf("%d STOREs, want 3", got)
		}
		if slices.ContainsFunc(f.messages, func(m fakeMessage) bool { return !m.seen }) {
			t.Error("not all are marked")
		}
	})
}

// How each policy is described, and that describing it changes nothing.
func TestDescribeRemoval(t *testing.T) {
	const very = "UID STORE and UID EXPUNGE of the very messages, verified"
	for name, c := range map[string]struct {
		caps   string
		policy upstream.Policy
		want   string
		able   bool
	}{
		"expunge": {"UIDPLUS", upstream.Policy{}, very, true},
		"Gmail":   {"UIDPLUS X-GM-EXT-1", upstream.Policy{}, very + "; Gmail then archives them, or removes them, as the account's IMAP settings say", true},
		"trash":   {"MOVE", upstream.Policy{Delete: upstream.DeleteTrash}, `UID MOVE to "Bin", verified`, true},
		"grace":   {"UIDPLUS", upstream.Policy{Grace: 1}, `UID COPY to "Bin", then ` + very, true},
		"archive": {"MOVE", upstream.Policy{Delete: upstream.DeleteArchive}, `impossible: the server marks no mailbox as \Archive`, false},
		"folder":  {"MOVE", upstream.Policy{Delete: upstream.DeleteArchive, Folder: "a/b"}, `UID MOVE to "a.b", verified`, true},
		"flag":    {"", upstream.Policy{Delete: upstream.DeleteFlag}, `UID STORE of \Deleted, verified; what is flagged is not listed`, true},
		"flag on Gmail": {"X-GM-EXT-1", upstream.Policy{Delete: upstream.DeleteFlag},
			`UID STORE of \Deleted, verified; what is flagged is not listed; Gmail may expunge it by itself`, true},
		"alone":     {"", upstream.Policy{ExpungeAlone: true}, "UID STORE of the very messages, and EXPUNGE if nothing else is flagged, verified", true},
		"never":     {"", upstream.Policy{Delete: upstream.DeleteNever}, "never: what clients remove stays", true},
		"no way":    {"", upstream.Policy{}, "impossible: the server has no UIDPLUS", false},
		"and trash": {"", upstream.Policy{Delete: upstream.DeleteTrash}, "impossible: the server has neither MOVE nor UIDPLUS", false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps, f.options.Policy = "IMAP4rev1 "+c.caps, c.policy
				f.addBox("Bin", `\Trash`)
				r, err := f.upstream().Describe(t.Context(), f.account())
				if err != nil || r.Removal != c.want || r.Removable != c.able {
					t.Errorf("%q %v, %v; want %q %v", r.Removal, r.Removable, err, c.want, c.able)
				}
			})
		})
	}
}
