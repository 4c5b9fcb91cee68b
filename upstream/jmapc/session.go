package jmapc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/core"
	"git.sr.ht/~rockorager/go-jmap/mail"

	"postern/upstream"
)

// A session is one value of the server's session object, and the clients that
// use it. It never changes: another value makes another session.
type session struct {
	facts
	client *jmap.Client
	blobs  *http.Client
}

// The facts are what the session object says, without any secret.
type facts struct {
	url          *url.URL // where it was, after redirects
	user         string   // whose credentials these are; empty where the server does not say
	state        string
	account      jmap.ID
	readOnly     bool
	mayCreate    bool // mailboxes at the top level
	limits       core.Core
	api          string // URL, absolute
	download     string // URI template, absolute
	capabilities map[jmap.URI]json.RawMessage
}

// An object is the server's session object, as little of it as is needed.
// go-jmap has a type for it, which panics on null (v0.5.3).
type object struct {
	Capabilities    map[jmap.URI]json.RawMessage `json:"capabilities"`
	PrimaryAccounts map[jmap.URI]jmap.ID         `json:"primaryAccounts"`
	APIURL          string                       `json:"apiUrl"`
	DownloadURL     string                       `json:"downloadUrl"`
	State           string                       `json:"state"`
	Username        string                       `json:"username"`
	Accounts        map[jmap.ID]struct {
		IsReadOnly   bool                         `json:"isReadOnly"`
		Capabilities map[jmap.URI]json.RawMessage `json:"accountCapabilities"`
	} `json:"accounts"`
}

// fetchSession asks for the session object, and says where it was in the end.
func (w wire) fetchSession(ctx context.Context) (*object, *url.URL, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.session.String(), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", upstream.ErrRejected, err)
	}
	r.Header.Set("Accept", "application/json")
	answer, err := w.client(maxSession).Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, nil, err
	}
	o := new(object)
	if err := json.Unmarshal(body, o); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", upstream.ErrUnavailable, err)
	}
	return o, answer.Request.URL, nil
}

// facts checks what the server says of itself and of the account.
func (o *object) facts(at *url.URL) (facts, error) {
	id, err := o.mailAccount()
	if err != nil {
		return facts{}, err
	}
	return facts{
		url:          at,
		user:         o.Username,
		state:        o.State,
		account:      id,
		readOnly:     o.Accounts[id].IsReadOnly,
		mayCreate:    o.mayCreate(id),
		limits:       o.limits(),
		api:          resolve(at, o.APIURL),
		download:     resolve(at, o.DownloadURL),
		capabilities: o.Capabilities,
	}, nil
}

// belongsTo returns an error unless a token that opened the session is that of a
// user. Some servers leave the domain out of a name. RFC 8620 section 2 lets a
// server leave out all of it; then anybody's token would do.
func (f facts) belongsTo(user string) error {
	local, _, _ := strings.Cut(user, "@")
	switch {
	case f.user == "":
		return fmt.Errorf("%w: the server does not say whose token it is", upstream.ErrRejected)
	case !strings.EqualFold(f.user, user) && !strings.EqualFold(f.user, local):
		return fmt.Errorf("%w: the token is that of %.100q, not of %.100q", upstream.ErrAuth, f.user, user)
	}
	return nil
}

// newSession makes clients that tell the credentials to those whom the facts
// name, if they may be told.
func newSession(w wire, f facts) (_ *session, err error) {
	for _, named := range []string{f.api, f.download} {
		if w, err = w.trust(named, f.url); err != nil {
			return nil, err
		}
	}
	return &session{
		facts: f,
		client: &jmap.Client{
			HttpClient: w.client(maxAnswer),
			Session:    &jmap.Session{APIURL: f.api, RawCapabilities: f.capabilities},
		},
		blobs: w.client(math.MaxInt64 - 1),
	}, nil
}

// mailAccount is the primary account for mail. Others may be there, shared by
// other people.
func (o *object) mailAccount() (jmap.ID, error) {
	if !offersMail(o.Capabilities) {
		return "", fmt.Errorf("%w: the server offers no mail by JMAP", upstream.ErrRejected)
	}
	id, ok := o.PrimaryAccounts[mail.URI]
	if !ok {
		return "", fmt.Errorf("%w: these credentials have no primary account for mail", upstream.ErrRejected)
	}
	if !offersMail(o.Accounts[id].Capabilities) {
		return "", fmt.Errorf("%w: account %q has no mail; it may be disabled, or never used yet", upstream.ErrRejected, id)
	}
	return id, nil
}

func offersMail(capabilities map[jmap.URI]json.RawMessage) bool {
	value, ok := capabilities[mail.URI]
	return ok && string(value) != "null"
}

// mayCreate tells whether mailboxes can be made at the top level. Whoever does
// not say finds out.
func (o *object) mayCreate(id jmap.ID) bool {
	stated := struct {
		May bool `json:"mayCreateTopLevelMailbox"`
	}{true}
	_ = json.Unmarshal(o.Accounts[id].Capabilities[mail.URI], &stated) // as far as it goes
	return stated.May
}

// limits are those of the core capability. What is missing there or no number
// is what RFC 8620 section 2 suggests as the least.
func (o *object) limits() core.Core {
	var stated core.Core
	_ = json.Unmarshal(o.Capabilities[jmap.CoreURI], &stated) // as far as it goes
	return core.Core{
		MaxSizeRequest:        cmp.Or(stated.MaxSizeRequest, 10_000_000),
		MaxConcurrentRequests: cmp.Or(stated.MaxConcurrentRequests, 4),
		MaxCallsInRequest:     cmp.Or(stated.MaxCallsInRequest, 16),
		MaxObjectsInGet:       cmp.Or(stated.MaxObjectsInGet, 500),
		MaxObjectsInSet:       cmp.Or(stated.MaxObjectsInSet, 500),
	}
}

// trust adds the origin of a URL that the session object names to those who
// are told the credentials. Only https, and only if the session came by https,
// or the origin of the session itself.
func (w wire) trust(named string, at *url.URL) (wire, error) {
	// A template's braces are no part of an origin.
	u, err := url.Parse(strings.NewReplacer("{", "", "}", "").Replace(named))
	if err != nil || u.Host == "" || u.User != nil {
		return w, fmt.Errorf("%w: the session names a URL that does not parse", upstream.ErrRejected)
	}
	o := origin(u)
	if o != origin(at) && (u.Scheme != "https" || at.Scheme != "https") {
		return w, fmt.Errorf("%w: the session at %s names %s, which is not safe", upstream.ErrRejected, origin(at), o)
	}
	w.origins = append(w.origins[:len(w.origins):len(w.origins)], o)
	return w, nil
}

// resolve makes a reference absolute by string: a URI template must keep its
// braces. RFC 3986 section 5.2, as far as servers need it.
func resolve(base *url.URL, ref string) string {
	path := cmp.Or(base.EscapedPath(), "/")
	switch {
	case strings.HasPrefix(ref, "//"):
		return base.Scheme + ":" + ref
	case strings.HasPrefix(ref, "/"):
		return base.Scheme + "://" + base.Host + ref
	case strings.HasPrefix(ref, "http://"), strings.HasPrefix(ref, "https://"):
		return ref
	}
	return base.Scheme + "://" + base.Host + path[:strings.LastIndexByte(path, '/')+1] + ref
}

var errTemplate = errors.New("not a level 1 URI template")

// expand fills in a URI template, level 1. RFC 6570 section 3.2.2.
func expand(template string, values map[string]string) (string, error) {
	var b strings.Builder
	for {
		before, rest, open := strings.Cut(template, "{")
		b.WriteString(before)
		if !open {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		value, known := values[name]
		if !closed || !known {
			return "", errTemplate
		}
		escape(&b, value)
		template = after
	}
}

// escape writes all but the unreserved characters as triplets. url.PathEscape
// and url.QueryEscape each spare what the other place reserves.
func escape(b *strings.Builder, s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
}
