//! A stock MariaDB: an installation, and a running server.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The environment variable that names the installation.
pub const PREFIX_VAR: &str = "XYLEM_MARIADB_PREFIX";

/// An unpacked MariaDB installation (`dpkg -x` of its packages).
#[derive(Clone, Debug)]
pub struct Install {
    prefix: PathBuf,
    own_session: bool,
}

impl Install {
    /// The installation under `prefix`.
    ///
    /// # Errors
    /// When `usr/sbin/mariadbd` is missing there.
    pub fn at(prefix: impl Into<PathBuf>) -> Result<Install> {
        let install = Install {
            prefix: prefix.into(),
            own_session: false,
        };
        let server = install.path("sbin/mariadbd");
        ensure!(
            server.is_file(),
            "no MariaDB at {}: {} is missing",
            install.prefix.display(),
            server.display()
        );
        Ok(install)
    }

    /// The installation that [`PREFIX_VAR`] names.
    ///
    /// # Errors
    /// When the variable is not set, or does not name an installation.
    pub fn from_env() -> Result<Install> {
        match std::env::var_os(PREFIX_VAR) {
            Some(prefix) => Install::at(PathBuf::from(prefix)),
            None => bail!(
                "{PREFIX_VAR} is not set, and this needs a stock MariaDB 10.11; \
                 hint: run it through `cargo xtask test`, which provides one"
            ),
        }
    }

    /// Servers get a session of their own, as a service has. The kernel divides the
    /// processor between sessions first (`sched_autogroup_enabled`), so a server in the
    /// session of its clients is scheduled differently.
    #[must_use]
    pub fn in_own_session(self) -> Install {
        Install {
            own_session: true,
            ..self
        }
    }

    fn path(&self, below_usr: &str) -> PathBuf {
        self.prefix.join("usr").join(below_usr)
    }

    /// A command of the installation, with the environment that it needs.
    fn command(&self, below_usr: &str) -> Command {
        self.with_environment(Command::new(self.path(below_usr)))
    }

    fn server(&self) -> Command {
        let program = self.path("sbin/mariadbd");
        if !self.own_session {
            return self.with_environment(Command::new(program));
        }
        // It executes the program in its own process: the pid stays.
        let mut setsid = Command::new("setsid");
        setsid.arg(program);
        self.with_environment(setsid)
    }

    fn with_environment(&self, mut c: Command) -> Command {
        c.env("LD_LIBRARY_PATH", self.path("lib/x86_64-linux-gnu"));
        c.stdin(Stdio::null());
        c
    }

    /// A client program or tool, such as `mariadb-backup`.
    pub fn program(&self, name: &str) -> Command {
        self.command(&format!("bin/{name}"))
    }

    fn common_args(&self, data: &Path) -> Result<Vec<String>> {
        // Each server has its own tmpdir, because a server removes all temporary
        // files at start.
        let tmp = data.with_extension("tmp");
        fs::create_dir_all(&tmp)?;
        Ok(vec![
            "--no-defaults".into(),
            format!("--basedir={}", self.path("").display()),
            format!("--datadir={}", data.display()),
            format!("--lc-messages-dir={}", self.path("share/mysql").display()),
            format!("--plugin-dir={}", self.path("lib/mysql/plugin").display()),
            format!("--tmpdir={}", tmp.display()),
            "--user=root".into(),
        ])
    }

    /// Creates a database in the new directory `data`.
    ///
    /// # Errors
    /// When the installer fails.
    pub fn create_database(&self, data: &Path, options: &[String]) -> Result<()> {
        let out = self
            .command("bin/mariadb-install-db")
            .args(self.common_args(data)?)
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(options)
            .output()
            .context("run mariadb-install-db")?;
        ensure!(
            out.status.success(),
            "mariadb-install-db failed: {}\n{}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    /// Starts a server on `data`, with its socket and error log in `dir`.
    ///
    /// # Errors
    /// When the server does not answer within a minute.
    pub fn start(&self, data: &Path, dir: &Path, options: &[String]) -> Result<Server> {
        let log = dir.join("server.log");
        let socket = dir.join("s");
        let file = File::options().create(true).append(true).open(&log)?;
        let child = self
            .server()
            .args(self.common_args(data)?)
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .args([
                "--skip-networking",
                "--skip-log-bin",
                "--innodb-buffer-pool-dump-at-shutdown=0",
            ])
            .args(options)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start mariadbd")?;
        let mut server = Server {
            install: self.clone(),
            child,
            socket,
            log,
        };
        for _ in 0..60_000 {
            if let Some(status) = server.child.try_wait()? {
                bail!("mariadbd ended: {status}\n{}", tail(&server.log));
            }
            if greets(&server.socket) {
                return Ok(server);
            }
            // A starting server can only be polled.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("mariadbd does not answer\n{}", tail(&server.log))
    }

    /// Recovers the data directory in place with InnoDB's own code, without
    /// rollback. Returns the LSN at which the redo log ends for InnoDB.
    ///
    /// # Errors
    /// When `mariadb-backup` fails.
    pub fn recover(&self, data: &Path, page_size: usize, undo_tablespaces: u32) -> Result<u64> {
        // Files that a backup has beside the data files.
        fs::write(
            data.join("backup-my.cnf"),
            format!(
                "[mariadbd]\ninnodb_checksum_algorithm=full_crc32\n\
                 innodb_data_file_path=ibdata1:12M:autoextend\ninnodb_page_size={page_size}\n\
                 innodb_undo_directory=./\ninnodb_undo_tablespaces={undo_tablespaces}\n"
            ),
        )?;
        fs::write(
            data.join("xtrabackup_checkpoints"),
            "backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 1\nlast_lsn = 1\n",
        )?;
        let out = self
            .command("bin/mariadb-backup")
            .args(["--prepare", "--use-memory=512M"])
            .arg(format!("--target-dir={}", data.display()))
            .output()
            .context("run mariadb-backup")?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            out.status.success() && text.contains("completed OK"),
            "mariadb-backup failed: {}\n{text}",
            out.status
        );
        text.rsplit_once("End of log at LSN=")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .and_then(|lsn| lsn.parse().ok())
            .with_context(|| {
                format!("mariadb-backup does not report the end of the redo log:\n{text}")
            })
    }
}

/// Whether a line of the client's output is not an error, or is an error that
/// concurrent transactions can cause: duplicate key (1062), lock wait timeout
/// (1205), deadlock (1213).
fn is_conflict(line: &str) -> bool {
    match line.strip_prefix("ERROR ") {
        Some(error) => ["1062 ", "1205 ", "1213 "]
            .iter()
            .any(|code| error.starts_with(code)),
        None => true,
    }
}

/// Whether a server greets who connects to its socket: the fifth byte of its first packet
/// is the protocol's version, 10. A server that starts has a socket before it greets.
fn greets(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let mut head = [0; 5];
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head[4] == 10
}

/// The end of a text file, for an error message.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let skip = text.lines().count().saturating_sub(30);
    text.lines().skip(skip).collect::<Vec<_>>().join("\n")
}

/// A running server. Dropping it kills the server.
#[derive(Debug)]
pub struct Server {
    install: Install,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// The Unix socket on which the server listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn client(&self) -> Command {
        let mut c = self.install.command("bin/mariadb");
        c.args([
            "--no-defaults",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]);
        c.arg(format!("--socket={}", self.socket.display()));
        c
    }

    /// Runs statements, separated by semicolons, and returns their output.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn query(&self, sql: &str) -> Result<String> {
        let out = self.client().arg("-e").arg(sql).output()?;
        ensure!(
            out.status.success(),
            "{}\n{}",
            sql.chars().take(300).collect::<String>(),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs scripts concurrently, each in its own connection. With `force`, a
    /// conflict between them does not end a script.
    ///
    /// # Errors
    /// When a script fails, or the server has ended.
    pub fn run(&mut self, scripts: &[String], force: bool) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut clients = Vec::new();
        for (n, script) in scripts.iter().enumerate() {
            let path = dir.path().join(n.to_string());
            fs::write(&path, script)?;
            let mut c = self.client();
            if force {
                c.arg("--force");
            }
            c.stdin(File::open(&path)?).stdout(Stdio::null());
            c.stderr(File::create(path.with_extension("err"))?);
            clients.push((path.with_extension("err"), c.spawn()?));
        }
        for (err, mut client) in clients {
            let status = client.wait()?;
            let text = fs::read_to_string(&err).unwrap_or_default();
            // With --force the client continues after an error and ends with 1.
            let expected = status.success() || (force && text.lines().all(is_conflict));
            ensure!(expected, "a script failed: {status}\n{text}");
        }
        ensure!(
            self.child.try_wait()?.is_none(),
            "mariadbd died\n{}",
            tail(&self.log)
        );
        Ok(())
    }

    /// Kills the server, as in a crash.
    ///
    /// # Errors
    /// When the server cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the server to stop, and waits for its end.
    ///
    /// # Errors
    /// When the server does not stop cleanly.
    pub fn stop(mut self) -> Result<()> {
        self.query("SHUTDOWN")?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "mariadbd ended: {status}\n{}",
            tail(&self.log)
        );
        Ok(())
    }

    /// The last lines of the error log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail after kill() and stop(), which is expected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
