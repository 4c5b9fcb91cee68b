package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/logsink"
	"postern/proxy"
	"postern/proxy/accounts"
	"postern/proxy/admin"
	"postern/proxy/auth"
	"postern/proxy/metrics"
	"postern/proxy/pop3"
	"postern/proxy/retention"
	"postern/proxy/state"
	"postern/upstream/imapc"
	"postern/upstream/oauth"
)

func (p *program) serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGTERM or Ctrl-C.

Sessions are then told that postern shuts down and are closed, with nothing
removed. One whose QUIT is removing messages may finish, for as long as
shutdown_timeout in the configuration says. A second signal does not wait.

Certificates that change on disk are taken up without a restart; the rest of the
configuration is read at start. SIGHUP changes nothing.`,
		Example: "  postern serve --config postern.yaml",
		Args:    noArgs,
		RunE:    p.begin(func() error { return p.serve(path) }),
	}
	configFlag(c, &path)
	return c
}

func (p *program) serve(path string) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	log := p.log(c.Log)
	for _, w := range c.Warnings {
		log.Warn("configuration", "file", w.File, "line", w.Line, "key", w.Key, "err", w.Text)
	}
	if c.State.Off {
		log.Warn(withoutState)
	}
	defer outlast(syscall.SIGHUP, log)()
	g, err := newGateway(c, log, p.sink.Dropped)
	if err != nil {
		return err
	}
	return g.run(p.drain, p.cut)
}

// outlast keeps a signal from ending the process, until it is called off.
func outlast(s os.Signal, log *slog.Logger) (off func()) {
	c, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(c, s)
	go func() {
		for {
			select {
			case <-c:
				log.Info("nothing to reload: certificates are taken up as they change, the configuration is read at start", "signal", s.String())
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
	}
}

// lastLines is how long the end of the process waits for whoever reads the log.
const lastLines = 2 * time.Second

// log begins the log. From then on, standard error is written to by a sink: a
// reader who stops reading, or goes away, must not stop any session.
func (p *program) log(c config.Log) *slog.Logger {
	signal.Ignore(syscall.SIGPIPE) // which ends a process that writes to a standard error without a reader
	p.sink = logsink.New(p.err, func(w io.Writer, lines int) {
		newLogger(w, c).Warn("log lines dropped", "lines", lines)
	})
	p.err = p.sink
	return newLogger(p.err, c)
}

func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) // checked by package config
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		options.ReplaceAttr = inSeconds
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// inSeconds writes lengths of time as the metrics do. In JSON they would be
// nanoseconds, without saying so.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

// A gateway is all of postern, put together and bound to its addresses.
type gateway struct {
	log     *slog.Logger
	status  *status
	server  *proxy.Server
	timeout time.Duration // for the drain
	store   state.Store
	purges  []*retention.Opener       // that use the store
	book    *accounts.Book            // the same
	keeper  *oauth.Keeper             // the same
	tend    func(ctx context.Context) // the consents of accounts, until ctx ends
	stable  *imapc.Stable

	adapters []io.Closer // those that keep connections themselves

	admin         *http.Server
	adminListener net.Listener // nil without admin.address
}

// newGateway puts together what a configuration asks for, opens the state, and
// binds every address, or none. unlogged counts the lines that log lost.
func newGateway(c *config.Config, log *slog.Logger, unlogged func() uint64) (_ *gateway, err error) {
	version := readBuild().version
	counts := metrics.New(version)
	counts.LogDropped(unlogged)
	g := &gateway{
		log:     log,
		status:  &status{version: version, began: time.Now()},
		timeout: c.ShutdownTimeout,
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.status.set(errNotStarted)
	if g.store, err = openState(c.State, state.Options{Serve: true, Log: log}); err != nil {
		return nil, err
	}
	openers, err := g.openers(c, counts)
	if err != nil {
		return nil, err
	}
	var d *desk
	if g.book, d, err = g.accounts(c, openers, counts); err != nil {
		return nil, err
	}
	site, err := g.site(d)
	if err != nil {
		return nil, err
	}
	listeners, err := g.listeners(c, counts)
	if err != nil {
		return nil, err
	}
	g.admin = admin.New(g.status, counts.Handler(), site, log)
	if c.Admin.Address != "" {
		if g.adminListener, err = net.Listen("tcp", c.Admin.Address); err != nil {
			return nil, fmt.Errorf("listen on %q: %w", c.Admin.Address, err)
		}
	}
	g.server, err = proxy.Listen(proxy.Options{
		Listeners: listeners,
		Authenticator: auth.New(auth.Options{
			Accounts:   g.book,
			Routes:     openers.routes(),
			Locker:     g.store,
			LoginDelay: c.Limits.LoginDelay,
			HeldBack:   counts.HeldBack,
		}),
		Limits:         limits(c.Limits),
		Implementation: "postern",
		LoginDelay:     c.Limits.LoginDelay,
		Hooks:          counts.Sessions,
		Refused:        counts.Refused,
		MaxConnections: c.Limits.Connections,
		MaxPerAddress:  c.Limits.ConnectionsPerAddress,
		Log:            log,
	})
	if err != nil {
		return nil, err
	}
	g.status.sessions = func() int { open, _ := g.server.Connections(); return open }
	return g, nil
}

func limits(l config.Limits) pop3.Limits {
	return pop3.Limits{
		Login:    l.LoginTimeout,
		Idle:     l.IdleTimeout,
		Write:    l.WriteTimeout,
		Errors:   l.Errors,
		Attempts: l.LoginAttempts,
	}
}

// listeners loads certificates, and lets metrics and status watch them.
func (g *gateway) listeners(c *config.Config, counts *metrics.Metrics) ([]proxy.Listener, error) {
	modes := map[string]proxy.TLSMode{
		config.TLSOff:      proxy.Off,
		config.TLSSTLS:     proxy.STLS,
		config.TLSImplicit: proxy.Implicit,
	}
	watched := map[string]bool{} // with port 0, several have one name
	var all []proxy.Listener
	for _, l := range c.Listeners {
		one := proxy.Listener{Address: l.Address, TLS: modes[l.TLS], PlaintextLogin: l.PlaintextLogin, Mechanisms: mechanisms(l)}
		if one.TLS != proxy.Off {
			var err error
			if one.Certificate, err = proxy.LoadCertificate(l.Certificate, l.Key, g.log); err != nil {
				return nil, err
			}
			if !watched[l.Address] {
				counts.Certificate(l.Address, one.Certificate.Expires)
				watched[l.Address] = true
			}
			if one.ClientCAs, err = clientCAs(l); err != nil {
				return nil, err
			}
		}
		all = append(all, one)
	}
	g.status.listeners = func() []admin.Listener { return shown(all) }
	return all, nil
}

// mechanisms are the ways to log in that a listener allows, in POP3's words.
func mechanisms(l config.Listener) []string {
	var all []string
	for _, m := range l.Mechanisms {
		all = append(all, strings.ToUpper(m))
		if m == config.LoginSCRAM {
			all = append(all, "SCRAM-SHA-256-PLUS")
		}
	}
	return all
}

// clientCAs are who certifies the clients of a listener; nil if nobody does.
func clientCAs(l config.Listener) (*x509.CertPool, error) {
	if l.ClientCA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(l.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca %s: no certificate in it", l.ClientCA)
	}
	return pool, nil
}

// shown is what the status page shows of listeners.
func shown(listeners []proxy.Listener) []admin.Listener {
	var all []admin.Listener
	for _, l := range listeners {
		one := admin.Listener{Address: l.Address, TLS: l.TLS.String()}
		if l.Certificate != nil {
			one.CertificateExpires = l.Certificate.Expires()
		}
		all = append(all, one)
	}
	return all
}

// run serves until drain ends, and then lets sessions finish until they have,
// the time for it is up, or cut ends. Health and metrics are served to the last.
func (g *gateway) run(drain, cut context.Context) error {
	defer g.close()
	if g.adminListener != nil {
		go g.serveAdmin()
	}
	served := make(chan struct{})
	go func() {
		g.server.Serve()
		close(served)
	}()
	tended := make(chan struct{})
	go func() {
		g.tend(drain)
		close(tended)
	}()
	g.status.set(nil)
	g.tellStarted()
	<-drain.Done()
	<-tended

	g.status.set(errDraining)
	open, _ := g.server.Connections()
	g.log.Info("shutting down", "sessions", open, "timeout", g.timeout)
	ctx, cancel := context.WithTimeout(cut, g.timeout)
	defer cancel()
	err := g.server.Shutdown(ctx)
	<-served
	if err != nil {
		return err
	}
	g.log.Info("shut down")
	return nil
}

func (g *gateway) tellStarted() {
	for i, l := range g.status.listeners() {
		g.log.Info("listening", "listener", l.Address, "address", g.server.Addrs()[i].String(), "tls", l.TLS)
	}
	if g.adminListener != nil {
		g.log.Info("admin listening", "address", g.adminListener.Addr().String())
	}
	g.log.Info("started", "version", g.status.version)
}

func (g *gateway) serveAdmin() {
	if err := g.admin.Serve(g.adminListener); !errors.Is(err, http.ErrServerClosed) {
		g.log.Error("admin listener ended", "err", err)
	}
}

// close gives back what newGateway opened, but for the POP3 listeners.
func (g *gateway) close() {
	if g.adminListener != nil {
		g.admin.Close()
		g.adminListener.Close() // where Serve never began
	}
	for _, p := range g.purges {
		p.Close()
	}
	if g.stable != nil {
		g.stable.Close()
	}
	for _, a := range g.adapters {
		a.Close()
	}
	if g.book != nil {
		g.book.Close()
	}
	if g.keeper != nil {
		g.keeper.Close()
	}
	if g.store == nil {
		return
	}
	if err := g.store.Close(); err != nil {
		g.log.Warn("state not closed", "err", err)
	}
}
