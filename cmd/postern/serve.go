package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
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
		return explainListen(err)
	}
	return g.run(p.drain, p.cut)
}

// explainListen says what a low port takes.
func explainListen(err error) error {
	if listen, ok := errors.AsType[*net.OpError](err); ok && listen.Op == "listen" && errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w\nPorts below 1024 need the capability CAP_NET_BIND_SERVICE, which deploy/postern.service gives", err)
	}
	return err
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
