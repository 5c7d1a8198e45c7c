//! `candlewick models`: a table of the models that need no network.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use candlewick_engine::SourceListing;

use crate::settings::Settings;
use crate::sources;

/// Prints the table.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut models: Vec<SourceListing> =
        sources::all(&settings.hub)?.iter().flat_map(|source| source.list()).collect();
    models.sort_by_key(|listing| listing.model.to_string());
    io::stdout().write_all(table(&models, SystemTime::now()).as_bytes())?;
    Ok(())
}

/// Name, context, age and commit in columns.
fn table(models: &[SourceListing], now: SystemTime) -> String {
    if models.is_empty() {
        return "no model is here; `candlewick download org/name` brings one\n".into();
    }
    let head = ["MODEL", "CONTEXT", "MODIFIED", "COMMIT"].map(String::from);
    let rows = models.iter().map(|listing| {
        let context = listing.max_model_len.map_or_else(|| "-".into(), |len| len.to_string());
        let commit = listing.commit.as_deref().map_or("-", |commit| commit.get(..8).unwrap_or(commit));
        [listing.model.to_string(), context, age(listing.modified, now), commit.into()]
    });
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    rows.iter()
        .map(|[model, context, modified, commit]| {
            format!("{model:<0$}  {context:>1$}  {modified:<2$}  {commit}\n", widths[0], widths[1], widths[2])
        })
        .collect()
}

/// How long ago, in the largest unit that fits. What is part of the program has no date.
fn age(modified: u64, now: SystemTime) -> String {
    if modified == 0 {
        return "built in".into();
    }
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
    let seconds = now.duration_since(then).map_or(0, |age| age.as_secs());
    let units = [("day", 86400), ("hour", 3600), ("minute", 60)];
    match units.iter().find(|(_, unit)| seconds >= *unit) {
        Some((name, unit)) => {
            let count = seconds / unit;
            format!("{count} {name}{} ago", if count == 1 { "" } else { "s" })
        }
        None => "just now".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let listing = |model: &str, modified, commit: Option<&str>| SourceListing {
            model: model.parse().expect("good"),
            modified,
            commit: commit.map(Into::into),
            max_model_len: Some(2048),
        };
        let models =
            [listing("org/long-name@dev", 1_000_000 - 7200, Some("0123456789")), listing("a/b", 0, None)];
        assert_eq!(
            table(&models, now),
            "MODEL              CONTEXT  MODIFIED     COMMIT\n\
             org/long-name@dev     2048  2 hours ago  01234567\n\
             a/b                   2048  built in     -\n"
        );
        assert!(table(&[], now).contains("candlewick download"));
    }

    #[test]
    fn ages_are_told_in_one_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(age(1_000_000 - 86400, now), "1 day ago");
        assert_eq!(age(1_000_000 - 59, now), "just now");
        assert_eq!(age(1_000_005, now), "just now", "a clock may be wrong");
    }
}
