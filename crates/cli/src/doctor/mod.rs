//! Checks of the installation, the machine and the project.

pub(crate) mod care;
mod certificates;
pub(crate) mod installation;
mod machine;
mod project;

use crate::app::App;
use crate::home::Home;
use crate::report::seen;
use serde::Serialize;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It works, but may fail soon.
    Warn,
    /// It does not work.
    Fail,
}

/// A check's result.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The subject.
    pub name: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The finding.
    pub found: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            hint: None,
        }
    }

    /// Something should be done.
    pub fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }

    /// Something must be done.
    pub fn fail(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Fail,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }

    /// A line for people; a second one for the hint.
    pub fn text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let mut text = format!(
            "{verdict}  {:<12}  {}",
            self.name,
            self.found.replace('\n', "\n                    ")
        );
        if let Some(hint) = &self.hint {
            text.push_str("\n                    hint: ");
            text.push_str(hint);
        }
        text
    }
}

/// All checks. Those of the project only if there is one.
pub async fn all(app: &App) -> Vec<Check> {
    let state = &app.state;
    let mut checks = Vec::new();
    match Home::find() {
        Ok(home) => installation::check(&home, &mut checks),
        Err(error) => checks.push(Check::fail(
            "home",
            format!("cannot find the installation: {error:#}"),
            format!(
                "set {} to the installation's directory",
                crate::home::VARIABLE
            ),
        )),
    }
    machine::check(app, &mut checks);
    if state.has_project() {
        let seen = seen::look(app).await;
        project::check(state, &seen, &mut checks);
        certificates::check(app, &mut checks);
        care::check(app, &seen, &mut checks).await;
    } else {
        checks.push(Check::warn(
            "project",
            format!("there is no project in {}", state.root().display()),
            "create one with `xylem up`, or name another directory with --dir",
        ));
    }
    checks
}
