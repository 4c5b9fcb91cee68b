package oauth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"postern/upstream"
)

// A Loopback waits on this machine for the answer that a person's browser, on
// the same machine, brings back from the provider (RFC 8252 section 7.3).
type Loopback struct {
	listener net.Listener
	host     string
}

// Listen opens a port for the answer. host is what the provider wants to read
// in the address: 127.0.0.1, or localhost.
func Listen(host string) (*Loopback, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Loopback{listener, host}, nil
}

// Redirect is where the provider sends the browser.
func (l *Loopback) Redirect() string {
	_, port, _ := net.SplitHostPort(l.listener.Addr().String())
	return "http://" + net.JoinHostPort(l.host, port) + "/"
}

// Close ends Wait.
func (l *Loopback) Close() error { return l.listener.Close() }

// Wait returns the answer to r: requests without its state are none, and do
// not end the wait. It is to be called once.
func (l *Loopback) Wait(ctx context.Context, r *Request) (url.Values, error) {
	answers := make(chan url.Values, 1)
	server := &http.Server{
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   10 * time.Second,
		MaxHeaderBytes: 32 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, got *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Referrer-Policy", "no-referrer")
			w.Header().Set("Cache-Control", "no-store")
			answer := got.URL.Query()
			if got.Method != http.MethodGet || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(r.state)) != 1 {
				http.Error(w, "Not found", http.StatusNotFound)
				return
			}
			fmt.Fprintln(w, "Done. postern's command in the terminal goes on; this page can be closed.")
			select {
			case answers <- answer:
			default:
			}
		}),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l.listener) }()
	defer server.Close()
	select {
	case answer := <-answers:
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		server.Shutdown(leave) // so that the browser is shown the page
		return answer, nil
	case err := <-failed:
		return nil, fmt.Errorf("wait for the browser: %w: %w", err, upstream.ErrUnavailable)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pasted is the answer in an address that a person copied from their browser.
func Pasted(address string) (url.Values, error) {
	u, err := url.Parse(address)
	if err != nil || u.Query().Get("state") == "" {
		return nil, ErrForeign
	}
	return u.Query(), nil
}
