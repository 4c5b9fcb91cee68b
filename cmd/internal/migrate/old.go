package migrate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"postern/proxy/ledger"
)

// A Fetch reads the map of a running server.
type Fetch struct {
	Server OldServer

	// Have tells which unique-ids an earlier run has read; nil means none.
	Have func(uidl string) bool
	// Save keeps what was read so far, so that a later run can go on from
	// there. It is called by one goroutine at a time.
	Save func([]ledger.Known) error
	// Progress, if not nil, is told how many messages of how many are done. It
	// is called by one goroutine at a time.
	Progress func(done, all int)
}

// A Result is what a Fetch came to.
type Result struct {
	Messages int    // at the old server
	Earlier  int    // of them, those that an earlier run had read
	Skipped  []Skip // that cannot be known again
}

// part is how many messages one connection takes on, and are saved together.
const part = 500

// Run reads the map: UIDL and LIST, and TOP 0 of each message.
func (f Fetch) Run(ctx context.Context) (Result, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := f.Server.dial(running)
	if err != nil {
		return Result{}, broken(ctx, err)
	}
	r, wanted, err := f.survey(first)
	if err != nil {
		first.close()
		return r, broken(ctx, err)
	}
	run := &run{fetch: f, result: r, done: r.Messages - len(wanted), wanted: wanted}
	run.progress(0)
	var others sync.WaitGroup
	connections := f.Server.Connections
	if connections == 0 {
		connections = 4
	}
	others.Go(func() { run.work(first, cancel) })
	for range min(connections, (len(wanted)+part-1)/part) - 1 {
		others.Go(func() { run.join(running, cancel) })
	}
	others.Wait()
	return run.result, broken(ctx, run.err)
}

// broken tells that somebody broke off, rather than what came of it.
func broken(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// A wish is a message whose header is to be read.
type wish struct {
	uidl string
	size int64
}

// survey reads the listings, and finds what is left to be read.
func (f Fetch) survey(c *client) (r Result, wanted []wish, err error) {
	uidls, err := c.uidls()
	if err != nil {
		return r, nil, err
	}
	sizes := map[int]int64{}
	err = c.list("LIST", func(n int, text string) error {
		digits, _, _ := strings.Cut(text, " ")
		size, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || size < 0 {
			return fmt.Errorf("LIST: %.80q is no size", text)
		}
		sizes[n] = size
		return nil
	})
	if err != nil {
		return r, nil, err
	}
	r.Messages = len(uidls)
	seen := map[string]bool{}
	for _, u := range uidls {
		size, listed := sizes[u.number]
		switch {
		case !isUIDL(u.uidl):
			r.skip(u.uidl, "not a unique-id: 1 to 70 octets from ! to ~")
		case seen[u.uidl]:
			r.skip(u.uidl, "another message has this unique-id, too")
		case !listed:
			r.skip(u.uidl, "the old server does not tell its size")
		case f.Have != nil && f.Have(u.uidl):
			r.Earlier++
		default:
			wanted = append(wanted, wish{u.uidl, size})
		}
		seen[u.uidl] = true
	}
	return r, wanted, nil
}

func (r *Result) skip(what, reason string) {
	r.Skipped = append(r.Skipped, Skip{fmt.Sprintf("%.80q", what), reason})
}

type numbered struct {
	number int
	uidl   string
}

// uidls reads the unique-id listing, and keeps the numbers for this connection.
func (c *client) uidls() (all []numbered, err error) {
	c.numbers = map[string]int{}
	err = c.list("UIDL", func(n int, text string) error {
		all = append(all, numbered{n, text})
		c.numbers[text] = n
		return nil
	})
	return all, err
}

// A run is the work of all connections.
type run struct {
	fetch Fetch

	mu     sync.Mutex
	result Result
	done   int
	wanted []wish // not taken on yet
	err    error  // that ended the run
}

// join opens one more connection, if the server lets it in.
func (r *run) join(ctx context.Context, cancel func()) {
	c, err := r.fetch.Server.dial(ctx)
	if err != nil {
		return // one client at a time is all that POP3 promises
	}
	if _, err := c.uidls(); err != nil {
		c.close()
		return
	}
	r.work(c, cancel)
}

// work reads headers until none is left.
func (r *run) work(c *client, cancel func()) {
	defer c.close()
	for {
		wishes := r.take()
		if len(wishes) == 0 {
			return
		}
		known, skipped, err := c.headers(wishes, r.progress)
		if err = r.save(known, skipped, err); err != nil {
			cancel()
			return
		}
	}
}

func (r *run) take() []wish {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil
	}
	n := min(part, len(r.wanted))
	wishes := r.wanted[:n]
	r.wanted = r.wanted[n:]
	return wishes
}

func (r *run) progress(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	if r.fetch.Progress != nil {
		r.fetch.Progress(r.done, r.result.Messages)
	}
}

// save keeps what was read, also before a failure.
func (r *run) save(known []ledger.Known, skipped []Skip, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Skipped = append(r.result.Skipped, skipped...)
	if len(known) > 0 {
		err = errors.Join(err, r.fetch.Save(known))
	}
	if r.err == nil {
		r.err = err
	}
	return err
}

// headers reads the headers of messages, several at a time if the server takes
// commands ahead.
func (c *client) headers(wishes []wish, progress func(int)) (known []ledger.Known, skipped []Skip, err error) {
	window := 1
	if c.pipelining {
		window = atOnce
	}
	for len(wishes) > 0 {
		some := wishes[:min(window, len(wishes))]
		wishes = wishes[len(some):]
		var commands []string
		var asked []wish
		for _, w := range some {
			n, ok := c.numbers[w.uidl]
			if !ok {
				skipped = append(skipped, Skip{fmt.Sprintf("%.80q", w.uidl), "it has gone from the old server meanwhile"})
				continue
			}
			commands, asked = append(commands, fmt.Sprintf("TOP %d 0", n)), append(asked, w)
		}
		if len(commands) > 0 {
			if err := c.send(commands...); err != nil {
				return known, skipped, err
			}
		}
		for _, w := range asked {
			k, reason, err := c.message(w)
			if err != nil {
				return known, skipped, err
			}
			if reason != "" {
				skipped = append(skipped, Skip{fmt.Sprintf("%.80q", w.uidl), reason})
				continue
			}
			known = append(known, k)
		}
		progress(len(some))
	}
	return known, skipped, nil
}

// message reads the answer to TOP of one message.
func (c *client) message(w wish) (k ledger.Known, reason string, err error) {
	header, err := c.header()
	if refused, ok := errors.AsType[refusal](err); ok {
		return k, fmt.Sprintf("the old server does not show its header: %.80q", refused.text), nil
	}
	if err != nil {
		return k, "", err
	}
	h, ok, err := ledger.HeaderOf(strings.NewReader(header))
	if err != nil || !ok {
		return k, "its header is too long", err
	}
	return ledger.Known{UIDL: w.uidl, Size: w.size, Header: h, HasHeader: true}, "", nil
}
