package pop3

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEveryCommandInEveryState has a line for every command of the table.
func TestEveryCommandInEveryState(t *testing.T) {
	const logInFirst, alreadyIn = "-ERR log in first", "-ERR already logged in"
	want := map[string]struct{ send, authorization, transaction string }{
		"CAPA": {"CAPA", "+OK capability list follows", "+OK capability list follows"},
		"STAT": {"STAT", logInFirst, "+OK 3 95"},
		"LIST": {"LIST", logInFirst, "+OK 3 messages (95 octets)"},
		"RETR": {"RETR 1", logInFirst, "+OK 23 octets"},
		"DELE": {"DELE 1", logInFirst, "+OK message 1 marked as deleted"},
		"NOOP": {"NOOP", logInFirst, "+OK nothing done"},
		"RSET": {"RSET", logInFirst, "+OK maildrop has 3 messages (95 octets)"},
		"QUIT": {"QUIT", "+OK bye", "+OK bye"},
		"TOP":  {"TOP 1 0", logInFirst, "+OK top of message follows"},
		"UIDL": {"UIDL", logInFirst, "+OK 3 messages (95 octets)"},
		"USER": {"USER bob", "+OK send the password", alreadyIn},
		"PASS": {"PASS x", "-ERR USER comes first", alreadyIn},
		"APOP": {"APOP bob 0", "-ERR APOP is not available", alreadyIn},
		"AUTH": {"AUTH", "+OK mechanisms follow", alreadyIn},
		"STLS": {"STLS", "+OK begin TLS", alreadyIn},
		"UTF8": {"UTF8", "+OK UTF-8", alreadyIn},
		"LANG": {"LANG", "+OK language listing follows", "+OK language listing follows"},
		"XTND": {"XTND", "-ERR command not supported", "-ERR command not supported"},
	}
	for _, c := range commands {
		if _, ok := want[c.name]; !ok {
			t.Errorf("%s: no case in this test", c.name)
		}
	}
	for _, w := range want {
		for _, spelling := range []string{w.send, strings.ToLower(w.send), w.send + "  "} {
			g := newGateway(threeMessages...)
			g.TLS = testTLS()
			c := g.dial(t.Context(), t)
			c.hear("+OK POP3 server ready")
			c.ask(spelling, w.authorization)

			g = newGateway(threeMessages...)
			g.TLS = testTLS()
			c = g.dial(t.Context(), t).logIn()
			c.ask(spelling, w.transaction)
		}
	}
}

// TestCommandsAreCountedByName: an unknown verb is no label of its own.
func TestCommandsAreCountedByName(t *testing.T) {
	g := newGateway(threeMessages...)
	c := g.dial(t.Context(), t).logIn()
	c.ask("stat", "+OK 3 95")
	c.ask("xyzzy", "-ERR command not supported")
	c.ask("DELE 7", "-ERR no such message, maildrop has 3 messages")
	c.ask("QUIT", "+OK bye")
	c.closed()
	want := []string{"USER ok", "PASS ok", "STAT ok", "unknown err", "DELE err", "QUIT ok"}
	if !slices.Equal(g.commands, want) {
		t.Errorf("commands: got %q, want %q", g.commands, want)
	}
	if want := []string{"ok"}; !slices.Equal(g.logins, want) {
		t.Errorf("logins: got %q, want %q", g.logins, want)
	}
	got := g.summary(t)
	got.Took = 0
	if want := (Summary{Account: testUser, Upstream: "memory", Reason: "quit"}); got != want {
		t.Errorf("summary: got %+v, want %+v", got, want)
	}
}

// TestLineLimitsByCommand: how long a line may be depends on what it is.
func TestLineLimitsByCommand(t *testing.T) {
	const tooLong = "-ERR line too long"
	line := func(verb string, octets int) string { return verb + " " + strings.Repeat("x", octets-len(verb)-1) }
	for _, c := range []struct{ send, want string }{
		{line("USER", maxCommandOctets), "+OK send the password"},
		{line("USER", maxCommandOctets+1), tooLong},
		{line("PASS", maxPasswordOctets), "-ERR [AUTH] wrong user name or password"},
		{line("PASS", maxPasswordOctets+1), tooLong},
		{line("XYZ", maxCommandOctets+1), tooLong},
		{line("AUTH", maxLineOctets), "-ERR mechanism not supported"},
	} {
		g := newGateway()
		s := g.dial(t.Context(), t)
		s.hear("+OK POP3 server ready")
		s.ask("USER bob", "+OK send the password")
		s.ask(c.send, c.want)
		s.ask("QUIT", "+OK bye")
	}
}

// TestLongSASLResponse: a response may be longer than any command. RFC 5034
// section 4.
func TestLongSASLResponse(t *testing.T) {
	g := newGateway()
	c := g.dial(t.Context(), t)
	c.hear("+OK POP3 server ready")
	c.ask("AUTH PLAIN", "+ ")
	c.ask(strings.Repeat("QUJD", maxLineOctets/4), "-ERR PLAIN message malformed")
	c.ask("AUTH PLAIN", "+ ")
	go c.Write([]byte(strings.Repeat("QUJD", maxLineOctets/4) + "Q\r\n"))
	if got, want := c.rest(), "-ERR line too long\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDropSizeDoesNotOverflow: sizes come from the upstream.
func TestDropSizeDoesNotOverflow(t *testing.T) {
	for _, c := range []struct {
		sizes sizes
		want  string
	}{
		{sizes{1 << 62, 1 << 62, 1 << 62}, "+OK 3 9223372036854775807"},
		{sizes{1<<63 - 1, 1<<63 - 1, 1}, "+OK 3 9223372036854775807"},
		{sizes{-5, 7}, "+OK 2 7"},
	} {
		s := &session{listing: c.sizes}
		rep, err := s.stat(context.Background(), "")
		if got := "+OK " + rep.text; got != c.want || err != nil {
			t.Errorf("sizes %v: got %q, %v; want %q", c.sizes, got, err, c.want)
		}
	}
}

// sizes is a listing that has nothing but sizes.
type sizes []int64

func (l sizes) Len() int                          { return len(l) }
func (l sizes) Size(i int) int64                  { return l[i] }
func (sizes) AppendUIDL(dst []byte, _ int) []byte { return append(dst, "1447091563.4294967295"...) }

func TestMarks(t *testing.T) {
	var m marks
	const n = 200
	want := []int{0, 1, 63, 64, 65, 127, 128, 199}
	for _, i := range want {
		if m.has(i) {
			t.Errorf("%d is marked before it was set", i)
		}
		m.set(i, n)
	}
	if got := m.all(); !slices.Equal(got, want) || m.n != len(want) {
		t.Errorf("got %d: %v, want %d: %v", m.n, got, len(want), want)
	}
}

func BenchmarkUIDL(b *testing.B) {
	const messages = 100_000
	s := &session{listing: make(sizes, messages)}
	var octets countingWriter
	w := &writer{dst: &octets}
	b.ReportAllocs()
	for b.Loop() {
		octets = 0
		rep, err := s.uidl(context.Background(), "")
		if err != nil {
			b.Fatal(err)
		}
		if err := rep.body(w); err != nil {
			b.Fatal(err)
		}
		w.flush()
	}
	b.SetBytes(int64(octets))
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/messages, "ns/line")
}

type countingWriter int

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}

// TestListingsDoNotAllocateByLine: 100,000 lines pass through one chunk.
func TestListingsDoNotAllocateByLine(t *testing.T) {
	s := &session{listing: make(sizes, 100_000)}
	var octets countingWriter
	w := &writer{dst: &octets}
	for name, list := range map[string]func(context.Context, string) (reply, error){"LIST": s.list, "UIDL": s.uidl} {
		allocs := testing.AllocsPerRun(3, func() {
			rep, _ := list(context.Background(), "")
			rep.body(w)
			w.flush()
		})
		if allocs > 200 {
			t.Errorf("%s: %.0f allocations, want at most 200", name, allocs)
		}
	}
}

// TestSecretsAreNotLogged: not at any level, whatever way they come, right or
// wrong, in place or out of place.
func TestSecretsAreNotLogged(t *testing.T) {
	g := newGateway(threeMessages...)
	g.Limits.Attempts = 100
	c := g.dial(t.Context(), t)
	c.hear("+OK POP3 server ready")
	c.ask("PASS canary-1", "-ERR USER comes first")
	c.ask("canary-2 canary-3", "-ERR command not supported")
	c.ask("USER bob", "+OK send the password")
	c.ask("PASS canary-4", "-ERR [AUTH] wrong user name or password")
	c.ask("AUTH PLAIN AGJvYgBjYW5hcnktNQ==", "-ERR [AUTH] wrong user name or password") // canary-5
	c.ask("AUTH LOGIN Ym9i", "+ UGFzc3dvcmQ6")
	c.ask("Y2FuYXJ5LTY=", "-ERR [AUTH] wrong user name or password") // canary-6
	c.ask("USER "+testUser, "+OK send the password")
	c.ask("PASS "+testPassword, "+OK maildrop has 3 messages (95 octets)")
	c.ask("PASS canary-7", "-ERR already logged in")
	c.ask("AUTH PLAIN canary-8", "-ERR already logged in")
	c.ask("QUIT", "+OK bye")
	c.closed()
	log := g.log.String()
	for _, secret := range []string{"canary", testPassword, "correct", "AGJvYg", "Y2FuYXJ5", "Ym9i"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
	for _, want := range []string{
		`msg="login refused"`, "account=bob reason=auth", "cmd=PASS", "cmd=unknown", `cmd=USER code=ok`, "arg=bob",
		`msg="session ended"`, "tls=off account=bob upstream=memory messages=0 octets=0 removed=0 unremoved=0", "reason=quit",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

// TestRefusedLoginNamesTheAddress: what bans clients reads the log.
func TestRefusedLoginNamesTheAddress(t *testing.T) {
	g := newGateway()
	c := g.dialTCP(t.Context(), t)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.hear("+OK POP3 server ready")
	c.ask("USER \"bob\"\x1b[31m"+strings.Repeat("x", 400), "+OK send the password")
	c.ask("PASS wrong", "-ERR [AUTH] wrong user name or password")
	log := g.log.String()
	if want := "remote=" + c.LocalAddr().String() + ` account="\"bob\"\x1b[31m`; !strings.Contains(log, want) {
		t.Errorf("the log lacks %q:\n%s", want, log)
	}
	if strings.Contains(log, "\x1b") {
		t.Errorf("the log holds a raw escape:\n%q", log)
	}
	if got := g.tried[0].Remote; got.String() != c.LocalAddr().String() {
		t.Errorf("the Authenticator was told %v, want %v", got, c.LocalAddr())
	}
}
