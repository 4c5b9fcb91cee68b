package metrics

import (
	"crypto/tls"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/proxy/pop3"
	"postern/upstream"
)

// This file is the table of every name, label and help text. Label values are
// from closed sets, or stand in the configuration; none comes from a client.
// testdata/metrics.txt is the same for readers, and a test compares them.

var (
	// commandResults: cut is an answer that broke off.
	commandResults = []string{"ok", "err", "cut"}

	// limits are those at which package proxy refuses connections.
	limits = []string{"total", "address", "evicted"}

	// versions are the values of the label version, by the number on the wire.
	versions = map[uint16]string{
		tls.VersionTLS10: "1.0", tls.VersionTLS11: "1.1", tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3",
		0: "failed",
	}

	// policies are what becomes of removed messages. A policy that a journal
	// of another version names is unknown.
	policies = []string{upstream.DeleteExpunge.String(), upstream.DeleteTrash.String(), upstream.DeleteArchive.String(),
		upstream.DeleteFlag.String(), upstream.DeleteNever.String(), "unknown"}

	// results are what a login comes to.
	results = append([]string{"ok"}, upstream.Kinds()...)
)

// Buckets in seconds. Commands are answered from memory or after a round trip
// and a message; logins wait for the upstream and for the throttle; sessions
// last as long as a poll or a large download does.
var (
	commandBuckets = []float64{.0001, .001, .005, .025, .1, .25, .5, 1, 2.5, 10, 60}
	loginBuckets   = []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40}
	sessionBuckets = []float64{.1, .5, 1, 5, 15, 60, 300, 1800, 7200}
)

// Buckets of what a session takes upstream: a poll a few round trips and some
// hundred octets, a drain as many as there is mail.
var (
	tripBuckets  = []float64{1, 2, 3, 4, 6, 10, 30, 100, 1000}
	octetBuckets = []float64{256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 4 << 30}
)

// A table holds every collector.
type table struct {
	buildInfo *prometheus.GaugeVec

	refused *prometheus.CounterVec
	tls     *prometheus.CounterVec

	sessionsOpen    *prometheus.GaugeVec
	sessionsStarted *prometheus.CounterVec
	sessionsEnded   *prometheus.CounterVec
	sessionSeconds  *prometheus.HistogramVec
	logins          *prometheus.CounterVec
	heldBack        *prometheus.CounterVec
	loginSeconds    *prometheus.HistogramVec
	accountLogins   *prometheus.CounterVec
	commands        *prometheus.CounterVec
	commandSeconds  *prometheus.HistogramVec

	retrieved      *prometheus.CounterVec
	messageBytes   *prometheus.CounterVec
	removed        *prometheus.CounterVec
	removalsFailed *prometheus.CounterVec

	removals      *prometheus.CounterVec
	resumed       *prometheus.CounterVec
	purged        *prometheus.CounterVec
	journalFailed *prometheus.CounterVec
	uidlRebound   *prometheus.CounterVec
	uidlChurned   *prometheus.CounterVec
	ledgerFailed  *prometheus.CounterVec

	upstreamOpen           *prometheus.GaugeVec
	upstreamOpened         *prometheus.CounterVec
	upstreamFailed         *prometheus.CounterVec
	upstreamConnectSeconds *prometheus.HistogramVec
	upstreamLogins         *prometheus.CounterVec
	upstreamLoginSeconds   *prometheus.HistogramVec
	upstreamRoundTrips     *prometheus.CounterVec
	upstreamReceived       *prometheus.CounterVec
	upstreamSent           *prometheus.CounterVec
	upstreamSessionTrips   *prometheus.HistogramVec
	upstreamSessionBytes   *prometheus.HistogramVec

	tokenRequests *prometheus.CounterVec
	tokenSeconds  *prometheus.HistogramVec

	readAhead        *prometheus.CounterVec
	readAheadWasted  *prometheus.CounterVec
	readAheadSpilled *prometheus.CounterVec
	listings         *prometheus.CounterVec
	warm             *prometheus.CounterVec
	mistaken         *prometheus.CounterVec
}

func newTable(r prometheus.Registerer) *table {
	f := factory{r}
	up := []string{"upstream", "protocol"}
	return &table{
		buildInfo: f.gauge("build_info", "Always 1; the labels say which postern this is.", "version", "goversion"),

		refused: f.counter("connections_refused_total", "Connections that a limit cost: total and address turned them away, evicted cut them off for a newer one.", "listener", "limit"),
		tls:     f.counter("tls_handshakes_total", "TLS handshakes with clients by the version agreed on, or failed.", "listener", "version"),

		sessionsOpen:    f.gauge("sessions_open", "POP3 sessions now open.", "listener"),
		sessionsStarted: f.counter("sessions_started_total", "POP3 sessions greeted.", "listener"),
		sessionsEnded:   f.counter("sessions_ended_total", "POP3 sessions ended, by what ended them.", "listener", "reason"),
		sessionSeconds:  f.histogram("session_duration_seconds", "How long POP3 sessions lasted.", sessionBuckets, "listener"),
		logins:          f.counter("logins_total", "Attempts of clients to log in, by result.", "listener", "result"),
		heldBack:        f.counter("logins_held_back_total", "Logins refused without asking the upstream, which had asked for a pause or refused the same password before.", "upstream"),
		loginSeconds:    f.histogram("login_duration_seconds", "How long clients waited for the answer to a login, throttling included.", loginBuckets, "listener"),
		accountLogins:   f.counter("account_logins_total", "Attempts with the name of an account, by what opened it (a generated, chosen or configured password, a certificate) or why nothing did.", "result"),
		commands:        f.counter("commands_total", "POP3 commands answered; cut means that the answer broke off.", "listener", "command", "result"),
		commandSeconds:  f.histogram("command_duration_seconds", "How long POP3 commands took, the last octet of the answer included.", commandBuckets, "command"),

		retrieved:      f.counter("messages_retrieved_total", "Messages sent whole to clients by RETR.", "listener"),
		messageBytes:   f.counter("message_sent_bytes_total", "Octets of messages sent to clients by RETR and TOP.", "listener"),
		removed:        f.counter("messages_removed_total", "Messages that QUIT removed and saw to be gone.", "listener"),
		removalsFailed: f.counter("removals_failed_total", "Messages marked by DELE that QUIT could not remove.", "listener"),

		removals:      f.counter("removals_total", "Messages removed from upstream mailboxes and recorded, by delete policy; those included that a later login finished.", "upstream", "policy"),
		resumed:       f.counter("removals_resumed_total", "Removals that a session was cut off in, and that a later login brought to an end.", "upstream"),
		purged:        f.counter("kept_messages_purged_total", "Messages that a removal kept, and that were removed for good when their grace was over.", "upstream"),
		journalFailed: f.counter("removal_journal_failed_total", "Times that the journal of removals could not be read or written.", "upstream"),
		uidlRebound:   f.counter("uidls_rebound_total", "Messages that kept their unique-id although the upstream calls them by another name now.", "upstream"),
		uidlChurned:   f.counter("uidl_churn_refused_total", "Logins refused because their client would have downloaded its mailbox again.", "upstream"),
		ledgerFailed:  f.counter("uidl_ledger_failed_total", "Times that a ledger of unique-ids could not be read or written.", "upstream"),

		upstreamOpen:           f.gauge("upstream_connections_open", "Upstream connections now open.", up...),
		upstreamOpened:         f.counter("upstream_connections_opened_total", "Upstream connections opened, TLS and greeting included.", up...),
		upstreamFailed:         f.counter("upstream_connections_failed_total", "Upstream connections that could not be opened, by kind of failure.", "upstream", "protocol", "kind"),
		upstreamConnectSeconds: f.histogram("upstream_connect_duration_seconds", "How long it took to open an upstream connection, or to give up.", loginBuckets, up...),
		upstreamLogins:         f.counter("upstream_logins_total", "Upstream logins, by result.", "upstream", "protocol", "result"),
		upstreamLoginSeconds:   f.histogram("upstream_login_duration_seconds", "How long upstream logins took from the first attempt to connect.", loginBuckets, up...),
		upstreamRoundTrips:     f.counter("upstream_round_trips_total", "Requests to the upstream whose answer was waited for.", up...),
		upstreamReceived:       f.counter("upstream_received_bytes_total", "Octets received from the upstream, before TLS and compression.", up...),
		upstreamSent:           f.counter("upstream_sent_bytes_total", "Octets sent to the upstream, before TLS and compression.", up...),
		upstreamSessionTrips:   f.histogram("upstream_session_round_trips", "Requests whose answer a session waited for, its login included.", tripBuckets, up...),
		upstreamSessionBytes:   f.histogram("upstream_session_bytes", "Octets that a session received from and sent to the upstream, its login included.", octetBuckets, up...),

		tokenRequests: f.counter("token_requests_total", "Requests to a provider for access tokens, by result: consent is one that needs its account's owner.", "upstream", "result"),
		tokenSeconds:  f.histogram("token_request_duration_seconds", "How long a provider took to answer such a request, or postern to give up.", loginBuckets, "upstream"),

		readAhead:        f.counter("read_ahead_total", "Messages asked for by clients, but for the first of a session: hit if they were on their way already.", "upstream", "protocol", "result"),
		readAheadWasted:  f.counter("read_ahead_wasted_bytes_total", "Octets read ahead that no client asked for.", up...),
		readAheadSpilled: f.counter("read_ahead_spilled_bytes_total", "Octets read ahead that went to disk for a while.", up...),
		listings:         f.counter("listings_kept_total", "Mailboxes opened: hit if the listing of an earlier session made up for listing them anew.", "upstream", "protocol", "result"),
		warm:             f.counter("warm_logins_total", "Logins where upstream connections are kept warm: hit if one served.", "upstream", "protocol", "result"),
		mistaken: f.counter("messages_mistaken_total", "Messages that were to be removed and were other ones than were listed under their names, so were left. "+
			"The upstream's names for messages do not last: one is worth an alarm.", up...),
	}
}

// certificate adds a metric that is not told of but asked for.
func certificate(r prometheus.Registerer, listener string, expires func() time.Time) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        prefix + "tls_certificate_expiry_timestamp_seconds",
		Help:        "When the listener's certificate ends to be valid.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, func() float64 { return float64(expires().Unix()) }))
}

// logDropped adds the number of log lines that nobody can read.
func logDropped(r prometheus.Registerer, lines func() uint64) {
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: prefix + "log_lines_dropped_total",
		Help: "Lines of the log that were lost because nobody took them in time.",
	}, func() float64 { return float64(lines()) }))
}

// listen makes the series of a listener exist before their first event: a
// rate from nothing to one cannot be seen otherwise.
func (t *table) listen(name string) {
	for _, v := range []*prometheus.CounterVec{t.sessionsStarted, t.retrieved, t.messageBytes, t.removed, t.removalsFailed} {
		v.WithLabelValues(name)
	}
	t.sessionsOpen.WithLabelValues(name)
	t.sessionSeconds.WithLabelValues(name)
	t.loginSeconds.WithLabelValues(name)
	each(limits, func(l string) { t.refused.WithLabelValues(name, l) })
	each(pop3.Reasons, func(r string) { t.sessionsEnded.WithLabelValues(name, r) })
	each(results, func(r string) { t.logins.WithLabelValues(name, r) })
	for _, v := range versions {
		t.tls.WithLabelValues(name, v)
	}
	for _, c := range pop3.Commands() {
		each(commandResults, func(r string) { t.commands.WithLabelValues(name, c, r) })
	}
}

// known keeps a label's values a closed set.
func known(values []string, value string) string {
	if slices.Contains(values, value) {
		return value
	}
	return "unknown"
}

func each(values []string, do func(string)) {
	for _, v := range values {
		do(v)
	}
}

// A factory registers collectors under postern's prefix.
type factory struct{ registerer prometheus.Registerer }

const prefix = "postern_"

func (f factory) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	f.registerer.MustRegister(v)
	return v
}

func (f factory) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, labels)
	f.registerer.MustRegister(v)
	return v
}

func (f factory) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, labels)
	f.registerer.MustRegister(v)
	return v
}
