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

// A Mailbox is a place for messages.
type Mailbox struct {
	ID, Name, Parent, Role string
	// ReadOnly takes away the rights to change anything in it.
	ReadOnly bool
}

// A Destroyed is a message that Email/set destroyed.
type Destroyed struct {
	ID    string
	Boxes []string // that it was in then
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
	keywords map[string]bool
	received time.Time
	created  int // the state in which it came
	changed  int // the state in which it last changed
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

// SetMailboxes replaces the mailboxes. Their messages stay where they are.
func (s *Server) SetMailboxes(edit func(all []Mailbox) []Mailbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mailboxes = edit(slices.Clone(s.mailboxes))
}

// Mailboxes returns all of them.
func (s *Server) Mailboxes() []Mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mailboxes)
}

// Destroyed returns the messages that Email/set destroyed, in that order.
func (s *Server) Destroyed() []Destroyed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.destroyed)
}

// Deliver implements upstreamtest.Mailbox.
func (s *Server) Deliver(_ testing.TB, raw string) { s.Add(raw, Inbox) }

// Add puts a message into mailboxes, and returns its id.
func (s *Server) Add(raw string, boxes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.state++
	l := &letter{
		id: fmt.Sprintf("M%07d", s.last), blob: fmt.Sprintf("B/%07d?%%", s.last), raw: raw,
		boxes: map[string]bool{}, keywords: map[string]bool{},
		received: time.Date(2026, 1, 1, 0, 0, s.last, 0, time.UTC), created: s.state, changed: s.state,
	}
	for _, box := range boxes {
		l.boxes[box] = true
	}
	s.letters = append(s.letters, l)
	return l.id
}

// Flag sets keywords of a message.
func (s *Server) Flag(id string, keywords ...string) {
	s.change(id, func(l *letter) {
		clear(l.keywords)
		for _, k := range keywords {
			l.keywords[k] = true
		}
	})
}

// Keywords returns those of a message, sorted.
func (s *Server) Keywords(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.find(id).keywords))
}

// Date says when a message was received.
func (s *Server) Date(id string, at time.Time) {
	s.change(id, func(l *letter) { l.received = at })
}

func (s *Server) change(id string, do func(l *letter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state++
	l := s.find(id)
	l.changed = s.state
	do(l)
}

// Rename gives a message another id.
func (s *Server) Rename(id, to string) {
	s.change(id, func(l *letter) {
		s.gone[id] = s.state
		delete(s.gone, to)
		l.id, l.created = to, s.state
	})
}

// Move puts a message into exactly these mailboxes.
func (s *Server) Move(id string, boxes ...string) {
	s.change(id, func(l *letter) {
		clear(l.boxes)
		for _, box := range boxes {
			l.boxes[box] = true
		}
	})
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
	s.drop(at)
}

func (s *Server) drop(at int) {
	s.gone[s.letters[at].id] = s.state
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

func (s *Server) answer(name string, args object, answered map[string]object) (*Answer, error) {
	if ref, ok := args["#ids"].(object); ok {
		of, _ := ref["resultOf"].(string)
		path, _ := ref["path"].(string)
		ids, ok := answered[of][strings.TrimPrefix(path, "/")].([]any)
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
		return &Answer{name, s.allMailboxes()}, nil
	case "Mailbox/set":
		return s.makeMailboxes(name, args), nil
	case "Email/changes":
		return s.changes(name, args), nil
	case "Email/query":
		return &Answer{name, s.query(args)}, nil
	case "Email/get":
		return s.get(name, args), nil
	case "Email/set":
		return s.set(name, args)
	}
	return Error("unknownMethod"), nil
}

func (s *Server) allMailboxes() object {
	var list []any
	for _, box := range s.mailboxes {
		total := 0
		for _, l := range s.letters {
			if l.boxes[box.ID] {
				total++
			}
		}
		may := !box.ReadOnly
		list = append(list, object{
			"id": box.ID, "name": box.Name, "parentId": orNull(box.Parent), "role": orNull(box.Role), "totalEmails": total,
			"myRights": object{
				"mayReadItems": true, "mayAddItems": may, "mayRemoveItems": may, "maySetSeen": may, "maySetKeywords": may,
				"mayCreateChild": may, "mayRename": may, "mayDelete": false, "maySubmit": true,
			},
		})
	}
	return object{"accountId": AccountID, "state": "0", "list": list, "notFound": nil}
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// makeMailboxes is Mailbox/set, to create.
func (s *Server) makeMailboxes(name string, args object) *Answer {
	created, notCreated := object{}, object{}
	create, _ := args["create"].(object)
	for key, v := range create {
		wanted, _ := v.(object)
		box := Mailbox{ID: fmt.Sprintf("mb-%d", len(s.mailboxes)+1)}
		box.Name, _ = wanted["name"].(string)
		box.Parent, _ = wanted["parentId"].(string)
		taken := slices.ContainsFunc(s.mailboxes, func(m Mailbox) bool { return m.Name == box.Name && m.Parent == box.Parent })
		known := box.Parent == "" || slices.ContainsFunc(s.mailboxes, func(m Mailbox) bool { return m.ID == box.Parent })
		if taken || !known || box.Name == "" {
			notCreated[key] = object{"type": "invalidProperties"}
			continue
		}
		s.mailboxes = append(s.mailboxes, box)
		created[key] = object{"id": box.ID}
	}
	return &Answer{name, object{"accountId": AccountID, "oldState": "0", "newState": "1", "created": created, "notCreated": notCreated}}
}

// changes is Email/changes. RFC 8620 section 5.2.
func (s *Server) changes(name string, args object) *Answer {
	text, _ := args["sinceState"].(string)
	since, err := strconv.Atoi(text)
	if err != nil || since > s.state {
		return Error("cannotCalculateChanges")
	}
	created, updated, destroyed := []any{}, []any{}, []any{}
	for _, l := range s.letters {
		switch {
		case l.created > since:
			created = append(created, l.id)
		case l.changed > since:
			updated = append(updated, l.id)
		}
	}
	for id, at := range s.gone {
		if at > since {
			destroyed = append(destroyed, id)
		}
	}
	if most, ok := args["maxChanges"].(float64); ok && len(created)+len(updated)+len(destroyed) > int(most) {
		return &Answer{name, object{"accountId": AccountID, "oldState": text, "newState": text, "hasMoreChanges": true,
			"created": []any{}, "updated": []any{}, "destroyed": []any{}}}
	}
	return &Answer{name, object{"accountId": AccountID, "oldState": text, "newState": strconv.Itoa(s.state), "hasMoreChanges": false,
		"created": created, "updated": updated, "destroyed": destroyed}}
}

func (s *Server) query(args object) object {
	filter, _ := args["filter"].(object)
	box, _ := filter["inMailbox"].(string)
	hidden, _ := filter["notKeyword"].(string)
	after, _ := filter["after"].(string)
	from, _ := time.Parse(time.RFC3339, after) // from the beginning without it
	ids := []any{}
	for _, l := range s.sorted() {
		if l.boxes[box] && !l.keywords[hidden] && !l.received.Before(from) {
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

// sorted returns all messages, the first received first.
func (s *Server) sorted() []*letter {
	return slices.SortedStableFunc(slices.Values(s.letters), func(a, b *letter) int { return a.received.Compare(b.received) })
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
		all := object{"id": l.id, "blobId": l.blob, "size": len(l.raw), "mailboxIds": maps.Clone(l.boxes),
			"keywords": maps.Clone(l.keywords), "receivedAt": l.received.Format(time.RFC3339)}
		some := object{"id": l.id}
		properties, _ := args["properties"].([]any)
		for _, p := range properties {
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
		s.destroyed = append(s.destroyed, Destroyed{id, slices.Sorted(maps.Keys(s.letters[at].boxes))})
		s.drop(at)
		destroyed = append(destroyed, id)
	}
	for id, v := range update {
		patch, _ := v.(object)
		l := s.find(id)
		if kind := l.patch(patch); kind != "" {
			notUpdated[id] = object{"type": kind}
			continue
		}
		l.changed = s.state
		updated[id] = nil
	}
	return &Answer{name, object{
		"accountId": AccountID, "oldState": before, "newState": strconv.Itoa(s.state), "created": nil, "notCreated": nil,
		"updated": updated, "notUpdated": notUpdated, "destroyed": destroyed, "notDestroyed": notDestroyed,
	}}, nil
}

// patch changes the mailboxes and keywords of a message; it returns the error's
// type.
func (l *letter) patch(p object) string {
	if l == nil {
		return "notFound"
	}
	boxes, keywords := maps.Clone(l.boxes), maps.Clone(l.keywords)
	for path, in := range p {
		property, key, _ := strings.Cut(path, "/")
		set := map[string]map[string]bool{"mailboxIds": boxes, "keywords": keywords}[property]
		if set == nil || key == "" {
			return "invalidProperties"
		}
		if delete(set, key); in == true {
			set[key] = true
		}
	}
	if len(boxes) == 0 {
		return "invalidProperties" // RFC 8621 section 4.1.1: in at least one
	}
	l.boxes, l.keywords = boxes, keywords
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
