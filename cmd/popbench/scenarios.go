package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/popbench/internal/load"
)

// settings are the flags that all scenarios share.
type settings struct {
	target       load.Target
	passwordFile string
	passwordEnv  string
	caFile       string
	insecure     bool
	repeat       int
	json         bool
}

func (s *settings) flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&s.target.Address, "address", "127.0.0.1:110", "the server, `host:port`")
	f.StringVar(&s.target.User, "user", "", "login name; %d in it becomes the number of the session, from 1")
	f.StringVar(&s.passwordFile, "password-file", "", "`file` with the password in its first line")
	f.StringVar(&s.passwordEnv, "password-env", "POPBENCH_PASSWORD", "environment `variable` with the password")
	f.StringVar(&s.target.TLS, "tls", "off", "off, stls or implicit")
	f.StringVar(&s.caFile, "ca-file", "", "PEM `file` of authorities to trust instead of the system's")
	f.BoolVar(&s.insecure, "insecure", false, "accept any certificate")
	f.DurationVar(&s.target.Timeout, "timeout", time.Minute, "longest silence of the server")
	f.IntVar(&s.repeat, "repeat", 1, "how often to run")
	f.BoolVar(&s.json, "json", false, "print JSON instead of a table")
}

// A scenario is one of package load's.
type scenario interface {
	Run(context.Context, load.Target, load.Progress) (load.Result, error)
}

// run runs a scenario as often as was asked for and prints what it came to.
func (s *settings) run(ctx context.Context, o scenario) error {
	target, err := s.resolve()
	if err != nil {
		return err
	}
	var results []load.Result
	for range max(s.repeat, 1) {
		bar := newBar(os.Stderr)
		r, err := o.Run(ctx, target, bar.show)
		bar.clear()
		if err != nil {
			return fmt.Errorf("%s: %w", r.Scenario, err)
		}
		results = append(results, r)
	}
	if s.json {
		return printJSON(os.Stdout, results)
	}
	return printTable(os.Stdout, results)
}

// resolve completes the target: password and TLS.
func (s *settings) resolve() (load.Target, error) {
	t := s.target
	if t.User == "" {
		return t, fmt.Errorf("--user is missing: %w", errUsage)
	}
	if t.TLS != "off" && t.TLS != "stls" && t.TLS != "implicit" {
		return t, fmt.Errorf("--tls: %q is not off, stls or implicit: %w", t.TLS, errUsage)
	}
	var err error
	if t.Password, err = s.password(); err != nil {
		return t, err
	}
	t.Config, err = s.tlsConfig()
	return t, err
}

func (s *settings) password() (string, error) {
	if s.passwordFile != "" {
		text, err := os.ReadFile(s.passwordFile)
		line, _, _ := strings.Cut(string(text), "\n")
		return strings.TrimSuffix(line, "\r"), err
	}
	if p, set := os.LookupEnv(s.passwordEnv); set {
		return p, nil
	}
	return "", fmt.Errorf("no password: neither --password-file nor $%s is set: %w", s.passwordEnv, errUsage)
}

func (s *settings) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: s.insecure, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	if s.caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", s.caFile)
	}
	return config, nil
}

func (s *settings) drain() *cobra.Command {
	var d load.Drain
	c := &cobra.Command{
		Use:   "drain",
		Short: "LIST, UIDL, then RETR after RETR",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), d) },
	}
	c.Flags().IntVar(&d.Messages, "messages", 0, "how many, from the first; 0 is all")
	c.Flags().BoolVar(&d.Delete, "delete", false, "DELE after each RETR, and RSET before QUIT")
	c.Flags().BoolVar(&d.Quit, "really-delete", false, "with --delete: no RSET, so that the messages are removed")
	c.Flags().IntVar(&d.Pipeline, "pipeline", 1, "RETRs sent before the first is answered")
	return c
}

func (s *settings) big() *cobra.Command {
	d := load.Drain{}
	c := &cobra.Command{
		Use:   "big",
		Short: "RETR of a few big messages: MB/s, and how soon the first octet comes",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), d) },
	}
	c.Flags().IntVar(&d.Messages, "messages", 10, "how many, from the first; 0 is all")
	return c
}

func (s *settings) top() *cobra.Command {
	var o load.Top
	c := &cobra.Command{
		Use:   "top",
		Short: "TOP of message after message",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), o) },
	}
	c.Flags().IntVar(&o.Skip, "skip", 0, "messages to leave out at the beginning")
	c.Flags().IntVar(&o.Messages, "messages", 0, "how many; 0 is all")
	c.Flags().IntVar(&o.Lines, "lines", 0, "lines of the body")
	return c
}

func (s *settings) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "log in to a big maildrop: STAT, LIST, UIDL",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), load.List{}) },
	}
}

func (s *settings) poll() *cobra.Command {
	var o load.Poll
	c := &cobra.Command{
		Use:   "poll",
		Short: "connect, log in, STAT, UIDL, QUIT, again and again",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), o) },
	}
	c.Flags().IntVar(&o.Concurrency, "concurrency", 1, "sessions at once; %d in --user gives each a maildrop of its own")
	c.Flags().IntVar(&o.Count, "count", 0, "end after so many sessions")
	c.Flags().DurationVar(&o.Duration, "duration", 0, "end after so long")
	c.MarkFlagsOneRequired("count", "duration")
	return c
}

func (s *settings) remove() *cobra.Command {
	var d load.Delete
	c := &cobra.Command{
		Use:   "delete",
		Short: "DELE of message after message, QUIT: removes mail",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if d.Messages < 1 {
				return fmt.Errorf("--messages must say how many messages to remove: %w", errUsage)
			}
			return s.run(c.Context(), d)
		},
	}
	c.Flags().IntVar(&d.Messages, "messages", 0, "how many, from the first")
	return c
}

func (s *settings) idle() *cobra.Command {
	var o load.Idle
	c := &cobra.Command{
		Use:   "idle",
		Short: "hold authenticated sessions, and weigh the server",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.run(c.Context(), o) },
	}
	c.Flags().IntVar(&o.Sessions, "sessions", 500, "how many; %d in --user gives each a maildrop of its own")
	c.Flags().DurationVar(&o.Settle, "settle", 5*time.Second, "wait before memory is measured")
	c.Flags().DurationVar(&o.Hold, "hold", 0, "hold them so long after that")
	c.Flags().IntVar(&o.PID, "pid", 0, "the server's process, whose memory is measured with that of its descendants (Linux)")
	return c
}
