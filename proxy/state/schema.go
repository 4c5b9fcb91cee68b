package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// schema is the steps to today's durable schema: step i brings version i to
// i+1. A step that was released is never edited, only followed by another.
// Times are Unix nanoseconds.
var schema = []string{
	// An intent that ended stays as what its removals have in common.
	`CREATE TABLE intent (
		id       INTEGER PRIMARY KEY AUTOINCREMENT,
		upstream TEXT NOT NULL,
		account  TEXT NOT NULL,
		session  TEXT NOT NULL,
		begun    INTEGER NOT NULL,
		ended    INTEGER,
		policy   TEXT NOT NULL,
		mailbox  TEXT NOT NULL,
		validity TEXT NOT NULL,
		names    TEXT NOT NULL
	) STRICT;
	CREATE INDEX intent_pending ON intent (upstream, account) WHERE ended IS NULL;
	CREATE INDEX intent_account ON intent (account, ended) WHERE ended IS NOT NULL;
	CREATE INDEX intent_begun ON intent (begun);

	CREATE TABLE removal (
		id            INTEGER PRIMARY KEY AUTOINCREMENT,
		intent        INTEGER NOT NULL REFERENCES intent (id) ON DELETE CASCADE,
		name          TEXT NOT NULL,
		uidl          TEXT NOT NULL,
		size          INTEGER NOT NULL,
		kept_mailbox  TEXT NOT NULL,
		kept_validity TEXT NOT NULL,
		kept_name     TEXT NOT NULL,
		fate          TEXT NOT NULL DEFAULT '',
		fate_at       INTEGER
	) STRICT;
	CREATE INDEX removal_intent ON removal (intent);
	CREATE INDEX removal_kept ON removal (id) WHERE fate = '' AND kept_mailbox <> '';

	CREATE TABLE ledger (
		account TEXT PRIMARY KEY,
		version INTEGER NOT NULL,
		head    BLOB NOT NULL
	) STRICT;
	CREATE TABLE segment (
		account TEXT NOT NULL REFERENCES ledger (account) ON DELETE CASCADE,
		id      INTEGER NOT NULL,
		data    BLOB NOT NULL,
		PRIMARY KEY (account, id)
	) STRICT;`,

	// Secrets, consent and invitations do not refer to the table of accounts:
	// accounts of the configuration have them, too.
	`CREATE TABLE account (
		name       TEXT PRIMARY KEY,
		version    INTEGER NOT NULL,
		upstream   TEXT NOT NULL,
		login      TEXT NOT NULL,
		credential TEXT NOT NULL,
		disabled   INTEGER NOT NULL,
		created    INTEGER NOT NULL
	) STRICT;
	CREATE TABLE client_password (
		account    TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
		label      TEXT NOT NULL,
		kind       TEXT NOT NULL,
		verifier   BLOB NOT NULL,
		stored_key BLOB NOT NULL,
		server_key BLOB NOT NULL,
		networks   TEXT NOT NULL,
		created    INTEGER NOT NULL,
		used       INTEGER NOT NULL DEFAULT 0,
		PRIMARY KEY (account, label)
	) STRICT;

	CREATE TABLE secret (
		account        TEXT NOT NULL,
		purpose        TEXT NOT NULL,
		version        INTEGER NOT NULL,
		key            TEXT NOT NULL,
		sealed         BLOB NOT NULL,
		former_version INTEGER NOT NULL DEFAULT 0,
		former_key     TEXT NOT NULL DEFAULT '',
		former_sealed  BLOB NOT NULL DEFAULT X'',
		PRIMARY KEY (account, purpose)
	) STRICT;
	CREATE INDEX secret_key ON secret (key);
	CREATE INDEX secret_former_key ON secret (former_key) WHERE former_version > 0;

	CREATE TABLE consent (
		account TEXT PRIMARY KEY,
		lost    INTEGER NOT NULL,
		noticed INTEGER NOT NULL DEFAULT 0
	) STRICT;
	CREATE TABLE invitation (
		token   BLOB PRIMARY KEY,
		account TEXT NOT NULL,
		created INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT;
	CREATE INDEX invitation_account ON invitation (account);

	CREATE TABLE seed (
		id   INTEGER PRIMARY KEY CHECK (id = 1),
		seed BLOB NOT NULL
	) STRICT;
	INSERT INTO seed VALUES (1, randomblob(32));`,
}

// applicationID marks a database as postern's own, in the header of the file.
const applicationID = 0x7073746e // "pstn"

// migrate brings the schema to the last of steps, each in one transaction.
func migrate(ctx context.Context, db *sql.DB, steps []string) error {
	for {
		done, err := migrateOnce(ctx, db, steps)
		if done || err != nil {
			return err
		}
	}
}

func migrateOnce(ctx context.Context, db *sql.DB, steps []string) (done bool, err error) {
	err = inTransaction(ctx, db, func(tx *sql.Tx) error {
		version, err := schemaVersion(ctx, tx)
		if err != nil {
			return err
		}
		if version > len(steps) {
			return newer(version)
		}
		if done = version == len(steps); done {
			return nil
		}
		// PRAGMA takes no parameters.
		_, err = tx.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d",
			steps[version], applicationID, version+1))
		if err != nil {
			return fmt.Errorf("schema version %d: %w", version+1, err)
		}
		return nil
	})
	return done, err
}

// schemaVersion reads the version of the schema; 0 is a new database.
func schemaVersion(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (version int, err error) {
	var id, tables int
	for query, into := range map[string]*int{
		"PRAGMA user_version":                &version,
		"PRAGMA application_id":              &id,
		"SELECT count(*) FROM sqlite_schema": &tables,
	} {
		if err := db.QueryRowContext(ctx, query).Scan(into); err != nil {
			return 0, err
		}
	}
	if id != applicationID && (id != 0 || version != 0 || tables != 0) {
		return 0, errors.New("the database there is another program's")
	}
	return version, nil
}

func newer(version int) error {
	return fmt.Errorf("%w: schema version %d, this one knows %d. Run that version again, or restore the backup made before it",
		ErrNewer, version, len(schema))
}

// isDamage tells whether SQLite met a file that is not what it wrote.
func isDamage(err error) bool {
	return hasCode(err, sqlite3.SQLITE_CORRUPT) || hasCode(err, sqlite3.SQLITE_NOTADB)
}

// isBusy tells whether SQLite gave up waiting for another connection.
func isBusy(err error) bool { return hasCode(err, sqlite3.SQLITE_BUSY) }

// hasCode compares primary codes: extended ones carry more above.
func hasCode(err error, primary int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == primary
}
