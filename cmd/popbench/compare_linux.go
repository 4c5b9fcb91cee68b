package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/popbench/internal/compare"
)

func platformCommands() []*cobra.Command { return []*cobra.Command{compareCommand()} }

func compareCommand() *cobra.Command {
	var (
		o                      compare.Options
		jsonPath, markdownPath string
		json, markdown         bool
	)
	c := &cobra.Command{
		Use:   "compare",
		Short: "measure the gateway of this checkout beside Dovecot's POP3 servers",
		Long: `compare measures the gateway beside the programs it is to be compared with, in
one run, and prints the ratios. It starts everything itself, on loopback and in
a temporary directory: Dovecot with the mail, Dovecot's POP3 server on that one's
IMAP (imapc), the gateway, and a relay that adds distance. Slowness is not a
failure; wrong content is. Linux only, with dovecot-imapd and dovecot-pop3d, and
with Cyrus for JMAP, which is left out where it is missing. All of it takes some
20 minutes; what is being done goes to standard error.

  popbench compare --markdown > table.md               everything
  popbench compare --only drain,top --rtt 0,20ms       some of it
  popbench compare --quick                             an idea, in some minutes`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return fmt.Errorf("%w: %w", err, errUsage)
			}
			o.Log = os.Stderr
			report, err := compare.Run(c.Context(), o)
			if report == nil || len(report.Rows) == 0 {
				return err
			}
			print := report.WriteText
			switch {
			case json:
				print = func(w io.Writer) error { return printJSON(w, report) }
			case markdown:
				print = report.WriteMarkdown
			}
			return firstOf(err,
				print(os.Stdout),
				toFile(jsonPath, func(w io.Writer) error { return printJSON(w, report) }),
				toFile(markdownPath, report.WriteMarkdown))
		},
	}
	f := c.Flags()
	f.StringVar(&o.Checkout, "checkout", checkout(), "`directory` of the module")
	f.StringVar(&o.Postern, "postern", "", "the gateway's `program`; built from the checkout if not given")
	f.StringSliceVar(&o.Lines, "only", nil, "lines to measure: "+strings.Join(compare.Lines(), ", "))
	f.DurationSliceVar(&o.RTTs, "rtt", []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}, "distances, of 0, 20ms and 100ms")
	f.IntVar(&o.Rounds, "rounds", 3, "how often each contender runs")
	f.BoolVar(&o.Quick, "quick", false, "small mailboxes")
	f.StringVar(&o.Config, "config", "", "more YAML for the gateway's configuration; DIR in it is a directory of its own")
	f.StringVar(&o.Warm, "warm", "warm: 60s", "line of YAML that has a route keep its upstream connections warm; empty leaves them out")
	f.BoolVar(&json, "json", false, "print JSON instead of a table")
	f.BoolVar(&markdown, "markdown", false, "print Markdown instead of a table")
	c.MarkFlagsMutuallyExclusive("json", "markdown")
	f.StringVar(&jsonPath, "json-file", "", "write JSON to this `file` too")
	f.StringVar(&markdownPath, "markdown-file", "", "write Markdown to this `file` too")
	return c
}

// checkout is the directory of the module that the working directory is in.
func checkout() string {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "."
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func toFile(path string, write func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := firstOf(write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
