package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Poll is what a client does every few minutes: connect, log in, STAT, UIDL,
// QUIT. Several at once need a user each where the server locks maildrops.
type Poll struct {
	Concurrency int // sessions at once; 0 means 1
	// The run ends when Count sessions have ended or Duration is over; zero is
	// no limit, but not both.
	Count    int
	Duration time.Duration
}

// Run polls. Messages is how many the last user's maildrop holds.
func (o Poll) Run(ctx context.Context, t Target, p Progress) (Result, error) {
	o.Concurrency = max(o.Concurrency, 1)
	if o.Count == 0 && o.Duration == 0 {
		return Result{}, errors.New("poll: neither count nor duration")
	}
	r := Result{Scenario: fmt.Sprintf("poll, %d at once", o.Concurrency)}
	var (
		mu    sync.Mutex
		times []time.Duration
	)
	w := startWatch()
	tickets := o.tickets(w.begin)
	g, ctx := errgroup.WithContext(ctx)
	for i := range o.Concurrency {
		g.Go(func() error {
			for tickets() {
				begin := time.Now()
				n, err := poll(ctx, t.user(i))
				if err != nil {
					return err
				}
				mu.Lock()
				times = append(times, time.Since(begin))
				r.Messages = n
				p.tell(len(times), o.Count)
				mu.Unlock()
			}
			return nil
		})
	}
	err := g.Wait()
	r.Sessions, r.Session = len(times), spread(times)
	w.stop(&r)
	return r, err
}

// tickets returns a function that tells whether another session may begin.
func (o Poll) tickets(begin time.Time) func() bool {
	var mu sync.Mutex
	given := 0
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		if o.Count > 0 && given >= o.Count || o.Duration > 0 && time.Since(begin) >= o.Duration {
			return false
		}
		given++
		return true
	}
}

func poll(ctx context.Context, t Target) (messages int, err error) {
	c, err := t.login(ctx)
	if err != nil {
		return 0, err
	}
	defer c.close()
	messages, _, err = c.stat()
	if err != nil {
		return 0, err
	}
	n, err := c.uidl()
	if err != nil {
		return 0, err
	}
	if n != messages {
		return 0, fmt.Errorf("UIDL has %d messages, STAT %d", n, messages)
	}
	return n, c.quit()
}

// A List is the login of a client to a big maildrop: STAT, LIST, UIDL.
type List struct{}

// Run is one session. Its phases are login (with STAT), LIST, UIDL, end.
func (List) Run(ctx context.Context, t Target, _ Progress) (Result, error) {
	r := Result{Scenario: "list", Sessions: 1}
	w := startWatch()
	c, err := t.user(0).login(ctx)
	if err != nil {
		return r, err
	}
	defer c.close()
	n, octets, err := c.stat()
	if err != nil {
		return r, err
	}
	w.lap("login")
	sizes, err := c.list()
	if err != nil {
		return r, err
	}
	if len(sizes) != n || total(sizes) != octets {
		return r, fmt.Errorf("LIST has %d messages of %d octets, STAT %d of %d", len(sizes), total(sizes), n, octets)
	}
	w.lap("LIST")
	if err := c.sameCount(n); err != nil {
		return r, err
	}
	w.lap("UIDL")
	r.Messages, r.Octets = n, octets
	if err := c.quit(); err != nil {
		return r, err
	}
	w.lap("end")
	w.stop(&r)
	return r, nil
}

func total(sizes []int64) (sum int64) {
	for _, s := range sizes {
		sum += s
	}
	return sum
}

// An Idle holds authenticated sessions that do nothing.
type Idle struct {
	Sessions int
	Settle   time.Duration // after the last login, before memory is measured
	Hold     time.Duration // after that, before the sessions quit
	PID      int           // of the server, to measure its memory; 0 measures nothing
}

// Run opens the sessions, 16 at once, and ends them all.
func (o Idle) Run(ctx context.Context, t Target, p Progress) (Result, error) {
	r := Result{Scenario: fmt.Sprintf("idle, %d sessions", o.Sessions)}
	before, err := o.memory()
	if err != nil {
		return r, err
	}
	w := startWatch()
	sessions, err := o.open(ctx, t, p)
	defer func() {
		for _, c := range sessions {
			c.close()
		}
	}()
	if err != nil {
		return r, err
	}
	w.lap("login")
	r.Sessions = len(sessions)
	if err := wait(ctx, o.Settle); err != nil {
		return r, err
	}
	after, err := o.memory()
	if err != nil {
		return r, err
	}
	if o.PID != 0 {
		r.Memory = &MemoryCost{before, after, (after - before) / int64(max(1, len(sessions)))}
	}
	if err := wait(ctx, o.Hold); err != nil {
		return r, err
	}
	w.lap("idle")
	for _, c := range sessions {
		if err := c.quit(); err != nil {
			return r, err
		}
	}
	w.lap("end")
	w.stop(&r)
	return r, nil
}

func (o Idle) memory() (int64, error) {
	if o.PID == 0 {
		return 0, nil
	}
	return PSS(o.PID)
}

func (o Idle) open(ctx context.Context, t Target, p Progress) ([]*client, error) {
	var (
		mu       sync.Mutex
		sessions []*client
		g        errgroup.Group
	)
	g.SetLimit(16)
	for i := range o.Sessions {
		g.Go(func() error {
			c, err := t.user(i).login(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			sessions = append(sessions, c)
			p.tell(len(sessions), o.Sessions)
			mu.Unlock()
			_, _, err = c.stat()
			c.buffer(512) // nothing is under way now, and thousands of large buffers need not be kept
			return err
		})
	}
	return sessions, g.Wait()
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
