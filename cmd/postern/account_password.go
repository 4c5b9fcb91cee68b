package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
)

func (p *program) accountPasswordCommand() *cobra.Command {
	var path, revoke string
	var atUpstream, asJSON bool
	var w passwordWish
	c := &cobra.Command{
		Use:   "password USER",
		Short: "Make or revoke a password of an account",
		Long: `Make one more password for the clients of an account, and show it this once. Each
device is best given its own, with a label that says which it is: then it can be
revoked alone.

With --revoke, take away the one with that label: the next login with it is refused,
and a session that it opened shows and removes nothing more.

With --upstream, change the password that postern logs in with at the upstream.`,
		Example: `  postern account password scanner@example.org --label second-floor
  postern account password scanner@example.org --revoke second-floor
  postern account password scanner@example.org --upstream --password-file secret`,
		Args: func(c *cobra.Command, args []string) error {
			return errors.Join(oneUser(c, args), w.check(), checkPasswordFlags(revoke, atUpstream, c))
		},
		RunE: p.beginFor(func(user string) error {
			switch {
			case revoke != "":
				return p.accountRevoke(path, user, revoke)
			case atUpstream:
				return p.accountCredential(path, user, w.file)
			}
			return p.accountPassword(path, user, w, asJSON)
		}),
	}
	configFlag(c, &path)
	w.flags(c)
	c.Flags().StringVar(&revoke, "revoke", "", "take away the password with this `LABEL`")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object on a line, for scripts")
	c.Flags().BoolVar(&atUpstream, "upstream", false, "change the password at the upstream that postern logs in with")
	return c
}

func checkPasswordFlags(revoke string, atUpstream bool, c *cobra.Command) error {
	for _, name := range []string{"label", "network", "choose", "keep-text", "json"} {
		if (revoke != "" || atUpstream) && c.Flags().Changed(name) {
			return fmt.Errorf("--%s is for a new password", name)
		}
	}
	if revoke != "" && (atUpstream || c.Flags().Changed("password-file")) {
		return errors.New("--revoke stands alone")
	}
	return nil
}

func (p *program) accountPassword(path, user string, w passwordWish, asJSON bool) error {
	return p.withVault(path, func(o office) error {
		a, err := o.find(p.drain, user)
		if err != nil {
			return err
		}
		want, err := p.wanted(w, user)
		if err != nil {
			return err
		}
		text, err := o.AddPassword(p.drain, user, want)
		if err != nil {
			return explainAccount(err, user, w.label)
		}
		m := made{user, config.Upstream{Name: a.Upstream}, &want, text}
		if asJSON {
			return json.NewEncoder(p.out).Encode(m.line(o.config))
		}
		fmt.Fprintf(p.out, "The password %q of %s is made.\n", w.label, user)
		p.tellPassword(o.config, m)
		return nil
	})
}

func (p *program) accountRevoke(path, user, label string) error {
	return p.withOffice(path, func(o office) error {
		if _, err := o.find(p.drain, user); err != nil {
			return err
		}
		err := o.store.RemoveClientPassword(p.drain, auth.Fold(user), label)
		if errors.Is(err, state.ErrNotFound) {
			return fmt.Errorf("%s has no password with the label %q: see postern account list", user, label)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(p.out, "The password %q of %s opens nothing any more.\n", label, user)
		return nil
	})
}

func (p *program) accountCredential(path, user, file string) error {
	return p.withVault(path, func(o office) error {
		a, err := o.find(p.drain, user)
		if err != nil {
			return err
		}
		secret, err := p.password(auth.Expand(a.Login, a.Name)+" at "+a.Upstream, file)
		if err != nil {
			return err
		}
		if err := o.SetCredential(p.drain, user, secret); err != nil {
			return explainAccount(err, user, "")
		}
		fmt.Fprintf(p.out, "postern logs in for %s with the new password from now on.\n", user)
		return nil
	})
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

func (w *passwordWish) check() error {
	if w.choose && w.file != "" {
		return errors.New("--choose asks for the password that --password-file has: give one of the two")
	}
	if (w.choose || w.file != "") && w.keepText {
		return errors.New("--keep-text is for passwords that postern makes")
	}
	return nil
}
