package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// A cache keeps listings in a file of its own, which may be lost or damaged at
// any time: then it begins anew. Without a working file it keeps nothing.
type cache struct {
	path  string
	limit int64
	log   *slog.Logger

	mu     sync.Mutex // held while db is replaced or the total changes
	db     *sql.DB    // nil while there is no working file
	octets int64      // cached, about
	failed bool       // the last write failed; said once
}

// cacheVersion names the schema below. A cache of any other version is
// set aside.
const cacheVersion = 1

const cacheSchema = `CREATE TABLE listing (
	id       INTEGER PRIMARY KEY AUTOINCREMENT, -- rises with each write
	upstream TEXT NOT NULL,
	account  TEXT NOT NULL,
	name     TEXT NOT NULL,
	octets   INTEGER NOT NULL,
	data     BLOB NOT NULL,
	UNIQUE (upstream, account, name)
) STRICT`

func openCache(ctx context.Context, path string, limit int64, log *slog.Logger) *cache {
	c := &cache{path: path, limit: limit, log: log}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer opening(filepath.Dir(path))()
	err := c.open(ctx)
	if err != nil && ctx.Err() == nil && !isBusy(err) {
		log.Warn("cache of listings unreadable, beginning a new one", "err", err)
		err = c.replace(ctx)
	}
	if err != nil {
		log.Warn("no cache of listings", "err", err)
	}
	return c
}

// open opens the file as it is, creating it where it is missing.
func (c *cache) open(ctx context.Context) error {
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// With synchronous=NORMAL a power failure may take the last writes with
	// it, but does not damage the file.
	db, err := connect(c.path, readers, "journal_mode(WAL)", "synchronous(NORMAL)")
	if err != nil {
		return err
	}
	if err := c.prepare(ctx, db); err != nil {
		return errors.Join(err, db.Close())
	}
	c.db = db
	return nil
}

func (c *cache) prepare(ctx context.Context, db *sql.DB) error {
	return inTransaction(ctx, db, func(tx *sql.Tx) error {
		version, err := schemaVersion(ctx, tx)
		if err != nil {
			return err
		}
		if version == 0 {
			_, err := tx.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d",
				cacheSchema, applicationID, cacheVersion))
			return err
		}
		if version != cacheVersion {
			return fmt.Errorf("cache of version %d, not %d", version, cacheVersion)
		}
		return tx.QueryRowContext(ctx, `SELECT coalesce(sum(octets), 0) FROM listing`).Scan(&c.octets)
	})
}

// replace sets the file aside and begins a new one.
func (c *cache) replace(ctx context.Context) error {
	if c.db != nil {
		c.db.Close()
		c.db = nil
	}
	c.octets = 0
	for _, tail := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(c.path+tail, c.path+".damaged"+tail); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return c.open(ctx)
}

// database returns the file to use now, or nil.
func (c *cache) database() *sql.DB {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db
}

// Listing implements Store.
func (s *store) Listing(ctx context.Context, key ListingKey) []byte {
	if s.cache == nil {
		return nil
	}
	return s.cache.get(ctx, key)
}

// SaveListing implements Store.
func (s *store) SaveListing(ctx context.Context, key ListingKey, listing []byte) {
	if s.cache != nil {
		s.cache.put(ctx, key, listing)
	}
}

func (c *cache) get(ctx context.Context, key ListingKey) []byte {
	db := c.database()
	if db == nil {
		return nil
	}
	var data []byte
	err := db.QueryRowContext(ctx, `SELECT data FROM listing WHERE upstream = ? AND account = ? AND name = ?`,
		key.Upstream, key.Account, key.Name).Scan(&data)
	if err != nil {
		if !errors.Is(err, sql.ErrNoRows) {
			c.repair(ctx, db, err)
		}
		return nil
	}
	data, err = unseal(data, key.owner(), 0)
	if err != nil {
		return nil // the next put replaces it
	}
	return data
}

// owner is key in one string, for the checksum. No part holds a NUL.
func (k ListingKey) owner() string { return k.Upstream + "\x00" + k.Account + "\x00" + k.Name }

func (c *cache) put(ctx context.Context, key ListingKey, listing []byte) {
	db := c.database()
	if db == nil || int64(len(listing)) > c.limit {
		return
	}
	err := inTransaction(ctx, db, func(tx *sql.Tx) error { return c.insert(ctx, tx, key, seal(listing, key.owner(), 0)) })
	if err != nil {
		c.repair(ctx, db, err)
	}
	c.report(ctx, err)
}

// insert writes an entry as the newest, and makes room for it.
func (c *cache) insert(ctx context.Context, tx *sql.Tx, key ListingKey, data []byte) error {
	var old int64
	err := tx.QueryRowContext(ctx, `DELETE FROM listing WHERE upstream = ? AND account = ? AND name = ? RETURNING octets`,
		key.Upstream, key.Account, key.Name).Scan(&old)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	grown := c.grow(int64(len(data)) - old)
	for grown > c.limit {
		var freed int64
		err := tx.QueryRowContext(ctx, `DELETE FROM listing WHERE id = (SELECT min(id) FROM listing) RETURNING octets`).Scan(&freed)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return err
		}
		grown = c.grow(-freed)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO listing (upstream, account, name, octets, data) VALUES (?, ?, ?, ?, ?)`,
		key.Upstream, key.Account, key.Name, len(data), data)
	return err
}

// grow counts octets. A transaction that is rolled back leaves the count off
// by a little until the next start; it bounds a file, it accounts for nothing.
func (c *cache) grow(by int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.octets = max(0, c.octets+by)
	return c.octets
}

// repair begins a new file if err says that the one in use is damaged.
func (c *cache) repair(ctx context.Context, used *sql.DB, err error) {
	if !isDamage(err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db != used {
		return // somebody else did already
	}
	c.log.Warn("cache of listings damaged, beginning a new one", "err", err)
	if err := c.replace(context.WithoutCancel(ctx)); err != nil {
		c.log.Warn("no cache of listings", "err", err)
	}
}

// report says once that the cache cannot be written, and once that it can again.
func (c *cache) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return // the session gave up, not the cache
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed := err != nil; failed != c.failed {
		c.failed = failed
		if failed {
			c.log.Warn("listings are not cached now", "err", err)
		} else {
			c.log.Info("listings are cached again")
		}
	}
}

func (c *cache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db == nil {
		return nil
	}
	err := c.db.Close()
	c.db = nil
	return err
}
