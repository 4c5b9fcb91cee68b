package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest/oracle"
)

// These tests let an IMAP server get wrong, one after the other, what the table
// in docs/faults.md lists, and look at what a POP3 client is told and what is left
// in the mailbox. The row is in the name of the test, here and in other packages:
//
//	go test -run 'Fault.*U14' ./...

func TestFaultU8WrongPassword(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.always("LOGIN", refuse("NO [AUTHENTICATIONFAILED] no"))
		for i, want := range []time.Duration{3 * time.Second, 5 * time.Second, 7 * time.Second} {
			began := time.Now()
			c := b.connect()
			c.login(oracleUser, fmt.Sprint("guess ", i), "-ERR [AUTH]")
			c.Close()
			if took := time.Since(began); took != want {
				b.t.Errorf("the answer took %v, want %v: the throttle counts", took, want)
			}
		}
	})
}

func TestFaultU9BackOff(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("LOGIN", refuse("NO [UNAVAILABLE] Request is throttled. Suggested Backoff Time: 120000 milliseconds"))
		b.refused("-ERR [SYS/TEMP]")
		began := time.Now()
		b.refused("-ERR [SYS/TEMP]")
		if n := len(b.commands("LOGIN")); n != 1 || time.Since(began) != 0 {
			b.t.Errorf("%d logins upstream and an answer after %v, want one and no delay", n, time.Since(began))
		}
		time.Sleep(2 * time.Minute)
		b.logIn("+OK").leave("+OK")
	})
}

func TestFaultU9TroubleWithoutABackOff(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("LOGIN", refuse("NO [SERVERBUG] oops"), refuse("NO [UNAVAILABLE] later"))
		b.refused("-ERR [SYS/TEMP]")
		b.refused("-ERR [SYS/TEMP]")
		began := time.Now()
		b.logIn("+OK").leave("+OK")
		if took := time.Since(began); took != 0 {
			b.t.Errorf("login after an outage took %v, want none: the throttle does not count it", took)
		}
	})
}

func TestFaultU10TooManyConnections(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, said := range []string{"NO [INUSE] in use", "NO [ALERT] Too many simultaneous connections. (Failure)", "NO [LIMIT] no more"} {
			b.once("LOGIN", refuse(said))
			b.refused("-ERR [IN-USE]")
		}
	})
}

func TestFaultU10WithAWarmConnection(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.options.Warm = time.Minute
		b.logIn("+OK").leave("+OK")
		b.always("LOGIN", refuse("NO [LIMIT] no more"))
		b.logIn("+OK").leave("+OK") // on the connection that is there, which so is none too many
	})
}

func TestFaultU11BYEBetweenCommands(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK")
		c.mark(3)
		b.Bye("Session invalidated - AccessTokenExpired")
		late := b.Deliver(oracleUser, 2)
		c.gets(9, b.mail[8])
		c.say("STAT", "+OK 9 ")
		if got := b.commands("SELECT"); len(got) != 2 {
			b.t.Errorf("SELECT: got %q, want one more for the new connection", got)
		}
		c.leave("+OK")
		b.holds(append(b.without(3), late...)...)
	})
}

func TestFaultU14DropInTheMiddleOfAMessage(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.always("message", drop(oracle.DropMiddle))
		c := b.logIn("+OK")
		c.mark(1)
		c.breaksOff(largeMessage)
		b.holds(b.mail...)
	})
}

func TestFaultU14DropOnceInTheMiddleOfAMessage(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("message", drop(oracle.DropMiddle))
		c := b.logIn("+OK")
		c.gets(largeMessage, b.mail[largeMessage-1])
		c.leave("+OK")
	})
}

func TestFaultU15SizeIsAnEstimate(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.always("listing", rewrite(`RFC822\.SIZE \d+`, "RFC822.SIZE 999"))
		b.always("look", rewrite(`RFC822\.SIZE \d+`, "RFC822.SIZE 999"))
		c := b.logIn("+OK maildrop has 10 messages (9990 octets)")
		c.gets(1, b.mail[0])
		c.gets(largeMessage, b.mail[largeMessage-1])
		c.mark(1, largeMessage)
		c.leave("+OK")
		b.holds(b.without(1, largeMessage)...)
	})
}

func TestFaultU16OneOctetASecond(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.sendHalf(func(conn io.ReadWriter, rest string) {
			for i := range rest {
				time.Sleep(time.Second)
				if _, err := conn.Write([]byte{rest[i]}); err != nil {
					return
				}
			}
		})
		b.givesUp()
	})
}

func TestFaultU17StallInTheMiddleOfAMessage(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.sendHalf(func(conn io.ReadWriter, _ string) { io.Copy(io.Discard, conn) })
		b.givesUp()
	})
}

// sendHalf answers for the large message with half of it, and leaves the rest, and
// the connection, to goOn.
func (b *faultBench) sendHalf(goOn func(conn io.ReadWriter, rest string)) {
	b.always("message", oracle.Fault{Speak: func(_ string, conn io.ReadWriter) bool {
		raw := oracle.RawOf(largeMessage - 1)
		half := len(raw) / 2
		_, err := fmt.Fprintf(conn, "* 7 FETCH (UID %d BODY[] {%d}\r\n%s", uidOf(b, largeMessage), len(raw), raw[:half])
		if err == nil {
			goOn(conn, raw[half:])
		}
		return false
	}})
}

// givesUp retrieves the large message, and wants it to be broken off in time.
func (b *faultBench) givesUp() {
	b.t.Helper()
	c := b.logIn("+OK")
	began := time.Now()
	if err := c.PrintfLine("RETR %d", largeMessage); err != nil {
		b.t.Fatal(err)
	}
	got, _ := io.ReadAll(c.R)
	whole := strings.HasSuffix(string(got), "\r\n.\r\n")
	if took := time.Since(began); whole || took > 5*time.Minute {
		b.t.Errorf("a message that is half there: whole: %v, after %v; want it broken off within 5m", whole, took)
	}
}

// uidOf is the UID of a message, by its number.
func uidOf(b *faultBench, number int) (uid uint32) {
	for _, e := range b.Record.Events() {
		if e.Kind == oracle.Arrived && e.Box == "INBOX" && e.Message == b.mail[number-1] {
			uid = e.UID
		}
	}
	return uid
}

func TestFaultU18NewMailInMidSession(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK maildrop has 10 messages")
		b.Deliver(oracleUser, 3)
		c.gets(2, b.mail[1])
		c.say("STAT", "+OK 10 ")
		c.say("RETR 11", "-ERR")
		c.leave("+OK")
		b.logIn("+OK maildrop has 13 messages").leave("+OK")
	})
}

func TestFaultU19MessageExpungedBySomebodyElse(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK")
		b.Take(oracleUser, b.mail[1])
		c.say("RETR 2", "-ERR")
		c.gets(3, b.mail[2])
		c.mark(2, 4)
		c.say("LIST 5", fmt.Sprintf("+OK 5 %d", len(oracle.RawOf(b.mail[4]))))
		c.leave("+OK")
		b.holds(b.without(2, 4)...)
	})
}

func TestFaultU20NewsInTheMiddleOfAnAnswer(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK")
		for i := range 4 {
			b.Take(oracleUser, b.mail[i])
		}
		b.once("message", rewrite("^", "* VANISHED 1:4\r\n"))
		c.gets(9, b.mail[8])
		b.always("message", rewrite("^", strings.Repeat("* 1 EXPUNGE\r\n", 4)+"* 6 EXISTS\r\n"))
		c.gets(largeMessage, b.mail[largeMessage-1])
		c.mark(5)
		c.leave("+OK")
		b.holds(b.without(1, 2, 3, 4, 5)...)
	})
}

func TestFaultU21AnotherUIDVALIDITY(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK")
		b.Renumber(oracleUser)
		c.say("RETR 2", "-ERR [SYS/TEMP]")
		c.expectEnd()
		c = b.logIn("+OK")
		c.mark(1, 2)
		b.Renumber(oracleUser)
		c.leave("-ERR [SYS/TEMP] mailbox changed, nothing removed")
		b.holds(b.mail...)
	})
}

func TestFaultU22NoLastingUIDs(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, said := range []string{"[UIDVALIDITY 0] none", "nothing of the kind", "[UIDVALIDITY 9] ok\r\n* NO [UIDNOTSTICKY] not for long"} {
			b.always("SELECT", rewrite(`\[UIDVALIDITY \d+\] valid`, said))
			c := b.logIn("+OK")
			c.say("DELE 1", "-ERR [SYS/PERM]")
			c.leave("+OK")
		}
		b.holds(b.mail...)
	})
}

func TestFaultU23UIDsThatAreNone(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, uids := range []string{"3 3", "0 4", "5 4294967296", "6 99999999999999999999", "7 -1"} {
			var lines []string
			for i, uid := range strings.Fields(uids) {
				lines = append(lines, fmt.Sprintf("* %d FETCH (UID %s RFC822.SIZE %d)", i+1, uid, 300+i))
			}
			b.always("listing", say(append(lines, "TAG OK done")...))
			b.refused("-ERR [SYS/TEMP]")
		}
	})
}

func TestFaultU24SELECTRefused(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("SELECT", refuse("NO no"))
		b.refused("-ERR [SYS/TEMP]")
	})
}

func TestFaultU24ReadOnlyMailbox(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.always("SELECT", rewrite("READ-WRITE", "READ-ONLY"))
		c := b.logIn("+OK")
		c.say("DELE 1", "-ERR [SYS/PERM]")
		c.leave("+OK")
		b.holds(b.mail...)
	})
}

func TestFaultU25ConnectionLostWhileListing(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, do := range []oracle.Do{oracle.DropBefore, oracle.DropMiddle, oracle.DropAfter, oracle.Bye} {
			b.always("listing", drop(do))
			b.refused("-ERR [SYS/TEMP]")
		}
	})
}

func TestFaultU26STORERefused(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, said := range []string{"NO [OVERQUOTA] full", "NO [NOPERM] not yours"} {
			b.always("UID STORE", refuse(said))
			c := b.logIn("+OK")
			c.mark(1, 2, 3)
			c.leave("-ERR [SYS/PERM] 3 of 3 deleted messages not removed")
		}
		b.holds(b.mail...)
	})
}

func TestFaultU27DropBetweenSTOREAndUIDEXPUNGE(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("UID EXPUNGE", drop(oracle.DropBefore))
		c := b.logIn("+OK")
		c.mark(1, 2)
		c.leave("+OK")
		b.holds(b.without(1, 2)...)
	})
}

func TestFaultU27ServerLostBetweenSTOREAndUIDEXPUNGE(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("UID STORE", oracle.Fault{Do: oracle.DropAfter, After: func() { b.setDown(true) }})
		c := b.logIn("+OK")
		c.mark(1, 2)
		c.leave("-ERR [SYS/TEMP] 2 of 2 deleted messages not removed")
		b.setDown(false)
		b.Unflag(oracleUser, b.mail[1]) // a person brought that one back
		stores := len(b.commands("UID STORE"))
		b.logIn("+OK maildrop has 9 messages").leave("+OK")
		if got := b.commands("UID STORE"); len(got) != stores {
			b.t.Errorf("the next login sent %q, want UID EXPUNGE only", got[stores:])
		}
		b.holds(b.without(1)...)
	})
}

func TestFaultU28NoAnswerToUIDEXPUNGE(t *testing.T) {
	benched(t, func(b *faultBench) {
		for _, do := range []oracle.Do{oracle.DropAfter, oracle.DropMiddle} {
			b.once("UID EXPUNGE", drop(do))
			c := b.logIn("+OK")
			c.mark(1)
			c.leave("+OK")
			b.mail = b.mail[1:]
			b.holds(b.mail...)
		}
	})
}

func TestFaultU28NoAnswerInTimeToUIDEXPUNGE(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("UID EXPUNGE", drop(oracle.Silence))
		c := b.logIn("+OK")
		c.mark(1)
		c.leave("-ERR [SYS/TEMP]")
		b.logIn("+OK maildrop has 9 messages").leave("+OK")
		b.holds(b.without(1)...)
	})
}

func TestFaultU29UnDeletedByAnotherClient(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.once("UID STORE", oracle.Fault{After: func() { b.Unflag(oracleUser, b.mail[1]) }})
		c := b.logIn("+OK")
		c.mark(1, 2, 3)
		c.leave("-ERR [SYS/TEMP] 1 of 3 deleted messages not removed")
		if got := b.commands("UID STORE"); len(got) != 1 {
			b.t.Errorf("sent %q, want no second STORE", got)
		}
		b.holds(b.without(1, 3)...)
	})
}

func TestFaultU30NeitherUIDPLUSNorMOVE(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.Capabilities = "IMAP4rev1"
		c := b.logIn("+OK")
		c.say("DELE 1", "-ERR [SYS/PERM]")
		c.leave("+OK")
		if got := b.commands("EXPUNGE"); len(got) != 0 {
			b.t.Errorf("sent %q, want no EXPUNGE", got)
		}
		b.holds(b.mail...)
	})
}

func TestFaultU31MOVEOfAPart(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.options.Policy.Delete = upstream.DeleteTrash
		b.once("UID MOVE", drop(oracle.Half))
		c := b.logIn("+OK")
		c.mark(1, 2, 3, 4)
		c.leave("-ERR [SYS/PERM] 2 of 4 deleted messages not removed")
		if in, moved := b.IDs(oracleUser, "INBOX"), b.IDs(oracleUser, oracle.Trash); len(in) != 8 || len(moved) != 2 {
			b.t.Errorf("got messages %v and %v in the trash, want 8 and 2", in, moved)
		}
	})
}

func TestFaultU31NoSuchFolder(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.options.Policy.Delete = upstream.DeleteTrash
		b.always("UID MOVE", refuse("NO [TRYCREATE] where to?"))
		c := b.logIn("+OK")
		c.mark(1, 2)
		c.leave("-ERR [SYS/")
		b.holds(b.mail...)
	})
}

func TestFaultU32AnotherMessageUnderTheSameUID(t *testing.T) {
	benched(t, func(b *faultBench) {
		c := b.logIn("+OK")
		c.mark(2, 3)
		other := b.Swap(oracleUser, b.mail[1])
		c.leave("-ERR [SYS/PERM] 1 of 2 deleted messages not removed")
		if got := b.IDs(oracleUser, "INBOX"); !slices.Contains(got, other) || slices.Contains(got, b.mail[2]) {
			b.t.Errorf("mailbox: got messages %v, want the other one, %d, and not %d", got, other, b.mail[2])
		}
	})
}

func TestFaultU34AnswersWithoutMeasure(t *testing.T) {
	benched(t, func(b *faultBench) {
		b.options.MaxMessages = 1000 // that a listing may take so many octets more than other answers
		const most = 64 << 20
		flood := func(head, again string) oracle.Fault {
			return oracle.Fault{Speak: func(_ string, conn io.ReadWriter) bool {
				_, err := io.WriteString(conn, head)
				for octets := 0; err == nil; octets += len(again) {
					if octets > most {
						b.t.Errorf("%q: took %d octets of it, want it cut", head, octets)
						break
					}
					_, err = io.WriteString(conn, again)
				}
				return false
			}}
		}
		for what, f := range map[string]oracle.Fault{
			"quoted string":    flood(`* 1 FETCH (UID 1 ENVELOPE ("`, strings.Repeat("x", 32<<10)),
			"literal":          flood("* 1 FETCH (UID 1 BODY[] {9223372036854775807}\r\n", strings.Repeat("x", 32<<10)),
			"nesting":          flood("* 1 FETCH (BODYSTRUCTURE ", strings.Repeat("(", 32<<10)),
			"untagged answers": flood("", strings.Repeat("* OK go on\r\n", 3000)),
			"NULs":             flood("* OK ", strings.Repeat("\x00", 32<<10)),
			"wrong tag":        say("X999 OK done", "TAG OK [ALERT] done"),
		} {
			var before, after runtime.MemStats
			b.always("listing", f)
			runtime.GC()
			runtime.ReadMemStats(&before)
			b.refused("-ERR [SYS/TEMP]")
			runtime.ReadMemStats(&after)
			if grew := int64(after.HeapSys) - int64(before.HeapSys); grew > most {
				b.t.Errorf("%s: the heap grew by %d MiB, want 64 at most", what, grew>>20)
			}
		}
	})
}
