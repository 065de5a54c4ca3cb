//! Disk space, limits, clock.

use super::Check;
use crate::app::App;
use crate::output::bytes;
use crate::project::Project;
use rustix::process::{Resource, getrlimit};
use std::path::Path;

/// With less than this free, commits will soon fail.
const DISK_FAIL_BYTES: u64 = 512 << 20;
/// With less than this free, a long load may fill the disk.
const DISK_WARN_BYTES: u64 = 4 << 30;
/// mariadbd wants one per connection and table, the server one per layer.
const FILES_MIN: u64 = 4096;
/// 2025-01-01: a clock before this was never set.
const CLOCK_MIN_S: i64 = 1_735_689_600;

/// The hint for a wrong clock.
const SET_CLOCK: &str =
    "set the clock (`timedatectl set-ntp true`): restores to a time depend on it";

pub(super) fn check(app: &App, checks: &mut Vec<Check>) {
    disk(app.state.root(), checks);
    files(checks);
    clock(app, checks);
}

fn disk(root: &Path, checks: &mut Vec<Check>) {
    let Some(existing) = root.ancestors().find(|path| path.exists()) else {
        return;
    };
    let Ok(stat) = rustix::fs::statvfs(existing) else {
        checks.push(Check::warn(
            "disk",
            format!("cannot read the free space of {}", existing.display()),
            "check it with `df`",
        ));
        return;
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} free in {}", bytes(free), existing.display());
    const HINT: &str = "free space, or move the state directory: a full disk stops commits";
    checks.push(if free < DISK_FAIL_BYTES {
        Check::fail("disk", found, HINT)
    } else if free < DISK_WARN_BYTES {
        Check::warn("disk", found, HINT)
    } else {
        Check::ok("disk", found)
    });
    if stat.f_files > 0 && stat.f_favail < 10_000 {
        checks.push(Check::warn(
            "disk",
            format!("{} inodes free in {}", stat.f_favail, existing.display()),
            HINT,
        ));
    }
}

fn files(checks: &mut Vec<Check>) {
    let limit = getrlimit(Resource::Nofile);
    let show = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let found = format!(
        "{} open files, at most {}",
        show(limit.current),
        show(limit.maximum)
    );
    let few = |limit: Option<u64>| limit.is_some_and(|n| n < FILES_MIN);
    checks.push(if few(limit.maximum) {
        Check::warn(
            "limits",
            found,
            format!("allow at least {FILES_MIN}: `ulimit -Hn`, limits.conf or LimitNOFILE"),
        )
    } else if few(limit.current) {
        Check::warn(
            "limits",
            found,
            format!("`ulimit -n {FILES_MIN}` before `xylem up`"),
        )
    } else {
        Check::ok("limits", found)
    });
}

fn clock(app: &App, checks: &mut Vec<Check>) {
    let Ok(now) = app.now() else {
        checks.push(Check::fail("clock", "it is out of range", SET_CLOCK));
        return;
    };
    let created = Project::load(&app.state)
        .ok()
        .and_then(|p| p.created.parse::<jiff::Timestamp>().ok());
    let shown = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    checks.push(if now.as_second() < CLOCK_MIN_S {
        Check::fail(
            "clock",
            format!("it says {shown}, which has long passed"),
            SET_CLOCK,
        )
    } else if let Some(created) = created.filter(|created| *created > now) {
        Check::warn(
            "clock",
            format!("it says {shown}, before the project was created ({created})"),
            SET_CLOCK,
        )
    } else {
        Check::ok("clock", shown)
    });
}
