package imapc

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"postern/upstream"
)

// A literal is one FETCH of one message, whose body is being read. The
// library's reader waits until that is done: it must be closed.
type literal struct {
	c    *conn
	end  func()
	cmd  *imapclient.FetchCommand
	msg  *imapclient.FetchMessageData
	r    io.Reader
	size int64
	left int64
	err  error
}

// fetch asks for a section of one message. Nothing else may be on its way: of
// several answers, the library cannot wait for one without somebody who reads
// the others.
func (c *conn) fetch(ctx context.Context, uid uint32, section *imap.FetchItemBodySection) (*literal, error) {
	end := c.during(ctx, await{idle: c.o.IdleTimeout, literal: c.o.MaxMessage})
	c.roundTrip()
	cmd := c.lib.Fetch(imap.UIDSetNum(imap.UID(uid)), &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}})
	for msg := cmd.Next(); msg != nil; msg = cmd.Next() {
		for item := msg.Next(); item != nil; item = msg.Next() {
			if b, ok := item.(imapclient.FetchItemDataBodySection); ok && b.Literal != nil && b.MatchCommand(section) {
				n := b.Literal.Size()
				return &literal{c: c, end: end, cmd: cmd, msg: msg, r: b.Literal, size: n, left: n}, nil
			}
		}
	}
	defer end()
	err := cmd.Close()
	var refusal *imap.Error
	switch {
	case err == nil:
		return nil, errNoBody
	case errors.As(err, &refusal):
		return nil, refused("fetch", statusOf(refusal), upstream.ErrUnreadable)
	}
	return nil, c.lost("fetch", err)
}

// Read implements io.Reader. After an error the library's decoder belongs to
// its reader again, so that nothing may be read any more.
func (l *literal) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if err == io.EOF && l.left > 0 {
		err = io.ErrUnexpectedEOF // the library does not tell
	}
	l.err = err
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (l *literal) length() int64 { return l.size }

// close ends the FETCH. What is left of the message is drained if it is little,
// otherwise it costs the connection.
func (l *literal) close() error {
	defer l.end()
	if l.left <= maxDrain {
		limit := time.AfterFunc(drainTime, func() { l.c.g.fail(errAbandoned) })
		defer limit.Stop()
	} else {
		l.c.g.fail(errAbandoned)
	}
	io.Copy(io.Discard, readerOnly{l})
	if l.err != io.EOF {
		l.c.g.fail(l.err)
		return l.err // touch neither msg nor cmd: the reader may be at them
	}
	for l.msg.Next() != nil {
	}
	return l.cmd.Close()
}

// readerOnly hides whatever else a reader is.
type readerOnly struct{ io.Reader }

// discard reads a FETCH response that nobody has asked for. The library's own
// way would go on reading after an error.
func discard(msg *imapclient.FetchMessageData) {
	for item := msg.Next(); item != nil; item = msg.Next() {
		if b, ok := item.(imapclient.FetchItemDataBodySection); ok && b.Literal != nil {
			if n, err := io.Copy(io.Discard, readerOnly{b.Literal}); err != nil || n < b.Literal.Size() {
				return
			}
		}
	}
}
