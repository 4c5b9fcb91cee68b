package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A Progress is told how much of a run is done, when that is known. It may be
// nil, and is called from one goroutine at a time.
type Progress func(done, total int)

func (p Progress) tell(done, total int) {
	if p != nil {
		p(done, total)
	}
}

// A Drain retrieves messages in order: LIST, UIDL, then RETR after RETR.
type Drain struct {
	Messages int  // how many, from the first; 0 means all
	Delete   bool // DELE after each RETR
	Quit     bool // end with QUIT even after DELE, so that it counts; else RSET comes first
	Pipeline int  // RETRs sent before the first is answered; at most 1 is one at a time
}

// Run is one session that drains. Its phases are login, listing, messages, end.
func (d Drain) Run(ctx context.Context, t Target, p Progress) (Result, error) {
	r := Result{Scenario: d.name(), Sessions: 1}
	if d.Delete && d.Pipeline > 1 {
		return r, errors.New("either DELE after each RETR or several RETRs at once")
	}
	w := startWatch()
	c, err := t.user(0).login(ctx)
	if err != nil {
		return r, err
	}
	defer c.close()
	w.lap("login")
	sizes, err := c.list()
	if err != nil {
		return r, err
	}
	if err := c.sameCount(len(sizes)); err != nil {
		return r, err
	}
	w.lap("listing")
	if d.Messages > 0 {
		sizes = sizes[:min(d.Messages, len(sizes))]
	}
	if err := d.retrieve(c, sizes, &r, p); err != nil {
		return r, err
	}
	w.lap("messages")
	if err := d.end(c); err != nil {
		return r, err
	}
	w.lap("end")
	w.stop(&r)
	return r, nil
}

func (d Drain) name() string {
	switch {
	case d.Delete:
		return "drain with DELE"
	case d.Pipeline > 1:
		return fmt.Sprintf("drain, %d pipelined", d.Pipeline)
	}
	return "drain"
}

// sameCount asks UIDL for as many messages as LIST had.
func (c *client) sameCount(want int) error {
	n, err := c.uidl()
	if err == nil && n != want {
		err = fmt.Errorf("UIDL has %d messages, LIST %d", n, want)
	}
	return err
}

func (d Drain) retrieve(c *client, sizes []int64, r *Result, p Progress) error {
	waits := make([]time.Duration, 0, len(sizes))
	ahead := max(d.Pipeline, 1)
	sent, at := 0, time.Now()
	for i, size := range sizes {
		if i == 0 || ahead == 1 || sent-i <= ahead/2 { // keep between half and all of them under way
			at = time.Now()
			if err := c.sendRetr(&sent, min(i+ahead, len(sizes))); err != nil {
				return err
			}
		}
		b, err := c.message(i+1, size)
		if err != nil {
			return err
		}
		if ahead == 1 {
			waits = append(waits, b.first.Sub(at))
		}
		if d.Delete {
			if _, err := c.command(fmt.Sprint("DELE ", i+1)); err != nil {
				return err
			}
		}
		r.Messages++
		r.Octets += b.octets
		r.Digest += uint64(b.sum)
		p.tell(i+1, len(sizes))
	}
	r.FirstOctet = spread(waits)
	return nil
}

// sendRetr sends RETR for the messages after sent up to last, in one piece.
func (c *client) sendRetr(sent *int, last int) error {
	var lines []string
	for *sent < last {
		*sent++
		lines = append(lines, "RETR "+strconv.Itoa(*sent))
	}
	if len(lines) == 0 {
		return nil // all are under way
	}
	return c.send(lines...)
}

// message reads the answer to a RETR and checks it against the size in LIST. It
// may be a CRLF longer, which a message without a final line ending gets so that
// the final dot can follow.
func (c *client) message(number int, size int64) (body, error) {
	if _, err := c.reply(fmt.Sprint("RETR ", number)); err != nil {
		return body{}, err
	}
	b, err := c.body()
	if err == nil && b.octets != size && b.octets != size+2 {
		err = fmt.Errorf("%d octets, but LIST says %d", b.octets, size)
	}
	if err != nil {
		return b, fmt.Errorf("message %d: %w", number, err)
	}
	return b, nil
}

func (d Drain) end(c *client) error {
	if d.Delete && !d.Quit {
		if _, err := c.command("RSET"); err != nil {
			return err
		}
	}
	return c.quit()
}

// A Top asks for the header and the first lines of messages, one at a time.
type Top struct {
	Skip     int // so many messages at the beginning
	Messages int // how many; 0 means all
	Lines    int
}

// Run is one session. Its phases are login, listing, messages, end.
func (o Top) Run(ctx context.Context, t Target, p Progress) (Result, error) {
	r := Result{Scenario: fmt.Sprintf("TOP n %d", o.Lines), Sessions: 1}
	w := startWatch()
	c, err := t.user(0).login(ctx)
	if err != nil {
		return r, err
	}
	defer c.close()
	w.lap("login")
	n, _, err := c.stat()
	if err != nil {
		return r, err
	}
	w.lap("listing")
	n = max(n-o.Skip, 0)
	if o.Messages > 0 {
		n = min(n, o.Messages)
	}
	for i := range n {
		command := fmt.Sprint("TOP ", o.Skip+i+1, " ", o.Lines)
		if _, err := c.command(command); err != nil {
			return r, err
		}
		b, err := c.body()
		if err != nil {
			return r, fmt.Errorf("%s: %w", command, err)
		}
		r.Messages++
		r.Octets += b.octets
		r.Digest += uint64(b.sum)
		p.tell(i+1, n)
	}
	w.lap("messages")
	if err := c.quit(); err != nil {
		return r, err
	}
	w.lap("end")
	w.stop(&r)
	return r, nil
}

// A Delete marks messages and quits. The messages are gone afterwards.
type Delete struct {
	Messages int // from the first; 0 means all
}

// Run is one session. Its phases are login, messages, end.
func (d Delete) Run(ctx context.Context, t Target, p Progress) (Result, error) {
	r := Result{Scenario: "delete", Sessions: 1}
	w := startWatch()
	c, err := t.user(0).login(ctx)
	if err != nil {
		return r, err
	}
	defer c.close()
	n, _, err := c.stat()
	if err != nil {
		return r, err
	}
	w.lap("login")
	if d.Messages > 0 {
		n = min(n, d.Messages)
	}
	for i := range n {
		if _, err := c.command(fmt.Sprint("DELE ", i+1)); err != nil {
			return r, err
		}
		r.Messages++
		p.tell(i+1, n)
	}
	w.lap("messages")
	if err := c.quit(); err != nil {
		return r, err
	}
	w.lap("end")
	w.stop(&r)
	return r, nil
}
