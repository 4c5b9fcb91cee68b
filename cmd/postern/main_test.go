package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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

// What cannot be told, as on a full disk, is a failure, whoever tells it.
func TestFullDiskBehindTheOutput(t *testing.T) {
	server := startIMAP(t, nil)
	config, _ := vaultConfig(t, server)
	command(t, "vault", "new-key", "-c", config)
	spawn(t, "serve", "-c", config).addresses(t)
	secret := secretIn(t, "there")
	for _, args := range [][]string{
		{"account", "add", "hall", "-c", config, "--upstream-password-file", secret},
		{"account", "password", "hall", "-c", config, "--label", "desk"},
		{"vault", "new-key", "-c", config, "--print"},
		{"account", "list", "-c", config},
		{"version"},
		{"--help"},
	} {
		var said strings.Builder
		p := &program{in: strings.NewReader(""), out: fullDisk{}, err: &said, drain: t.Context(), cut: t.Context()}
		if code := p.run(args); code != exitFailed || !strings.Contains(said.String(), syscall.ENOSPC.Error()) {
			t.Errorf("postern %s: exit code %d and %q, want 1 and that the disk is full", strings.Join(args, " "), code, &said)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
