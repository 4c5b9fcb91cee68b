package pop3

import (
	"context"
	"errors"
	"io"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"postern/upstream"
)

// marks are a choice of messages: a bit each, and no memory before the first.
type marks struct {
	bits []uint64
	n    int
}

func (m *marks) has(i int) bool {
	return m.bits != nil && m.bits[i/64]&(1<<(i%64)) != 0
}

// set marks message i of n.
func (m *marks) set(i, n int) {
	if m.has(i) {
		return
	}
	if m.bits == nil {
		m.bits = make([]uint64, (n+63)/64)
	}
	m.bits[i/64] |= 1 << (i % 64)
	m.n++
}

// all returns the marked messages in order.
func (m *marks) all() []int {
	messages := make([]int, 0, m.n)
	for at, word := range m.bits {
		for ; word != 0; word &= word - 1 {
			messages = append(messages, at*64+bits.TrailingZeros64(word))
		}
	}
	return messages
}

// message finds the message that arg numbers, counting from 1, and returns its
// index in the listing. A message that DELE marked can no longer be named.
// RFC 1939 section 5.
func (s *session) message(arg string) (i int, err error) {
	number, err := strconv.ParseUint(arg, 10, 31) // digits only, no sign
	tooHigh := errors.Is(err, strconv.ErrRange)
	if err != nil && !tooHigh || number == 0 {
		return 0, refusef("message number expected")
	}
	i = int(number) - 1
	if tooHigh || i >= s.listing.Len() {
		return 0, refusef("no such message, maildrop has %s", count(s.listing.Len(), "message"))
	}
	if s.marks.has(i) {
		return 0, refusef("message %d is marked as deleted", number)
	}
	return i, nil
}

// size is never negative, whatever the upstream said.
func (s *session) size(i int) int64 { return max(0, s.listing.Size(i)) }

// drop counts what is not marked. The sum of sizes that no mailbox can have
// stays at the highest number there is.
func (s *session) drop() (messages int, octets int64) {
	for i := range s.listing.Len() {
		if s.marks.has(i) {
			continue
		}
		messages++
		if octets += s.size(i); octets < 0 {
			octets = math.MaxInt64
		}
	}
	return messages, octets
}

func (s *session) dropListing() string {
	messages, octets := s.drop()
	return count(messages, "message") + " (" + count(octets, "octet") + ")"
}

func (s *session) stat(context.Context, string) (reply, error) {
	messages, octets := s.drop()
	return ok("%d %d", messages, octets), nil
}

func (s *session) list(_ context.Context, arg string) (reply, error) {
	return s.listLines(arg, func(line []byte, i int) []byte { return strconv.AppendInt(line, s.size(i), 10) })
}

func (s *session) uidl(_ context.Context, arg string) (reply, error) {
	return s.listLines(arg, s.listing.AppendUIDL)
}

// maxListLineOctets is a number, a space, a unique-id and CRLF, with room to
// spare.
const maxListLineOctets = 128

// listLines is what LIST and UIDL have in common: the line of one message, or of
// all. It streams, since 100,000 lines are nothing to keep.
func (s *session) listLines(arg string, appendTo func(line []byte, i int) []byte) (reply, error) {
	if arg != "" {
		i, err := s.message(arg)
		if err != nil {
			return reply{}, err
		}
		return ok("%d %s", i+1, appendTo(nil, i)), nil
	}
	rep := ok("%s", s.dropListing())
	rep.body = func(w *writer) error {
		for i := range s.listing.Len() {
			if s.marks.has(i) {
				continue
			}
			w.reserve(maxListLineOctets)
			w.buf = strconv.AppendInt(w.buf, int64(i+1), 10)
			w.buf = appendTo(append(w.buf, ' '), i)
			w.buf = append(w.buf, '\r', '\n')
		}
		return nil
	}
	return rep, nil
}

func (s *session) retr(ctx context.Context, arg string) (reply, error) {
	i, err := s.message(arg)
	if err != nil {
		return reply{}, err
	}
	r, err := s.login.Fetch(ctx, i)
	if err != nil {
		return reply{}, err
	}
	rep := ok("%s", count(s.size(i), "octet"))
	rep.body = func(w *writer) error {
		err := sendMessage(&dotWriter{w: w}, r)
		if err == nil {
			w.unsent.ends++
			s.read.set(i, s.listing.Len())
		}
		return err
	}
	return rep, nil
}

// maxTopLines stands for any higher number: no message has more lines.
const maxTopLines = math.MaxInt32

// top is TOP: the header, the empty line and n lines of the body. RFC 1939
// section 7.
func (s *session) top(ctx context.Context, arg string) (reply, error) {
	number, lines, _ := strings.Cut(arg, " ")
	n, err := strconv.ParseUint(strings.TrimLeft(lines, " "), 10, 31)
	if errors.Is(err, strconv.ErrRange) {
		n, err = maxTopLines, nil
	}
	if err != nil {
		return reply{}, refusef("message number and number of lines expected")
	}
	i, err := s.message(number)
	if err != nil {
		return reply{}, err
	}
	r, err := s.login.Top(ctx, i, int(n))
	if err != nil {
		return reply{}, err
	}
	rep := ok("top of message follows")
	rep.body = func(w *writer) error {
		return sendMessage(&dotWriter{w: w, cut: true, lines: int(n)}, r)
	}
	return rep, nil
}

// sendMessage streams a message, or the beginning of it.
func sendMessage(d *dotWriter, r io.ReadCloser) error {
	defer r.Close()
	return d.copy(r)
}

// dele marks a message to be removed when QUIT enters the UPDATE state.
// Nothing is sent upstream before then. RFC 1939 section 5.
func (s *session) dele(_ context.Context, arg string) (reply, error) {
	i, err := s.message(arg)
	if err != nil {
		return reply{}, err
	}
	if err := s.login.Removable(i); err != nil && !errors.Is(err, upstream.ErrGone) {
		return reply{}, err
	}
	s.marks.set(i, s.listing.Len())
	return ok("message %d marked as deleted", i+1), nil
}

func (s *session) noop(context.Context, string) (reply, error) { return ok("nothing done"), nil }

func (s *session) rset(context.Context, string) (reply, error) {
	s.marks = marks{}
	return ok("maildrop has %s", s.dropListing()), nil
}
