package imapc

import (
	"testing"
	"time"

	"postern/upstream"
)

// How long servers ask to be left alone, in their own words.
func TestFaultU9BackoffIsUnderstood(t *testing.T) {
	for answer, want := range map[string]time.Duration{
		"NO Request is throttled. Suggested Backoff Time: 299910 milliseconds":      299910 * time.Millisecond,
		"BAD Request is throttled. Suggested Backoff Time: 5 milliseconds\r\n":      5 * time.Millisecond,
		"BAD Request is throttled. Suggested Backoff Time: -1 milliseconds":         time.Minute,
		"BAD Request is throttled. Suggested Backoff Time: 1e9 milliseconds":        time.Minute,
		"BAD Request is throttled. Suggested Backoff Time: 99999999999999 millise":  time.Minute,
		"BAD Request is throttled. Suggested Backoff Time: 4294967295 milliseconds": 4294967295 * time.Millisecond,
		"NO Request is throttled. Suggested Backoff Time:":                          time.Minute,
		"NO [LIMIT] LOGIN Rate limit hit.":                                          time.Minute,
		"NO 451 Already reached per-10 minute limit for logins of 500":              time.Minute,
		"BYE [LIMIT] Maximum number of connections exceeded":                        15 * time.Second,
		"NO [ALERT] Too many simultaneous connections. (Failure)":                   0, // none left in a moment, perhaps
		"NO [AUTHENTICATIONFAILED] throttled":                                       0,
		"NO [UNAVAILABLE] Temporary authentication failure.":                        0,
		"NO [SERVERBUG] Internal error occurred.":                                   0,
		"NO no": 0,
	} {
		s, ok := parseStatus([]byte("* " + answer))
		if !ok {
			t.Fatalf("%q is no status", answer)
		}
		if got := upstream.Backoff(refusal(s, upstream.ErrAuth)); got != want {
			t.Errorf("%q: got back-off %v, want %v", answer, got, want)
		}
	}
}
