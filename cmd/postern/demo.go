package main

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/demo"
)

func (p *program) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Run the gateway now, with a mail server and sample mail inside",
		Long: `Run the gateway with an IMAP server in memory and some mail in it.

It needs no configuration, listens on this machine only, prints commands to try,
and ends with Ctrl-C. A certificate for TLS is written to a temporary directory,
which is named, and removed at the end.`,
		Example: "  postern demo",
		Args:    noArgs,
		RunE:    p.begin(p.demo),
	}
}

// The account of the demo.
const (
	demoUser     = "demo"
	demoPassword = "demo"
)

func (p *program) demo() error {
	dir, err := os.MkdirTemp("", "postern-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	certificate, key := filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	if err := demo.WriteCertificate(certificate, key); err != nil {
		return err
	}
	messages, err := demo.Mail()
	if err != nil {
		return err
	}
	log := p.log(config.Default().Log)
	server, err := demo.Start(demoUser, demoPassword, messages, log)
	if err != nil {
		return err
	}
	defer server.Close()
	g, c, err := demoGateway(server.Addr(), certificate, key, log, p.sink.Dropped)
	if err != nil {
		return err
	}
	err = guide.Execute(p.out, tour{
		Messages: len(messages), Dir: dir, Certificate: quoted(certificate), User: demoUser, Password: demoPassword,
		Plain: c.Listeners[0].Address, TLS: c.Listeners[1].Address, Admin: c.Admin.Address,
	})
	if err != nil {
		return err
	}
	return g.run(p.drain, p.cut)
}

// demoGateway makes the gateway of the demo, and tells how it is configured.
func demoGateway(server, certificate, key string, log *slog.Logger, unlogged func() uint64) (*gateway, *config.Config, error) {
	for attempts := 5; ; attempts-- {
		c := config.Default()
		c.Listeners = []config.Listener{
			{Address: free("127.0.0.1:1110"), TLS: config.TLSSTLS, Certificate: certificate, Key: key},
			{Address: free("127.0.0.1:1995"), TLS: config.TLSImplicit, Certificate: certificate, Key: key},
		}
		c.Admin.Address = free("127.0.0.1:9110")
		c.Upstreams = []config.Upstream{{Name: "memory", Protocol: config.IMAP, Address: server, TLS: config.TLSOff}}
		c.Routes = []config.Route{{User: "*", Upstream: "memory", Delete: config.DeleteExpunge}}
		c.State = config.State{Off: true}
		g, err := newGateway(&c, log, unlogged)
		if errors.Is(err, syscall.EADDRINUSE) && attempts > 1 {
			continue // somebody was faster
		}
		return g, &c, err
	}
}

// free returns the address if nobody listens there yet, or else the same host
// with a port that is free.
func free(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		host, _, _ := net.SplitHostPort(address)
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return address // whoever listens there next will say why it cannot
		}
	}
	defer l.Close()
	return l.Addr().String()
}

// quoted is a file name as a shell takes it.
func quoted(name string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./"
	if strings.Trim(name, plain) == "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// A tour is what the guide tells of.
type tour struct {
	Messages                         int
	Dir, Certificate, User, Password string
	Plain, TLS, Admin                string
}

// PlainPort is the port alone.
func (t tour) PlainPort() string {
	_, port, _ := net.SplitHostPort(t.Plain)
	return port
}

// guide is what the demo prints. Its commands are the lines that begin with
// four spaces; a test runs them.
var guide = template.Must(template.New("guide").Parse(`postern is running, with {{.Messages}} messages on an IMAP server in memory.

  POP3           {{.Plain}}, with STLS
  POP3 with TLS  {{.TLS}}
  user           {{.User}}
  password       {{.Password}}
  status         http://{{.Admin}}/

The certificate for TLS is self-signed and made now. {{.Dir}}
is all that is written to disk, and is removed at the end.

Try in another terminal. The list of messages, and one that mail programs stumble over:

    curl -u {{.User}}:{{.Password}} pop3://{{.Plain}}/
    curl -u {{.User}}:{{.Password}} pop3://{{.Plain}}/4

The same with TLS, upgraded by STLS and from the start:

    curl --ssl-reqd --cacert {{.Certificate}} -u {{.User}}:{{.Password}} pop3://{{.Plain}}/2
    curl --cacert {{.Certificate}} -u {{.User}}:{{.Password}} pop3s://{{.TLS}}/5

The unique-ids, which stay the same from session to session:

    python3 -c 'import poplib; p = poplib.POP3("127.0.0.1", {{.PlainPort}}); p.user("{{.User}}"); p.pass_("{{.Password}}"); print(*p.uidl()[1], sep="\n"); p.quit()'

A session by hand: type USER {{.User}}, PASS {{.Password}}, STAT, RETR 1, QUIT.

    openssl s_client -quiet -crlf -connect {{.TLS}} -CAfile {{.Certificate}}

Remove the first message for good, and see what the operator sees:

    curl -u {{.User}}:{{.Password}} --head --request DELE pop3://{{.Plain}}/1
    curl http://{{.Admin}}/metrics

Each session leaves a line below. Ctrl-C ends the demo.

`))
