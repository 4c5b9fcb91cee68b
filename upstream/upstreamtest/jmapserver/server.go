// Package jmapserver is a small JMAP server with one account in memory, for
// tests and demonstrations: as much of RFC 8620 and RFC 8621 as reading and
// removing mail takes. What a real server cannot be made to get wrong, its
// hooks can.
package jmapserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
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

	authorizations map[string]bool

	mu       sync.Mutex
	letters  []*letter // oldest first
	last     int       // number of the newest letter ever
	state    int
	sessions int // state of the session object
	calls    []string
}

// An Answer is the name and the arguments of a method response.
type Answer struct {
	Name string
	Args any
}

// Error is the answer of a method that failed (RFC 8620 section 3.6.2).
func Error(kind string) *Answer { return &Answer{"error", object{"type": kind}} }

type object = map[string]any

type letter struct {
	id, blob string
	raw      string
	boxes    map[string]bool
}

// The ids of the account and its mailboxes. The names are none that an English
// client would look for.
const (
	AccountID = "a1"
	Inbox     = "mb-1"
	Archive   = "mb-2"
	Trash     = "mb-3"
)

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
		authorizations: map[string]bool{r.Header.Get("Authorization"): true, "Bearer " + password: true},
	}
}

// Deliver implements upstreamtest.Mailbox.
func (s *Server) Deliver(_ testing.TB, raw string) { s.Add(raw, Inbox) }

// Add puts a message into mailboxes, and returns its id.
func (s *Server) Add(raw string, boxes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.state++
	l := &letter{id: fmt.Sprintf("M%07d", s.last), blob: fmt.Sprintf("B/%07d?%%", s.last), raw: raw, boxes: map[string]bool{}}
	for _, box := range boxes {
		l.boxes[box] = true
	}
	s.letters = append(s.letters, l)
	return l.id
}

// Rename gives a message another id.
func (s *Server) Rename(id, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.find(id).id = to
}

// Move puts a message into exactly these mailboxes.
func (s *Server) Move(id string, boxes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state++
	l := s.find(id)
	clear(l.boxes)
	for _, box := range boxes {
		l.boxes[box] = true
	}
}

// Take implements upstreamtest.Mailbox.
func (s *Server) Take(t testing.TB, raw string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.letters, func(l *letter) bool { return l.raw == raw })
	if at < 0 {
		t.Fatalf("no such message to take: %.60q", raw)
	}
	s.state++
	s.letters = slices.Delete(s.letters, at, at+1)
}

// Messages implements upstreamtest.Mailbox.
func (s *Server) Messages(testing.TB) []string { return s.In(Inbox) }

// In returns what a mailbox holds, oldest first.
func (s *Server) In(box string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, l := range s.letters {
		if l.boxes[box] {
			all = append(all, l.raw)
		}
	}
	return all
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
	if !s.authorizations[r.Header.Get("Authorization")] {
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
		"username": "", "state": s.sessionState(),
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

func (s *Server) answer(name string, args object, answered map[string]object) (*Answer, error) {
	if ref, ok := args["#ids"].(object); ok {
		of, _ := ref["resultOf"].(string)
		ids, ok := answered[of]["ids"].([]any)
		if !ok {
			return Error("invalidResultReference"), nil
		}
		args["ids"] = ids
	} else if ids, ok := args["ids"].([]any); ok && len(ids) > s.MaxObjectsInGet {
		return nil, errLimit("maxObjectsInGet")
	}
	if s.Method != nil {
		if a := s.Method(name, args); a != nil {
			return a, nil
		}
	}
	if args["accountId"] != AccountID {
		return Error("accountNotFound"), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case "Mailbox/get":
		return &Answer{name, s.mailboxes()}, nil
	case "Email/query":
		return &Answer{name, s.query(args)}, nil
	case "Email/get":
		return s.get(name, args), nil
	case "Email/set":
		return s.set(name, args)
	}
	return Error("unknownMethod"), nil
}

func (s *Server) mailboxes() object {
	var list []any
	for _, box := range []struct{ id, name, role string }{
		{Archive, "INBOX", "archive"}, {Inbox, "Posteingang", "inbox"}, {Trash, "Papierkorb", "trash"},
	} {
		total := 0
		for _, l := range s.letters {
			if l.boxes[box.id] {
				total++
			}
		}
		list = append(list, object{"id": box.id, "name": box.name, "role": box.role, "totalEmails": total, "myRights": object{
			"mayReadItems": true, "mayAddItems": true, "mayRemoveItems": true, "maySetSeen": true, "maySetKeywords": true,
			"mayCreateChild": true, "mayRename": true, "mayDelete": false, "maySubmit": true,
		}})
	}
	return object{"accountId": AccountID, "state": "0", "list": list, "notFound": nil}
}

func (s *Server) query(args object) object {
	filter, _ := args["filter"].(object)
	box, _ := filter["inMailbox"].(string)
	ids := []any{}
	for _, l := range s.letters {
		if l.boxes[box] {
			ids = append(ids, l.id)
		}
	}
	total := len(ids)
	position, _ := args["position"].(float64)
	ids = ids[min(int(position), len(ids)):]
	if limit, ok := args["limit"].(float64); ok && int(limit) < len(ids) {
		ids = ids[:int(limit)]
	}
	answer := object{
		"accountId": AccountID, "queryState": strconv.Itoa(s.state), "canCalculateChanges": false,
		"position": int(position), "ids": ids,
	}
	if args["calculateTotal"] == true {
		answer["total"] = total
	}
	return answer
}

// find returns the message of that id, or nil.
func (s *Server) find(id string) *letter {
	at := slices.IndexFunc(s.letters, func(l *letter) bool { return l.id == id })
	if at < 0 {
		return nil
	}
	return s.letters[at]
}

func (s *Server) get(name string, args object) *Answer {
	ids, ok := args["ids"].([]any)
	if !ok {
		return Error("requestTooLarge") // all of them
	}
	byID := make(map[string]*letter, len(s.letters))
	for _, l := range s.letters {
		byID[l.id] = l
	}
	list, missing := []any{}, []any{}
	for _, v := range ids {
		id, _ := v.(string)
		l := byID[id]
		if l == nil {
			missing = append(missing, id)
			continue
		}
		all := object{"id": l.id, "blobId": l.blob, "size": len(l.raw), "mailboxIds": maps.Clone(l.boxes)}
		some := object{"id": l.id}
		for _, p := range args["properties"].([]any) {
			some[p.(string)] = all[p.(string)]
		}
		list = append(list, some)
	}
	return &Answer{name, object{"accountId": AccountID, "state": strconv.Itoa(s.state), "list": list, "notFound": missing}}
}

func (s *Server) set(name string, args object) (*Answer, error) {
	destroy, _ := args["destroy"].([]any)
	update, _ := args["update"].(object)
	if len(destroy)+len(update) > s.MaxObjectsInSet {
		return nil, errLimit("maxObjectsInSet")
	}
	before := strconv.Itoa(s.state)
	if in, ok := args["ifInState"].(string); ok && in != before {
		return Error("stateMismatch"), nil
	}
	s.state++
	destroyed, notDestroyed, updated, notUpdated := []any{}, object{}, object{}, object{}
	for _, v := range destroy {
		id, _ := v.(string)
		at := slices.IndexFunc(s.letters, func(l *letter) bool { return l.id == id })
		if at < 0 {
			notDestroyed[id] = object{"type": "notFound"}
			continue
		}
		s.letters = slices.Delete(s.letters, at, at+1)
		destroyed = append(destroyed, id)
	}
	for id, v := range update {
		patch, _ := v.(object)
		if kind := s.find(id).patch(patch); kind != "" {
			notUpdated[id] = object{"type": kind}
			continue
		}
		updated[id] = nil
	}
	return &Answer{name, object{
		"accountId": AccountID, "oldState": before, "newState": strconv.Itoa(s.state), "created": nil, "notCreated": nil,
		"updated": updated, "notUpdated": notUpdated, "destroyed": destroyed, "notDestroyed": notDestroyed,
	}}, nil
}

// patch changes the mailboxes of a message; it returns the error's type.
func (l *letter) patch(p object) string {
	if l == nil {
		return "notFound"
	}
	boxes := maps.Clone(l.boxes)
	for path, in := range p {
		box, ok := strings.CutPrefix(path, "mailboxIds/")
		if !ok {
			return "invalidProperties"
		}
		if delete(boxes, box); in == true {
			boxes[box] = true
		}
	}
	if len(boxes) == 0 {
		return "invalidProperties" // RFC 8621 section 4.1.1: in at least one
	}
	l.boxes = boxes
	return ""
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

// escapeAll writes what New's blobIds hold of reserved characters.
var escapeAll = strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F")
