package state

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Consents tell which accounts have to ask their owner for consent again,
// because the provider takes their grant no longer.
type Consents interface {
	// Consent tells about one account; the zero Consent says that nothing is
	// missing.
	Consent(ctx context.Context, account string) (Consent, error)

	// LostConsents tells about every account that misses it, by name.
	LostConsents(ctx context.Context) (map[string]Consent, error)

	// LoseConsent notes that consent is missing from now on, unless it is
	// missing already.
	LoseConsent(ctx context.Context, account string) error

	// NoticeDelivered notes that the owner was told of it; it is ErrNotFound
	// where nothing is missing.
	NoticeDelivered(ctx context.Context, account string) error

	// RegainConsent notes that nothing is missing.
	RegainConsent(ctx context.Context, account string) error
}

// A Consent is when it was lost.
type Consent struct {
	Lost    time.Time // zero: it was not
	Noticed time.Time // when the owner was told; zero: not yet
}

// Invitations are the links by which people come to give their consent. An
// account may have several, all of which are gone when one is used.
type Invitations interface {
	// Invite adds an invitation, or makes one that is there good for longer. Of
	// one account the newest 5 are kept.
	Invite(ctx context.Context, i Invitation) error

	// Invitation reads an invitation, or is ErrNotFound where it was used or has
	// expired.
	Invitation(ctx context.Context, token TokenHash) (Invitation, error)

	// UseInvitation takes an invitation away, with all others of its account,
	// and returns it, for one of those who ask at the same time. ErrNotFound as
	// above.
	UseInvitation(ctx context.Context, token TokenHash) (Invitation, error)
}

// An Invitation is for the owner of an account.
type Invitation struct {
	Token   TokenHash
	Account string
	Created time.Time // set by Invite
	Expires time.Time
}

// A TokenHash stands for a token that is in a link: the link cannot be made
// from it.
type TokenHash [sha256.Size]byte

// Consent implements Consents.
func (s *store) Consent(ctx context.Context, account string) (Consent, error) {
	var lost, noticed int64
	err := s.read.QueryRowContext(ctx, `SELECT lost, noticed FROM consent WHERE account = ?`, account).Scan(&lost, &noticed)
	if errors.Is(err, sql.ErrNoRows) {
		return Consent{}, nil
	}
	if err != nil {
		return Consent{}, fmt.Errorf("read consent: %w", err)
	}
	return newConsent(lost, noticed), nil
}

func newConsent(lost, noticed int64) Consent {
	c := Consent{Lost: time.Unix(0, lost)}
	if noticed > 0 {
		c.Noticed = time.Unix(0, noticed)
	}
	return c
}

// LostConsents implements Consents.
func (s *store) LostConsents(ctx context.Context) (map[string]Consent, error) {
	type loss struct {
		account       string
		lost, noticed int64
	}
	rows, err := s.read.QueryContext(ctx, `SELECT account, lost, noticed FROM consent`)
	losses, err := all(rows, err, "read consents", func(rows *sql.Rows) (l loss, err error) {
		err = rows.Scan(&l.account, &l.lost, &l.noticed)
		return l, err
	})
	if err != nil {
		return nil, err
	}
	found := make(map[string]Consent, len(losses))
	for _, l := range losses {
		found[l.account] = newConsent(l.lost, l.noticed)
	}
	return found, nil
}

// LoseConsent implements Consents.
func (s *store) LoseConsent(ctx context.Context, account string) error {
	return s.changeConsent(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO consent (account, lost) VALUES (?, ?) ON CONFLICT DO NOTHING`, account, s.now().UnixNano())
		return err
	})
}

// NoticeDelivered implements Consents.
func (s *store) NoticeDelivered(ctx context.Context, account string) error {
	return s.changeConsent(ctx, func(tx *sql.Tx) error {
		return oneRow(tx.ExecContext(ctx, `UPDATE consent SET noticed = ? WHERE account = ?`, s.now().UnixNano(), account))(ErrNotFound)
	})
}

// RegainConsent implements Consents.
func (s *store) RegainConsent(ctx context.Context, account string) error {
	return s.changeConsent(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM consent WHERE account = ?`, account)
		return err
	})
}

func (s *store) changeConsent(ctx context.Context, change func(*sql.Tx) error) error {
	if err := s.update(ctx, change); err != nil {
		return fmt.Errorf("write consent: %w", err)
	}
	return nil
}

// maxInvitations of an account are kept.
const maxInvitations = 5

// Invite implements Invitations.
func (s *store) Invite(ctx context.Context, i Invitation) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO invitation (token, account, created, expires) VALUES (?, ?, ?, ?)
			ON CONFLICT (token) DO UPDATE SET created = excluded.created, expires = excluded.expires`,
			i.Token[:], i.Account, s.now().UnixNano(), i.Expires.UnixNano())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM invitation WHERE account = ? AND token NOT IN
			(SELECT token FROM invitation WHERE account = ? ORDER BY created DESC, rowid DESC LIMIT ?)`, i.Account, i.Account, maxInvitations)
		return err
	})
	if err != nil {
		return fmt.Errorf("write an invitation: %w", err)
	}
	return nil
}

// Invitation implements Invitations.
func (s *store) Invitation(ctx context.Context, token TokenHash) (Invitation, error) {
	return s.scanInvitation(token, s.read.QueryRowContext(ctx,
		`SELECT account, created, expires FROM invitation WHERE token = ? AND expires > ?`, token[:], s.now().UnixNano()))
}

// UseInvitation implements Invitations.
func (s *store) UseInvitation(ctx context.Context, token TokenHash) (i Invitation, err error) {
	err = s.update(ctx, func(tx *sql.Tx) error {
		i, err = s.scanInvitation(token, tx.QueryRowContext(ctx,
			`SELECT account, created, expires FROM invitation WHERE token = ? AND expires > ?`, token[:], s.now().UnixNano()))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM invitation WHERE account = ?`, i.Account)
		return err
	})
	return i, err
}

func (s *store) scanInvitation(token TokenHash, row *sql.Row) (Invitation, error) {
	i := Invitation{Token: token}
	var created, expires int64
	err := row.Scan(&i.Account, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return Invitation{}, fmt.Errorf("invitation: %w", ErrNotFound)
	}
	if err != nil {
		return Invitation{}, fmt.Errorf("read an invitation: %w", err)
	}
	i.Created, i.Expires = time.Unix(0, created), time.Unix(0, expires)
	return i, nil
}

// dropExpired drops the invitations that nobody can use any more.
func (s *store) dropExpired(ctx context.Context) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM invitation WHERE expires <= ?`, s.now().UnixNano())
		return err
	})
}
