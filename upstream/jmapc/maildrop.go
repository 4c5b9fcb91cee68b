package jmapc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"git.sr.ht/~rockorager/go-jmap"
	"git.sr.ht/~rockorager/go-jmap/mail/mailbox"

	"postern/upstream"
	"postern/upstream/spool"
)

// A maildrop is the inbox of one account (upstream.Maildrop). All of it belongs
// to the goroutine that calls it; what reads ahead for it shares only what never
// changes: a session, the listing, and the slots.
type maildrop struct {
	u       *Upstream
	account upstream.Account // without its password
	wire    wire             // to fetch the session with
	ctx     context.Context
	cancel  context.CancelFunc
	opened  bool // for somebody
	closed  atomic.Bool

	session *session
	stale   bool          // the server has another session object now
	seen    string        // the session state heard of last
	slots   chan struct{} // one for each request under way

	inbox       jmap.ID
	messages    uint64 // in the inbox, as the server counted them at the login
	readOnly    bool   // nothing may be taken out of the inbox
	mayKeywords bool   // may be set there
	maySeen     bool
	destination destination
	longestBox  int // octets of the longest id of a mailbox

	kept       *kept   // the listing of an earlier session, if there is one
	early      answers // to what was asked for the listing together with the mailboxes
	listing    *listing
	labels     upstream.Listing // the same as the client was shown it; nil: listing
	unreadable map[int]bool     // what the upstream has, but does not deliver
	share      *spool.Share     // of what is read ahead
	ahead      ahead
}

// maxConcurrent is how many requests one maildrop has under way, where the
// server allows as many.
const maxConcurrent = 8

func newMaildrop(u *Upstream, w wire, account upstream.Account) *maildrop {
	account.Password = upstream.Secret{}
	d := &maildrop{u: u, account: account, wire: w, share: u.o.Pool.Share(), listing: new(listing), unreadable: map[int]bool{}}
	d.ahead = ahead{hooks: &u.o.Hooks, lines: unasked}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Close implements upstream.Maildrop. It may be called in the middle of a
// Fetch, which then fails.
func (d *maildrop) Close() error {
	d.cancel()
	if hook := d.u.o.Hooks.Session; hook != nil && d.opened && d.closed.CompareAndSwap(false, true) {
		hook(int(d.wire.cost.trips.Load()), d.wire.cost.octets.Load())
	}
	return nil
}

// bound returns a context that ends with ctx, with Close, or when done is
// called.
func (d *maildrop) bound(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// refresh fetches the session object anew.
func (d *maildrop) refresh(ctx context.Context) error {
	ctx, done := d.bound(ctx)
	defer done()
	raw, at, err := d.wire.fetchSession(ctx)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	f, err := raw.facts(at)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	s, err := newSession(d.wire, f)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	if d.session == nil {
		d.use(s)
	} else if d.session.account != s.account {
		return fmt.Errorf("session: %w: the credentials have another account now", upstream.ErrChanged)
	}
	d.session, d.stale = s, false
	return nil
}

// use begins with a session.
func (d *maildrop) use(s *session) {
	d.session, d.seen = s, s.state
	d.slots = make(chan struct{}, min(s.limits.MaxConcurrentRequests, maxConcurrent))
}

// claim takes a slot for a request that somebody waits for: what is read ahead
// gives way. release gives it back.
func (d *maildrop) claim(ctx context.Context) error {
	select {
	case d.slots <- struct{}{}:
		return nil
	default:
		d.ahead.drop()
		return d.acquire(ctx)
	}
}

// acquire waits for a slot.
func (d *maildrop) acquire(ctx context.Context) error {
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *maildrop) release() { <-d.slots }

// enter finds the mailboxes. If the inbox is likely to be a certain one, its
// listing is asked for in the same request.
func (d *maildrop) enter(ctx context.Context, likely jmap.ID) error {
	if d.kept = d.loadKept(ctx); d.kept != nil {
		likely = d.kept.Inbox
	}
	d.inbox = likely
	got, err := d.read(ctx, func() []jmap.Method { return append([]jmap.Method{d.mailboxesMethod()}, d.listMethods(1)...) })
	if likely != "" && tooLarge(err) {
		likely = ""
		got, err = d.read(ctx, func() []jmap.Method { return []jmap.Method{d.mailboxesMethod()} })
	}
	if err != nil {
		return fmt.Errorf("mailboxes: %w", err)
	}
	boxes, err := answer[mailbox.GetResponse](got, 0)
	if err != nil {
		return fmt.Errorf("mailboxes: %w", err)
	}
	if err := d.openInbox(boxes.List); err != nil {
		return err
	}
	if d.inbox == likely {
		d.early = got
	}
	return nil
}

// openInbox finds the mailbox to show, by its role: names are for people.
func (d *maildrop) openInbox(boxes []*mailbox.Mailbox) error {
	found := slices.IndexFunc(boxes, func(m *mailbox.Mailbox) bool { return m != nil && m.Role == mailbox.RoleInbox })
	if found < 0 {
		return fmt.Errorf("%w: no mailbox has the role inbox", upstream.ErrRejected)
	}
	inbox := boxes[found]
	if r := inbox.Rights; r != nil {
		if !r.MayReadItems {
			return fmt.Errorf("%w: the inbox may not be read", upstream.ErrRejected)
		}
		d.readOnly, d.mayKeywords, d.maySeen = !r.MayRemoveItems, r.MaySetKeywords, r.MaySetSeen
	} else {
		d.mayKeywords, d.maySeen = true, true
	}
	d.inbox, d.messages = inbox.ID, inbox.TotalEmails
	d.longestBox = 0
	for _, m := range boxes {
		if m != nil {
			d.longestBox = max(d.longestBox, len(m.ID))
		}
	}
	d.destination = d.findDestination(boxes)
	return nil
}

func (d *maildrop) mailboxesMethod() jmap.Method {
	return &mailbox.Get{
		Account:    d.session.account,
		Properties: []string{"id", "name", "parentId", "role", "totalEmails", "myRights"},
	}
}

func (d *maildrop) mailboxes(ctx context.Context) ([]*mailbox.Mailbox, error) {
	answers, err := d.read(ctx, func() []jmap.Method { return []jmap.Method{d.mailboxesMethod()} })
	if err != nil {
		return nil, fmt.Errorf("mailboxes: %w", err)
	}
	got, err := answer[mailbox.GetResponse](answers, 0)
	if err != nil {
		return nil, fmt.Errorf("mailboxes: %w", err)
	}
	return got.List, nil
}

// Removable implements upstream.Maildrop.
func (d *maildrop) Removable(i int) error {
	switch way := d.way(); {
	case way == byNothing:
		return nil
	case d.session.readOnly, way == byHiding && !d.mayKeywords, way != byHiding && d.readOnly:
		return fmt.Errorf("%w: the inbox is read-only", upstream.ErrRejected)
	case d.destination.err != nil:
		return d.destination.err
	case d.unreadable[i]:
		return fmt.Errorf("message %d: %w", i, upstream.ErrUnreadable)
	}
	return nil
}

// read makes a request that changes nothing, as often as it takes. Every
// attempt has methods of its own: go-jmap writes into a request.
func (d *maildrop) read(ctx context.Context, methods func() []jmap.Method) (answers, error) {
	var got answers
	err := d.u.again(ctx, func() (err error) {
		if got, err = d.call(ctx, methods); err != nil {
			return err
		}
		return got.busy()
	})
	return got, err
}

// call makes one request. A server that does not know us or the URL any more is
// asked for the session once: such a request was not carried out.
func (d *maildrop) call(ctx context.Context, methods func() []jmap.Method) (answers, error) {
	ctx, done := d.bound(ctx)
	defer done()
	if d.stale {
		if err := d.refresh(ctx); err != nil {
			return nil, err
		}
	}
	got, err := d.do(ctx, methods())
	var status *httpError
	if errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusNotFound) {
		if d.refresh(ctx) == nil {
			got, err = d.do(ctx, methods())
		}
	}
	return got, err
}

func (d *maildrop) do(ctx context.Context, methods []jmap.Method) (answers, error) {
	if err := d.claim(ctx); err != nil {
		return nil, err
	}
	defer d.release()
	response, err := d.session.send(ctx, methods)
	if err != nil {
		return nil, err
	}
	return d.hear(response), nil
}

// hear notes what an answer says of the session.
func (d *maildrop) hear(response *jmap.Response) answers {
	if response.SessionState != d.seen {
		d.seen, d.stale = response.SessionState, true
	}
	return response.Responses
}

func (s *session) send(ctx context.Context, methods []jmap.Method) (*jmap.Response, error) {
	request := &jmap.Request{Context: ctx}
	for _, m := range methods {
		request.Invoke(m)
	}
	return s.client.Do(request)
}
