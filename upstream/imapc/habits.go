package imapc

import "sync"

// habits remember whose clients leave most of what is read ahead of them, such
// as one that gets a single message by each session.
type habits struct {
	mu    sync.Mutex
	leave map[string]bool // by login name
}

// maxHabits is how many accounts are remembered; then all are forgotten.
const maxHabits = 10_000

func (h *habits) leaves(account string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leave[account]
}

// note takes in what a session came to, in octets.
func (h *habits) note(account string, asked, wasted int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case asked == 0:
	case wasted <= asked:
		delete(h.leave, account)
	case h.leave == nil || len(h.leave) >= maxHabits:
		h.leave = map[string]bool{account: true}
	default:
		h.leave[account] = true
	}
}
