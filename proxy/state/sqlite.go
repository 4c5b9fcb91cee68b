package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"postern/upstream"
)

// Options say how to open a store. Only Dir is needed.
type Options struct {
	Dir string // created where it is missing, for the owner alone

	// Serve claims the directory for this process to serve from: a second one
	// is refused. Commands leave it false and share the store with a server.
	Serve bool

	// ReadOnly opens the store for looking at it, also while a server runs.
	ReadOnly bool

	// Retention is how long the log of removals is kept; 0 means 90 days. It
	// must be longer than any grace period, since a purge finds its messages
	// there; what it does not find stays where it was kept.
	Retention time.Duration

	// CacheOctets bounds the cached listings; 0 means 1 GiB.
	CacheOctets int64

	Log *slog.Logger // nil discards
}

const (
	defaultRetention   = 90 * 24 * time.Hour
	defaultCacheOctets = 1 << 30

	// pageOctets is SQLite's page size, unless it is told otherwise.
	pageOctets = 4096

	durableFile = "state.db"
	cacheFile   = "cache.db"

	// readers bounds the connections that read beside the one that writes.
	readers = 4

	// maintenance is how often a serving store drops what is too old.
	maintenance = time.Hour
)

// A store is the Store in SQLite files.
//
// One connection writes, several read. Every write of the durable file is one
// transaction with synchronous=FULL in WAL mode, which SQLite has on disk when
// COMMIT returns (https://www.sqlite.org/pragma.html#pragma_synchronous).
type store struct {
	locks
	options Options
	log     *slog.Logger
	now     func() time.Time
	write   *sql.DB // nil if read-only
	read    *sql.DB
	asked   asked
	cache   *cache
	unclaim func() // nil unless claimed

	stop    context.CancelFunc
	working sync.WaitGroup // the maintenance, which Close waits for
}

// Open opens the store in o.Dir and brings its schema up to date. It refuses
// what it cannot trust with ErrDamaged, and never replaces a durable file. The
// caller closes the Store.
func Open(ctx context.Context, o Options) (Store, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("state in %s: %w", o.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*store, error) {
	if o.Retention == 0 {
		o.Retention = defaultRetention
	}
	if o.CacheOctets == 0 {
		o.CacheOctets = defaultCacheOctets
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &store{options: o, log: o.Log, now: time.Now}
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *store) start(ctx context.Context) (err error) {
	durable := filepath.Join(s.options.Dir, durableFile)
	if s.options.ReadOnly {
		return s.startReadOnly(ctx, durable)
	}
	if err := os.MkdirAll(s.options.Dir, 0o700); err != nil {
		return err
	}
	if s.options.Serve {
		if s.unclaim, err = claim(filepath.Join(s.options.Dir, "lock")); err != nil {
			return err
		}
	}
	if s.write, err = s.durable(ctx, durable); err != nil {
		return err
	}
	if err := sound(ctx, s.write, s.log); err != nil {
		return err
	}
	if err := migrate(ctx, s.write, schema); err != nil {
		return err
	}
	if s.read, err = connect(durable, readers, "query_only(1)"); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.cache = openCache(ctx, filepath.Join(s.options.Dir, cacheFile), s.options.CacheOctets, s.log)
	if s.options.Serve {
		ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
		s.working.Go(func() { s.maintain(ctx) })
	}
	return nil
}

func (s *store) startReadOnly(ctx context.Context, durable string) (err error) {
	if _, err := os.Stat(durable); err != nil {
		return err
	}
	if s.read, err = connect(durable, readers, "query_only(1)"); err != nil {
		return err
	}
	if err := sound(ctx, s.read, s.log); err != nil {
		return err
	}
	version, err := schemaVersion(ctx, s.read)
	switch {
	case err != nil:
		return err
	case version > len(schema):
		return newer(version)
	case version < len(schema):
		return fmt.Errorf("%w: schema version %d, this is for %d: start the server once to bring it up to date", ErrOlder, version, len(schema))
	}
	return s.prepare(ctx)
}

// asked is what every login asks, prepared once.
type asked struct{ pending, ledger, account, passwords, secret *sql.Stmt }

func (s *store) prepare(ctx context.Context) (err error) {
	for query, into := range map[string]**sql.Stmt{
		pendingQuery:   &s.asked.pending,
		ledgerQuery:    &s.asked.ledger,
		accountQuery:   &s.asked.account,
		passwordsQuery: &s.asked.passwords,
		secretQuery:    &s.asked.secret,
	} {
		if *into, err = s.read.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// durable opens the durable file for writing, and makes it where there is none.
func (s *store) durable(ctx context.Context, path string) (*sql.DB, error) {
	defer opening(s.options.Dir)()
	if err := s.present(path); err != nil {
		return nil, err
	}
	db, err := connect(path, 1, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)")
	if err != nil {
		return nil, err
	}
	if err := db.PingContext(ctx); err != nil { // in WAL mode once this returns
		return nil, errors.Join(refused(err), db.Close())
	}
	return db, nil
}

// present makes sure of a durable file that SQLite will not mistake for a new
// database: it takes a file without one whole page for one.
func (s *store) present(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.used() {
			return fmt.Errorf("%w: %s is missing beside %s. Restore it from a backup; to begin with nothing, delete that too",
				ErrDamaged, filepath.Base(path), cacheFile)
		}
		// Only its owner may read it, nor its -wal and -shm, for which SQLite
		// takes over the mode. O_EXCL: closing a database file that is open
		// elsewhere in the process would drop SQLite's POSIX locks.
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	case err != nil:
		return err
	case info.Size() < pageOctets && s.used():
		return fmt.Errorf("%w: %s is cut off. %s", ErrDamaged, filepath.Base(path), repairHint)
	}
	return os.Chmod(path, 0o600)
}

// used tells whether the directory was in use before: the cache is made only
// after the durable file is complete.
func (s *store) used() bool {
	_, err := os.Stat(filepath.Join(s.options.Dir, cacheFile))
	return err == nil
}

const repairHint = "Restore it from a backup, or save what can be saved with: sqlite3 state.db .recover | sqlite3 new.db"

// connect returns at most n connections to a file, each with these pragmas.
func connect(path string, n int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
	name := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}
	if !filepath.IsAbs(path) {
		name.Path, name.Opaque = "", (&url.URL{Path: path}).EscapedPath()
	}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// checkTime bounds the check at start, so that a large database does not keep
// a gateway down: what it holds is checked again as it is read.
const checkTime = 10 * time.Second

// sound refuses a damaged database.
func sound(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	within, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var verdict string
	err := db.QueryRowContext(within, "PRAGMA quick_check(1)").Scan(&verdict)
	switch {
	case err != nil && within.Err() != nil && ctx.Err() == nil:
		log.Info("check of the state database not finished, starting without", "after", checkTime)
		return nil
	case err != nil:
		return refused(err)
	case verdict != "ok":
		return fmt.Errorf("%w: %.200s. %s", ErrDamaged, strings.ReplaceAll(verdict, "\n", " "), repairHint)
	}
	return nil
}

// refused says what to do where err tells of damage.
func refused(err error) error {
	if isDamage(err) {
		return fmt.Errorf("%w: %w. %s", ErrDamaged, err, repairHint)
	}
	return err
}

// maintain keeps the files from growing until ctx ends.
func (s *store) maintain(ctx context.Context) {
	tick := time.NewTicker(maintenance)
	defer tick.Stop()
	for {
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old removals not dropped", "err", err)
		}
		if err := s.dropExpired(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("expired invitations not dropped", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// update runs do in one transaction that is on disk when it returns nil.
func (s *store) update(ctx context.Context, do func(*sql.Tx) error) error {
	if s.write == nil {
		return ErrReadOnly
	}
	return inTransaction(ctx, s.write, do)
}

func inTransaction(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx.Commit()
}

// ignoreDone: a transaction that an ended context rolled back needs it no more.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// Close implements Store.
func (s *store) Close() error {
	if s.stop != nil {
		s.stop()
		s.working.Wait()
	}
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.cache != nil {
		errs = append(errs, s.cache.close())
	}
	if s.unclaim != nil {
		s.unclaim()
	}
	return errors.Join(errs...)
}

// Journal implements Store.
func (s *store) Journal(name string) upstream.Journal { return journal{s, name} }
