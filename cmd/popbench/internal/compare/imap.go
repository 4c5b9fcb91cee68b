package compare

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// bareIMAP fetches all messages of an account with one command and does
// nothing with them but check: the rate at which an upstream gives mail away.
func bareIMAP(ctx context.Context, address string, m *mailbox) (messagesPerSecond float64, err error) {
	n, digest, took, err := fetchAll(ctx, address, m.user, "BODY.PEEK[]")
	if err == nil && (n != m.messages || digest != m.digests[n]) {
		err = fmt.Errorf("bare IMAP: %d of %d messages: %w", n, m.messages, errContent)
	}
	return float64(n) / took.Seconds(), err
}

// bareHeaders does the same with the headers, on a copy of the mailbox whose
// headers the server has not seen either.
func (b *bench) bareHeaders(ctx context.Context, m *mailbox, user string) (messagesPerSecond float64, err error) {
	if err := m.copyTo(b.storage, user); err != nil {
		return 0, err
	}
	defer b.storage.remove(user)
	n, _, took, err := fetchAll(ctx, b.storage.imap, user, "BODY.PEEK[HEADER]")
	if err == nil && n != m.messages {
		err = fmt.Errorf("bare IMAP: %d of %d headers: %w", n, m.messages, errContent)
	}
	return float64(n) / took.Seconds(), err
}

// fetchAll logs in and fetches an item of each message, which is a literal.
func fetchAll(ctx context.Context, address, user, item string) (n int, digest uint64, took time.Duration, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w, r := bufio.NewWriter(conn), bufio.NewReaderSize(conn, 128<<10)
	if err := exchange(w, r, "LOGIN %s %s", user, password); err != nil {
		return 0, 0, 0, err
	}
	if err := exchange(w, r, "EXAMINE INBOX"); err != nil {
		return 0, 0, 0, err
	}
	begin := time.Now()
	if _, err := fmt.Fprintf(conn, "a UID FETCH 1:* (%s)\r\n", item); err != nil {
		return 0, 0, 0, err
	}
	n, digest, err = readLiterals(r)
	return n, digest, time.Since(begin), err
}

// readLiterals reads to the tagged answer and sums up the literals before it.
func readLiterals(r *bufio.Reader) (n int, digest uint64, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return n, digest, err
		}
		if status, tagged := strings.CutPrefix(line, "a "); tagged {
			if !strings.HasPrefix(status, "OK") {
				return n, digest, fmt.Errorf("%q", status)
			}
			return n, digest, nil
		}
		at := strings.LastIndexByte(line, '{')
		if at < 0 || !strings.HasSuffix(line, "}\r\n") {
			continue
		}
		size, err := strconv.ParseInt(line[at+1:len(line)-3], 10, 64)
		if err != nil {
			return n, digest, fmt.Errorf("%q: %w", line, err)
		}
		sum := crc32.New(castagnoli)
		if _, err := io.CopyN(sum, r, size); err != nil {
			return n, digest, err
		}
		n++
		digest += uint64(sum.Sum32())
	}
}

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
