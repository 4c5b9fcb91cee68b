package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// asProgram makes the test binary be postern: tests start it again with this in
// its environment, and so have the program with all its signals and exit codes.
const asProgram = "POSTERN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// ourselves is postern with these arguments, not started yet.
func ourselves(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

// A process is postern running by itself.
type process struct {
	*exec.Cmd
	lines chan string // of standard output and standard error, until they end

	mu  sync.Mutex
	all strings.Builder // of the same
}

// spawn starts postern. It is killed at the end of the test, if need be.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: ourselves(args...), lines: make(chan string, 10_000)}
	p.Env = append(p.Env, "TMPDIR="+t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = w, w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { p.Process.Kill(); p.Wait(); r.Close() })
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			p.all.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			select {
			case p.lines <- lines.Text():
			default: // nobody is waiting for that many
			}
		}
	}()
	return p
}

// output is all that was printed until now.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// await returns the next line that holds part.
func (p *process) await(t *testing.T, part string) string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("postern ended without saying %q:\n%s", part, p.output())
			}
			if strings.Contains(line, part) {
				return line
			}
		case <-deadline:
			t.Fatalf("postern does not say %q:\n%s", part, p.output())
		}
	}
}

var addressInLog = regexp.MustCompile(`\baddress"?[=:]"?([0-9.:]+)`)

// addresses returns where a process that serves listens, in the order of its
// configuration, the admin listener last.
func (p *process) addresses(t *testing.T) []string {
	t.Helper()
	p.await(t, "started")
	return addressesIn(p.output())
}

// addressesIn returns where postern listens by its log.
func addressesIn(log string) (all []string) {
	for _, m := range addressInLog.FindAllStringSubmatch(log, -1) {
		all = append(all, m[1])
	}
	return all
}

// end waits for the process and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	ended := make(chan struct{})
	go func() { p.Wait(); close(ended) }()
	select {
	case <-ended:
		return p.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatalf("postern does not end:\n%s", p.output())
		return 0
	}
}

// runHere runs postern in this process, without a terminal, and returns what it
// printed.
func runHere(in string, args ...string) (code int, out, err string) {
	var stdout, stderr bytes.Buffer
	p := &program{in: strings.NewReader(in), out: &stdout, err: &stderr, drain: context.Background(), cut: context.Background()}
	code = p.run(args)
	return code, stdout.String(), stderr.String()
}

// writeConfig writes a configuration and returns its path. Unless it says
// otherwise, the state is kept beside it.
func writeConfig(t *testing.T, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postern.yaml")
	text := fmt.Sprintf(format, args...)
	if !strings.Contains(text, "\nstate:") {
		text += "\nstate: {path: state}\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var update = flag.Bool("update", false, "write what is printed to the files in testdata that it is compared with")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestHelp(t *testing.T) {
	for _, command := range []string{"", "serve", "demo", "check", "removals", "undelete", "uidl", "uidl accept", "uidl import", "version",
		"account", "account add", "account connect", "account invite", "account list", "account password", "account disable", "account enable", "account remove", "vault", "vault new-key", "rekey"} {
		t.Run("postern "+command, func(t *testing.T) {
			code, out, err := runHere("", append(strings.Fields(command), "--help")...)
			if code != exitFine || err != "" {
				t.Errorf("exit code %d and %q on standard error, want 0 and nothing", code, err)
			}
			golden(t, strings.TrimSuffix("help/postern-"+strings.ReplaceAll(command, " ", "-"), "-")+".txt", out)
		})
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	names, _ := filepath.Glob("testdata/help/*.txt")
	if len(names) < 5 {
		t.Fatalf("%d help texts, want at least 5", len(names))
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if len(line) > 101 {
				t.Errorf("%s: a line of %d characters: %s", name, len(line), line)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	fine := `
listeners: [{address: "` + taken.Addr().String() + `"}]
upstreams: {office: {protocol: imap, address: "imap.example.org:993"}}
routes: [{user: "*@example.org", upstream: office}]
`
	good, bad := writeConfig(t, "%s", fine), writeConfig(t, "%s", fine+"listener: []\n")
	for _, c := range []struct {
		args string
		code int
		says string // on standard output or standard error
	}{
		{"", 0, "Available Commands"},
		{"version", 0, "postern "},
		{"check -c " + good, 0, "is fine"},
		{"completion bash", 0, "postern"},
		{"serve -c " + good, 1, "address already in use"},
		{"serve -c /nonexistent/postern.yaml", 2, "no such file"},
		{"check -c /nonexistent/postern.yaml", 2, "no such file"},
		{"check -c " + good + " --connect --user ann@example.net --password-file -", 1, "no route takes the user"},
		{"check -c " + good + " --connect --user ann@example.org", 1, "give --password-file"},
		{"check -c " + good + " --connect --user ann@example.org --password-file -", 1, "first line is empty"},
		{"check -c " + bad, 2, "postern.yaml:5: listener: unknown key, did you mean listeners?\n1 fault\n"},
		{"serve -c " + bad, 2, "postern.yaml:5: listener: unknown key, did you mean listeners?\n1 fault\n"},
		{"sevre", 2, "Did you mean this?\n\tserve"},
		{"serve extra", 2, "\"extra\" is one word too many\nTry 'postern serve --help'."},
		{"serve --port 110", 2, "unknown flag: --port"},
		{"check --user ann", 2, "--user and --password-file need --connect"},
		{"check --connect", 2, "--connect needs --user"},
		{"version --loud", 2, "Try 'postern version --help'."},
		{"--version", 0, "postern "},
		{"account bogus", 2, "unknown command \"bogus\" for \"postern account\"\nTry 'postern account --help'."},
		{"account remvoe ann --yes", 2, "Did you mean this?\n\tremove"},
		{"vault newkey", 2, "Did you mean this?\n\tnew-key"},
		{"account", 0, "Available Commands"},
		{"account --help", 0, "Available Commands"},
		{"help account add", 0, "Make an account"},
		{"check postern.yaml", 2, "did you mean --config postern.yaml?\nTry 'postern check --help'."},
		{"removals ann@example.org", 2, "did you mean --user ann@example.org?"},
		{"version twice", 2, "\"twice\" is one word too many"},
	} {
		code, out, err := runHere("", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out+err, c.says) {
			t.Errorf("postern %s: exit code %d, want %d and %q; it says:\n%s%s", c.args, code, c.code, c.says, out, err)
		}
	}
}

// Who forgets --config is told of it, and nobody else.
func TestMissingConfiguration(t *testing.T) {
	for path, want := range map[string]string{
		defaultConfig:               defaultConfig + ": no such file or directory\n--config says where else it is",
		"/nonexistent/postern.yaml": "/nonexistent/postern.yaml: no such file or directory",
	} {
		_, err := loaded(nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT})
		if err.Error() != "open "+want {
			t.Errorf("without %s: %q, want %q", path, err, "open "+want)
		}
	}
}

// Whoever takes postern's ports without the right to is told which one it is.
func TestLowPortsAreExplained(t *testing.T) {
	for what, c := range map[string]struct {
		err  error
		want bool
	}{
		"a low port":    {&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}, true},
		"a port in use": {&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}, false},
		"a closed file": {&fs.PathError{Op: "open", Err: syscall.EACCES}, false},
	} {
		err := explainListen(fmt.Errorf("listen on %q: %w", ":110", c.err))
		if got := strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE"); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %v; want the capability named: %v", what, err, c.want)
		}
	}
}
