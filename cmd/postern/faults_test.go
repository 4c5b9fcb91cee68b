package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/textproto"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy/auth"
	"postern/proxy/ledger"
	"postern/proxy/pop3"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/jmapserver"
	"postern/upstream/upstreamtest/oracle"
)

// These tests let an IMAP server get wrong, one after the other, what the table
// in docs/faults.md lists, and look at what a POP3 client is told and what is left
// in the mailbox. The row is in the name of the test, here and in other packages:
//
//	go test -run 'Fault.*U14' ./...

// benched runs a test in a bubble, on a bench of its own.
func benched(t *testing.T, test func(b *faultBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFaultBench(t)
		test(b)
		b.wait()
	})
}

// A faultBench is a gateway, in a bubble, before a server whose faults are to
// order.
type faultBench struct {
	*oracle.Server
	t       *testing.T
	options imapc.Options // to be changed before the first session
	mail    []int         // what is in the mailbox at first, oldest first

	gateway  *pop3.Server // nil before the first session
	sessions sync.WaitGroup

	mu      sync.Mutex
	down    bool // the server cannot be reached
	faults  map[string][]oracle.Fault
	forever map[string]oracle.Fault
	sent    []string // the commands of the gateway
}

// newFaultBench has ten messages in a mailbox, one of them large.
func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{t: t, Server: oracle.NewServer(), faults: map[string][]oracle.Fault{}, forever: map[string]oracle.Fault{}}
	b.Server.Fault = b.fault
	b.AddAccount(oracleUser, "secret")
	b.mail = b.Deliver(oracleUser, 10)
	store := state.Off()
	b.options = imapc.Options{
		Address: "imap.oracle.example:143", TLS: imapc.TLSOff, Dial: b.dial,
		Journal: store.Journal("there"), Listings: listings{store, "there"},
	}
	return b
}

const largeMessage = 7 // its number; the oracle makes every seventh large

// wait wants every session to have ended, and nothing to have been sent that
// could remove what it does not name.
func (b *faultBench) wait() {
	b.t.Helper()
	b.sessions.Wait()
	time.Sleep(time.Minute) // for those who are saying goodbye
	b.Cut()
	for _, e := range b.Record.Events() {
		if e.Kind == oracle.Forbidden {
			b.t.Errorf("sent %q, which must never be", e.Command)
		}
	}
}

func (b *faultBench) dial(ctx context.Context, network, address string) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, errors.New("connection refused")
	}
	return b.Dial(ctx, network, address)
}

func (b *faultBench) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// stage is what a command is for, in the words of this file.
func stage(s oracle.Step) string {
	switch {
	case strings.Contains(s.Command, "BODY"):
		return "message"
	case s.Verb == "UID FETCH" && strings.Contains(s.Command, ":*"):
		return "listing"
	case s.Verb == "UID FETCH":
		return "look"
	}
	return s.Verb
}

// once orders faults for the next commands of a stage, one each.
func (b *faultBench) once(stage string, faults ...oracle.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[stage] = faults
}

// always orders a fault for every command of a stage.
func (b *faultBench) always(stage string, f oracle.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forever[stage] = f
}

func (b *faultBench) fault(s oracle.Step) oracle.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, s.Command)
	at := stage(s)
	if f, ok := b.forever[at]; ok {
		return f
	}
	if next := b.faults[at]; len(next) > 0 {
		b.faults[at] = next[1:]
		return next[0]
	}
	return oracle.Fault{}
}

// commands are those that the gateway has sent that begin so.
func (b *faultBench) commands(prefix string) (some []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.sent {
		if strings.HasPrefix(c, prefix) {
			some = append(some, c)
		}
	}
	return some
}

// connect begins a session.
func (b *faultBench) connect() popClient {
	b.t.Helper()
	if b.gateway == nil {
		pinned := ledger.New(imapc.New(b.options), state.Off(), ledger.Options{Origin: "faults"})
		b.gateway = &pop3.Server{
			Authenticator: auth.New(auth.Options{
				Routes: []auth.Route{{User: "*", Upstream: "there", Opener: pinned}},
				Locker: state.Off(),
			}),
			PlaintextLogin: func(netip.Addr) bool { return true },
		}
	}
	here, there := net.Pipe()
	b.sessions.Go(func() { b.gateway.Serve(context.Background(), there) })
	c := popClient{b.t, textproto.NewConn(here)}
	b.t.Cleanup(func() { c.Close() })
	c.expect("+OK")
	return c
}

// logIn begins a session, which must be answered like that.
func (b *faultBench) logIn(want string) popClient {
	b.t.Helper()
	c := b.connect()
	c.login(oracleUser, "secret", want)
	if !strings.HasPrefix(want, "+OK") {
		c.Close()
	}
	return c
}

// refused wants a login to be answered like that.
func (b *faultBench) refused(want string) {
	b.t.Helper()
	b.logIn(want)
}

// gets retrieves a message, and wants it to be that one.
func (c popClient) gets(number, id int) {
	c.t.Helper()
	c.say(fmt.Sprint("RETR ", number), "+OK")
	lines, err := c.ReadDotLines()
	if got, want := strings.Join(lines, "\r\n")+"\r\n", oracle.RawOf(id); err != nil || got != want {
		c.t.Errorf("message %d: got %.60q, %d octets, and %v; want message %d, %d octets", number, got, len(got), err, id, len(want))
	}
}

// breaksOff retrieves a message that must begin and not come to an end: no dot,
// only the end of the connection.
func (c popClient) breaksOff(number int) {
	c.t.Helper()
	began := time.Now()
	c.say(fmt.Sprint("RETR ", number), "+OK")
	rest, err := io.ReadAll(c.R)
	if took := time.Since(began); took > time.Minute {
		c.t.Errorf("a message that breaks off: the connection stayed open for %v, want it closed", took)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || strings.HasSuffix(string(rest), "\r\n.\r\n") || len(rest) > len(oracle.RawOf(largeMessage-1)) {
		c.t.Errorf("a message that breaks off: got %d octets, ending in %.20q, and %v; want no final dot", len(rest), rest[max(0, len(rest)-20):], err)
	}
}

// holds wants exactly these messages to be there, and the rest to be gone.
func (b *faultBench) holds(ids ...int) {
	b.t.Helper()
	if got := b.IDs(oracleUser, "INBOX"); !slices.Equal(got, ids) {
		b.t.Errorf("mailbox: got messages %v, want %v", got, ids)
	}
}

// without is the mail but for some numbers.
func (b *faultBench) without(numbers ...int) (ids []int) {
	for i, id := range b.mail {
		if !slices.Contains(numbers, i+1) {
			ids = append(ids, id)
		}
	}
	return ids
}

func refuse(reply string) oracle.Fault { return oracle.Fault{Do: oracle.Refuse, Reply: reply} }

func drop(do oracle.Do) oracle.Fault { return oracle.Fault{Do: do} }

// say answers with lines, in which TAG stands for that of the command, and
// goes on.
func say(lines ...string) oracle.Fault {
	return oracle.Fault{Speak: func(tag string, conn io.ReadWriter) bool {
		for _, l := range lines {
			if _, err := io.WriteString(conn, strings.Replace(l, "TAG", tag, 1)+"\r\n"); err != nil {
				return false
			}
		}
		return true
	}}
}

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

// beforeJMAP runs a test with the built gateway before a JMAP server with five
// messages, of which so many of the first are to be removed.
func beforeJMAP(t *testing.T, removed int, test func(b *jmapBench)) {
	t.Helper()
	t.Parallel()
	server := jmapserver.New("bob", "secret")
	var raw []string
	for i := range 5 {
		raw = append(raw, upstreamtest.Letter(i, 400))
		server.Deliver(t, raw[i])
	}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	p := spawn(t, "serve", "-c", writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {fast: {protocol: jmap, url: %q, plain_http: true}}
routes: [{user: "*", upstream: fast}]
`, web.URL+"/.well-known/jmap"))
	test(&jmapBench{server, t, p.addresses(t)[0]})
	same(t, "the mailbox holds", server.Messages(t), raw[removed:])
}

// A jmapBench is the built gateway before a JMAP server.
type jmapBench struct {
	*jmapserver.Server
	t       *testing.T
	address string
}

// logIn begins a session, which must be answered like that.
func (b *jmapBench) logIn(want string) popClient {
	b.t.Helper()
	c := dialPOP(b.t, b.address, nil)
	c.login("bob", "secret", want)
	return c
}

// answers has every request answered like that from now on. It is called while
// none is under way.
func (b *jmapBench) answers(status int, text string, header ...string) {
	b.HTTP = func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
		return true
	}
}

// set answers Email/set like that, the n-th time from 1; nil leaves it to the
// server.
func (b *jmapBench) set(answer func(n int, args map[string]any) *jmapserver.Answer) {
	n := 0
	b.Method = func(name string, args map[string]any) *jmapserver.Answer {
		if name != "Email/set" {
			return nil
		}
		n++
		return answer(n, args)
	}
}

func TestFaultU33JMAPPasswordRefused(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(401, "no")
		b.logIn("-ERR [AUTH]")
	})
}

func TestFaultU33JMAP429WithRetryAfter(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(429, "slow down", "Retry-After", "3600")
		b.logIn("-ERR [LOGIN-DELAY]")
		b.HTTP = nil
		b.logIn("-ERR [LOGIN-DELAY]") // the pause is kept
	})
}

func TestFaultU33JMAP503(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(503, "later")
		b.logIn("-ERR [SYS/TEMP]")
	})
}

func TestFaultU33JMAPTruncatedJSON(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		b.answers(200, `{"capabilities": {"urn:ietf:par`, "Content-Type", "application/json")
		b.logIn("-ERR [SYS/TEMP]")
	})
}

func TestFaultU33JMAPPasswordRefusedInMidSession(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		c := b.logIn("+OK")
		c.mark(1)
		b.answers(401, "no")
		c.leave("-ERR [SYS/TEMP]") // never [AUTH]: the password was right
	})
}

func TestFaultU33JMAPMethodErrorInA200(t *testing.T) {
	beforeJMAP(t, 0, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(int, map[string]any) *jmapserver.Answer { return jmapserver.Error("serverFail") })
		c.mark(1, 2)
		c.leave("-ERR [SYS/TEMP] 2 of 2 deleted messages not removed")
	})
}

func TestFaultU33JMAPStateMismatch(t *testing.T) {
	beforeJMAP(t, 2, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(n int, _ map[string]any) *jmapserver.Answer {
			if n == 1 {
				return jmapserver.Error("stateMismatch")
			}
			return nil
		})
		c.mark(1, 2)
		c.leave("+OK")
	})
}

func TestFaultU33JMAPAPartNotDestroyed(t *testing.T) {
	beforeJMAP(t, 1, func(b *jmapBench) {
		c := b.logIn("+OK")
		b.set(func(_ int, args map[string]any) *jmapserver.Answer {
			args["destroy"] = args["destroy"].([]any)[:1]
			return nil
		})
		c.mark(1, 2)
		c.leave("-ERR [SYS/TEMP] 1 of 2 deleted messages not removed")
	})
}

// rewrite replaces what matches a pattern in an answer.
func rewrite(pattern, by string) oracle.Fault {
	r := regexp.MustCompile(pattern)
	return oracle.Fault{Rewrite: func(answer string) string { return r.ReplaceAllString(answer, by) }}
}
