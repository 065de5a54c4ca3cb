//! Fixtures of the tests: a state directory, a command's context, processes.

use crate::app::App;
use crate::process::Process;
use crate::project::Project;
use crate::state::StateDir;
use jiff::Timestamp;
use std::path::Path;
use xylem_ambient::{Clock, Entropy};

/// The time of every test.
pub const NOW: &str = "2026-11-22T14:05:30.25Z";

/// [`NOW`] as a timestamp.
pub fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A clock that stands still at [`NOW`].
pub fn clock() -> Clock {
    let us = u64::try_from(now().as_microsecond()).unwrap();
    Clock::new(move || us)
}

/// Randomness that is none: 1, over and over.
pub fn entropy() -> Entropy {
    Entropy::new(|| Ok(1))
}

/// A command's context for the state directory `dir`.
pub fn app(dir: &Path) -> App {
    App::at(dir, clock(), entropy()).unwrap()
}

/// A state directory that is there, below one that goes with the test.
pub fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateDir::find(Some(&dir.path().join("s"))).unwrap();
    state.create().unwrap();
    (dir, state)
}

/// A project that was created at [`NOW`].
pub fn project() -> Project {
    Project::new(now())
}

/// This process.
pub fn me() -> Process {
    Process::current().unwrap()
}
