package metrics

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"postern/proxy/pop3"
	"postern/upstream"
)

// full returns metrics as a program with a listener and an upstream has them.
func full() (*Metrics, pop3.Hooks, upstream.Hooks) {
	m := New("1.2.3")
	m.Certificate(":995", func() time.Time { return time.Unix(2_000_000_000, 0) })
	m.LogDropped(func() uint64 { return 7 })
	m.Accounts([]string{"generated", "wrong_password"})
	m.Tokens("office", Tokens{Consents: func() (int, int, time.Time) { return 3, 1, time.Unix(1_900_000_000, 0) }})
	m.Ledger("office")
	m.Purged("office")
	m.Journal("office", memory{})
	return m, m.Sessions(":995"), m.Upstream("office", "imap")
}

// describe lists postern's own metrics for a reader: name, type, labels, help.
func describe(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), prefix) {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&b, "%s %s {%s}\n    %s\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","), f.GetHelp())
	}
	return b.String()
}

// Every metric exists before anything has happened, under the names that the
// documentation gives.
func TestNamesAreDocumented(t *testing.T) {
	m, _, _ := full()
	want, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), describe(t, m.registry)); diff != "" {
		t.Errorf("testdata/metrics.txt (-) and the metrics (+) differ:\n%s", diff)
	}
}

func TestLint(t *testing.T) {
	m, _, _ := full()
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// series returns how many series of postern's own there are.
func series(t *testing.T, m *Metrics) int {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), prefix) {
			n += len(f.GetMetric())
		}
	}
	return n
}

// Everything that can happen is counted in a series that was there before, so
// that label values are a closed set and no account has a series of its own.
func TestSeriesAreClosed(t *testing.T) {
	m, session, up := full()
	before := series(t, m)
	failures := []error{nil, upstream.ErrAuth, upstream.ErrBusy, errors.New("anything"), fmt.Errorf("x: %w", upstream.ErrRejected)}
	for i, name := range pop3.Commands() {
		for _, result := range commandResults {
			session.Command(name, result, time.Millisecond)
		}
		session.Began()
		session.Ended(pop3.Summary{Account: fmt.Sprintf("user%d@example.org", i), Upstream: "office", Reason: pop3.Reasons[i%len(pop3.Reasons)]})
	}
	for _, word := range append([]string{"ok"}, upstream.Kinds()...) {
		session.Login(word, time.Second)
	}
	for _, version := range []uint16{0, 0x0301, 0x0302, 0x0303, 0x0304} {
		session.TLS(version)
	}
	for _, limit := range []string{"total", "address", "evicted"} {
		m.Refused(":995", limit)
	}
	for _, err := range failures {
		up.Connected(time.Second, err)
		up.LoggedIn(time.Second, err)
	}
	up.RoundTrip()
	up.Octets(10, 20)
	up.Session(3, 4000)
	up.Wasted(1)
	up.Spilled(2)
	for _, hit := range []bool{true, false} {
		up.ReadAhead(hit)
		up.ListingCache(hit)
		up.WarmReuse(hit)
	}
	up.Mistaken()
	up.Disconnected()
	m.HeldBack("office")
	m.Accounts([]string{"generated"})("generated")
	if after := series(t, m); after != before {
		t.Errorf("series: got %d after the events, want the %d from before", after, before)
	}
}

func TestCounts(t *testing.T) {
	m, session, up := full()
	session.Began()
	session.Began()
	session.TLS(0x0304)
	session.Login("ok", 30*time.Millisecond)
	session.Login("auth", 3*time.Second)
	session.Command("RETR", "ok", 2*time.Millisecond)
	session.Ended(pop3.Summary{Retrieved: 3, Octets: 4096, Removed: 2, Unremoved: 1, Took: time.Minute, Reason: "quit"})
	m.Refused(":995", "address")
	m.HeldBack("office")
	up.Connected(10*time.Millisecond, nil)
	up.Connected(10*time.Millisecond, nil)
	up.Connected(time.Second, upstream.ErrUnavailable)
	up.Disconnected()
	up.LoggedIn(50*time.Millisecond, nil)
	up.LoggedIn(50*time.Millisecond, upstream.ErrAuth)
	up.RoundTrip()
	up.Octets(100, 20)
	up.Octets(1, 2)
	up.Session(2, 300)
	up.Session(5, 1<<20)
	up.Wasted(30)
	up.Wasted(4)
	up.Spilled(5)
	for _, hit := range []bool{true, true, false} {
		up.ReadAhead(hit)
		up.ListingCache(hit)
		up.WarmReuse(!hit)
	}
	up.Mistaken()

	page := scrape(t, m)
	for _, want := range []string{
		`postern_build_info{goversion="` + runtime.Version() + `",version="1.2.3"} 1`,
		`postern_sessions_open{listener=":995"} 1`,
		`postern_sessions_started_total{listener=":995"} 2`,
		`postern_sessions_ended_total{listener=":995",reason="quit"} 1`,
		`postern_sessions_ended_total{listener=":995",reason="panic"} 0`,
		`postern_session_duration_seconds_sum{listener=":995"} 60`,
		`postern_logins_total{listener=":995",result="ok"} 1`,
		`postern_logins_held_back_total{upstream="office"} 1`,
		`postern_logins_total{listener=":995",result="auth"} 1`,
		`postern_login_duration_seconds_count{listener=":995"} 2`,
		`postern_commands_total{command="RETR",listener=":995",result="ok"} 1`,
		`postern_command_duration_seconds_bucket{command="RETR",le="0.005"} 1`,
		`postern_command_duration_seconds_bucket{command="RETR",le="0.001"} 0`,
		`postern_messages_retrieved_total{listener=":995"} 3`,
		`postern_message_sent_bytes_total{listener=":995"} 4096`,
		`postern_messages_removed_total{listener=":995"} 2`,
		`postern_removals_failed_total{listener=":995"} 1`,
		`postern_tls_handshakes_total{listener=":995",version="1.3"} 1`,
		`postern_tls_certificate_expiry_timestamp_seconds{listener=":995"} 2e+09`,
		`postern_connections_refused_total{limit="address",listener=":995"} 1`,
		`postern_log_lines_dropped_total 7`,
		`postern_upstream_connections_open{protocol="imap",upstream="office"} 1`,
		`postern_upstream_connections_opened_total{protocol="imap",upstream="office"} 2`,
		`postern_upstream_connections_failed_total{kind="unavailable",protocol="imap",upstream="office"} 1`,
		`postern_upstream_connect_duration_seconds_count{protocol="imap",upstream="office"} 3`,
		`postern_upstream_logins_total{protocol="imap",result="ok",upstream="office"} 1`,
		`postern_upstream_logins_total{protocol="imap",result="auth",upstream="office"} 1`,
		`postern_upstream_login_duration_seconds_count{protocol="imap",upstream="office"} 2`,
		`postern_upstream_round_trips_total{protocol="imap",upstream="office"} 1`,
		`postern_upstream_received_bytes_total{protocol="imap",upstream="office"} 101`,
		`postern_upstream_sent_bytes_total{protocol="imap",upstream="office"} 22`,
		`postern_upstream_session_round_trips_bucket{protocol="imap",upstream="office",le="2"} 1`,
		`postern_upstream_session_round_trips_sum{protocol="imap",upstream="office"} 7`,
		`postern_upstream_session_bytes_bucket{protocol="imap",upstream="office",le="1024"} 1`,
		`postern_upstream_session_bytes_count{protocol="imap",upstream="office"} 2`,
		`postern_read_ahead_total{protocol="imap",result="hit",upstream="office"} 2`,
		`postern_read_ahead_total{protocol="imap",result="miss",upstream="office"} 1`,
		`postern_read_ahead_wasted_bytes_total{protocol="imap",upstream="office"} 34`,
		`postern_read_ahead_spilled_bytes_total{protocol="imap",upstream="office"} 5`,
		`postern_listings_kept_total{protocol="imap",result="hit",upstream="office"} 2`,
		`postern_warm_logins_total{protocol="imap",result="miss",upstream="office"} 2`,
		`postern_messages_mistaken_total{protocol="imap",upstream="office"} 1`,
	} {
		if !slices.Contains(page, want) {
			t.Errorf("no line %s", want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if !slices.ContainsFunc(page, func(line string) bool { return strings.HasPrefix(line, name+" ") }) {
			t.Errorf("no metric %s", name)
		}
	}
}

func scrape(t *testing.T, m *Metrics) (lines []string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: got status %d, want 200", w.Code)
	}
	return strings.Split(w.Body.String(), "\n")
}

// Hooks are called from every session at once, also during a scrape.
func TestConcurrentHooks(t *testing.T) {
	m, session, up := full()
	var all sync.WaitGroup
	for range maxScrapes {
		all.Go(func() { scrape(t, m) })
	}
	for range 50 {
		all.Go(func() {
			for range 100 {
				session.Began()
				session.Command("STAT", "ok", time.Millisecond)
				up.Octets(1, 1)
				session.Ended(pop3.Summary{Reason: "quit"})
			}
		})
	}
	all.Wait()
	if got := testutil.ToFloat64(m.table.sessionsOpen); got != 0 {
		t.Errorf("sessions open: got %v, want 0", got)
	}
	if got := testutil.ToFloat64(m.table.sessionsStarted); got != 5000 {
		t.Errorf("sessions started: got %v, want 5000", got)
	}
}
