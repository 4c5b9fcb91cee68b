package main

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"postern/proxy/admin"
	"postern/upstream"
)

// A status is what the operator may see of a running gateway: admin.Status.
type status struct {
	version   string
	began     time.Time
	state     atomic.Pointer[error] // why it is not ready; nil is ready
	sessions  func() int
	listeners func() []admin.Listener

	mu        sync.Mutex
	upstreams []admin.Upstream
}

// What keeps a gateway from being ready.
var (
	errNotStarted = errors.New("not started")
	errDraining   = errors.New("draining")
)

func (s *status) set(err error) { s.state.Store(&err) }

// Ready implements admin.Status.
func (s *status) Ready() error { return *s.state.Load() }

// Overview implements admin.Status.
func (s *status) Overview() admin.Overview {
	s.mu.Lock()
	defer s.mu.Unlock()
	return admin.Overview{
		Version:   s.version,
		Started:   s.began,
		Sessions:  s.sessions(),
		Listeners: s.listeners(),
		Upstreams: append([]admin.Upstream(nil), s.upstreams...),
	}
}

// watch adds an upstream, and returns hooks that also note how it fares.
func (s *status) watch(name, protocol string, hooks upstream.Hooks) upstream.Hooks {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.upstreams)
	s.upstreams = append(s.upstreams, admin.Upstream{Name: name, Protocol: protocol})
	next := hooks.LoggedIn
	hooks.LoggedIn = func(took time.Duration, err error) {
		s.note(i, err)
		if next != nil {
			next(took, err)
		}
	}
	return hooks
}

// note keeps how a login at upstream i ended.
func (s *status) note(i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.upstreams[i]
	if err == nil {
		u.LastSuccess = time.Now()
		return
	}
	u.LastFailure, u.Failure = time.Now(), upstream.Kind(err)
}
