//! Responses: made, added to, read, deleted, swept away.

use candlewick_protocol::{Event, Failure, LoggedEvent, ResponseRecord, StoredResponse};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::{Store, StoreError};

/// Most responses that one may go on from: far more than any context holds, and an end to what one request can read.
const CHAIN_LENGTH_MAX: usize = 10_000;

impl Store {
    /// Keeps a response, with what has happened so far. Those it goes on from will not expire before it does: a
    /// conversation lasts as long as its latest turn.
    pub fn create(
        &mut self,
        record: &ResponseRecord,
        log: &[LoggedEvent],
        expires_at: Option<u64>,
    ) -> Result<(), StoreError> {
        let is_over = log.last().is_some_and(LoggedEvent::is_last);
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO responses (id, created_at, expires_at, is_over, background, previous, head, input)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                record.id,
                signed(record.created_at),
                expires_at.map(signed),
                is_over,
                record.background,
                record.previous,
                serde_json::to_string(&record.head)?,
                serde_json::to_string(&record.input)?,
            ],
        )?;
        insert(&transaction, &record.id, 0, log)?;
        if let Some(previous) = &record.previous {
            keep_chain(&transaction, previous, expires_at)?;
        }
        Ok(transaction.commit()?)
    }

    /// Adds to a response's log, of which `first` entries are there already.
    pub fn append(&mut self, id: &str, first: usize, entries: &[LoggedEvent]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        insert(&transaction, id, first, entries)?;
        if entries.last().is_some_and(LoggedEvent::is_last) {
            transaction.execute("UPDATE responses SET is_over = 1 WHERE id = ?1", [id])?;
        }
        Ok(transaction.commit()?)
    }

    /// A response, if it is there and has not expired.
    pub fn read(&self, id: &str, now: u64) -> Result<Option<StoredResponse>, StoreError> {
        let mut find = self.connection.prepare(
            "SELECT id, created_at, background, previous, head, input FROM responses
             WHERE id = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?;
        let Some(found) = find.query_row(params![id, signed(now)], columns).optional()? else {
            return Ok(None);
        };
        let (id, created_at, background, previous, head, input) = found;
        let log = self.log(&id)?;
        let record = ResponseRecord {
            id,
            created_at,
            background,
            previous,
            head: serde_json::from_str(&head)?,
            input: serde_json::from_str(&input)?,
        };
        Ok(Some(StoredResponse { record, log }))
    }

    /// A response and all that it goes on from, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Missing`] with the first that is not there, or that is too far back.
    pub fn chain(&self, id: &str, now: u64) -> Result<Vec<StoredResponse>, StoreError> {
        let mut chain = Vec::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next.take() {
            let stored = if chain.len() < CHAIN_LENGTH_MAX { self.read(&id, now)? } else { None };
            let stored = stored.ok_or(StoreError::Missing(id))?;
            next = stored.record.previous.clone();
            chain.push(stored);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Deletes a response. Returns whether it was there.
    pub fn delete(&mut self, id: &str, now: u64) -> Result<bool, StoreError> {
        let deleted = self.connection.execute(
            "DELETE FROM responses WHERE id = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
            params![id, signed(now)],
        )?;
        Ok(deleted > 0)
    }

    /// Ends every response that has not had its last word with this failure. Returns how many there were.
    pub fn end_unfinished(&mut self, failure: &Failure, now: u64) -> Result<usize, StoreError> {
        let last = [LoggedEvent { at: now, event: Event::Failed(failure.clone()) }];
        let transaction = self.connection.transaction()?;
        let unfinished: Vec<(String, usize)> = {
            let mut find = transaction.prepare(
                "SELECT id, (SELECT COUNT(*) FROM events WHERE response = id) FROM responses WHERE is_over = 0",
            )?;
            let rows = find.query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?) as usize)))?;
            rows.collect::<Result<_, _>>()?
        };
        for (id, num_entries) in &unfinished {
            insert(&transaction, id, *num_entries, &last)?;
        }
        transaction.execute("UPDATE responses SET is_over = 1 WHERE is_over = 0", [])?;
        transaction.commit()?;
        Ok(unfinished.len())
    }

    /// Deletes what has expired. Returns how many there were.
    pub fn sweep(&mut self, now: u64) -> Result<usize, StoreError> {
        let swept = self.connection.execute(
            "DELETE FROM responses WHERE expires_at IS NOT NULL AND expires_at <= ?1",
            [signed(now)],
        )?;
        Ok(swept)
    }

    fn log(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError> {
        let mut find =
            self.connection.prepare("SELECT at, event FROM events WHERE response = ?1 ORDER BY number")?;
        let rows = find.query_map([id], |row| Ok((unsigned(row.get(0)?), row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (at, event) = row?;
            Ok(LoggedEvent { at, event: serde_json::from_str(&event)? })
        })
        .collect()
    }
}

type Columns = (String, u64, bool, Option<String>, String, String);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, unsigned(row.get(1)?), row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn insert(
    transaction: &Transaction<'_>,
    id: &str,
    first: usize,
    entries: &[LoggedEvent],
) -> Result<(), StoreError> {
    let mut insert =
        transaction.prepare("INSERT INTO events (response, number, at, event) VALUES (?1, ?2, ?3, ?4)")?;
    for (offset, entry) in entries.iter().enumerate() {
        let event = serde_json::to_string(&entry.event)?;
        insert.execute(params![id, signed((first + offset) as u64), signed(entry.at), event])?;
    }
    Ok(())
}

/// Lets a response and its chain live until `expires_at` at least.
fn keep_chain(
    transaction: &Transaction<'_>,
    newest: &str,
    expires_at: Option<u64>,
) -> Result<(), StoreError> {
    transaction.execute(
        "WITH RECURSIVE chain (id, previous) AS (
             SELECT id, previous FROM responses WHERE id = ?1
             UNION
             SELECT older.id, older.previous FROM responses AS older JOIN chain ON older.id = chain.previous
         )
         UPDATE responses SET expires_at = ?2
         WHERE expires_at IS NOT NULL AND (?2 IS NULL OR expires_at < ?2) AND id IN (SELECT id FROM chain)",
        params![newest, expires_at.map(signed)],
    )?;
    Ok(())
}

/// SQLite's integers are signed; seconds and counts stay far below.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
