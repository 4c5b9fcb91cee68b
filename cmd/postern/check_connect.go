package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"postern/cmd/internal/config"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/jmapc"
)

// A login is what check is told about logging in.
type login struct {
	connect            bool
	user, passwordFile string
}

// complete tells whether the flags go together.
func (l login) complete() error {
	switch {
	case l.connect && l.user == "":
		return errors.New("--connect needs --user")
	case !l.connect && (l.user != "" || l.passwordFile != ""):
		return errors.New("--user and --password-file need --connect")
	default:
		return nil
	}
}

// connectTime is for all that check does upstream.
const connectTime = 2 * time.Minute

// connect logs in upstream and prints what is found.
func (p *program) connect(c *config.Config, l login) error {
	at, err := p.place(c, l.user)
	if err != nil {
		return err
	}
	account, release, err := p.credentials(c, at, l.passwordFile)
	defer release()
	if err != nil {
		return err
	}
	u := at.up
	ctx, cancel := context.WithTimeout(p.drain, connectTime)
	defer cancel()
	fmt.Fprintf(p.out, "\n%s, as %s\n", u.Name, at.login)
	done := p.progress("logging in at " + u.Name)
	findings, err := describe(ctx, at, account)
	done()
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "  %s\t%s\n", f.what, f.text)
	}
	t.Flush()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", u.Name, err, advice(u, err))
	}
	return nil
}

// A finding is one thing that check tells about an upstream. Nothing is told
// where the text is empty.
type finding struct{ what, text string }

func describe(ctx context.Context, at place, a upstream.Account) ([]finding, error) {
	if at.up.Protocol == config.JMAP {
		return describeJMAP(ctx, at, a)
	}
	return describeIMAP(ctx, at, a)
}

func describeIMAP(ctx context.Context, at place, a upstream.Account) ([]finding, error) {
	server, err := newIMAP(at.up, at.wiring())
	if err != nil {
		return nil, err
	}
	r, err := server.Describe(ctx, a)
	return imapFindings(at.up, r), err
}

func imapFindings(u config.Upstream, r imapc.Report) []finding {
	protection := ""
	switch {
	case r.TLS != "":
		protection = r.TLS + ", " + r.Cipher
	case u.TLS == config.TLSOff:
		protection = "none: passwords and mail go in the clear"
	}
	all := []finding{
		{"server", r.Address},
		{"greeting", r.Greeting},
		{"software", strings.Join(r.Server, ", ")},
		{"encryption", protection},
		{"certificate", r.Certificate},
		{"capabilities", strings.Join(r.CapabilitiesAfter, " ")},
	}
	if len(r.CapabilitiesAfter) == 0 { // it did not come to a login
		all[len(all)-1].text = strings.Join(r.CapabilitiesBefore, " ")
		return filled(all)
	}
	if r.Mailbox == "" {
		return filled(all)
	}
	return filled(append(all,
		finding{"mailbox", fmt.Sprintf("%s, %s, UIDVALIDITY %d", r.Mailbox, plural(r.Messages, "message"), r.UIDValidity)},
		finding{"access", accessText(!r.ReadOnly && r.Removable)},
		finding{"removal", r.Removal},
		finding{"what helps", removalHelp(r)},
		finding{"sizes", r.Sizes},
		finding{"login took", r.Took.Round(time.Millisecond).String()},
	))
}

// removalHelp says which setting lets messages be removed where the usual one
// cannot.
func removalHelp(r imapc.Report) string {
	if r.Removable || !strings.HasSuffix(r.Removal, "UIDPLUS") {
		return ""
	}
	return "delete: flag, or expunge_if_alone: true, in the route; docs/removal.md tells what they mean"
}

func describeJMAP(ctx context.Context, at place, a upstream.Account) ([]finding, error) {
	server, err := newJMAP(at.up, at.wiring())
	if err != nil {
		return nil, err
	}
	defer server.Close()
	r, err := server.Describe(ctx, a)
	if err != nil {
		return nil, err
	}
	return jmapFindings(r), nil
}

func jmapFindings(r jmapc.Report) []finding {
	var boxes []string
	for _, b := range r.Mailboxes {
		name := b.Name
		if b.Role != "" {
			name += " (" + b.Role + ")"
		}
		boxes = append(boxes, fmt.Sprintf("%s %d", name, b.Messages))
	}
	return filled([]finding{
		{"session", r.SessionURL},
		{"account", r.Account},
		{"capabilities", strings.Join(r.Capabilities, " ")},
		{"limits", fmt.Sprintf("%d requests at a time of up to %d octets, %d messages in a listing, %d in a removal",
			r.MaxConcurrentRequests, r.MaxSizeRequest, r.MaxObjectsInGet, r.MaxObjectsInSet)},
		{"mailboxes", strings.Join(boxes, ", ")},
		{"inbox", plural(int(r.Messages), "message")},
		{"access", accessText(!r.ReadOnly)},
	})
}

func accessText(removable bool) string {
	if removable {
		return "messages can be read and removed"
	}
	return "messages can be read, but not removed"
}

// filled leaves out what was not found.
func filled(all []finding) []finding {
	var some []finding
	for _, f := range all {
		if f.text != "" {
			some = append(some, f)
		}
	}
	return some
}
