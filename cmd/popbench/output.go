package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"postern/cmd/popbench/internal/load"
)

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable prints one block for each run.
func printTable(w io.Writer, results []load.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, r := range results {
		if i > 0 {
			fmt.Fprintln(t)
		}
		fmt.Fprintf(t, "%s\t%.3f s\n", r.Scenario, r.Seconds)
		for _, p := range r.Phases {
			fmt.Fprintf(t, "  %s\t%.3f s\n", p.Name, p.Seconds)
		}
		for _, line := range lines(r) {
			fmt.Fprintf(t, "  %s\t%s\n", line[0], line[1])
		}
	}
	return t.Flush()
}

// lines are the figures of a result that has them, each with its name.
func lines(r load.Result) (all [][2]string) {
	add := func(name, format string, values ...any) {
		all = append(all, [2]string{name, fmt.Sprintf(format, values...)})
	}
	if r.Messages > 0 && r.Octets > 0 {
		add("messages", "%d, %.1f MB", r.Messages, float64(r.Octets)/1e6)
	} else if r.Messages > 0 {
		add("messages", "%d", r.Messages)
	}
	if r.Messages > 0 && r.Phase("messages") > 0 {
		add("rate", "%.0f messages/s, %.1f MB/s", r.MessageRate(), r.OctetRate()/1e6)
	}
	if r.Digest != 0 {
		add("digest", "%x", r.Digest)
	}
	if r.FirstOctet != nil {
		add("first octet", "%v", r.FirstOctet)
	}
	if r.Session != nil {
		add("sessions", "%d, %.0f a second", r.Sessions, r.SessionRate())
		add("session", "%v", r.Session)
	}
	if m := r.Memory; m != nil {
		add("memory", "%.1f MB before, %.1f MB with %d sessions: %.1f kB each",
			float64(m.Before)/1e6, float64(m.After)/1e6, r.Sessions, float64(m.PerSession)/1e3)
	}
	return all
}

// A bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	out  *os.File
	last time.Time
}

func newBar(out *os.File) *bar {
	if !term.IsTerminal(int(out.Fd())) {
		return &bar{}
	}
	return &bar{out: out}
}

func (b *bar) show(done, total int) {
	if b.out == nil || time.Since(b.last) < 100*time.Millisecond {
		return
	}
	b.last = time.Now()
	if total > 0 {
		fmt.Fprintf(b.out, "\r\x1b[K%d of %d (%d %%)", done, total, 100*done/total)
	} else {
		fmt.Fprintf(b.out, "\r\x1b[K%d", done)
	}
}

func (b *bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}
