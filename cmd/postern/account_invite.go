package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/proxy/consent"
)

func (p *program) accountInviteCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "invite USER",
		Short: "Make a link by which the owner of an account consents",
		Long: `Make a link to send to the owner of an account. It leads them to the provider,
where they let postern into the mailbox, and then shows them what to type into
their mail client. It works once. The pages are the gateway's: consent.public_url
in the configuration says how browsers reach them.`,
		Example: `  postern account invite ann@example.org`,
		Args:    oneUser,
		RunE:    p.beginFor(func(user string) error { return p.inviteAccount(path, user) }),
	}
	configFlag(c, &path)
	return c
}

func (p *program) inviteAccount(path, user string) error {
	return p.withOffice(path, func(o office) error {
		if o.config.Consent.PublicURL == "" {
			return errors.New("the configuration has no consent.public_url, under which browsers would reach the page. " +
				"To ask for consent on this machine: postern account connect " + user)
		}
		d, err := newDesk(o.config, o.store, nil, nil)
		if err != nil {
			return err
		}
		invitation, expires, err := d.Invite(p.drain, user)
		if errors.Is(err, consent.ErrInvitation) {
			return fmt.Errorf("there is no account %s whose owner has to consent: see postern account list", user)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(p.out, "Send this to the owner of %s, and to nobody else. It works once, until %s:\n\n  %s\n",
			user, expires.UTC().Format(time.RFC1123), consent.Link(d.public, invitation))
		return nil
	})
}
