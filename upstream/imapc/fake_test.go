package imapc

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A fake is an IMAP server with one mailbox that gets wrong what it is told to.
// It runs in the test's bubble, where time passes only while everybody waits,
// and no goroutine may be left behind.
type fake struct {
	t       *testing.T
	options Options
	opened  []upstream.Maildrop

	// fault, where set, is asked first for every command; true says that it
	// has answered.
	fault func(c *fakeConn, command string) bool
	// greet, where set, speaks instead of the greeting; false ends the connection.
	greet func(c *fakeConn) bool

	delay       time.Duration // of every answer, not added up
	caps        string
	code        string // response code in the tagged OK to LOGIN
	uidValidity string // "0" and "" are possible
	readOnly    bool

	mu          sync.Mutex
	messages    []fakeMessage
	connections int
	commands    []string     // of all connections, without their tags
	tokens      []string     // responses of AUTHENTICATE, decoded
	clear       lockedBuffer // what was sent without TLS
	flagged     []uint32     // in the INBOX, by UID STORE
	expunged    []uint32     // in the INBOX, by EXPUNGE and UID EXPUNGE
	boxes       []*fakeBox   // beside the INBOX
	resumable   []string     // sets that may be expunged without having been flagged
	conns       []*fakeConn
	serving     sync.WaitGroup
}

type fakeMessage struct {
	uid     uint32
	raw     string
	id      string // EMAILID, where that is asked for; empty: none
	size    int    // stated; 0: the true one
	deleted bool
	seen    bool
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A fakeConn is one connection to a fake.
type fakeConn struct {
	net.Conn
	f   *fake
	r   *bufio.Reader
	n   int      // counting from 1
	tag string   // of the command that is being answered
	box *fakeBox // selected; nil: the INBOX

	known []uint32      // messages that were announced
	idle  chan struct{} // gets a value when there may be news; nil: nobody waits for that; under f.mu

	dropped atomic.Bool
}

// Close drops the connection, and the commands that have come already.
func (c *fakeConn) Close() error {
	c.dropped.Store(true)
	return c.Conn.Close()
}

const password = "s3cret-Passw0rd"

// bubble runs a test with a fake that holds four messages, and afterwards
// looks at everything that was sent to it.
func bubble(t *testing.T, test func(t *testing.T, f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, caps: "IMAP4rev1 UIDPLUS CONDSTORE", uidValidity: "77"}
		f.options = Options{Address: "imap.example.org:143", TLS: TLSOff, Dial: f.dial}
		for i, uid := range []uint32{3, 5, 6, 9} {
			f.messages = append(f.messages, fakeMessage{uid: uid, raw: upstreamtest.Letter(i, 900)})
		}
		test(t, f)
		synctest.Wait()
		for _, d := range f.opened {
			d.Close()
		}
		f.serving.Wait()
		f.checkWire()
	})
}

func (f *fake) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	f.mu.Lock()
	f.connections++
	c := &fakeConn{Conn: server, f: f, r: bufio.NewReader(io.TeeReader(server, &f.clear)), n: f.connections}
	f.conns = append(f.conns, c)
	f.mu.Unlock()
	f.serving.Go(func() { c.serve() })
	if f.delay > 0 {
		return newLateConn(client, f.delay), nil
	}
	return client, nil
}

// A lateConn delivers what is written so much later, in order.
type lateConn struct {
	net.Conn
	delay  time.Duration
	pieces chan latePiece
	closed chan struct{}
	once   sync.Once
}

type latePiece struct {
	octets []byte
	due    time.Time
}

func newLateConn(conn net.Conn, delay time.Duration) *lateConn {
	c := &lateConn{Conn: conn, delay: delay, pieces: make(chan latePiece, 1000), closed: make(chan struct{})}
	go func() {
		for {
			select {
			case p := <-c.pieces:
				time.Sleep(time.Until(p.due))
				conn.Write(p.octets)
			case <-c.closed:
				return
			}
		}
	}()
	return c
}

func (c *lateConn) Write(p []byte) (int, error) {
	c.pieces <- latePiece{bytes.Clone(p), time.Now().Add(c.delay)}
	return len(p), nil
}

func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (f *fake) upstream() *Upstream { return New(f.options) }

func (f *fake) account() upstream.Account {
	return upstream.Account{User: "bob@example.org", Password: upstream.NewSecret(password)}
}

// open logs in; the maildrop is closed when the test is over.
func (f *fake) open() *maildrop {
	f.t.Helper()
	d, err := f.upstream().Open(f.t.Context(), f.account())
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.opened = append(f.opened, d)
	synctest.Wait() // for the CAPABILITY that the library sends when it likes
	return d.(*maildrop)
}

func (f *fake) list() *maildrop {
	f.t.Helper()
	d := f.open()
	if _, err := d.List(f.t.Context()); err != nil {
		f.t.Fatalf("list: %v", err)
	}
	return d
}

// openAndList opens an account's maildrop and lists it, for the caller to close.
func openAndList(t testing.TB, u *Upstream, a upstream.Account) *maildrop {
	t.Helper()
	d, err := u.Open(t.Context(), a)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if _, err := d.List(t.Context()); err != nil {
		t.Fatalf("list: %v", err)
	}
	return d.(*maildrop)
}

// The commands that may be sent. A number that is not a UID is in none of them.
var allowed = []*regexp.Regexp{
	regexp.MustCompile(`^(CAPABILITY|LOGOUT|STARTTLS|NOOP|IDLE|COMPRESS DEFLATE)$`),
	regexp.MustCompile(`^(LOGIN|AUTHENTICATE|ID) `),
	regexp.MustCompile(`^SELECT "[^"]*"$`),
	regexp.MustCompile(`^UID FETCH [0-9]+:\* \(UID RFC822\.SIZE( EMAILID| X-GM-MSGID)?\)$`),
	regexp.MustCompile(`^UID SEARCH (RETURN \(ALL\) )?UID 1:[0-9]+$`),
	regexp.MustCompile(`^UID FETCH [0-9:,]+ \(UID RFC822\.SIZE( EMAILID| X-GM-MSGID)? FLAGS\)$`),
	regexp.MustCompile(`^UID FETCH [0-9,:]+ \(UID BODY\.PEEK\[(HEADER)?\](<[0-9]+\.[0-9]+>)?\)$`),
	regexp.MustCompile(`^UID STORE [0-9:,]+ [+-]FLAGS\.SILENT \(\\Deleted\)$`),
	regexp.MustCompile(`^UID STORE [0-9:,]+ \+FLAGS\.SILENT \(\\Seen\)$`),
	regexp.MustCompile(`^UID EXPUNGE [0-9:,]+$`),
	regexp.MustCompile(`^UID SEARCH (UID [0-9:,]+( DELETED| UNDELETED)?|DELETED)$`),
	regexp.MustCompile(`^UID (MOVE|COPY) [0-9:,]+ "[^"]*"$`),
	regexp.MustCompile(`^LIST ("" ""|"" "\*"|\(SPECIAL-USE\) "" "\*")$`),
	regexp.MustCompile(`^CREATE "[^"]*"$`),
}

// checkWire holds every command that was sent against the promise of removal.
func (f *fake) checkWire() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	stored := make(map[string]bool)
	for k, c := range f.commands {
		if c == "EXPUNGE" && f.options.Policy.ExpungeAlone && k > 0 && f.commands[k-1] == "UID SEARCH DELETED" {
			continue
		}
		if !slices.ContainsFunc(allowed, func(r *regexp.Regexp) bool { return r.MatchString(c) }) {
			f.t.Errorf("sent %q, which no test allows", c)
		}
		if len(c) > 4200 {
			f.t.Errorf("a command of %d octets was sent", len(c))
		}
		if set, ok := strings.CutPrefix(c, "UID STORE "); ok {
			set, _, _ = strings.Cut(set, " ")
			stored[set] = true
		}
		if set, ok := strings.CutPrefix(c, "UID EXPUNGE "); ok && !stored[set] && !slices.Contains(f.resumable, set) {
			f.t.Errorf("UID EXPUNGE %s without UID STORE", set)
		}
	}
}

// sent returns the commands that begin with prefix.
func (f *fake) sent(prefix string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var some []string
	for _, c := range f.commands {
		if strings.HasPrefix(c, prefix) {
			some = append(some, c)
		}
	}
	return some
}

func (f *fake) uids() []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []uint32{}
	for _, m := range f.messages {
		all = append(all, m.uid)
	}
	return all
}

func (f *fake) take(uid uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = slices.DeleteFunc(f.messages, func(m fakeMessage) bool { return m.uid == uid })
	f.ring()
}

func (f *fake) change(uid uint32, change func(m *fakeMessage)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.messages {
		if f.messages[i].uid == uid {
			change(&f.messages[i])
		}
	}
}

func (c *fakeConn) serve() {
	defer c.Close()
	if c.f.greet != nil {
		if !c.f.greet(c) {
			return
		}
	} else {
		c.say("* OK ready")
	}
	for !c.dropped.Load() {
		line, err := c.line()
		if err != nil {
			return
		}
		tag, command, _ := strings.Cut(line, " ")
		c.tag = tag
		c.f.mu.Lock()
		c.f.commands = append(c.f.commands, command)
		fault := c.f.fault
		c.f.mu.Unlock()
		if fault != nil && fault(c, command) {
			continue
		}
		if c.do(command); command == "LOGOUT" {
			return
		}
	}
}

// line reads one line. It waits for ever: the bubble would notice.
func (c *fakeConn) line() (string, error) {
	line, err := c.r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func (c *fakeConn) say(format string, args ...any) { c.begin(format+"\r\n", args...) }

// begin says the beginning of an answer, and no end of line after it.
func (c *fakeConn) begin(format string, args ...any) {
	io.WriteString(c, fmt.Sprintf(format, args...))
}

func (c *fakeConn) ok(text string) { c.say("%s OK %s", c.tag, text) }

// do answers as a server should.
func (c *fakeConn) do(command string) {
	f := c.f
	word, args, _ := strings.Cut(command, " ")
	if word == "UID" {
		sub, rest, _ := strings.Cut(args, " ")
		word, args = "UID "+sub, rest
	}
	switch word {
	case "CAPABILITY":
		c.say("* CAPABILITY %s", f.caps)
		c.ok("done")
	case "LOGIN":
		c.ok(f.code + "logged in")
	case "ID":
		c.say(`* ID ("name" "fake" "vendor" NIL)`)
		c.ok("done")
	case "SELECT":
		c.selectBox(strings.Trim(args, `"`))
	case "UID FETCH":
		c.fetch(args)
	case "UID STORE":
		c.store(args)
	case "UID EXPUNGE":
		c.expunge(setOf(args))
	case "EXPUNGE":
		c.expunge(set{{1, math.MaxUint32}})
	case "UID SEARCH":
		c.search(args)
	case "UID MOVE", "UID COPY":
		c.transfer(word, args)
	case "LIST":
		c.listFolders(args)
	case "NOOP":
		c.announce()
		c.ok("done")
	case "IDLE":
		c.idleUntilDone()
	case "CREATE":
		f.addBox(strings.Trim(args, `"`), "")
		c.ok("done")
	case "LOGOUT":
		c.say("* BYE bye")
		c.ok("done")
	default:
		c.say("%s BAD what?", c.tag)
	}
}

func (c *fakeConn) selected() {
	f := c.f
	exists := c.know()
	f.mu.Lock()
	uidValidity := f.uidValidity
	if c.box != nil {
		uidValidity = c.box.uidValidity
	}
	f.mu.Unlock()
	c.say("* %d EXISTS", exists)
	c.say(`* FLAGS (\Deleted \Seen)`)
	if uidValidity != "" {
		c.say("* OK [UIDVALIDITY %s] valid", uidValidity)
	}
	if f.readOnly {
		c.ok("[READ-ONLY] selected")
	} else {
		c.ok("[READ-WRITE] selected")
	}
}

// A set is what a command names.
type set []uidRange

// setOf reads the set at the beginning of args.
func setOf(args string) set {
	text, _, _ := strings.Cut(strings.TrimPrefix(args, "UID "), " ")
	ranges, err := parseRanges([]byte(strings.ReplaceAll(text, "*", "4294967295")))
	if err != nil {
		panic(err)
	}
	return ranges
}

func (s set) has(uid uint32) bool {
	return slices.ContainsFunc(s, func(r uidRange) bool { return r.first <= uid && uid <= r.last })
}

var bodyItem = regexp.MustCompile(`BODY\.PEEK\[(HEADER)?\](<([0-9]+)\.([0-9]+)>)?`)

func (c *fakeConn) fetch(args string) {
	c.f.mu.Lock()
	messages := slices.Clone(*c.messages())
	c.f.mu.Unlock()
	named := setOf(args)
	text, _, _ := strings.Cut(args, " ")
	for i, m := range messages {
		last := i == len(messages)-1 && strings.HasSuffix(text, "*")
		if !named.has(m.uid) && !last {
			continue
		}
		if name, data, ok := m.section(args); ok {
			c.say("* %d FETCH (UID %d %s {%d}\r\n%s)", i+1, m.uid, name, len(data), data)
		} else {
			more := ""
			if strings.Contains(args, "EMAILID") && m.id != "" {
				more += " EMAILID (" + m.id + ")"
			}
			if strings.Contains(args, "FLAGS") && m.deleted {
				more += ` FLAGS (\Seen \Deleted)`
			}
			c.say("* %d FETCH (UID %d RFC822.SIZE %d%s)", i+1, m.uid, m.stated(), more)
		}
	}
	c.ok("done")
}

func (m fakeMessage) stated() int {
	if m.size != 0 {
		return m.size
	}
	return len(m.raw)
}

// section returns the name and the octets of the section that a FETCH asks for.
func (m fakeMessage) section(args string) (name, data string, ok bool) {
	match := bodyItem.FindStringSubmatch(args)
	if match == nil {
		return "", "", false
	}
	name, data = "BODY["+match[1]+"]", m.raw
	if match[1] == "HEADER" {
		header, _, _ := strings.Cut(m.raw, "\r\n\r\n")
		data = strings.TrimSuffix(header, "\r\n") + "\r\n\r\n"
	}
	if match[2] != "" {
		first, _ := strconv.Atoi(match[3])
		count, _ := strconv.Atoi(match[4])
		first = min(first, len(data))
		data = data[first:min(first+count, len(data))]
		name += "<" + match[3] + ">"
	}
	return name, data, true
}

// read returns all of a message and how it ended.
func read(r io.ReadCloser) (string, error) {
	defer r.Close()
	var text bytes.Buffer
	_, err := text.ReadFrom(r)
	return text.String(), err
}

// fetchAll fetches message i of d to its end.
func fetchAll(t *testing.T, d *maildrop, i int) (string, error) {
	t.Helper()
	r, err := d.Fetch(t.Context(), i)
	if err != nil {
		return "", err
	}
	return read(r)
}

// passed is the time since began, to the second.
func passed(began time.Time) time.Duration { return time.Since(began).Round(time.Second) }
