//! Declares every setting of the server once: its name in the file, its flag and
//! environment variable, its default, its range, and the texts of `--help` and of the
//! table in docs/server.md.

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::fmt::Write;
use std::path::PathBuf;

/// One setting: `name` in a file, `--name` with dashes as a flag, `XYLEM_NAME`
/// in the environment.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in a file.
    pub name: &'static str,
    /// The kind of value, as `--help` names it: `SIZE`, `DURATION`, ...
    pub value: &'static str,
    /// The default.
    pub default: Fallback,
    /// The smallest and the largest value, as a user types them.
    pub range: Option<(&'static str, &'static str)>,
    /// The effect of the setting, in one line.
    pub help: &'static str,
    /// More about it, for the documents; may be empty.
    pub detail: &'static str,
}

/// The default of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// This text, parsed like a user's value.
    Is(&'static str),
    /// A value that depends on the machine or on other settings, in words.
    Depends(&'static str),
    /// The setting is off.
    Off,
    /// The setting has no default and must be given.
    Required,
}

impl Setting {
    /// The flag, without its dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("XYLEM_{}", self.name.to_ascii_uppercase())
    }

    fn arg(&self) -> Arg {
        let help = match self.default {
            Fallback::Is(text) | Fallback::Depends(text) => {
                format!("{} [default: {text}]", self.help)
            }
            Fallback::Off | Fallback::Required => self.help.to_owned(),
        };
        Arg::new(self.name)
            .long(self.flag())
            .value_name(self.value)
            .help(help.replace('`', ""))
    }
}

/// The table of all settings in docs/server.md, in Markdown.
pub fn markdown() -> String {
    let mut table = String::from("| Setting | Default | Meaning |\n|---|---|---|\n");
    for setting in SETTINGS {
        let default = match setting.default {
            Fallback::Is(text) => format!("`{text}`"),
            Fallback::Depends(text) => text.to_owned(),
            Fallback::Off => "none".to_owned(),
            Fallback::Required => "required".to_owned(),
        };
        let range = setting
            .range
            .map(|(least, most)| format!(" From `{least}` to `{most}`."))
            .unwrap_or_default();
        let detail = match setting.detail {
            "" => String::new(),
            detail => format!(" {detail}"),
        };
        let _ = writeln!(
            table,
            "| `{}` | {default} | {}.{detail}{range} |",
            setting.name, setting.help
        );
    }
    table
}

/// Declares the settings: the table, a constant for each, and the flags.
macro_rules! settings {
    ($($name:ident: $value:literal, $default:expr, $range:expr, $help:literal, $detail:literal;)*) => {
        $(
            #[allow(non_upper_case_globals, reason = "named as the setting is")]
            pub(super) const $name: Setting = Setting {
                name: stringify!($name),
                value: $value,
                default: $default,
                range: $range,
                help: $help,
                detail: $detail,
            };
        )*

        /// Every setting, in the order of the documents.
        pub const SETTINGS: &[Setting] = &[$($name),*];

        /// The flags of `xylem server`. A setting without a flag comes from the
        /// environment (`XYLEM_DATA_DIR` for `--data-dir`, and so on), then from
        /// the file, then it has its default.
        #[allow(missing_docs, reason = "a setting's words are in the table")]
        #[derive(Clone, Debug, Default)]
        pub struct ServerArgs {
            /// The configuration file.
            pub config: Option<PathBuf>,
            /// For this start only: WALs that are not on this disk are lost.
            pub restore_wal: bool,
            $(pub $name: Option<String>,)*
        }

        impl ServerArgs {
            /// The value that the flag of setting `name` was given.
            pub(super) fn flag(&self, name: &str) -> Option<&String> {
                match name {
                    $(stringify!($name) => self.$name.as_ref(),)*
                    _ => None,
                }
            }

            fn set(&mut self, name: &str, value: String) {
                match name {
                    $(stringify!($name) => self.$name = Some(value),)*
                    _ => {}
                }
            }
        }
    };
}

use Fallback::{Depends, Is, Off, Required};

settings! {
    data_dir: "DIR", Required, None,
        "Directory of the project", "Created if it does not exist.";
    grpc_listen: "ADDR", Is("127.0.0.1:8080"), None,
        "Address of the gRPC service", "Port 0 takes any free port.";
    http_listen: "ADDR", Is("127.0.0.1:8081"), None,
        "Address of `/metrics`, `/healthz` and `/readyz`", "Port 0 takes any free port.";
    compute_socket: "PATH", Off, None,
        "Unix socket for computes on this machine, and for gRPC of root and of the server's own user", "Computes on other machines use `grpc_listen`.";
    memory: "SIZE", Depends("1/8 of the machine's memory, at least 512MiB"), Some(("32MiB", "4TiB")),
        "Memory of all branches",
        "Seven eighths are for pages (layers in memory, indexes, caches), one eighth for WALs (entries that wait to be durable, and objects that readers still need). Where a control group limits memory, the default is an eighth of that limit.";
    wal_segment_size: "SIZE", Is("64MiB"), Some(("1MiB", "1GiB")),
        "Size of a local WAL's segment files", "Trimming frees whole segments.";
    open_layer_size: "SIZE", Is("64MiB"), Some(("1MiB", "4GiB")),
        "Redo in an open layer before it is flushed", "";
    page_wait_timeout: "DURATION", Is("5s"), Some(("1ms", "1h")),
        "How long a page read waits for its LSN if the request does not say", "";
    stop_grace: "DURATION", Is("5s"), Some(("0s", "1h")),
        "How long computes may stay connected while the server stops", "";
    keys_dir: "DIR", Off, None,
        "Directory of the keys that sign tokens",
        "With it, callers must send a token, and the token says what they may do. See [Tokens](#tokens). It is read anew when it changes.";
    tls_dir: "DIR", Off, None,
        "Directory of the project's own certificates",
        "With it, both addresses require TLS. The server makes an authority and certificates there if they are missing, and renews them. See [TLS](#tls).";
    tls_names: "NAMES", Off, None,
        "Further DNS names and IP addresses of this server, with commas between them",
        "The server's certificate in `tls_dir` is also for `localhost`, the machine's name, and the addresses that the server listens on.";
    tls_cert: "FILE", Depends("`server.pem` in `tls_dir`"), None,
        "The server's certificate (PEM), then those that lead to its authority",
        "A certificate of your own in place of the one in `tls_dir`. Changed files are read again within 5 seconds.";
    tls_key: "FILE", Depends("the file of `tls_cert`"), None,
        "The certificate's private key (PEM)", "";
    tls_client_ca: "FILE", Off, None,
        "Authorities of clients (PEM)", "With it, clients need a certificate of one of them (mutual TLS), beside a token.";
    insecure_listen: "BOOL", Is("false"), None,
        "Listen where other machines reach the server, without TLS or without tokens: `true` or `false`",
        "Only for a network that you trust.";
    audit_log: "FILE", Off, None,
        "File to which a line of JSON is appended for each call that manages a branch, done or refused", "";
    log_format: "FORMAT", Is("text"), None,
        "Format of log lines: `text` or `json`", "The server logs to standard error.";
    log_level: "LEVEL", Is("info"), None,
        "Least severe log lines to write: `error`, `warn`, `info`, `debug`, `trace`, or a filter",
        "A filter names modules, such as `info,xylem_pages=debug`.";
    object_store: "URL", Depends("`file://DIR/store`"), None,
        "URL of the object store",
        "It holds the catalogue, layers and manifests: a directory (`file:///srv/xylem/store`), or a bucket (`s3://`, `gs://`, `az://`).";
    wal_store: "WHERE", Is("local"), None,
        "Place of WALs: `local` or `object`",
        "`local` is this server's disk, `object` the object store. It cannot be changed later.";
    wal_backup: "DURATION", Depends("`1s` with a remote object store, else `0s`"), Some(("0s", "1h")),
        "Greatest age of a commit that the backup of a local WAL lacks",
        "This bounds what the loss of this server's disk costs, as long as the object store answers. Up to 4 objects of 4 MiB of each branch are uploaded at a time, from memory beside `memory`. `0s` turns the backup off.";
    ownership_lease: "DURATION", Is("6s"), Some(("100ms", "1h")),
        "How long this server may acknowledge commits after another server has claimed the project",
        "The other server waits for as long. Applies to local WALs. See [One server at a time](#one-server-at-a-time).";
    on_store_outage: "WHAT", Is("serve"), None,
        "Commits to local WALs while the object store does not answer: `serve` or `stop`",
        "`serve` acknowledges them. `stop` makes them wait once the ownership lease is over.";
    cache_size: "SIZE", Is("10GiB"), Some(("64MiB", "1PiB")),
        "Local disk for cached objects of a remote object store", "The cache is in `DIR/cache`.";
    history: "DURATION", Is("7d"), None,
        "How far back every moment of a branch can be read and restored",
        "Time in which no server runs does not count. Setting the system clock discards nothing.";
    lease_timeout: "DURATION", Is("10m"), Some(("100ms", "1d")),
        "How long the lease of a read-only compute survives without use", "";
    stall_timeout: "DURATION", Is("1m"), Some(("100ms", "1h")),
        "How long a client may take no answer, or send no item, before its stream ends",
        "The stream's memory and permits are free from then on.";
    connections_max: "N", Is("4096"), Some(("8", "1048576")),
        "Open connections of computes and gRPC callers", "Further connections are closed at once. HTTP has a limit of 256 of its own, and closes connections that are idle for a minute.";
    connections_per_host: "N", Is("1024"), Some(("8", "1048576")),
        "Open connections of one host, or one /64 network of IPv6", "Loopback and the Unix socket have no such limit.";
    leases_max: "N", Is("1000"), Some(("1", "1000000")),
        "Leases of read-only computes", "Further leases are refused.";
    page_threads: "N", Depends("twice the processors; 64 with a remote object store"), Some(("1", "512")),
        "Threads that read pages from layers", "";
    worker_threads: "N", Depends("the processors, at least 2"), Some(("1", "512")),
        "Threads that serve connections", "";
    compute_redo_log_size: "SIZE", Is("4GiB"), Some(("4MiB", "512GiB")),
        "Size of the sparse `ib_logfile0` that a compute starts with", "A multiple of 4096 bytes.";
    ingest_lag_soft: "SIZE", Is("256MiB"), Some(("1MiB", "1TiB")),
        "Lag of ingest behind the WAL at which the server begins to slow writers", "See [Pacing](#pacing).";
    scrub_bytes_per_second: "SIZE", Is("2MiB"), Some(("0", "1TiB")),
        "Rate of the background scrub, over all branches", "`0` turns it off.";
}

impl clap::Args for ServerArgs {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        command = command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Configuration file (TOML)"),
            )
            .arg(
                Arg::new("restore_wal")
                    .long("restore-wal")
                    .action(ArgAction::SetTrue)
                    .help("Rebuild missing WALs from their backups; for this start only"),
            );
        SETTINGS
            .iter()
            .fold(command, |command, setting| command.arg(setting.arg()))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ServerArgs, clap::Error> {
        let mut args = ServerArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one("config").cloned();
        self.restore_wal = matches.get_flag("restore_wal");
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.name) {
                self.set(setting.name, value.clone());
            }
        }
        Ok(())
    }
}
