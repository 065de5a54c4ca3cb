//! Whether a data directory's InnoDB was stopped cleanly, and where its redo log
//! ends.
//!
//! A server that stops with `innodb_fast_shutdown` 0 or 1 writes all pages,
//! then a checkpoint: behind it the log has one FILE_CHECKPOINT and no more
//! (`logs_empty_and_mark_files_at_shutdown()` in `log0log.cc`). What
//! `mariadb-backup --prepare` leaves looks the same.

use crate::refusal::{READABLE, Refusal};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xylem_redo::{
    FileEvent, LogGeometry, LogHeader, LogHeaderError, MtrItem, ParseStep, START_OFFSET, parse_mtr,
    read_log_file_header,
};
use xylem_types::Lsn;

#[cfg(test)]
mod tests;

/// InnoDB's log.
pub const LOG: &str = "ib_logfile0";
/// The files in which `mariadb-backup` describes a backup, by its versions.
const BACKUP_INFO: [&str; 2] = ["xtrabackup_checkpoints", "mariadb_backup_checkpoints"];
/// Bytes looked at behind a checkpoint: what follows a clean stop takes 16.
const WINDOW: usize = 64 << 10;
/// The start of the creator's name in the log of a backup
/// (`log_t::header_write()`).
const BACKUP: &str = "Backup ";
const SERVER: &str = "MariaDB ";
/// How to stop a server so that its directory can be taken.
pub const STOP: &str = "start MariaDB 10.11 on it, wait until it accepts connections, and stop it with \
     `SET GLOBAL innodb_fast_shutdown=1; SHUTDOWN;`";

/// A log that ends where a server was stopped cleanly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The end of the log: no page is newer.
    pub end: Lsn,
    /// It is what `mariadb-backup --prepare` made.
    pub backup: bool,
    /// The log's creator, such as `MariaDB 10.11.18`.
    pub creator: String,
}

/// Looks at the redo log of the data directory `dir`.
///
/// # Errors
/// An obstacle to the use of the directory.
pub fn look(dir: &Path) -> Result<Stopped, Refusal> {
    prepared(dir)?;
    let refuse = |what: String, hint: &str| Refusal::new(LOG, what, hint);
    let path = dir.join(LOG);
    let mut file = std::fs::File::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => refuse(
            "InnoDB's redo log is missing from the directory".into(),
            "name the data directory of a stopped MariaDB 10.11; a redo log that innodb_log_group_home_dir puts elsewhere must be copied into it",
        ),
        _ => refuse(format!("cannot be opened: {e}"), READABLE),
    })?;
    let unreadable = |e: std::io::Error| refuse(format!("cannot be read: {e}"), READABLE);
    let mut head = vec![0; START_OFFSET as usize];
    let mut got = 0;
    while let Some(rest) = head.get_mut(got..).filter(|r| !r.is_empty()) {
        match file.read(rest).map_err(unreadable)? {
            0 => break,
            n => got += n,
        }
    }
    head.truncate(got);
    let header = read_log_file_header(&head).map_err(|e| header_refusal(&e))?;
    version(&header.creator)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let tail = tail(&file, &header, size).map_err(unreadable)?;
    let end = clean_end(&header, size, &tail)?;
    Ok(Stopped {
        end,
        backup: header.creator.starts_with(BACKUP),
        creator: header.creator,
    })
}

/// Refuses a backup that still lacks what `--prepare` does.
fn prepared(dir: &Path) -> Result<(), Refusal> {
    for name in BACKUP_INFO {
        let Ok(text) = std::fs::read_to_string(dir.join(name)) else {
            continue;
        };
        let kind = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim() == "backup_type")
            .map(|(_, value)| value.trim().to_owned());
        let refuse =
            |what: &str, hint: &str| Err(Refusal::new(name, what.to_owned(), hint.to_owned()));
        return match kind.as_deref() {
            // The first is MariaDB's word, the second Percona's.
            Some("log-applied" | "full-prepared") => Ok(()),
            Some("incremental") => refuse(
                "this is an incremental backup, not a data directory",
                "apply it to its full backup: `mariadb-backup --prepare --target-dir=FULL --incremental-dir=THIS`, then import FULL",
            ),
            _ => refuse(
                "this backup is not prepared",
                "prepare it: `mariadb-backup --prepare --target-dir=DIR`",
            ),
        };
    }
    Ok(())
}

fn header_refusal(error: &LogHeaderError) -> Refusal {
    let hint = match error {
        LogHeaderError::Encrypted => {
            "start MariaDB with innodb_encrypt_log=OFF on it, and stop it: that writes a new log"
        }
        LogHeaderError::Format { .. } | LogHeaderError::Short { .. } => {
            "start MariaDB 10.11 on a copy of the directory, run mariadb-upgrade, stop it cleanly, and import that"
        }
        _ => STOP,
    };
    Refusal::new(LOG, error.to_string(), hint)
}

/// Refuses what another major version wrote.
fn version(creator: &str) -> Result<(), Refusal> {
    let number = creator
        .strip_prefix(SERVER)
        .or_else(|| creator.strip_prefix(BACKUP));
    let mut parts = number.unwrap_or_default().split('.');
    let mut part = || parts.next().and_then(|p| p.parse::<u32>().ok());
    match (part(), part()) {
        // 10.8 to 10.10: the log is kept by an upgrade to 10.11.
        (Some(10), Some(8..=11)) => Ok(()),
        _ if creator == "Xylem" => Ok(()),
        _ => Err(Refusal::new(
            LOG,
            format!("it was written by {creator:?}, not by MariaDB 10.11"),
            "dump the data there (mariadb-dump) and load the dump here",
        )),
    }
}

/// The redo behind the checkpoint, the ring unrolled.
fn tail(file: &std::fs::File, header: &LogHeader, size: u64) -> std::io::Result<Vec<u8>> {
    let Some(ring) = LogGeometry::new(header.first_lsn, size) else {
        return Ok(Vec::new());
    };
    let want = WINDOW.min(usize::try_from(ring.capacity()).unwrap_or(WINDOW));
    let mut out = Vec::with_capacity(want);
    let mut at = ring
        .offset(header.checkpoint_end_lsn)
        .unwrap_or(START_OFFSET);
    while out.len() < want {
        let part = (want - out.len()).min(usize::try_from(size - at).unwrap_or(WINDOW));
        let from = out.len();
        out.resize(from + part, 0);
        if let Some(room) = out.get_mut(from..) {
            file.read_exact_at(room, at)?;
        }
        at = START_OFFSET;
    }
    Ok(out)
}

/// The log's end, if nothing but the checkpoint's own record stands there.
fn clean_end(header: &LogHeader, size: u64, tail: &[u8]) -> Result<Lsn, Refusal> {
    let dirty = |what: String| Refusal::new(LOG, what, STOP);
    let Some(ring) = LogGeometry::new(header.first_lsn, size) else {
        return Err(dirty("the file is too small for a redo log".into()));
    };
    let mut end = header.checkpoint_end_lsn;
    let mut at = 0;
    let mut checkpoints = 0;
    while let Ok(ParseStep::Mtr(mtr)) = parse_mtr(tail.get(at..).unwrap_or_default(), end) {
        let end_byte = Lsn(end.0.saturating_add(mtr.record_bytes().len() as u64));
        // Bytes of the ring's last turn.
        if ring.sequence_bit(end_byte) != Some(mtr.end_byte()) {
            break;
        }
        for item in mtr.items() {
            match item {
                Ok(MtrItem::File(FileEvent::Checkpoint { .. })) => checkpoints += 1,
                Ok(MtrItem::File(FileEvent::Padding)) => {}
                _ => {
                    return Err(dirty(format!(
                        "the server was not stopped cleanly: the redo log continues after its last checkpoint, LSN {}",
                        header.checkpoint_lsn
                    )));
                }
            }
        }
        at += mtr.size();
        end = mtr.end_lsn();
    }
    if checkpoints == 0 {
        return Err(dirty(format!(
            "the redo log lacks the record of its last checkpoint, LSN {}",
            header.checkpoint_lsn
        )));
    }
    if header.checkpoint_lsn != header.checkpoint_end_lsn {
        return Err(dirty(format!(
            "the server was not stopped cleanly: its last checkpoint, LSN {}, was made at LSN {}",
            header.checkpoint_lsn, header.checkpoint_end_lsn
        )));
    }
    Ok(end)
}
