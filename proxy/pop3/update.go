package pop3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/upstream"
)

// quit ends the session. In the TRANSACTION state it is the one way into the
// UPDATE state, which lasts until it returns. RFC 1939 section 6.
func (s *session) quit(ctx context.Context, _ string) (reply, error) {
	if s.marks.n == 0 && s.read.n == 0 {
		s.release()
		s.end("quit", nil)
		return ok("bye"), nil
	}
	if err := s.canUpdate(); err != nil {
		s.lost(err)
		return reply{}, errSilent
	}
	rep, err := s.update(ctx)
	// Before the reply: a client that comes back at once finds the maildrop
	// unlocked.
	s.release()
	s.end("quit", err)
	return rep, err
}

// canUpdate is the last moment to turn back. A message that was not handed to
// the network yet is sent first, since what the client cannot have is not
// removed.
func (s *session) canUpdate() error {
	if out := &s.wire.out; out.unsent.ends > 0 && out.flush() != nil {
		return out.err
	}
	if !s.wire.shield() {
		return errCut
	}
	return nil
}

// update removes what is marked, then notes what was read. It goes on when the
// client has gone away or the server shuts down, within its limit.
func (s *session) update(ctx context.Context) (reply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Update)
	defer cancel()
	rep, err := s.remove(ctx)
	if !errors.Is(err, upstream.ErrChanged) {
		s.markSeen(ctx)
	}
	return rep, err
}

// seenTime is how long QUIT's answer may wait for messages to be marked as read.
const seenTime = 10 * time.Second

// markSeen notes upstream what the client retrieved and did not delete. It is
// no part of what QUIT promises.
func (s *session) markSeen(ctx context.Context) {
	read := slices.DeleteFunc(s.read.all(), s.marks.has)
	if len(read) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	if err := s.login.MarkSeen(ctx, read); err != nil {
		s.log.Warn("messages not marked as read", "account", s.summary.Account, "messages", len(read), "err", err)
	}
}

// remove removes what is marked.
func (s *session) remove(ctx context.Context) (reply, error) {
	if s.marks.n == 0 {
		return ok("bye"), nil
	}
	s.server.removing.Add(1)
	defer s.server.removing.Add(-1)
	marked := s.marks.all()
	removed, err := s.login.Remove(ctx, marked)
	removed = min(max(removed, 0), len(marked))
	s.summary.Removed, s.summary.Unremoved = removed, len(marked)-removed
	if err == nil && removed == len(marked) {
		return ok("bye, %s removed", count(removed, "message")), nil
	}
	if err == nil {
		err = upstream.ErrUnavailable // not what Remove promises, but no reason to say OK
	}
	return reply{}, failure{updateAnswer(removed, len(marked), err), err}
}

// updateAnswer tells the client how much of what it marked is still there.
func updateAnswer(removed, marked int, err error) answer {
	code := "SYS/TEMP"
	if errors.Is(err, upstream.ErrRejected) {
		code = "SYS/PERM"
	}
	switch {
	case removed == marked:
		return answer{code, "removal not confirmed"}
	case removed == 0 && errors.Is(err, upstream.ErrChanged):
		return answer{code, "mailbox changed, nothing removed"}
	}
	return answer{code, fmt.Sprintf("%d of %d deleted messages not removed", marked-removed, marked)}
}
