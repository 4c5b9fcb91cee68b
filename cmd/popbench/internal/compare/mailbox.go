package compare

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"postern/upstream/upstreamtest"
)

// A mailbox is what an account holds: messages made by a rule, the same in
// every run.
type mailbox struct {
	user     string
	messages int
	size     func(i int) int
	base     int // number of the first letter
	header   int // octets that the header has at least; 0: the shortest there is

	octets  int64
	digests []uint64 // digests[n] is the sum over the first n messages
	headers []int64  // headers[n] is the octets of the first n headers
}

// The mailboxes of the table.
func drainBox(n int) *mailbox {
	return &mailbox{user: "drain", messages: n, size: mailSize, base: 1 << 20}
}
func farBox(n int) *mailbox {
	return &mailbox{user: "far", messages: n, size: mailSize, base: 1 << 20}
}
func topBox(n int) *mailbox {
	return &mailbox{user: "top", messages: n, size: mailSize, base: 6 << 20, header: 3000}
}
func manyBox(n int) *mailbox {
	return &mailbox{user: "many", messages: n, size: func(int) int { return 300 }, base: 2 << 20}
}
func bigBox(n int) *mailbox {
	return &mailbox{user: "big", messages: n, size: func(int) int { return 30 << 20 }, base: 3 << 20}
}
func pollBox() *mailbox {
	return &mailbox{user: "poll1", messages: 500, size: func(int) int { return 2000 }, base: 4 << 20}
}
func deleteBox(n int) *mailbox {
	return &mailbox{user: "delete", messages: n, size: func(int) int { return 2000 }, base: 5 << 20}
}

// mailSize spreads sizes as mail does, many small and few large, with a mean
// of about 46 kB.
func mailSize(i int) int {
	random := rand.New(rand.NewPCG(uint64(i), 2))
	return 2000 + min(int(random.ExpFloat64()*44e3), 1<<20)
}

// letter is message i. A header of its own has little in it, so what the way of
// a message adds to it comes before, in as many octets as are asked for.
func (m *mailbox) letter(i int) string {
	var trace strings.Builder
	for hop := 0; trace.Len() < m.header; hop++ {
		fmt.Fprintf(&trace, "Received: from relay%d.example.org (relay%d.example.org [192.0.2.%d])\r\n"+
			"\tby mail.example.net with ESMTPS id %08x%08x\r\n"+
			"\tfor <bob@example.net>; Mon, 02 Nov 2026 15:00:%02d +0000\r\n", hop, hop, hop%256, m.base+i, hop, hop%60)
	}
	return trace.String() + upstreamtest.Letter(m.base+i, m.size(i))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fill appends the messages over IMAP, many with one command (RFC 3502).
func (m *mailbox) fill(ctx context.Context, imap string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", imap)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w, r := bufio.NewWriterSize(conn, 256<<10), bufio.NewReader(conn)
	if err := exchange(w, r, "LOGIN %s %s", m.user, password); err != nil {
		return err
	}
	m.digests, m.headers = []uint64{0}, []int64{0}
	const octetsAtOnce, messagesAtOnce = 32 << 20, 2000
	for i := 0; i < m.messages; {
		fmt.Fprint(w, "a APPEND INBOX")
		for size, n := 0, 0; i < m.messages && size < octetsAtOnce && n < messagesAtOnce; n++ {
			raw := m.letter(i)
			fmt.Fprintf(w, " {%d+}\r\n", len(raw))
			io.WriteString(w, raw)
			m.note(i, raw)
			size += len(raw)
			i++
		}
		if err := exchange(w, r, ""); err != nil {
			return fmt.Errorf("fill %s: %w", m.user, err)
		}
	}
	return exchange(w, r, "LOGOUT")
}

func (m *mailbox) note(i int, raw string) {
	m.octets += int64(len(raw))
	m.digests = append(m.digests, m.digests[i]+uint64(crc32.Checksum([]byte(raw), castagnoli)))
	m.headers = append(m.headers, m.headers[i]+int64(strings.Index(raw, "\r\n\r\n")+4))
}

// exchange sends a command, or the end of one, and waits for its OK.
func exchange(w *bufio.Writer, r *bufio.Reader, command string, args ...any) error {
	if command != "" {
		fmt.Fprintf(w, "a "+command, args...)
	}
	io.WriteString(w, "\r\n")
	if err := w.Flush(); err != nil {
		return err
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if status, tagged := strings.CutPrefix(line, "a "); tagged {
			if !strings.HasPrefix(status, "OK") {
				return fmt.Errorf("%q", strings.TrimSpace(status))
			}
			return nil
		}
	}
}

// copyTo gives other accounts of the same storage the same mail, far faster
// than appending it.
func (m *mailbox) copyTo(d *dovecot, users ...string) error {
	from := filepath.Join(d.Dir, "mail", m.user)
	for _, u := range users {
		to := filepath.Join(d.Dir, "mail", u)
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			return fmt.Errorf("copy mailbox: %w: %s", err, out)
		}
	}
	return nil
}

// remove deletes an account's mail from the disk.
func (d *dovecot) remove(user string) { os.RemoveAll(filepath.Join(d.Dir, "mail", user)) }
