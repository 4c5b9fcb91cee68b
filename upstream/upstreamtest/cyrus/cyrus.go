// Package cyrus runs a private Cyrus IMAP 3.6 for tests: its own configuration,
// directory and ports. It runs as root or as an ordinary user, and any number run
// side by side. install.sh puts the programs where it looks for them.
//
// The same mailboxes are served by JMAP and IMAP, the upstreams of the tests,
// and by Cyrus's own POP3 server, the oracle for what a gateway should answer.
package cyrus

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/upstream/upstreamtest/private"
)

// A Server is a running Cyrus. It ends with the test that started it.
type Server struct {
	// JMAP and JMAPS are session URLs, by http and by https; the server
	// redirects both to another path, and names relative URLs there.
	JMAP, JMAPS string
	// IMAP and POP3 are addresses, as host:port. Both accept passwords without
	// TLS, and offer STARTTLS and STLS.
	IMAP, POP3 string
	// CAFile is the authority that signed the certificate for localhost and
	// 127.0.0.1, as PEM.
	CAFile string

	private  *private.Server
	programs string
	library  string
}

// Start runs a Cyrus without users until t ends. The lines of config are added
// to its imapd.conf, in place of lines for the same option. Without Cyrus on
// the machine the test is skipped, or fails where POSTERN_REAL is 1.
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	s := find(t)
	// Cyrus refuses to be root, and is then the user news, whom every Debian has
	// and nothing else uses. Its directory is in memory if there is a place: a
	// test needs no mail that outlives the machine.
	p, err := private.New("/dev/shm", "cyrus", "news")
	if errors.Is(err, fs.ErrNotExist) {
		p, err = private.New("", "cyrus", "news")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	s.private = p
	if err := s.start(t, config); err != nil {
		t.Fatalf("start Cyrus: %v", err)
	}
	return s
}

// Tokens returns the configuration lines that let accounts log in by JWTs over
// HTTP, too: those with their name as sub, signed by a key in this PEM
// (http_jwt_key_dir in imapd.conf(5)).
func Tokens(t testing.TB, keys []byte) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cyrus-tokens")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "keys.pem"), keys, 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return []string{"http_jwt_key_dir: " + dir}
}

// end ends Cyrus, and shows its log if the test failed.
func end(t testing.TB, p *private.Server) {
	log := p.Log()
	p.End()
	if t.Failed() {
		t.Logf("the log of Cyrus's master:\n%s", log)
	}
}

func (s *Server) start(t testing.TB, config []string) error {
	var http, https string
	caFile, _, _, err := s.private.WriteCertificates()
	s.CAFile = caFile
	if err := errors.Join(err,
		s.private.MakeDirs("conf", "conf/db", "conf/socket", "conf/log", "conf/user", "conf/quota", "conf/msg",
			"spool", "proc", "lock", "socket", "tmp", "sieve"),
		s.private.Hold(&http, &https, &s.IMAP, &s.POP3),
	); err != nil {
		return err
	}
	_, secure, _ := net.SplitHostPort(https)
	s.JMAP, s.JMAPS = "http://"+http+"/.well-known/jmap", "https://localhost:"+secure+"/.well-known/jmap"
	values := strings.NewReplacer(
		"DIR", s.private.Dir,
		"BIN", filepath.Join(s.programs, "usr/lib/cyrus/bin"),
		"@HTTPS", https, "@HTTP", http, "@IMAP", s.IMAP, "@POP3", s.POP3,
	)
	if err := errors.Join(
		s.private.Write("imapd.conf", merge(values.Replace(imapdConf), config)),
		s.private.Write("cyrus.conf", values.Replace(cyrusConf)),
	); err != nil {
		return err
	}
	master := s.command("usr/lib/cyrus/bin/master", "-C", s.path("imapd.conf"), "-M", s.path("cyrus.conf"),
		"-p", s.path("master.pid"), "-l", "512", "-L", s.path("log"))
	if err := s.private.Start(master); err != nil {
		return err
	}
	return s.private.Await(t.Context(), func() error {
		return errors.Join(private.Greets(s.IMAP, "", "* OK"), private.Greets(s.POP3, "", "+OK"),
			private.Greets(http, "GET /jmap/ HTTP/1.0\r\n\r\n", "HTTP/1."))
	})
}

func (s *Server) path(name string) string { return filepath.Join(s.private.Dir, name) }

func find(t testing.TB) *Server {
	t.Helper()
	root := os.Getenv("CYRUS_ROOT")
	if root == "" {
		root = "/opt/postern-cyrus"
	}
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	_, err := os.Stat(filepath.Join(root, ".installed"))
	if err == nil && len(libraries) == 1 {
		return &Server{programs: root, library: libraries[0]}
	}
	private.Missing(t, "no Cyrus here: run upstream/upstreamtest/cyrus/install.sh, or make test")
	return nil
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
	c := s.private.Command(filepath.Join(s.programs, name), args...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC", "LD_LIBRARY_PATH=" + s.library, "CYRUS_USER=" + s.private.As.Username}
	return c
}

// AddUser adds an account with an empty INBOX and folders for the usual roles.
// The name is in lower case.
func (s *Server) AddUser(t testing.TB, name, password string) *Mailbox {
	t.Helper()
	account, realm, found := strings.Cut(name, "@")
	if !found {
		realm = "localhost"
	}
	c := s.command("usr/sbin/saslpasswd2", "-p", "-c", "-f", s.path("sasldb2"), "-u", realm, account)
	c.Stdin = strings.NewReader(password)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("add user %q: %v\n%s", name, err, out)
	}
	m := s.mailbox(t, name, password)
	m.imap.Do(t, "NOOP") // the first login by IMAP makes the mailboxes; JMAP never does
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
