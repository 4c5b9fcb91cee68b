package main

import (
	"context"
	"io"
	"slices"

	"postern/cmd/internal/config"
	"postern/proxy/auth"
	"postern/proxy/ledger"
	"postern/proxy/metrics"
	"postern/proxy/retention"
	"postern/proxy/state"
	"postern/upstream"
	"postern/upstream/imapc"
	"postern/upstream/spool"
)

// openers open the maildrops of every policy that a configuration has at an
// upstream. Routes that differ only in their users share an adapter that follows
// the policy, what purges behind it, and the ledger of unique-ids before it.
type openers struct {
	config *config.Config
	made   map[config.Route]upstream.Opener
}

// openers makes what opens the maildrops of each upstream. It connects to none.
func (g *gateway) openers(c *config.Config, counts *metrics.Metrics) (openers, error) {
	o := openers{c, map[config.Route]upstream.Opener{}}
	pool := spool.NewPool(spool.Limits{})
	g.stable = imapc.NewStable(c.Limits.WarmConnections)
	for _, u := range c.Upstreams {
		w, err := g.wire(u, c.State, counts)
		if err != nil {
			return o, err
		}
		w.pool, w.stable = pool, g.stable
		policies := c.Routes
		if c.HasAccounts() {
			policies = append(slices.Clone(policies), c.Policy("", u.Name)) // of an account that no route has
		}
		for _, r := range policies {
			if key := alike(r); r.Upstream == u.Name && o.made[key] == nil {
				if o.made[key], err = g.opener(c, r, w, counts); err != nil {
					return o, err
				}
			}
		}
	}
	return o, nil
}

// alike is what a route has in common with those that share its opener.
func alike(r config.Route) config.Route {
	r.User, r.Login, r.UpstreamUser = "", "", ""
	return r
}

// of returns what opens the mailboxes of an account, or nil if the upstream is
// not there.
func (o openers) of(account, upstreamName string) upstream.Opener {
	return o.made[alike(o.config.Policy(account, upstreamName))]
}

// routes are for those who have no account.
func (o openers) routes() []auth.Route {
	var all []auth.Route
	for _, r := range o.config.Routes {
		all = append(all, auth.Route{User: r.User, Upstream: r.Upstream, Opener: o.made[alike(r)],
			Login: r.UpstreamUser, AccountsOnly: r.Login == config.AccountsOnly})
	}
	return all
}

// wire makes what the adapters of an upstream share.
func (g *gateway) wire(u config.Upstream, s config.State, counts *metrics.Metrics) (wiring, error) {
	trust, err := trust(u)
	if err != nil {
		return wiring{}, err
	}
	w := wiring{
		trust:   trust,
		journal: counts.Journal(u.Name, g.store.Journal(u.Name)),
		hooks:   g.status.watch(u.Name, u.Protocol, counts.Upstream(u.Name, u.Protocol)),
		log:     g.log.With("upstream", u.Name),
	}
	if !s.Off {
		w.listings = listings{g.store, u.Name}
	}
	return w, nil
}

// opener makes what opens the maildrops of a route.
func (g *gateway) opener(c *config.Config, r config.Route, w wiring, counts *metrics.Metrics) (upstream.Opener, error) {
	u := c.Upstream(r.Upstream)
	w.policy, w.uidl, w.warm = policy(r), r.UIDL, r.Warm
	adapter, err := newAdapter(u, w)
	if err != nil {
		return nil, err
	}
	if keeps, ok := adapter.(io.Closer); ok {
		g.adapters = append(g.adapters, keeps)
	}
	if c.State.Off {
		return adapter, nil
	}
	purging := retention.New(adapter, g.store, retention.Options{
		Upstream: u.Name,
		Policy:   w.policy,
		Purged:   counts.Purged(u.Name),
		Log:      g.log,
	})
	g.purges = append(g.purges, purging)
	options := ledgerOptions(c, u, r)
	hooks := counts.Ledger(u.Name)
	options.Hooks = ledger.Hooks{Churned: hooks.Churned, Rebound: hooks.Rebound, Failed: hooks.Failed}
	options.Log = g.log.With("upstream", u.Name)
	return ledger.New(purging, g.store, options), nil
}

// policy is what a route says of removing and reading.
func policy(r config.Route) upstream.Policy {
	words := map[string]upstream.Delete{
		config.DeleteExpunge: upstream.DeleteExpunge,
		config.DeleteTrash:   upstream.DeleteTrash,
		config.DeleteArchive: upstream.DeleteArchive,
		config.DeleteFlag:    upstream.DeleteFlag,
		config.DeleteNever:   upstream.DeleteNever,
	}
	return upstream.Policy{
		Delete:       words[r.Delete],
		Folder:       r.ArchiveFolder,
		Grace:        r.Grace,
		ExpungeAlone: r.ExpungeIfAlone,
		Seen:         r.MarkSeen,
	}
}

// ledgerOptions is how the ledgers of a route are kept.
func ledgerOptions(c *config.Config, u config.Upstream, r config.Route) ledger.Options {
	churn := ledger.Churn{Known: r.Churn.Known, GonePercent: r.Churn.GonePercent, NewPercent: r.Churn.NewPercent}
	if r.Churn.Off {
		churn.Known = -1
	}
	return ledger.Options{
		Origin:      origin(u),
		Account:     func(a upstream.Account) string { return ledgerAccount(c, u.Name, a.User) },
		RequireRetr: r.RequireRetr,
		Churn:       churn,
	}
}

// origin says where an upstream's names for messages come from.
func origin(u config.Upstream) string {
	where := u.Address
	if u.Protocol == config.JMAP {
		if where = u.URL; where == "" {
			where = u.Domain
		}
	}
	return u.Protocol + " " + where
}

// listings are the cached listings of one upstream.
type listings struct {
	store    state.Store
	upstream string
}

func (l listings) Load(ctx context.Context, account, key string) []byte {
	return l.store.Listing(ctx, state.ListingKey{Upstream: l.upstream, Account: account, Name: key})
}

func (l listings) Save(ctx context.Context, account, key string, listing []byte) {
	l.store.SaveListing(ctx, state.ListingKey{Upstream: l.upstream, Account: account, Name: key}, listing)
}
