package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"postern/proxy/ledger"
	"postern/proxy/state"
)

func (p *program) uidlCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "uidl",
		Short: "Look after the unique-ids that clients know",
		Long: `POP3 clients know messages by their unique-ids, and download again what has a
new one. postern keeps each that it ever issued. These commands are for when that
needs a person.`,
	}
	c.AddCommand(p.acceptCommand(), p.importCommand())
	return c
}

func (p *program) acceptCommand() *cobra.Command {
	var path, user string
	c := &cobra.Command{
		Use:   "accept",
		Short: "Let a client download its mailbox again",
		Long: `Let the next login of a user through although most of the messages that were known
are gone and others are there instead, so that the client will download them all.

postern refuses such a login, since it mostly means that something went wrong: the
upstream lost its index, or the route leads to another mailbox. Accept it when the
messages really are others. The refusal is in the log and in the metric
postern_uidl_churn_refused_total. The command may run while the gateway does.`,
		Example: "  postern uidl accept --user ann@example.org",
		Args: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			if user == "" {
				return errors.New("--user is missing: whose mailbox is it?")
			}
			return nil
		},
		RunE: p.begin(func() error { return p.accept(path, user) }),
	}
	configFlag(c, &path)
	c.Flags().StringVar(&user, "user", "", "whose mailbox, as `NAME` to log in with")
	return c
}

func (p *program) accept(path, user string) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	at, err := p.place(c, user)
	if err != nil {
		return err
	}
	store, err := openStateFor(c.State, state.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	if err := ledger.Accept(p.drain, store, at.ledger(c)); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "The next login of %s is let through.\n", user)
	return nil
}
