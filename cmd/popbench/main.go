// Command popbench measures POP3 servers: any of them, one scenario at a time,
// over any distance. It checks that everything which arrives is complete.
//
// Exit codes: 0 measured, 1 failed or not whole, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	began := false
	c := root()
	c.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	err := c.ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "popbench:", err)
	if !began || errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// errUsage: the command line makes no sense.
var errUsage = errors.New("see --help")

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "popbench",
		Short: "measure a POP3 server",
		Long: `popbench puts a POP3 server to work the way its clients do and says how fast
it is. What arrives is checked: octets against LIST, final dots, CRLF. A
message that is not whole ends the run with exit code 1.

  POPBENCH_PASSWORD=secret popbench drain --address 127.0.0.1:1110 --user ann --repeat 3
  popbench relay --listen 127.0.0.1:2143 --to 127.0.0.1:143 --rtt 20ms`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	var s settings
	s.flags(c)
	c.AddCommand(
		s.drain(), s.big(), s.top(), s.list(), s.poll(), s.remove(), s.idle(),
		relayCommand(),
	)
	c.AddCommand(platformCommands()...)
	return c
}
