package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/proxy/state"
)

func (p *program) removalsCommand() *cobra.Command {
	var path string
	var asJSON bool
	var s selection
	c := &cobra.Command{
		Use:   "removals",
		Short: "List what was removed",
		Long: `List the messages that were removed from a user's mailbox, oldest first: when, in
which session, what it was, and whether it is kept somewhere.

The user is named as the client named them when it logged in. --since takes a
date, a date and time, or how long ago. The log goes back as far as
state.removals_kept in the configuration says. The command may run while the
gateway does.`,
		Example: `  postern removals --user ann@example.org
  postern removals --user ann@example.org --since 7d
  postern removals --user ann@example.org --since 2026-03-01T08:00:00Z --json`,
		Args: func(c *cobra.Command, args []string) error {
			return errors.Join(noArgs(c, args), s.complete(time.Now()))
		},
		RunE: p.begin(func() error { return p.removals(path, s, asJSON) }),
	}
	configFlag(c, &path)
	s.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

// A selection is which removals a command is about.
type selection struct {
	user, since, session string
	ids                  []int64

	from time.Time // what since means
}

func (s *selection) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.user, "user", "", "whose mail, as `NAME` to log in with")
	c.Flags().StringVar(&s.since, "since", "", "only what was removed since `TIME`: a date, date and time, or 7d ago")
	c.Flags().StringVar(&s.session, "session", "", "only what the session with this `ID` removed")
	c.Flags().Int64SliceVar(&s.ids, "id", nil, "only these `NUMBERS` of the list")
}

// complete checks the flags.
func (s *selection) complete(now time.Time) (err error) {
	if s.user == "" {
		return errors.New("--user is missing: whose mail is it about?")
	}
	if s.since != "" {
		if s.from, err = parseSince(s.since, now); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	return nil
}

// parseSince reads a date, a time, or how long ago.
func parseSince(text string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 2026-03-01, 2026-03-01T08:00:00Z, or how long ago: 7d, 12h", text)
}

// has tells whether a removal is selected, as far as the store cannot.
func (s *selection) has(r state.Removed) bool {
	return (s.session == "" || r.Session == s.session) && (len(s.ids) == 0 || slices.Contains(s.ids, r.ID))
}

// each calls do for the selected removals, oldest first.
func (s *selection) each(ctx context.Context, store state.Store, q state.Query, do func(state.Removed) error) error {
	q.Since = s.from
	for {
		page, err := store.Removals(ctx, q)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if s.has(r) {
				if err := do(r); err != nil {
					return err
				}
			}
		}
		q.After = page[len(page)-1].ID
	}
}

func (p *program) removals(path string, s selection, asJSON bool) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	store, err := openStateFor(c.State, state.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer store.Close()
	account := s.user
	if at, err := p.place(c, s.user); err == nil {
		account = at.login // there are removals of users that no route takes any more, too
	}
	show, end := removalTable(p.out)
	if asJSON {
		show, end = removalLines(p.out)
	}
	n := 0
	err = s.each(p.drain, store, state.Query{Account: account}, func(r state.Removed) error {
		n++
		return show(r)
	})
	if err == nil {
		err = end()
	}
	if err == nil && n == 0 && !asJSON {
		fmt.Fprintf(p.err, "No removal is known of %s. The name has to be written as the client does; capitals count.\n", s.user)
	}
	return err
}

// removalTable shows removals to a person.
func removalTable(w io.Writer) (show func(state.Removed) error, end func() error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	first := true
	show = func(r state.Removed) error {
		if first {
			fmt.Fprintln(t, "ID\tTIME\tSESSION\tUPSTREAM\tMAILBOX\tVALIDITY\tNAME\tUIDL\tSIZE\tPOLICY\tKEPT IN\tFATE")
			first = false
		}
		_, err := fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.ID, r.At.Local().Format(time.DateTime),
			r.Session, r.Upstream, visible(r.Mailbox), orDash(r.Validity), visible(r.Name), visible(r.UIDL), r.Size, r.Policy,
			orDash(visible(r.Kept.Mailbox)), fateText(r))
		return err
	}
	return show, t.Flush
}

// fateText says where a removed message is now.
func fateText(r state.Removed) string {
	switch {
	case r.Fate == state.Undone:
		return "brought back " + r.FateAt.Local().Format(time.DateTime)
	case r.Fate == state.Purged:
		return "purged " + r.FateAt.Local().Format(time.DateTime)
	case r.Kept.Mailbox != "":
		return "kept"
	default:
		return "gone"
	}
}

// visible is a text of an upstream's, fit for a terminal.
func visible(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	if quoted[1:len(quoted)-1] == text {
		return text
	}
	return quoted
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// A removalLine is a removal in JSON.
type removalLine struct {
	ID       int64      `json:"id"`
	Time     time.Time  `json:"time"`
	Session  string     `json:"session"`
	Account  string     `json:"account"`
	Upstream string     `json:"upstream"`
	Mailbox  string     `json:"mailbox"`
	Validity string     `json:"validity,omitempty"`
	Name     string     `json:"name"`
	UIDL     string     `json:"uidl"`
	Size     int64      `json:"size"`
	Policy   string     `json:"policy"`
	KeptIn   string     `json:"kept_in,omitempty"`
	Fate     string     `json:"fate"` // gone, kept, undone or purged
	FateTime *time.Time `json:"fate_time,omitempty"`
}

// removalLines shows removals to a program.
func removalLines(w io.Writer) (show func(state.Removed) error, end func() error) {
	encoder := json.NewEncoder(w)
	show = func(r state.Removed) error {
		line := removalLine{ID: r.ID, Time: r.At.UTC(), Session: r.Session, Account: r.Account, Upstream: r.Upstream, Mailbox: r.Mailbox,
			Validity: r.Validity, Name: r.Name, UIDL: r.UIDL, Size: r.Size, Policy: r.Policy, KeptIn: r.Kept.Mailbox, Fate: string(r.Fate)}
		switch {
		case r.Fate != state.Unsettled:
			at := r.FateAt.UTC()
			line.FateTime = &at
		case r.Kept.Mailbox != "":
			line.Fate = "kept"
		default:
			line.Fate = "gone"
		}
		return encoder.Encode(line)
	}
	return show, func() error { return nil }
}
