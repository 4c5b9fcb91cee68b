package state

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const ledgerQuery = `SELECT version, head FROM ledger WHERE account = ?`

// Ledger implements Store.
func (s *store) Ledger(ctx context.Context, account string) (Ledger, error) {
	var l Ledger
	err := s.asked.ledger.QueryRowContext(ctx, account).Scan(&l.Version, &l.Head)
	if errors.Is(err, sql.ErrNoRows) {
		return Ledger{}, nil
	}
	if err != nil {
		return Ledger{}, fmt.Errorf("read a UIDL ledger: %w", err)
	}
	if l.Head, err = unseal(l.Head, account, headID); err != nil {
		return Ledger{}, fmt.Errorf("head of a UIDL ledger: %w", err)
	}
	return l, nil
}

// Segments implements Store.
func (s *store) Segments(ctx context.Context, account string, ids []int64) ([][]byte, error) {
	found := make([][]byte, len(ids))
	for i, id := range ids {
		var data []byte
		err := s.read.QueryRowContext(ctx, `SELECT data FROM segment WHERE account = ? AND id = ?`, account, id).Scan(&data)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("segment %d of a UIDL ledger: %w", id, ErrConflict)
		}
		if err != nil {
			return nil, fmt.Errorf("read a UIDL ledger: %w", err)
		}
		if found[i], err = unseal(data, account, id); err != nil {
			return nil, fmt.Errorf("segment %d of a UIDL ledger: %w", id, err)
		}
	}
	return found, nil
}

// SaveLedger implements Store.
func (s *store) SaveLedger(ctx context.Context, account string, c LedgerChange) (int64, error) {
	err := s.update(ctx, func(tx *sql.Tx) error {
		if err := advance(ctx, tx, account, c); err != nil {
			return err
		}
		for _, p := range c.Put {
			if _, err := tx.ExecContext(ctx, `INSERT INTO segment (account, id, data) VALUES (?, ?, ?)`,
				account, p.ID, seal(p.Data, account, p.ID)); err != nil {
				return err
			}
		}
		for _, id := range c.Drop {
			if _, err := tx.ExecContext(ctx, `DELETE FROM segment WHERE account = ? AND id = ?`, account, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("write a UIDL ledger: %w", err)
	}
	return c.Version + 1, nil
}

// advance replaces the head if it is still at the version that c started from.
func advance(ctx context.Context, tx *sql.Tx, account string, c LedgerChange) error {
	query := `UPDATE ledger SET head = ?, version = version + 1 WHERE account = ? AND version = ?`
	if c.Version == 0 {
		query = `INSERT INTO ledger (head, account, version) VALUES (?, ?, ? + 1) ON CONFLICT DO NOTHING`
	}
	result, err := tx.ExecContext(ctx, query, seal(c.Head, account, headID), account, c.Version)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrConflict)
	}
	return nil
}

// headID stands for a ledger's head where a segment has its ID.
const headID = -1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum covers also what the data belongs to, so that misplaced data is noticed.
func sum(data []byte, owner string, id int64) uint32 {
	c := crc32.Update(0, castagnoli, []byte(owner))
	c = crc32.Update(c, castagnoli, binary.LittleEndian.AppendUint64(nil, uint64(id)))
	return crc32.Update(c, castagnoli, data)
}

// seal returns data with its checksum after it.
func seal(data []byte, owner string, id int64) []byte {
	sealed := make([]byte, 0, len(data)+4)
	return binary.LittleEndian.AppendUint32(append(sealed, data...), sum(data, owner, id))
}

// unseal returns the data of what seal made, or ErrDamaged.
func unseal(sealed []byte, owner string, id int64) ([]byte, error) {
	n := len(sealed) - 4
	if n < 0 || binary.LittleEndian.Uint32(sealed[n:]) != sum(sealed[:n], owner, id) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrDamaged)
	}
	return sealed[:n:n], nil
}
