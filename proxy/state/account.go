package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Accounts are those that commands and invitations made; the configuration has
// others. Names are kept as they are given: whoever folds them folds them first.
type Accounts interface {
	// Account reads an account, or is ErrNotFound.
	Account(ctx context.Context, name string) (Account, error)

	// ListAccounts reads at most limit accounts in the order of their names,
	// beginning behind the name after.
	ListAccounts(ctx context.Context, after string, limit int) ([]Account, error)

	// AddAccount makes an account with its passwords and secrets, all of it or
	// nothing. ErrExists says that the name is taken. What an earlier account
	// of that name may have left is gone.
	AddAccount(ctx context.Context, a Account, passwords []ClientPassword, secrets []Sealed) error

	// SetAccount changes an account if it is still at version a.Version, and
	// else is ErrConflict.
	SetAccount(ctx context.Context, a Account) error

	// RemoveAccount removes an account and whatever is kept of it here but its
	// ledger and its removals. ErrNotFound says that there was nothing.
	RemoveAccount(ctx context.Context, name string) error

	// ClientPasswords reads the passwords of an account, oldest first.
	ClientPasswords(ctx context.Context, account string) ([]ClientPassword, error)

	// AddClientPassword adds a password, and what of it is sealed. ErrExists
	// says that the account has one with this label, ErrNotFound that there is
	// no such account.
	AddClientPassword(ctx context.Context, p ClientPassword, secrets []Sealed) error

	// RemoveClientPassword removes a password and the secret that is named like
	// ClearPassword of its label, or is ErrNotFound.
	RemoveClientPassword(ctx context.Context, account, label string) error

	// NoteUse notes when passwords were used last, if they are still there.
	NoteUse(ctx context.Context, uses []Use) error

	// Seed returns 32 random octets that are this state's own for ever.
	Seed(ctx context.Context) ([]byte, error)
}

// An Account is whose mail is where. It logs in at postern with a password of
// its own, and postern at the upstream with its credential.
type Account struct {
	Name       string
	Version    int64 // 1 when it is new; each change adds 1
	Upstream   string
	Login      string // its name at the upstream, perhaps a template
	Credential string // a word of those who make accounts
	Disabled   bool
	Created    time.Time
}

// A ClientPassword is what checks one of the passwords that an account's clients
// log in with.
type ClientPassword struct {
	Account   string
	Label     string // what it is for; unique in the account
	Kind      string // a word of those who make passwords
	Verifier  []byte
	StoredKey []byte // RFC 5802 section 3; empty for a password that SCRAM cannot use
	ServerKey []byte
	Networks  []netip.Prefix // where it is good; empty is everywhere
	Created   time.Time
	Used      time.Time // zero: never
}

// A Use is a login by a password.
type Use struct {
	Account, Label string
	At             time.Time
}

// ClearPassword names the secret that is the text of a client password, for the
// mechanisms that cannot do without.
func ClearPassword(account, label string) SecretName {
	return SecretName{account, "client-password/" + label}
}

const seedOctets = 32

// Seed implements Accounts.
func (s *store) Seed(ctx context.Context) ([]byte, error) {
	var seed []byte
	err := s.read.QueryRowContext(ctx, `SELECT seed FROM seed`).Scan(&seed)
	if err == nil && len(seed) != seedOctets {
		err = fmt.Errorf("%w: seed of %d octets", ErrDamaged, len(seed))
	}
	if err != nil {
		return nil, fmt.Errorf("read the seed: %w", err)
	}
	return seed, nil
}

const (
	accountColumns = `name, version, upstream, login, credential, disabled, created`
	accountQuery   = `SELECT ` + accountColumns + ` FROM account WHERE name = ?`
	passwordsQuery = `SELECT label, kind, verifier, stored_key, server_key, networks, created, used FROM client_password
		WHERE account = ? ORDER BY created, label`
)

// Account implements Accounts.
func (s *store) Account(ctx context.Context, name string) (Account, error) {
	a, err := scanAccount(s.asked.account.QueryRowContext(ctx, name))
	if errors.Is(err, sql.ErrNoRows) {
		return Account{}, fmt.Errorf("account: %w", ErrNotFound)
	}
	if err != nil {
		return Account{}, fmt.Errorf("read an account: %w", err)
	}
	return a, nil
}

func scanAccount(row interface{ Scan(...any) error }) (Account, error) {
	var a Account
	var created int64
	err := row.Scan(&a.Name, &a.Version, &a.Upstream, &a.Login, &a.Credential, &a.Disabled, &created)
	a.Created = time.Unix(0, created)
	return a, err
}

// ListAccounts implements Accounts.
func (s *store) ListAccounts(ctx context.Context, after string, limit int) ([]Account, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+accountColumns+` FROM account WHERE name > ? ORDER BY name LIMIT ?`, after, limit)
	return all(rows, err, "read accounts", func(rows *sql.Rows) (Account, error) { return scanAccount(rows) })
}

// all reads every row that a query found.
func all[T any](rows *sql.Rows, err error, what string, scan func(*sql.Rows) (T, error)) ([]T, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer rows.Close()
	var found []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		found = append(found, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return found, nil
}

// AddAccount implements Accounts.
func (s *store) AddAccount(ctx context.Context, a Account, passwords []ClientPassword, secrets []Sealed) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		err := oneRow(tx.ExecContext(ctx, `INSERT INTO account (`+accountColumns+`) VALUES (?, 1, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			a.Name, a.Upstream, a.Login, a.Credential, a.Disabled, s.now().UnixNano()))(ErrExists)
		if err != nil {
			return err
		}
		if _, err := forgetAccount(ctx, tx, a.Name); err != nil {
			return err
		}
		for _, p := range passwords {
			if err := s.insertPassword(ctx, tx, p); err != nil {
				return err
			}
		}
		return insertSecrets(ctx, tx, secrets)
	})
	if err != nil {
		return fmt.Errorf("add an account: %w", err)
	}
	return nil
}

// oneRow returns what makes missing the error of a statement that changed nothing.
func oneRow(result sql.Result, err error) func(missing error) error {
	return func(missing error) error {
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, missing)
		}
		return nil
	}
}

// SetAccount implements Accounts.
func (s *store) SetAccount(ctx context.Context, a Account) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		return oneRow(tx.ExecContext(ctx, `UPDATE account SET version = version + 1, upstream = ?, login = ?, credential = ?, disabled = ?
			WHERE name = ? AND version = ?`, a.Upstream, a.Login, a.Credential, a.Disabled, a.Name, a.Version))(ErrConflict)
	})
	if err != nil {
		return fmt.Errorf("change an account: %w", err)
	}
	return nil
}

// RemoveAccount implements Accounts.
func (s *store) RemoveAccount(ctx context.Context, name string) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		forgotten, err := forgetAccount(ctx, tx, name)
		if err != nil {
			return err
		}
		err = oneRow(tx.ExecContext(ctx, `DELETE FROM account WHERE name = ?`, name))(ErrNotFound)
		if forgotten > 0 && errors.Is(err, ErrNotFound) {
			return nil // an account of the configuration, or of a former one
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove an account: %w", err)
	}
	return nil
}

// forgetAccount drops what does not refer to the table of accounts.
func forgetAccount(ctx context.Context, tx *sql.Tx, name string) (forgotten int64, err error) {
	for _, table := range []string{"secret", "consent", "invitation"} {
		result, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE account = ?`, name)
		if err != nil {
			return 0, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return 0, err
		}
		forgotten += n
	}
	return forgotten, nil
}

// ClientPasswords implements Accounts.
func (s *store) ClientPasswords(ctx context.Context, account string) ([]ClientPassword, error) {
	rows, err := s.asked.passwords.QueryContext(ctx, account)
	return all(rows, err, "read client passwords", func(rows *sql.Rows) (ClientPassword, error) { return scanPassword(rows, account) })
}

func scanPassword(rows *sql.Rows, account string) (ClientPassword, error) {
	p := ClientPassword{Account: account}
	var networks string
	var created, used int64
	err := rows.Scan(&p.Label, &p.Kind, &p.Verifier, &p.StoredKey, &p.ServerKey, &networks, &created, &used)
	if err != nil {
		return p, err
	}
	p.Created = time.Unix(0, created)
	if used > 0 {
		p.Used = time.Unix(0, used)
	}
	for word := range strings.FieldsSeq(networks) {
		network, err := netip.ParsePrefix(word)
		if err != nil { // never taken for none, which is everywhere
			return p, fmt.Errorf("%w: networks of a client password", ErrDamaged)
		}
		p.Networks = append(p.Networks, network)
	}
	return p, nil
}

// AddClientPassword implements Accounts.
func (s *store) AddClientPassword(ctx context.Context, p ClientPassword, secrets []Sealed) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account WHERE name = ?`, p.Account).Scan(&there); err != nil {
			return err
		}
		if there == 0 {
			return ErrNotFound
		}
		if err := s.insertPassword(ctx, tx, p); err != nil {
			return err
		}
		return insertSecrets(ctx, tx, secrets)
	})
	if err != nil {
		return fmt.Errorf("add a client password: %w", err)
	}
	return nil
}

func (s *store) insertPassword(ctx context.Context, tx *sql.Tx, p ClientPassword) error {
	networks := make([]string, len(p.Networks))
	for i, n := range p.Networks {
		networks[i] = n.String()
	}
	return oneRow(tx.ExecContext(ctx, `INSERT INTO client_password (account, label, kind, verifier, stored_key, server_key, networks, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, p.Account, p.Label, p.Kind, notNull(p.Verifier),
		notNull(p.StoredKey), notNull(p.ServerKey), strings.Join(networks, " "), s.now().UnixNano()))(ErrExists)
}

// notNull is b as a value that is empty where b is nil.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// RemoveClientPassword implements Accounts.
func (s *store) RemoveClientPassword(ctx context.Context, account, label string) error {
	clear := ClearPassword(account, label)
	err := s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM secret WHERE account = ? AND purpose = ?`, clear.Account, clear.Purpose); err != nil {
			return err
		}
		return oneRow(tx.ExecContext(ctx, `DELETE FROM client_password WHERE account = ? AND label = ?`, account, label))(ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("remove a client password: %w", err)
	}
	return nil
}

// NoteUse implements Accounts.
func (s *store) NoteUse(ctx context.Context, uses []Use) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		for _, u := range uses {
			at := u.At.UnixNano()
			if _, err := tx.ExecContext(ctx, `UPDATE client_password SET used = ? WHERE account = ? AND label = ? AND used < ?`,
				at, u.Account, u.Label, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note the use of client passwords: %w", err)
	}
	return nil
}
