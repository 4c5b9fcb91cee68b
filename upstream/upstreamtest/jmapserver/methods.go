package jmapserver

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Answer is the name and the arguments of a method response.
type Answer struct {
	Name string
	Args any
}

// Error is the answer of a method that failed (RFC 8620 section 3.6.2).
func Error(kind string) *Answer { return &Answer{"error", object{"type": kind}} }

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
