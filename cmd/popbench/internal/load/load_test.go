package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// A fakeServer is a small POP3 server. spoil, where set, may change what goes
// out in answer to a command.
type fakeServer struct {
	messages []string
	spoil    func(command, answer string) string

	mu       sync.Mutex
	commands []string
	removed  map[int]bool
}

// start serves until the test ends.
func (s *fakeServer) start(t *testing.T) Target {
	t.Helper()
	s.removed = map[int]bool{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return Target{Address: l.Addr().String(), TLS: "off", User: "ann", Password: "a b", Timeout: 5 * time.Second}
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	fmt.Fprint(conn, "+OK ready\r\n")
	lines := bufio.NewScanner(conn)
	marked := map[int]bool{}
	for lines.Scan() {
		command := strings.TrimSuffix(lines.Text(), "\r")
		s.note(command)
		answer := s.answer(command, marked)
		if s.spoil != nil {
			answer = s.spoil(command, answer)
		}
		fmt.Fprint(conn, answer)
		if command == "QUIT" || !strings.HasSuffix(answer, "\r\n") {
			return
		}
	}
}

func (s *fakeServer) note(command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, command)
}

func (s *fakeServer) answer(command string, marked map[int]bool) string {
	verb, argument, _ := strings.Cut(command, " ")
	number, _ := strconv.Atoi(strings.Fields(argument + " 0")[0])
	switch verb {
	case "PASS":
		if argument != "a b" {
			return "-ERR [AUTH] no\r\n"
		}
	case "STAT":
		return fmt.Sprintf("+OK %d %d\r\n", len(s.messages), len(strings.Join(s.messages, "")))
	case "LIST":
		return s.lines(func(i int) string { return strconv.Itoa(len(s.messages[i])) })
	case "UIDL":
		return s.lines(func(i int) string { return fmt.Sprint("u", i) })
	case "RETR":
		return "+OK\r\n" + stuff(s.messages[number-1]) + ".\r\n"
	case "TOP":
		header, _, _ := strings.Cut(s.messages[number-1], "\r\n\r\n")
		return "+OK\r\n" + stuff(header+"\r\n\r\n") + ".\r\n"
	case "DELE":
		marked[number] = true
	case "RSET":
		clear(marked)
	case "QUIT":
		s.mu.Lock()
		defer s.mu.Unlock()
		for n := range marked {
			s.removed[n] = true
		}
	case "USER":
	default:
		return "-ERR what?\r\n"
	}
	return "+OK\r\n"
}

func (s *fakeServer) lines(of func(int) string) string {
	var b strings.Builder
	b.WriteString("+OK\r\n")
	for i := range s.messages {
		fmt.Fprintf(&b, "%d %s\r\n", i+1, of(i))
	}
	return b.String() + ".\r\n"
}

func stuff(message string) string {
	if strings.HasPrefix(message, ".") {
		message = "." + message
	}
	return strings.ReplaceAll(message, "\r\n.", "\r\n..")
}

func mail() []string {
	return []string{
		"Subject: one\r\n\r\n.\r\n..two\r\nthree.\r\n",
		"Subject: two\r\n\r\n",
		"Subject: long\r\n\r\n" + strings.Repeat(strings.Repeat("x", 3*readOctets-1)+"\r\n", 2) + "." + strings.Repeat("y", readOctets) + "\r\n",
		".starts with a dot\r\n\r\nend\r\n",
	}
}

func TestDrain(t *testing.T) {
	var first uint64
	for _, d := range []Drain{{}, {Delete: true}, {Pipeline: 3}, {Pipeline: 100}, {Delete: true, Quit: true}} {
		t.Run(fmt.Sprintf("%+v", d), func(t *testing.T) {
			s := &fakeServer{messages: mail()}
			r, err := d.Run(t.Context(), s.start(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := int64(len(strings.Join(s.messages, ""))); r.Messages != 4 || r.Octets != want {
				t.Errorf("%d messages of %d octets, want 4 of %d", r.Messages, r.Octets, want)
			}
			if first == 0 {
				first = r.Digest
			}
			if r.Digest != first {
				t.Errorf("digest %x, before %x", r.Digest, first)
			}
			want := 0
			if d.Quit {
				want = 4
			}
			if len(s.removed) != want {
				t.Errorf("messages %v removed, want %d", s.removed, want)
			}
		})
	}
}

func TestDigestTellsContents(t *testing.T) {
	digest := func(messages ...string) uint64 {
		r, err := Drain{}.Run(t.Context(), (&fakeServer{messages: messages}).start(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest
	}
	if digest("a\r\n", "b\r\n") != digest("b\r\n", "a\r\n") {
		t.Error("order changes the digest")
	}
	if digest("a\r\n", "b\r\n") == digest("a\r\n", "c\r\n") {
		t.Error("other contents, same digest")
	}
}

func TestWhatIsNotWholeFails(t *testing.T) {
	on := func(verb string, change func(string) string) func(string, string) string {
		return func(command, answer string) string {
			if strings.HasPrefix(command, verb) {
				return change(answer)
			}
			return answer
		}
	}
	without := func(old, new string) func(string) string {
		return func(a string) string { return strings.Replace(a, old, new, 1) }
	}
	tests := []struct {
		name  string
		spoil func(string, string) string
		want  string
	}{
		{"no final dot", on("RETR 1", func(a string) string { return strings.TrimSuffix(a, ".\r\n") + "x" }), "without the final dot"},
		{"half a message with a dot", on("RETR 1", without("three.\r\n", "")), "26 octets, but LIST says 34"},
		{"more than LIST says", on("RETR 4", without("end", "ending")), "message 4: 30 octets, but LIST says 27"},
		{"nothing wrong", nil, ""},
		{"line feed alone", on("RETR 1", without("three.\r\n", "three.\n")), "ends in LF alone"},
		{"refused", on("RETR 2", func(string) string { return "-ERR [SYS/TEMP] later\r\n" }), "later"},
		{"closed in a listing", on("LIST", func(string) string { return "+OK\r\n1 34\r\n2 1" }), "LIST, line 2"},
		{"line left out of LIST", on("LIST", without("2 ", "3 ")), "not the line of message 2"},
		{"UIDL shorter than LIST", on("UIDL", without("4 u3\r\n", "")), "UIDL has 3 messages, LIST 4"},
		{"the same unique-id twice", on("UIDL", without("u1", "u0")), "no unique-id"},
		{"wrong password", on("PASS", func(string) string { return "-ERR [AUTH] no\r\n" }), "log in as ann"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &fakeServer{messages: mail(), spoil: test.spoil}
			_, err := Drain{}.Run(t.Context(), s.start(t), nil)
			if test.want == "" {
				if err != nil {
					t.Fatalf("an answer not spoilt: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestOtherScenarios(t *testing.T) {
	s := &fakeServer{messages: mail()}
	target := s.start(t)
	target.User = "user%d"
	type scenario interface {
		Run(context.Context, Target, Progress) (Result, error)
	}
	for _, test := range []struct {
		scenario           scenario
		sessions, messages int
	}{
		{Top{Messages: 2}, 1, 2},
		{Top{Skip: 3, Messages: 2}, 1, 1},
		{List{}, 1, 4},
		{Poll{Concurrency: 3, Count: 10}, 10, 4},
		{Idle{Sessions: 5, PID: os.Getpid()}, 5, 0},
		{Delete{Messages: 3}, 1, 3},
	} {
		told := 0
		r, err := test.scenario.Run(t.Context(), target, func(done, total int) { told = done })
		if err != nil {
			t.Errorf("%s: %v", r.Scenario, err)
		}
		if r.Sessions != test.sessions || r.Messages != test.messages {
			t.Errorf("%s: %d sessions, %d messages, want %d, %d", r.Scenario, r.Sessions, r.Messages, test.sessions, test.messages)
		}
		if _, silent := test.scenario.(List); !silent && told == 0 {
			t.Errorf("%s: no progress", r.Scenario)
		}
	}
	if len(s.removed) != 3 {
		t.Errorf("removed %v, want three messages", s.removed)
	}
	if !strings.Contains(strings.Join(s.commands, " "), "USER user3") {
		t.Errorf("commands %q: no user3, though the user is %q", s.commands, target.User)
	}
}

func TestMessageWithoutFinalLineEnding(t *testing.T) {
	s := &fakeServer{messages: []string{"Subject: cut\r\n\r\nend\r\n"}}
	s.spoil = func(command, answer string) string {
		return strings.Replace(answer, "1 21\r\n", "1 19\r\n", 1)
	}
	if r, err := (Drain{}).Run(t.Context(), s.start(t), nil); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDeleteDoesNotGoWithPipelining(t *testing.T) {
	s := &fakeServer{messages: mail()}
	if r, err := (Drain{Delete: true, Pipeline: 2}).Run(t.Context(), s.start(t), nil); err == nil {
		t.Errorf("%+v and no error", r)
	}
}

func TestCancelledRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &fakeServer{messages: mail(), spoil: func(command, answer string) string {
		if command == "RETR 2" {
			cancel()
			<-ctx.Done()
		}
		return answer
	}}
	target := s.start(t)
	target.Timeout = time.Hour
	if _, err := (Drain{}).Run(ctx, target, nil); err == nil {
		t.Error("a cancelled drain succeeds")
	}
}

func TestCPUOfThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		after, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after > before {
			return
		}
	}
	t.Errorf("a minute of work costs no processor time; before: %v", before)
}

// BenchmarkBody is what the client itself costs: mail that is in memory.
func BenchmarkBody(b *testing.B) {
	wire := []byte(stuff(strings.Repeat(strings.Repeat("x", 74)+"\r\n", 600)) + ".\r\n")
	source := bytes.NewReader(wire)
	c := &client{r: bufio.NewReaderSize(source, readOctets)}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		source.Reset(wire)
		c.r.Reset(source)
		if _, err := c.body(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestBodyArrivesInAnyPieces(t *testing.T) {
	wire := stuff(strings.Join(mail(), "")) + ".\r\n"
	want := int64(len(strings.Join(mail(), "")))
	for name, source := range map[string]io.Reader{
		"whole": strings.NewReader(wire), "octets": iotest.OneByteReader(strings.NewReader(wire)),
		"halves": iotest.HalfReader(strings.NewReader(wire)), "with its end": iotest.DataErrReader(strings.NewReader(wire)),
	} {
		c := &client{r: bufio.NewReaderSize(source, readOctets)}
		if b, err := c.body(); b.octets != want || err != nil {
			t.Errorf("%s: %d octets, %v; want %d", name, b.octets, err, want)
		}
	}
}

func FuzzBody(f *testing.F) {
	for _, m := range mail() {
		f.Add(stuff(m) + ".\r\n+OK next\r\n")
	}
	f.Add(".\r\r\n.\r\n")
	f.Add("a\n.\r\n")
	f.Fuzz(func(t *testing.T, wire string) {
		whole := &client{r: bufio.NewReaderSize(strings.NewReader(wire), 64)}
		pieces := &client{r: bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(wire)), 64)}
		a, errA := whole.body()
		b, errB := pieces.body()
		if (errA == nil) != (errB == nil) {
			t.Fatalf("whole: %v, in pieces: %v", errA, errB)
		}
		if errA != nil {
			return
		}
		if a.octets != b.octets || a.sum != b.sum {
			t.Errorf("whole: %d octets, in pieces %d", a.octets, b.octets)
		}
		text, rest, _ := strings.Cut("\r\n"+wire, "\r\n.\r\n")
		if want := len(strings.ReplaceAll(text+"\r\n", "\r\n.", "\r\n")) - 2; a.octets != int64(want) {
			t.Errorf("%d octets of %q, want %d", a.octets, wire, want)
		}
		if left, _ := io.ReadAll(whole.r); string(left) != rest {
			t.Errorf("%q left for the next reply, want %q", left, rest)
		}
	})
}
