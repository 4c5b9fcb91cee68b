// Package metrics counts what sessions, listeners and upstreams tell of, for
// Prometheus. It holds every name, label and help text that postern exports;
// table.go lists them. It decides nothing and knows no account.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"postern/proxy/pop3"
	"postern/upstream"
)

// Metrics are the metrics of one process. Safe for use by several goroutines.
type Metrics struct {
	registry *prometheus.Registry
	table    *table
}

// New returns metrics with a registry of their own. version is postern's.
func New(version string) *Metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := &Metrics{registry: r, table: newTable(r)}
	m.table.buildInfo.WithLabelValues(version, runtime.Version()).Set(1)
	for _, c := range pop3.Commands() {
		m.table.commandSeconds.WithLabelValues(c)
	}
	return m
}

// maxScrapes bounds the scrapes under way, each of which makes a copy of all
// there is to tell.
const maxScrapes = 8

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	options := promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}
	return promhttp.InstrumentMetricHandler(m.registry, promhttp.HandlerFor(m.registry, options))
}

// Sessions returns hooks that count the sessions of a listener.
func (m *Metrics) Sessions(listener string) pop3.Hooks {
	t := m.table
	t.listen(listener)
	return pop3.Hooks{
		Began: func() {
			t.sessionsStarted.WithLabelValues(listener).Inc()
			t.sessionsOpen.WithLabelValues(listener).Inc()
		},
		TLS: func(version uint16) {
			t.tls.WithLabelValues(listener, versions[version]).Inc()
		},
		Login: func(result string, took time.Duration) {
			t.logins.WithLabelValues(listener, result).Inc()
			t.loginSeconds.WithLabelValues(listener).Observe(took.Seconds())
		},
		Command: func(name, result string, took time.Duration) {
			t.commands.WithLabelValues(listener, name, result).Inc()
			t.commandSeconds.WithLabelValues(name).Observe(took.Seconds())
		},
		Ended: func(s pop3.Summary) {
			t.sessionsOpen.WithLabelValues(listener).Dec()
			t.sessionsEnded.WithLabelValues(listener, s.Reason).Inc()
			t.sessionSeconds.WithLabelValues(listener).Observe(s.Took.Seconds())
			t.retrieved.WithLabelValues(listener).Add(float64(s.Retrieved))
			t.messageBytes.WithLabelValues(listener).Add(float64(s.Octets))
			t.removed.WithLabelValues(listener).Add(float64(s.Removed))
			t.removalsFailed.WithLabelValues(listener).Add(float64(s.Unremoved))
		},
	}
}

// Refused counts a connection that a limit of package proxy cost.
func (m *Metrics) Refused(listener, limit string) {
	m.table.refused.WithLabelValues(listener, limit).Inc()
}

// HeldBack counts a login that was refused because its upstream, named as in the
// configuration, had asked for a pause.
func (m *Metrics) HeldBack(upstream string) { m.table.heldBack.WithLabelValues(upstream).Inc() }

// Accounts returns what counts the logins of those who have an account. results
// are all that it will be told.
func (m *Metrics) Accounts(results []string) func(result string) {
	each(results, func(r string) { m.table.accountLogins.WithLabelValues(r) })
	return func(result string) { m.table.accountLogins.WithLabelValues(known(results, result)).Inc() }
}

// Certificate adds the expiry of a listener's certificate, once for each
// listener with TLS. expires is called in every scrape.
func (m *Metrics) Certificate(listener string, expires func() time.Time) {
	certificate(m.registry, listener, expires)
}

// LogDropped adds the number of log lines that were lost, once. lines is called
// in every scrape.
func (m *Metrics) LogDropped(lines func() uint64) { logDropped(m.registry, lines) }

// Upstream returns hooks that count the work of an upstream's adapter. name and
// protocol are those of the configuration.
func (m *Metrics) Upstream(name, protocol string) upstream.Hooks {
	t := m.table
	var (
		open           = t.upstreamOpen.WithLabelValues(name, protocol)
		opened         = t.upstreamOpened.WithLabelValues(name, protocol)
		connectSeconds = t.upstreamConnectSeconds.WithLabelValues(name, protocol)
		loginSeconds   = t.upstreamLoginSeconds.WithLabelValues(name, protocol)
		roundTrips     = t.upstreamRoundTrips.WithLabelValues(name, protocol)
		octetsReceived = t.upstreamReceived.WithLabelValues(name, protocol)
		octetsSent     = t.upstreamSent.WithLabelValues(name, protocol)
	)
	var (
		sessionTrips  = t.upstreamSessionTrips.WithLabelValues(name, protocol)
		sessionOctets = t.upstreamSessionBytes.WithLabelValues(name, protocol)
		wasted        = t.readAheadWasted.WithLabelValues(name, protocol)
		spilled       = t.readAheadSpilled.WithLabelValues(name, protocol)
		readAhead     = hits(t.readAhead, name, protocol)
		listings      = hits(t.listings, name, protocol)
		warm          = hits(t.warm, name, protocol)
		mistaken      = t.mistaken.WithLabelValues(name, protocol)
	)
	t.heldBack.WithLabelValues(name)
	each(upstream.Kinds(), func(k string) { t.upstreamFailed.WithLabelValues(name, protocol, k) })
	each(results, func(r string) { t.upstreamLogins.WithLabelValues(name, protocol, r) })
	return upstream.Hooks{
		Connected: func(took time.Duration, err error) {
			connectSeconds.Observe(took.Seconds())
			if err != nil {
				t.upstreamFailed.WithLabelValues(name, protocol, upstream.Kind(err)).Inc()
				return
			}
			opened.Inc()
			open.Inc()
		},
		Disconnected: open.Dec,
		LoggedIn: func(took time.Duration, err error) {
			loginSeconds.Observe(took.Seconds())
			t.upstreamLogins.WithLabelValues(name, protocol, result(err)).Inc()
		},
		RoundTrip: roundTrips.Inc,
		Octets: func(received, sent int) {
			octetsReceived.Add(float64(received))
			octetsSent.Add(float64(sent))
		},
		Session: func(roundTrips int, octets int64) {
			sessionTrips.Observe(float64(roundTrips))
			sessionOctets.Observe(float64(octets))
		},
		ReadAhead:    readAhead,
		Wasted:       func(octets int64) { wasted.Add(float64(octets)) },
		Spilled:      func(octets int64) { spilled.Add(float64(octets)) },
		ListingCache: listings,
		WarmReuse:    warm,
		Mistaken:     mistaken.Inc,
	}
}

// hits returns what counts hits and misses.
func hits(v *prometheus.CounterVec, name, protocol string) func(hit bool) {
	hit, miss := v.WithLabelValues(name, protocol, "hit"), v.WithLabelValues(name, protocol, "miss")
	return func(is bool) {
		if is {
			hit.Inc()
		} else {
			miss.Inc()
		}
	}
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return upstream.Kind(err)
}
