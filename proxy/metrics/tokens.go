package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Tokens is what is told in every scrape of the access tokens for an upstream's
// accounts. A zero time is told as 0.
type Tokens struct {
	// Consents are how many accounts have given it, and how many have to do so
	// anew, and when the next of those that are good ends.
	Consents func() (good, lost int, ends time.Time)
	// Certificate is when what proves postern to the provider ends.
	Certificate time.Time
}

// Tokens adds an upstream that takes tokens, and returns what counts the
// requests for them.
func (m *Metrics) Tokens(name string, t Tokens) func(took time.Duration, err error) {
	labels := prometheus.Labels{"upstream": name}
	gauge := func(metric, help, state string, value func() float64) {
		o := prometheus.GaugeOpts{Name: prefix + metric, Help: help, ConstLabels: labels}
		if state != "" {
			o.ConstLabels = prometheus.Labels{"upstream": name, "state": state}
		}
		m.registry.MustRegister(prometheus.NewGaugeFunc(o, value))
	}
	const consents = "Accounts whose owners have consented, by whether their consent is good still."
	gauge("token_consents", consents, "good", func() float64 { good, _, _ := t.Consents(); return float64(good) })
	gauge("token_consents", consents, "lost", func() float64 { _, lost, _ := t.Consents(); return float64(lost) })
	gauge("token_consent_expiry_timestamp_seconds", "When the next of those consents ends, as far as the provider tells; else 0.", "",
		func() float64 { _, _, ends := t.Consents(); return seconds(ends) })
	gauge("token_certificate_expiry_timestamp_seconds", "When the certificate that proves postern to the provider ends to be valid; 0 if there is none.", "",
		func() float64 { return seconds(t.Certificate) })
	each(results, func(r string) { m.table.tokenRequests.WithLabelValues(name, r) })
	took := m.table.tokenSeconds.WithLabelValues(name)
	return func(d time.Duration, err error) {
		took.Observe(d.Seconds())
		m.table.tokenRequests.WithLabelValues(name, result(err)).Inc()
	}
}

func seconds(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.Unix())
}
