package state

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"postern/upstream"
)

// Off returns a Store that keeps nothing beyond this process. What that costs:
//   - A removal that a crash cut off is not finished at the next login: what
//     was flagged but not yet expunged stays in the mailbox until the client
//     deletes it again. Nothing else is removed for that.
//   - There is no log of removals, so nothing can be undeleted or purged.
//   - Unique-ids are the upstream's own. When the upstream renames its
//     messages (a new UIDVALIDITY, a move to another server), clients
//     download everything again, and nothing holds that login back.
//   - Every login lists the mailbox afresh.
//   - The lock on a maildrop is known to this process only.
//   - There are no accounts but those of the configuration, and no OAuth2 grants.
func Off() Store {
	o := &off{pending: map[int64]offIntent{}}
	rand.Read(o.seed[:])
	return o
}

type off struct {
	locks
	none
	seed [seedOctets]byte

	mu      sync.Mutex
	last    int64
	pending map[int64]offIntent // bounded by the sessions under way and those cut off lately
}

type offIntent struct {
	upstream string
	upstream.Intent
}

// maxOffIntents bounds what failing sessions can pile up. The oldest go first.
const maxOffIntents = 10_000

func (o *off) Journal(name string) upstream.Journal { return offJournal{o, name} }

type offJournal struct {
	*off
	upstream string
}

func (j offJournal) Begin(ctx context.Context, intent upstream.Intent) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	intent.ID, intent.At = j.last, time.Now()
	j.pending[j.last] = offIntent{j.upstream, intent}
	delete(j.pending, j.last-maxOffIntents)
	return j.last, nil
}

func (j offJournal) End(_ context.Context, id int64, _ []upstream.Removal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if p, ok := j.pending[id]; !ok || p.upstream != j.upstream {
		return errNoIntent
	}
	delete(j.pending, id)
	return nil
}

func (j offJournal) Pending(_ context.Context, account string) ([]upstream.Intent, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []upstream.Intent
	for _, p := range j.pending {
		if p.upstream == j.upstream && p.Account == account {
			found = append(found, p.Intent)
		}
	}
	slices.SortFunc(found, func(a, b upstream.Intent) int { return int(a.ID - b.ID) })
	return found, nil
}

var errNoIntent = errors.New("no such intent")

func (o *off) Removals(context.Context, Query) ([]Removed, error) { return nil, nil }
func (o *off) Settle(context.Context, Fate, ...int64) error       { return nil }
func (o *off) Ledger(context.Context, string) (Ledger, error)     { return Ledger{}, nil }
func (o *off) Listing(context.Context, ListingKey) []byte         { return nil }
func (o *off) SaveListing(context.Context, ListingKey, []byte)    {}
func (o *off) Close() error                                       { return nil }

func (o *off) Segments(_ context.Context, _ string, ids []int64) ([][]byte, error) {
	if len(ids) > 0 {
		return nil, ErrConflict
	}
	return nil, nil
}

func (o *off) SaveLedger(_ context.Context, _ string, c LedgerChange) (int64, error) {
	return c.Version + 1, nil
}

// Seed implements Accounts.
func (o *off) Seed(context.Context) ([]byte, error) { return slices.Clone(o.seed[:]), nil }

// none is a store without accounts and secrets, which takes none either.
type none struct{}

func (none) Account(context.Context, string) (Account, error)                      { return Account{}, ErrNotFound }
func (none) ListAccounts(context.Context, string, int) ([]Account, error)          { return nil, nil }
func (none) AddAccount(context.Context, Account, []ClientPassword, []Sealed) error { return ErrOff }
func (none) SetAccount(context.Context, Account) error                             { return ErrOff }
func (none) RemoveAccount(context.Context, string) error                           { return ErrNotFound }
func (none) ClientPasswords(context.Context, string) ([]ClientPassword, error)     { return nil, nil }
func (none) AddClientPassword(context.Context, ClientPassword, []Sealed) error     { return ErrOff }
func (none) RemoveClientPassword(context.Context, string, string) error            { return ErrNotFound }
func (none) NoteUse(context.Context, []Use) error                                  { return nil }

func (none) Secret(context.Context, SecretName) (Secret, error) { return Secret{}, nil }
func (none) SaveSecret(context.Context, int64, Sealed) error    { return ErrOff }
func (none) Reseal(context.Context, Secret, Secret) error       { return ErrOff }
func (none) RemoveSecret(context.Context, SecretName) error     { return nil }
func (none) SealedOtherwise(context.Context, string, SecretName, int) ([]Secret, error) {
	return nil, nil
}
func (none) SealedKeys(context.Context) (map[string]int, error) { return nil, nil }

func (none) Consent(context.Context, string) (Consent, error)         { return Consent{}, nil }
func (none) LostConsents(context.Context) (map[string]Consent, error) { return nil, nil }
func (none) LoseConsent(context.Context, string) error                { return ErrOff }
func (none) NoticeDelivered(context.Context, string) error            { return ErrOff }
func (none) RegainConsent(context.Context, string) error              { return nil }
func (none) Invite(context.Context, Invitation) error                 { return ErrOff }
func (none) Invitation(context.Context, TokenHash) (Invitation, error) {
	return Invitation{}, ErrNotFound
}
func (none) UseInvitation(context.Context, TokenHash) (Invitation, error) {
	return Invitation{}, ErrNotFound
}
