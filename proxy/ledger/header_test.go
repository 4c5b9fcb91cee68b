package ledger

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"postern/upstream/upstreamtest"
)

func headerOf(t testing.TB, message string) Header {
	t.Helper()
	h, ok, err := HeaderOf(strings.NewReader(message))
	if !ok || err != nil {
		t.Fatalf("header of %.60q: %v, %v", message, ok, err)
	}
	return h
}

const sample = "Received: from a by b;\r\n\tMon, 2 Nov 2026 15:00:00 +0000\r\nSubject: Gr\xc3\xbc\xc3\x9fe\r\nTo: bob@example.org\r\n"

// What servers do to a header does not change what it is known by.
func TestHeaderSurvivesServers(t *testing.T) {
	want := headerOf(t, sample+"\r\nbody\r\n")
	for name, message := range map[string]string{
		"other body":              sample + "\r\nanother\r\n",
		"no body":                 sample + "\r\n",
		"no empty line":           sample,
		"LF":                      strings.ReplaceAll(sample, "\r\n", "\n") + "\nbody",
		"white space at line end": strings.ReplaceAll(sample, "\r\n", " \t\r\n") + "\r\n",
		"tab made a space":        strings.ReplaceAll(sample, "\t", " ") + "\r\n",
		"8-bit shown as ?":        strings.ReplaceAll(sample, "\xc3\xbc\xc3\x9f", "?") + "\r\n",
		"Status added":            "Status: RO\r\nX-Status: A\r\nX-UIDL: 12\r\n\tmore of it\r\nX-Keywords:\r\n" + sample + "content-LENGTH: 99\r\n\r\n",
		"Return-Path added":       "Return-Path: <ann@example.org>\r\n" + sample + "\r\n",
		"mbox From line":          "From ann@example.org Mon Nov  2 15:00:00 2026\r\n" + sample + "\r\n",
		"odd name dropped":        sample + "a b: c\r\n\tmore\r\n\r\n",
		"blank continuation":      strings.Replace(sample, "\r\nTo:", "\r\n \r\nTo:", 1) + "\r\n",
		"CR CR LF and more":       sample + "\r\r\nX-More: 1\r\n\r\n",
	} {
		if got := headerOf(t, message); got != want {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}

func TestHeaderTellsMessagesApart(t *testing.T) {
	seen := map[Header]string{}
	for _, s := range upstreamtest.Corpus() {
		h := headerOf(t, s.Raw)
		if other, ok := seen[h]; ok {
			t.Errorf("%s and %s have one header", s.Name, other)
		}
		seen[h] = s.Name
	}
	for _, message := range []string{
		strings.Replace(sample, "bob", "rob", 1),
		strings.Replace(sample, "15:00:00", "15:00:01", 1),
		sample + "X-Extra: 1\r\n",
		strings.Replace(sample, "Subject", "X-Subject", 1),
	} {
		if headerOf(t, message) == headerOf(t, sample) {
			t.Errorf("%.80q has the header of the sample", message)
		}
	}
}

func TestHeaderInAnyPieces(t *testing.T) {
	want := headerOf(t, sample+"\r\nbody\r\n")
	for name, r := range map[string]io.Reader{
		"octet by octet": iotest.OneByteReader(strings.NewReader(sample + "\r\nbody\r\n")),
		"data with EOF":  iotest.DataErrReader(strings.NewReader(sample + "\r\nbody\r\n")),
	} {
		if got, ok, err := HeaderOf(r); got != want || !ok || err != nil {
			t.Errorf("%s: got %x, %v, %v; want %x", name, got, ok, err, want)
		}
	}
}

func TestHeaderThatBreaksOff(t *testing.T) {
	broken := io.MultiReader(strings.NewReader(sample), iotest.ErrReader(errors.New("reset")))
	if _, ok, err := HeaderOf(broken); err == nil || ok {
		t.Errorf("broken off in the header: %v, %v; want an error", ok, err)
	}
	after := io.MultiReader(strings.NewReader(sample+"\r\nbo"), iotest.ErrReader(errors.New("reset")))
	if _, ok, err := HeaderOf(after); err != nil || !ok {
		t.Errorf("broken off in the body: %v, %v; want no error", ok, err)
	}
}

func TestHeaderTooLong(t *testing.T) {
	for name, message := range map[string]string{
		"one line":   "X: " + strings.Repeat("x", maxHeader),
		"many lines": strings.Repeat("X-Line: x\r\n", maxHeader/11+1) + "\r\n",
	} {
		if _, ok, err := HeaderOf(strings.NewReader(message)); ok || err != nil {
			t.Errorf("%s: %v, %v; want it not to be identified", name, ok, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte(sample+"\r\nbody"), 7)
	f.Add([]byte("\r\r\n a\n: b\n\n"), 1)
	f.Fuzz(func(t *testing.T, message []byte, cut int) {
		whole := newHasher()
		whole.Write(message)
		want, wantOK := whole.sum()
		parts := newHasher()
		cut = min(max(cut, 0), len(message))
		parts.Write(message[:cut])
		parts.Write(message[cut:])
		if got, ok := parts.sum(); got != want || ok != wantOK {
			t.Errorf("in two pieces %x, %v; in one %x, %v", got, ok, want, wantOK)
		}
	})
}
