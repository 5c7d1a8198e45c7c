//! The tables, and how the database is opened.

use rusqlite::Connection;

use crate::StoreError;

/// Name of the database in its folder.
pub(crate) const FILE: &str = "responses.sqlite";

/// Of the tables below. A later version adds its steps to [`prepare`].
const VERSION: i64 = 1;

/// `expires_at` is null for what never expires. `is_over` repeats what the log's last entry says, for the index.
const TABLES: &str = "
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        is_over INTEGER NOT NULL,
        background INTEGER NOT NULL,
        previous TEXT,
        head TEXT NOT NULL,
        input TEXT NOT NULL
    ) STRICT;
    CREATE INDEX responses_by_expiry ON responses (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX responses_unfinished ON responses (id) WHERE is_over = 0;
    CREATE TABLE events (
        response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (response, number)
    ) STRICT, WITHOUT ROWID;
";

/// Sets the connection up and makes the tables if they are not there.
pub(crate) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    // With a write-ahead log, NORMAL loses nothing when a process is killed; a power cut may take the last commits with
    // it, never the database.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Deleted means gone, and not only out of sight.
    connection.pragma_update(None, "secure_delete", true)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        0 => {
            connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?
        }
        VERSION => {}
        found => return Err(StoreError::Newer { found, known: VERSION }),
    }
    Ok(())
}
