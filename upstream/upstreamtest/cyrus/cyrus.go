// Package cyrus runs a private Cyrus IMAP 3.6 for tests: its own configuration,
// state in a temporary directory, listeners on free ports of 127.0.0.1. It runs
// as root or as an ordinary user, and any number run side by side. install.sh
// puts the programs where it looks for them.
//
// The same mailboxes are served by JMAP and IMAP, the upstreams of the tests,
// and by Cyrus's own POP3 server, the oracle for what a gateway should answer.
package cyrus

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is a running Cyrus. It ends with the test that started it.
type Server struct {
	// JMAP and JMAPS are session URLs, by http and by https; the server
	// redirects both to another path, and names relative URLs there.
	JMAP, JMAPS string
	// IMAP and POP3 are addresses, as host:port. Both accept passwords without
	// TLS, and offer STARTTLS and STLS.
	IMAP, POP3 string
	// CAFile is the server's certificate for localhost and 127.0.0.1, as PEM.
	CAFile string

	dir      string
	as       *user.User // who Cyrus runs as
	programs string
	library  string
	done     chan struct{}
}

// Start runs a Cyrus without users until t ends. The lines of config are added
// to its imapd.conf, in place of lines for the same option. Without Cyrus on
// the machine the test is skipped, or fails where POSTERN_REAL is 1.
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	s := find(t)
	s.makeDirs(t)
	s.writeCertificate(t)
	for attempt := 1; ; attempt++ {
		ports := s.choosePorts(t)
		s.write(t, "imapd.conf", merge(s.replace(imapdConf, ports), config))
		s.write(t, "cyrus.conf", s.replace(cyrusConf, ports))
		process := s.run(t)
		if s.ready() {
			t.Cleanup(func() { s.stop(t, process) })
			return s
		}
		s.stop(t, process)
		if attempt == 5 { // another process may have taken a port in between
			t.Fatalf("Cyrus does not start; its master says:\n%s", s.read("log"))
		}
	}
}

func find(t testing.TB) *Server {
	t.Helper()
	root := os.Getenv("CYRUS_ROOT")
	if root == "" {
		root = "/opt/postern-cyrus"
	}
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	_, err := os.Stat(filepath.Join(root, ".installed"))
	if err == nil && len(libraries) == 1 {
		return &Server{programs: root, library: libraries[0], as: runAs(t)}
	}
	const missing = "no Cyrus here: run upstream/upstreamtest/cyrus/install.sh, or make test"
	if os.Getenv("POSTERN_REAL") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return nil
}

// runAs returns who Cyrus is to run as: it refuses to be root, and is then the
// user news, whom every Debian has and nothing else uses.
func runAs(t testing.TB) *user.User {
	t.Helper()
	as, err := user.Current()
	if err == nil && as.Uid == "0" {
		as, err = user.Lookup("news")
	}
	if err != nil {
		t.Fatalf("whom Cyrus runs as: %v", err)
	}
	return as
}

// makeDirs makes the server's directory, in memory if there is a place: a test
// needs no mail that outlives the machine.
func (s *Server) makeDirs(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cyrus")
	if err != nil {
		dir, err = os.MkdirTemp("", "cyrus")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.dir = dir
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{
		"conf/db", "conf/socket", "conf/log", "conf/user", "conf/quota", "conf/msg",
		"spool", "proc", "lock", "socket", "tmp", "sieve",
	} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.own(t)
}

// own gives everything made so far to the user that Cyrus runs as.
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

func (s *Server) writeCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	public, err := x509.CreateCertificate(rand.Reader, certificate, certificate, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.CAFile = s.write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public})))
	s.write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func (s *Server) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *Server) read(name string) string {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// choosePorts finds free ports. Cyrus has to bind them itself, so another
// process may come in between; then it does not start, and others are chosen.
func (s *Server) choosePorts(t testing.TB) map[string]string {
	t.Helper()
	ports := map[string]string{}
	for _, name := range []string{"HTTP", "HTTPS", "IMAP", "POP3"} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[name] = l.Addr().String()
	}
	_, secure, _ := net.SplitHostPort(ports["HTTPS"])
	s.JMAP, s.JMAPS = "http://"+ports["HTTP"]+"/.well-known/jmap", "https://localhost:"+secure+"/.well-known/jmap"
	s.IMAP, s.POP3 = ports["IMAP"], ports["POP3"]
	return ports
}

func (s *Server) replace(config string, ports map[string]string) string {
	return strings.NewReplacer(
		"DIR", s.dir,
		"BIN", filepath.Join(s.programs, "usr/lib/cyrus/bin"),
		"@HTTPS", ports["HTTPS"], "@HTTP", ports["HTTP"], "@IMAP", ports["IMAP"], "@POP3", ports["POP3"],
	).Replace(config)
}

// merge replaces lines by those for the same option: Cyrus accepts no second.
func merge(config string, lines []string) string {
	for _, line := range lines {
		option, _, _ := strings.Cut(line, ":")
		kept := []string{line}
		for _, old := range strings.Split(config, "\n") {
			if !strings.HasPrefix(old, option+":") {
				kept = append(kept, old)
			}
		}
		config = strings.Join(kept, "\n")
	}
	return config
}

// command returns a command that runs as the user that Cyrus runs as.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.programs, name), args...)
	c.Dir = s.dir
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC", "LD_LIBRARY_PATH=" + s.library}
	c.SysProcAttr = attributes(s.as)
	return c
}

// run starts the master, which starts the rest.
func (s *Server) run(t testing.TB) *os.Process {
	t.Helper()
	s.own(t)
	c := s.command("usr/lib/cyrus/bin/master",
		"-C", filepath.Join(s.dir, "imapd.conf"), "-M", filepath.Join(s.dir, "cyrus.conf"),
		"-p", filepath.Join(s.dir, "master.pid"), "-l", "512", "-L", filepath.Join(s.dir, "log"))
	c.Env = append(c.Env, "CYRUS_USER="+s.as.Username)
	s.done = make(chan struct{})
	started := make(chan error)
	go func() {
		// Should the test die, so does Cyrus: the signal comes when this
		// thread ends, so the thread stays until Cyrus has ended.
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
	return c.Process
}

// ready returns when all services greet, or the master has given up.
func (s *Server) ready() bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for {
		if s.greets(s.IMAP, "", "* OK") && s.greets(s.POP3, "", "+OK") &&
			s.greets(strings.Split(s.JMAP, "/")[2], "GET /jmap/ HTTP/1.0\r\n\r\n", "HTTP/1.") {
			return true
		}
		select {
		case <-s.done:
			return false
		case <-late:
			return false
		case <-tick.C:
		}
	}
}

func (s *Server) greets(address, hello, want string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, hello) // an error comes back from the read
	got := make([]byte, len(want))
	_, err = io.ReadFull(conn, got)
	return err == nil && string(got) == want
}

// stop ends Cyrus with all its processes, and shows its log if the test failed.
func (s *Server) stop(t testing.TB, p *os.Process) {
	p.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		p.Kill()
		<-s.done
	}
	killGroup(p)
	if t.Failed() {
		t.Logf("the log of Cyrus's master:\n%s", s.read("log"))
	}
}

// AddUser adds an account with an empty INBOX and folders for the usual roles.
// The name is in lower case.
func (s *Server) AddUser(t testing.TB, name, password string) *Mailbox {
	t.Helper()
	account, realm, found := strings.Cut(name, "@")
	if !found {
		realm = "localhost"
	}
	c := s.command("usr/sbin/saslpasswd2", "-p", "-c", "-f", filepath.Join(s.dir, "sasldb2"), "-u", realm, account)
	c.Stdin = bytes.NewBufferString(password)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("add user %q: %v\n%s", name, err, out)
	}
	m := &Mailbox{server: s, user: name, password: password}
	t.Cleanup(m.disconnect)
	m.command(t, "NOOP") // the first login by IMAP makes the mailboxes; JMAP never does
	return m
}

// The password database is the user's own file; a name may hold a domain. Tests
// guess passwords, repeat messages, and want none of them changed.
const imapdConf = `configdirectory: DIR/conf
proc_path: DIR/proc
mboxname_lockpath: DIR/lock
temp_path: DIR/tmp
defaultpartition: default
partition-default: DIR/spool
lmtpsocket: DIR/socket/lmtp
idlesocket: DIR/socket/idle
notifysocket: DIR/socket/notify
sievedir: DIR/sieve
servername: localhost
virtdomains: userid
defaultdomain: localhost
allowplaintext: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: DIR/sasldb2
sasl_mech_list: PLAIN LOGIN
failedloginpause: 0
master_bind_errors_fatal: yes
tls_server_cert: DIR/cert.pem
tls_server_key: DIR/key.pem
httpmodules: jmap
conversations: yes
conversations_db: twoskip
conversations_counted_flags: \Draft \Flagged $HasAttachment
smtp_backend: host
smtp_host: 127.0.0.1:1
autocreate_quota: 0
autocreate_post: yes
autocreate_inbox_folders: Drafts | Sent | Trash | Junk | Archive
autocreate_subscribe_folders: Drafts | Sent | Trash | Junk | Archive
xlist-drafts: Drafts
xlist-sent: Sent
xlist-trash: Trash
xlist-junk: Junk
xlist-archive: Archive
duplicatesuppression: no
munge8bit: no
`

const cyrusConf = `START {
  recover cmd="BIN/ctl_cyrusdb -C DIR/imapd.conf -r"
}
SERVICES {
  http  cmd="BIN/httpd -C DIR/imapd.conf" listen="@HTTP" prefork=1 maxchild=200
  https cmd="BIN/httpd -C DIR/imapd.conf -s" listen="@HTTPS" prefork=0 maxchild=200
  imap  cmd="BIN/imapd -C DIR/imapd.conf" listen="@IMAP" prefork=0 maxchild=200
  pop3  cmd="BIN/pop3d -C DIR/imapd.conf" listen="@POP3" prefork=0 maxchild=200
}
EVENTS {
  checkpoint cmd="BIN/ctl_cyrusdb -C DIR/imapd.conf -c" period=30
}
`
