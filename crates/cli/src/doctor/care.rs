//! The health of the store and the branches, as the server reports it.

use super::Check;
use crate::app::App;
use crate::control::Control;
use crate::output::bytes;
use crate::report::finding::FindingRow;
use crate::report::seen::Seen;
use jiff::Timestamp;
use xylem_proto::inspect::{
    BranchHealth, DiagnoseResponse, Disk, LastScrub, LastScrubsResponse, Store, Trouble,
};

/// With less than this free, commits will soon fail.
const DISK_FAIL_BYTES: u64 = 512 << 20;
/// With less than this free, a long load may fill the disk.
const DISK_WARN_BYTES: u64 = 4 << 30;
/// More runs than this mean that merges do not keep up: this many are merged
/// whatever their size.
const RUNS_WARN: u64 = 32;
/// Clocks that differ by this are wrong.
const SKEW_WARN_S: i64 = 5;
/// Findings that are shown.
const FINDINGS_MAX: usize = 5;
/// Child branches that are shown.
const HOLDS_MAX: usize = 5;

/// Asks the server, if it answers.
pub(super) async fn check(app: &App, seen: &Seen, checks: &mut Vec<Check>) {
    let ready = seen.status.as_ref().is_some_and(|s| s.state == "ready");
    let Some(record) = seen.record.as_ref().filter(|_| ready) else {
        return;
    };
    let asked = async {
        let control = Control::of(app, record).await?;
        let health = control.diagnose(true).await?;
        anyhow::Ok((health, control.last_scrubs().await?, app.now()?))
    };
    match asked.await {
        Ok((health, scrubs, now)) => tell(&health, &scrubs, now, checks),
        Err(error) => checks.push(Check::fail(
            "store",
            format!("cannot diagnose the server: {error:#}"),
            "see server.log in the state directory",
        )),
    }
}

/// The checks of the server's answers, at `now` by this machine's clock.
pub(crate) fn tell(
    health: &DiagnoseResponse,
    scrubs: &LastScrubsResponse,
    now: Timestamp,
    checks: &mut Vec<Check>,
) {
    if let Some(s) = &health.store {
        checks.push(store(s));
    }
    checks.extend(health.disks.iter().map(disk));
    checks.extend(health.strange.iter().map(|path| {
        Check::warn(
            "store",
            format!("{path} belongs to no branch"),
            "the server leaves it alone: move it elsewhere, or remove it",
        )
    }));
    if !health.waiting.is_empty() {
        checks.push(Check::fail(
            "project",
            health.waiting.clone(),
            "check the object store: the server continues by itself when the store answers",
        ));
    }
    clock(health, now, checks);
    for branch in &health.branches {
        checks.push(wal(branch));
        if branch.applied_lsn == 0 && !branch.stopped.is_empty() {
            // It is not open: nothing more is known of it.
            continue;
        }
        checks.push(layers(branch));
        checks.push(history(branch));
    }
    for branch in &scrubs.branches {
        checks.push(scrub(branch, scrubs.bytes_per_second));
    }
}

fn store(s: &Store) -> Check {
    if !s.error.is_empty() {
        return Check::fail(
            "store",
            format!("{} cannot be listed: {}", s.url, s.error),
            "check that the store exists, that the server may use it, and that the network works",
        );
    }
    if !s.probe_error.is_empty() {
        return Check::fail(
            "store",
            format!("{}: {}", s.url, s.probe_error),
            "free space, and allow the server to write; a store without create-if-absent cannot be used",
        );
    }
    let probed = match s.probed {
        true => "can be written, and creates files only if absent",
        false => "answers",
    };
    Check::ok("store", format!("{} {probed}", s.url))
}

fn disk(d: &Disk) -> Check {
    let found = format!(
        "{} of {} free for the server's {} in {}",
        bytes(d.free_bytes),
        bytes(d.total_bytes),
        d.what,
        d.path
    );
    const HINT: &str = "free space: a full disk stops commits";
    match d.free_bytes {
        n if n < DISK_FAIL_BYTES => Check::fail("disk", found, HINT),
        n if n < DISK_WARN_BYTES => Check::warn("disk", found, HINT),
        _ => Check::ok("disk", found),
    }
}

/// This machine's clock, the server's, and the times in WALs.
fn clock(health: &DiagnoseResponse, now: Timestamp, checks: &mut Vec<Check>) {
    const HINT: &str =
        "set the clocks (`timedatectl set-ntp true`): restores to a time depend on them";
    let Ok(server) = health.now.parse::<Timestamp>() else {
        return;
    };
    let skew = now.as_second() - server.as_second();
    if skew.abs() > SKEW_WARN_S {
        let found = format!(
            "the server's clock says {server}, {} s off this machine's",
            skew.abs()
        );
        checks.push(Check::warn("clock", found, HINT));
    }
    for branch in &health.branches {
        let Ok(newest) = branch.newest_time.parse::<Timestamp>() else {
            continue;
        };
        let ahead = newest.as_second() - server.as_second();
        if ahead > SKEW_WARN_S {
            let found = format!(
                "branch {}: its WAL has the time {newest}, which the server's clock reaches in {ahead} s; \
                 until then everything written gets that time",
                branch.branch
            );
            checks.push(Check::warn("clock", found, HINT));
        }
    }
}

fn said(trouble: &Trouble) -> String {
    format!("{} (at {})", trouble.message, trouble.time)
}

/// A line for each.
fn each_said(troubles: &[Trouble]) -> String {
    let lines: Vec<String> = troubles.iter().map(said).collect();
    lines.join("\n")
}

/// The backup of a WAL is late when it is so many intervals behind.
const BACKUP_LATE: u64 = 3;

/// Whether the WAL and the layers together hold everything, and the WAL's backup
/// keeps up.
fn wal(b: &BranchHealth) -> Check {
    let name = &b.branch;
    if !b.stopped.is_empty() {
        return Check::fail(
            "wal",
            format!("branch {name} has stopped: {}", b.stopped),
            "see server.log; everything acknowledged is safe. When the cause is gone: `xylem branch reopen`",
        );
    }
    if b.busy {
        return Check::warn(
            "wal",
            format!("branch {name}: publishing a manifest does not end"),
            "check that the store can be written",
        );
    }
    if b.resume_position < b.wal_first_position {
        return Check::fail(
            "wal",
            format!(
                "branch {name}: its layers end at LSN {}, WAL position {}, and its WAL begins at position {}: redo in between is in neither",
                b.resume_lsn, b.resume_position, b.wal_first_position
            ),
            "restore the WAL's directory from a backup; do not stop the server before",
        );
    }
    if b.resume_position > b.wal_end_position || b.resume_lsn > b.durable_lsn {
        return Check::fail(
            "wal",
            format!(
                "branch {name}: its layers reach LSN {} at WAL position {}, and its WAL ends at LSN {}, position {}: it is another WAL, or has lost its end",
                b.resume_lsn, b.resume_position, b.durable_lsn, b.wal_end_position
            ),
            "restore the WAL's directory from a backup",
        );
    }
    let found = format!(
        "branch {name}: layers to LSN {}, WAL to LSN {}",
        b.resume_lsn, b.durable_lsn
    );
    if let Some(backup) = &b.wal_backup {
        if !backup.trouble.is_empty() {
            return Check::fail(
                "wal",
                format!(
                    "{found}; its backup in the object store has failed for {} s: {}",
                    backup.age_ms / 1000,
                    backup.trouble
                ),
                "check that the object store can be written: redo that the backup lacks is lost with this server's disk",
            );
        }
        if backup.age_ms > BACKUP_LATE * backup.interval_ms {
            return Check::warn(
                "wal",
                format!(
                    "{found}; its backup in the object store is {} ms behind, and should be at most {} ms behind",
                    backup.age_ms, backup.interval_ms
                ),
                "check the speed of the store, and the load: redo that the backup lacks is lost with this server's disk",
            );
        }
    }
    match b.trim_failures {
        0 => Check::ok("wal", found),
        n => Check::warn(
            "wal",
            format!("{found}; trimming the WAL failed {n} times"),
            "see server.log: the WAL grows meanwhile",
        ),
    }
}

fn layers(b: &BranchHealth) -> Check {
    let found = format!(
        "branch {}: {} in {} runs, {}, {} to be {}",
        b.branch,
        match b.layers {
            1 => "1 layer".to_owned(),
            n => format!("{n} layers"),
        },
        b.runs,
        bytes(b.layer_bytes),
        bytes(b.merge_debt_bytes),
        if b.merge_folds { "folded" } else { "merged" },
    );
    const SPACE: &str =
        "check that the store has room and can be written; nothing is lost meanwhile";
    if let Some(trouble) = &b.flush_trouble {
        let what = format!(
            "{found}\nflushes fail, and {} layers wait: {}",
            b.frozen_layers,
            said(trouble)
        );
        return Check::fail("layers", what, SPACE);
    }
    if b.unreadable_pages > 0 {
        let what = format!(
            "{found}\n{} reads found a page that its versions do not make:\n{}",
            b.unreadable_pages,
            each_said(&b.unreadable)
        );
        return Check::fail(
            "layers",
            what,
            "`xylem inspect page` shows the versions, and which of them can still be read; report this as a bug",
        );
    }
    if let Some(trouble) = &b.merge_trouble {
        let what = format!("{found}\nmerges fail: {}", said(trouble));
        return Check::fail(
            "layers",
            what,
            "`xylem scrub` finds damaged layers; otherwise check that the store has room",
        );
    }
    if b.unfoldable_keys > 0 {
        let what = format!(
            "{found}\nthe history of {} keys cannot be folded and stays:\n{}",
            b.unfoldable_keys,
            each_said(&b.unfoldable)
        );
        return Check::warn(
            "layers",
            what,
            "`xylem inspect page` shows the records; report this as a bug",
        );
    }
    match b.runs > RUNS_WARN {
        true => Check::warn(
            "layers",
            found,
            "merges do not keep up, and reads get slower: check the speed of the store, and the load",
        ),
        false => Check::ok("layers", found),
    }
}

/// How far back the history of a branch reaches, and what it keeps beyond that.
fn history(b: &BranchHealth) -> Check {
    let from = match (b.oldest_lsn, b.oldest_time.as_str()) {
        (0, _) => return Check::ok("history", format!("branch {}: none yet", b.branch)),
        (lsn, "") => format!("LSN {lsn}"),
        (lsn, time) => format!("LSN {lsn} ({time})"),
    };
    let mut found = format!("branch {}: from {from} on", b.branch);
    if b.horizon_lsn > b.oldest_lsn {
        found.push_str(&format!(
            "; history before LSN {} is removed by the next fold",
            b.horizon_lsn
        ));
    }
    let before = b.horizon_lsn.max(b.oldest_lsn);
    let held: Vec<_> = b.holds.iter().filter(|h| h.lsn < before).collect();
    if !held.is_empty() {
        let shown: Vec<String> = held
            .iter()
            .take(HOLDS_MAX)
            .map(|h| format!("{} (LSN {})", h.branch, h.lsn))
            .collect();
        let more = match held.len().saturating_sub(HOLDS_MAX) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        found.push_str(&format!(
            "\nearlier states are kept for child branches: {}{more}",
            shown.join(", ")
        ));
    }
    Check::ok("history", found)
}

fn scrub(last: &LastScrub, rate: u64) -> Check {
    let name = &last.branch;
    let rows: Vec<FindingRow> = last.findings.iter().map(FindingRow::from).collect();
    let bad = rows.iter().filter(|f| f.kind != "orphan").count();
    if bad > 0 {
        let shown = rows
            .iter()
            .filter(|f| f.kind != "orphan")
            .take(FINDINGS_MAX);
        let lines: Vec<String> = shown.map(FindingRow::text).collect();
        let found = format!(
            "branch {name}: {bad} problems found at {}:\n{}",
            last.ended_at,
            lines.join("\n")
        );
        let damaged = rows.iter().any(FindingRow::is_damage);
        return match damaged {
            true => Check::fail(
                "scrub",
                found,
                "restore damaged and missing files from a backup of the store; `xylem scrub` lists them all",
            ),
            false => Check::warn("scrub", found, "check the store, then run `xylem scrub`"),
        };
    }
    if last.ended_at.is_empty() {
        let found = format!("branch {name}: not scrubbed since the server started");
        return match rate {
            0 => Check::warn(
                "scrub",
                found,
                "run `xylem scrub` now and then, or set scrub_bytes_per_second",
            ),
            _ => Check::ok("scrub", format!("{found}; a scrub runs in the background")),
        };
    }
    Check::ok(
        "scrub",
        format!(
            "branch {name}: no damage at {} ({} layers, {})",
            last.ended_at,
            last.layers,
            bytes(last.bytes)
        ),
    )
}
