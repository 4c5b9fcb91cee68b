package pop3

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A scriptConn is a client that has said all it will ever say.
type scriptConn struct {
	io.Reader
	io.Writer
}

func (scriptConn) Close() error                     { return nil }
func (scriptConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (scriptConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (scriptConn) SetDeadline(time.Time) error      { return nil }
func (scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (scriptConn) SetWriteDeadline(time.Time) error { return nil }

var (
	deleLine = regexp.MustCompile(`^[Dd][Ee][Ll][Ee] +0*([1-3]) *$`)
	rsetLine = regexp.MustCompile(`^[Rr][Ss][Ee][Tt] *$`)
	quitLine = regexp.MustCompile(`^[Qq][Uu][Ii][Tt] *$`)
)

// remaining is the promise in a few lines: a message goes if there was DELE, no
// RSET after it, and the complete line QUIT.
func remaining(sent string) []string {
	gone := map[string]bool{}
	for {
		line, rest, found := strings.Cut(sent, "\n")
		line = strings.TrimSuffix(line, "\r")
		switch {
		case !found || len(line) > maxLineOctets:
			return threeMessages
		case len(line) > maxCommandOctets:
		case deleLine.MatchString(line):
			gone[threeMessages[deleLine.FindStringSubmatch(line)[1][0]-'1']] = true
		case rsetLine.MatchString(line):
			clear(gone)
		case quitLine.MatchString(line):
			return slices.DeleteFunc(slices.Clone(threeMessages), func(raw string) bool { return gone[raw] })
		}
		sent = rest
	}
}

// FuzzSession lets a logged-in client say anything.
func FuzzSession(f *testing.F) {
	for _, file := range transcripts(f) {
		var all string
		for _, s := range readTranscript(f, file) {
			if s.kind == "C" {
				all += s.text
			}
		}
		f.Add([]byte(all))
	}
	f.Add([]byte("DELE 1\ndele 03 \nRSET\nDELE 2\nQUIT\r"))
	f.Add([]byte("DELE 2\r\n" + strings.Repeat("x", maxLineOctets+3) + "\r\nQUIT\r\n"))
	login := "USER " + testUser + "\r\nPASS " + testPassword + "\r\n"
	f.Fuzz(func(t *testing.T, sent []byte) {
		g := newGateway(threeMessages...)
		g.Log = slog.New(slog.DiscardHandler)
		g.Limits.Errors = 1 << 30
		var got bytes.Buffer
		g.Serve(t.Context(), scriptConn{io.MultiReader(strings.NewReader(login), bytes.NewReader(sent)), &got})
		if reason := g.summary(t).Reason; reason != "quit" && reason != "disconnect" && reason != "errors" {
			t.Errorf("ended by %q, want quit, disconnect or errors", reason)
		}
		for line := range strings.Lines(got.String()) {
			if !strings.HasSuffix(line, "\r\n") || strings.ContainsAny(line[:len(line)-2], "\x00\r\n") {
				t.Errorf("sent the line %q, want one CRLF, at its end", line)
			}
		}
		g.holds(t, remaining(string(sent))...)
		g.allClosed(t)
	})
}
