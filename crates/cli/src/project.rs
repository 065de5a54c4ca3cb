//! `project.toml`: what was settled for a project, for later starts.

use crate::files;
use crate::state::StateDir;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

/// The ports that are tried first.
pub const MYSQL_PORT: u16 = 3306;
/// The server's gRPC port.
pub const GRPC_PORT: u16 = 8080;
/// The server's HTTP port.
pub const HTTP_PORT: u16 = 8081;

/// InnoDB's default page size in bytes; that of the template.
pub const PAGE_SIZE: u32 = 16_384;

/// A project's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// When it was made, RFC 3339.
    pub created: String,
    /// The address computes listen on.
    #[serde(default = "loopback")]
    pub bind: IpAddr,
    /// Where catalogue, layers and manifests go; absent: the server's data
    /// directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<String>,
    /// Where logs go, if not to the server's disk: `object`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_store: Option<String>,
    /// How old a commit may become before the copy of a local log has it, as
    /// given to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_backup: Option<String>,
    /// Local logs that are not here are lost: a server that is started now
    /// restores them.
    #[serde(skip)]
    pub restore_wal: bool,
    /// The server's memory budget, as given to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// How far back every moment stays within reach, as given to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// `innodb_buffer_pool_size` of computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_pool: Option<String>,
    /// `innodb_page_size` in bytes, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// System account that mariadbd runs as when root calls, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further arguments of mariadbd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mariadbd_args: Vec<String>,
    /// Computes make no accounts: this becomes a template, which others are
    /// made of.
    #[serde(skip)]
    pub without_accounts: bool,
    /// From where `root` can log in so far, on every branch.
    #[serde(default)]
    pub accounts: Accounts,
    /// The same on the branch of that id. Accounts are in the database: one
    /// that begins before they were made has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts_of: BTreeMap<String, Accounts>,
    /// The first branch is being filled. Left over after a crash it says that
    /// the project is half made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half_made: bool,
    /// The ports in use.
    #[serde(default)]
    pub ports: Ports,
}

/// From where the account `root`, with the project's password, can log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accounts {
    /// No password was set yet, so from nowhere.
    #[default]
    None,
    /// From this machine.
    Local,
    /// From everywhere.
    Any,
}

/// The ports of a project. `None`: not chosen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The compute of `main`.
    #[serde(default)]
    pub mysql: Option<u16>,
    /// The server's gRPC.
    #[serde(default)]
    pub grpc: Option<u16>,
    /// The server's HTTP.
    #[serde(default)]
    pub http: Option<u16>,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

impl Project {
    /// One made now.
    pub fn new() -> Project {
        Project {
            created: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            bind: loopback(),
            object_store: None,
            wal_store: None,
            wal_backup: None,
            restore_wal: false,
            memory: None,
            history: None,
            buffer_pool: None,
            page_size: None,
            user: None,
            without_accounts: false,
            mariadbd_args: Vec::new(),
            accounts: Accounts::None,
            accounts_of: BTreeMap::new(),
            half_made: false,
            ports: Ports::default(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the file is not there, cannot be read or says nonsense.
    pub fn load(state: &StateDir) -> Result<Project> {
        state.require_project()?;
        let path = state.project_file();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<()> {
        let text = toml::to_string(self).context("cannot express the project's settings")?;
        files::write_durable(&state.project_file(), text.as_bytes(), files::SECRET)
    }

    /// The further arguments of a compute. A binary log is one compute's: two
    /// that wrote the same files would ruin them. So is a server's id: two
    /// replicas with the same one push each other out.
    pub fn mariadbd_args_of(&self, main: bool) -> impl Iterator<Item = OsString> {
        let all = self.mariadbd_args.iter();
        all.filter(move |arg| main || !(is_binary_log(arg) || is_server_id(arg)))
            .map(OsString::from)
    }

    /// From where `root` can log in on branch `id` so far.
    pub fn accounts_on(&self, id: &str) -> Accounts {
        self.accounts_of.get(id).copied().unwrap_or(self.accounts)
    }

    /// What the accounts must be for the address that computes listen on.
    pub fn accounts_wanted(&self) -> Accounts {
        if self.bind.is_loopback() {
            Accounts::Local
        } else {
            Accounts::Any
        }
    }
}

/// Whether an argument of mariadbd is about where the binary log is.
pub fn is_binary_log(arg: &str) -> bool {
    // MariaDB takes `_` for `-`, in the prefix as well.
    let (name, _) = arg.split_once('=').unwrap_or((arg, ""));
    let name = name.replace('_', "-");
    let name = name.strip_prefix("--").unwrap_or(&name);
    let name = name.strip_prefix("loose-").unwrap_or(name);
    matches!(name, "log-bin" | "log-bin-index")
}

/// Whether an argument of mariadbd is the server's id.
fn is_server_id(arg: &str) -> bool {
    let name = arg.trim_start_matches("--loose-").trim_start_matches("--");
    name.replace('_', "-").starts_with("server-id=")
}

impl Default for Project {
    fn default() -> Project {
        Project::new()
    }
}
