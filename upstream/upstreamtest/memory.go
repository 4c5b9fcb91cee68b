// Package upstreamtest is what tests of and on maildrops share: messages that
// are hard to carry, a maildrop in memory with faults to order, and the suite
// that every upstream.Maildrop passes.
package upstreamtest

import (
	"bytes"
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern/upstream"
)

// A Memory is a mailbox in memory. It opens as a maildrop (upstream.Opener),
// and is its own other client (Mailbox). Its faults are set before the calls
// that are to suffer them. Safe for use by several goroutines.
type Memory struct {
	user, password string

	mu       sync.Mutex
	messages []letter // oldest first
	last     int      // highest name given
	faults   Faults
	seen     map[int]bool // by name
	opened   int
	closed   int
}

type letter struct {
	name int // never given twice
	raw  string
}

// Faults are what a Memory is to get wrong. The zero value is none.
type Faults struct {
	Open, List error
	// Fetch is the answer for a message; Cut, where positive, is instead how
	// many octets are delivered before the stream ends with Fetch (or, where
	// that is nil, io.ErrUnexpectedEOF).
	Fetch map[int]error
	Cut   map[int]int
	// Removable is the answer of Removable for a message.
	Removable map[int]error
	// Remove is the error after RemoveFirst messages were removed.
	Remove      error
	RemoveFirst int
	// Wait, where set, is called at the start of every call with its name
	// (open, list, fetch, read, top, remove, seen), and may block until ctx ends.
	Wait func(ctx context.Context, call string)
}

// NewMemory returns an empty mailbox.
func NewMemory(user, password string) *Memory {
	return &Memory{user: user, password: password}
}

// Account returns the credentials that open the mailbox.
func (m *Memory) Account() upstream.Account {
	return upstream.Account{User: m.user, Password: upstream.NewSecret(m.password)}
}

// Break sets the faults to come.
func (m *Memory) Break(f Faults) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = f
}

// Handles returns how many maildrops were opened and closed.
func (m *Memory) Handles() (opened, closed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened, m.closed
}

// Deliver implements Mailbox.
func (m *Memory) Deliver(_ testing.TB, raw string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	m.messages = append(m.messages, letter{m.last, raw})
}

// Take implements Mailbox.
func (m *Memory) Take(t testing.TB, raw string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.messages, func(l letter) bool { return l.raw == raw })
	if i < 0 {
		t.Fatalf("no such message to take: %.60q", raw)
	}
	m.messages = slices.Delete(m.messages, i, i+1)
}

// Messages implements Mailbox.
func (m *Memory) Messages(testing.TB) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, l := range m.messages {
		all = append(all, l.raw)
	}
	return all
}

// Seen returns the messages that were marked as read and are still there,
// oldest first.
func (m *Memory) Seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, l := range m.messages {
		if m.seen[l.name] {
			all = append(all, l.raw)
		}
	}
	return all
}

// Open implements upstream.Opener.
func (m *Memory) Open(ctx context.Context, account upstream.Account) (upstream.Maildrop, error) {
	f, err := m.enter(ctx, "open")
	if err != nil {
		return nil, err
	}
	if f.Open != nil {
		return nil, f.Open
	}
	if account.User != m.user || subtle.ConstantTimeCompare([]byte(account.Password.Reveal()), []byte(m.password)) == 0 {
		return nil, fmt.Errorf("open %q: %w", account.User, upstream.ErrAuth)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	return &memoryMaildrop{memory: m}, nil
}

// enter waits as the faults demand, and returns them.
func (m *Memory) enter(ctx context.Context, call string) (Faults, error) {
	m.mu.Lock()
	f := m.faults
	m.mu.Unlock()
	if f.Wait != nil {
		f.Wait(ctx, call)
	}
	return f, ctx.Err()
}

// find returns where the message with that name is now, or -1.
func (m *Memory) find(name int) int {
	return slices.IndexFunc(m.messages, func(l letter) bool { return l.name == name })
}

type memoryMaildrop struct {
	memory  *Memory
	listing memoryListing
	closed  bool
}

func (d *memoryMaildrop) List(ctx context.Context) (upstream.Listing, error) {
	f, err := d.memory.enter(ctx, "list")
	if err != nil {
		return nil, err
	}
	if f.List != nil {
		return nil, f.List
	}
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	d.listing = slices.Clone(d.memory.messages)
	return d.listing, nil
}

func (d *memoryMaildrop) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	return d.open(ctx, "fetch", i, func(raw string) string { return raw })
}

func (d *memoryMaildrop) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	return d.open(ctx, "top", i, func(raw string) string {
		header, body, found := strings.Cut(raw, "\r\n\r\n")
		lines := strings.SplitAfterN(body, "\r\n", n+1)
		if found && len(lines) > n {
			raw = header + "\r\n\r\n" + strings.Join(lines[:n], "")
		}
		return raw
	})
}

func (d *memoryMaildrop) open(ctx context.Context, call string, i int, part func(string) string) (io.ReadCloser, error) {
	f, err := d.memory.enter(ctx, call)
	if err != nil {
		return nil, err
	}
	cut, isCut := f.Cut[i]
	if err := f.Fetch[i]; err != nil && !isCut {
		return nil, err
	}
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	at := d.memory.find(d.listing[i].name)
	if at < 0 {
		return nil, fmt.Errorf("message %d: %w", i, upstream.ErrGone)
	}
	r := &memoryReader{ctx: ctx, memory: d.memory, text: bytes.NewReader([]byte(part(d.memory.messages[at].raw))), end: io.EOF}
	if isCut {
		r.text = bytes.NewReader([]byte(d.memory.messages[at].raw[:cut]))
		if r.end = f.Fetch[i]; r.end == nil {
			r.end = io.ErrUnexpectedEOF
		}
	}
	return r, nil
}

type memoryReader struct {
	ctx    context.Context
	memory *Memory
	text   *bytes.Reader
	end    error
}

func (r *memoryReader) Read(p []byte) (int, error) {
	if _, err := r.memory.enter(r.ctx, "read"); err != nil {
		return 0, err
	}
	n, err := r.text.Read(p)
	if err == io.EOF {
		err = r.end
	}
	return n, err
}

func (r *memoryReader) Close() error { return nil }

func (d *memoryMaildrop) Removable(i int) error {
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	return d.memory.faults.Removable[i]
}

func (d *memoryMaildrop) Remove(ctx context.Context, messages []int) (int, error) {
	f, err := d.memory.enter(ctx, "remove")
	if err != nil {
		return 0, err
	}
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	for done, i := range messages {
		if f.Remove != nil && done == f.RemoveFirst {
			return done, f.Remove
		}
		if at := d.memory.find(d.listing[i].name); at >= 0 {
			d.memory.messages = slices.Delete(d.memory.messages, at, at+1)
		}
	}
	return len(messages), nil
}

// MarkSeen sets the flags that Seen tells of.
func (d *memoryMaildrop) MarkSeen(ctx context.Context, messages []int) error {
	if _, err := d.memory.enter(ctx, "seen"); err != nil {
		return err
	}
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	for _, i := range messages {
		if d.memory.seen == nil {
			d.memory.seen = make(map[int]bool)
		}
		d.memory.seen[d.listing[i].name] = true
	}
	return nil
}

func (d *memoryMaildrop) Close() error {
	d.memory.mu.Lock()
	defer d.memory.mu.Unlock()
	if !d.closed {
		d.closed = true
		d.memory.closed++
	}
	return nil
}

type memoryListing []letter

func (l memoryListing) Len() int         { return len(l) }
func (l memoryListing) Size(i int) int64 { return int64(len(l[i].raw)) }
func (l memoryListing) AppendUIDL(dst []byte, i int) []byte {
	return strconv.AppendInt(append(dst, 'm'), int64(l[i].name), 10)
}
