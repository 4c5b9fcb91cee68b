package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
	"postern/proxy/vault"
)

func (p *program) accountCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "account",
		Short: "Give clients passwords of postern's own",
		Long: `An account lets a client log in with a password that postern gave it, while
postern logs in upstream with another, or with tokens. Each device can have a
password of its own, good from its network alone, and lose it without the others.

These accounts are kept in the state; others stand in the configuration. The
commands may run while the gateway does, which sees the change at the next login.`,
	}
	c.AddCommand(p.accountAddCommand(), p.accountConnectCommand(), p.accountListCommand(), p.accountPasswordCommand(),
		p.accountSwitchCommand("disable", "Let nobody log in to an account", true),
		p.accountSwitchCommand("enable", "Let clients log in to an account again", false),
		p.accountInviteCommand(), p.accountRemoveCommand())
	return c
}

// An office is where accounts of the state are made and changed.
type office struct {
	config *config.Config
	store  state.Store

	// For their secrets: withVault has them.
	vault *vault.Vault
	*accounts.Registrar
}

// withOffice runs do with the accounts of the state, but not their secrets: who has
// to lock somebody out may have lost the key.
func (p *program) withOffice(path string, do func(o office) error) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	store, err := openStateFor(c.State, state.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	return do(office{config: c, store: store})
}

// withVault runs do with the accounts of the state and their secrets.
func (p *program) withVault(path string, do func(o office) error) error {
	return p.withOffice(path, func(o office) (err error) {
		if o.vault, err = openVault(o.config.Vault, o.store); err != nil {
			return err
		}
		if o.Registrar, err = accounts.NewRegistrar(p.drain, o.store, o.vault); err != nil {
			return err
		}
		return do(o)
	})
}

// find reads an account, or says where else it may be.
func (o office) find(ctx context.Context, user string) (state.Account, error) {
	if _, ok := o.config.Account(user); ok {
		return state.Account{}, fmt.Errorf("the account %s stands in the configuration: change it there", user)
	}
	a, err := o.store.Account(ctx, auth.Fold(user))
	if errors.Is(err, state.ErrNotFound) {
		return a, fmt.Errorf("there is no account %s: see postern account list", user)
	}
	return a, err
}

// oneUser is the Args function of commands about one user.
func oneUser(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("USER is missing: whose account is it?")
	case len(args) > 1:
		return errors.New("one USER at a time")
	}
	return accounts.CheckName(args[0])
}

// beginFor makes a cobra function of a command about one user.
func (p *program) beginFor(run func(user string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		p.began = true
		return run(args[0])
	}
}

// explainAccount makes the errors of a registrar say what to do. The label is
// that of a password for an account that there is.
func explainAccount(err error, user, label string) error {
	switch {
	case errors.Is(err, vault.ErrNoKey):
		return fmt.Errorf("%w\nSecrets are sealed before they are kept. Name a key in the configuration, vault.key_file, and make it: postern vault new-key", err)
	case errors.Is(err, state.ErrExists) && label != "":
		return fmt.Errorf("%s has a password %q already: call this one something else with --label, or revoke that one first", user, label)
	case errors.Is(err, state.ErrExists):
		return fmt.Errorf("there is an account %s already", user)
	}
	return err
}
