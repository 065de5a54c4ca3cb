//! Fixtures of the tests: a state directory, a command's context, processes.

use crate::api::Api;
use crate::api::access::{Access, Caller};
use crate::api::events::Events;
use crate::api::files::Files;
use crate::api::operations::Operations;
use crate::app::App;
use crate::process::Process;
use crate::project::Project;
use crate::state::StateDir;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use xylem_ambient::{Clock, Entropy};
use xylem_tokens::{Right, RightOn, Ring};

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

/// An API without a server, and a caller with `admin` on `on`.
pub fn api_of(on: &str) -> (tempfile::TempDir, Api, Caller) {
    let dir = tempfile::tempdir().unwrap();
    let app = app(dir.path());
    let keys = crate::keys::dir(&app.state);
    Ring::create(&keys, &Entropy::system()).unwrap();
    let ring = Ring::open(&keys).unwrap();
    let rights = vec![RightOn {
        can: Right::Admin,
        on: on.parse().unwrap(),
    }];
    let claims = ring.claims("somebody", rights, &app.clock, &Entropy::system());
    let claims = claims.unwrap();
    let caller = Caller {
        token: ring.sign(&claims).unwrap(),
        claims: Arc::new(claims),
        from: "127.0.0.1:1".parse().unwrap(),
    };
    let api = Api {
        access: Arc::new(Access::open(&app).unwrap()),
        operations: Arc::new(Operations::new(app.clock.instant())),
        events: Arc::new(Events::new(1)),
        files: Arc::new(Files::default()),
        transfers: Arc::default(),
        stopping: CancellationToken::new(),
        app,
    };
    (dir, api, caller)
}
