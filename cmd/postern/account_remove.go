package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/auth"
)

func (p *program) accountRemoveCommand() *cobra.Command {
	var path string
	var yes bool
	c := &cobra.Command{
		Use:   "remove USER",
		Short: "Remove an account",
		Long: `Remove an account, with its passwords, the credential that postern keeps for it,
and its consent. The mail upstream stays as it is. What postern knows of unique-ids
stays too, so that an account that is made again downloads nothing twice.

It asks before it does that, unless --yes is given.`,
		Example: "  postern account remove scanner@example.org",
		Args:    oneUser,
		RunE:    p.beginFor(func(user string) error { return p.accountRemove(path, user, yes) }),
	}
	configFlag(c, &path)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (p *program) accountRemove(path, user string, yes bool) error {
	return p.withOffice(path, func(o office) error {
		if _, err := o.find(p.drain, user); err != nil {
			return err
		}
		if err := p.confirm(fmt.Sprintf("Remove the account %s and its passwords?", user), yes); err != nil {
			return err
		}
		if err := o.store.RemoveAccount(p.drain, auth.Fold(user)); err != nil {
			return err
		}
		fmt.Fprintf(p.out, "The account %s is removed.\n", user)
		if r, u, ok := o.config.Route(user); ok && r.Login == config.PassThrough {
			fmt.Fprintf(p.out, "The route %s takes that user now: a password that a person chose, of a device that goes on, would be sent to %s.\n", r.User, u.Name)
		}
		return nil
	})
}

// confirm asks a person, unless the answer is known.
func (p *program) confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if _, ok := terminalOf(p.in); !ok {
		return errors.New("there is no terminal to ask whether you are sure: give --yes")
	}
	fmt.Fprintf(p.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(p.in).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y") {
		return errors.New("nothing is changed")
	}
	return nil
}
