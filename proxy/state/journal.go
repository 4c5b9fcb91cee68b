package state

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/upstream"
)

// A journal is the upstream.Journal of one upstream.
type journal struct {
	*store
	upstream string
}

func (j journal) Begin(ctx context.Context, intent upstream.Intent) (id int64, err error) {
	err = j.update(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO intent (upstream, account, session, begun, policy, mailbox, validity, names)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
			j.upstream, intent.Account, intent.Session, j.now().UnixNano(),
			intent.Policy, intent.Mailbox, intent.Validity, intent.Names).Scan(&id)
	})
	if err != nil {
		return 0, fmt.Errorf("write down the intent to remove: %w", err)
	}
	return id, nil
}

func (j journal) End(ctx context.Context, id int64, removed []upstream.Removal) error {
	err := j.update(ctx, func(tx *sql.Tx) error {
		if err := j.strike(ctx, tx, id, len(removed) > 0); err != nil {
			return err
		}
		for some := range slices.Chunk(removed, rowsAtOnce) {
			if err := insertRemovals(ctx, tx, id, some); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the outcome of a removal: %w", err)
	}
	return nil
}

// rowsAtOnce is how many rows one statement inserts: a statement costs more
// than a row of it.
const rowsAtOnce = 100

func insertRemovals(ctx context.Context, tx *sql.Tx, id int64, removed []upstream.Removal) error {
	var args []any
	for _, r := range removed {
		args = append(args, id, r.Name, r.UIDL, r.Size, r.Kept.Mailbox, r.Kept.Validity, r.Kept.Name)
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO removal (intent, name, uidl, size, kept_mailbox, kept_validity, kept_name)
		VALUES (?, ?, ?, ?, ?, ?, ?)`+strings.Repeat(`, (?, ?, ?, ?, ?, ?, ?)`, len(removed)-1), args...)
	return err
}

// strike ends a pending intent. It stays only if something hangs on it.
func (j journal) strike(ctx context.Context, tx *sql.Tx, id int64, keep bool) error {
	query, args := `DELETE FROM intent WHERE id = ? AND upstream = ? AND ended IS NULL`, []any{id, j.upstream}
	if keep {
		query = `UPDATE intent SET ended = ?, names = '' WHERE id = ? AND upstream = ? AND ended IS NULL`
		args = append([]any{j.now().UnixNano()}, args...)
	}
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("intent %d: %w", id, errNoIntent)
	}
	return nil
}

const pendingQuery = `SELECT id, session, begun, policy, mailbox, validity, names FROM intent
	WHERE upstream = ? AND account = ? AND ended IS NULL ORDER BY id`

func (j journal) Pending(ctx context.Context, account string) ([]upstream.Intent, error) {
	rows, err := j.asked.pending.QueryContext(ctx, j.upstream, account)
	if err != nil {
		return nil, fmt.Errorf("read pending removals: %w", err)
	}
	defer rows.Close()
	var found []upstream.Intent
	for rows.Next() {
		i := upstream.Intent{Account: account}
		var begun int64
		if err := rows.Scan(&i.ID, &i.Session, &begun, &i.Policy, &i.Mailbox, &i.Validity, &i.Names); err != nil {
			return nil, fmt.Errorf("read pending removals: %w", err)
		}
		i.At = time.Unix(0, begun)
		found = append(found, i)
	}
	return found, rows.Err()
}

// Removals implements Store.
func (s *store) Removals(ctx context.Context, q Query) ([]Removed, error) {
	where, args := q.conditions()
	rows, err := s.read.QueryContext(ctx, `SELECT r.id, i.upstream, i.account, i.session, i.ended, i.policy, i.mailbox, i.validity,
			r.name, r.uidl, r.size, r.kept_mailbox, r.kept_validity, r.kept_name, r.fate, r.fate_at
		FROM removal r JOIN intent i ON i.id = r.intent
		WHERE `+where+` ORDER BY r.id LIMIT ?`, args...)
	if err != nil {
		return nil, fmt.Errorf("read removals: %w", err)
	}
	defer rows.Close()
	var found []Removed
	for rows.Next() {
		r, err := scanRemoved(rows)
		if err != nil {
			return nil, fmt.Errorf("read removals: %w", err)
		}
		found = append(found, r)
	}
	return found, rows.Err()
}

// conditions turns a query into a WHERE clause and its parameters, the limit last.
func (q Query) conditions() (where string, args []any) {
	terms := []string{"r.id > ?"}
	args = []any{q.After}
	add := func(term string, arg any) {
		terms = append(terms, term)
		args = append(args, arg)
	}
	if q.Upstream != "" {
		add("i.upstream = ?", q.Upstream)
	}
	if q.Account != "" {
		add("i.account = ?", q.Account)
	}
	if !q.Since.IsZero() {
		add("i.ended >= ?", q.Since.UnixNano())
	}
	if !q.Before.IsZero() {
		add("i.ended < ?", q.Before.UnixNano())
	}
	if q.Kept {
		terms = append(terms, "r.fate = '' AND r.kept_mailbox <> ''")
	}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	return "i.ended IS NOT NULL AND " + strings.Join(terms, " AND "), append(args, q.Limit)
}

func scanRemoved(rows *sql.Rows) (Removed, error) {
	var r Removed
	var ended int64
	var settled sql.NullInt64
	err := rows.Scan(&r.ID, &r.Upstream, &r.Account, &r.Session, &ended, &r.Policy, &r.Mailbox, &r.Validity,
		&r.Name, &r.UIDL, &r.Size, &r.Kept.Mailbox, &r.Kept.Validity, &r.Kept.Name, &r.Fate, &settled)
	r.At = time.Unix(0, ended)
	if settled.Valid {
		r.FateAt = time.Unix(0, settled.Int64)
	}
	return r, err
}

// Settle implements Store.
func (s *store) Settle(ctx context.Context, fate Fate, ids ...int64) error {
	if fate != Undone && fate != Purged {
		return fmt.Errorf("settle removals as %q: no such fate", fate)
	}
	err := s.update(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `UPDATE removal SET fate = ?, fate_at = ? WHERE id = ? AND fate = ''`,
				string(fate), s.now().UnixNano(), id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle removals as %s: %w", fate, err)
	}
	return nil
}

// pruneAtOnce bounds one transaction of the pruning, which others wait for.
const pruneAtOnce = 500

// prune drops removals and intents that are older than the retention.
func (s *store) prune(ctx context.Context) error {
	cutoff := s.now().Add(-s.options.Retention).UnixNano()
	for {
		var dropped int64
		err := s.update(ctx, func(tx *sql.Tx) error {
			result, err := tx.ExecContext(ctx, `DELETE FROM intent WHERE id IN (SELECT id FROM intent WHERE begun < ? LIMIT ?)`, cutoff, pruneAtOnce)
			if err != nil {
				return err
			}
			dropped, err = result.RowsAffected()
			return err
		})
		if err != nil || dropped < pruneAtOnce {
			return err
		}
	}
}
