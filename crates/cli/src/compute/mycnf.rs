//! `my.cnf`: all of a compute's options in one file.

use anyhow::{Result, bail};
use std::ffi::OsString;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use xylem_types::BINLOG;

/// The options of a compute that vary.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// MariaDB's `usr` directory.
    pub basedir: PathBuf,
    /// Messages and character sets.
    pub share: PathBuf,
    /// Plugins.
    pub plugin_dir: PathBuf,
    /// The data directory.
    pub datadir: PathBuf,
    /// Temporary files.
    pub tmpdir: PathBuf,
    /// The directory in which SQL may read and write files.
    pub sql_files: PathBuf,
    /// The unix socket.
    pub socket: PathBuf,
    /// The pid file.
    pub pid_file: PathBuf,
    /// The error log.
    pub log_error: PathBuf,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// It runs as the system's root, which mariadbd wants to be told.
    pub as_root: bool,
    /// The key and certificate of its own port (PEM); `None`: it has no TLS.
    pub certificate: Option<PathBuf>,
    /// The directory of the authorities whose clients' certificates that port takes.
    pub client_authorities: PathBuf,
    /// `innodb_buffer_pool_size`.
    pub buffer_pool: &'a str,
    /// The size of the page cache.
    pub page_cache: &'a str,
    /// The file of the page cache.
    pub page_cache_file: PathBuf,
    /// `innodb_page_size` in bytes, if not the default.
    pub page_size: Option<u32>,
    /// How many undo tablespaces exist: MariaDB would otherwise make as many as its
    /// default says.
    pub undo_tablespaces: Option<u32>,
    /// Size of `ib_logfile0` in bytes; `None` for a new database.
    pub log_file_bytes: Option<u64>,
    /// Option files that people wrote, in order.
    pub includes: Vec<PathBuf>,
    /// The page server.
    pub page_server: PageServer<'a>,
    /// A new database is being made: engines are as the scripts say.
    pub bootstrap: bool,
    /// It accepts no writes.
    pub read_only: bool,
    /// The compute of a branch other than `main`: replication that was set up on
    /// the parent branch must not continue on it.
    pub has_parent: bool,
    /// The branch has a binary log of its own.
    pub binary_log: bool,
}

/// The options that the storage engine finds its pages with.
#[derive(Clone, Debug)]
pub struct PageServer<'a> {
    /// Its address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its Unix socket, if it has one that mariadbd can reach.
    pub socket: Option<PathBuf>,
    /// The branch, by its id: its name may be given to another.
    pub branch: &'a str,
    /// The right to write it.
    pub epoch: u64,
    /// The LSN at which the compute's redo begins.
    pub start_lsn: u64,
    /// The token's file, if the server wants one.
    pub token_file: Option<PathBuf>,
    /// The files for TLS, if the server has it.
    pub tls: Option<Tls>,
}

/// The files with which a compute and the server trust each other.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The authority of the server's certificate.
    pub authority: PathBuf,
    /// The compute's own key and certificate.
    pub identity: Option<PathBuf>,
}

/// The default of `innodb_buffer_pool_size`.
pub const BUFFER_POOL: &str = "256M";

/// The default of `innodb_page_server_cache_size`.
pub const PAGE_CACHE: &str = "1G";

/// The options of a read-only compute. Events and replication write
/// whatever `read_only` says. The event scheduler is not `DISABLED`: that would
/// also refuse to show events, as `mariadb-dump --events` asks.
const READ_ONLY: [(&str, &str); 5] = [
    ("read-only", "ON"),
    ("event-scheduler", "OFF"),
    ("innodb-stats-auto-recalc", "OFF"),
    ("innodb-buffer-pool-dump-at-shutdown", "OFF"),
    ("innodb-page-server-hot-pages-interval", "0"),
];

/// Writes the options down.
///
/// Options that people may change come first, then their option files, and last
/// the options that a compute needs, since the last setting of an option wins.
///
/// # Errors
/// When a path cannot be written in an option file.
pub fn render(options: &Options<'_>) -> Result<String> {
    let mut out = String::new();
    tunable(&mut out, options)?;
    out.push_str("\n[mariadbd]\n");
    place(&mut out, options)?;
    engine(&mut out, options)?;
    replication(&mut out, options)?;
    out.push('\n');
    page_server(&mut out, &options.page_server)?;
    line(
        &mut out,
        "innodb-page-server-cache-file",
        plain(&options.page_cache_file)?,
    )?;
    Ok(out)
}

/// Options that people may change, and their option files.
fn tunable(out: &mut String, options: &Options<'_>) -> Result<()> {
    out.push_str(
        "# Written by xylem at each start of this compute: changes here are lost.\n\
         # Put your own options into custom.cnf beside this file, or into mariadb.cnf\n\
         # in the state directory for all computes, under [mariadbd].\n\n[mariadbd]\n",
    );
    let tunable: &[(&str, &str)] = &[
        ("innodb-buffer-pool-size", options.buffer_pool),
        ("innodb-page-server-cache-size", options.page_cache),
        ("innodb-buffer-pool-dump-at-shutdown", "ON"),
        ("innodb-buffer-pool-load-at-startup", "ON"),
        ("innodb-fast-shutdown", "1"),
        ("default-storage-engine", "InnoDB"),
        ("aria-pagecache-buffer-size", "8M"),
        ("key-buffer-size", "1M"),
        ("performance-schema", "OFF"),
        ("character-set-server", "utf8mb4"),
    ];
    for (name, value) in tunable {
        line(out, name, value)?;
    }
    // Without it everybody with the FILE privilege writes wherever mariadbd can.
    line(out, "secure-file-priv", plain(&options.sql_files)?)?;
    if let Some(file) = &options.certificate {
        // Also that of the key. People who name one file with both need not name it twice.
        line(out, "ssl-cert", plain(file)?)?;
        line(out, "tls-version", "TLSv1.2,TLSv1.3")?;
        // Without it mariadbd reads all authorities of the system at its start, which takes
        // 50 ms, and would take the certificates of whoever one of them has signed.
        line(out, "ssl-capath", plain(&options.client_authorities)?)?;
    }
    if let Some(count) = options.undo_tablespaces {
        line(out, "innodb-undo-tablespaces", &count.to_string())?;
    }
    if !options.includes.is_empty() {
        out.push('\n');
    }
    for include in &options.includes {
        // The directive takes the rest of the line as it stands.
        writeln!(out, "!include {}", plain(include)?)?;
    }
    Ok(())
}

/// The files of mariadbd, and the addresses on which it listens.
fn place(out: &mut String, options: &Options<'_>) -> Result<()> {
    let paths = [
        ("basedir", &options.basedir),
        ("lc-messages-dir", &options.share),
        ("plugin-dir", &options.plugin_dir),
        ("datadir", &options.datadir),
        ("tmpdir", &options.tmpdir),
        ("socket", &options.socket),
        ("pid-file", &options.pid_file),
        ("log-error", &options.log_error),
    ];
    for (name, path) in paths {
        line(out, name, plain(path)?)?;
    }
    line(
        out,
        "character-sets-dir",
        plain(&options.share.join("charsets"))?,
    )?;
    line(out, "bind-address", &options.bind.to_string())?;
    line(out, "port", &options.port.to_string())?;
    if options.as_root {
        line(out, "user", "root")?;
    }
    out.push_str("skip-name-resolve\n");
    // The gateway on this machine says where its clients come from.
    let mut gateways = "127.0.0.1, ::1".to_owned();
    if !options.bind.is_loopback() && !options.bind.is_unspecified() {
        write!(gateways, ", {}", options.bind)?;
    }
    line(out, "proxy-protocol-networks", &gateways)?;
    Ok(())
}

/// The storage engine, and what it has no use for.
fn engine(out: &mut String, options: &Options<'_>) -> Result<()> {
    out.push_str("skip-log-bin\n\nignore-builtin-innodb\n");
    line(out, "plugin-load-add", "ha_innodb.so")?;
    line(out, "plugin-maturity", "unknown")?;
    if !options.bootstrap {
        line(out, "enforce-storage-engine", "InnoDB")?;
    }
    if let Some(bytes) = options.page_size {
        line(out, "innodb-page-size", &bytes.to_string())?;
    }
    if let Some(bytes) = options.log_file_bytes {
        line(out, "innodb-log-file-size", &bytes.to_string())?;
    }
    let fixed = [
        ("innodb-doublewrite", "OFF"),
        ("innodb-change-buffering", "none"),
    ];
    for (name, value) in fixed {
        line(out, name, value)?;
    }
    Ok(())
}

/// Replication, and what a read-only compute may do.
fn replication(out: &mut String, options: &Options<'_>) -> Result<()> {
    // A compute's relay logs are lost with its directory. A replica fetches their
    // events again, from the position that the branch has.
    out.push_str("relay-log-recovery\n");
    if options.has_parent || options.read_only || options.binary_log {
        let id = server_id(options.page_server.branch).to_string();
        line(out, "server-id", &id)?;
        if options.binary_log {
            line(out, "log-bin", BINLOG)?;
            line(out, "gtid-domain-id", &id)?;
            // A commit is durable with its events.
            line(out, "sync-binlog", "1")?;
            // The newest file is read after the loss of a compute.
            line(out, "max-binlog-size", "128M")?;
        }
    }
    if options.has_parent || options.read_only {
        out.push_str("skip-slave-start\n");
    }
    if options.read_only {
        for (name, value) in READ_ONLY {
            line(out, name, value)?;
        }
    }
    Ok(())
}

fn page_server(out: &mut String, page: &PageServer<'_>) -> Result<()> {
    line(out, "innodb-page-server-enabled", "ON")?;
    line(out, "innodb-page-server-address", &page.host)?;
    line(out, "innodb-page-server-port", &page.port.to_string())?;
    if let Some(socket) = &page.socket {
        line(out, "innodb-page-server-socket", plain(socket)?)?;
    }
    line(out, "innodb-page-server-branch", page.branch)?;
    line(out, "innodb-page-server-epoch", &page.epoch.to_string())?;
    line(
        out,
        "innodb-page-server-start-lsn",
        &page.start_lsn.to_string(),
    )?;
    if let Some(file) = &page.token_file {
        line(out, "innodb-page-server-token-file", plain(file)?)?;
    }
    if let Some(tls) = &page.tls {
        line(out, "innodb-page-server-tls-ca", plain(&tls.authority)?)?;
        if let Some(file) = &tls.identity {
            line(out, "innodb-page-server-tls-cert", plain(file)?)?;
        }
    }
    Ok(())
}

/// Whether a compute whose `my.cnf` is `text` will reach a server that has TLS, and that
/// listens on `socket` and at `address`. Computes of older versions had no TLS.
pub fn reaches(text: &str, socket: Option<&Path>, address: SocketAddr) -> bool {
    let has = |name: &str, value: &str| {
        let mut wanted = String::new();
        line(&mut wanted, name, value).is_ok() && text.lines().any(|l| l == wanted.trim_end())
    };
    if let Some(socket) = socket.and_then(Path::to_str)
        && has("innodb-page-server-socket", socket)
    {
        return true;
    }
    let secure = text
        .lines()
        .any(|l| l.starts_with("innodb-page-server-tls-ca"));
    let host = address.ip().to_string();
    let port = address.port().to_string();
    secure && has("innodb-page-server-address", &host) && has("innodb-page-server-port", &port)
}

/// A server's id, and domain of GTIDs, that no other branch has, nor, but for a chance of one in four
/// thousand million, a server that people have given theirs: FNV-1a of the
/// branch's id. Not 0 and not 1, which is MariaDB's default.
fn server_id(branch: &str) -> u32 {
    let hash = branch.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.max(2)
}

/// Writes options for client programs.
///
/// # Errors
/// When the path cannot be written in an option file.
pub fn render_client(user: &str, socket: &Path, port: u16, password: &str) -> Result<String> {
    let mut out = String::from("# Written by xylem at each start of this compute.\n[client]\n");
    line(&mut out, "user", user)?;
    line(&mut out, "password", password)?;
    line(&mut out, "socket", plain(socket)?)?;
    line(&mut out, "port", &port.to_string())?;
    Ok(out)
}

/// `name = "value"`: in quotes, as a `#` would begin a comment.
fn line(out: &mut String, name: &str, value: &str) -> Result<()> {
    if value.contains(['\n', '\r', '\0']) {
        bail!("{name}: {value:?} has a line break, which an option file cannot hold");
    }
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(out, "{name} = \"{value}\"")?;
    Ok(())
}

fn plain(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if !text.contains(['\n', '\r']) => Ok(text),
        _ => bail!("{path:?} cannot be written in an option file: use a path of printable UTF-8"),
    }
}

/// The argument that has a program read `file` and no other options.
pub fn defaults_file(file: &Path) -> OsString {
    let mut option = OsString::from("--defaults-file=");
    option.push(file);
    option
}
