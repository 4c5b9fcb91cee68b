package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy/accounts"
	"postern/proxy/auth"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/oauth"
)

// A connecting is how an account's owner is asked for consent.
type connecting struct {
	device, paste    bool
	refreshTokenFile string
}

func (how connecting) check() error {
	ways := 0
	for _, way := range []bool{how.device, how.paste, how.refreshTokenFile != ""} {
		if way {
			ways++
		}
	}
	if ways > 1 {
		return errors.New("--device, --paste and --refresh-token-file are three ways to do one thing")
	}
	return nil
}

func (p *program) accountConnectCommand() *cobra.Command {
	var path string
	var how connecting
	c := &cobra.Command{
		Use:   "connect USER",
		Short: "Let the owner of an account give postern access to the mailbox",
		Long: `Ask the owner of an account to let postern into the mailbox, by the provider's own
page: postern never sees their password. What they grant is kept in the vault, and
kept good from then on. The command may run while the gateway does.

It prints an address to open in a browser on this machine. If that browser is on
another machine, take --device where the provider knows device codes, or else
--paste: the browser then ends up on a page that it cannot show, and the address
of that page is what to paste.`,
		Example: `  postern account connect ann@example.org
  postern account connect ann@example.org --device
  postern account connect ann@example.org --refresh-token-file - <token`,
		Args: func(c *cobra.Command, args []string) error { return errors.Join(oneUser(c, args), how.check()) },
		RunE: p.beginFor(func(user string) error {
			return p.withVault(path, func(o office) error { return p.connectAccount(o, user, how) })
		}),
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&how.device, "device", false, "show a code to type on the provider's page, on any machine")
	c.Flags().BoolVar(&how.paste, "paste", false, "ask for the address that the browser ends at")
	c.Flags().StringVar(&how.refreshTokenFile, "refresh-token-file", "", "take a refresh token from `FILE`; - is standard input")
	c.MarkFlagFilename("refresh-token-file")
	return c
}

// consentTime is how long a person may take.
const consentTime = 15 * time.Minute

func (p *program) connectAccount(o office, user string, how connecting) error {
	at, err := p.consenting(o.config, user)
	if err != nil {
		return err
	}
	app, err := application(at.up)
	if err != nil {
		return fmt.Errorf("upstream %s: oauth: %w", at.up.Name, err)
	}
	ctx, cancel := context.WithTimeout(p.drain, consentTime)
	defer cancel()
	grant, err := p.consent(ctx, app, at, how)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tokenAdvice(at.up, err))
	}
	done := p.progress("logging in at " + at.up.Name)
	err = opens(p.drain, at, grant)
	done()
	if errors.Is(err, upstream.ErrAuth) {
		return fmt.Errorf("%s does not take what was granted for the mailbox %s, so it is not kept: %w\n%s", at.up.Name, at.login, err, advice(at.up, err))
	}
	grant.For = app.For(at.login)
	if saveErr := (grants{o.config, o.vault, o.store}).replace(context.WithoutCancel(p.drain), auth.Fold(user), grant); saveErr != nil {
		return saveErr
	}
	fmt.Fprintf(p.out, "%s is connected to %s.\n", user, title(at.up))
	if err != nil {
		return fmt.Errorf("what was granted is kept, but the mailbox could not be opened: %w\n%s", err, advice(at.up, err))
	}
	fmt.Fprintln(p.out, "The mailbox was opened.")
	return nil
}

// consenting is the place of an account whose owner is to consent.
func (p *program) consenting(c *config.Config, user string) (place, error) {
	at, err := p.place(c, user)
	switch {
	case err != nil:
		return at, err
	case !at.ours:
		return at, fmt.Errorf("%s has no account: its route sends the client's own password upstream. Add one: postern account add %s", user, user)
	case at.up.OAuth.ForAll():
		return at, fmt.Errorf("nobody has to consent at the upstream %s: an administrator has, by grant: %s", at.up.Name, at.up.OAuth.Grant)
	case !at.up.OAuth.Set():
		return at, fmt.Errorf("the upstream %s has no oauth in the configuration, so there is nothing to consent to", at.up.Name)
	}
	a, err := p.stateAccount(c, user)
	if errors.Is(err, state.ErrNotFound) { // it stands in the configuration
		return at, nil
	}
	if err == nil && a.Credential != accounts.OAuth {
		err = fmt.Errorf("the account %s logs in upstream with a password: remove it, and add it without --upstream-password-file", user)
	}
	return at, err
}

// consent asks for it.
func (p *program) consent(ctx context.Context, app *oauth.Application, at place, how connecting) (oauth.Grant, error) {
	switch {
	case how.refreshTokenFile != "":
		token, err := p.secret("refresh token", how.refreshTokenFile)
		if err != nil {
			return oauth.Grant{}, err
		}
		return app.Import(ctx, token)
	case how.device:
		return p.consentByDevice(ctx, app, at)
	case how.paste:
		return p.consentByPaste(ctx, app, at)
	}
	return p.consentByBrowser(ctx, app, at)
}

// secret reads one that a file or standard input holds.
func (p *program) secret(what, file string) (upstream.Secret, error) {
	if file == "-" {
		secret, err := firstLine(p.in)
		if err != nil {
			return secret, fmt.Errorf("%s: %w", what, err)
		}
		return secret, nil
	}
	return secretFile(file)
}

// loopbackHost is that of addresses on this machine, as the provider wants to have it.
func loopbackHost(u config.Upstream) string {
	if host := profile(u).OAuth.Loopback; host != "" {
		return host
	}
	return "127.0.0.1"
}

func (p *program) consentByBrowser(ctx context.Context, app *oauth.Application, at place) (oauth.Grant, error) {
	listening, err := oauth.Listen(loopbackHost(at.up))
	if err != nil {
		return oauth.Grant{}, err
	}
	defer listening.Close()
	request, err := app.Begin(ctx, at.login, listening.Redirect())
	if err != nil {
		return oauth.Grant{}, err
	}
	fmt.Fprintf(p.out, "Let the owner of %s open this address in a browser on this machine:\n\n  %s\n\n", at.login, request.URL())
	done := p.progress("waiting for the browser")
	answer, err := listening.Wait(ctx, request)
	done()
	if err != nil {
		return oauth.Grant{}, err
	}
	return request.Finish(ctx, answer)
}

func (p *program) consentByPaste(ctx context.Context, app *oauth.Application, at place) (oauth.Grant, error) {
	request, err := app.Begin(ctx, at.login, "http://"+loopbackHost(at.up)+"/")
	if err != nil {
		return oauth.Grant{}, err
	}
	fmt.Fprintf(p.out, "Let the owner of %s open this address in a browser:\n\n  %s\n\n", at.login, request.URL())
	fmt.Fprint(p.out, "The browser will end up at a page that it cannot show. Paste the address of that page: ")
	answer, err := p.pasted(ctx)
	fmt.Fprintln(p.out)
	if err != nil {
		return oauth.Grant{}, err
	}
	return request.Finish(ctx, answer)
}

// maxPasted is more than any address is long.
const maxPasted = 64 << 10

// pasted reads an address. Whoever gives up waiting leaves the reader behind:
// the program ends then.
func (p *program) pasted(ctx context.Context) (url.Values, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(p.in, maxPasted)).ReadString('\n')
		if line != "" {
			err = nil
		}
		read <- result{strings.TrimSpace(line), err}
	}()
	select {
	case r := <-read:
		if r.err != nil {
			return nil, fmt.Errorf("read the address: %w", r.err)
		}
		return oauth.Pasted(r.line)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *program) consentByDevice(ctx context.Context, app *oauth.Application, at place) (oauth.Grant, error) {
	device, err := app.BeginDevice(ctx)
	if err != nil {
		return oauth.Grant{}, err
	}
	fmt.Fprintf(p.out, "Let the owner of %s open this address, on any machine:\n\n  %s\n\nand type this code, within %s:\n\n  %s\n\n",
		at.login, device.URL, time.Until(device.Expires).Round(time.Minute), device.Code)
	if device.Complete != "" {
		fmt.Fprintf(p.out, "or confirm it here:\n\n  %s\n\n", device.Complete)
	}
	done := p.progress("waiting for the answer")
	defer done()
	return device.Wait(ctx)
}

// title is what people call the provider of an upstream.
func title(u config.Upstream) string {
	if p := profile(u); p.Title != "" && p.Name != "generic" {
		return p.Title
	}
	return u.Name
}
