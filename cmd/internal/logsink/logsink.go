// Package logsink keeps a log from holding up those who write it. A pipe whose
// reader has stopped, or a terminal that is paused, blocks every write to it; a
// sink takes lines without waiting and drops what is more than its bound.
//
// A Sink owns one goroutine, which writes. It ends with Close, or, where the
// destination still blocks by then, whenever that returns.
package logsink

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// maxOctets bounds the lines that wait: some 5,000 of them.
const maxOctets = 1 << 20

// A Sink is an io.Writer of lines, each a Write of its own, as log/slog does
// it. Lines reach the destination in the order of the Writes. Safe for use by
// several goroutines.
type Sink struct {
	dst  io.Writer
	tell func(w io.Writer, lines int)
	wake chan struct{} // holds one while there is something to take
	done chan struct{} // closed by the writing goroutine at its end

	mu      sync.Mutex
	waiting []byte
	dropped int // since the lines that wait
	total   uint64
	closed  bool
}

// New returns a sink in front of dst. Where lines were dropped, and dst takes
// lines again, tell writes a line to w that says how many. The caller closes
// the Sink, and leaves dst to it until then.
func New(dst io.Writer, tell func(w io.Writer, lines int)) *Sink {
	s := &Sink{dst: dst, tell: tell, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write takes a line, or drops it. It neither waits nor fails.
func (s *Sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		s.total++
		return len(line), nil
	case s.dropped > 0, len(s.waiting)+len(line) > maxOctets:
		s.dropped++ // and all after it, for the gap to be in one place
		s.total++
	default:
		s.waiting = append(s.waiting, line...)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return len(line), nil
}

// Dropped returns how many lines did not reach the destination.
func (s *Sink) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Close takes no more lines, and waits until those taken are written, but no
// longer than patience.
func (s *Sink) Close(patience time.Duration) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.wake)
	}
	s.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
}

// run writes what waits, all of it at a time. While it does, others come.
func (s *Sink) run() {
	defer close(s.done)
	var lines []byte
	lost := 0 // and not told of yet
	for range s.wake {
		dropped := 0
		lines, dropped = s.take(lines)
		lost = s.report(lost) // of lines before these
		lost = s.report(lost + s.write(lines) + dropped)
	}
}

// take returns the lines that wait, and how many were dropped after them. It
// leaves the emptied buffer to those that come.
func (s *Sink) take(emptied []byte) (lines []byte, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, dropped = s.waiting, s.dropped
	s.waiting, s.dropped = emptied[:0], 0
	return lines, dropped
}

// write writes lines and returns how many could not be.
func (s *Sink) write(lines []byte) (missing int) {
	n, err := s.dst.Write(lines)
	if err == nil {
		return 0
	}
	missing = bytes.Count(lines[min(n, len(lines)):], []byte{'\n'})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += uint64(missing)
	return missing
}

// report tells how many lines are lost, and returns those it could not tell of.
func (s *Sink) report(lost int) int {
	if lost == 0 {
		return 0
	}
	var line bytes.Buffer
	s.tell(&line, lost)
	if _, err := s.dst.Write(line.Bytes()); err != nil {
		return lost
	}
	return 0
}
