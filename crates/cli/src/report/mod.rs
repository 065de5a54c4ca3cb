//! The documents that commands print. Scripts rely on their fields.

pub mod branch;
pub mod change;
pub mod finding;
pub mod seen;
pub mod token;
pub mod transfer;

use self::branch::BranchReport;
use self::finding::FindingRow;
use self::seen::Seen;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState};
use crate::project::Project;
use crate::role::{Role, RoleRecord, RoleState};
use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use utoipa::ToSchema;

/// `xylem status`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusReport {
    /// The state directory.
    #[schema(value_type = String)]
    pub dir: PathBuf,
    /// The server.
    pub server: ServerReport,
    /// The gateway.
    pub gateway: RoleReport,
    /// The HTTP API.
    pub api: RoleReport,
    /// As `branch ls`; empty while the server does not run.
    pub branches: Vec<BranchReport>,
    /// As `compute ls`.
    pub computes: Vec<ComputeReport>,
    /// URL of the store of catalogue, layers and manifests.
    pub object_store: Option<String>,
    /// Files that the newest scrubs found damaged, missing or unreadable.
    pub damage: Vec<FindingRow>,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// The gateway, or the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleReport {
    /// Its state.
    pub state: RoleState,
    /// `host:port` on which it listens, or did last.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// The address at which this machine reaches it.
    pub host: Option<String>,
    /// Its TCP port.
    pub port: Option<u16>,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// Its log file.
    #[schema(value_type = String)]
    pub log: PathBuf,
}

/// A compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComputeReport {
    /// Its name: that of its branch, or `main@1` if it is read-only.
    pub name: String,
    /// The branch that it writes, or shows.
    pub branch: String,
    /// Its state.
    pub state: ComputeState,
    /// The address at which this machine reaches it.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Its unix socket.
    #[schema(value_type = String)]
    pub socket: PathBuf,
    /// The account to log in as.
    pub user: String,
    /// File that holds that account's password.
    #[schema(value_type = String)]
    pub password_file: PathBuf,
    /// The compute's directory.
    #[schema(value_type = String)]
    pub dir: PathBuf,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// It accepts no writes.
    pub read_only: bool,
    /// The end of its branch's WAL, unknown while the server does not answer; the
    /// LSN that it shows if it is read-only.
    pub lsn: Option<u64>,
    /// The epoch of its right to write the branch.
    pub epoch: u64,
    /// The LSN at which its redo began.
    pub start_lsn: u64,
}

impl ComputeReport {
    /// The report of the compute `name`; `branches` tell its LSN.
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

impl RoleReport {
    /// The report of a role now.
    pub fn of(state: &StateDir, role: Role) -> RoleReport {
        RoleReport::new(state, role, RoleRecord::load(state, role).as_ref())
    }

    /// The report of the role that `record` tells of; `None`: it never ran.
    pub fn new(state: &StateDir, role: Role, record: Option<&RoleRecord>) -> RoleReport {
        let now = record.map_or(RoleState::Stopped, RoleRecord::state);
        let alive = record.filter(|_| now == RoleState::Running);
        RoleReport {
            state: now,
            address: record.map(|r| r.listen),
            host: record.map(|r| r.address().ip().to_string()),
            port: record.map(|r| r.listen.port()),
            pid: alive.map(|r| r.process.pid),
            log: state.role_log(role),
        }
    }
}

impl ServerReport {
    /// The report of a server that was looked at.
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
    /// The state of the whole project now.
    pub async fn gather(app: &App) -> StatusReport {
        StatusReport::of(app, seen::look(app).await)
    }

    /// The state of the project with what the server has told.
    pub fn of(app: &App, seen: Seen) -> StatusReport {
        let state = &app.state;
        let computes = computes(state, &seen.branches);
        let object_store = match &seen.status {
            Some(status) => Some(status.object_store.clone()),
            None => Project::load(state)
                .ok()
                .and_then(|project| project.settings.store.object_store),
        };
        StatusReport {
            dir: state.root().to_owned(),
            server: ServerReport::new(&seen),
            gateway: RoleReport::of(state, Role::Gateway),
            api: RoleReport::of(state, Role::Api),
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
