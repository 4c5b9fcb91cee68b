package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// accountSwitchCommand makes disable and enable.
func (p *program) accountSwitchCommand(word, short string, off bool) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:     word + " USER",
		Short:   short,
		Example: "  postern account " + word + " scanner@example.org",
		Args:    oneUser,
		RunE:    p.beginFor(func(user string) error { return p.accountSwitch(path, user, word, off) }),
	}
	configFlag(c, &path)
	return c
}

func (p *program) accountSwitch(path, user, word string, off bool) error {
	return p.withOffice(path, func(o office) error {
		a, err := o.find(p.drain, user)
		if err != nil {
			return err
		}
		a.Disabled = off
		if err := o.store.SetAccount(p.drain, a); err != nil {
			return err
		}
		fmt.Fprintf(p.out, "The account %s is %sd.\n", user, word)
		return nil
	})
}
