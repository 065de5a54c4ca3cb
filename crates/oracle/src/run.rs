//! Runs one workload and compares the pages.

use crate::compare::{Report, compare};
use crate::files::tablespaces;
use crate::log::Log;
use crate::replay::Replay;
use crate::server::Install;
use crate::workload::Workload;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// The result of a workload.
#[derive(Debug)]
pub struct Outcome {
    /// The comparison with a replay from the checkpoint.
    pub from_checkpoint: Report,
    /// The comparison with a replay from the database's creation, if the redo log
    /// goes back that far.
    pub from_nothing: Option<Report>,
    /// Both reports as text.
    pub text: String,
}

impl Outcome {
    /// Whether every page was the same.
    pub fn agrees(&self) -> bool {
        self.from_checkpoint.different == 0
            && self.from_nothing.as_ref().is_none_or(|r| r.different == 0)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status()?;
    ensure!(status.success(), "cp {} failed: {status}", from.display());
    Ok(())
}

/// Runs the workload in the new directory `dir`. Keeps the crashed data directory
/// there as `data`, and InnoDB's recovery of it as `recovered`.
///
/// # Errors
/// When the server or its recovery fails, or redo cannot be applied. Different
/// pages are not an error: see [`Outcome::agrees`].
pub fn run(install: &Install, workload: &Workload, dir: &Path) -> Result<Outcome> {
    let data = dir.join("data");
    let options = workload.options();
    install.create_database(&data, &options)?;
    let mut server = install.start(&data, dir, &options)?;
    for phase in &workload.phases {
        server
            .run(&phase.scripts, phase.force)
            .with_context(|| format!("workload {}, phase {}", workload.name, phase.name))?;
    }
    server.kill()?;
    judge(
        install,
        workload.name,
        workload.page_size,
        workload.undo_tablespaces,
        dir,
    )
}

/// Recovers `dir/data` both ways and compares the pages.
///
/// # Errors
/// Those of [`run`].
pub fn judge(
    install: &Install,
    name: &str,
    page_size: usize,
    undo_tablespaces: u32,
    dir: &Path,
) -> Result<Outcome> {
    let data = dir.join("data");
    let recovered = dir.join("recovered");
    copy(&data, &recovered)?;
    let innodb_end = install.recover(&recovered, page_size, undo_tablespaces)?;
    let theirs = tablespaces(&recovered)?;
    let base = tablespaces(&data)?;
    let log = Log::read(&data.join("ib_logfile0"))?;
    ensure!(
        log.end().0 == innodb_end,
        "the redo log ends at LSN {}, but for InnoDB at LSN {innodb_end}",
        log.end()
    );

    let mut text = String::new();
    let replay = Replay::from_files(&base, &log).context("from the checkpoint")?;
    let from_checkpoint = compare(&theirs, &replay)?;
    text += &describe(
        name,
        "from checkpoint",
        log.header.checkpoint_lsn.0,
        &log,
        &replay,
        &from_checkpoint,
    );
    drop(replay);
    let mut from_nothing = None;
    if log.is_whole() {
        let replay = Replay::from_nothing(&log).context("from nothing but redo")?;
        let report = compare(&theirs, &replay)?;
        text += &describe(name, "from nothing", log.start().0, &log, &replay, &report);
        from_nothing = Some(report);
    }
    Ok(Outcome {
        from_checkpoint,
        from_nothing,
        text,
    })
}

fn describe(
    name: &str,
    mode: &str,
    from: u64,
    log: &Log,
    replay: &Replay<'_>,
    report: &Report,
) -> String {
    let mut text = String::new();
    let s = &replay.stats;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{name} {mode}: LSN {from} to {}: {} mtrs (largest {} bytes), {} page runs applied, {} skipped, {} pages touched",
        log.end(),
        s.mtrs,
        s.largest,
        s.runs,
        s.skipped,
        replay.pages()
    );
    let kinds: Vec<String> = s.kinds.iter().map(|(k, n)| format!("{k}={n}")).collect();
    let _ = writeln!(text, "  records: {}", kinds.join(" "));
    let _ = writeln!(text, "  compared: {report}");
    text
}
