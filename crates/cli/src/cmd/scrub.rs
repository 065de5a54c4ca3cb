//! `xylem scrub`: reads everything in the store and checks it.

use crate::app::App;
use crate::args::inspect::ScrubArgs;
use crate::failure::Failure;
use crate::inspect;
use crate::output::{self, bytes};
use crate::progress::Progress;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use xylem_pages::place::Place;
use xylem_pages::place::ReadOnlyPlace;
use xylem_pages::scrub::{self, ScrubEvent, ScrubOptions};
use xylem_proto::inspect::scrub_update::Update;
use xylem_proto::inspect::{Finding, ScrubProgress};

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
pub struct ScrubReport {
    /// Nothing is damaged, missing or unreadable.
    pub clean: bool,
    /// Branches that were scrubbed.
    pub branches: u64,
    /// Layer files.
    pub layers: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Things that are damaged or missing.
    pub damage: u64,
    /// Things that could not be looked at.
    pub unreadable: u64,
    /// Files that nothing names, which is no damage.
    pub orphans: u64,
    /// All of them.
    pub findings: Vec<FindingRow>,
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
pub struct FindingRow {
    /// The branch.
    pub branch: String,
    /// Its id.
    pub branch_id: String,
    /// The file in its directory.
    pub file: Option<String>,
    /// `damaged`, `missing`, `unreadable` or `orphan`.
    pub kind: String,
    /// In words.
    pub message: String,
}

impl From<&Finding> for FindingRow {
    fn from(f: &Finding) -> FindingRow {
        FindingRow {
            branch: f.branch.clone(),
            branch_id: f.branch_id.clone(),
            file: Some(f.file.clone()).filter(|file| !file.is_empty()),
            kind: f.kind.clone(),
            message: f.message.clone(),
        }
    }
}

impl FindingRow {
    /// Whether something is lost or in doubt.
    pub fn is_damage(&self) -> bool {
        self.kind == "damaged" || self.kind == "missing"
    }

    /// A line for people.
    pub fn text(&self) -> String {
        let file = self.file.as_deref().map(|f| format!(", {f}"));
        format!(
            "{}: branch {}{}: {}",
            self.kind,
            self.branch,
            file.unwrap_or_default(),
            self.message
        )
    }
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
            let control = inspect::connect(app).await?;
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
            "the store is not whole",
            "take what is damaged or missing from a backup of the store; what cannot be read, see that the store answers and scrub again",
        )),
    }
}

/// The store of a URL, only to be looked at.
fn open(url: &str) -> Result<Arc<dyn Place>> {
    let dir = url
        .strip_prefix("file://")
        .filter(|dir| dir.starts_with('/'));
    let Some(dir) = dir else {
        return Err(Failure::usage(
            format!("{url:?} cannot be looked at without a server"),
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
            "name the directory that has `branches` in it",
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
            (true, 0) => "all is well".to_owned(),
            (true, n) => format!(
                "all is well; {} that nothing names",
                plural(n, "file", "files")
            ),
            _ => format!(
                "{} damaged or missing, {} unreadable, {} that nothing names",
                report.damage,
                report.unreadable,
                plural(report.orphans, "file", "files")
            ),
        }
    );
    out
}
