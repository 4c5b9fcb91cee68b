package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/upstreamtest"
)

// A mailbox is an upstream that can be renamed, rebuilt and moved. Every
// message has a text of its own, by which the tests know it.
type mailbox struct {
	messages []message
	last     int    // name given last
	validity string // of the names; empty for names that stand alone
	identity string // kind of identity given: "", "objectid:", "gmail:"
	undated  bool
	uidl     func(b *mailbox, m message) string // nil: the name

	tops    int           // calls of Top
	gets    int           // calls of Fetch
	topErr  map[int]error // by call of Top, counting from 1
	listErr error
	stuck   error // answer of Remove, which removes nothing then
	denied  error // answer of Removable
	removes int   // messages that Remove removes before the gateway dies; 0: all
}

type message struct {
	text     string
	name     int
	identity string
	received time.Time
	size     int64 // as listed; 0 means true
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// letter is a message unlike any other.
func letter(n int) string { return upstreamtest.Letter(n, 300+n*7%1900) }

func newMailbox(n int) *mailbox {
	b := &mailbox{validity: "17"}
	for i := range n {
		b.deliver(letter(i))
	}
	return b
}

// newLargeMailbox has messages that are quickly made, all of one size.
func newLargeMailbox(n int) *mailbox {
	b := &mailbox{validity: "17"}
	for i := range n {
		b.deliver(short(i))
	}
	return b
}

func short(i int) string { return fmt.Sprintf("Subject: %06d\r\n\r\n", i) }

func (b *mailbox) deliver(text string) {
	b.last++
	b.messages = append(b.messages, message{text: text, name: b.last, identity: fmt.Sprintf("%sE%04d", b.identity, b.last),
		received: start.Add(time.Duration(b.last) * time.Minute)})
}

// renumber gives every message another name, as a rebuilt mailbox has.
func (b *mailbox) renumber(validity string) {
	b.validity, b.last = validity, 500
	for i := range b.messages {
		b.last++
		b.messages[i].name = b.last
	}
}

func (b *mailbox) take(from, to int) { b.messages = slices.Delete(b.messages, from, to) }

func (b *mailbox) Open(context.Context, upstream.Account) (upstream.Maildrop, error) {
	return &mailboxDrop{box: b}, nil
}

type mailboxDrop struct {
	box    *mailbox
	shown  upstream.Listing
	listed []message
	closed bool
}

func (d *mailboxDrop) List(ctx context.Context) (upstream.Listing, error) {
	d.listed = slices.Clone(d.box.messages)
	return &mailboxListing{d.box, d.listed, d.box.validity}, errors.Join(d.box.listErr, ctx.Err())
}

func (d *mailboxDrop) Shown(l upstream.Listing) { d.shown = l }

func (d *mailboxDrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	d.box.gets++
	return io.NopCloser(strings.NewReader(d.listed[i].text)), ctx.Err()
}

func (d *mailboxDrop) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	d.box.tops++
	if err := d.box.topErr[d.box.tops]; err != nil {
		return nil, err
	}
	header, _, _ := strings.Cut(d.listed[i].text, "\r\n\r\n")
	return io.NopCloser(strings.NewReader(header + "\r\n\r\n")), ctx.Err()
}

func (d *mailboxDrop) Removable(int) error { return d.box.denied }

func (d *mailboxDrop) Remove(_ context.Context, messages []int) (int, error) {
	if d.box.stuck != nil {
		return 0, d.box.stuck
	}
	for n, i := range messages {
		if n > 0 && n == d.box.removes {
			return 0, errDied
		}
		d.box.messages = slices.DeleteFunc(d.box.messages, func(m message) bool { return m.name == d.listed[i].name })
	}
	return len(messages), nil
}

var errDied = errors.New("the gateway died")

func (d *mailboxDrop) MarkSeen(context.Context, []int) error { return nil }

func (d *mailboxDrop) Close() error { d.closed = true; return nil }

type mailboxListing struct {
	box      *mailbox
	messages []message
	validity string
}

func (l *mailboxListing) Len() int { return len(l.messages) }
func (l *mailboxListing) Size(i int) int64 {
	if s := l.messages[i].size; s != 0 {
		return s
	}
	return int64(len(l.messages[i].text))
}
func (l *mailboxListing) AppendUIDL(dst []byte, i int) []byte {
	if l.box.uidl != nil {
		return append(dst, l.box.uidl(l.box, l.messages[i])...)
	}
	return l.AppendName(dst, i)
}
func (l *mailboxListing) AppendName(dst []byte, i int) []byte {
	return fmt.Appendf(dst, "%s.%d", l.validity, l.messages[i].name)
}
func (l *mailboxListing) AppendIdentity(dst []byte, i int) []byte {
	if l.box.identity == "" {
		return dst
	}
	return append(dst, l.messages[i].identity...)
}
func (l *mailboxListing) Received(i int) time.Time {
	if l.box.undated {
		return time.Time{}
	}
	return l.messages[i].received
}

// newStore is a store of the test's own.
func newStore(t testing.TB) state.Store {
	t.Helper()
	s, err := state.Open(context.Background(), state.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A session is a login, as a client sees it.
type session struct {
	t testing.TB
	upstream.Maildrop
	upstream.Listing
}

var bob = upstream.Account{User: "Bob"}

// login opens and lists; the session is closed by close.
func login(t testing.TB, o *Opener) *session {
	t.Helper()
	s, err := tryLogin(o)
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	s.t = t
	return s
}

func tryLogin(o *Opener) (*session, error) {
	d, err := o.Open(context.Background(), bob)
	if err != nil {
		return nil, err
	}
	l, err := d.List(context.Background())
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &session{Maildrop: d, Listing: l}, nil
}

func (s *session) uidls() []string {
	all := make([]string, s.Len())
	for i := range all {
		all[i] = string(s.AppendUIDL(nil, i))
	}
	return all
}

// retrieve reads messages whole.
func (s *session) retrieve(messages ...int) {
	s.t.Helper()
	for _, i := range messages {
		r, err := s.Fetch(context.Background(), i)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			s.t.Fatal(err)
		}
		r.Close()
	}
}

func (s *session) retrieveAll() {
	s.t.Helper()
	for i := range s.Len() {
		s.retrieve(i)
	}
}

func (s *session) close() {
	s.t.Helper()
	if err := s.Maildrop.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// shown logs in and out, and returns the UIDL of each text.
func shown(t testing.TB, o *Opener, box *mailbox) map[string]string {
	t.Helper()
	s := login(t, o)
	defer s.close()
	return byText(s, box)
}

func byText(s *session, box *mailbox) map[string]string {
	all := map[string]string{}
	for i, u := range s.uidls() {
		all[box.messages[i].text] = u
	}
	return all
}

// drain logs in, retrieves everything, and logs out.
func drain(t testing.TB, o *Opener, box *mailbox) map[string]string {
	t.Helper()
	s := login(t, o)
	defer s.close()
	s.retrieveAll()
	return byText(s, box)
}

// sameUIDLs checks that each text of before that is still shown has its UIDL.
func sameUIDLs(t testing.TB, before, after map[string]string) {
	t.Helper()
	for text, was := range before {
		if is, ok := after[text]; ok && is != was {
			t.Errorf("%.40q: UIDL %s, want %s", text[strings.Index(text, "Subject"):], is, was)
		}
	}
}
