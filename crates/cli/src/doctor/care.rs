//! How the store and the branches do, as the server says.

use super::Check;
use crate::cmd::scrub::FindingRow;
use crate::control::Control;
use crate::output::bytes;
use crate::report::Seen;
use crate::state::StateDir;
use jiff::Timestamp;
use xylem_proto::inspect::{
    BranchHealth, DiagnoseResponse, Disk, LastScrub, LastScrubsResponse, Store, Trouble,
};

/// Below this little works for long.
const DISK_FAIL_BYTES: u64 = 512 << 20;
/// Below this a load of some length may fill the disk.
const DISK_WARN_BYTES: u64 = 4 << 30;
/// So many runs are merged however large they are; more means that merges do
/// not keep up.
const RUNS_WARN: u64 = 32;
/// Clocks that differ by this are wrong.
const SKEW_WARN_S: i64 = 5;
/// Findings that are shown.
const FINDINGS_MAX: usize = 5;
/// Branches that hold history which are shown.
const HOLDS_MAX: usize = 5;

/// Asks the server, if it answers.
pub(super) async fn check(state: &StateDir, seen: &Seen, checks: &mut Vec<Check>) {
    let ready = seen.status.as_ref().is_some_and(|s| s.state == "ready");
    let Some(record) = seen.record.as_ref().filter(|_| ready) else {
        return;
    };
    let asked = async {
        let control = Control::connect(&record.grpc, state.token()?.as_deref()).await?;
        anyhow::Ok((control.diagnose().await?, control.last_scrubs().await?))
    };
    match asked.await {
        Ok((health, scrubs)) => tell(&health, &scrubs, Timestamp::now(), checks),
        Err(error) => checks.push(Check::fail(
            "store",
            format!("the server does not say how it does: {error:#}"),
            "see server.log in the state directory",
        )),
    }
}

/// What there is to say of the answers, at `now` by this machine's clock.
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
            format!("{path} is no branch's"),
            "the server leaves it alone: move it elsewhere, or remove it",
        )
    }));
    if !health.waiting.is_empty() {
        checks.push(Check::fail(
            "project",
            health.waiting.clone(),
            "see that the object store answers: the server goes on by itself when it does",
        ));
    }
    clock(health, now, checks);
    for branch in &health.branches {
        checks.push(log(branch));
        if branch.applied_lsn == 0 && !branch.stopped.is_empty() {
            // It is not open: there is nothing more to say of it.
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
            "see that the store is there, that the server may use it, and that the network works",
        );
    }
    if !s.probe_error.is_empty() {
        return Check::fail(
            "store",
            format!("{}: {}", s.url, s.probe_error),
            "free space and allow the server to write; a store that lets a name be taken twice cannot be used",
        );
    }
    let probed = match s.probed {
        true => "can be written, and takes a name once",
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
    const TO_DO: &str = "free space: a full disk stops commits";
    match d.free_bytes {
        n if n < DISK_FAIL_BYTES => Check::fail("disk", found, TO_DO),
        n if n < DISK_WARN_BYTES => Check::warn("disk", found, TO_DO),
        _ => Check::ok("disk", found),
    }
}

/// This machine's clock, the server's, and the times in logs.
fn clock(health: &DiagnoseResponse, now: Timestamp, checks: &mut Vec<Check>) {
    const TO_DO: &str =
        "set the clocks (`timedatectl set-ntp true`): restores to a time go by them";
    let Ok(server) = health.now.parse::<Timestamp>() else {
        return;
    };
    let skew = now.as_second() - server.as_second();
    if skew.abs() > SKEW_WARN_S {
        let found = format!(
            "the server's says {server}, {} s off this machine's",
            skew.abs()
        );
        checks.push(Check::warn("clock", found, TO_DO));
    }
    for branch in &health.branches {
        let Ok(newest) = branch.newest_time.parse::<Timestamp>() else {
            continue;
        };
        let ahead = newest.as_second() - server.as_second();
        if ahead > SKEW_WARN_S {
            let found = format!(
                "branch {}: its log says {newest}, which the server's clock reaches in {ahead} s; \
                 until then all that is written has that time",
                branch.branch
            );
            checks.push(Check::warn("clock", found, TO_DO));
        }
    }
}

fn said(trouble: &Trouble) -> String {
    format!("{} (at {})", trouble.message, trouble.time)
}

/// The copy of a log is late when it is so many intervals behind.
const BACKUP_LATE: u64 = 3;

/// Whether the log has what the layers lack, and its copy what it has.
fn log(b: &BranchHealth) -> Check {
    let name = &b.branch;
    if !b.stopped.is_empty() {
        return Check::fail(
            "log",
            format!("branch {name} has stopped: {}", b.stopped),
            "see server.log; what was acknowledged before is safe. When the cause is mended, `xylem branch reopen` opens it again",
        );
    }
    if b.busy {
        return Check::warn(
            "log",
            format!("branch {name}: a manifest is being published and does not come to its end"),
            "see that the store can be written",
        );
    }
    if b.resume_position < b.wal_first_position {
        return Check::fail(
            "log",
            format!(
                "branch {name}: its layers end at LSN {}, log position {}, and the log begins at position {}: what is in between is in neither",
                b.resume_lsn, b.resume_position, b.wal_first_position
            ),
            "put the log's directory back from a backup; do not stop the server before",
        );
    }
    if b.resume_position > b.wal_end_position || b.resume_lsn > b.durable_lsn {
        return Check::fail(
            "log",
            format!(
                "branch {name}: its layers reach LSN {} at log position {}, and the log ends at LSN {}, position {}: it is another log, or has lost its end",
                b.resume_lsn, b.resume_position, b.durable_lsn, b.wal_end_position
            ),
            "put the log's directory back from a backup",
        );
    }
    let found = format!(
        "branch {name}: layers to LSN {}, log to {}",
        b.resume_lsn, b.durable_lsn
    );
    if let Some(copy) = &b.wal_backup {
        if !copy.trouble.is_empty() {
            return Check::fail(
                "log",
                format!(
                    "{found}; its copy in the object store does not go on, for {} s: {}",
                    copy.age_ms / 1000,
                    copy.trouble
                ),
                "see that the object store can be written: what the copy lacks is lost with this server's disk",
            );
        }
        if copy.age_ms > BACKUP_LATE * copy.interval_ms {
            return Check::warn(
                "log",
                format!(
                    "{found}; its copy in the object store is {} ms behind, and should be {} at most",
                    copy.age_ms, copy.interval_ms
                ),
                "is the store slow, or the load very high? What the copy lacks is lost with this server's disk",
            );
        }
    }
    match b.trim_failures {
        0 => Check::ok("log", found),
        n => Check::warn(
            "log",
            format!("{found}; it could not be trimmed {n} times"),
            "see server.log: the log grows meanwhile",
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
    const SPACE: &str = "see that the store has room and can be written; nothing is lost meanwhile";
    if let Some(trouble) = &b.flush_trouble {
        let what = format!(
            "{found}\n{} layers wait to be flushed: {}",
            b.frozen_layers,
            said(trouble)
        );
        return Check::fail("layers", what, SPACE);
    }
    if let Some(trouble) = &b.merge_trouble {
        let what = format!("{found}\nmerges fail: {}", said(trouble));
        return Check::fail(
            "layers",
            what,
            "`xylem scrub` tells whether a layer is damaged; else see that the store has room",
        );
    }
    if b.unfoldable_keys > 0 {
        let some: Vec<String> = b.unfoldable.iter().map(said).collect();
        let what = format!(
            "{found}\nthe history of {} keys cannot be folded and stays:\n{}",
            b.unfoldable_keys,
            some.join("\n")
        );
        return Check::warn(
            "layers",
            what,
            "`xylem inspect page` shows what stands there; report it as a bug",
        );
    }
    match b.runs > RUNS_WARN {
        true => Check::warn(
            "layers",
            found,
            "merges do not keep up: reads get slower; is the store slow, or the load very high?",
        ),
        false => Check::ok("layers", found),
    }
}

/// How far back a branch reaches, and what it keeps beyond that.
fn history(b: &BranchHealth) -> Check {
    let from = match (b.oldest_lsn, b.oldest_time.as_str()) {
        (0, _) => return Check::ok("history", format!("branch {}: none yet", b.branch)),
        (lsn, "") => format!("LSN {lsn}"),
        (lsn, time) => format!("LSN {lsn} ({time})"),
    };
    let mut found = format!("branch {}: from {from} on", b.branch);
    if b.horizon_lsn > b.oldest_lsn {
        found.push_str(&format!(
            "; what is before LSN {} goes with the next fold",
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
            "\nwhat it was before is kept for the branches that left it: {}{more}",
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
            "branch {name}: {bad} found at {}:\n{}",
            last.ended_at,
            lines.join("\n")
        );
        let damaged = rows.iter().any(FindingRow::is_damage);
        return match damaged {
            true => Check::fail(
                "scrub",
                found,
                "take what is damaged or missing from a backup of the store; `xylem scrub` shows all of it",
            ),
            false => Check::warn(
                "scrub",
                found,
                "see that the store answers, then `xylem scrub`",
            ),
        };
    }
    if last.ended_at.is_empty() {
        let found = format!("branch {name}: not since the server started");
        return match rate {
            0 => Check::warn(
                "scrub",
                found,
                "`xylem scrub` now and then, or set scrub_bytes_per_second",
            ),
            _ => Check::ok("scrub", format!("{found}; it goes on in the background")),
        };
    }
    Check::ok(
        "scrub",
        format!(
            "branch {name}: all was well at {} ({} layers, {})",
            last.ended_at,
            last.layers,
            bytes(last.bytes)
        ),
    )
}
