package spool

import (
	"io"
	"io/fs"
	"os"
	"sync"
)

// window is how much memory a spool takes while a reader is at it, who will
// come for the rest.
const window = 512 << 10

// A Spool is a stream of octets on its way. One goroutine fills it: ReadFrom,
// as often as it likes, then Finish. Another one reads it and closes it.
//
// Until the first Begin, Wait or Read, what does not fit into memory goes to disk.
// From then on the filler waits for the reader instead, so that a stream of any
// length takes no more than a few chunks.
type Spool struct {
	share *Share

	mu       sync.Mutex
	changed  sync.Cond // on mu: something below is not what it was
	expected int64     // octets to come yet, as far as is known
	chunks   []*chunk  // what is to be read first
	held     int       // octets of memory that chunks take
	filling  *chunk    // the last one, while the filler is at it
	file     *os.File  // then this, from one offset to another
	from, to int64
	spilled  int64 // octets that went to disk, ever
	reading  bool  // Begin, Wait or Read was called
	finished bool
	err      error // then this
	closed   bool
}

// New returns a spool for about so many octets; a wrong number does no harm.
func (s *Share) New(expected int64) *Spool {
	p := &Spool{share: s, expected: expected}
	p.changed.L = &p.mu
	return p
}

// ReadFrom reads r to its end into the spool. The error is r's, or that of the
// disk, or fs.ErrClosed if the reader has closed the spool: r may not be at its
// end then.
func (p *Spool) ReadFrom(r io.Reader) (total int64, err error) {
	for {
		c, err := p.room()
		if err != nil {
			return total, err
		}
		n, err := r.Read(c.octets[c.written:])
		total += int64(n)
		if failed := p.fill(c, n); failed != nil {
			return total, failed
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Finish ends the stream: after its last octet the reader gets err, or io.EOF
// if that is nil. Only the first call counts.
func (p *Spool) Finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	if err == nil {
		err = io.EOF
	}
	p.finished, p.err = true, err
	p.changed.Broadcast()
}

// room returns a chunk to read into, which is the last of the spool's or, if it
// is not filling, one that is to be written to disk. It waits for what it needs.
func (p *Spool) room() (*chunk, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed {
		if c := p.inMemory(); c != nil {
			p.filling = c
			return c, nil
		}
		if !p.reading && p.onDisk() {
			return newChunk(len(classes) - 1), nil
		}
		p.changed.Wait()
	}
	return nil, fs.ErrClosed
}

// inMemory returns a chunk that has room, nil if there is no memory for it.
func (p *Spool) inMemory() *chunk {
	if p.to > 0 {
		return nil // what is on disk comes first
	}
	if k := len(p.chunks) - 1; k >= 0 && p.chunks[k].written < len(p.chunks[k].octets) {
		return p.chunks[k]
	}
	class := classFor(p.expected)
	switch {
	case p.reading && p.held == 0 && !p.share.take(classes[class]):
		p.share.force(classes[class]) // whoever is being served goes on
	case p.reading && p.held == 0:
	case p.reading && p.held >= window, !p.share.take(classes[class]):
		return nil
	}
	c := newChunk(class)
	p.chunks = append(p.chunks, c)
	p.held += len(c.octets)
	return c
}

// onDisk takes room for a chunk in the file, and tells if there is some.
func (p *Spool) onDisk() bool {
	if !reserve(&p.share.pool.disk, maxChunk, p.share.pool.limits.Disk) {
		return false
	}
	if p.file != nil {
		return true
	}
	f, err := os.CreateTemp(p.share.pool.limits.Dir, "postern-spool-*") // mode 0600
	if err != nil {
		p.share.pool.disk.Add(-maxChunk)
		return false
	}
	os.Remove(f.Name()) // so that nothing is left behind, whatever happens
	p.file = f
	return true
}

// fill takes over the n octets that were read into c.
func (p *Spool) fill(c *chunk, n int) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	p.expected -= int64(n)
	if c == p.filling {
		p.filling = nil
		c.written += n
		if p.closed {
			p.release()
		}
	} else {
		err = p.spill(c.octets[:n])
		free[len(classes)-1].Put(c)
	}
	if p.closed {
		return fs.ErrClosed
	}
	return err
}

// spill writes octets to the room that onDisk has taken.
func (p *Spool) spill(octets []byte) (err error) {
	if !p.closed {
		_, err = p.file.WriteAt(octets, p.to)
	}
	if p.closed || err != nil {
		octets = nil
	}
	p.share.pool.disk.Add(int64(len(octets)) - maxChunk)
	p.to += int64(len(octets))
	p.spilled += int64(len(octets))
	return err
}

// Wait begins to read: it waits until there is something, and returns nil, or
// until there will be nothing, and returns what Read would.
func (p *Spool) Wait() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	for {
		switch {
		case p.closed:
			return fs.ErrClosed
		case p.to > 0 || len(p.chunks) > 0 && p.chunks[0].written > p.chunks[0].read:
			return nil
		case p.finished:
			return p.err
		}
		p.changed.Wait()
	}
}

// Begin has the filler wait from now on, as Wait and Read do.
func (p *Spool) Begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
}

func (p *Spool) begin() {
	if !p.reading {
		p.reading = true
		p.changed.Broadcast()
	}
}

// Read implements io.Reader.
func (p *Spool) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	for {
		switch {
		case p.closed:
			return 0, fs.ErrClosed
		case len(b) == 0:
			return 0, nil
		}
		n, err := p.next(b)
		if n > 0 || err != nil {
			p.changed.Broadcast()
			return n, err
		}
		if p.finished {
			return 0, p.err
		}
		p.changed.Wait()
	}
}

// next copies what is there, memory first.
func (p *Spool) next(b []byte) (int, error) {
	for len(p.chunks) > 0 {
		c := p.chunks[0]
		n := copy(b, c.octets[c.read:c.written])
		c.read += n
		if c.read == len(c.octets) || c.read == c.written && p.finished {
			p.drop(c)
		}
		if n > 0 || len(p.chunks) > 0 && p.chunks[0] == c {
			return n, nil
		}
	}
	if p.from == p.to {
		return 0, nil
	}
	n, err := p.file.ReadAt(b[:min(int64(len(b)), p.to-p.from)], p.from)
	p.from += int64(n)
	if n > 0 {
		err = nil
	}
	if p.from == p.to {
		p.empty()
	}
	return n, err
}

// drop gives back the first chunk.
func (p *Spool) drop(c *chunk) {
	p.chunks = p.chunks[1:]
	p.held -= len(c.octets)
	p.share.recycle(c)
}

// empty makes the file as good as new.
func (p *Spool) empty() {
	p.share.pool.disk.Add(-p.to)
	p.from, p.to = 0, 0
	p.file.Truncate(0)
}

// Close ends reading, and gives everything back; the filler learns of it by
// fs.ErrClosed.
func (p *Spool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.release()
	p.changed.Broadcast()
	return nil
}

// release gives back what a closed spool holds, but not what the filler is at.
func (p *Spool) release() {
	for len(p.chunks) > 0 && p.chunks[0] != p.filling {
		p.drop(p.chunks[0])
	}
	if p.file != nil {
		p.empty()
		p.file.Close()
		p.file = nil
	}
}

// Spilled is how many octets ever went to disk.
func (p *Spool) Spilled() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spilled
}

// Finished tells whether the stream is whole: it was finished without an error.
func (p *Spool) Finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finished && p.err == io.EOF
}
