package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/vault"
)

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

func (p *program) accountAdd(a adding, user string) error {
	return p.withVault(a.config, func(o office) error {
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
