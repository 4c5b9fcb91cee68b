// Package dovecot runs a private Dovecot 2.3 for tests: its own configuration,
// directory and ports, and nothing shared with a Dovecot that the machine may run
// as a service. It works for root and for an ordinary user, and any number run
// side by side.
//
// The same mailboxes are served by IMAP, the upstream of the tests, and by
// Dovecot's own POP3 server, the oracle for what a gateway should answer.
package dovecot

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"postern/upstream/upstreamtest/private"
)

// A Server is a running Dovecot. It ends with the test that started it.
type Server struct {
	// Addresses, as host:port. IMAP offers STARTTLS and POP3 STLS, and both
	// accept passwords without; IMAPS and POP3S speak TLS from the first octet.
	IMAP, IMAPS, POP3, POP3S string

	// CAFile is the authority that signed Dovecot's certificate, which is
	// CertFile and KeyFile and names localhost and 127.0.0.1. All are PEM.
	CAFile, CertFile, KeyFile string

	private *private.Server
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

// Tokens returns the configuration lines that let accounts log in by access
// tokens, too, by mechanisms such as "oauthbearer xoauth2". Dovecot asks at the
// URL about each token (RFC 7662), and knows its account by the claim sub.
func Tokens(t testing.TB, introspection, mechanisms string) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dovecot-tokens")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "oauth2.conf.ext")
	text := "introspection_mode = post\nintrospection_url = " + introspection +
		"\nusername_attribute = sub\nactive_attribute = active\nactive_value = true\n"
	err = errors.Join(os.WriteFile(file, []byte(text), 0o644), os.Chmod(dir, 0o755)) // Dovecot is another user
	if err != nil {
		t.Fatal(err)
	}
	return []string{"auth_mechanisms = plain " + mechanisms, "passdb {\n driver = oauth2\n mechanisms = " + mechanisms + "\n args = " + file + "\n}"}
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
	// Dovecot serves no mail as root, and leaves that to the user mail.
	p, err := private.New("", "dovecot", "mail")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	s := &Server{private: p}
	if err := s.start(t, program, config); err != nil {
		t.Fatalf("start Dovecot: %v", err)
	}
	return s
}

// end ends Dovecot, and shows its log if the test failed.
func end(t testing.TB, p *private.Server) {
	log := p.Log()
	p.End()
	if t.Failed() {
		t.Logf("Dovecot's log:\n%s", log)
	}
}

func (s *Server) start(t testing.TB, program string, config []string) error {
	var err error
	s.CAFile, s.CertFile, s.KeyFile, err = s.private.WriteCertificates()
	if err := errors.Join(err,
		s.private.MakeDirs("users", "mail", "run", "state"),
		s.private.Hold(&s.IMAP, &s.IMAPS, &s.POP3, &s.POP3S),
	); err != nil {
		return err
	}
	text, err := s.config()
	if err != nil {
		return err
	}
	if err := s.private.Write("dovecot.conf", text+strings.Join(config, "\n")+"\n"); err != nil {
		return err
	}
	if err := s.private.Start(s.private.Command(program, "-F", "-c", s.path("dovecot.conf"))); err != nil {
		return err
	}
	return s.private.Await(t.Context(), func() error {
		return errors.Join(private.Greets(s.IMAP, "", "* OK"), private.Greets(s.POP3, "", "+OK"))
	})
}

func (s *Server) path(name string) string { return filepath.Join(s.private.Dir, name) }

// find returns the path of the dovecot program.
func find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"dovecot", "/usr/sbin/dovecot"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	private.Missing(t, "no Dovecot here: apt-get install dovecot-imapd dovecot-pop3d, or make test")
	return ""
}

// Log returns the end of what Dovecot has logged so far.
func (s *Server) Log() string { return s.private.Log() }

// AddUser adds an account with an empty mailbox. A password may hold any
// octets but NUL; a name none of ":/%".
func (s *Server) AddUser(t testing.TB, name, password string) *Mailbox {
	t.Helper()
	// One file for each user: Dovecot looks for changes of a file that it
	// knows only once a second.
	line := fmt.Sprintf("%s:{PLAIN.b64}%s\n", name, base64.StdEncoding.EncodeToString([]byte(password)))
	if err := s.private.Write(filepath.Join("users", name), line); err != nil {
		t.Fatal(err)
	}
	return s.mailbox(t, name, password)
}

// Doveadm runs the administrator's tool and returns what it prints.
func (s *Server) Doveadm(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.private.Command("doveadm", append([]string{"-c", s.path("dovecot.conf")}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("doveadm %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// config is everything that Dovecot needs to know. It asks for no privileges:
// every process runs as the same user, outside of any chroot.
func (s *Server) config() (string, error) {
	as := s.private.As
	group, err := user.LookupGroupId(as.Gid)
	if err != nil {
		return "", err
	}
	return strings.NewReplacer(
		"DIR", s.private.Dir,
		"USER", as.Username,
		"GROUP", group.Name,
		"UID", as.Uid,
		"GID", as.Gid,
		"IMAPS_PORT", port(s.IMAPS), "IMAP_PORT", port(s.IMAP),
		"POP3S_PORT", port(s.POP3S), "POP3_PORT", port(s.POP3),
	).Replace(config), nil
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
