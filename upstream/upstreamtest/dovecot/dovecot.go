// Package dovecot runs a private Dovecot 2.3 for tests: its own configuration,
// state in a temporary directory, listeners on free ports of 127.0.0.1, and
// nothing shared with a Dovecot that the machine may run as a service. It
// works for root and for an ordinary user, and any number run side by side.
//
// The same mailboxes are served by IMAP, the upstream of the tests, and by
// Dovecot's own POP3 server, the oracle for what a gateway should answer.
package dovecot

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A Server is a running Dovecot. It ends with the test that started it.
type Server struct {
	// Addresses, as host:port. IMAP offers STARTTLS and POP3 STLS, and both
	// accept passwords without; IMAPS and POP3S speak TLS from the first octet.
	IMAP, IMAPS, POP3, POP3S string

	// CAFile is the authority that signed Dovecot's certificate, which is
	// CertFile and KeyFile and names localhost and 127.0.0.1. All are PEM.
	CAFile, CertFile, KeyFile string

	dir   string
	as    *user.User // who Dovecot runs as
	group string     // the name of their group
	done  chan struct{}
}

// Format returns the configuration lines that store mail as maildir (the
// default), sdbox or mdbox.
func Format(name string) string { return "mail_location = " + name + ":~/" + name }

// Without returns the configuration lines that hide IMAP capabilities. Dovecot
// still executes what it does not offer.
func Without(capabilities ...string) string {
	var offered []string
	for _, c := range strings.Fields(allCapabilities) {
		hidden := false
		for _, h := range capabilities {
			hidden = hidden || strings.EqualFold(c, h)
		}
		if !hidden {
			offered = append(offered, c)
		}
	}
	return "imap_capability = " + strings.Join(offered, " ")
}

// What Dovecot 2.3.19 offers after login.
const allCapabilities = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES " +
	"THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN NAMESPACE UIDPLUS " +
	"LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH LIST-STATUS BINARY " +
	"MOVE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW STATUS=SIZE SAVEDATE LITERAL+ NOTIFY"

// Start runs a Dovecot without users until t ends. The lines of config come
// last in its configuration, so they override what stands there. Without
// Dovecot on the machine the test is skipped, or fails where POSTERN_REAL is 1.
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("Dovecot runs on Linux here")
	}
	program := find(t)
	s := &Server{done: make(chan struct{}), dir: tempDir(t)}
	s.as, s.group = runAs(t)
	s.CAFile, s.CertFile, s.KeyFile = filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
	if err := writeCertificates(s.CAFile, s.CertFile, s.KeyFile); err != nil {
		t.Fatal(err)
	}
	var sockets []*os.File
	for _, address := range []*string{&s.IMAP, &s.IMAPS, &s.POP3, &s.POP3S} {
		sockets = append(sockets, listen(t, address))
	}
	s.write(t, "dovecot.conf", s.config()+strings.Join(config, "\n")+"\n")
	s.own(t)
	s.run(t, program, sockets)
	return s
}

// find returns the path of the dovecot program.
func find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"dovecot", "/usr/sbin/dovecot"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Dovecot here: apt-get install dovecot-imapd dovecot-pop3d, or make test"
	if os.Getenv("POSTERN_REAL") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// runAs returns who Dovecot is to run as: root leaves that to the user mail,
// since Dovecot serves no mail as root.
func runAs(t testing.TB) (as *user.User, group string) {
	t.Helper()
	as, err := user.Current()
	if err == nil && as.Uid == "0" {
		as, err = user.Lookup("mail")
	}
	if err != nil {
		t.Fatalf("whom Dovecot runs as: %v", err)
	}
	g, err := user.LookupGroupId(as.Gid)
	if err != nil {
		t.Fatalf("whom Dovecot runs as: %v", err)
	}
	return as, g.Name
}

// tempDir makes the server's directory. The name is short, unlike that of
// t.TempDir, since socket names in it have only 108 octets.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dovecot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"users", "mail", "run", "state"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// own gives everything made so far to the user that Dovecot runs as.
func (s *Server) own(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	err := filepath.Walk(s.dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, number(s.as.Uid), number(s.as.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// number converts an id that comes from the user database, so it is one.
func number(id string) int {
	n, _ := strconv.Atoi(id)
	return n
}

// listen takes a free port and keeps it: Dovecot inherits the socket, so no
// other process can come in between, and connections wait until it is up.
func listen(t testing.TB, address *string) *os.File {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	*address = l.Addr().String()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run starts the program and stops it when the test ends.
func (s *Server) run(t testing.TB, program string, sockets []*os.File) {
	t.Helper()
	// Sockets are handed over as systemd does it (sd_listen_fds(3)), which
	// needs the pid of the program: that of the shell, which becomes it.
	c := s.command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, program, "-F", "-c", s.conf())
	c.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(sockets)))
	c.ExtraFiles = sockets
	started := make(chan error)
	go func() {
		// Should the test die, so does Dovecot: the signal comes when this
		// thread ends, so the thread stays until Dovecot has.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.Start()
		started <- err
		if err == nil {
			c.Wait()
		}
		close(s.done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	for _, f := range sockets {
		f.Close() // or connections would wait for a Dovecot that is dead
	}
	t.Cleanup(func() { s.stop(t, c.Process) })
	s.awaitGreetings(t)
}

// command returns a command that runs as the user that Dovecot runs as.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = s.dir
	c.SysProcAttr = attributes(s.as)
	return c
}

func (s *Server) conf() string { return filepath.Join(s.dir, "dovecot.conf") }

// awaitGreetings returns when both protocols answer.
func (s *Server) awaitGreetings(t testing.TB) {
	t.Helper()
	for _, address := range []string{s.IMAP, s.POP3} {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			t.Fatalf("Dovecot does not start: %v\n%s", err, s.Log())
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatalf("Dovecot does not greet: %v\n%s", err, s.Log())
		}
		conn.Close()
	}
}

// stop ends Dovecot with all its processes, and shows its log if the test failed.
func (s *Server) stop(t testing.TB, p *os.Process) {
	endGroup(p)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		p.Kill()
		<-s.done
		t.Error("Dovecot did not end within 20 seconds")
	}
	if t.Failed() {
		t.Logf("Dovecot's log:\n%s", s.Log())
	}
}

// Log returns what Dovecot has logged so far.
func (s *Server) Log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// AddUser adds an account with an empty mailbox. A password may hold any
// octets but NUL; a name none of ":/%".
func (s *Server) AddUser(t testing.TB, name, password string) *Mailbox {
	t.Helper()
	// One file for each user: Dovecot looks for changes of a file that it
	// knows only once a second.
	line := fmt.Sprintf("%s:{PLAIN.b64}%s\n", name, base64.StdEncoding.EncodeToString([]byte(password)))
	s.write(t, filepath.Join("users", name), line)
	m := &Mailbox{server: s, user: name, password: password}
	t.Cleanup(m.disconnect)
	return m
}

// Doveadm runs the administrator's tool and returns what it prints.
func (s *Server) Doveadm(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.command("doveadm", append([]string{"-c", s.conf()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("doveadm %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func (s *Server) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// config is everything that Dovecot needs to know. It asks for no privileges:
// every process runs as the same user, outside of any chroot.
func (s *Server) config() string {
	return strings.NewReplacer(
		"DIR", s.dir,
		"USER", s.as.Username,
		"GROUP", s.group,
		"UID", s.as.Uid,
		"GID", s.as.Gid,
		"IMAPS_PORT", port(s.IMAPS), "IMAP_PORT", port(s.IMAP),
		"POP3S_PORT", port(s.POP3S), "POP3_PORT", port(s.POP3),
	).Replace(config)
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

const config = `
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
protocols = imap pop3
default_internal_user = USER
default_internal_group = GROUP
default_login_user = USER
default_vsz_limit = 0
default_client_limit = 4000

# Tests open many sessions, guess passwords, and lose nothing to a power cut.
mail_max_userip_connections = 0
auth_failure_delay = 0
mail_fsync = never

ssl = yes
ssl_cert = <DIR/cert.pem
ssl_key = <DIR/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_chars =
auth_username_format = %u

passdb {
  driver = passwd-file
  args = DIR/users/%u
}
userdb {
  driver = static
  args = uid=UID gid=GID home=DIR/mail/%u
}
mail_location = maildir:~/maildir
first_valid_uid = 1
first_valid_gid = 1

service imap {
  process_limit = 2000
}
service pop3 {
  process_limit = 2000
}
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  service_count = 0
  inet_listener imap {
    address = 127.0.0.1
    port = IMAP_PORT
  }
  inet_listener imaps {
    address = 127.0.0.1
    port = IMAPS_PORT
    ssl = yes
  }
}
service pop3-login {
  chroot =
  service_count = 0
  inet_listener pop3 {
    address = 127.0.0.1
    port = POP3_PORT
  }
  inet_listener pop3s {
    address = 127.0.0.1
    port = POP3S_PORT
    ssl = yes
  }
}
`
