package consent

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"postern/upstream"
)

// invited shows what a link is for. Nothing comes of looking at it: mail
// scanners and previews open links, too.
func (s *Site) invited(w http.ResponseWriter, r *http.Request) {
	i, err := s.options.Desk.Invited(r.Context(), invitation(r))
	if err != nil {
		s.failed(w, err)
		return
	}
	s.show(w, http.StatusOK, "invited.html", i)
}

// begin sends the browser on to the provider. That is a page with a link: a
// redirection would have to be allowed by the policy for forms of this page,
// which cannot name all the hosts that a provider's login goes through.
func (s *Site) begin(w http.ResponseWriter, r *http.Request) {
	request, err := s.options.Desk.Begin(r.Context(), invitation(r), s.address("connect", "callback"))
	if err != nil {
		s.failed(w, err)
		return
	}
	browser := newBrowser()
	s.pending.put(browser, visit{request: request, invitation: invitation(r)}, requestLife)
	http.SetCookie(w, s.cookie(browser))
	s.show(w, http.StatusOK, "begin.html", request.URL())
}

// callback takes the provider's answer. What comes of it is another page, so
// that its address, which holds a code, is nowhere to be seen or reloaded.
func (s *Site) callback(w http.ResponseWriter, r *http.Request) {
	browser, ok := s.browser(r)
	if v, _ := s.pending.get(browser); ok && v.settings != nil {
		s.toDone(w, r) // the button for back
		return
	}
	answer := r.URL.Query()
	request, ok := s.pending.take(browser, answer.Get("state"))
	if !ok {
		s.trouble(w, http.StatusBadRequest, unasked)
		return
	}
	settings, err := request.Finish(r.Context(), answer)
	if err != nil {
		s.failed(w, err)
		return
	}
	s.pending.put(browser, visit{settings: &settings}, settingsLife)
	s.toDone(w, r)
}

func (s *Site) toDone(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, s.address("connect", "done"), http.StatusSeeOther)
}

// done shows the settings, for as long as a person may need to type them in.
func (s *Site) done(w http.ResponseWriter, r *http.Request) {
	browser, _ := s.browser(r)
	v, _ := s.pending.get(browser)
	if v.settings == nil {
		s.trouble(w, http.StatusNotFound, shown)
		return
	}
	s.show(w, http.StatusOK, "done.html", struct {
		Settings
		Password string
		Until    string
	}{*v.settings, v.settings.Password.Reveal(), v.until.UTC().Format("15:04 MST")})
}

func invitation(r *http.Request) upstream.Secret {
	return upstream.NewSecret(r.PathValue("invitation"))
}

// cookie makes a cookie that comes back from the provider's page (SameSite
// Lax), to this host only (RFC 6265bis section 4.1.3.2) and, without TLS, as
// safely as can be.
func (s *Site) cookie(browser upstream.Secret) *http.Cookie {
	return &http.Cookie{
		Name: s.cookieName(), Value: browser.Reveal(), Path: "/", MaxAge: int((requestLife + settingsLife) / time.Second),
		HttpOnly: true, Secure: s.overTLS(), SameSite: http.SameSiteLaxMode,
	}
}

func (s *Site) overTLS() bool { return s.options.Public.Scheme == "https" }

func (s *Site) cookieName() string {
	if s.overTLS() {
		return "__Host-postern"
	}
	return "postern"
}

func (s *Site) browser(r *http.Request) (upstream.Secret, bool) {
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return upstream.Secret{}, false
	}
	return upstream.NewSecret(c.Value), true
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// failed says what is wrong in a person's words; the log has the rest.
func (s *Site) failed(w http.ResponseWriter, err error) {
	for _, t := range []struct {
		err    error
		status int
		words  words
	}{
		{ErrInvitation, http.StatusNotFound, used},
		{ErrRefused, http.StatusOK, refused},
		{ErrOther, http.StatusOK, other},
	} {
		if errors.Is(err, t.err) {
			s.log.Info("consent not given", "err", err)
			s.trouble(w, t.status, t.words)
			return
		}
	}
	s.log.Warn("consent page", "err", err)
	s.trouble(w, http.StatusServiceUnavailable, later)
}

// Words are a page that says what went wrong, and what to do.
type words struct{ Title, Text string }

var (
	used    = words{"This link does not work any more", "Each link works once, and for a few days. Ask your mail administrator for another."}
	unasked = words{"That answer came unasked", "It may have taken too long, or the link was opened in another browser than the one that came back. Open your link once more."}
	refused = words{"You did not agree", "Nothing was changed. If that was a mistake, open your link once more."}
	other   = words{"That was another mailbox", "You agreed with another account than the one that the link is for. Log out at the provider, or use a private window, and open your link once more."}
	later   = words{"That did not work", "Nothing was changed. Open your link once more in a few minutes; if it still does not work, tell your mail administrator."}
	shown   = words{"Nothing to see any more", "The settings were shown for some minutes only. If you could not write the password down, ask your mail administrator for another."}
	noPage  = words{"No such page", "Is the link complete? Mail programs sometimes break long ones in two."}
	foreign = words{"Not from here", "This form was sent by another site."}
	barred  = words{"For the administrator", "This page asks for the password in admin.password_file."}
)

// trouble shows a page of words.
func (s *Site) trouble(w http.ResponseWriter, status int, t words) {
	s.show(w, status, "trouble.html", t)
}

// grouped is a password in the groups that it is best read and typed in.
func grouped(password string) []string { return strings.Fields(password) }
