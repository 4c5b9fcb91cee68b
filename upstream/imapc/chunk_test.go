package imapc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/upstream"
)

const small = 85 // messages of a crowd that make a chunk where the server has no CONDSTORE

// crowd gives the fake so many messages, in chunks of small.
func (f *fake) crowd(n int) (all []int) {
	f.caps = "IMAP4rev1 UIDPLUS MOVE"
	f.messages = nil
	for i := range n {
		f.messages = append(f.messages, fakeMessage{uid: crowdUID(i), raw: "x: y\r\n"})
		all = append(all, i)
	}
	return all
}

// crowdUID is a long one, and no two make a range.
func crowdUID(i int) uint32 { return 1_000_000_001 + 2*uint32(i) }

// onNth answers the nth command that begins with prefix by a fault.
func onNth(n int, prefix string, fault func(c *fakeConn, command string) bool) func(*fakeConn, string) bool {
	return func(c *fakeConn, command string) bool {
		if strings.HasPrefix(command, prefix) {
			n--
		}
		return n == 0 && strings.HasPrefix(command, prefix) && fault(c, command)
	}
}

func refuseIt(c *fakeConn, _ string) bool { c.say("%s NO no", c.tag); return true }

// However many chunks there are, up to a group, a removal takes two round trips:
// what depends on an answer is all that waits.
func TestRemovalTakesFewRoundTrips(t *testing.T) {
	for _, c := range []struct {
		policy   upstream.Delete
		n, trips int
	}{
		{upstream.DeleteExpunge, 1, 2},
		{upstream.DeleteExpunge, small * maxChunks, 2},
		{upstream.DeleteExpunge, small*maxChunks + 1, 4},
		{upstream.DeleteTrash, small * maxChunks, 1 + 2}, // LIST comes first
	} {
		t.Run(fmt.Sprint(c.policy, c.n), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				all := f.crowd(c.n)
				f.options.Policy.Delete = c.policy
				f.addBox("Trash", `\Trash`)
				f.code = "[CAPABILITY " + f.caps + "] " // or the library would ask at a time of its own
				f.delay = 20 * time.Millisecond
				d := f.list()
				began := time.Now()
				if n, err := d.Remove(t.Context(), all); n != c.n || err != nil {
					t.Errorf("removed %d, %v", n, err)
				}
				if took, want := time.Since(began), time.Duration(c.trips)*f.delay; took != want {
					t.Errorf("took %v, want %v", took, want)
				}
			})
		})
	}
}

var expungeSteps = []string{"UID FETCH", "UID STORE", "UID EXPUNGE", "UID SEARCH"}

// eachStep runs a test for each command of a removal in the first, the middle
// and the last chunk of three.
func eachStep(t *testing.T, test func(t *testing.T, f *fake, step string, chunk int)) {
	for _, c := range []struct {
		policy upstream.Delete
		steps  []string
	}{
		{upstream.DeleteExpunge, expungeSteps},
		{upstream.DeleteTrash, []string{"UID FETCH", "UID MOVE", "UID SEARCH"}},
	} {
		for _, step := range c.steps {
			for chunk := 1; chunk <= 3; chunk++ {
				t.Run(fmt.Sprint(c.policy, " ", step, chunk), func(t *testing.T) {
					bubble(t, func(t *testing.T, f *fake) {
						f.options.Policy.Delete = c.policy
						f.addBox("Trash", `\Trash`)
						test(t, f, step, chunk)
					})
				})
			}
		}
	}
}

// U27, U28, in every chunk of a step.
func TestLostConnectionInAnyChunk(t *testing.T) {
	for _, done := range []bool{false, true} {
		eachStep(t, func(t *testing.T, f *fake, step string, chunk int) {
			j := f.journal()
			all := f.crowd(3*small + 1)
			d := f.list()
			f.fault = onNth(chunk, step, func(c *fakeConn, command string) bool {
				if done { // the server did it, its answer is lost
					(&fakeConn{Conn: nowhere(), f: f}).do(command)
				}
				return drop(c)
			})
			wantRemoved(t, f, d, all[:3*small], 3*small, nil, crowdUID(3*small))
			if f.connections != 2 || len(j.names()) != 3*small {
				t.Errorf("%d connections, want 2; %d noted, want %d", f.connections, len(j.names()), 3*small)
			}
			j.wantPending()
		})
	}
}

// The server does not come back: what it was seen to have removed counts, and
// what it may have removed is looked for at the next login.
func TestServerLostInAnyChunk(t *testing.T) {
	eachStep(t, func(t *testing.T, f *fake, step string, chunk int) {
		j := f.journal()
		all := f.crowd(3 * small)
		d := f.list()
		dead := false
		lose := onNth(chunk, step, func(c *fakeConn, _ string) bool { dead = true; return true })
		f.fault = func(c *fakeConn, command string) bool { return (dead || lose(c, command)) && drop(c) }
		n, err := d.Remove(t.Context(), all)
		want := 0
		if step == "UID SEARCH" {
			want = (chunk - 1) * small
		}
		if n != want || !errors.Is(err, upstream.ErrUnavailable) || len(j.names()) != want {
			t.Errorf("removed %d, %v, noted %d; want %d", n, err, len(j.names()), want)
		}
		for part := range slices.Chunk(f.uids(), small) {
			f.resumable = append(f.resumable, uidSet(part))
		}
		f.fault = nil
		f.open()
		j.wantPending()
		if gone := 3*small - len(f.uids()); len(j.names()) != gone {
			t.Errorf("%d noted, %d are gone", len(j.names()), gone)
		}
	})
}

// U26: what the server refuses to do for one chunk is done for the others.
func TestRefusalInAnyChunk(t *testing.T) {
	eachStep(t, func(t *testing.T, f *fake, step string, chunk int) {
		all := f.crowd(3 * small)
		d := f.list()
		f.fault = onNth(chunk, step, refuseIt)
		n, err := d.Remove(t.Context(), all)
		left := small
		if step == "UID SEARCH" {
			left = 0 // but that is not known
		}
		if n != 2*small || !errors.Is(err, upstream.ErrUnavailable) || len(f.uids()) != left {
			t.Errorf("removed %d, %v, %d left; want %d and %d", n, err, len(f.uids()), 2*small, left)
		}
		if left > 0 && f.uids()[0] != crowdUID((chunk-1)*small) {
			t.Errorf("left is UID %d and after", f.uids()[0])
		}
		if got := len(f.sent("UID EXPUNGE")) + len(f.sent("UID MOVE")); step == "UID FETCH" && got != 2 {
			t.Errorf("%d chunks removed, want 2", got)
		}
	})
}

// Another client has flagged some of the messages that are to be removed. Where
// the server refuses to flag them for postern it is not asked to expunge them,
// by which those would go.
func TestFaultU26FlaggedByOthersWhereStoreIsRefused(t *testing.T) {
	for _, policy := range []upstream.Delete{upstream.DeleteExpunge, upstream.DeleteTrash} { // by COPY
		bubble(t, func(t *testing.T, f *fake) {
			j := f.journal()
			f.options.Policy.Delete = policy
			f.addBox("Trash", `\Trash`)
			f.change(5, func(m *fakeMessage) { m.deleted = true })
			f.change(9, func(m *fakeMessage) { m.deleted = true })
			d := f.list()
			f.fault = onCommand("UID STORE", func(c *fakeConn) bool { return refuseIt(c, "") })
			wantRemoved(t, f, d, []int{0, 1}, 0, upstream.ErrUnavailable, 3, 5, 6, 9)
			if got := f.sent("UID EXPUNGE"); got != nil {
				t.Errorf("%v: sent %q after the refusal", policy, got)
			}
			j.wantNames()
			j.wantPending()
		})
	}
}

// The same in one chunk of several: the others are removed meanwhile, and so is
// that one where the server does flag its messages.
func TestFlaggedByOthersInOneChunk(t *testing.T) {
	for _, refused := range []bool{false, true} {
		bubble(t, func(t *testing.T, f *fake) {
			all := f.crowd(3 * small)
			f.change(crowdUID(small+1), func(m *fakeMessage) { m.deleted = true })
			d := f.list()
			set := fmt.Sprint("UID STORE ", crowdUID(small)) // the first of the second chunk
			f.fault = onCommand(set, func(c *fakeConn) bool { return refused && refuseIt(c, "") })
			want, kind := 3*small, error(nil)
			if refused {
				want, kind = 2*small, upstream.ErrUnavailable
			}
			n, err := d.Remove(t.Context(), all)
			if n != want || !errors.Is(err, kind) || len(f.uids()) != 3*small-want {
				t.Errorf("refused: %v, removed %d, %v, %d left; want %d", refused, n, err, len(f.uids()), want)
			}
		})
	}
}

// Messages that are not shown are not gone, in any chunk.
func TestHollowChunk(t *testing.T) {
	eachStep(t, func(t *testing.T, f *fake, step string, chunk int) {
		j := f.journal()
		all := f.crowd(3 * small)
		d := f.list()
		f.fault = onNth(chunk, step, func(c *fakeConn, _ string) bool { c.ok("done"); return true })
		n, err := d.Remove(t.Context(), all)
		gone, left := 2*small, small
		if step == "UID SEARCH" { // which is asked once more
			gone, left = 3*small, 0
		}
		if n != gone || (err == nil) != (left == 0) || len(f.uids()) != left || len(j.names()) != gone {
			t.Errorf("removed %d, %v, noted %d, %d left; want %d and %d", n, err, len(j.names()), len(f.uids()), gone, left)
		}
	})
}

// U32, beyond the first chunk.
func TestAnotherMessageInAnyChunk(t *testing.T) {
	eachStep(t, func(t *testing.T, f *fake, step string, chunk int) {
		all := f.crowd(3 * small)
		d := f.list()
		uid := crowdUID(chunk*small - 1)
		f.change(uid, func(m *fakeMessage) { m.raw = "another: message\r\n" })
		wantRemoved(t, f, d, all, 3*small-1, upstream.ErrRejected, uid)
	})
}

// A server may answer a command amid the answers to others, if it thinks that
// this makes no difference: RFC 9051 section 5.5. No message counts as gone for
// that.
func TestAnswersOutOfOrder(t *testing.T) {
	for _, step := range []string{"UID FETCH", "UID SEARCH"} {
		bubble(t, func(t *testing.T, f *fake) {
			all := f.crowd(3 * small)
			d := f.list()
			var held, tags []string
			f.fault = func(c *fakeConn, command string) bool {
				switch {
				case strings.HasPrefix(command, "UID EXPUNGE"):
					c.ok("not done")
				case !strings.HasPrefix(command, step) || len(tags) == 3:
					return false
				default:
					held, tags = append(held, command), append(tags, c.tag)
				}
				if len(tags) == 3 && strings.HasPrefix(command, step) {
					tag := c.tag
					c.tag = "*" // no tagged response yet
					for _, k := range []int{2, 0, 1} {
						c.do(held[k])
					}
					for _, c.tag = range tags {
						c.ok("done")
					}
					c.tag = tag
				}
				return true
			}
			n, err := d.Remove(t.Context(), all)
			if n != 0 || !errors.Is(err, upstream.ErrUnavailable) {
				t.Errorf("%s: removed %d, %v", step, n, err)
			}
		})
	}
}

// A server that looks too early, and then answers one search amid the answer to
// another: what it says of either is not known until that comes alone.
func TestSearchesAnsweredTogether(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		all := f.crowd(2 * small)
		d := f.list()
		var late []string
		first := ""
		f.fault = func(c *fakeConn, command string) bool {
			searches := len(f.sent("UID SEARCH"))
			switch {
			case strings.HasPrefix(command, "UID EXPUNGE"):
				late = append(late, command)
				c.ok("done")
			case searches == 3 && first == "":
				for _, expunge := range late {
					(&fakeConn{Conn: nowhere(), f: f}).do(expunge)
				}
				first = c.tag
			case searches == 4:
				c.do(command)
				c.tag = first
				c.ok("done")
			default:
				return false
			}
			return true
		}
		wantRemoved(t, f, d, all, len(all), nil)
		if got := len(f.sent("UID SEARCH")); got != 6 {
			t.Errorf("%d searches, want 6", got)
		}
	})
}

// A server that leaves out the answer to one search, and answers another amid
// that: what it says is only about the other.
func TestSearchAnsweredForAnother(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		all := f.crowd(2 * small)
		d := f.list()
		ignored := onCommand("UID EXPUNGE", func(c *fakeConn) bool { c.ok("not done"); return true })
		first := ""
		f.fault = func(c *fakeConn, command string) bool {
			switch searches := len(f.sent("UID SEARCH")); {
			case ignored(c, command):
			case strings.HasPrefix(command, "UID SEARCH") && searches == 1:
				first = c.tag
			case strings.HasPrefix(command, "UID SEARCH") && searches == 2:
				c.do(command)
				c.tag = first
				c.ok("done")
			default:
				return false
			}
			return true
		}
		n, err := d.Remove(t.Context(), all)
		if n != small || !errors.Is(err, upstream.ErrUnavailable) || len(f.uids()) != small {
			t.Errorf("removed %d, %v, %d left; want %d of each", n, err, len(f.uids()), small)
		}
	})
}

// A search that the server runs before the UID EXPUNGE that came first, whether
// it answers in that order or not.
func TestSearchThatOvertakes(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		bubble(t, func(t *testing.T, f *fake) {
			all := f.crowd(2 * small)
			d := f.list()
			var late, tags []string
			searches := 0
			f.fault = func(c *fakeConn, command string) bool {
				switch {
				case strings.HasPrefix(command, "UID EXPUNGE"):
					if late, tags = append(late, command), append(tags, c.tag); inOrder {
						c.ok("done")
					}
					return true
				case !strings.HasPrefix(command, "UID SEARCH"):
					return false
				}
				c.do(command)
				if searches++; searches == 2 {
					on := c
					if inOrder {
						on = &fakeConn{Conn: nowhere(), f: f}
					}
					for k := range late {
						on.tag = tags[k]
						on.do(late[k])
					}
				}
				return true
			}
			wantRemoved(t, f, d, all, len(all), nil)
		})
	}
}

// The connection is lost while the server is asked once more.
func TestSecondLookIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		d := f.list()
		ignored := onCommand("UID EXPUNGE", func(c *fakeConn) bool { c.ok("not done"); return true })
		lost := onNth(2, "UID SEARCH", func(c *fakeConn, _ string) bool { return drop(c) })
		f.fault = func(c *fakeConn, command string) bool { return ignored(c, command) || lost(c, command) }
		wantRemoved(t, f, d, []int{0, 1}, 2, nil, 6, 9)
		j.wantNames("3", "5")
		j.wantPending()
	})
}

// A chunk is what fits on a command line: of messages in a row, many.
func TestLines(t *testing.T) {
	row := func(first, step uint32, n int) (uids []uint32) {
		for k := range uint32(n) {
			uids = append(uids, first+step*k)
		}
		return uids
	}
	pairs := make([]uint32, 0, 400)
	for k := range uint32(200) {
		pairs = append(pairs, 4_000_000_000+10*k, 4_000_000_001+10*k)
	}
	for name, c := range map[string]struct {
		uids   []uint32
		maxSet int
		want   []int
	}{
		"none":           {nil, 940, nil},
		"one":            {[]uint32{7}, 940, []int{1}},
		"in a row":       {row(1, 1, 2000), 940, []int{2000}},
		"a long row":     {row(1, 1, 4500), 940, []int{maxNamed, maxNamed, 500}},
		"sparse":         {row(4_000_000_000, 2, 200), 940, []int{85, 85, 30}},
		"sparse, 4 KiB":  {row(4_000_000_000, 2, 400), 4096, []int{372, 28}},
		"pairs":          {pairs, 940, []int{85, 85, 85, 85, 60}},
		"twice the same": {[]uint32{5, 5, 5}, 940, []int{3}},
		"too long each":  {row(4_000_000_000, 2, 3), 5, []int{1, 1, 1}},
	} {
		var got []int
		var all []uint32
		for part := range lines(c.uids, func(uid uint32) uint32 { return uid }, c.maxSet) {
			if set := uidSet(part); len(set) > c.maxSet && len(part) > 1 {
				t.Errorf("%s: a set of %d octets", name, len(set))
			}
			got, all = append(got, len(part)), append(all, part...)
		}
		if !slices.Equal(got, c.want) || !slices.Equal(all, c.uids) {
			t.Errorf("%s: %v messages, want %v", name, got, c.want)
		}
	}
	for range lines(row(1, 2, 2000), func(uid uint32) uint32 { return uid }, 100) {
		break // which is allowed
	}
}

// A server that cannot stand many commands at once gets them chunk by chunk.
func TestServerThatStandsFewCommands(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		all := f.crowd(6 * small)
		d := f.list()
		on := map[int]int{}
		f.fault = func(c *fakeConn, command string) bool {
			if strings.HasPrefix(command, "UID ") {
				on[c.n]++
			}
			return on[c.n] > 5 && drop(c)
		}
		wantRemoved(t, f, d, all, len(all), nil)
	})
}

// The archive is created once, for all chunks that were refused for want of it.
func TestArchiveIsCreatedForAllChunks(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		j := f.journal()
		all := f.crowd(3 * small)
		f.options.Policy = upstream.Policy{Delete: upstream.DeleteArchive, Folder: "Old"}
		d := f.list()
		wantRemoved(t, f, d, all, len(all), nil)
		if got := f.sent("CREATE"); len(got) != 1 || len(f.in("Old")) != len(all) || len(keptAt(j)) != len(all) {
			t.Errorf("sent %q; %d moved, %d kept; want %d", got, len(f.in("Old")), len(keptAt(j)), len(all))
		}
	})
}
