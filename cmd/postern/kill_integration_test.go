package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/proxy/state"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/oracle"
)

// A killPoint is a moment in a commit: before the server has a command, once it
// has carried it out, or once the gateway has the answer.
type killPoint struct {
	command string
	nth     int // of the commit's commands of that name: 2 is that of the last chunk
	when    string
}

const (
	before   = "before"
	executed = "executed"
	answered = "answered"
)

func (p killPoint) String() string { return fmt.Sprintf("%s %d %s", p.command, p.nth, p.when) }

func killPoints(chunks int, commands ...string) (all []killPoint) {
	for _, command := range commands {
		for nth := 1; nth <= chunks; nth++ {
			for _, when := range []string{before, executed, answered} {
				all = append(all, killPoint{command, nth, when})
			}
		}
	}
	return all
}

// A killRelay stands between the gateway and its upstream, and calls strike at
// the point that it was armed with.
type killRelay struct {
	mu     sync.Mutex
	point  killPoint
	seen   int
	strike func() // returns when the gateway is dead; nil: not armed
}

// arm makes the relay strike in the commit to come, and close struck.
func (r *killRelay) arm(p killPoint, strike func()) (struck <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan struct{})
	r.point, r.seen, r.strike = p, 0, func() { strike(); close(done) }
	return done
}

// due tells when to strike at a command, if at all.
func (r *killRelay) due(command string) (when string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.strike == nil || !strings.Contains(command, r.point.command) {
		return ""
	}
	if r.seen++; r.seen != r.point.nth {
		return ""
	}
	return r.point.when
}

// hit strikes if now is when.
func (r *killRelay) hit(when, now string) bool {
	if when != now {
		return false
	}
	r.mu.Lock()
	strike := r.strike
	r.strike = nil
	r.mu.Unlock()
	strike()
	return true
}

// imap relays IMAP until the test ends, and returns where. The server gets one
// command at a time, so that none is on its way when the gateway dies.
func (r *killRelay) imap(t *testing.T, target string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			gateway, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				gateway.Close()
				continue
			}
			go r.join(gateway, server)
		}
	}()
	return l.Addr().String()
}

func (r *killRelay) join(gateway, server net.Conn) {
	defer gateway.Close()
	defer server.Close()
	commands, answers := bufio.NewReader(gateway), bufio.NewReader(server)
	greeting, err := answers.ReadBytes('\n')
	if err != nil {
		return
	}
	gateway.Write(greeting) // an error comes back from the read
	for {
		line, err := commands.ReadString('\n')
		if err != nil || !r.pass(line, gateway, server, answers) {
			return
		}
	}
}

// pass relays one command and its answer; false ends the connection.
func (r *killRelay) pass(line string, gateway, server net.Conn, answers *bufio.Reader) bool {
	tag, command, _ := strings.Cut(line, " ")
	when := ""
	if !strings.Contains(command, ":* ") { // a listing
		when = r.due(command)
	}
	if r.hit(when, before) {
		return false
	}
	io.WriteString(server, line) // an error comes back from the read
	for {
		answer, err := answers.ReadBytes('\n')
		if err != nil {
			return false
		}
		tagged := bytes.HasPrefix(answer, []byte(tag+" "))
		if tagged && r.hit(when, executed) {
			return false
		}
		gateway.Write(answer) // likewise
		if tagged {
			return !r.hit(when, answered)
		}
	}
}

// jmap relays JMAP until the test ends, and returns where.
func (r *killRelay) jmap(t *testing.T, target string) (url string) {
	target, _, _ = strings.Cut(strings.TrimPrefix(target, "http://"), "/")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, _ := io.ReadAll(in.Body)
		when := r.due(string(body))
		if r.hit(when, before) {
			panic(http.ErrAbortHandler)
		}
		out := in.Clone(in.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", target
		out.Body = io.NopCloser(bytes.NewReader(body))
		answer, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		if r.hit(when, executed) {
			panic(http.ErrAbortHandler)
		}
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		w.Write(text)
		w.(http.Flusher).Flush()
		r.hit(when, answered)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/.well-known/jmap"
}

// An otherClient is another client of the mailbox, by IMAP.
type otherClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	made int // messages
}

func newOtherClient(t *testing.T, address, user string) *otherClient {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	o := &otherClient{t: t, conn: conn, in: bufio.NewReader(conn)}
	o.do(fmt.Sprintf("LOGIN %q %q", user, password))
	return o
}

// do runs a command and returns the lines before its OK.
func (o *otherClient) do(command string) (lines []string) {
	o.t.Helper()
	o.conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(o.conn, "o "+command+"\r\n") // an error comes back from the read
	for {
		line, err := o.in.ReadString('\n')
		if err != nil {
			o.t.Fatalf("%.40s: %v", command, err)
		}
		if status, tagged := strings.CutPrefix(line, "o "); tagged {
			if !strings.HasPrefix(status, "OK") {
				o.t.Fatalf("%.40s: %s", command, status)
			}
			return lines
		}
		lines = append(lines, line)
	}
}

// deliver adds messages until there are n.
func (o *otherClient) deliver(n int) {
	there := len(o.messages("INBOX"))
	if there >= n {
		return
	}
	var command strings.Builder
	command.WriteString("APPEND INBOX")
	for range n - there {
		raw := oracle.RawOf(o.made)
		o.made++
		fmt.Fprintf(&command, " {%d+}\r\n%s", len(raw), raw)
	}
	o.do(command.String())
}

// A seenMessage is what the other client sees of a message.
type seenMessage struct {
	uid     string
	deleted bool
}

// messages returns what is in a mailbox, by the ids of the oracle's messages.
func (o *otherClient) messages(box string) map[int]seenMessage {
	o.t.Helper()
	o.do("SELECT " + box)
	all := map[int]seenMessage{}
	for _, line := range o.do("UID FETCH 1:* (UID FLAGS RFC822.SIZE)") {
		var uid string
		size := 0
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune("() \r\n", r) })
		for k, word := range words[:max(0, len(words)-1)] {
			switch word {
			case "UID":
				uid = words[k+1]
			case "RFC822.SIZE":
				fmt.Sscan(words[k+1], &size)
			}
		}
		if uid != "" && size > 0 {
			all[oracle.IDOf(size)] = seenMessage{uid, strings.Contains(line, `\Deleted`)}
		}
	}
	return all
}

// A killTest kills one gateway to one mailbox again and again.
type killTest struct {
	t      *testing.T
	relay  *killRelay
	other  *otherClient
	user   string
	config string
	kept   string // the mailbox that removals go to; empty: none
	hides  bool   // the upstream does not show what is flagged \Deleted
	chunk  int    // messages that are sure to make two chunks; 0: one chunk only

	process *process
	address string
	uidls   map[int]string
	removed int // messages in all
	kills   int
}

// start starts the gateway, and measures how long that takes.
func (k *killTest) start() {
	k.process = spawn(k.t, "serve", "-c", k.config)
	k.address = k.process.addresses(k.t)[0]
}

// login logs in and returns the message numbers, by id. Unique-ids never change.
func (k *killTest) login() (c popClient, numbers map[int]int) {
	k.t.Helper()
	c = dialPOP(k.t, k.address, nil)
	c.login(k.user, password, "+OK")
	numbers = map[int]int{}
	ids := map[string]int{}
	for _, line := range c.lines("LIST") {
		var number, size int
		fmt.Sscan(line, &number, &size)
		ids[fmt.Sprint(number)] = oracle.IDOf(size)
		numbers[oracle.IDOf(size)] = number
	}
	for _, line := range c.lines("UIDL") {
		number, uidl, _ := strings.Cut(line, " ")
		if last, known := k.uidls[ids[number]]; known && last != uidl {
			k.t.Errorf("message %d has the unique-id %s, was %s", ids[number], uidl, last)
		}
		k.uidls[ids[number]] = uidl
	}
	return c, numbers
}

// round marks messages, kills the gateway in the commit, and looks at what the
// next gateway makes of it.
func (k *killTest) round(p killPoint, random *rand.Rand) {
	t := k.t
	t.Helper()
	marks := 1 + random.IntN(4)
	if p.nth > 1 {
		marks = k.chunk
	}
	k.other.deliver(2*marks + 3)
	c, numbers := k.login()
	present := slices.Sorted(maps.Keys(numbers))
	if p.nth > 1 {
		present = everySecondFirst(present)
	} else {
		random.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
	}
	marked, bystander := present[:marks], present[marks]
	if !k.hides {
		k.flag("+", bystander)
		defer k.flag("-", bystander)
	}
	for _, id := range marked {
		c.say(fmt.Sprintf("DELE %d", numbers[id]), "+OK")
	}
	doomed := k.process
	struck := k.relay.arm(p, func() { doomed.Process.Kill(); doomed.Wait() })
	c.PrintfLine("QUIT") // an error comes back from the read
	answer, _ := c.ReadLine()
	select {
	case <-struck:
	case <-time.After(30 * time.Second):
		t.Fatalf("%v: QUIT was answered %q without coming there\n%s", p, answer, doomed.output())
	}
	k.kills++
	after := k.other.messages("INBOX")
	k.mustBeWanted(p, numbers, after, marked)
	if strings.HasPrefix(answer, "+OK") && k.count(after, marked) > 0 {
		t.Errorf("%v: QUIT was answered %q, and messages are there", p, answer)
	}
	undeleted := k.undelete(after, marked, random)
	k.start()
	c, _ = k.login() // which settles what is left
	c.say("QUIT", "+OK")
	k.mustBeSettled(p, after, k.other.messages("INBOX"), marked, undeleted)
}

// everySecondFirst orders messages so that the first half of them has no two in
// a row, which would be one range of UIDs.
func everySecondFirst(ids []int) (all []int) {
	for from := range 2 {
		for i := from; i < len(ids); i += 2 {
			all = append(all, ids[i])
		}
	}
	return all
}

// flag sets \Deleted or takes it away.
func (k *killTest) flag(sign string, id int) {
	m := k.other.messages("INBOX")[id]
	k.other.do("UID STORE " + m.uid + " " + sign + `FLAGS.SILENT (\Deleted)`)
}

// undelete takes the flag from one message of two, as a person may before the
// gateway is back. It returns its id, or -1.
func (k *killTest) undelete(after map[int]seenMessage, marked []int, random *rand.Rand) int {
	for _, id := range marked {
		if m, there := after[id]; there && m.deleted && random.IntN(2) == 0 {
			k.flag("-", id)
			return id
		}
	}
	return -1
}

func (k *killTest) count(there map[int]seenMessage, ids []int) (n int) {
	for _, id := range ids {
		if _, found := there[id]; found {
			n++
		}
	}
	return n
}

// mustBeWanted wants nothing to be gone or flagged but what was marked, but for
// the one that the other client flagged.
func (k *killTest) mustBeWanted(p killPoint, numbers map[int]int, after map[int]seenMessage, marked []int) {
	flagged := 0
	for id := range numbers {
		m, there := after[id]
		if slices.Contains(marked, id) {
			continue
		}
		if !there {
			k.t.Errorf("%v: message %d is gone, which nobody marked", p, id)
		}
		if m.deleted {
			flagged++
		}
	}
	if flagged != 1 && !k.hides || flagged > 0 && k.hides {
		k.t.Errorf("%v: %d messages are flagged that nobody marked, want the other client's alone", p, flagged)
	}
}

// mustBeSettled wants the next login to have expunged what was flagged by then,
// and nothing else.
func (k *killTest) mustBeSettled(p killPoint, before, after map[int]seenMessage, marked []int, undeleted int) {
	for id, m := range before {
		_, there := after[id]
		want := !m.deleted || id == undeleted || !slices.Contains(marked, id)
		if there != want {
			k.t.Errorf("%v: message %d, flagged %v, undeleted %v: there after the next login: %v", p, id, m.deleted, id == undeleted, there)
		}
	}
	gone := len(marked) - k.count(after, marked)
	k.removed += gone
	if k.kept == "" {
		return
	}
	if kept := k.other.messages(k.kept); k.count(kept, marked) != gone {
		k.t.Errorf("%v: %d of %d removed messages are in %s", p, k.count(kept, marked), gone, k.kept)
	}
}

// end wants nothing to be pending, and every removal to be recorded.
func (k *killTest) end(dir string) {
	k.process.Process.Kill()
	k.process.end(k.t)
	store, err := state.Open(k.t.Context(), state.Options{Dir: dir})
	if err != nil {
		k.t.Fatal(err)
	}
	defer store.Close()
	if pending, err := store.Journal("there").Pending(k.t.Context(), k.user); err != nil || len(pending) > 0 {
		k.t.Errorf("pending in the end: %v, %v", pending, err)
	}
	recorded, err := store.Removals(k.t.Context(), state.Query{Limit: 1 << 20})
	if err != nil || len(recorded) != k.removed {
		k.t.Errorf("%d removals are recorded, %v; %d messages were removed", len(recorded), err, k.removed)
	}
	k.t.Logf("%d kills, %d messages removed", k.kills, k.removed)
}

// killed runs rounds of kills in front of one upstream, described as in the
// configuration.
func killed(t *testing.T, k *killTest, upstream, policy string, points []killPoint, cycles int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	k.config = writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
state: {path: %q}
upstreams: {there: {%s}}
routes: [{user: "*", upstream: there, %s}]
`, dir, upstream, policy)
	k.t, k.uidls = t, map[int]string{}
	k.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last gateway's log:\n%s", k.process.output())
		}
	})
	random := rand.New(rand.NewPCG(1, uint64(len(upstream))))
	for range cycles {
		for _, p := range points {
			if k.round(p, random); t.Failed() {
				return
			}
		}
	}
	k.end(dir)
}

// killCycles is how often every point is played where all is to be shown.
func killCycles(n int) int {
	if os.Getenv("POSTERN_REAL") == "1" {
		return n
	}
	return 1
}

// twoChunks is more than fit in one where the server has no CONDSTORE, the UIDs
// are long, and no two make a range.
const twoChunks = 90

// longUIDs makes the UIDs of an INBOX ten digits long from now on.
func longUIDs(t *testing.T, d *dovecot.Server, user string) {
	t.Helper()
	d.Doveadm(t, "mailbox", "update", "-u", user, "--min-next-uid", "1000000001", "INBOX")
}

var (
	expungeCommands = []string{"UID FETCH", "UID STORE", "UID EXPUNGE", "UID SEARCH"}
	moveCommands    = []string{"UID FETCH", "UID MOVE", "UID SEARCH"}
)

// SIGKILL at each step of the commit, for the first chunk and the last.
func TestFaultH3KillDovecot(t *testing.T) {
	t.Parallel()
	d := dovecot.Start(t, dovecot.Without("CONDSTORE", "QRESYNC"))
	account := dovecotAccounts(d)(t)
	longUIDs(t, d, account.user)
	k := &killTest{relay: &killRelay{}, other: newOtherClient(t, d.IMAP, account.user), user: account.user, chunk: twoChunks}
	killed(t, k, fmt.Sprintf("protocol: imap, address: %q, tls: off", k.relay.imap(t, d.IMAP)), "delete: expunge",
		killPoints(2, expungeCommands...), killCycles(4))
}

func TestFaultH3KillDovecotTrash(t *testing.T) {
	t.Parallel()
	d := dovecot.Start(t, dovecot.Without("CONDSTORE", "QRESYNC"), `namespace inbox {
  inbox = yes
  mailbox Papierkorb {
    special_use = \Trash
    auto = create
  }
}`)
	account := dovecotAccounts(d)(t)
	longUIDs(t, d, account.user)
	k := &killTest{relay: &killRelay{}, other: newOtherClient(t, d.IMAP, account.user), user: account.user, chunk: twoChunks, kept: "Papierkorb"}
	killed(t, k, fmt.Sprintf("protocol: imap, address: %q, tls: off", k.relay.imap(t, d.IMAP)), "delete: trash",
		killPoints(2, moveCommands...), killCycles(2))
}

func TestFaultH3KillCyrus(t *testing.T) {
	t.Parallel()
	s := cyrus.Start(t)
	for _, c := range []struct {
		name, policy, kept string
		jmap               bool
		points             []killPoint
		cycles             int
	}{
		{"IMAP", "delete: expunge", "", false, killPoints(1, expungeCommands...), 4},
		{"JMAP", "delete: expunge", "", true, killPoints(1, "Email/set"), 8},
		{"JMAPTrash", "delete: trash", "Trash", true, killPoints(1, "Email/set"), 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			account := cyrusAccounts(s)(t)
			k := &killTest{relay: &killRelay{}, other: newOtherClient(t, s.IMAP, account.user), user: account.user, kept: c.kept, hides: c.jmap}
			upstream := ""
			if c.jmap {
				upstream = fmt.Sprintf("protocol: jmap, url: %q, plain_http: true", k.relay.jmap(t, s.JMAP))
			} else {
				upstream = fmt.Sprintf("protocol: imap, address: %q, tls: off", k.relay.imap(t, s.IMAP))
			}
			killed(t, k, upstream, c.policy, c.points, killCycles(c.cycles))
		})
	}
}
