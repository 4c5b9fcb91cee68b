// Command postern is a POP3 gateway in front of IMAP and JMAP servers.
//
// Each command has a file. serve.go puts the gateway together, for serve and for
// the demo, from what listeners.go, routes.go, upstreams.go, accounts.go, tokens.go
// and desk.go make of the configuration. Commands about one user's mail find it by
// place.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/logsink"
)

// Exit codes.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage, or a wrong configuration
)

func main() {
	drain, cut := signals()
	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, drain: drain, cut: cut}
	os.Exit(p.run(os.Args[1:]))
}

// A program is one run of postern, and what it has of the world.
type program struct {
	in       io.Reader
	out, err io.Writer

	drain context.Context // ends when postern is to end, as soon as is decent
	cut   context.Context // ends when it is to end at once

	began bool          // the arguments were right, and a command began its work
	sink  *logsink.Sink // in front of err; nil without a log
}

// signals returns contexts that the first and the second SIGTERM or SIGINT end.
// A third ends the process, whatever it is waiting for.
func signals() (drain, cut context.Context) {
	drain, first := context.WithCancel(context.Background())
	cut, second := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-c
		first()
		<-c
		second()
		signal.Stop(c)
	}()
	return drain, cut
}

// run carries out one command line, and returns the exit code.
func (p *program) run(args []string) int {
	out := &output{Writer: p.out}
	p.out = out
	root := p.command()
	root.SetArgs(args)
	command, err := misspelt(root, args)
	if err == nil {
		command, err = root.ExecuteC()
	}
	if err == nil && out.err != nil {
		p.began, err = true, fmt.Errorf("not all of this could be told: %w", out.err)
	}
	code := p.report(command, err)
	if p.sink != nil {
		p.sink.Close(lastLines)
	}
	return code
}

// An output remembers that something could not be written: a password that was
// made is told once, and a full disk must not swallow it unnoticed.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// report says what is wrong, and returns the exit code for it.
func (p *program) report(command *cobra.Command, err error) int {
	if err == nil {
		return exitFine
	}
	var faults config.Faults
	var wrong configError
	switch {
	case errors.As(err, &faults):
		fmt.Fprintf(p.err, "%v\n%s\n", faults, plural(len(faults), "fault"))
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintf(p.err, "postern: %v\n", err)
		return exitUsage
	case !p.began:
		fmt.Fprintf(p.err, "postern: %v\nTry '%s --help'.\n", err, command.CommandPath())
		return exitUsage
	default:
		fmt.Fprintf(p.err, "postern: %v\n", err)
		return exitFailed
	}
}

// command returns the command line's grammar.
func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "A POP3 gateway in front of IMAP and JMAP servers",
		Long: `postern lets POP3 clients read mail that lives on IMAP or JMAP servers.

Clients log in with the name and password that they have there, or with one of
postern's own. Messages get unique-ids that stay the same for ever, and are
removed only when a client has asked for it with DELE and has said QUIT.`,
		Example: `  postern demo                                  try it now, without any configuration
  postern check --config postern.yaml           look for mistakes in a configuration
  postern serve --config postern.yaml           run the gateway`,
		Version:       readBuild().version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("postern {{.Version}}\n")
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.AddCommand(p.serveCommand(), p.demoCommand(), p.checkCommand(), p.accountCommand(), p.vaultCommand(), p.rekeyCommand(), p.removalsCommand(), p.undeleteCommand(), p.uidlCommand(), p.versionCommand())
	return root
}

// begin makes a cobra function of a command: from then on, an error is a
// failure, not a wrong usage.
func (p *program) begin(run func() error) func(*cobra.Command, []string) error {
	return func(*cobra.Command, []string) error {
		p.began = true
		return run()
	}
}

const defaultConfig = "/etc/postern/config.yaml"

// configFlag adds the flag that names the configuration.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVarP(path, "config", "c", defaultConfig, "configuration `FILE`")
	c.MarkFlagFilename("config", "yaml", "yml")
}

// passwordFlag adds the flag that says where the password is.
func passwordFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "password-file", "", "take the password from the first line of `FILE`; - is standard input")
	c.MarkFlagFilename("password-file")
}

// A configError is what is wrong with the configuration, or prevents it from
// being read.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

func load(path string) (*config.Config, error) {
	return loaded(config.Load(path, checkUIDL))
}

func loaded(c *config.Config, err error) (*config.Config, error) {
	if missing, ok := errors.AsType[*fs.PathError](err); ok && missing.Path == defaultConfig && errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w\n--config says where else it is", err)
	}
	if err != nil {
		return nil, configError{err}
	}
	return c, nil
}

// plural counts things: 1 fault, 2 faults.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
