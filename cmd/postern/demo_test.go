package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDemoCommandsWorkAsPrinted runs what the demo says to try, word for word,
// as far as the programs are there.
func TestDemoCommandsWorkAsPrinted(t *testing.T) {
	t.Parallel()
	p := spawn(t, "demo")
	p.await(t, "Ctrl-C ends")
	printed := p.output()
	p.await(t, "msg=started")
	var commands []string
	for line := range strings.Lines(printed) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	// What each is to print, in their order.
	wants := []string{"\n10 213", "\n.gitignore\r\n", "Caf\u00e9 an der Br\u00fccke", "List-Unsubscribe",
		`b'10 1\.10'`, `^\+OK 10 \d+\r?\n|\n\+OK 10 \d+`, "", "postern_messages_removed_total.* 1\n"}
	if len(commands) != len(wants) {
		t.Fatalf("%d commands, want %d:\n%s", len(commands), len(wants), printed)
	}
	for i, command := range commands {
		program, _, _ := strings.Cut(command, " ")
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not installed: not tried: %s", program, command)
			continue
		}
		out, err := shell(command, "USER demo\nPASS demo\nSTAT\nRETR 1\nQUIT\n")
		if err != nil || !regexp.MustCompile(wants[i]).MatchString(out) {
			t.Errorf("%s: %v, want %q in:\n%s", command, err, wants[i], out)
		}
	}

	dir := regexp.MustCompile(`\S*postern-demo-\d+`).FindString(printed)
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the directory that is named: %v", err)
	}
	p.Process.Signal(os.Interrupt)
	if code := p.end(t); code != exitFine {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if !strings.Contains(p.output(), "session ended") {
		t.Errorf("no session left a line:\n%s", p.output())
	}
}

func shell(command, in string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Stdin = strings.NewReader(in)
	text, err := c.CombinedOutput()
	return string(text), err
}

func TestDemoFindsFreePorts(t *testing.T) {
	t.Parallel()
	one, two := spawn(t, "demo"), spawn(t, "demo")
	first, second := one.addresses(t), two.addresses(t)
	if len(first) != 3 || len(second) != 3 {
		t.Fatalf("addresses %q and %q, want three each", first, second)
	}
	for _, at := range [][]string{first, second} {
		c := dialPOP(t, at[0], nil)
		c.login("demo", "demo", "+OK")
		c.say("STAT", "+OK 10 ")
	}
}

func TestQuotedFileNames(t *testing.T) {
	for name, want := range map[string]string{
		"/tmp/postern-demo-1/c.pem": "/tmp/postern-demo-1/c.pem",
		"/tmp/my files/c.pem":       "'/tmp/my files/c.pem'",
		"/tmp/ann's $HOME/c.pem":    `'/tmp/ann'\''s $HOME/c.pem'`,
	} {
		if got := quoted(name); got != want {
			t.Errorf("quoted(%q) = %s, want %s", name, got, want)
		}
	}
}
