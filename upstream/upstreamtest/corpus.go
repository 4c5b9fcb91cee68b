package upstreamtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A Sample is a message that has caught some mail program out.
type Sample struct {
	Name string
	Raw  string // CRLF line endings throughout
}

// Corpus returns messages with everything that a real IMAP or JMAP server
// stores and a POP3 gateway can get wrong. No two are equal.
func Corpus() []Sample {
	samples := []Sample{
		{"plain", "Just a line.\r\n"},
		{"leading dots", ".\r\n..\r\n.hidden\r\n...three\r\n"},
		{"lone dot last", "text\r\n.\r\n"},
		{"8-bit", "Gr\xc3\xbc\xc3\x9fe, \xe4\xf6\xfc \xff\xfe\r\n"},
		{"long lines", strings.Repeat("0123456789abcdef", 800) + "\r\n." + strings.Repeat("x", 12000) + "\r\n"},
		{"no final newline", "last line\r\nwithout an end"},
		{"no final newline after dot", "text\r\n."},
		{"empty body", ""},
		{"blank lines", "\r\n\r\n\r\n"},
		{"dot at every buffer edge", strings.Repeat("."+strings.Repeat("y", 61)+"\r\n", 2200)},
		{"looks like a reply", "+OK\r\n-ERR [AUTH] no\r\n.\r\nQUIT\r\n"},
		{"one megabyte", strings.Repeat(strings.Repeat("z", 72)+"\r\n", 14000)},
	}
	for i := range samples {
		samples[i].Raw = header(samples[i].Name, i) + "\r\n" + samples[i].Raw
	}
	return append(samples, Sample{"header only", header("header only", len(samples))})
}

// Letter returns message i of a series: the same octets every time, unlike any
// other i, with a header and about size octets of text.
func Letter(i, size int) string {
	var b strings.Builder
	b.WriteString(header("letter", i))
	b.WriteString("\r\n")
	random := rand.New(rand.NewPCG(uint64(i), 1))
	const letters = "abcdefghijklmnopqrstuvwxyz    ..\xe9"
	line := make([]byte, 76)
	line[74], line[75] = '\r', '\n'
	for b.Len() < size {
		for k := range 74 {
			line[k] = letters[random.IntN(len(letters))]
		}
		b.Write(line)
	}
	return b.String()
}

func header(subject string, i int) string {
	return fmt.Sprintf("Message-ID: <%s-%d@example.org>\r\n"+
		"Date: Mon, 02 Nov 2026 15:%02d:%02d +0000\r\n"+
		"From: Ann Sender <ann@example.org>\r\nTo: bob@example.org\r\n"+
		"Subject: %s %d\r\n", strings.ReplaceAll(subject, " ", "-"), i, i/60%60, i%60, subject, i)
}
