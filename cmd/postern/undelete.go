package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postern/proxy/state"
	"postern/upstream"
)

func (p *program) undeleteCommand() *cobra.Command {
	var path string
	var dryRun bool
	var s selection
	var passwordFile string
	c := &cobra.Command{
		Use:   "undelete",
		Short: "Bring removed messages back",
		Long: `Bring back messages that a client removed and the route's policy kept: out of the
trash or the archive, or by taking a flag off. They come back as they were, and
clients take them for new messages.

What is gone for good is listed, with the reason; the exit code is then 1. Without
--since, --session or --id it is about everything that was ever removed. See
postern removals for what there is.

The user's password is asked for on the terminal, unless --password-file says
where it is; for an account, what postern keeps is taken. The command may run
while the gateway does.`,
		Example: `  postern undelete --user ann@example.org --since 2h --dry-run
  postern undelete --user ann@example.org --since 2h
  postern undelete --user ann@example.org --session 7QXK2MDA --password-file secret
  postern undelete --user ann@example.org --id 1204,1205`,
		Args: func(c *cobra.Command, args []string) error {
			return errors.Join(noArgs(c, args), s.complete(time.Now()))
		},
		RunE: p.begin(func() error { return p.undelete(path, s, passwordFile, dryRun) }),
	}
	configFlag(c, &path)
	s.flags(c)
	passwordFlag(c, &passwordFile)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be brought back, and change nothing")
	return c
}

func (p *program) undelete(path string, s selection, passwordFile string, dryRun bool) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	at, err := p.place(c, s.user)
	if err != nil {
		return err
	}
	store, err := openStateFor(c.State, state.Options{ReadOnly: dryRun})
	if err != nil {
		return err
	}
	defer store.Close()
	kept, lost, err := p.choose(store, s, at)
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		if lost > 0 {
			return fmt.Errorf("%s cannot be brought back", plural(lost, "message"))
		}
		return fmt.Errorf("nothing of %s can be brought back: see postern removals --user %[1]s", s.user)
	}
	if dryRun {
		fmt.Fprintf(p.out, "%s would be brought back.\n", plural(len(kept), "message"))
		return someLost(lost)
	}
	account, release, err := p.credentials(c, at, passwordFile)
	defer release()
	if err != nil {
		return err
	}
	back, err := p.restore(store, at, account, kept)
	fmt.Fprintf(p.out, "%s brought back.\n", plural(back, "message"))
	if err != nil {
		return err
	}
	return someLost(lost + len(kept) - back)
}

func someLost(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s not brought back", plural(n, "message"))
}

// choose finds what is selected and kept, and says of the rest why not.
func (p *program) choose(store state.Store, s selection, at place) (kept []state.Removed, lost int, err error) {
	err = s.each(p.drain, store, state.Query{Account: at.login}, func(r state.Removed) error {
		reason := ""
		switch {
		case r.Fate == state.Undone:
			return nil // done already
		case r.Fate == state.Purged:
			reason = "it was kept until " + r.FateAt.Local().Format(time.DateTime) + " and then purged"
		case r.Kept.Mailbox == "":
			reason = "the policy " + r.Policy + " kept nothing"
		case r.Upstream != at.up.Name:
			reason = "it is at the upstream " + r.Upstream + ", where no route leads for this user now"
		default:
			kept = append(kept, r)
			return nil
		}
		lost++
		fmt.Fprintf(p.out, "%s: %s\n", removedText(r), reason)
		return nil
	})
	return kept, lost, err
}

func removedText(r state.Removed) string {
	return fmt.Sprintf("%d, removed %s, %s", r.ID, r.At.Local().Format(time.DateTime), visible(r.UIDL))
}

const (
	undeleteTime  = 30 * time.Minute // for all of it
	undeleteBatch = 200              // messages in one call
)

// restore has the upstream put messages back, and settles what was seen there.
func (p *program) restore(store state.Store, at place, a upstream.Account, kept []state.Removed) (back int, err error) {
	ctx, cancel := context.WithTimeout(p.drain, undeleteTime)
	defer cancel()
	adapter, err := at.adapter()
	if err != nil {
		return 0, err
	}
	done := p.progress("logging in at " + at.up.Name)
	drop, err := adapter.Open(ctx, a)
	if err == nil {
		defer drop.Close()
		_, err = drop.List(ctx)
	}
	done()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", at.up.Name, err, advice(at.up, err))
	}
	keeper, ok := drop.(upstream.Keeper)
	if !ok {
		return 0, fmt.Errorf("the upstream %s cannot bring anything back", at.up.Name)
	}
	for from := 0; from < len(kept); from += undeleteBatch {
		part := kept[from:min(from+undeleteBatch, len(kept))]
		done := p.progress(fmt.Sprintf("bringing back %d of %d", from+len(part), len(kept)))
		n, err := p.restoreSome(ctx, store, keeper, part)
		done()
		back += n
		if err != nil {
			return back, err
		}
	}
	return back, nil
}

func (p *program) restoreSome(ctx context.Context, store state.Store, keeper upstream.Keeper, part []state.Removed) (int, error) {
	removals := make([]upstream.Removal, len(part))
	for i := range part {
		removals[i] = part[i].Removal
	}
	done, err := keeper.Restore(ctx, removals)
	var ids []int64
	for i, r := range part {
		if i < len(done) && done[i] {
			ids = append(ids, r.ID)
		} else if err == nil {
			fmt.Fprintf(p.out, "%s: it is no longer in %s\n", removedText(r), visible(r.Kept.Mailbox))
		}
	}
	// What came back is settled, whatever became of the others.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if settled := store.Settle(settling, state.Undone, ids...); settled != nil {
		err = errors.Join(err, settled)
	}
	return len(ids), err
}
