package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

// An example is a command on a page, and what it prints according to it.
type example struct{ command, output string }

// examples are the commands of a page: those after "    $ ".
func examples(t *testing.T, page string) (all []example) {
	t.Helper()
	for line := range strings.Lines(string(read(t, filepath.Join("../../docs", page)))) {
		command, isCommand := strings.CutPrefix(line, "    $ ")
		output, isOutput := strings.CutPrefix(line, "    ")
		switch {
		case isCommand:
			all = append(all, example{command: strings.TrimSpace(command)})
		case isOutput && len(all) > 0:
			all[len(all)-1].output += output
		}
	}
	return all
}

// A reader does what a page says, word by word, in a directory of their own.
type reader struct {
	dir string
	env []string
}

func newReader(t *testing.T, files map[string]string) reader {
	t.Helper()
	r := reader{dir: t.TempDir()}
	for name, text := range files {
		write(t, filepath.Join(r.dir, name), []byte(text))
	}
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(program, filepath.Join(bin, "postern")); err != nil {
		t.Fatal(err)
	}
	r.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), asProgram+"=1")
	return r
}

// follow runs the examples of a page, which may print anything where the page
// shows nothing. Names of places on the page stand for others here.
func (r reader) follow(t *testing.T, page string, commands int, places ...string) {
	t.Helper()
	all := examples(t, page)
	if len(all) != commands {
		t.Errorf("%d commands on the page, want %d", len(all), commands)
	}
	for _, e := range all {
		r.run(t, e, places...)
	}
}

// run runs an example, and returns what it prints.
func (r reader) run(t *testing.T, e example, places ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer(places...).Replace(e.command))
	c.Dir, c.Env = r.dir, r.env
	var errors strings.Builder
	c.Stderr = &errors
	out, err := c.Output()
	if err != nil || e.output != "" && string(out) != e.output {
		t.Errorf("%s: %v\n%s%swant\n%s", e.command, err, out, errors.String(), e.output)
	}
	return string(out)
}

func TestMigrationPage(t *testing.T) {
	t.Parallel()
	old, here := dovecot.Start(t), cyrus.Start(t)
	const ann = "ann@example.org"
	from, to := old.AddUser(t, ann, "secret"), here.AddUser(t, ann, "secret")
	deliver(t, from, letters(0, 60))
	deliver(t, to, letters(2, 63))
	mail := t.TempDir()
	home := strings.TrimSpace(old.Doveadm(t, "user", "-f", "home", ann))
	if err := os.Mkdir(filepath.Join(mail, "ann"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(home, "maildir"), filepath.Join(mail, "ann", "Maildir")); err != nil {
		t.Fatal(err)
	}
	newReader(t, map[string]string{
		"postern.yaml": fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
state: {path: state}
upstreams: {new: {%s}}
routes: [{user: "*", upstream: new}]
`, imapAt(here.IMAP)),
		"secret":  "secret\n",
		"users":   "ann\n",
		"map.csv": "uidl,uidvalidity,uid\n00000007abcdef01,1700000000,7\n00000009abcdef01,1700000000,9\n",
	}).follow(t, "migration.md", 8,
		"--pop3 old.example.org:995", "--pop3-tls off --pop3 "+old.POP3,
		"/srv/mail", mail)
}

// TestTemplatePage: the unique-ids of the old server over the same mailboxes.
func TestTemplatePage(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"%08Xu%08Xv", "%v.%u"} {
		s := dovecot.Start(t, "protocol pop3 {\npop3_uidl_format = "+form+"\n}")
		box := s.AddUser(t, "ann", "secret")
		deliver(t, box, letters(0, 5))
		known := maildrop(t, s.POP3, "ann", "secret")
		d := deploy(t, imapAt(s.IMAP), fmt.Sprintf("uidl: %q", strings.Replace(form, "%08Xu%08Xv", "dovecot", 1)))
		if now := d.download(); len(now) != 5 {
			t.Errorf("%d messages, want 5", len(now))
		} else {
			downloadsAgain(t, now, known, 0, 0)
		}
	}
}

func TestRemovalPage(t *testing.T) {
	t.Parallel()
	s := cyrus.Start(t)
	const ann = "ann@example.org"
	box := s.AddUser(t, ann, "secret")
	deliver(t, box, letters(0, 3))
	d := deploy(t, imapAt(s.IMAP), "delete: trash")
	c := dialPOP(t, d.pop, nil)
	c.login(ann, "secret", "+OK")
	c.say("DELE 1", "+OK")
	c.say("DELE 3", "+OK")
	c.quit()
	newReader(t, map[string]string{"secret": "secret\n"}).follow(t, "removal.md", 3, "postern.yaml", d.config)
	if n := len(box.Messages(t)); n != 3 {
		t.Errorf("%d messages in the mailbox, want 3", n)
	}
}
