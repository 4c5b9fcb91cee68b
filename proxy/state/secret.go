package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Secrets are sealed before they come here, and opened elsewhere: what is kept
// tells nobody anything without the key.
type Secrets interface {
	// Secret reads a secret; one that is not there is the zero Secret.
	Secret(ctx context.Context, name SecretName) (Secret, error)

	// SaveSecret makes s the current generation of its secret, and the one
	// before it the former. after is the version that s.Version, which must be
	// higher, follows; 0 if there was none. ErrConflict says that it does not.
	SaveSecret(ctx context.Context, after int64, s Sealed) error

	// Reseal replaces a secret by the same generations of it under another
	// key. ErrConflict says that it is not what it was any more.
	Reseal(ctx context.Context, was, is Secret) error

	// RemoveSecret removes a secret, if there is one.
	RemoveSecret(ctx context.Context, name SecretName) error

	// SealedOtherwise reads at most limit secrets of which a generation is
	// sealed under another key than the one named, in the order of their
	// names, beginning behind the name after.
	SealedOtherwise(ctx context.Context, key string, after SecretName, limit int) ([]Secret, error)

	// SealedKeys counts the secrets of which a generation is sealed under a
	// key, for each key.
	SealedKeys(ctx context.Context) (map[string]int, error)
}

// A SecretName says whose secret, and what it is for.
type SecretName struct{ Account, Purpose string }

// Sealed is one generation of a secret.
type Sealed struct {
	Name    SecretName
	Version int64 // rises; 0: there is no such generation
	Key     string
	Data    []byte
}

// A Secret is the two last generations of one.
type Secret struct{ Current, Former Sealed }

const (
	secretColumns = `account, purpose, version, key, sealed, former_version, former_key, former_sealed`
	secretQuery   = `SELECT ` + secretColumns + ` FROM secret WHERE account = ? AND purpose = ?`
)

// Secret implements Secrets.
func (s *store) Secret(ctx context.Context, name SecretName) (Secret, error) {
	secret, err := scanSecret(s.asked.secret.QueryRowContext(ctx, name.Account, name.Purpose))
	if errors.Is(err, sql.ErrNoRows) {
		return Secret{}, nil
	}
	if err != nil {
		return Secret{}, fmt.Errorf("read a secret: %w", err)
	}
	return secret, nil
}

func scanSecret(row interface{ Scan(...any) error }) (Secret, error) {
	var c, f Sealed
	err := row.Scan(&c.Name.Account, &c.Name.Purpose, &c.Version, &c.Key, &c.Data, &f.Version, &f.Key, &f.Data)
	if f.Version == 0 {
		return Secret{Current: c}, err
	}
	f.Name = c.Name
	return Secret{c, f}, err
}

// SaveSecret implements Secrets.
func (s *store) SaveSecret(ctx context.Context, after int64, sealed Sealed) error {
	if sealed.Version <= after {
		return fmt.Errorf("write a secret: version %d cannot follow %d", sealed.Version, after)
	}
	err := s.update(ctx, func(tx *sql.Tx) error {
		if after == 0 {
			return insertSecrets(ctx, tx, []Sealed{sealed})
		}
		return oneRow(tx.ExecContext(ctx, `UPDATE secret SET former_version = version, former_key = key, former_sealed = sealed,
				version = ?, key = ?, sealed = ?
			WHERE account = ? AND purpose = ? AND version = ?`,
			sealed.Version, sealed.Key, notNull(sealed.Data), sealed.Name.Account, sealed.Name.Purpose, after))(ErrConflict)
	})
	if err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	return nil
}

// insertSecrets adds secrets of which there is no generation yet.
func insertSecrets(ctx context.Context, tx *sql.Tx, all []Sealed) error {
	for _, s := range all {
		err := oneRow(tx.ExecContext(ctx, `INSERT INTO secret (account, purpose, version, key, sealed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			s.Name.Account, s.Name.Purpose, s.Version, s.Key, notNull(s.Data)))(ErrConflict)
		if err != nil {
			return err
		}
	}
	return nil
}

// Reseal implements Secrets.
func (s *store) Reseal(ctx context.Context, was, is Secret) error {
	c, f := is.Current, is.Former
	err := s.update(ctx, func(tx *sql.Tx) error {
		return oneRow(tx.ExecContext(ctx, `UPDATE secret SET key = ?, sealed = ?, former_key = ?, former_sealed = ?
			WHERE account = ? AND purpose = ? AND version = ? AND sealed = ? AND former_version = ? AND former_sealed = ?`,
			c.Key, notNull(c.Data), f.Key, notNull(f.Data), was.Current.Name.Account, was.Current.Name.Purpose,
			was.Current.Version, notNull(was.Current.Data), was.Former.Version, notNull(was.Former.Data)))(ErrConflict)
	})
	if err != nil {
		return fmt.Errorf("seal a secret anew: %w", err)
	}
	return nil
}

// RemoveSecret implements Secrets.
func (s *store) RemoveSecret(ctx context.Context, name SecretName) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM secret WHERE account = ? AND purpose = ?`, name.Account, name.Purpose)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove a secret: %w", err)
	}
	return nil
}

// SealedOtherwise implements Secrets.
func (s *store) SealedOtherwise(ctx context.Context, key string, after SecretName, limit int) ([]Secret, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+secretColumns+` FROM secret
		WHERE (account, purpose) > (?, ?) AND (key <> ? OR former_version > 0 AND former_key <> ?3)
		ORDER BY account, purpose LIMIT ?`, after.Account, after.Purpose, key, limit)
	return all(rows, err, "read secrets", func(rows *sql.Rows) (Secret, error) { return scanSecret(rows) })
}

// SealedKeys implements Secrets.
func (s *store) SealedKeys(ctx context.Context) (map[string]int, error) {
	type count struct {
		key string
		n   int
	}
	rows, err := s.read.QueryContext(ctx, `SELECT key, count(*)
		FROM (SELECT key, rowid FROM secret UNION SELECT former_key, rowid FROM secret WHERE former_version > 0) GROUP BY key`)
	counts, err := all(rows, err, "read the keys of secrets", func(rows *sql.Rows) (c count, err error) {
		err = rows.Scan(&c.key, &c.n)
		return c, err
	})
	if err != nil {
		return nil, err
	}
	found := make(map[string]int, len(counts))
	for _, c := range counts {
		found[c.key] = c.n
	}
	return found, nil
}
