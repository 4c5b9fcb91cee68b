package pop3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"postern/upstream/upstreamtest"
)

// dotted runs a message through a dotWriter, as the pieces that r reads, and
// adds the final dot.
func dotted(t testing.TB, d dotWriter, r io.Reader) string {
	t.Helper()
	var sent bytes.Buffer
	d.w = &writer{dst: &sent}
	if err := d.copy(r); err != nil {
		t.Fatalf("copy: %v", err)
	}
	d.w.WriteString(".\r\n")
	d.w.flush()
	return sent.String()
}

// undot is the client's side, and knows nothing of dotWriter: it reads lines
// up to the lone dot and takes the added dots away. RFC 1939 section 3.
func undot(reply string) (message, rest string, err error) {
	var lines strings.Builder
	for {
		line, after, found := strings.Cut(reply, "\r\n")
		switch {
		case !found:
			return "", "", fmt.Errorf("no end after %d octets", lines.Len())
		case strings.ContainsAny(line, "\r\n\x00"):
			return "", "", fmt.Errorf("line %.60q holds CR, LF or NUL", line)
		case line == ".":
			return lines.String(), after, nil
		}
		lines.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
		reply = after
	}
}

// normal says in another way what a client should have of a message.
func normal(raw string) string {
	text := strings.ReplaceAll(raw, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	text = strings.ReplaceAll(text, "\x00", "\x80")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return strings.ReplaceAll(text, "\n", "\r\n")
}

// topOf says in another way what TOP sends of a normal message.
func topOf(message string, lines int) string {
	header, body, found := strings.Cut("\r\n"+message, "\r\n\r\n")
	if !found {
		return message
	}
	parts := strings.SplitAfter(body, "\r\n")
	return (header + "\r\n\r\n" + strings.Join(parts[:min(lines, len(parts))], ""))[len("\r\n"):]
}

func checkDotted(t testing.TB, raw, sent string, want string) {
	t.Helper()
	got, rest, err := undot(sent)
	if err != nil || rest != "" {
		t.Fatalf("message %.200q was sent as %.200q: %v, then %.60q", raw, sent, err, rest)
	}
	if got != want {
		t.Fatalf("message %.200q: client got %.200q, want %.200q", raw, got, want)
	}
}

func TestDotWriterOnTheCorpus(t *testing.T) {
	for _, sample := range upstreamtest.Corpus() {
		for _, split := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.OneByteReader, iotest.DataErrReader,
		} {
			checkDotted(t, sample.Raw, dotted(t, dotWriter{}, split(strings.NewReader(sample.Raw))), normal(sample.Raw))
		}
	}
}

func TestDotWriterTable(t *testing.T) {
	for raw, want := range map[string]string{
		"":                 ".\r\n",
		".":                "..\r\n.\r\n",
		"\n":               "\r\n.\r\n",
		"\r":               "\r\n.\r\n",
		"\r\n":             "\r\n.\r\n",
		"\n\r":             "\r\n\r\n.\r\n",
		"\r\r\n":           "\r\n\r\n.\r\n",
		"a":                "a\r\n.\r\n",
		"a\n.\nb":          "a\r\n..\r\nb\r\n.\r\n",
		"a\r.\rb":          "a\r\n..\r\nb\r\n.\r\n",
		"a\r\n.\r\nQUIT":   "a\r\n..\r\nQUIT\r\n.\r\n",
		"\x00.\x00":        "\x80.\x80\r\n.\r\n",
		"..\n...":          "...\r\n....\r\n.\r\n",
		"a\r\n\x00.\r\n.b": "a\r\n\x80.\r\n..b\r\n.\r\n",
	} {
		if got := dotted(t, dotWriter{}, strings.NewReader(raw)); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
}

// messages draws texts that are mostly what a dotWriter has to look at.
func messages() *rapid.Generator[string] {
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"\r", "\n", "\r\n", ".", "..", "\x00", "a", "\r\n.\r\n", "\n.\n", "\r.\r", "+OK"}),
		rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat(rapid.SampledFrom([]string{"x", ".", "\r", "\n"}).Draw(t, "octet"),
				rapid.IntRange(chunkOctets-3, chunkOctets+3).Draw(t, "times"))
		}),
	)
	return rapid.Map(rapid.SliceOfN(piece, 0, 12), func(p []string) string { return strings.Join(p, "") })
}

// drawnReader reads pieces of drawn length.
type drawnReader struct {
	t    *rapid.T
	text io.Reader
}

func (r drawnReader) Read(p []byte) (int, error) {
	return r.text.Read(p[:rapid.IntRange(1, min(len(p), 40000)).Draw(r.t, "read")])
}

func TestDotWriterHoweverItIsCut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		raw := messages().Draw(rt, "message")
		var d dotWriter
		want := normal(raw)
		if rapid.Bool().Draw(rt, "top") {
			d.cut, d.lines = true, rapid.IntRange(0, 5).Draw(rt, "lines")
			want = topOf(want, d.lines)
		}
		checkDotted(t, raw, dotted(t, d, drawnReader{rt, strings.NewReader(raw)}), want)
	})
}

// TestDotWriterAtEveryChunkBorder moves a stuffed line, octet by octet, over
// the place where one write ends and the next begins.
func TestDotWriterAtEveryChunkBorder(t *testing.T) {
	for n := chunkOctets - 8; n < chunkOctets+8; n++ {
		raw := strings.Repeat("x", n) + "\r\n.\r\n.y"
		var sent writes
		d := dotWriter{w: &writer{dst: &sent}}
		if err := d.copy(strings.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		d.w.flush()
		so := ""
		for _, w := range sent {
			if len(w) > chunkOctets {
				t.Errorf("%d: a write of %d octets, want at most %d", n, len(w), chunkOctets)
			}
			if so += w; strings.HasSuffix(so, "\r\n.") {
				t.Errorf("%d: a write ends in a line of one dot, which a cut connection makes the end", n)
			}
		}
		checkDotted(t, raw, so+".\r\n", normal(raw))
	}
}

type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

func TestDotWriterCountsWhatTheClientGets(t *testing.T) {
	for _, sample := range upstreamtest.Corpus() {
		d := dotWriter{w: &writer{dst: io.Discard}}
		if err := d.copy(strings.NewReader(sample.Raw)); err != nil {
			t.Fatal(err)
		}
		if err := d.w.flush(); err != nil {
			t.Fatal(err)
		}
		if got, want := d.w.sent.octets, int64(len(normal(sample.Raw))); got != want {
			t.Errorf("%s: counted %d octets, want %d", sample.Name, got, want)
		}
	}
}

// TestTopStopsReading: what TOP does not send is not asked for.
func TestTopStopsReading(t *testing.T) {
	r := io.MultiReader(strings.NewReader("Subject: x\r\n\r\none\r\ntwo\r\n"), iotest.ErrReader(errors.New("read on after the cut")))
	got := dotted(t, dotWriter{cut: true, lines: 2}, r)
	if want := "Subject: x\r\n\r\none\r\ntwo\r\n.\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzDotWriter(f *testing.F) {
	for _, sample := range upstreamtest.Corpus() {
		if len(sample.Raw) < 1<<16 {
			f.Add([]byte(sample.Raw), 100, -1)
		}
	}
	for _, file := range transcripts(f) {
		for _, s := range readTranscript(f, file) {
			f.Add([]byte(s.text), 1, 0)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, split, lines int) {
		split = min(max(split, 0), len(raw))
		var d dotWriter
		want := normal(string(raw))
		if lines >= 0 {
			d.cut, d.lines = true, lines
			want = topOf(want, lines)
		}
		r := io.MultiReader(bytes.NewReader(raw[:split]), bytes.NewReader(raw[split:]))
		checkDotted(t, string(raw), dotted(t, d, r), want)
	})
}

func BenchmarkDotWriter(b *testing.B) {
	for name, raw := range map[string]string{
		"letter": upstreamtest.Letter(1, 1<<20),
		"LF":     strings.ReplaceAll(upstreamtest.Letter(1, 1<<20), "\r\n", "\n"),
		"CRs":    strings.Repeat("\r", 1<<20),
		"dots":   strings.Repeat(".\r\n", 1<<18),
		"line":   strings.Repeat("x", 1<<20),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			r := strings.NewReader(raw)
			w := &writer{dst: io.Discard}
			for b.Loop() {
				r.Reset(raw)
				d := dotWriter{w: w}
				if err := d.copy(struct{ io.Reader }{r}); err != nil {
					b.Fatal(err)
				}
				w.flush()
			}
		})
	}
}
