package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/popbench/internal/relay"
)

func relayCommand() *cobra.Command {
	var (
		listen string
		to     string
		rtt    time.Duration
		window int
		bare   bool
	)
	c := &cobra.Command{
		Use:   "relay",
		Short: "relay TCP connections with a delay, and count round trips",
		Long: `relay carries TCP connections to another server and delays every octet by half
of --rtt in each direction, without limiting bandwidth. Connecting itself is not
delayed. Counters are printed as JSON on SIGUSR1 and at the end.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := relay.New(to, rtt, window<<20)
			if bare {
				r = relay.NewBare(to)
			}
			return serveRelay(c.Context(), r, listen)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "where clients connect, `host:port`")
	c.Flags().StringVar(&to, "to", "", "the server, `host:port`")
	c.Flags().DurationVar(&rtt, "rtt", 20*time.Millisecond, "round-trip time")
	c.Flags().IntVar(&window, "window", relay.DefaultWindow>>20, "most under way in each direction of a connection, MiB")
	c.Flags().BoolVar(&bare, "bare", false, "only copy: no delay, no counters but connections")
	c.MarkFlagRequired("to")
	return c
}

func serveRelay(ctx context.Context, r *relay.Relay, listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	os.Stderr.WriteString("listening on " + l.Addr().String() + "\n")
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-asked:
				printJSON(os.Stdout, r.Counters())
			}
		}
	}()
	err = r.Serve(ctx, l)
	printJSON(os.Stdout, r.Counters())
	return err
}
