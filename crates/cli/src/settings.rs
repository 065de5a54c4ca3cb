//! The settings that a project keeps for later starts. Each is declared here, and
//! only here: the flags of `xylem up`, `project.toml`, `--unset` and the flags of
//! the server all follow from these structs.

use anyhow::{Context, Result};
use clap::{Args, Command, ValueEnum};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use utoipa::ToSchema;

/// InnoDB's default page size in bytes; that of the template.
pub const PAGE_SIZE: u32 = 16_384;
/// The value of `--wal-store` that is the default.
pub const WAL_STORE: &str = "local";

/// Settings of a project, or those given to one command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Settings {
    /// The place of the project's data.
    #[command(flatten)]
    #[serde(flatten)]
    pub store: StoreSettings,
    /// The database's format.
    #[command(flatten)]
    #[serde(flatten)]
    pub format: FormatSettings,
    /// Settings with which the server is started.
    #[command(flatten)]
    #[serde(flatten)]
    pub server: ServerSettings,
    /// The place at which the server listens.
    #[command(flatten)]
    #[serde(flatten)]
    pub listen: ListenSettings,
    /// Settings with which computes are started.
    #[command(flatten)]
    #[serde(flatten)]
    pub compute: ComputeSettings,
    /// Settings with which the gateway is started.
    #[command(flatten)]
    #[serde(flatten)]
    pub gateway: GatewaySettings,
    /// Settings with which the API is started.
    #[command(flatten)]
    #[serde(flatten)]
    pub api: ApiSettings,
    /// When computes sleep.
    #[command(flatten)]
    #[serde(flatten)]
    pub sleep: SleepSettings,
}

/// The place of a project's data: flags of the server that never change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct StoreSettings {
    /// Object store of layers, manifests and the catalogue, such as
    /// file:///srv/xylem; cannot be changed later
    /// [default: a directory in the state directory]
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// Place of WALs: local (this machine's disk) or object (the object store: a
    /// commit waits for it, and the loss of this machine loses nothing); cannot be
    /// changed later [default: local]
    #[arg(long, value_name = "WHERE", value_parser = [WAL_STORE, "object"])]
    pub wal_store: Option<String>,
}

/// The database's format, which is fixed at its creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct FormatSettings {
    /// Page size of the database: 16k, 32k or 64k; cannot be changed later
    /// [default: 16k]
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    pub page_size: Option<u32>,
}

/// Flags of the server that may change from start to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ServerSettings {
    /// Back local WALs up to the object store; a backup is at most this old, such
    /// as 500ms; 0s: no backup [default: 1s with a remote store, else 0s]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub wal_backup: Option<String>,
    /// Memory for the server's pages, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// How far back branches keep their history, such as 36h [default: 7d]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub history: Option<String>,
    /// Names and addresses under which other machines reach the server, with commas
    /// between them: its certificate is for them, too
    #[arg(long, value_name = "NAMES")]
    pub tls_names: Option<String>,
    /// Certificate of your own for the server (PEM), in place of the project's
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub tls_cert: Option<String>,
    /// Private key of that certificate (PEM) [default: in the file of --tls-cert]
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub tls_key: Option<String>,
    /// Authorities (PEM) of the certificates that other machines need to connect to the
    /// server, such as the project's ca.pem [default: none needed]
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub tls_client_ca: Option<String>,
}

/// The place at which the server listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ListenSettings {
    /// Address that the server listens on, such as 0.0.0.0 for other machines, too
    /// [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub server_bind: Option<IpAddr>,
}

/// Settings with which computes are started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ComputeSettings {
    /// Address that computes listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Buffer pool of each compute, such as 1G [default: 256M]
    #[arg(long, value_name = "SIZE")]
    pub buffer_pool: Option<String>,
    /// Page cache of each compute on its own disk, such as 8G, or 0 for none
    /// [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub page_cache: Option<String>,
    /// System account that mariadbd runs as if root calls this command, such as
    /// mysql, or root itself [default: xylem, created if missing]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Further arguments of mariadbd, kept for later starts like all settings here
    #[arg(last = true, value_name = "MARIADBD ARGS")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mariadbd_args: Vec<String>,
}

/// Settings with which the gateway is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// Run a gateway, which gives all branches one address: on or off; off stops one that
    /// runs [default: on]
    #[arg(long, value_name = "SWITCH", hide_possible_values = true)]
    pub gateway: Option<Switch>,
    /// Address that the gateway listens on, such as 0.0.0.0 for other machines, which must
    /// use TLS [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub gateway_bind: Option<IpAddr>,
    /// Domain of server names in TLS, such as example.com: a client that connects to
    /// dev.example.com gets branch dev
    #[arg(long, value_name = "DOMAIN")]
    pub gateway_domain: Option<String>,
}

/// Settings with which the API is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ApiSettings {
    /// Serve the HTTP API: on or off; off stops one that runs [default: on]
    #[arg(long, value_name = "SWITCH", hide_possible_values = true)]
    pub api: Option<Switch>,
    /// Address that the API listens on, such as 0.0.0.0 for other machines, too
    /// [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub api_bind: Option<IpAddr>,
    /// Directory of this machine in which imports by the API read, and exports write; may be
    /// given several times [default: none, and no import or export by the API]
    #[arg(long, value_name = "DIR", value_parser = path)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_files: Vec<String>,
}

/// Settings that a gateway which runs takes at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct SleepSettings {
    /// Time after which the gateway puts a compute to sleep that nobody uses, such as 1h;
    /// 0s: never [default: 5m, never with --bind]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub suspend_after: Option<String>,
}

/// Whether something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It runs.
    On,
    /// It does not.
    Off,
}

/// The ports of a project; `None`: not chosen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Ports {
    /// Port of the gateway [default: 3306, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub gateway_port: Option<u16>,
    /// Port of the API [default: 3380, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: Option<u16>,
    /// Port of branch main's compute [default: 3307, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub mysql_port: Option<u16>,
    /// Those of the server.
    #[command(flatten)]
    #[serde(flatten)]
    pub server: ServerPorts,
}

/// The ports of a server; `None`: any will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ServerPorts {
    /// Port of the server's gRPC [default: 8080, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub grpc_port: Option<u16>,
    /// Port of the server's HTTP [default: 8081, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
}

/// The setting `--grpc-port`, which computes that run depend on.
pub const GRPC_PORT: &str = "grpc-port";

/// The setting `--tls-cert`, to which `--tls-key` belongs.
pub const TLS_CERT: &str = "tls-cert";

/// The settings that `--unset` accepts, by the names of their flags.
pub fn names() -> Vec<String> {
    let command = Command::new("names");
    let command = ServerSettings::augment_args(command);
    let command = ListenSettings::augment_args(command);
    let command = ComputeSettings::augment_args(command);
    let command = GatewaySettings::augment_args(command);
    let command = ApiSettings::augment_args(command);
    let command = SleepSettings::augment_args(command);
    let command = Ports::augment_args(command);
    let mut names: Vec<String> = command
        .get_arguments()
        .map(|arg| flag(arg.get_id().as_str()))
        .collect();
    names.sort();
    names
}

/// `wal_backup` as it is typed: `wal-backup`.
fn flag(field: &str) -> String {
    field.replace('_', "-")
}

impl Settings {
    /// These settings, where those in `given` replace them.
    ///
    /// # Errors
    /// When a setting cannot be written in TOML.
    pub fn with(&self, given: &Settings) -> Result<Settings> {
        let mut all = table(self)?;
        all.extend(table(given)?);
        all.try_into().context("cannot combine the settings")
    }

    /// The address that computes listen on.
    pub fn bind(&self) -> IpAddr {
        self.compute.bind.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// The address that the server listens on.
    pub fn server_bind(&self) -> IpAddr {
        let bind = self.listen.server_bind;
        bind.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Whether the project has a gateway.
    pub fn has_gateway(&self) -> bool {
        self.gateway.gateway != Some(Switch::Off)
    }

    /// The address that the gateway listens on.
    pub fn gateway_bind(&self) -> IpAddr {
        let bind = self.gateway.gateway_bind;
        bind.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Whether the project has an API.
    pub fn has_api(&self) -> bool {
        self.api.api != Some(Switch::Off)
    }

    /// The address that the API listens on.
    pub fn api_bind(&self) -> IpAddr {
        let bind = self.api.api_bind;
        bind.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// The database's page size in bytes.
    pub fn page_size(&self) -> u32 {
        self.format.page_size.unwrap_or(PAGE_SIZE)
    }

    /// The place of WALs.
    pub fn wal_store(&self) -> &str {
        self.store.wal_store.as_deref().unwrap_or(WAL_STORE)
    }

    /// The server's flags with their values.
    ///
    /// # Errors
    /// When a setting cannot be written in TOML.
    pub fn server_flags(&self) -> Result<Vec<OsString>> {
        let mut flags = Vec::new();
        for (field, value) in table(&self.store)?.into_iter().chain(table(&self.server)?) {
            flags.push(format!("--{}", flag(&field)).into());
            flags.push(match value {
                toml::Value::String(text) => text.into(),
                other => other.to_string().into(),
            });
        }
        Ok(flags)
    }
}

/// `settings` without the one whose flag is `name`, so that its default holds.
///
/// # Errors
/// When a setting cannot be written in TOML.
pub fn without<T: Serialize + DeserializeOwned>(settings: &T, name: &str) -> Result<T> {
    let mut all = table(settings)?;
    all.retain(|field, _| flag(field) != name);
    all.try_into()
        .with_context(|| format!("cannot unset {name}"))
}

fn table<T: Serialize>(settings: &T) -> Result<toml::Table> {
    toml::Table::try_from(settings).context("cannot write the settings in TOML")
}

/// A path that stays right when the server is started in another directory.
fn path(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    let path = path.into_os_string().into_string();
    path.map_err(|_| "the path is not UTF-8".to_owned())
}

/// A time with its unit, such as 90s, as it is kept.
///
/// # Errors
/// When it is none.
pub fn span(text: &str) -> Result<String, String> {
    let span = text.parse::<xylem_server::span::Span>();
    span.map(|span| span.to_string()).map_err(|e| e.to_string())
}

/// `innodb_page_size` in bytes.
fn page_size(text: &str) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match lower.trim_end_matches('k') {
        "16" | "16384" => Ok(16_384),
        "32" | "32768" => Ok(32_768),
        "64" | "65536" => Ok(65_536),
        "4" | "4096" | "8" | "8192" => Err(
            "MariaDB's own tables have keys too long for pages of 4 and 8 KiB; use 16k, 32k or 64k"
                .to_owned(),
        ),
        _ => Err("use 16k, 32k or 64k".to_owned()),
    }
}
