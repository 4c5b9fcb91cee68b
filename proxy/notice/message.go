package notice

import (
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"text/template"
	"time"
)

// uidl names the notice of one loss: a client that comes back before it was
// told sees the same message again.
func (l Lost) uidl() string { return fmt.Sprintf("postern-consent-%d", l.Since.Unix()) }

var text = template.Must(template.New("notice").Parse(`This message was made by the mail gateway that you fetch mail from, not by
a sender. Your mail is safe, but the gateway can no longer fetch it:
{{.Provider}} wants the owner of the mailbox to consent anew.

    account     {{.Account}}
    since       {{.Since}}

{{if .Link}}To consent, open this page in a browser:

    {{.Link}}

It works once. If it does not work any more, ask your mail administrator for
another.{{else}}Ask your mail administrator to run this, or to send you a link:

    postern account connect {{.Account}}{{end}}

Until then no new mail arrives, and none is lost. Messages that you have not
fetched yet are shown in the list, but cannot be fetched now.
`))

// message is the notice as a mail (RFC 5322), with CRLF line endings.
func (l Lost) message() string {
	var body strings.Builder
	text.Execute(&body, map[string]string{ // to memory, of strings: no error
		"Provider": printable(l.Provider), "Account": printable(l.Account),
		"Since": l.Since.UTC().Format("2 January 2006, 15:04 MST"), "Link": printable(l.Link),
	})
	content, encoding := encoded(body.String())
	header := []string{
		"Date: " + l.Since.UTC().Format(time.RFC1123Z),
		"From: Mail gateway <postern@" + l.domain() + ">",
		"To: " + l.recipient(),
		"Subject: " + mime.QEncoding.Encode("utf-8", "Please consent again: no mail for "+printable(l.Account)),
		"Message-ID: <" + l.uidl() + "@" + l.domain() + ">",
		"Auto-Submitted: auto-generated", // RFC 3834 section 5
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: " + encoding,
	}
	return strings.Join(header, "\r\n") + "\r\n\r\n" + strings.ReplaceAll(content, "\n", "\r\n")
}

// recipient is the account, where its name is an address.
func (l Lost) recipient() string {
	if a, err := mail.ParseAddress(l.Account); err == nil {
		return a.String()
	}
	return "undisclosed-recipients:;"
}

// domain is that of the account, or one that is nobody's (RFC 2606 section 2).
func (l Lost) domain() string {
	if a, err := mail.ParseAddress(l.Account); err == nil {
		_, domain, _ := strings.Cut(a.Address, "@")
		if isASCII(domain) && !strings.ContainsAny(domain, "[]@<> ") {
			return domain
		}
	}
	return "postern.invalid"
}

// encoded makes a text fit for every client, with lines that end in LF.
func encoded(s string) (content, encoding string) {
	if isASCII(s) {
		return s, "7bit"
	}
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	w.Write([]byte(s)) // to memory: no error
	w.Close()
	return strings.ReplaceAll(b.String(), "\r\n", "\n"), "quoted-printable"
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// printable is s without what could begin a line of its own.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, s)
}
