//! `xylem scrub`: reads everything in the store and checks it.

use crate::app::App;
use crate::args::inspect::ScrubArgs;
use crate::failure::Failure;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::report::finding::FindingRow;
use crate::session;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use xylem_pages::place::Place;
use xylem_pages::place::ReadOnlyPlace;
use xylem_pages::scrub::{self, ScrubEvent, ScrubOptions};
use xylem_proto::inspect::ScrubProgress;
use xylem_proto::inspect::scrub_update::Update;

/// The document that `--json` prints.
#[derive(Debug, Default, Serialize)]
pub struct ScrubReport {
    /// No file is damaged, missing or unreadable.
    pub clean: bool,
    /// Branches that were scrubbed.
    pub branches: u64,
    /// Layer files.
    pub layers: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files that are damaged or missing.
    pub damage: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Files that no manifest names, which is no damage.
    pub orphans: u64,
    /// All findings.
    pub findings: Vec<FindingRow>,
}

/// Runs the command.
///
/// # Errors
/// When something is damaged or cannot be looked at.
pub async fn run(app: &App, args: &ScrubArgs) -> Result<()> {
    let rate = args.rate.map_or(0, |rate| rate.0);
    let progress = app.progress();
    let report = match &args.store {
        Some(url) => at_rest(url, rate, &progress)?,
        None => {
            let control = session::connect(app, &progress).await?;
            let mut report = ScrubReport::default();
            let done = control.scrub(args.branch.as_ref(), rate, |update| match update {
                Update::Progress(p) => progress.say(words(p)),
                Update::Finding(f) => report.findings.push(FindingRow::from(f)),
                Update::Done(_) => {}
            });
            let done = done.await?;
            let p = done.progress.unwrap_or_default();
            ScrubReport {
                clean: done.damage == 0 && done.unreadable == 0,
                branches: p.branches_done,
                layers: p.layers_done,
                bytes: p.bytes_done,
                damage: done.damage,
                unreadable: done.unreadable,
                orphans: done.orphans,
                ..report
            }
        }
    };
    drop(progress);
    match app.json {
        true => output::json(&report)?,
        false => output::text_line(&text(&report))?,
    }
    match report.clean {
        true => Ok(()),
        false => Err(Failure::new(
            "the store is damaged or cannot be read",
            "restore damaged and missing files from a backup of the store; if files are unreadable, check the store and scrub again",
        )),
    }
}

/// Opens the store of a URL, read-only.
fn open(url: &str) -> Result<Arc<dyn Place>> {
    let dir = url
        .strip_prefix("file://")
        .filter(|dir| dir.starts_with('/'));
    let Some(dir) = dir else {
        return Err(Failure::usage(
            format!("{url:?} cannot be scrubbed without a server"),
            "give the URL of a directory, such as file:///srv/xylem/store",
        ));
    };
    let place = ReadOnlyPlace::open(Path::new(dir));
    let place = place.with_context(|| format!("cannot open the store {url}"))?;
    let branches = place.folders("branches");
    if branches
        .with_context(|| format!("cannot list {url}"))?
        .is_empty()
    {
        return Err(Failure::new(
            format!("there are no branches in the store {url}"),
            "name the directory that contains `branches`",
        ));
    }
    Ok(Arc::new(place))
}

fn at_rest(url: &str, rate: u64, progress: &Progress) -> Result<ScrubReport> {
    let place = open(url)?;
    let options = ScrubOptions {
        bytes_per_second: rate,
        ..ScrubOptions::default()
    };
    let mut findings = Vec::new();
    let done = scrub::scrub_place(&*place, &options, &mut |event| {
        match event {
            ScrubEvent::Finding(f) => findings.push(FindingRow {
                branch: f.branch.to_string(),
                branch_id: f.branch.to_string(),
                file: Some(f.file.clone()).filter(|file| !file.is_empty()),
                kind: f.kind.as_str().to_owned(),
                message: f.message.clone(),
            }),
            ScrubEvent::Progress(p) => progress.say(words(&ScrubProgress {
                branch: p.branch.map(|b| b.to_string()).unwrap_or_default(),
                branches_done: p.branches_done,
                branches: p.branches,
                layers_done: p.layers_done,
                layers: p.layers,
                bytes_done: p.bytes_done,
                bytes: p.bytes,
            })),
        }
        ControlFlow::Continue(())
    });
    let done = done.with_context(|| format!("cannot scrub {url}"))?;
    Ok(ScrubReport {
        clean: done.is_clean(),
        branches: done.progress.branches_done,
        layers: done.progress.layers_done,
        bytes: done.progress.bytes_done,
        damage: done.damage,
        unreadable: done.unreadable,
        orphans: done.orphans,
        findings,
    })
}

fn words(p: &ScrubProgress) -> String {
    format!(
        "branch {}, {} of {} layers, {} of {} in {} of {} branches",
        p.branch,
        p.layers_done,
        p.layers,
        bytes(p.bytes_done),
        bytes(p.bytes),
        p.branches_done,
        p.branches
    )
}

/// The report for people.
pub fn text(report: &ScrubReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let _ = writeln!(out, "{}", finding.text());
    }
    let told = report.findings.len() as u64;
    let found = report.damage + report.unreadable + report.orphans;
    if told < found {
        let _ = writeln!(out, "and {} more", found - told);
    }
    let plural = |n: u64, one: &str, many: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    };
    let _ = write!(
        out,
        "{}, {}, {} read: {}",
        plural(report.branches, "branch", "branches"),
        plural(report.layers, "layer", "layers"),
        bytes(report.bytes),
        match (report.clean, report.orphans) {
            (true, 0) => "no damage".to_owned(),
            (true, n) => format!(
                "no damage; {} that no manifest names",
                plural(n, "file", "files")
            ),
            _ => format!(
                "{} damaged or missing, {} unreadable, {} that no manifest names",
                report.damage,
                report.unreadable,
                plural(report.orphans, "file", "files")
            ),
        }
    );
    out
}
