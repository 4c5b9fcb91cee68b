package migrate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"postern/proxy/ledger"
	"postern/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An oldServer is a POP3 server that says what it is told to: answers holds
// what it says to a command, whole; everything else is what a good one says
// of n messages.
type oldServer struct {
	t       *testing.T
	address string
	n       int

	mu       sync.Mutex
	answers  map[string]string
	before   func(connection int, command string) (more bool) // nil, or false to hang up
	commands []string
	sessions int
	serving  sync.WaitGroup // the listener
	clients  sync.WaitGroup
}

func startOld(t *testing.T, n int) *oldServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &oldServer{t: t, address: l.Addr().String(), n: n, answers: map[string]string{}}
	s.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.sessions++
			id := s.sessions
			s.mu.Unlock()
			s.clients.Go(func() { s.serve(conn, id) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.serving.Wait()
		s.clients.Wait()
	})
	return s
}

func (s *oldServer) serve(conn net.Conn, id int) {
	defer conn.Close()
	io.WriteString(conn, s.answer("greeting"))
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		command := lines.Text()
		s.mu.Lock()
		s.commands = append(s.commands, command)
		more := s.before == nil || s.before(id, command)
		s.mu.Unlock()
		if !more {
			return
		}
		if _, err := io.WriteString(conn, s.answer(command)); err != nil || command == "QUIT" {
			return
		}
	}
}

func (s *oldServer) answer(command string) string {
	s.mu.Lock()
	a, ok := s.answers[command]
	s.mu.Unlock()
	if ok {
		return a
	}
	var b strings.Builder
	b.WriteString("+OK\r\n")
	var number int
	switch {
	case command == "UIDL" || command == "LIST":
		for i := 1; i <= s.n; i++ {
			if command == "UIDL" {
				fmt.Fprintf(&b, "%d uid-%d\r\n", i, i)
			} else {
				fmt.Fprintf(&b, "%d %d\r\n", i, 1000+i)
			}
		}
		b.WriteString(".\r\n")
	case command == "CAPA":
		b.WriteString("TOP\r\nUIDL\r\nPIPELINING\r\n.\r\n")
	default:
		if n, _ := fmt.Sscanf(command, "TOP %d 0", &number); n == 1 {
			fmt.Fprintf(&b, "Subject: message %d\r\n..dots: yes\r\n\r\n.\r\n", number)
		}
	}
	return b.String()
}

// told changes what the server does.
func (s *oldServer) told(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *oldServer) options() OldServer {
	return OldServer{Address: s.address, TLS: Off, User: "ann", Password: upstream.NewSecret("Canary-secret"), Connections: 1}
}

func (s *oldServer) run(f Fetch) (Result, *reading, error) {
	var r reading
	if f.Server.Address == "" {
		f.Server = s.options()
	}
	f.Save = r.save
	result, err := f.Run(s.t.Context())
	s.clients.Wait()
	return result, &r, err
}

func TestFetch(t *testing.T) {
	s := startOld(t, 60)
	result, r, err := s.run(Fetch{})
	if err != nil || result.Messages != 60 || len(r.known) != 60 {
		t.Fatalf("%+v, %d read, %v; want 60 and no error", result, len(r.known), err)
	}
	k := r.known["uid-7"]
	if k.Size != 1007 || k.Header != headerOf(t, "Subject: message 7\r\n.dots: yes\r\n\r\n") || !k.HasHeader {
		t.Errorf("message 7: %+v", k)
	}
	for _, c := range s.commands {
		if verb, _, _ := strings.Cut(c, " "); !strings.Contains("USER PASS CAPA UIDL LIST TOP QUIT", verb) {
			t.Errorf("the old server was sent %s", c)
		}
	}
}

// TestResume: what an earlier run has read is not asked for again.
func TestResume(t *testing.T) {
	s := startOld(t, 2*part)
	hangUp := part + 10
	tops := 0
	s.told(func() {
		s.before = func(_ int, command string) bool {
			if strings.HasPrefix(command, "TOP") {
				tops++
			}
			return tops != hangUp
		}
	})
	_, first, err := s.run(Fetch{})
	if err == nil || len(first.known) < part || len(first.known) >= hangUp {
		t.Fatalf("the run that was cut off: %d read, %v; want %d to %d and an error", len(first.known), err, part, hangUp-1)
	}
	s.told(func() {
		s.before, s.commands = nil, nil
	})
	result, second, err := s.run(Fetch{Have: func(uidl string) bool { _, ok := first.known[uidl]; return ok }})
	if err != nil {
		t.Fatal(err)
	}
	if result.Earlier != len(first.known) || len(second.known) != 2*part-len(first.known) {
		t.Errorf("%d from earlier and %d read now, want %d and %d", result.Earlier, len(second.known), len(first.known), 2*part-len(first.known))
	}
	if n := strings.Count(strings.Join(s.commands, "\n"), "TOP "); n != len(second.known) {
		t.Errorf("%d headers asked for, want %d", n, len(second.known))
	}
}

// TestOneClientAtATime: a server that lets nobody else in is read alone.
func TestOneClientAtATime(t *testing.T) {
	s := startOld(t, 3*part)
	s.told(func() {
		s.before = func(id int, command string) bool { return id == 1 || !strings.HasPrefix(command, "PASS") }
	})
	o := s.options()
	o.Connections = 4
	result, r, err := s.run(Fetch{Server: o})
	if err != nil || len(r.known) != 3*part {
		t.Errorf("%+v, %d read, %v; want all and no error", result, len(r.known), err)
	}
}

// TestNumbersOfEachConnection: another connection may number messages otherwise.
func TestNumbersOfEachConnection(t *testing.T) {
	s := startOld(t, part+1)
	s.told(func() {
		s.answers["TOP 1 0"] = "+OK\r\nSubject: the first\r\n\r\n.\r\n"
		s.answers["UIDL"] = "+OK\r\n"
		for i := 1; i <= s.n; i++ {
			s.answers["UIDL"] += fmt.Sprintf("%d uid-%d\r\n", s.n+1-i, i)
		}
		s.answers["UIDL"] += ".\r\n"
	})
	_, r, err := s.run(Fetch{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.known[fmt.Sprintf("uid-%d", s.n)].Header; got != headerOf(t, "Subject: the first\r\n\r\n") {
		t.Error("the message that is listed as number 1 was not asked for as number 1")
	}
}

func TestWhatIsSkipped(t *testing.T) {
	s := startOld(t, 6)
	s.told(func() {
		s.answers["UIDL"] = "+OK\r\n1 a\r\n2 a\r\n3 \xfc\r\n4 d\r\n5 e\r\n6 f\r\n.\r\n"
		s.answers["LIST"] = "+OK\r\n1 10\r\n2 10\r\n3 10\r\n5 10\r\n6 10 octets\r\n.\r\n"
		s.answers["TOP 1 0"] = "+OK\r\nSubject: first\r\n\r\n.\r\n"
		s.answers["TOP 2 0"] = s.answers["TOP 1 0"]
		s.answers["TOP 5 0"] = "-ERR no TOP here\r\n"
	})
	result, r, err := s.run(Fetch{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, skip := range result.Skipped {
		got = append(got, skip.What+" "+skip.Reason)
	}
	want := `"a" another message has this unique-id, too
"\xfc" not a unique-id: 1 to 70 octets from ! to ~
"d" the old server does not tell its size
"e" the old server does not show its header: "no TOP here"`
	if text := strings.Join(got, "\n"); text != want || len(r.known) != 2 {
		t.Errorf("%d read, skipped\n%s\nwant 2 and\n%s", len(r.known), text, want)
	}
}

func TestHostileServers(t *testing.T) {
	for name, answers := range map[string]map[string]string{
		"another protocol": {"greeting": "* OK IMAP\r\n"},
		"refusing":         {"greeting": "-ERR too busy\r\n"},
		"silent":           {"greeting": ""},
		"wrong password":   {"PASS Canary-secret": "-ERR Canary-secret is wrong\r\n"},
		"endless line":     {"greeting": "+OK " + strings.Repeat("a", 1<<20)},
		"endless header":   {"TOP 1 0": "+OK\r\n" + strings.Repeat("a", 3<<20)},
		"no listing":       {"LIST": "+OK\r\nhello\r\n.\r\n"},
		"no numbers":       {"UIDL": "+OK\r\n0 a\r\n.\r\n"},
		"negative size":    {"LIST": "+OK\r\n1 -5\r\n.\r\n"},
		"no UIDL":          {"UIDL": "-ERR unknown\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startOld(t, 1)
			s.told(func() {
				s.answers = answers
				s.before = func(_ int, _ string) bool { return name != "silent" }
			})
			o := s.options()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "silent" {
				cancel()
			}
			var r reading
			_, err := Fetch{Server: o, Save: r.save}.Run(ctx)
			if err == nil || strings.Contains(err.Error(), "Canary") || len(err.Error()) > 2000 {
				t.Errorf("%.3000v; want a short error without the password", err)
			}
		})
	}
}

// TestLongHeader: it is skipped, and what follows is read.
func TestLongHeader(t *testing.T) {
	s := startOld(t, 2)
	s.told(func() {
		s.answers["TOP 1 0"] = "+OK\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("a", 900)+"\r\n", 2000) + "\r\n.\r\n"
	})
	result, r, err := s.run(Fetch{})
	if err != nil || len(r.known) != 1 || len(result.Skipped) != 1 || result.Skipped[0].Reason != "its header is too long" {
		t.Errorf("%d read, %v, %v; want 1, and one too long", len(r.known), result.Skipped, err)
	}
}

// TestSaveFails: the run ends, and says why.
func TestSaveFails(t *testing.T) {
	s := startOld(t, 3*part)
	full := errors.New("disk full")
	_, err := Fetch{Server: s.options(), Save: func([]ledger.Known) error { return full }}.Run(t.Context())
	if !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
}

func TestOddNames(t *testing.T) {
	s := startOld(t, 1)
	o := s.options()
	o.User = "ann\r\nDELE 1"
	if _, _, err := s.run(Fetch{Server: o}); err == nil {
		t.Error("a name with a line end was sent")
	}
	for _, c := range s.commands {
		if strings.HasPrefix(c, "DELE") {
			t.Error("the old server was told to delete")
		}
	}
}
