package jmapc

import (
	"errors"
	"fmt"
	"strconv"

	"git.sr.ht/~rockorager/go-jmap"
	_ "git.sr.ht/~rockorager/go-jmap/core" // an answer that go-jmap does not know fails the whole response

	"postern/upstream"
)

// emails is the answer to Email/get, as little of it as postern asks for. What
// go-jmap has of its own decodes dates too, and one that is wrong there would
// cost the whole page.
type emails struct {
	State    string    `json:"state"`
	List     []message `json:"list"`
	NotFound []string  `json:"notFound"`
}

type message struct {
	ID         string          `json:"id"`
	BlobID     string          `json:"blobId"`
	Size       int64           `json:"size"`
	MailboxIDs map[string]bool `json:"mailboxIds"`
	Keywords   map[string]bool `json:"keywords"`
	ReceivedAt string          `json:"receivedAt"`
}

func init() {
	jmap.RegisterMethod("Email/get", func() jmap.MethodResponse { return new(emails) })
}

// placed returns a function that finds messages as finder does, where the answer
// tells which mailboxes they are in. Every message is in one (RFC 8621 section
// 4.1.1): of one that is shown in none it is not known where it is.
func (e *emails) placed() func(n int, id string) (m *message, known bool) {
	find := finder(e)
	return func(n int, id string) (*message, bool) {
		m, known := find(n, id)
		return m, known && (m == nil || m.isAnywhere())
	}
}

func (m *message) isAnywhere() bool {
	for _, in := range m.MailboxIDs {
		if in {
			return true
		}
	}
	return false
}

// answers are what the methods of one request came to.
type answers []*jmap.Invocation

// answer returns what method n of the request came to.
func answer[T any](a answers, n int) (*T, error) {
	id := callID(n)
	for _, i := range a {
		if i == nil || i.CallID != id {
			continue
		}
		switch args := i.Args.(type) {
		case *T:
			return args, nil
		case *jmap.MethodError:
			return nil, methodError(args)
		}
	}
	return nil, fmt.Errorf("%w: method %d was not answered", upstream.ErrUnavailable, n)
}

// callID is how Request.Invoke names method n.
func callID(n int) string { return strconv.FormatInt(int64(n), 16) }

// busy returns the first error that says to come back in a moment.
func (a answers) busy() error {
	for _, i := range a {
		if i == nil {
			continue
		}
		if e, ok := i.Args.(*jmap.MethodError); ok {
			if _, soon := busy(e); soon {
				return methodError(e)
			}
		}
	}
	return nil
}

// rejections are the method errors that stay until a person does something.
var rejections = map[string]bool{
	"accountNotFound":             true,
	"accountNotSupportedByMethod": true,
	"accountReadOnly":             true,
	"forbidden":                   true,
	"invalidProperties":           true, // of one object (RFC 8620 section 5.3), as are those below
	"overQuota":                   true,
	"unknownMethod":               true,
	"unsupportedFilter":           true,
	"unsupportedSort":             true,
}

func methodError(e *jmap.MethodError) error {
	e.Type = brief(e.Type)
	if e.Description != nil {
		*e.Description = brief(*e.Description)
	}
	if rejections[e.Type] {
		return fmt.Errorf("%w: %w", upstream.ErrRejected, e)
	}
	return fmt.Errorf("%w: %w", upstream.ErrUnavailable, e)
}

func isMethodError(err error, kind string) bool {
	var e *jmap.MethodError
	return errors.As(err, &e) && e.Type == kind
}

// brief is as much of an upstream's text as a log wants.
func brief(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
