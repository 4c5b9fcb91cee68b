package relay

import (
	"sync"
	"time"
)

// A queue holds octets that are under way, in order, with the time at which
// each is due. It takes no more while it holds a window full.
type queue struct {
	window int

	mu        sync.Mutex
	changed   sync.Cond
	parcels   []parcel
	held      int // octets of memory in parcels and in the hands of take's caller
	ended     bool
	endDue    time.Time
	abandoned bool
}

type parcel struct {
	octets []byte
	due    time.Time
}

func newQueue(window int) *queue {
	q := &queue{window: window}
	q.changed.L = &q.mu
	return q
}

// put appends octets, once there is room for them; false says that nobody
// will take them any more.
func (q *queue) put(octets []byte, due time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.held >= q.window && !q.abandoned {
		q.changed.Wait()
	}
	if q.abandoned {
		return false
	}
	if len(octets) > 0 {
		q.held += weight(octets)
		q.parcels = append(q.parcels, parcel{octets, due})
		q.changed.Broadcast()
	}
	return true
}

// next waits for the first parcel, or the end, and tells when it is due.
func (q *queue) next() (due time.Time, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.parcels) == 0 && !q.ended {
		q.changed.Wait()
	}
	if len(q.parcels) == 0 {
		return q.endDue, false
	}
	return q.parcels[0].due, true
}

// take removes every parcel that is due by now. Each is given back by done.
func (q *queue) take(now time.Time) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var due [][]byte
	for len(due) < len(q.parcels) && !q.parcels[len(due)].due.After(now) {
		due = append(due, q.parcels[len(due)].octets)
	}
	clear(q.parcels[:len(due)])
	q.parcels = q.parcels[len(due):]
	return due
}

// done makes room for as much as b took.
func (q *queue) done(b []byte) {
	q.mu.Lock()
	q.held -= weight(b)
	q.changed.Broadcast()
	q.mu.Unlock()
	recycle(b)
}

// end says that nothing more will be put; that is to be known at due.
func (q *queue) end(due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended, q.endDue = true, due
	q.changed.Broadcast()
}

// abandon says that nothing more will be taken.
func (q *queue) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.abandoned = true
	q.changed.Broadcast()
}

// Buffers are large for the sake of speed, but a small read is not made to
// occupy a large one.
const (
	bufferOctets = 64 << 10
	smallOctets  = 8 << 10
)

var buffers = sync.Pool{New: func() any { return new([bufferOctets]byte) }}

func newBuffer() []byte { return buffers.Get().(*[bufferOctets]byte)[:] }

// shrink returns the first n octets of b, in less memory if they are few.
func shrink(b []byte, n int) []byte {
	if n > smallOctets {
		return b[:n]
	}
	small := append([]byte(nil), b[:n]...)
	recycle(b)
	return small
}

func recycle(b []byte) {
	if cap(b) == bufferOctets {
		buffers.Put((*[bufferOctets]byte)(b[:bufferOctets]))
	}
}

// weight is how much memory b and its place in the queue occupy.
func weight(b []byte) int { return cap(b) + 64 }
