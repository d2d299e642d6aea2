//! The database of a log.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tipple_flow::{Failure, Party};

use crate::place::Place;

/// SQLite's numbers have a sign.
pub(super) const PLACE_MAX: Place = Place::sequence(i64::MAX as u64 - 1);

/// "tipl", so that `file` and we know it.
const APPLICATION_ID: i64 = 0x7469_706c;
const FORMAT: i64 = 1;

pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join("log.sqlite")
}

/// Opens a log that is there, to be read.
pub(super) fn open(folder: &Path) -> Result<Connection, Failure> {
    let path = database(folder);
    let missing = || {
        Failure::new(
            Party::Source,
            format!(
                "there is no log in {}: make one with `tipple append log:{0}`",
                folder.display()
            ),
        )
    };
    if !path.is_file() {
        return Err(missing());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(failed(folder, "open"))?;
    connection
        .busy_timeout(BUSY)
        .map_err(failed(folder, "open"))?;
    // Its writer was killed while it made it, or is about to.
    if is_empty(&connection).map_err(failed(folder, "open"))? {
        return Err(missing());
    }
    check_format(&connection, folder)?;
    Ok(connection)
}

/// Whether nobody has made anything in it, we neither.
fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| {
        row.get(0)
    })
}

/// A checkpoint of the writer's is short.
const BUSY: std::time::Duration = std::time::Duration::from_secs(30);

/// Opens a log to be written, or makes it.
pub(super) fn create(folder: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(database(folder)).map_err(failed(folder, "open"))?;
    let look = || {
        connection.busy_timeout(BUSY)?;
        is_empty(&connection)
    };
    let is_new = look().map_err(failed(folder, "open"))?;
    if !is_new {
        check_format(&connection, folder)?;
    }
    let prepare = || {
        connection.pragma_update(None, "page_size", 32768)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // A commit is on the disk when it returns.
        connection.pragma_update(None, "synchronous", "full")
    };
    prepare().map_err(failed(folder, "open"))?;
    if is_new {
        // All of it or nothing.
        let sql = format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE life (id TEXT NOT NULL);
             INSERT INTO life VALUES (lower(hex(randomblob(16))));
             CREATE TABLE blocks (
                 first INTEGER PRIMARY KEY,
                 last INTEGER NOT NULL,
                 time_max INTEGER,
                 events_before INTEGER NOT NULL,
                 bytes_before INTEGER NOT NULL,
                 largest_before INTEGER NOT NULL,
                 events INTEGER NOT NULL,
                 bytes INTEGER NOT NULL,
                 sum BLOB NOT NULL,
                 body BLOB NOT NULL
             );
             PRAGMA user_version = {FORMAT};
             PRAGMA application_id = {APPLICATION_ID};
             COMMIT;"
        );
        connection
            .execute_batch(&sql)
            .map_err(failed(folder, "make"))?;
    }
    Ok(connection)
}

fn check_format(connection: &Connection, folder: &Path) -> Result<(), Failure> {
    let number =
        |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0));
    let found: (i64, i64) = number("application_id")
        .and_then(|id| Ok((id, number("user_version")?)))
        .map_err(failed(folder, "open"))?;
    match found {
        (APPLICATION_ID, FORMAT) => Ok(()),
        (APPLICATION_ID, version) if version > FORMAT => Err(Failure::new(
            Party::Version,
            format!(
                "the log {} has format {version}, and this program reads {FORMAT}: use a newer tipple",
                folder.display()
            ),
        )),
        _ => Err(Failure::new(
            Party::Usage,
            format!(
                "{} is a database, and no log of tipple's: choose another folder",
                database(folder).display()
            ),
        )),
    }
}

pub(super) fn failed(folder: &Path, what: &'static str) -> impl FnOnce(rusqlite::Error) -> Failure {
    let folder = folder.display().to_string();
    move |error| {
        use rusqlite::ErrorCode;
        let (party, next) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (
                Party::Budget,
                "make room on its disk, and run the same command again",
            ),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                (Party::Source, "restore it from a dump of it")
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                Party::Source,
                "another program holds it; run the same command again",
            ),
            _ => (Party::Source, "look at its folder and permissions"),
        };
        Failure::new(
            party,
            format!("cannot {what} the log {folder}: {error}; {next}"),
        )
        .because(error)
    }
}
