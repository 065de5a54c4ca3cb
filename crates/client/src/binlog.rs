//! Reads the branch's binary log at a start: for the transactions that it has, and for a group
//! at its end that is cut off.

use crate::log::{self, Level};
use crate::pages::{Outcome, Patience, Pool, Request, may_wait};
use crate::sidefiles::logs::LogFile;
use crate::sidefiles::{Uncaptured, logs};
use crate::status::{Error, Status};
use std::collections::HashSet;
use std::ops::ControlFlow;
use xylem_binlog::{Item, Summary, scan};
use xylem_types::BinlogFile;
use xylem_wire::GetLog;

type Scanned = Result<Summary, xylem_binlog::Error<i32>>;

fn scanned(file: &LogFile, each: &mut dyn FnMut(Item)) -> Scanned {
    let mut read = |offset, len| file.read(offset, len);
    scan(file.size(), &mut read, &mut |item| {
        each(item);
        ControlFlow::Continue(())
    })
}

fn failed(number: u32, why: impl std::fmt::Display) -> Error {
    let path = BinlogFile::events_path(number);
    Error::new(Status::Error, format!("{path}: {why}"))
}

fn unlisted(error: std::io::Error) -> Error {
    let why = format!("cannot list the data directory: {error}");
    Error::new(Status::Error, why)
}

/// Bytes of file `number` of the log: `length` from `offset` on, fewer where it ends. The
/// answer is at least as new as `start_lsn`.
///
/// # Errors
/// Those of [`Pool::request`].
pub fn fetch(
    pool: &Pool,
    start_lsn: u64,
    number: u32,
    offset: u64,
    length: u32,
) -> Result<Vec<u8>, Error> {
    may_wait("the binary log")?;
    let get = GetLog {
        number,
        length,
        offset,
        min_lsn: start_lsn,
    };
    match pool.request(Request::Log(get), Patience::WhileAlive)?.0 {
        Outcome::Log(bytes) => Ok(bytes),
        _ => Err(failed(number, "the answer is of another kind")),
    }
}

/// The numbers under which the transactions in the log were prepared, as far as an engine may
/// not have committed them: from the last checkpoint on, as MariaDB's recovery reads the log.
///
/// # Errors
/// When the log cannot be read. One that is encrypted has no transactions here.
pub fn transactions() -> Result<HashSet<u64>, Error> {
    let _ours = Uncaptured::new();
    let mut found = HashSet::new();
    let mut from = None;
    for (nth, number) in logs::numbers().map_err(unlisted)?.into_iter().enumerate() {
        let Some(file) = logs::find(&BinlogFile::events_path(number)) else {
            continue;
        };
        let mut checkpoint = None;
        let result = scanned(&file, &mut |item| match item {
            Item::Group(group) => found.extend(group.xid),
            Item::Checkpoint(name) => checkpoint = Some(name),
            Item::List(_) => {}
        });
        match result {
            Ok(_) => {}
            Err(xylem_binlog::Error::Encrypted) => {
                log::write(
                    Level::Warning,
                    "the binary log is encrypted: transactions that were being committed at the \
                     branch point are rolled back",
                );
                return Ok(HashSet::new());
            }
            Err(error) => return Err(failed(number, error)),
        }
        if from.is_none() {
            from = checkpoint.as_deref().and_then(logs::number_of);
        }
        // The newest file may have been cut off before its checkpoint. One without is the
        // first that matters.
        if from.is_some_and(|from| number <= from) || nth > 0 && from.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Cuts off an event group of which the log has only a part. It was never acknowledged, and no
/// replica has it. MariaDB leaves it in the file, where it stops replicas.
///
/// # Errors
/// When the log cannot be read or changed. A log with another fault is left to MariaDB.
pub fn mend() -> Result<(), Error> {
    let _ours = Uncaptured::new();
    // The newest file may have been made when the one before it was not closed yet.
    for number in logs::numbers().map_err(unlisted)?.into_iter().take(2) {
        let path = BinlogFile::events_path(number);
        let Some(file) = logs::find(&path) else {
            continue;
        };
        let head = file.head().map_err(|e| failed(number, e))?;
        if !xylem_binlog::is_in_use(&head) {
            continue;
        }
        let size = file.size();
        match scanned(&file, &mut |_| {}) {
            Ok(Summary {
                in_use: true,
                whole,
            }) if whole < size => {
                let errno = |e| failed(number, std::io::Error::from_raw_os_error(e));
                file.truncate(whole).map_err(errno)?;
                log::write(
                    Level::Note,
                    &format!(
                        "cut {path} off at {whole} of {size} bytes, where its last whole event group ends"
                    ),
                );
            }
            Ok(_) | Err(xylem_binlog::Error::Encrypted) => {}
            Err(xylem_binlog::Error::Read(errno)) => {
                return Err(failed(number, std::io::Error::from_raw_os_error(errno)));
            }
            Err(error) => {
                log::write(Level::Warning, &format!("{path}: {error}"));
            }
        }
    }
    Ok(())
}
