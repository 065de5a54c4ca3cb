//! The documents that commands print: their fields are relied on by scripts.

use crate::cmd::scrub::FindingRow;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState};
use crate::control::Control;
use crate::project::Project;
use crate::state::{ServerRecord, StateDir};
use serde::Serialize;
use std::path::PathBuf;
use xylem_proto::control::{Branch, StatusResponse};

/// `xylem status`
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The state directory.
    pub dir: PathBuf,
    /// The server.
    pub server: ServerReport,
    /// As `branch ls`; empty while the server does not run.
    pub branches: Vec<BranchReport>,
    /// As `compute ls`.
    pub computes: Vec<ComputeReport>,
    /// URL of the store of catalogue, layers and manifests.
    pub object_store: Option<String>,
    /// What the newest scrubs found damaged, missing or unreadable.
    pub damage: Vec<FindingRow>,
}

/// The server.
#[derive(Debug, Serialize)]
pub struct ServerReport {
    /// `host:port` of gRPC.
    pub grpc: Option<String>,
    /// `host:port` of HTTP.
    pub http: Option<String>,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `stopping`; `unreachable` when its process runs
    /// and does not answer; `stopped`; `crashed`.
    pub state: String,
    /// Its version, when it answers.
    pub version: Option<String>,
    /// Memory in use for pages, in bytes.
    pub memory_bytes: Option<u64>,
    /// Most memory it uses for pages, in bytes.
    pub memory_budget_bytes: Option<u64>,
}

/// A branch.
#[derive(Clone, Debug, Serialize)]
pub struct BranchReport {
    /// Its name.
    pub name: String,
    /// Its identity, which never changes.
    pub id: String,
    /// The name of the branch it left.
    pub parent: Option<String>,
    /// Where it left it; 0 without a parent.
    pub branch_point_lsn: u64,
    /// The end of its durable history.
    pub last_lsn: u64,
    /// RFC 3339.
    pub created_at: String,
    /// The newest right to write it.
    pub epoch: u64,
    /// What page reads can see.
    pub applied_lsn: u64,
    /// How far page reads are behind the log, in bytes.
    pub lag_bytes: u64,
    /// Its own log, in bytes.
    pub wal_bytes: u64,
    /// Its own layers, in bytes.
    pub layer_bytes: u64,
    /// All that is its own, in bytes.
    pub own_bytes: u64,
    /// The layers of its ancestors, in bytes: what it shares is in them.
    pub ancestors_layer_bytes: u64,
    /// The oldest LSN to go back to; unknown while it is empty.
    pub oldest_lsn: Option<u64>,
    /// Its time, RFC 3339.
    pub oldest_time: Option<String>,
    /// The time of the newest change, RFC 3339.
    pub newest_time: Option<String>,
    /// Names of the branches that left it.
    pub children: Vec<String>,
    /// It belongs to a read-only compute, and goes with that.
    pub lease: bool,
    /// `open`; `stopped`: its log or its ingest has failed; `closed`: it did
    /// not open, and only what the catalogue says is known of it.
    pub state: String,
    /// Why it is not open.
    pub trouble: Option<String>,
}

/// A compute.
#[derive(Debug, Serialize)]
pub struct ComputeReport {
    /// What it is called: as its branch, or `main@1` if it only reads.
    pub name: String,
    /// The branch that it writes, or was started to read.
    pub branch: String,
    /// What it does.
    pub state: ComputeState,
    /// The address at which this machine reaches it.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Its unix socket.
    pub socket: PathBuf,
    /// The account to log in as.
    pub user: String,
    /// File that holds that account's password.
    pub password_file: PathBuf,
    /// The compute's directory.
    pub dir: PathBuf,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// It takes no writes.
    pub read_only: bool,
    /// The end of its branch's durable log, unknown while the server does not
    /// answer; if it is read-only the LSN that it shows.
    pub lsn: Option<u64>,
    /// Its right to write the branch.
    pub epoch: u64,
    /// Where its redo began.
    pub start_lsn: u64,
}

impl From<Branch> for BranchReport {
    fn from(branch: Branch) -> BranchReport {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        BranchReport {
            parent: known(branch.parent),
            branch_point_lsn: branch.branch_point_lsn,
            last_lsn: branch.last_lsn,
            created_at: branch.created_at,
            epoch: branch.epoch,
            applied_lsn: branch.applied_lsn,
            lag_bytes: branch.last_lsn.saturating_sub(branch.applied_lsn),
            wal_bytes: branch.wal_bytes,
            layer_bytes: branch.layer_bytes,
            own_bytes: branch.wal_bytes.saturating_add(branch.layer_bytes),
            ancestors_layer_bytes: branch.ancestors_layer_bytes,
            oldest_lsn: Some(branch.oldest_lsn).filter(|lsn| *lsn > 0),
            oldest_time: known(branch.oldest_time),
            newest_time: known(branch.newest_time),
            children: branch.children,
            lease: branch.lease,
            state: branch.state,
            trouble: known(branch.trouble),
            name: branch.name,
            id: branch.id,
        }
    }
}

impl ComputeReport {
    /// The compute `name`.
    pub fn new(
        state: &StateDir,
        name: &ComputeName,
        record: &ComputeRecord,
        branches: &[BranchReport],
    ) -> ComputeReport {
        let now = record.state();
        let alive = matches!(now, ComputeState::Running | ComputeState::Starting);
        let last_lsn = || {
            let branch = branches.iter().find(|b| b.name == name.to_string());
            branch.map(|b| b.last_lsn)
        };
        ComputeReport {
            name: name.to_string(),
            branch: record.branch.clone(),
            state: now,
            host: record.host.clone(),
            port: record.port,
            socket: record.socket.clone(),
            user: record.user.clone(),
            password_file: state.password_file(),
            dir: state.compute(name).root().to_owned(),
            pid: alive.then_some(record.process.pid),
            read_only: record.read_only,
            lsn: record.at_lsn.or_else(last_lsn),
            epoch: record.epoch,
            start_lsn: record.start_lsn,
        }
    }
}

/// What can be learned from a server that may not run.
#[derive(Debug, Default)]
pub struct Seen {
    /// The record of it.
    pub record: Option<ServerRecord>,
    /// What it says, when it answers.
    pub status: Option<StatusResponse>,
    /// Its branches, when it answers.
    pub branches: Vec<BranchReport>,
    /// What the newest scrubs found, but for files that nothing names.
    pub damage: Vec<FindingRow>,
    /// Why it does not answer although it runs.
    pub trouble: Option<anyhow::Error>,
}

/// Asks the server, if it runs.
pub async fn look(state: &StateDir) -> Seen {
    let mut seen = Seen {
        record: state.server_record(),
        ..Seen::default()
    };
    let Some(record) = seen.record.as_ref().filter(|r| r.process.is_alive()) else {
        return seen;
    };
    let asked = async {
        let control = Control::connect(&record.grpc, state.token()?.as_deref()).await?;
        let status = control.status().await?;
        // A server that still opens its branches cannot list them.
        let branches = if status.state == "ready" {
            control.branches(false).await?
        } else {
            Vec::new()
        };
        let scrubs = match status.state.as_str() {
            "ready" => control.last_scrubs().await?.branches,
            _ => Vec::new(),
        };
        anyhow::Ok((status, branches, scrubs))
    };
    match asked.await {
        Ok((status, branches, scrubs)) => {
            let found = scrubs.iter().flat_map(|s| &s.findings);
            seen.damage = found
                .filter(|f| f.kind != "orphan")
                .map(FindingRow::from)
                .collect();
            seen.status = Some(status);
            seen.branches = branches.into_iter().map(BranchReport::from).collect();
        }
        Err(error) => seen.trouble = Some(error),
    }
    seen
}

impl ServerReport {
    /// The server, as seen.
    pub fn new(seen: &Seen) -> ServerReport {
        let alive = seen.record.as_ref().is_some_and(|r| r.process.is_alive());
        let state = match (&seen.status, &seen.record) {
            (Some(status), _) => status.state.clone(),
            (None, Some(_)) if alive => "unreachable".to_owned(),
            (None, Some(record)) if !record.stopped => "crashed".to_owned(),
            _ => "stopped".to_owned(),
        };
        ServerReport {
            grpc: seen.record.as_ref().map(|r| r.grpc.clone()),
            http: seen.record.as_ref().map(|r| r.http.clone()),
            pid: seen
                .record
                .as_ref()
                .filter(|_| alive)
                .map(|r| r.process.pid),
            state,
            version: seen.status.as_ref().map(|s| s.version.clone()),
            memory_bytes: seen.status.as_ref().map(|s| s.memory_bytes),
            memory_budget_bytes: seen.status.as_ref().map(|s| s.memory_budget_bytes),
        }
    }
}

impl StatusReport {
    /// Everything, as it is now.
    pub async fn gather(state: &StateDir) -> StatusReport {
        let seen = look(state).await;
        let computes = computes(state, &seen.branches);
        let object_store = match &seen.status {
            Some(status) => Some(status.object_store.clone()),
            None => Project::load(state)
                .ok()
                .and_then(|project| project.object_store),
        };
        StatusReport {
            dir: state.root().to_owned(),
            server: ServerReport::new(&seen),
            branches: seen.branches,
            computes,
            object_store,
            damage: seen.damage,
        }
    }
}

/// All computes.
pub fn computes(state: &StateDir, branches: &[BranchReport]) -> Vec<ComputeReport> {
    let list = record::list(state);
    list.iter()
        .map(|(name, record)| ComputeReport::new(state, name, record, branches))
        .collect()
}
