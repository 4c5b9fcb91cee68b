package pop3

import (
	"context"
	"sync"
)

// A drain tells every session when the server's Draining closes. One goroutine
// waits for that on behalf of all, and only while there are sessions.
type drain struct {
	mu       sync.Mutex
	sessions int
	begun    context.Context // ends when draining closes, or when the last session has left
	stop     context.CancelFunc
}

// join has f called in a goroutine of its own once draining is closed. The
// session calls leave when it is over.
func (d *drain) join(draining <-chan struct{}, f func()) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sessions++; d.sessions == 1 {
		d.begun, d.stop = context.WithCancel(context.Background())
		go watch(draining, d.begun, d.stop)
	}
	forget := context.AfterFunc(d.begun, f)
	return func() {
		forget()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.sessions--; d.sessions == 0 {
			d.stop()
		}
	}
}

func watch(draining <-chan struct{}, begun context.Context, begin context.CancelFunc) {
	select {
	case <-draining:
		begin()
	case <-begun.Done():
	}
}
