//! The inputs of a start, and its result.

use super::host::Host;
use super::name::ComputeName;
use super::record::ComputeRecord;
use crate::app::App;
use crate::control::Control;
use crate::home::Home;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::project::Project;
use crate::state::{ComputeDir, ServerRecord};
use std::time::Duration;
use xylem_proto::control::AttachResponse;

/// Starts computes of a project.
#[derive(Debug)]
pub struct Starter<'a> {
    /// The command's context.
    pub app: &'a App,
    /// The lock on the project, alone or shared.
    pub lock: &'a Lock,
    /// The installation.
    pub home: &'a Home,
    /// The project's settings; what a start changes in them is saved.
    pub project: &'a mut Project,
    /// The server that runs.
    pub server: &'a ServerRecord,
    /// A connection to it.
    pub control: &'a Control,
    /// Shows progress.
    pub progress: &'a Progress,
}

/// A compute that accepts connections.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub name: ComputeName,
    /// Its record.
    pub record: ComputeRecord,
    /// It ran before.
    pub already: bool,
    /// The port it would have had, had it been free.
    pub instead_of: Option<u16>,
    /// How long the start took.
    pub took: Duration,
}

/// A compute that is being started.
pub(super) struct Start<'a> {
    /// Its name.
    pub name: &'a ComputeName,
    /// Its directory.
    pub dir: ComputeDir,
    /// The branch that it works on, as `id:…`.
    pub branch: String,
    /// Its port.
    pub port: u16,
    /// The server's answer to the attach.
    pub attached: AttachResponse,
    /// The LSN that it shows, if it is read-only.
    pub at_lsn: Option<u64>,
    /// The branch's id, if clients of the gateway have named this moment of it.
    pub moment_of: Option<&'a str>,
    /// The account that mariadbd runs as.
    pub host: &'a Host,
}
