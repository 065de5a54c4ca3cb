//! `xylem doctor`: diagnoses problems and suggests fixes.

use crate::app::App;
use crate::doctor::{self, Check, Verdict};
use crate::failure::Failure;
use crate::output;
use anyhow::Result;
use serde::Serialize;

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The worst verdict.
    verdict: Verdict,
    checks: &'a [Check],
}

/// Runs the command.
///
/// # Errors
/// When a check fails.
pub async fn run(app: &App) -> Result<()> {
    let checks = doctor::all(app).await;
    let verdict = checks
        .iter()
        .map(|c| c.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    if app.json {
        output::json(&Report {
            verdict,
            checks: &checks,
        })?;
    } else {
        for check in &checks {
            output::text_line(&check.text())?;
        }
    }
    let failed = checks.iter().filter(|c| c.verdict == Verdict::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    let plural = if failed == 1 { "check" } else { "checks" };
    Err(Failure::new(format!("{failed} {plural} failed"), ""))
}
