//! Checks of the installation, the machine and the project.

pub(crate) mod care;
mod installation;
mod machine;
mod project;

use crate::home::Home;
use crate::report;
use crate::state::StateDir;
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not for long.
    Warn,
    /// It does not work.
    Fail,
}

/// A check's result.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub to_do: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            to_do: None,
        }
    }

    /// Something should be done.
    pub fn warn(name: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            to_do: Some(to_do.into()),
        }
    }

    /// Something must be done.
    pub fn fail(name: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Fail,
            found: found.into(),
            to_do: Some(to_do.into()),
        }
    }

    /// A line for people; a second one when there is something to do.
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
        if let Some(to_do) = &self.to_do {
            text.push_str("\n                    to do: ");
            text.push_str(to_do);
        }
        text
    }
}

/// All checks. Those of the project only if there is one.
pub async fn all(state: &StateDir) -> Vec<Check> {
    let mut checks = Vec::new();
    match Home::find() {
        Ok(home) => installation::check(&home, &mut checks),
        Err(error) => checks.push(Check::fail(
            "home",
            format!("the installation cannot be found: {error:#}"),
            format!(
                "set {} to the directory Xylem is installed in",
                crate::home::VARIABLE
            ),
        )),
    }
    machine::check(state, &mut checks);
    if state.has_project() {
        let seen = report::look(state).await;
        project::check(state, &seen, &mut checks);
        care::check(state, &seen, &mut checks).await;
    } else {
        checks.push(Check::warn(
            "project",
            format!("there is none in {}", state.root().display()),
            "make one with `xylem up`, or name another directory with --dir",
        ));
    }
    checks
}
