-- A database as version 1 of the schema left it. Never changed.
CREATE TABLE intent (
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
) STRICT;
INSERT INTO intent VALUES (1, 'office', 'bob', 's-ended', 1750000000000000000, 1750000001000000000, 'trash', 'INBOX', '1700000000', '');
INSERT INTO intent VALUES (2, 'office', 'bob', 's-pending', 1750000002000000000, NULL, 'expunge', 'INBOX', '1700000000', '4:7');
INSERT INTO removal VALUES (1, 1, '2', '1700000000.2', 1234, '', '', '', '', NULL);
INSERT INTO removal VALUES (2, 1, '3', '1700000000.3', 99, 'Trash', '1600000000', '77', 'undone', 1750000003000000000);
INSERT INTO ledger VALUES ('bob', 3, X'6865616411126847');
INSERT INTO segment VALUES ('bob', 5, X'7365676d656e743bb8704d');
PRAGMA application_id = 1886614638;
PRAGMA user_version = 1;
