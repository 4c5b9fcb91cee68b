package oracle

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	"postern/upstream/upstreamtest/jmapserver"
)

// A JMAP is the store of one account that is spoken to by JMAP. Every request
// is carried out by itself, so what changed meanwhile is its doing.
type JMAP struct {
	Record Record

	// Fault is asked for every request before it is carried out, without any
	// lock held. Its Verb is the names of the methods, or session or download.
	Fault func(s Step) Fault

	user string

	mu     sync.Mutex
	server *jmapserver.Server
	names  map[int]string // ids of JMAP, by message
	made   int
	asked  int
}

// NewJMAP returns an empty store.
func NewJMAP(user, password string) *JMAP {
	return &JMAP{
		Fault:  func(Step) Fault { return Fault{} },
		user:   user,
		server: jmapserver.New(user, password),
		names:  map[int]string{},
	}
}

// boxNames are the mailboxes of jmapserver, by the names that a Record has.
var boxNames = map[string]string{"INBOX": jmapserver.Inbox, Trash: jmapserver.Trash, Archive: jmapserver.Archive}

// do changes the store and notes what changed.
func (j *JMAP) do(by cause, change func()) {
	before, wereHidden := j.snapshot(), j.hidden()
	change()
	after, hidden := j.snapshot(), j.hidden()
	for _, kind := range []Kind{Arrived, Left} { // what is kept elsewhere arrives there first
		for name := range boxNames {
			gone, come := before[name], after[name]
			if kind == Arrived {
				gone, come = come, gone
			}
			for _, id := range gone {
				if !slices.Contains(come, id) {
					j.Record.add(Event{Kind: kind, Account: j.user, Box: name, Message: id, Conn: by.conn, Command: by.command})
				}
			}
		}
	}
	for _, id := range after["INBOX"] {
		kind := Flagged
		if wereHidden[id] {
			kind = Unflagged
		}
		if hidden[id] != wereHidden[id] {
			j.Record.add(Event{Kind: kind, Account: j.user, Box: "INBOX", Message: id, Conn: by.conn, Command: by.command})
		}
	}
}

// hidden are the messages of the inbox that have a keyword of the gateway's own:
// those of all clients begin with a dollar sign.
func (j *JMAP) hidden() map[int]bool {
	all := map[int]bool{}
	for _, raw := range j.server.In(jmapserver.Inbox) {
		id := IDOf(len(raw))
		all[id] = slices.ContainsFunc(j.server.Keywords(j.names[id]), func(k string) bool { return k[0] != '$' })
	}
	return all
}

func (j *JMAP) snapshot() map[string][]int {
	all := map[string][]int{}
	for name, box := range boxNames {
		for _, raw := range j.server.In(box) {
			all[name] = append(all[name], IDOf(len(raw)))
		}
	}
	return all
}

// What other clients do.

// Deliver adds n messages to the inbox; every third is in the archive too.
func (j *JMAP) Deliver(_ string, n int) (ids []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.do(cause{}, func() {
		for range n {
			m := newMessage(j.made)
			j.made++
			boxes := []string{jmapserver.Inbox}
			if m.ID%3 == 0 {
				boxes = append(boxes, jmapserver.Archive)
			}
			j.names[m.ID] = j.server.Add(m.Raw, boxes...)
			ids = append(ids, m.ID)
		}
	})
	return ids
}

// IDs returns the messages in a mailbox, oldest first.
func (j *JMAP) IDs(_, name string) []int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.snapshot()[name]
}

// Take removes a message from everywhere.
func (j *JMAP) Take(_ string, id int) {
	j.other(id, func() { j.take(id) })
}

func (j *JMAP) take(id int) { j.server.Take(nil, newMessage(id).Raw) }

// Flag puts a message into the archive, beside the inbox; Unflag takes it out
// of there, and shows it again where it was hidden.
func (j *JMAP) Flag(_ string, id int) {
	j.other(id, func() { j.server.Move(j.names[id], jmapserver.Inbox, jmapserver.Archive) })
}

func (j *JMAP) Unflag(_ string, id int) {
	j.other(id, func() {
		j.server.Move(j.names[id], jmapserver.Inbox)
		j.server.Flag(j.names[id])
	})
}

// Discard moves a message from the inbox to the trash; Restore moves it back.
func (j *JMAP) Discard(_ string, id int) {
	j.other(id, func() { j.server.Move(j.names[id], jmapserver.Trash) })
}

func (j *JMAP) Restore(_ string, id int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if slices.Contains(j.snapshot()[Trash], id) {
		j.do(cause{}, func() { j.server.Move(j.names[id], jmapserver.Inbox) })
	}
}

// Renumber gives the session object another state.
func (j *JMAP) Renumber(string) { j.server.ChangeSession() }

// Swap gives a message's name to another one: what no server may do.
func (j *JMAP) Swap(_ string, id int) int {
	other := -1
	j.other(id, func() {
		j.take(id)
		m := newMessage(j.made)
		j.made++
		other = m.ID
		j.server.Rename(j.server.Add(m.Raw, jmapserver.Inbox), j.names[id])
		j.names[other] = j.names[id]
	})
	return other
}

func (j *JMAP) other(id int, change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if slices.Contains(j.snapshot()["INBOX"], id) {
		j.do(cause{}, change)
	}
}

// Handler serves one gateway as long as it lives.
func (j *JMAP) Handler(alive func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		s := j.step(r, body)
		f := j.Fault(s)
		if f.Do == DropBefore {
			panic(http.ErrAbortHandler)
		}
		answer := j.obey(s, f, r, body, alive)
		if f.After != nil {
			f.After()
		}
		if answer == nil || !alive() {
			panic(http.ErrAbortHandler)
		}
		deliver(w, f, answer)
	})
}

func (j *JMAP) step(r *http.Request, body []byte) Step {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked++
	s := Step{Conn: j.asked, N: 1, Account: j.user, Command: r.URL.Path + " " + string(body)}
	switch {
	case r.Method == http.MethodPost:
		var names []string
		for _, call := range callsOf(body) {
			names = append(names, call.name)
		}
		s.Verb = strings.Join(names, " ")
	case strings.HasPrefix(r.URL.Path, "/download"):
		s.Verb = "download"
	default:
		s.Verb = "session"
	}
	return s
}

type call struct {
	name string
	args map[string]any
	id   string
}

func callsOf(body []byte) (calls []call) {
	var request struct{ MethodCalls [][3]json.RawMessage }
	if json.Unmarshal(body, &request) != nil {
		return nil
	}
	for _, raw := range request.MethodCalls {
		var c call
		if json.Unmarshal(raw[0], &c.name) == nil && json.Unmarshal(raw[1], &c.args) == nil && json.Unmarshal(raw[2], &c.id) == nil {
			calls = append(calls, c)
		}
	}
	return calls
}

// obey carries out a request, as well as the fault allows. It returns nil where
// the gateway is dead by then.
func (j *JMAP) obey(s Step, f Fault, r *http.Request, body []byte, alive func() bool) *httptest.ResponseRecorder {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !alive() {
		return nil
	}
	answer := httptest.NewRecorder()
	switch status, err := strconv.Atoi(f.Reply); {
	case f.Do == Bye || f.Do == Refuse && err == nil:
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
		answer.Header().Set("Retry-After", "0")
		answer.WriteHeader(status)
		return answer
	}
	j.do(cause{s.Conn, s.Verb}, func() {
		j.server.Method = func(name string, args map[string]any) *jmapserver.Answer { return spoil(f, name, args) }
		r.Body = io.NopCloser(bytes.NewReader(body))
		j.server.ServeHTTP(answer, r)
	})
	return answer
}

// spoil makes Email/set fail, or do less than it says.
func spoil(f Fault, name string, args map[string]any) *jmapserver.Answer {
	if name != "Email/set" {
		return nil
	}
	destroy, _ := args["destroy"].([]any)
	update, _ := args["update"].(map[string]any)
	done := map[string]any{"accountId": args["accountId"], "oldState": "x", "newState": "y", "destroyed": destroy, "updated": nulls(update)}
	switch f.Do {
	case Refuse:
		return jmapserver.Error(f.Reply)
	case Hollow:
		return &jmapserver.Answer{Name: name, Args: done}
	case Half:
		refused := map[string]any{}
		for _, id := range destroy {
			refused[id.(string)] = map[string]any{"type": "rateLimit"}
		}
		return &jmapserver.Answer{Name: name, Args: map[string]any{
			"accountId": args["accountId"], "oldState": "x", "newState": "x", "destroyed": nil, "notDestroyed": refused,
			"updated": nulls(update),
		}}
	}
	return nil
}

func nulls(update map[string]any) map[string]any {
	all := map[string]any{}
	for id := range update {
		all[id] = nil
	}
	return all
}

// deliver sends an answer, or half of it.
func deliver(w http.ResponseWriter, f Fault, answer *httptest.ResponseRecorder) {
	body := answer.Body.Bytes()
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if f.Do == DropAfter {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(answer.Code)
	if f.Do == DropMiddle {
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(body)
}
