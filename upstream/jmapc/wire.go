package jmapc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"postern/upstream"
)

const (
	maxSession   = 1 << 20  // octets of a session object, decompressed
	maxAnswer    = 16 << 20 // octets of an API answer, decompressed
	maxProblem   = 16 << 10 // octets read of an error's body
	maxRedirects = 5
)

// A wire sends the requests of one account. It never changes, and may be used
// by several goroutines.
type wire struct {
	u       *Upstream
	proof   proof
	session *url.URL // where the session object is
	origins []string // who is told the credentials; nobody else is asked anything
	cost    *cost
}

// A cost is what a session has taken.
type cost struct {
	trips  atomic.Int64
	octets atomic.Int64 // of requests and answers, without their headers
}

func newWire(u *Upstream, p proof, session *url.URL) wire {
	return wire{u: u, proof: p, session: session, origins: []string{origin(session)}, cost: new(cost)}
}

// origin is what of a URL decides who is talked to (RFC 6454 section 4).
func origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Port() == "" {
		host += ":" + map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + host
}

// client returns an HTTP client whose answers are at most limit octets long.
// It has no cookies and no time limit of its own: contexts bound it.
func (w wire) client(limit int64) *http.Client {
	return &http.Client{Transport: sender{w, limit}, CheckRedirect: checkRedirect}
}

// checkRedirect follows a GET a few times. Where to is judged by the sender.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if via[0].Method != http.MethodGet || len(via) > maxRedirects {
		return fmt.Errorf("%w: redirected to %s", upstream.ErrRejected, r.URL.Redacted())
	}
	return nil
}

// A sender is a wire with a limit (http.RoundTripper).
type sender struct {
	wire
	limit int64
}

// RoundTrip adds the credentials, and turns refusals into errors.
func (s sender) RoundTrip(r *http.Request) (*http.Response, error) {
	if o := origin(r.URL); !slices.Contains(s.origins, o) {
		closeBody(r)
		return nil, fmt.Errorf("%w: %s is not told the credentials of %s: if it should be, set it as the upstream's url",
			upstream.ErrRejected, o, origin(s.session))
	}
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", s.u.userAgent())
	answer, err := s.proof.roundTrip(r, s.send)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 400 {
		defer answer.Body.Close()
		return nil, newHTTPError(answer)
	}
	answer.Body = &limitedBody{answer.Body, s.limit, &s.cost.octets}
	return answer, nil
}

func (s sender) send(r *http.Request) (*http.Response, error) {
	s.cost.trips.Add(1)
	s.cost.octets.Add(max(0, r.ContentLength))
	if s.u.o.Hooks.RoundTrip != nil {
		s.u.o.Hooks.RoundTrip()
	}
	return s.u.transport.RoundTrip(r)
}

func (u *Upstream) userAgent() string {
	if u.o.Version == "" {
		return "postern"
	}
	return "postern/" + u.o.Version
}

var errTooLong = errors.New("answer too long")

// A limitedBody fails after so many octets.
type limitedBody struct {
	io.ReadCloser
	left int64
	read *atomic.Int64 // counts all
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// An httpError is an answer that is no success.
type httpError struct {
	Status     int
	RetryAfter time.Duration // -1 if the server names none
	Type       string        // of a problem details object (RFC 7807), or empty
	Limit      string        // which one, where Type is problemLimit
}

// The problem types of RFC 8620 section 3.6.1 that are acted on.
const problemLimit = "urn:ietf:params:jmap:error:limit"

func newHTTPError(answer *http.Response) *httpError {
	e := &httpError{Status: answer.StatusCode, RetryAfter: retryAfter(answer.Header.Get("Retry-After"))}
	body := io.LimitReader(answer.Body, maxProblem)
	defer io.Copy(io.Discard, body) // so that the connection can be kept
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if kind != "application/problem+json" && kind != "application/json" {
		return e
	}
	var problem struct{ Type, Limit string }
	if json.NewDecoder(body).Decode(&problem) == nil {
		e.Type, e.Limit = brief(problem.Type), brief(problem.Limit)
	}
	return e
}

// discard ends an answer that nobody reads, so that its connection can be kept.
func discard(answer *http.Response) {
	io.Copy(io.Discard, io.LimitReader(answer.Body, maxProblem))
	answer.Body.Close()
}

// retryAfter reads a number of seconds or a date (RFC 9110 section 10.2.3).
func retryAfter(v string) time.Duration {
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return -1
}

func (e *httpError) Error() string {
	s := fmt.Sprintf("HTTP status %d", e.Status)
	if e.Type != "" {
		s += fmt.Sprintf(" %q %q", e.Type, e.Limit)
	}
	if e.RetryAfter >= 0 {
		s += fmt.Sprintf(", retry after %v", e.RetryAfter)
	}
	return s
}

// Unwrap is what the status means to a session that is logged in already. 401
// is an outage then: the credentials were good a moment ago, and a client that
// hears otherwise forgets them.
func (e *httpError) Unwrap() error {
	if e.Status == http.StatusForbidden {
		return upstream.ErrRejected
	}
	return upstream.WithBackoff(upstream.ErrUnavailable, e.backoff())
}

// backoff is how long the server wants no login of this account.
func (e *httpError) backoff() time.Duration {
	switch {
	case e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable:
		return 0
	case e.RetryAfter < 0 && e.Status == http.StatusTooManyRequests:
		return time.Minute // longer than most clients wait before they try again
	}
	return e.RetryAfter
}
