package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

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

// A passwordWish is which password clients are to have.
type passwordWish struct {
	label    string
	networks []string
	choose   bool
	file     string
	keepText bool
}

func (w *passwordWish) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.label, "label", "client", "what the password is for, as `TEXT`")
	c.Flags().StringSliceVar(&w.networks, "network", nil, "let it be good from `NETWORK` only; may be repeated")
	c.Flags().BoolVar(&w.choose, "choose", false, "ask for the password instead of making one")
	c.Flags().StringVar(&w.file, "password-file", "", "take it from the first line of `FILE`; - is standard input")
	c.Flags().BoolVar(&w.keepText, "keep-text", false, "keep the password itself too, for APOP and CRAM-MD5")
	c.MarkFlagFilename("password-file")
}

// wanted turns a wish into what a registrar makes.
func (p *program) wanted(w passwordWish, user string) (accounts.Wanted, error) {
	want := accounts.Wanted{Label: w.label, KeepText: w.keepText}
	for _, text := range w.networks {
		network, err := parseNetwork(text)
		if err != nil {
			return want, err
		}
		want.Networks = append(want.Networks, network)
	}
	if !w.choose && w.file == "" {
		return want, nil
	}
	var err error
	if want.Chosen, err = p.password(user+", for its clients", w.file); err != nil || w.file != "" {
		return want, err
	}
	again, err := p.password(user+", once more", "")
	if err == nil && again != want.Chosen {
		err = errors.New("these were two different passwords")
	}
	return want, err
}

func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	if err != nil || n != n.Masked() || n.Addr().Is4In6() {
		return n, fmt.Errorf("--network: %q is not a network: write 192.0.2.0/24, 2001:db8::/32 or a single address", text)
	}
	return n, nil
}

// An office is where accounts of the state are made and changed.
type office struct {
	config *config.Config
	store  state.Store
	vault  *vault.Vault
	*accounts.Registrar
}

// withOffice runs do with the accounts of the state.
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
	v, err := openVault(c.Vault, store)
	if err != nil {
		return err
	}
	registrar, err := accounts.NewRegistrar(p.drain, store, v)
	if err != nil {
		return err
	}
	return do(office{c, store, v, registrar})
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

// An adding is what account add is told.
type adding struct {
	config, upstream, login, credentialFile string
	noPassword, asJSON                      bool
	wish                                    passwordWish
}

func (p *program) accountAddCommand() *cobra.Command {
	var a adding
	c := &cobra.Command{
		Use:   "add USER",
		Short: "Make an account",
		Long: `Make an account that clients log in to as USER, with a password that is made and
shown this once, together with what else to type into the client.

postern needs something to log in with upstream, too. The password there, or app
password, is asked for, unless --upstream-password-file says where it is; it is
sealed in the state. Where the upstream has oauth, tokens are taken instead, and
somebody has to consent: postern account connect USER.

In --upstream-user, {user} stands for USER, {local} for what is before its last @
and {domain} for what is behind. A password that a person chooses (--choose) is
slower to check, cannot be used with SCRAM, and an account can have but one.`,
		Example: `  postern account add scanner@example.org --upstream office
  postern account add hall --upstream office --upstream-user scans@example.org --network 192.0.2.17
  postern account add ann@example.org --choose --upstream-password-file secret
  postern account add ann@example.org --upstream-password-file secret --json >>made.json`,
		Args: func(c *cobra.Command, args []string) error {
			return errors.Join(oneUser(c, args), a.wish.check(), a.check())
		},
		RunE: p.beginFor(func(user string) error { return p.accountAdd(a, user) }),
	}
	configFlag(c, &a.config)
	c.Flags().StringVar(&a.upstream, "upstream", "", "`NAME` of the upstream; without it, where a route takes USER")
	c.Flags().StringVar(&a.login, "upstream-user", "", "log in there as `NAME`, such as {local}@example.com")
	c.Flags().StringVar(&a.credentialFile, "upstream-password-file", "", "the password there: first line of `FILE`; - is standard input")
	c.Flags().BoolVar(&a.noPassword, "no-password", false, "make no password for clients yet")
	c.Flags().BoolVar(&a.asJSON, "json", false, "print one JSON object on a line, for scripts")
	c.MarkFlagFilename("upstream-password-file")
	a.wish.flags(c)
	return c
}

func (a *adding) check() error {
	if a.credentialFile == "-" && a.wish.file == "-" {
		return errors.New("--password-file and --upstream-password-file cannot both be standard input")
	}
	return nil
}

func (w *passwordWish) check() error {
	if w.choose && w.file != "" {
		return errors.New("--choose asks for the password that --password-file has: give one of the two")
	}
	if (w.choose || w.file != "") && w.keepText {
		return errors.New("--keep-text is for passwords that postern makes")
	}
	return nil
}

func (p *program) accountAdd(a adding, user string) error {
	return p.withOffice(a.config, func(o office) error {
		if _, ok := o.config.Account(user); ok {
			return fmt.Errorf("the configuration has an account %s already", user)
		}
		if !o.config.Vault.Set() {
			return explainAccount(vault.ErrNoKey, user, "")
		}
		u, err := o.upstreamFor(a.upstream, user)
		if err != nil {
			return err
		}
		n := accounts.NewAccount{Name: user, Upstream: u.Name, Login: a.login, Credential: accounts.Password}
		if err := checkLogin(n.Login, user); err != nil {
			return err
		}
		var want *accounts.Wanted
		if !a.noPassword {
			w, err := p.wanted(a.wish, user)
			if err != nil {
				return err
			}
			want = &w
		}
		if u.OAuth.Set() && a.credentialFile == "" {
			n.Credential = accounts.OAuth
		} else if n.Secret, err = p.password(auth.Expand(n.Login, user)+" at "+u.Name, a.credentialFile); err != nil {
			return err
		}
		text, err := o.Add(p.drain, n, want)
		if err != nil {
			return explainAccount(err, user, "")
		}
		return p.tellAdded(o.config, made{user, u, want, text}, n.Credential, a.asJSON)
	})
}

// upstreamFor finds the upstream of a new account.
func (o office) upstreamFor(name, user string) (config.Upstream, error) {
	if name == "" {
		_, u, ok := o.config.Route(user)
		if !ok && len(o.config.Upstreams) == 1 {
			u, ok = o.config.Upstreams[0], true
		}
		if !ok {
			return u, fmt.Errorf("no route takes the user %q: say with --upstream where the mail is", user)
		}
		return u, nil
	}
	u := o.config.Upstream(name)
	if u.Name == "" {
		return u, fmt.Errorf("the configuration has no upstream %q", name)
	}
	return u, nil
}

// checkLogin tells what is wrong with the template of a login name.
func checkLogin(template, user string) error {
	if template == "" {
		return nil
	}
	rest := strings.NewReplacer("{user}", "", "{local}", "", "{domain}", "").Replace(template)
	if strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("--upstream-user: %q has braces around something else than user, local or domain", template)
	}
	if err := accounts.CheckName(auth.Expand(template, user)); err != nil {
		return fmt.Errorf("--upstream-user: %q makes no name of %s: %w", template, user, err)
	}
	return nil
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
