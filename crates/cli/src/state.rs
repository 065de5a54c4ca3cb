//! The state directory, and the paths in it.

use crate::account::User;
use crate::compute::name::ComputeName;
use crate::failure::Failure;
use crate::files;
use crate::ports;
use crate::process::Process;
use crate::role::Role;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_ambient::Entropy;
use xylem_channel::{ClientTls, Identity};
use xylem_proto::dial::{PROTOCOL, Way};
use xylem_tls::authority::Paths;

/// Environment variable that names the state directory.
pub const VARIABLE: &str = "XYLEM_DIR";

/// Longest path of a unix socket: `sockaddr_un.sun_path` less its final zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// A project's state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// The server process, as `server.json` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// The address of pages and control, `host:port`.
    pub grpc: String,
    /// The address of metrics and health, `host:port`.
    pub http: String,
    /// Its Unix socket. Servers of older versions speak no gRPC there.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// The authority of its certificate. Servers of older versions have no TLS.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// It was ended on purpose.
    #[serde(default)]
    pub stopped: bool,
    /// Where this run's lines begin in `server.log`, in bytes.
    #[serde(default)]
    pub log_from: u64,
}

impl ServerRecord {
    /// The address at which a program on this machine reaches the server.
    ///
    /// # Errors
    /// When the record has none.
    pub fn address(&self) -> Result<SocketAddr> {
        let listens: SocketAddr = self
            .grpc
            .parse()
            .with_context(|| format!("{:?} in server.json is not an address", self.grpc))?;
        Ok(SocketAddr::new(
            ports::reachable(listens.ip()),
            listens.port(),
        ))
    }

    /// The way to the server's gRPC.
    ///
    /// # Errors
    /// When the record has no address, or the authority cannot be read.
    pub fn way(&self) -> Result<Way> {
        if let Some(socket) = &self.socket {
            return Ok(Way::Socket(socket.clone()));
        }
        let address = self.address()?.to_string();
        let Some(authority) = &self.authority else {
            return Ok(Way::Plain(address));
        };
        let identity = self.identity().map(|file| Identity {
            certificate: file.clone(),
            key: file,
        });
        let tls = ClientTls::new(xylem_tls::provider(), PROTOCOL, authority.clone(), identity)?;
        Ok(Way::Tls(address, Arc::new(tls)))
    }

    /// The key and certificate that the authority has made for this project's programs.
    pub fn identity(&self) -> Option<PathBuf> {
        let dir = self.authority.as_ref()?.parent()?;
        Some(Paths::in_dir(dir).client).filter(|file| file.exists())
    }
}

impl StateDir {
    /// The directory that was asked for (`--dir` or `XYLEM_DIR`), else
    /// `./.xylem`. It need not be there.
    ///
    /// # Errors
    /// When the current directory cannot be told.
    pub fn find(asked: Option<&Path>) -> Result<StateDir> {
        let path = asked
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".xylem"));
        let path = match std::fs::canonicalize(path) {
            Ok(path) => path,
            Err(_) => std::path::absolute(path).context("cannot tell the current directory")?,
        };
        Ok(StateDir { root: path })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes it, for its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&mut self) -> Result<()> {
        files::make_private_dir(&self.root)?;
        self.root = std::fs::canonicalize(&self.root)
            .with_context(|| format!("cannot resolve {}", self.root.display()))?;
        Ok(())
    }

    /// Whether there is a project here.
    pub fn has_project(&self) -> bool {
        self.project_file().exists()
    }

    /// Checks that there is a project here.
    ///
    /// # Errors
    /// When none was, or it belongs to somebody else.
    pub fn require_project(&self) -> Result<()> {
        match std::fs::metadata(self.project_file()) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::new(
                    format!("cannot look into {}: {error}", self.root.display()),
                    format!(
                        "run this command as the user that the project belongs to, or name another directory with --dir or {VARIABLE}"
                    ),
                ));
            }
        }
        Err(Failure::new(
            format!("there is no project in {}", self.root.display()),
            format!(
                "create one with `xylem up`, or name another directory with --dir or {VARIABLE}"
            ),
        ))
    }

    /// Settings of the project.
    pub fn project_file(&self) -> PathBuf {
        self.root.join("project.toml")
    }
    /// The server's data directory.
    pub fn server_data(&self) -> PathBuf {
        self.root.join("server")
    }
    /// The server process.
    pub fn server_file(&self) -> PathBuf {
        self.root.join("server.json")
    }
    /// The socket on which the server listens, in a directory that computes can reach;
    /// `None` where its path would be too long, so that the port is used.
    pub fn server_socket(&self) -> Option<PathBuf> {
        let elsewhere = std::fs::read_link(self.root.join("computes"));
        let dir = elsewhere.unwrap_or_else(|_| self.root.clone());
        Some(dir.join("server.sock")).filter(|path| fits(path))
    }
    /// The server's output.
    pub fn server_log(&self) -> PathBuf {
        self.root.join("server.log")
    }
    /// The socket on which the gateway tells its metrics; `None` where its path would be too
    /// long.
    pub fn gateway_metrics(&self) -> Option<PathBuf> {
        Some(self.root.join("gateway-metrics.sock")).filter(|path| fits(path))
    }
    /// Locked by the gateway that puts computes to sleep.
    pub fn sleep_lock(&self) -> PathBuf {
        self.root.join("sleep.lock")
    }
    /// The process of a role.
    pub fn role_file(&self, role: Role) -> PathBuf {
        self.root.join(format!("{}.json", role.name()))
    }
    /// The output of a role.
    pub fn role_log(&self, role: Role) -> PathBuf {
        self.root.join(format!("{}.log", role.name()))
    }
    /// The error log of stock MariaDB when an export failed.
    pub fn export_log(&self) -> PathBuf {
        self.root.join("export.log")
    }
    /// The error log of stock MariaDB when an import failed.
    pub fn import_log(&self) -> PathBuf {
        self.root.join("import.log")
    }
    /// The password of the database account `root`.
    pub fn password_file(&self) -> PathBuf {
        self.root.join("root.password")
    }
    /// The log of calls that manage branches.
    pub fn audit_log(&self) -> PathBuf {
        self.root.join("audit.log")
    }
    /// The project's certificates.
    pub fn certificates(&self) -> PathBuf {
        self.root.join("tls")
    }
    /// The token of the project's owner.
    pub fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }
    /// Options for every compute, written by people.
    pub fn custom_cnf(&self) -> PathBuf {
        self.root.join("mariadb.cnf")
    }
    /// All computes: beside the rest, or where a symbolic link there leads
    /// ([`crate::run_as::open_computes`]).
    pub fn computes(&self) -> PathBuf {
        let beside = self.root.join("computes");
        std::fs::read_link(&beside).unwrap_or(beside)
    }
    /// One compute.
    pub fn compute(&self, name: &ComputeName) -> ComputeDir {
        ComputeDir {
            root: self.computes().join(name.file_name()),
        }
    }

    /// The server as last recorded.
    pub fn server_record(&self) -> Option<ServerRecord> {
        serde_json::from_slice(&std::fs::read(self.server_file()).ok()?).ok()
    }

    /// Records the server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_server_record(&self, record: &ServerRecord) -> Result<()> {
        files::write_atomic(
            &self.server_file(),
            &serde_json::to_vec_pretty(record)?,
            files::SECRET,
        )
    }

    /// The owner's token; `None` before the server is started for the first time.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn token(&self) -> Result<Option<String>> {
        read_secret(&self.token_file())
    }

    /// The password of `root`, if one was made.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn password(&self) -> Result<Option<String>> {
        read_secret(&self.password_file())
    }

    /// The password of `root`; created now if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or no randomness is to be had.
    pub fn make_password(&self, entropy: &Entropy) -> Result<String> {
        if let Some(password) = self.password()? {
            return Ok(password);
        }
        let password = random_password(entropy).context("cannot make a password")?;
        files::write_durable(
            &self.password_file(),
            format!("{password}\n").as_bytes(),
            files::SECRET,
        )?;
        Ok(password)
    }
}

/// 32 letters and digits, more than 128 bits of randomness.
fn random_password(entropy: &Entropy) -> std::io::Result<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut out = String::new();
    for _ in 0..2 {
        let mut number = entropy.next()?;
        for _ in 0..16 {
            let letter = ALPHABET.get((number % 62) as usize).copied();
            out.push(char::from(letter.unwrap_or(b'x')));
            number /= 62;
        }
    }
    Ok(out)
}

fn read_secret(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// One compute's directory.
#[derive(Clone, Debug)]
pub struct ComputeDir {
    root: PathBuf,
}

impl ComputeDir {
    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The port that was chosen for it, in decimal digits.
    pub fn port_file(&self) -> PathBuf {
        self.root.join("port")
    }
    /// The record of the compute.
    pub fn record_file(&self) -> PathBuf {
        self.root.join("compute.json")
    }
    /// MariaDB's data directory, new at each start.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    /// The data directory of the last start, while the next one begins.
    pub fn old_data(&self) -> PathBuf {
        self.root.join("old-data")
    }
    /// MariaDB's temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
    /// The directory of the page cache; kept.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// The directory in which SQL may read and write files (`secure_file_priv`); kept.
    pub fn sql_files(&self) -> PathBuf {
        self.root.join("files")
    }
    /// The directory of mariadbd's socket and pid file.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    /// The authority of the server's certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.root.join("ca.pem")
    }
    /// The compute's own key and certificate.
    pub fn identity_file(&self) -> PathBuf {
        self.root.join("client.pem")
    }
    /// The key and certificate of the compute's own port.
    pub fn certificate_file(&self) -> PathBuf {
        self.root.join("compute.pem")
    }
    /// The authorities of clients' certificates, under the names that `openssl rehash` gives
    /// them.
    pub fn client_authorities(&self) -> PathBuf {
        self.root.join("client-ca")
    }
    /// The compute's token: for its branch and epoch.
    pub fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }
    /// The option file number `nth` of people, where mariadbd may not read the
    /// file itself.
    pub fn included_cnf(&self, nth: usize) -> PathBuf {
        self.root.join(format!("included{nth}.cnf"))
    }
    /// MariaDB's options, written at each start.
    pub fn my_cnf(&self) -> PathBuf {
        self.root.join("my.cnf")
    }
    /// Options that people wrote for this compute.
    pub fn custom_cnf(&self) -> PathBuf {
        self.root.join("custom.cnf")
    }
    /// Options for client programs, with the password.
    pub fn client_cnf(&self) -> PathBuf {
        self.root.join("client.cnf")
    }
    /// SQL for one start, with the password; removed when it has run.
    pub fn init_sql(&self) -> PathBuf {
        self.root.join("init.sql")
    }
    /// The SQL that fills an empty branch.
    pub fn bootstrap_sql(&self) -> PathBuf {
        self.root.join("bootstrap.sql")
    }
    /// MariaDB's error log.
    pub fn log(&self) -> PathBuf {
        self.root.join("mariadbd.log")
    }
    /// MariaDB's pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.run().join("mariadbd.pid")
    }

    /// The path of the unix socket: in this directory if that is short enough for a
    /// socket, else in a private directory. `user` is the account that creates the
    /// socket, if not the caller's.
    ///
    /// # Errors
    /// When that directory cannot be made, or is somebody else's.
    pub fn socket(&self, user: Option<&User>) -> Result<PathBuf> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        socket_path(&self.run(), runtime.as_deref(), user)
    }
}

/// See [`ComputeDir::socket`]; `runtime` is `$XDG_RUNTIME_DIR`, the caller's.
///
/// # Errors
/// When the short directory cannot be made, or is somebody else's.
pub fn socket_path(dir: &Path, runtime: Option<&Path>, user: Option<&User>) -> Result<PathBuf> {
    let beside = dir.join("mysql.sock");
    if fits(&beside) {
        return Ok(beside);
    }
    let name = files::short_name(dir.as_os_str().as_encoded_bytes()) + ".sock";
    let me = rustix::process::geteuid().as_raw();
    let owner = user.map_or(me, |user| user.uid);
    let runtime = runtime.filter(|dir| user.is_none() && dir.is_absolute() && dir.is_dir());
    let in_runtime = runtime
        .map(|dir| dir.join("xylem"))
        .filter(|dir| fits(&dir.join(&name)));
    let private = in_runtime.unwrap_or_else(|| PathBuf::from(format!("/tmp/xylem-{owner}")));
    let new = std::fs::symlink_metadata(&private).is_err();
    files::make_private_dir(&private)?;
    if let (true, Some(user)) = (new, user) {
        user.give(&private)?;
    }
    // Anybody may have made this name in /tmp before us.
    let meta = std::fs::symlink_metadata(&private)
        .with_context(|| format!("cannot look at {}", private.display()))?;
    if !meta.is_dir() || meta.uid() != owner || meta.mode() & 0o077 != 0 {
        return Err(Failure::new(
            format!(
                "{} is not a private directory of {}",
                private.display(),
                user.map_or("this user", |user| &user.name)
            ),
            "remove it, or use a state directory with a shorter path, so that the socket fits there",
        ));
    }
    Ok(private.join(name))
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_MAX
}
