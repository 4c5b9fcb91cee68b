package compare

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// A Report is what a run measured.
type Report struct {
	Taken time.Time `json:"taken"`
	Host  string    `json:"host"`
	Rows  []Row     `json:"rows"`
}

// A Row is one measured figure beside what it is measured by.
type Row struct {
	Line   string        `json:"line"`
	What   string        `json:"what"`
	RTT    time.Duration `json:"rtt_ns"`
	Ours   float64       `json:"ours"`
	Unit   string        `json:"unit"`
	By     string        `json:"by,omitempty"` // what it is measured by
	Theirs float64       `json:"theirs,omitempty"`
	Ratio  float64       `json:"ratio,omitempty"` // of ours to theirs
	Reach  string        `json:"reach,omitempty"`
	Met    *bool         `json:"met,omitempty"` // nil where nothing is to be reached
	Note   string        `json:"note,omitempty"`
}

func newReport() *Report {
	return &Report{Taken: time.Now().UTC().Truncate(time.Second), Host: host()}
}

func host() string {
	model := "unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s, %d processors, %s", model, runtime.NumCPU(), runtime.Version())
}

// atLeast adds a rate that is to be so many times theirs.
func (r *Report) atLeast(row Row, times float64) {
	row.Reach = fmt.Sprintf("≥ %.3g × %s", times, row.By)
	r.add(row, row.Ours >= times*row.Theirs)
}

// atMostTimes adds a cost that is to be at most so many times theirs.
func (r *Report) atMostTimes(row Row, times float64) {
	row.Reach = fmt.Sprintf("≤ %.3g × %s", times, row.By)
	r.add(row, row.Ours <= times*row.Theirs)
}

// atMost adds a figure that has a limit.
func (r *Report) atMost(row Row, limit float64) {
	row.Reach = fmt.Sprintf("≤ %.4g %s", limit, row.Unit)
	r.add(row, row.Ours <= limit)
}

func (r *Report) add(row Row, met bool) {
	row.Met = &met
	r.told(row)
}

// told adds a figure with nothing to reach.
func (r *Report) told(row Row) {
	if row.Theirs != 0 {
		row.Ratio = row.Ours / row.Theirs
	}
	r.Rows = append(r.Rows, row)
}

var columns = []string{"line", "what", "RTT", "postern", "measured by", "its figure", "ratio", "to reach", "reached"}

func (row Row) cells() []string {
	cells := []string{row.Line, row.What, fmt.Sprintf("%d ms", row.RTT.Milliseconds()), figure(row.Ours, row.Unit), row.By, "", "", row.Reach, row.Note}
	if row.Theirs != 0 {
		cells[5] = figure(row.Theirs, row.Unit)
	}
	if row.Ratio != 0 {
		cells[6] = fmt.Sprintf("%.3g", row.Ratio)
	}
	if row.Met != nil {
		cells[8] = strings.TrimSpace(map[bool]string{true: "yes", false: "NO"}[*row.Met] + " " + row.Note)
	}
	return cells
}

// figure shows three digits that count.
func figure(v float64, unit string) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

// WriteText writes the report as a table for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s, %s\n", r.Taken.Format(time.RFC3339), r.Host)
	return err
}

// WriteMarkdown writes the report as a table for a document.
func (r *Report) WriteMarkdown(w io.Writer) error {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range r.Rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	_, err := fmt.Fprintf(w, "\nTaken %s on %s.\n", r.Taken.Format(time.RFC3339), r.Host)
	return err
}
