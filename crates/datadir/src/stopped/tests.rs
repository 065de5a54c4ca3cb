use super::{LOG, look};
use std::path::Path;
use xylem_redo::{CHECKPOINT_MTR_LEN, START_OFFSET, checkpoint_mtr, log_file, log_file_naming};
use xylem_types::{Lsn, SpaceId};

const START: Lsn = Lsn(700_000);

fn dir_with(log: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(LOG), log).unwrap();
    dir
}

/// A redo log as a server writes it; `creator` is in its header.
fn log(creator: &str) -> Vec<u8> {
    let mut log = log_file(START, 4 << 20);
    log[16..48].fill(0);
    log[16..16 + creator.len()].copy_from_slice(creator.as_bytes());
    let crc = crc32c::crc32c(&log[..508]);
    log[508..512].copy_from_slice(&crc.to_be_bytes());
    log.resize(4 << 20, 0);
    log
}

fn refused(dir: &Path) -> String {
    let refusal = look(dir).unwrap_err();
    assert!(!refusal.hint.is_empty(), "{refusal:?}");
    refusal.problem
}

#[test]
fn stopped_cleanly() {
    let dir = dir_with(&log("MariaDB 10.11.18"));
    let found = look(dir.path()).unwrap();
    assert_eq!(found.end, Lsn(START.0 + CHECKPOINT_MTR_LEN as u64));
    assert!(!found.backup);
    // What mariadb-backup --prepare leaves is no longer than this.
    let mut short = log("Backup 10.11.18");
    short.truncate(START_OFFSET as usize + CHECKPOINT_MTR_LEN);
    let dir = dir_with(&short);
    std::fs::write(
        dir.path().join("xtrabackup_checkpoints"),
        "backup_type = log-applied\nfrom_lsn = 0\n",
    )
    .unwrap();
    assert!(look(dir.path()).unwrap().backup);
}

#[test]
fn bytes_of_the_last_turn_do_not_count() {
    let mut log = log("MariaDB 10.11.18");
    let at = START_OFFSET as usize + CHECKPOINT_MTR_LEN;
    // A whole mtr, but with the end byte of the other turn.
    let mut stale = checkpoint_mtr(Lsn(START.0 + CHECKPOINT_MTR_LEN as u64));
    stale[11] = 0;
    log[at..at + stale.len()].copy_from_slice(&stale);
    let dir = dir_with(&log);
    assert_eq!(look(dir.path()).unwrap().end, Lsn(START.0 + 16));
}

#[test]
fn not_stopped_cleanly() {
    // Redo behind the checkpoint: here the name of a tablespace.
    let mut log = log_file_naming(START, [(SpaceId(9), "d/t.ibd")], 4 << 20).unwrap();
    log.resize(4 << 20, 0);
    assert!(refused(dir_with(&log).path()).contains("not stopped cleanly"));
    // The checkpoint's own record is missing.
    let mut log = self::log("MariaDB 10.11.18");
    log[START_OFFSET as usize..START_OFFSET as usize + 16].fill(0);
    assert!(refused(dir_with(&log).path()).contains("record of its last checkpoint"));
}

#[test]
fn other_versions_and_no_log() {
    for creator in ["MariaDB 11.4.2", "MySQL 8.0.30", ""] {
        assert!(refused(dir_with(&log(creator)).path()).contains("not by MariaDB 10.11"));
    }
    assert!(look(dir_with(&log("MariaDB 10.8.1")).path()).is_ok());
    let mut old = log("MariaDB 10.5.1");
    old[..4].copy_from_slice(&[0x80, 0, 0, 1]);
    assert!(refused(dir_with(&old).path()).contains("10.8"));
    assert!(refused(dir_with(b"").path()).contains("0 bytes"));
    assert!(refused(tempfile::tempdir().unwrap().path()).contains("missing from the directory"));
}

#[test]
fn backups_that_are_not_prepared() {
    for (kind, says) in [
        ("full-backuped", "is not prepared"),
        ("incremental", "incremental"),
        ("something", "is not prepared"),
    ] {
        for name in ["xtrabackup_checkpoints", "mariadb_backup_checkpoints"] {
            let dir = dir_with(&log("Backup 10.11.18"));
            let text = format!("backup_type = {kind}\nfrom_lsn = 0\n");
            std::fs::write(dir.path().join(name), text).unwrap();
            assert!(refused(dir.path()).contains(says));
        }
    }
}
