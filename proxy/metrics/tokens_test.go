package metrics

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/upstream"
)

func TestTokensAreCounted(t *testing.T) {
	m := New("1.2.3")
	counted := m.Tokens("google", Tokens{
		Consents:    func() (int, int, time.Time) { return 40, 2, time.Unix(1_900_000_000, 0) },
		Certificate: time.Unix(1_800_000_000, 0),
	})
	m.Tokens("office", Tokens{Consents: func() (int, int, time.Time) { return 0, 0, time.Time{} }})
	counted(time.Second, nil)
	counted(time.Second, fmt.Errorf("ann: %w", upstream.ErrConsent))
	counted(time.Second, fmt.Errorf("anything"))
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`postern_token_requests_total{result="ok",upstream="google"} 1`,
		`postern_token_requests_total{result="consent",upstream="google"} 1`,
		`postern_token_requests_total{result="unavailable",upstream="google"} 1`,
		`postern_token_requests_total{result="ok",upstream="office"} 0`,
		`postern_token_request_duration_seconds_count{upstream="google"} 3`,
		`postern_token_consents{state="good",upstream="google"} 40`,
		`postern_token_consents{state="lost",upstream="google"} 2`,
		`postern_token_consent_expiry_timestamp_seconds{upstream="google"} 1.9e+09`,
		`postern_token_consent_expiry_timestamp_seconds{upstream="office"} 0`,
		`postern_token_certificate_expiry_timestamp_seconds{upstream="google"} 1.8e+09`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}
