// Package spool keeps what an upstream sends before a client has asked for it.
//
// A [Pool] is the memory and the disk that this may take in the whole process,
// a [Share] what one session may take of the memory. A [Spool] is a stream of
// octets on its way from one goroutine, which fills it, to another, which reads
// it, possibly at the same time. What does not fit into memory goes to a
// temporary file that has no name; what does not fit there waits.
//
// The package starts no goroutine, and a spool has no finalizer: it must be
// closed.
package spool

import (
	"sync"
	"sync/atomic"
)

// Limits bound a Pool. A zero field means the default, a negative one none of it.
type Limits struct {
	Memory int64  // octets, for the process; 256 MiB
	Share  int64  // octets of that, for one session; 64 MiB
	Disk   int64  // octets, for the process; 1 GiB
	Dir    string // for temporary files; os.TempDir()
}

// A Pool bounds what all its shares hold. Safe for use by several goroutines.
type Pool struct {
	limits Limits
	memory atomic.Int64
	disk   atomic.Int64
}

// NewPool returns a Pool with these limits.
func NewPool(l Limits) *Pool {
	p := &Pool{limits: l}
	setDefault(&p.limits.Memory, 256<<20)
	setDefault(&p.limits.Share, 64<<20)
	setDefault(&p.limits.Disk, 1<<30)
	return p
}

func setDefault(field *int64, value int64) {
	if *field == 0 {
		*field = value
	}
}

// Held tells how many octets of memory and of disk are in use now.
func (p *Pool) Held() (memory, disk int64) { return p.memory.Load(), p.disk.Load() }

// Share returns a session's share. It needs no closing, but its spools do.
func (p *Pool) Share() *Share { return &Share{pool: p} }

// A Share bounds what the spools of one session hold in memory. Safe for use by
// several goroutines.
type Share struct {
	pool   *Pool
	memory atomic.Int64
}

// Room is how many octets more of memory the session should fill now. It leaves
// room for others: what a session holds is at most a quarter of what is free, so
// that however many there are, there is some for each.
func (s *Share) Room() int64 {
	free := s.pool.limits.Memory - s.pool.memory.Load()
	return max(0, min(s.pool.limits.Share, free/4)-s.memory.Load())
}

// take takes n octets of memory if they are there.
func (s *Share) take(n int) bool {
	if !reserve(&s.memory, n, s.pool.limits.Share) {
		return false
	}
	if !reserve(&s.pool.memory, n, s.pool.limits.Memory) {
		s.memory.Add(int64(-n))
		return false
	}
	return true
}

// force takes n octets in any case.
func (s *Share) force(n int) {
	s.memory.Add(int64(n))
	s.pool.memory.Add(int64(n))
}

// reserve adds n to used unless that is over the limit.
func reserve(used *atomic.Int64, n int, limit int64) bool {
	if used.Add(int64(n)) <= limit {
		return true
	}
	used.Add(int64(-n))
	return false
}

// A chunk is a piece of memory, filled from its beginning and read from there.
type chunk struct {
	octets        []byte
	read, written int
}

// Chunks come in a few sizes, so that a small message does not take much.
var classes = [...]int{2 << 10, 8 << 10, maxChunk}

const maxChunk = 32 << 10

var free [len(classes)]sync.Pool

// classFor returns the class that holds more than n octets, or else the largest.
func classFor(n int64) int {
	for k, size := range classes {
		if int64(size) > n {
			return k
		}
	}
	return len(classes) - 1
}

func newChunk(class int) *chunk {
	if c, ok := free[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{octets: make([]byte, classes[class])}
}

// recycle gives a chunk's memory back.
func (s *Share) recycle(c *chunk) {
	s.force(-len(c.octets))
	c.read, c.written = 0, 0
	for k, size := range classes {
		if size == len(c.octets) {
			free[k].Put(c)
		}
	}
}
