package imapc

import (
	"slices"
)

// ring tells every connection that idles that there may be news. f.mu is held.
func (f *fake) ring() {
	for _, c := range f.conns {
		if c.idle != nil {
			select {
			case c.idle <- struct{}{}:
			default:
			}
		}
	}
}

// know takes note that the connection is told of all messages that there are.
func (c *fakeConn) know() (messages int) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.known = nil
	for _, m := range *c.messages() {
		c.known = append(c.known, m.uid)
	}
	return len(c.known)
}

// announce tells what has become of the mailbox since it was told last.
func (c *fakeConn) announce() {
	c.f.mu.Lock()
	var lines []int // negative: expunged
	now := *c.messages()
	for i := 0; i < len(c.known); {
		if slices.ContainsFunc(now, func(m fakeMessage) bool { return m.uid == c.known[i] }) {
			i++
			continue
		}
		c.known = slices.Delete(c.known, i, i+1)
		lines = append(lines, -i-1)
	}
	if len(now) > len(c.known) {
		lines = append(lines, len(now))
	}
	c.known = nil
	for _, m := range now {
		c.known = append(c.known, m.uid)
	}
	c.f.mu.Unlock()
	for _, n := range lines {
		if n < 0 {
			c.say("* %d EXPUNGE", -n)
		} else {
			c.say("* %d EXISTS", n)
		}
	}
}

// idleUntilDone answers IDLE, RFC 2177.
func (c *fakeConn) idleUntilDone() {
	news := make(chan struct{}, 1)
	c.f.mu.Lock()
	c.idle = news
	c.f.mu.Unlock()
	c.say("+ idling")
	c.announce()
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range news {
			c.announce()
		}
	}()
	line, err := c.line()
	c.f.mu.Lock()
	c.idle = nil
	c.f.mu.Unlock()
	close(news)
	<-told
	switch {
	case err != nil:
	case line != "DONE":
		c.say("%s BAD expected DONE, got %s", c.tag, line)
	default:
		c.ok("idled")
	}
}
