package consent

import (
	"net/http"
	"time"
)

// A guess at the administrator's password is slow, and only few are made at a
// time. The password itself is compared in constant time.
const (
	maxGuesses = 4
	guessTime  = 2 * time.Second
)

// administrator lets the administrator through to a page (RFC 7617).
func (s *Site) administrator(page http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, password, given := r.BasicAuth(); given && s.guess(r, password) {
			page(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="postern", charset="UTF-8"`)
		s.trouble(w, http.StatusUnauthorized, barred)
	}
}

// guess tells whether a password is right, when it is its turn. A wrong one keeps
// its turn for the time that it costs, also when whoever sent it hangs up: else
// no answer within a moment would be the answer.
func (s *Site) guess(r *http.Request, password string) bool {
	select {
	case s.guesses <- struct{}{}:
	case <-r.Context().Done():
		return false
	}
	if want := s.options.Password.Reveal(); want != "" && equal(password, want) {
		<-s.guesses
		return true
	}
	s.log.Warn("wrong password of the administrator", "remote", r.RemoteAddr)
	over := make(chan struct{})
	time.AfterFunc(guessTime, func() {
		<-s.guesses
		close(over)
	})
	select {
	case <-over:
	case <-r.Context().Done():
	}
	return false
}

// accounts lists the accounts, with a button each.
func (s *Site) accounts(w http.ResponseWriter, r *http.Request) {
	find := r.URL.Query().Get("find")
	found, more, err := s.options.Desk.Accounts(r.Context(), find)
	if err != nil {
		s.failed(w, err)
		return
	}
	s.show(w, http.StatusOK, "accounts.html", struct {
		Find  string
		Found []Account
		More  bool
	}{find, found, more})
}

// invite shows the link to send to somebody.
func (s *Site) invite(w http.ResponseWriter, r *http.Request) {
	account := r.PostFormValue("account")
	invitation, expires, err := s.options.Desk.Invite(r.Context(), account)
	if err != nil {
		s.failed(w, err)
		return
	}
	s.log.Info("invited", "account", account, "expires", expires)
	s.show(w, http.StatusOK, "invite.html", struct {
		Account, Link string
		Expires       time.Time
	}{account, Link(s.options.Public, invitation), expires})
}
