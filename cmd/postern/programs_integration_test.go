package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// How a client connects.
const (
	plaintext = "off"
	stls      = "stls"
	implicit  = "implicit"
)

// A client is a POP3 program that people use. Versions are Debian 12's.
type client struct {
	name       string
	program    string
	transports []string
	// remembers: it can leave mail in the maildrop and fetch only what is new.
	remembers bool
	// lf: it stores messages with LF line endings.
	lf bool
	// separates: it ends every header with an empty line, even the last one.
	separates bool
	// damages is the sample that it does not keep intact, whoever sent it.
	damages string
	// command prepares the program for a run: download all that it has not
	// got yet, then QUIT.
	command func(t testing.TB, r *run) *exec.Cmd
	// done and refused tell whether it reported success, and a refused password.
	done, refused func(o outcome) bool
}

// A run is what a client is to do. Its directory stays from run to run, and
// with it what the client remembers.
type run struct {
	address        string
	transport      string
	ca             string
	user, password string
	dir            string // messages go to dir/mail
	messages       int    // how many there are
	remove         bool   // or else leave them in the maildrop
	context        context.Context
}

// An outcome is how a program ended.
type outcome struct {
	code   int // -1: killed
	output string
}

func exitCode(codes ...int) func(outcome) bool {
	return func(o outcome) bool { return slices.Contains(codes, o.code) }
}

func exitAndSay(code int, words string) func(outcome) bool {
	return func(o outcome) bool { return o.code == code && strings.Contains(o.output, words) }
}

var clients = []client{
	{
		name: "curl", program: "curl", // 7.88.1
		transports: []string{plaintext, stls, implicit},
		command:    curl,
		done:       exitCode(0),
		refused:    exitCode(67), // CURLE_LOGIN_DENIED
	},
	{
		name: "fetchmail", program: "fetchmail", // 6.4.37
		transports: []string{plaintext, stls, implicit},
		remembers:  true,
		lf:         true,
		separates:  true,
		damages:    "long lines", // it adds octets where a line fills its buffer of 8 KiB
		command:    fetchmail,
		done:       exitCode(0, 1), // 1: no new mail
		refused:    exitCode(3),    // PS_AUTHFAIL
	},
	{
		name: "mpop", program: "mpop", // 1.4.18
		transports: []string{plaintext, stls, implicit},
		remembers:  true,
		lf:         true,
		command:    mpop,
		done:       exitCode(0),
		refused:    exitCode(77), // EX_NOPERM
	},
	{
		name: "getmail6", program: "getmail", // 6.18.11
		transports: []string{plaintext, implicit}, // it knows no STLS
		remembers:  true,
		lf:         true,
		separates:  true,
		command:    getmail,
		done:       exitCode(0),
		refused:    exitAndSay(127, "POP error (b'-ERR [AUTH]"),
	},
	{
		name: "poplib", program: "python3", // 3.11
		transports: []string{plaintext, stls, implicit},
		remembers:  true,
		command:    poplib,
		done:       exitCode(0),
		refused:    exitAndSay(1, "error_proto: b'-ERR [AUTH]"),
	},
}

// start runs a client to its end.
func (c client) start(t testing.TB, r run) outcome {
	t.Helper()
	if r.context == nil {
		r.context = t.Context()
	}
	ctx, cancel := context.WithTimeout(r.context, 2*time.Minute)
	defer cancel()
	r.context = ctx
	if err := os.MkdirAll(r.mail(), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := c.command(t, &r)
	cmd.Env = append(os.Environ(), "HOME="+r.dir, "FETCHMAILHOME="+r.dir, "PASSWORD="+r.password, "LC_ALL=C")
	cmd.Dir = r.dir
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", c.name, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), string(output)}
}

// mustDownload runs a client and expects that it reports success.
func (c client) mustDownload(t testing.TB, r run) {
	t.Helper()
	if o := c.start(t, r); !c.done(o) {
		t.Fatalf("%s: exit code %d\n%s", c.name, o.code, o.output)
	}
}

// stores returns a message as the client stores it. Every client ends the last
// line, since POP3 cannot tell whether it was (RFC 1939 section 3).
func (c client) stores(raw string) string {
	if !strings.HasSuffix(raw, "\r\n") {
		raw += "\r\n"
	}
	if c.separates && !strings.Contains(raw, "\r\n\r\n") {
		raw += "\r\n"
	}
	if c.lf {
		raw = strings.ReplaceAll(raw, "\r\n", "\n")
	}
	return raw
}

// downloaded returns all messages that runs in dir have stored.
func downloaded(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(dir, "mail"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.HasSuffix(path, ".bsmtp") {
			all = append(all, batch(text)...)
		} else {
			all = append(all, string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (r *run) mail() string { return filepath.Join(r.dir, "mail") }

func (r *run) port() string {
	_, port, _ := net.SplitHostPort(r.address)
	return port
}

// file writes a file of the client's, for nobody else to read.
func (r *run) file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// curl has no memory: it is told how many messages there are.
func curl(_ testing.TB, r *run) *exec.Cmd {
	scheme, common := "pop3", []string{"--silent", "--show-error", "--fail-early", "--user", r.user + ":" + r.password, "--cacert", r.ca}
	switch r.transport {
	case stls:
		common = append(common, "--ssl-reqd")
	case implicit:
		scheme = "pop3s"
	}
	url := scheme + "://localhost:" + r.port() + "/"
	args := append(common, fmt.Sprintf("%s[1-%d]", url, r.messages), "--output", "mail/#1")
	for i := 1; r.remove && i <= r.messages; i++ {
		args = append(args, "--next")
		args = append(args, common...)
		args = append(args, "--head", "--request", fmt.Sprint("DELE ", i), url)
	}
	return exec.CommandContext(r.context, "curl", args...)
}

// fetchmail writes what it got in a run to a batch of SMTP commands.
func fetchmail(t testing.TB, r *run) *exec.Cmd {
	security := map[string]string{
		plaintext: "sslproto ''",
		stls:      "sslproto 'auto' sslcertck sslcertfile '" + r.ca + "'",
		implicit:  "ssl sslcertck sslcertfile '" + r.ca + "'",
	}[r.transport]
	keep := "keep"
	if r.remove {
		keep = "nokeep"
	}
	rc := r.file(t, "fetchmailrc", fmt.Sprintf(`set invisible
defaults protocol pop3 timeout 60 bad-header accept
poll localhost service %s uidl
  user '%s' password '%s' is bob %s no rewrite %s
  bsmtp '%s/%d.bsmtp'
`, r.port(), r.user, r.password, security, keep, r.mail(), received.Add(1)))
	return exec.CommandContext(r.context, "fetchmail", "--fetchmailrc", rc, "--nosyslog", "--pidfile", filepath.Join(r.dir, "pid"))
}

func mpop(t testing.TB, r *run) *exec.Cmd {
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(r.mail(), sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tls, starttls, keep := "on", "off", "on"
	switch r.transport {
	case plaintext:
		tls = "off"
	case stls:
		starttls = "on"
	}
	if r.remove {
		keep = "off"
	}
	rc := r.file(t, "mpoprc", fmt.Sprintf(`account default
host localhost
port %s
user %s
password %s
auth user
tls %s
tls_starttls %s
tls_trust_file %s
keep %s
uidls_file %s/uidls
received_header off
delivery maildir %s/mail
timeout 60
`, r.port(), r.user, r.password, tls, starttls, r.ca, keep, r.dir, r.dir))
	return exec.CommandContext(r.context, "mpop", "--file", rc, "--quiet")
}

// getmail passes messages on by LMTP. Its other destinations start a process
// for each message, and now and then miss its end (baseclasses.py: a SIGCHLD
// between fork and wait is lost; seen in 6.18.11 on 2026-11-23).
func getmail(t testing.TB, r *run) *exec.Cmd {
	retriever := "SimplePOP3Retriever"
	if r.transport == implicit {
		retriever = "SimplePOP3SSLRetriever\nca_certs = " + r.ca
	}
	rc := r.file(t, "getmailrc", fmt.Sprintf(`[retriever]
type = %s
server = localhost
port = %s
username = %s
password = %s
timeout = 60
[destination]
type = MDA_lmtp
host = localhost
port = %s
override = bob@example.org
[options]
read_all = false
delete = %t
delivered_to = false
received = false
`, retriever, r.port(), r.user, r.password, receiveMail(t, r.mail()), r.remove))
	return exec.CommandContext(r.context, "getmail", "--getmaildir", r.dir, "--rcfile", rc)
}

func poplib(t testing.TB, r *run) *exec.Cmd {
	script, err := filepath.Abs("testdata/poplib_client.py")
	if err != nil {
		t.Fatal(err)
	}
	policy := "keep"
	if r.remove {
		policy = "delete"
	}
	return exec.CommandContext(r.context, "python3", script, "localhost", r.port(), r.transport, r.ca, r.user, r.dir, policy)
}
