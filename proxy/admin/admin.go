// Package admin is the operator's HTTP listener: metrics, health, and a status
// page. It only shows; nothing can be changed through it. It asks for no
// password, so it belongs on loopback or a network of the operator's own, and
// names no account.
//
//	/         status page
//	/metrics  for Prometheus
//	/healthz  200 while the process lives
//	/readyz   200 while it takes connections, 503 and the reason otherwise
//
// The pages for consent, under /accounts and /connect/, are another package's,
// which sees to who may do what. /connect/ is all that the world needs to reach.
package admin

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"postern/proxy/web"
)

// A Status tells what the operator may know of the running program. It is asked
// in every request, by several goroutines at once.
type Status interface {
	// Ready returns nil while connections are accepted, and otherwise why
	// they are not: not started, draining.
	Ready() error

	// Overview returns what the status page shows.
	Overview() Overview
}

// An Overview is the state of the program at one moment.
type Overview struct {
	Version   string
	Started   time.Time
	Sessions  int // now open
	Listeners []Listener
	Upstreams []Upstream
}

// A Listener is a POP3 listener as the status page shows it.
type Listener struct {
	Address            string
	TLS                string    // off, stls or implicit
	CertificateExpires time.Time // zero without TLS
}

// An Upstream is an upstream as the status page shows it.
type Upstream struct {
	Name        string
	Protocol    string
	LastSuccess time.Time // of a login; zero for never
	LastFailure time.Time
	Failure     string // kind of the last failure, a word of upstream.Kinds
}

// Limits of a request, which come from programs and a few people.
const (
	requestTime    = 10 * time.Second
	idleTime       = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	maxConnections = 500 // at once; POP3 clients want descriptors, too
)

// New returns a server for the operator; the caller has it Serve and Shutdown.
// metrics answers /metrics, consent the pages for consent; nil is none. log may
// be nil.
func New(status Status, metrics, consent http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           handler(status, metrics, consent),
		ReadHeaderTimeout: requestTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      3 * requestTime, // a scrape of many series over a slow link
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         atMost(maxConnections),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// atMost closes connections that are too many (http.Server.ConnState).
func atMost(n int64) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if open.Add(1) > n {
				conn.Close()
			}
		case http.StateClosed:
			open.Add(-1)
		}
	}
}

func handler(status Status, metrics, consent http.Handler) http.Handler {
	all := http.NewServeMux()
	all.Handle("/", shown(status, metrics))
	if consent != nil {
		all.Handle("/accounts", consent)
		all.Handle("/connect/", consent)
	}
	return all
}

// shown is all that can only be looked at.
func shown(status Status, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := status.Ready(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		text(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { page(w, status) })
	return web.Protect(readOnly(mux), style, web.NoForms)
}

// readOnly refuses every method that asks for a change.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			text(w, http.StatusMethodNotAllowed, "only GET and HEAD")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func text(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, line)
}
