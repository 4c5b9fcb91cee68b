// Package jmapserver is a small JMAP server with one account in memory, for
// tests: as much of RFC 8620 and RFC 8621 as reading and removing mail takes.
// What a real server cannot be made to get wrong, its hooks can.
package jmapserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Server is an http.Handler and the mailbox behind it (upstreamtest.Mailbox).
// Its exported fields are set before the first request.
type Server struct {
	// Limits, as the core capability states them; all are enforced but the
	// concurrency.
	MaxObjectsInGet, MaxObjectsInSet, MaxSizeRequest, MaxConcurrentRequests int
	// Ranges makes downloads answer 206 to a Range.
	Ranges bool
	// Absolute makes the session's URLs absolute, with this in front.
	Absolute string

	// HTTP sees every request that is authorized first, and tells whether it
	// answered it.
	HTTP func(w http.ResponseWriter, r *http.Request) bool
	// Session may change the session object before it is sent.
	Session func(session map[string]any)
	// Method sees every method call first; what it returns, unless nil, is the
	// answer.
	Method func(name string, args map[string]any) *Answer

	user           string
	authorizations map[string]bool

	mu        sync.Mutex
	mailboxes []Mailbox
	letters   []*letter // in order of arrival
	last      int       // number of the newest letter ever
	state     int
	gone      map[string]int // by id: the state in which it went
	destroyed []Destroyed
	sessions  int // state of the session object
	calls     []string
}

type object = map[string]any

const (
	coreURI = "urn:ietf:params:jmap:core"
	mailURI = "urn:ietf:params:jmap:mail"
)

// New returns a server with an empty mailbox that these credentials open, by
// Basic, or the password as a Bearer token.
func New(user, password string) *Server {
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, password)
	return &Server{
		MaxObjectsInGet: 500, MaxObjectsInSet: 500, MaxSizeRequest: 1 << 20, MaxConcurrentRequests: 4,
		user:           user,
		authorizations: map[string]bool{r.Header.Get("Authorization"): true, "Bearer " + password: true},
		gone:           map[string]int{},
		mailboxes: []Mailbox{
			{ID: Archive, Name: "INBOX", Role: "archive"},
			{ID: Inbox, Name: "Posteingang", Role: "inbox"},
			{ID: Trash, Name: "Papierkorb", Role: "trash"},
		},
	}
}

// Revoke makes the credentials wrong.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.authorizations)
}

// AllowOnly makes a value of Authorization right, and every other wrong.
func (s *Server) AllowOnly(authorization string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorizations = map[string]bool{authorization: true}
}

func (s *Server) knows(authorization string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.authorizations[authorization]
}

// Touch changes the account's Email state, as new mail elsewhere does.
func (s *Server) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state++
}

// ChangeSession gives the session object another state.
func (s *Server) ChangeSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
}

// Calls returns the names of all methods called so far, and "session" and
// "download" for those requests.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/.well-known/jmap" {
		http.Redirect(w, r, "/session", http.StatusMovedPermanently)
		return
	}
	if !s.knows(r.Header.Get("Authorization")) {
		w.Header().Set("WWW-Authenticate", `Basic realm="mail"`)
		http.Error(w, "<html>who are you?</html>", http.StatusUnauthorized)
		return
	}
	if s.HTTP != nil && s.HTTP(w, r) {
		return
	}
	switch {
	case r.URL.Path == "/session":
		s.serveSession(w)
	case r.URL.Path == "/api" && r.Method == http.MethodPost:
		s.serveAPI(w, r)
	case strings.HasPrefix(r.URL.Path, "/download/"):
		s.serveBlob(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
}

func (s *Server) serveSession(w http.ResponseWriter) {
	s.note("session")
	session := object{
		"username": s.user, "state": s.sessionState(),
		"apiUrl":      s.Absolute + "/api",
		"downloadUrl": s.Absolute + "/download/{accountId}/{blobId}/{name}?type={type}",
		"uploadUrl":   s.Absolute + "/upload/{accountId}/", "eventSourceUrl": s.Absolute + "/events",
		"capabilities": object{
			coreURI: object{
				"maxSizeUpload": 1 << 20, "maxConcurrentUpload": 4,
				"maxSizeRequest": s.MaxSizeRequest, "maxConcurrentRequests": s.MaxConcurrentRequests,
				"maxCallsInRequest": 16, "maxObjectsInGet": s.MaxObjectsInGet, "maxObjectsInSet": s.MaxObjectsInSet,
				"collationAlgorithms": []string{},
			},
			mailURI: object{},
		},
		"accounts": object{AccountID: object{
			"name": "account", "isPersonal": true, "isReadOnly": false,
			"accountCapabilities": object{coreURI: object{}, mailURI: object{"emailQuerySortOptions": []string{"receivedAt"}}},
		}},
		"primaryAccounts": object{mailURI: AccountID},
	}
	if s.Session != nil {
		s.Session(session)
	}
	writeJSON(w, session)
}

func (s *Server) sessionState() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strconv.Itoa(s.sessions)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(v) // a client that went away is no fault
}

// Problem answers with a problem details object (RFC 8620 section 3.6.1).
func Problem(w http.ResponseWriter, status int, kind, limit string) {
	w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(object{"type": "urn:ietf:params:jmap:error:" + kind, "status": status, "limit": limit})
}

// errLimit is a request beyond a limit, by the limit's name.
type errLimit string

func (e errLimit) Error() string { return string(e) }

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(s.MaxSizeRequest)+1))
	if err != nil {
		return
	}
	if len(body) > s.MaxSizeRequest {
		Problem(w, http.StatusBadRequest, "limit", "maxSizeRequest")
		return
	}
	var request struct {
		Using       []string
		MethodCalls [][3]json.RawMessage
	}
	if err := json.Unmarshal(body, &request); err != nil || !slices.Contains(request.Using, mailURI) {
		Problem(w, http.StatusBadRequest, "notRequest", "")
		return
	}
	responses := []any{}
	answered := map[string]object{} // by call id
	for _, call := range request.MethodCalls {
		var name, id string
		args := object{}
		if json.Unmarshal(call[0], &name) != nil || json.Unmarshal(call[1], &args) != nil || json.Unmarshal(call[2], &id) != nil {
			Problem(w, http.StatusBadRequest, "notRequest", "")
			return
		}
		s.note(name)
		a, err := s.answer(name, args, answered)
		if err != nil {
			Problem(w, http.StatusBadRequest, "limit", err.Error())
			return
		}
		if o, ok := a.Args.(object); ok {
			answered[id] = o
		}
		responses = append(responses, []any{a.Name, a.Args, id})
	}
	writeJSON(w, object{"methodResponses": responses, "sessionState": s.sessionState()})
}

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request) {
	s.note("download")
	// Still escaped: a blobId may hold what a path cannot.
	rest, _ := strings.CutPrefix(r.URL.EscapedPath(), "/download/"+AccountID+"/")
	escaped, _, _ := strings.Cut(rest, "/")
	raw, ok := s.blob(escaped)
	if !ok || r.URL.Query().Get("type") == "" {
		Problem(w, http.StatusNotFound, "notFound", "")
		return
	}
	if s.Ranges {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(raw)))
		return
	}
	w.Header().Set("Accept-Ranges", "none")
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	io.WriteString(w, raw) // a client that went away is no fault
}

func (s *Server) blob(escaped string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.letters {
		if escaped == escapeAll.Replace(l.blob) {
			return l.raw, true
		}
	}
	return "", false
}

// escapeAll writes the reserved characters of a blobId as a URL has them.
var escapeAll = strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F")
