//! `compute.json`: the record of a compute, and the state that follows from it.

use super::name::ComputeName;
use crate::files;
use crate::process::Process;
use crate::state::{ComputeDir, StateDir};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// A compute as last started here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeRecord {
    /// The branch that it writes, or shows.
    pub branch: String,
    /// The id of the branch that it works on: that of a lease if it is read-only.
    #[serde(default)]
    pub branch_id: String,
    /// The mariadbd process.
    #[serde(flatten)]
    pub process: Process,
    /// Its phase.
    pub phase: Phase,
    /// The address it listens on.
    pub bind: std::net::IpAddr,
    /// The address at which this machine reaches it.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Its unix socket.
    pub socket: PathBuf,
    /// The account that xylem's client uses.
    #[serde(default = "xylem_datadir::own::root")]
    pub user: String,
    /// It accepts no writes.
    pub read_only: bool,
    /// The LSN that it shows, if it is read-only.
    #[serde(default)]
    pub at_lsn: Option<u64>,
    /// The id of the branch that it shows, if the gateway has started it for clients who
    /// named a moment of that branch. The gateway removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment_of: Option<String>,
    /// The epoch of its right to write the branch.
    pub epoch: u64,
    /// The LSN at which its redo began.
    pub start_lsn: u64,
    /// Where this run's lines begin in `mariadbd.log`, in bytes.
    pub log_from: u64,
    /// When its event scheduler wants to run while it sleeps, in seconds since 1970.
    #[serde(default)]
    pub wake_at: Option<u64>,
    /// Statements for its next start after a sleep: they set the global variables that SQL
    /// had set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub globals: Vec<String>,
}

/// The phase of a compute's life, as the commands that handled it know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Started, and not seen ready yet.
    Starting,
    /// It has accepted connections.
    Running,
    /// Ended on purpose.
    Stopped,
    /// Ended because nobody used it; the next client starts it.
    Asleep,
}

/// The state of a compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputeState {
    /// Accepts connections.
    Running,
    /// Does not accept connections yet.
    Starting,
    /// Was ended on purpose.
    Stopped,
    /// Was ended because nobody used it; the gateway starts it for the next client.
    Asleep,
    /// Ended by itself, or was ended behind our back.
    Crashed,
}

impl ComputeState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ComputeState::Running => "running",
            ComputeState::Starting => "starting",
            ComputeState::Stopped => "stopped",
            ComputeState::Asleep => "asleep",
            ComputeState::Crashed => "crashed",
        }
    }
}

impl ComputeRecord {
    /// Reads the record in `dir`; `None` when there is none, or half of one.
    pub fn load(dir: &ComputeDir) -> Option<ComputeRecord> {
        serde_json::from_slice(&std::fs::read(dir.record_file()).ok()?).ok()
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &ComputeDir) -> Result<()> {
        files::write_atomic(
            &dir.record_file(),
            &serde_json::to_vec_pretty(self)?,
            files::SECRET,
        )
    }

    /// Notes that it accepts connections, and has what its sleep had left for it.
    pub fn is_up(&mut self) {
        self.phase = Phase::Running;
        self.wake_at = None;
        self.globals.clear();
    }

    /// Its present state.
    pub fn state(&self) -> ComputeState {
        match (self.process.is_alive(), self.phase) {
            (true, Phase::Starting) => {
                // The command that started it may have been killed while it waited.
                if super::ready::probe(&self.socket) {
                    ComputeState::Running
                } else {
                    ComputeState::Starting
                }
            }
            (true, _) => ComputeState::Running,
            (false, Phase::Stopped) => ComputeState::Stopped,
            (false, Phase::Asleep) => ComputeState::Asleep,
            (false, _) => ComputeState::Crashed,
        }
    }
}

/// All computes of `state` that were ever started, by name.
pub fn list(state: &StateDir) -> Vec<(ComputeName, ComputeRecord)> {
    let names = names(state).into_iter();
    names
        .filter_map(|name| Some((name.clone(), ComputeRecord::load(&state.compute(&name))?)))
        .collect()
}

/// The names of all computes of `state` that have a directory, in order.
pub fn names(state: &StateDir) -> Vec<ComputeName> {
    let entries = std::fs::read_dir(state.computes()).into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| ComputeName::from_file_name(name.to_str()?));
    let mut found: Vec<_> = names.collect();
    found.sort();
    found
}
