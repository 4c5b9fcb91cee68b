package jmapc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"postern/upstream"
)

const (
	reopenings = 4 // after a beginning for Top, and after a broken link
	// What is left of an answer is read if it is as little as this, within this
	// time, so that the connection can be kept.
	restOctets = 64 << 10
	restTime   = time.Second
)

// A blob streams one message. It ends in io.EOF only after as many octets as
// the listing said; a broken link is taken up where it broke, if the server
// knows ranges: the octets behind a blobId never change (RFC 8620 section 6).
type blob struct {
	ctx     context.Context
	stop    func() // ends ctx
	release func() // gives the slot back
	closed  sync.Once
	ask     func(from, to int64) (*http.Response, error)
	spoiled func() // called if the message turns out to be longer than listed; may be nil

	body     io.ReadCloser
	at       int64 // octets delivered
	end      int64 // where body ends
	size     int64 // where the message ends
	ranges   bool  // the server may know them
	reopened int
}

// download asks for message i up to octet most, or all of it. The caller holds a
// slot, which passes to the blob, and stop ends ctx. It uses nothing of d that
// ever changes.
func (d *maildrop) download(ctx context.Context, stop func(), s *session, i int, most int64) (*blob, error) {
	b := &blob{ctx: ctx, stop: stop, release: d.release, size: d.listing.Size(i)}
	name := d.listing.blob(i)
	b.ask = func(from, to int64) (*http.Response, error) { return s.ask(ctx, name, from, to, b.size) }
	if err := b.open(most); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// ask requests octets from to to (not included) of a blob of that size.
func (s *session) ask(ctx context.Context, name string, from, to, size int64) (*http.Response, error) {
	at, err := expand(s.download, map[string]string{
		"accountId": string(s.account), "blobId": name, "type": "application/octet-stream", "name": "message.eml",
	})
	if err != nil {
		return nil, fmt.Errorf("%w: download URL: %w", upstream.ErrRejected, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: download URL does not parse", upstream.ErrRejected)
	}
	// A compressed answer has no length to check, and no ranges.
	r.Header.Set("Accept-Encoding", "identity")
	if from > 0 || to < size {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	return s.blobs.Do(r)
}

// open asks for the octets from b.at up to octet to, and checks that they are
// what comes.
func (b *blob) open(to int64) error {
	answer, err := b.ask(b.at, to)
	if err != nil {
		return err
	}
	if err := b.accept(answer, to); err != nil {
		answer.Body.Close()
		return err
	}
	return nil
}

func (b *blob) accept(answer *http.Response, to int64) error {
	if e := answer.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return fmt.Errorf("%w: sent with content encoding %q", upstream.ErrUnavailable, e)
	}
	switch answer.StatusCode {
	case http.StatusOK:
		if b.at > 0 {
			return fmt.Errorf("%w: the server does not resume", upstream.ErrUnavailable)
		}
		if answer.ContentLength >= 0 && answer.ContentLength != b.size {
			return wrongLength(answer.ContentLength, b.size)
		}
		b.end, b.ranges = b.size, answer.Header.Get("Accept-Ranges") != "none"
	case http.StatusPartialContent:
		end, size, err := contentRange(answer.Header.Get("Content-Range"), b.at)
		if err != nil {
			return err
		}
		if size >= 0 && size != b.size || end > b.size {
			return wrongLength(max(size, end), b.size)
		}
		b.end, b.ranges = min(end, to), true
	default:
		return fmt.Errorf("%w: HTTP status %d to a download", upstream.ErrUnavailable, answer.StatusCode)
	}
	b.body = answer.Body
	return nil
}

// wrongLength: what the upstream delivers is not what it listed, and cannot be
// told from a part of it.
func wrongLength(got, want int64) error {
	return fmt.Errorf("%w: %d octets come where %d were listed", upstream.ErrUnreadable, got, want)
}

// contentRange reads "bytes 0-99/200" (RFC 9110 section 14.4), which has to
// begin at from. An unknown size ("*") is -1.
func contentRange(v string, from int64) (end, size int64, err error) {
	var first, last int64
	size = -1
	if n, _ := fmt.Sscanf(v, "bytes %d-%d/%d", &first, &last, &size); n < 2 || first != from || last < first || last > maxSize {
		return 0, 0, fmt.Errorf("%w: content range %q, want octet %d on", upstream.ErrUnavailable, v, from)
	}
	return last + 1, size, nil
}

func (b *blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.at == b.size {
			return 0, b.finish()
		}
		if b.at == b.end {
			if err := b.reopen(); err != nil {
				return 0, err
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.end-b.at)])
		b.at += int64(n)
		if n > 0 {
			return n, nil // an error comes again
		}
		if err == nil {
			continue
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// finish looks whether the answer ends where the message does.
func (b *blob) finish() error {
	n, err := io.ReadFull(b.body, make([]byte, 1))
	if n > 0 {
		if b.spoiled != nil {
			b.spoiled()
		}
		return wrongLength(b.size+1, b.size)
	}
	if err != io.EOF {
		return fmt.Errorf("after the last octet: %w: %w", upstream.ErrUnavailable, err)
	}
	return io.EOF
}

// resume goes on after err, if that can be done.
func (b *blob) resume(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	broken := fmt.Errorf("after %d of %d octets: %w: %w", b.at, b.size, upstream.ErrUnavailable, err)
	if b.ctx.Err() != nil || !b.ranges {
		return broken
	}
	if again := b.reopen(); again != nil {
		return fmt.Errorf("%w; then: %v", broken, again)
	}
	return nil
}

// reopen asks for the rest of the message.
func (b *blob) reopen() error {
	if b.reopened == reopenings {
		return fmt.Errorf("after %d of %d octets: %w: it came in too many parts", b.at, b.size, upstream.ErrUnavailable)
	}
	b.reopened++
	b.body.Close()
	b.body = http.NoBody
	return b.open(b.size)
}

// Close reads a little that is left, for the sake of the connection.
func (b *blob) Close() error {
	if b.end-b.at <= restOctets {
		late := time.AfterFunc(restTime, b.stop)
		io.CopyN(io.Discard, b.body, b.end-b.at+1) // one more, for the end itself
		late.Stop()
	}
	b.close()
	return nil
}

func (b *blob) close() {
	b.closed.Do(func() {
		b.stop()
		if b.body != nil {
			b.body.Close()
		}
		b.release()
	})
}
