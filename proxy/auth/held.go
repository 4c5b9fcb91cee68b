package auth

import (
	"context"
	"io"
	"sync"
	"time"

	"postern/proxy/pop3"
	"postern/upstream"
)

// A held maildrop belongs to one session until it is closed.
type held struct {
	upstream.Maildrop // nil until opened
	gate              *Gate
	maildrop          maildrop
	kept              bool
	unlock            func() // nil until locked
	once              sync.Once
	err               error

	still  func(ctx context.Context) error // Account.Still
	looked time.Time                       // when still was asked last
	over   error                           // what it said against it
}

func (g *Gate) newHeld(m maildrop) *held { return &held{gate: g, maildrop: m} }

// login hands a maildrop that is open and locked to its session.
func (h *held) login(a attempt, account Account) pop3.Login {
	h.gate.proofs.keep(a.guess, h.maildrop)
	h.kept, h.still, h.looked = true, account.Still, time.Now()
	return pop3.Login{Maildrop: h, Account: a.user, Upstream: account.Upstream}
}

// giveUp closes what no session has taken.
func (h *held) giveUp() {
	if !h.kept {
		h.Close()
	}
}

// List implements upstream.Maildrop. It is part of logging in.
func (h *held) List(ctx context.Context) (upstream.Listing, error) {
	listing, err := h.Maildrop.List(ctx)
	h.gate.backoffs.heed(h.maildrop.name, true, err)
	return listing, err
}

// lookPause is between two looks at whether a session may go on. Whatever a session
// removes comes after a look of its own.
const lookPause = 10 * time.Second

// mayGoOn returns an error once the account was taken from the session's client,
// and gives the maildrop back at once.
func (h *held) mayGoOn(ctx context.Context, pause time.Duration) error {
	if h.still == nil || h.over != nil || time.Since(h.looked) < pause {
		return h.over
	}
	h.looked = time.Now()
	if h.over = h.still(ctx); h.over != nil {
		h.Close()
	}
	return h.over
}

// Fetch implements upstream.Maildrop.
func (h *held) Fetch(ctx context.Context, i int) (io.ReadCloser, error) {
	if err := h.mayGoOn(ctx, lookPause); err != nil {
		return nil, err
	}
	return h.Maildrop.Fetch(ctx, i)
}

// Top implements upstream.Maildrop.
func (h *held) Top(ctx context.Context, i, n int) (io.ReadCloser, error) {
	if err := h.mayGoOn(ctx, lookPause); err != nil {
		return nil, err
	}
	return h.Maildrop.Top(ctx, i, n)
}

// Removable implements upstream.Maildrop.
func (h *held) Removable(i int) error {
	if h.over != nil {
		return h.over
	}
	return h.Maildrop.Removable(i)
}

// Remove implements upstream.Maildrop.
func (h *held) Remove(ctx context.Context, messages []int) (int, error) {
	if err := h.mayGoOn(ctx, 0); err != nil {
		return 0, err
	}
	return h.Maildrop.Remove(ctx, messages)
}

// MarkSeen implements upstream.Maildrop.
func (h *held) MarkSeen(ctx context.Context, messages []int) error {
	if err := h.mayGoOn(ctx, lookPause); err != nil {
		return err
	}
	return h.Maildrop.MarkSeen(ctx, messages)
}

// Close closes the upstream, then lets the next session in, once.
func (h *held) Close() error {
	h.once.Do(func() {
		if h.unlock != nil {
			defer h.unlock()
		}
		if h.Maildrop != nil {
			h.err = h.Maildrop.Close()
		}
	})
	return h.err
}
