//! `project.toml`: what was settled for a project, for later starts.

use crate::failure::Failure;
use crate::files;
use crate::settings::{Ports, Settings};
use crate::state::StateDir;
use anyhow::{Context, Result};
use clap::{Args, Command};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;
use xylem_server::span::Span;
use xylem_types::BINLOG;

/// The gateway's port that is tried first: the one that clients of MariaDB try.
pub const GATEWAY_PORT: u16 = 3306;
/// The API's port that is tried first.
pub const API_PORT: u16 = 3380;
/// The port of branch main's compute that is tried first.
pub const MYSQL_PORT: u16 = 3307;
/// The server's gRPC port that is tried first.
pub const GRPC_PORT: u16 = 8080;
/// The server's HTTP port that is tried first.
pub const HTTP_PORT: u16 = 8081;

/// The time after which computes sleep that nobody uses.
const SUSPEND_AFTER: Duration = Duration::from_secs(5 * 60);

/// A project, as this machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// When it was created, RFC 3339.
    pub created: String,
    /// The settings that people gave it.
    #[serde(flatten)]
    pub settings: Settings,
    /// Local WALs that are missing are rebuilt from their backups by a server that
    /// is started now.
    #[serde(skip)]
    pub restore_wal: bool,
    /// Computes create no accounts: the project becomes a template for others.
    #[serde(skip)]
    pub without_accounts: bool,
    /// Computes sleep unless a setting says otherwise. Those of projects that an earlier
    /// version created do not: their clients may connect to the computes' own ports.
    #[serde(default)]
    pub sleep_by_default: bool,
    /// From where `root` can log in so far, on every branch.
    #[serde(default)]
    pub accounts: Accounts,
    /// The same on the branch of that id. Accounts are in the database: a branch
    /// whose branch point is before they were created has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts_of: BTreeMap<String, Accounts>,
    /// The time after which the compute of the branch of that id sleeps, where it is
    /// another than the project's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspend_after_of: BTreeMap<String, String>,
    /// The most sessions that clients of the gateway have on the compute of the branch of that
    /// id, where there is a limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pool_size_of: BTreeMap<String, NonZeroU32>,
    /// The ids of branches whose moments clients of the gateway may name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub moments_of: BTreeSet<String>,
    /// The first branch is being filled. Left over after a crash it says that the
    /// project is incomplete.
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

/// The first key of `table` that `project.toml` does not have: it is neither a field
/// of [`Project`] nor a setting.
fn unknown_key(table: &toml::Table) -> Option<&String> {
    const FIELDS: [&str; 9] = [
        "created",
        "sleep_by_default",
        "accounts",
        "accounts_of",
        "suspend_after_of",
        "pool_size_of",
        "moments_of",
        "half_made",
        "ports",
    ];
    let settings = Settings::augment_args(Command::new("settings"));
    let is_setting = |key: &str| settings.get_arguments().any(|arg| arg.get_id() == key);
    table
        .keys()
        .find(|key| !FIELDS.contains(&key.as_str()) && !is_setting(key))
}

impl Project {
    /// A project that is created now.
    pub fn new(now: Timestamp) -> Project {
        Project {
            created: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            settings: Settings::default(),
            restore_wal: false,
            without_accounts: false,
            sleep_by_default: true,
            accounts: Accounts::None,
            accounts_of: BTreeMap::new(),
            suspend_after_of: BTreeMap::new(),
            pool_size_of: BTreeMap::new(),
            moments_of: BTreeSet::new(),
            half_made: false,
            ports: Ports::default(),
        }
    }

    /// Reads `project.toml` of `state`.
    ///
    /// # Errors
    /// When the file is missing, cannot be read or is malformed.
    pub fn load(state: &StateDir) -> Result<Project> {
        state.require_project()?;
        let path = state.project_file();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let malformed = || format!("{} is malformed", path.display());
        let table: toml::Table = text.parse().with_context(malformed)?;
        // A setting that this version does not know must not be lost in silence.
        if let Some(key) = unknown_key(&table) {
            return Err(Failure::new(
                format!("{}: unknown key {key:?}", path.display()),
                "another version of Xylem wrote it: remove the key, or give the setting that replaces it (`xylem up --help`)",
            ));
        }
        toml::from_str(&text).with_context(malformed)
    }

    /// Writes `project.toml` of `state`; durable when it returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<()> {
        let text = toml::to_string(self).context("cannot express the project's settings")?;
        files::write_durable(&state.project_file(), text.as_bytes(), files::SECRET)
    }

    /// Makes a change that must not lose one of another command: in `project.toml` as it is
    /// now, and here.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn update(&mut self, state: &StateDir, change: impl Fn(&mut Project)) -> Result<()> {
        let _alone = state.lock_settings()?;
        let mut stored = Project::load(state)?;
        let before = stored.clone();
        change(&mut stored);
        if stored != before {
            stored.save(state)?;
        }
        change(self);
        Ok(())
    }

    /// The further arguments of a compute; `main`: of branch main's. Only that one
    /// gets a binary log outside of the branch, since two computes that wrote the same files
    /// would ruin them, and a server's id and a domain of GTIDs, since two replicas with the
    /// same id push each other out, and two servers in one domain give one GTID to two
    /// transactions.
    pub fn mariadbd_args_of(&self, main: bool) -> impl Iterator<Item = OsString> {
        let all = self.settings.compute.mariadbd_args.iter();
        all.filter(move |arg| main || !(is_binary_log(arg) || is_identity(arg)))
            .filter(|arg| !is_own_binary_log(arg))
            .map(OsString::from)
    }

    /// Whether each branch has a binary log of its own.
    pub fn has_binary_log(&self) -> bool {
        let all = &self.settings.compute.mariadbd_args;
        all.iter().any(|arg| is_own_binary_log(arg))
    }

    /// From where `root` can log in on branch `id` so far.
    pub fn accounts_on(&self, id: &str) -> Accounts {
        self.accounts_of.get(id).copied().unwrap_or(self.accounts)
    }

    /// How long the compute of branch `id` may be unused before it sleeps; `None`: for
    /// ever.
    ///
    /// Computes that other machines reach by their own ports sleep only where a setting
    /// says so, since nobody would wake them there.
    pub fn suspend_after(&self, id: &str) -> Option<Duration> {
        let own = self.suspend_after_of.get(id);
        let span = own.or(self.settings.sleep.suspend_after.as_ref());
        let by_default = self.sleep_by_default && self.settings.bind().is_loopback();
        let after = match span {
            Some(span) => span.parse::<Span>().ok().map(|span| span.0),
            None => by_default.then_some(SUSPEND_AFTER),
        };
        after.filter(|after| *after > Duration::ZERO)
    }

    /// The accounts that the address of the computes requires.
    pub fn accounts_wanted(&self) -> Accounts {
        if self.settings.bind().is_loopback() {
            Accounts::Local
        } else {
            Accounts::Any
        }
    }
}

/// The name of an option of mariadbd in an argument, and its value.
fn option(arg: &str) -> (String, Option<&str>) {
    let (name, value) = match arg.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (arg, None),
    };
    // MariaDB takes `_` for `-`, in the prefix as well.
    let name = name.replace('_', "-");
    let name = name.strip_prefix("--").unwrap_or(&name);
    let name = name.strip_prefix("loose-").unwrap_or(name);
    (name.to_owned(), value)
}

/// Whether an argument of mariadbd is about where the binary log is.
pub fn is_binary_log(arg: &str) -> bool {
    matches!(&option(arg).0[..], "log-bin" | "log-bin-index")
}

/// Whether an argument of mariadbd asks for a binary log that belongs to the branch.
pub fn is_own_binary_log(arg: &str) -> bool {
    let (name, value) = option(arg);
    name == "log-bin" && matches!(value, None | Some("" | BINLOG))
}

/// Whether an argument of mariadbd tells it from other servers.
fn is_identity(arg: &str) -> bool {
    matches!(&option(arg).0[..], "server-id" | "gtid-domain-id")
}
