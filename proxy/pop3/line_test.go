package pop3

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// readLines reads to the end, and returns the error that was there.
func readLines(r io.Reader) (lines []string, err error) {
	reader := newLineReader(r)
	for {
		line, err := reader.next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, string(line))
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", maxLineOctets)
	for _, c := range []struct {
		name, sent string
		want       []string
		err        error
	}{
		{"CRLF", "NOOP\r\nQUIT\r\n", []string{"NOOP", "QUIT"}, io.EOF},
		{"LF", "NOOP\nQUIT\n", []string{"NOOP", "QUIT"}, io.EOF},
		{"empty", "\r\n\n", []string{"", ""}, io.EOF},
		{"only one CR is part of the end", "a\r\r\n", []string{"a\r"}, io.EOF},
		{"no end is no line", "NOOP\r\nQUIT", []string{"NOOP"}, io.EOF},
		{"CR is no end", "QUIT\r", nil, io.EOF},
		{"spaces stay", " a b  \r\n", []string{" a b  "}, io.EOF},
		{"one buffer", long[:lineBufferOctets-2] + "\r\nx\r\n", []string{long[:lineBufferOctets-2], "x"}, io.EOF},
		{"CR ends the buffer", long[:lineBufferOctets-1] + "\r\nx\r\n", []string{long[:lineBufferOctets-1], "x"}, io.EOF},
		{"as long as can be", long + "\r\nx\r\n", []string{long, "x"}, io.EOF},
		{"too long", long + "x\r\nQUIT\r\n", nil, errLineTooLong},
		{"too long without an end", strings.Repeat("x", 10<<20), nil, errLineTooLong},
	} {
		for _, split := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			got, err := readLines(split(strings.NewReader(c.sent)))
			if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
				t.Errorf("%s: got %.80q, %v; want %.80q, %v", c.name, got, err, c.want, c.err)
			}
		}
	}
}

// TestLineReaderReadsNoFurtherThanItMust: an endless line costs its limit.
func TestLineReaderReadsNoFurtherThanItMust(t *testing.T) {
	endless := &countingReader{}
	if _, err := readLines(endless); !errors.Is(err, errLineTooLong) {
		t.Fatalf("got %v, want %v", err, errLineTooLong)
	}
	if most := maxLineOctets + 2*lineBufferOctets; endless.octets > most {
		t.Errorf("read %d octets, want at most %d", endless.octets, most)
	}
}

type countingReader struct{ octets int }

func (r *countingReader) Read(p []byte) (int, error) {
	r.octets += len(p)
	return copy(p, bytes.Repeat([]byte{'x'}, len(p))), nil
}

func FuzzLineReader(f *testing.F) {
	for _, file := range transcripts(f) {
		var all string
		for _, s := range readTranscript(f, file) {
			if s.kind == "C" {
				all += s.text
			}
		}
		f.Add([]byte(all), 7)
	}
	f.Fuzz(func(t *testing.T, sent []byte, split int) {
		split = min(max(split, 0), len(sent))
		got, err := readLines(io.MultiReader(bytes.NewReader(sent[:split]), bytes.NewReader(sent[split:])))
		want := strings.Split(string(sent), "\n")
		want = want[:len(want)-1] // what has no end is no line
		for i := range want {
			want[i] = strings.TrimSuffix(want[i], "\r")
		}
		if errors.Is(err, errLineTooLong) {
			want = want[:len(got)]
		} else if err != io.EOF {
			t.Fatalf("got %v, want EOF", err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func BenchmarkLineReader(b *testing.B) {
	text := strings.Repeat("RETR 12345\r\nDELE 12345\r\n", 500)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	src := strings.NewReader(text)
	reader := newLineReader(src)
	for b.Loop() {
		src.Reset(text)
		for {
			if _, err := reader.next(); err != nil {
				break
			}
		}
	}
}
