//! The stand-in: the program that `mysql-test-run.pl` starts instead of `mariadbd`.
//!
//! Every data directory of the runner gets a project: its own page server with one
//! branch. The runner bootstraps one directory and copies it for each test. The copy
//! contains a [`MARKER`] that names the bootstrapped project, and the first start copies
//! that project. Every later start of the directory, after a shutdown or a kill, first
//! removes its content, except for binary logs and tables of engines that a project does
//! not have: the test continues with data from the page server.

use crate::mode::Mode;
use crate::verify;
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use xylem_ambient::{Clock, Entropy};
use xylem_cli::app::App;
use xylem_cli::compute::base::Materialise;
use xylem_cli::compute::bootstrap;
use xylem_cli::control::Control;
use xylem_cli::files;
use xylem_cli::home::Home;
use xylem_cli::progress::Progress;
use xylem_cli::project::Project;
use xylem_cli::server;
use xylem_cli::settings::ServerPorts;
use xylem_cli::state::{ServerRecord, StateDir};
use xylem_types::BranchName;

/// The argument that makes this program the stand-in.
pub const COMMAND: &str = "mariadbd";

/// The directory under which projects are kept.
pub const PROJECTS: &str = "XYLEM_MTR_PROJECTS";
/// The servers that the tests run on: a [`Mode`].
pub const MODE: &str = "XYLEM_MTR_MODE";
/// The real `mariadbd`.
pub const MARIADBD: &str = "XYLEM_MTR_MARIADBD";
/// The directory with `ha_innodb.so` and the other plugins.
pub const PLUGINS: &str = "XYLEM_MTR_PLUGINS";

/// The file with the path of the project, in a data directory that was bootstrapped and
/// not started since.
const MARKER: &str = "xylem-project";

/// Small, since a machine runs several test servers and their page servers.
const SERVER_MEMORY: &str = "256MiB";

/// Prepares the project and the data directory, then executes the real server.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("[ERROR] xylem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let start = Start {
        mode: variable(MODE)?.to_string_lossy().parse()?,
        mariadbd: variable(MARIADBD)?.into(),
        plugins: variable(PLUGINS)?.into(),
        projects: variable(PROJECTS)?.into(),
        home: Home::find()?,
        args,
    };
    let asks_only = ["--help", "-?", "--version", "-V"]
        .iter()
        .any(|word| start.args.iter().any(|arg| arg == word));
    if asks_only || start.mode == Mode::Stock {
        return start.become_mariadbd(&[], &[]);
    }
    let plugin = start.plugin_options();
    if start.mode == Mode::Off {
        return start.become_mariadbd(&plugin, &[]);
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(start.on_page_server(plugin))
}

fn variable(name: &str) -> Result<OsString> {
    std::env::var_os(name).with_context(|| format!("{name} is not set: use cargo xtask mysqltest"))
}

/// One call of the stand-in.
struct Start {
    mode: Mode,
    mariadbd: PathBuf,
    plugins: PathBuf,
    projects: PathBuf,
    home: Home,
    args: Vec<OsString>,
}

impl Start {
    fn plugin_options(&self) -> Vec<OsString> {
        let mut plugin_dir = OsString::from("--plugin-dir=");
        plugin_dir.push(&self.plugins);
        vec![
            "--ignore-builtin-innodb".into(),
            "--plugin-load-add=ha_innodb.so".into(),
            "--plugin-maturity=unknown".into(),
            plugin_dir,
        ]
    }

    fn command(&self, more: &[OsString], envs: &[(&str, OsString)]) -> Command {
        let mut command = Command::new(&self.mariadbd);
        command.args(&self.args).args(more);
        command.envs(envs.iter().map(|(name, value)| (name, value)));
        command
    }

    fn become_mariadbd(&self, more: &[OsString], envs: &[(&str, OsString)]) -> Result<ExitCode> {
        let error = self.command(more, envs).exec();
        Err(error).with_context(|| format!("cannot execute {}", self.mariadbd.display()))
    }

    /// The value that `mariadbd` uses for an option.
    fn option(&self, name: &str) -> Result<Option<OsString>> {
        let prefix = format!("--{name}=");
        let of = |args: &mut dyn DoubleEndedIterator<Item = &OsStr>| {
            args.rev()
                .find_map(|arg| Some(OsString::from(arg.to_str()?.strip_prefix(&prefix)?)))
        };
        if let Some(value) = of(&mut self.args.iter().map(OsString::as_os_str)) {
            return Ok(Some(value));
        }
        let defaults = self
            .args
            .iter()
            .filter(|arg| arg.to_string_lossy().starts_with("--defaults-"));
        if self.args.iter().any(|arg| arg == "--no-defaults") {
            return Ok(None);
        }
        let program = self.home.basedir().join("bin/my_print_defaults");
        let out = Command::new(&program)
            .args(defaults)
            .args(["mysqld", "server", "mariadbd"])
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        Ok(of(&mut text.lines().map(OsStr::new)))
    }

    async fn on_page_server(&self, mut options: Vec<OsString>) -> Result<ExitCode> {
        let Some(datadir) = self.option("datadir")? else {
            bail!("no --datadir: a project belongs to a data directory");
        };
        let datadir = std::path::absolute(&datadir)?;
        let bootstrap = self.args.iter().any(|arg| arg == "--bootstrap");
        std::fs::create_dir_all(&self.projects)?;
        // One start at a time, so that ports found free are still free when the server
        // binds them.
        let lock = std::fs::File::create(self.projects.join("lock"))?;
        lock.lock().context("cannot lock the projects")?;
        let mut place = Place::of(&self.projects, &datadir)?;
        match place.stage(bootstrap)? {
            Stage::Bootstrap => place.begin(None).await?,
            Stage::Copied(from) if from != place.app.state.root() => {
                place.begin(Some(&from)).await?
            }
            Stage::Copied(_) | Stage::Again => {}
        }
        let (record, control) = place.ensure_server(&self.home).await?;
        drop(lock);

        let branch = BranchName::main();
        let attached = control.attach(&branch).await?;
        empty(&datadir)?;
        if !attached.empty {
            let mut base = Materialise::new(&datadir, None);
            control
                .base_backup(&branch, attached.start_lsn, |item| base.take(item))
                .await?;
            base.finish()?;
        }
        let grpc = record.address()?;
        for option in [
            "--innodb-page-server-enabled=ON".to_owned(),
            format!("--innodb-page-server-address={}", grpc.ip()),
            format!("--innodb-page-server-port={}", grpc.port()),
            format!("--innodb-page-server-branch={branch}"),
            format!("--innodb-page-server-epoch={}", attached.epoch),
            format!("--innodb-page-server-start-lsn={}", attached.start_lsn),
            // Each test begins with a new data directory, and so without a list of hot
            // pages, whose tables are open from the start.
            "--innodb-buffer-pool-load-at-startup=OFF".to_owned(),
            // The runner turns syncs off, since the writes of a killed process stay in
            // the machine's page cache. Here they must have reached the page server.
            "--loose-skip-debug-no-sync".to_owned(),
            "--sync-frm".to_owned(),
        ] {
            options.push(option.into());
        }
        let token = place.app.state.root().join("compute.token");
        xylem_cli::files::write_atomic(
            &token,
            attached.token.as_bytes(),
            xylem_cli::files::SECRET,
        )?;
        let mut option = OsString::from("--innodb-page-server-token-file=");
        option.push(&token);
        options.push(option);
        // Over TLS, as on another machine.
        if let Some(authority) = &record.authority {
            let mut option = OsString::from("--innodb-page-server-tls-ca=");
            option.push(authority);
            options.push(option);
        }
        let envs = [
            ("LD_PRELOAD", self.home.client_library().into()),
            (
                "XYLEM_DATADIR",
                std::fs::canonicalize(&datadir)?.into_os_string(),
            ),
        ];
        if !(bootstrap && attached.empty) {
            return self.become_mariadbd(&options, &envs);
        }
        let code = self.bootstrap(options, &envs)?;
        // Copies must find it as one that was stopped.
        server::stop(&place.app.state).await?;
        let path = place.app.state.root().as_os_str().as_encoded_bytes();
        std::fs::write(datadir.join(MARKER), path)?;
        Ok(code)
    }

    /// Runs the runner's bootstrap with all tables in InnoDB, if possible.
    fn bootstrap(&self, mut options: Vec<OsString>, envs: &[(&str, OsString)]) -> Result<ExitCode> {
        // Pages of 4 and 8 KiB cannot hold the keys of MariaDB's grant tables.
        let stay_in_aria = self
            .option("innodb-page-size")?
            .is_some_and(|size| size.to_str().is_some_and(has_short_keys));
        // The runner created the directory `mysql`, but the branch does not have it.
        let mut sql = b"create database if not exists mysql;\n".to_vec();
        std::io::stdin().read_to_end(&mut sql)?;
        if !stay_in_aria {
            // A help text may not be UTF-8. The runner's own tables name MyISAM.
            sql = bootstrap::in_innodb(&String::from_utf8_lossy(&sql))
                .replace("ENGINE=MyISAM", "ENGINE=InnoDB")
                .into_bytes();
            options.push("--default-storage-engine=InnoDB".into());
        }
        options.extend(
            [
                "--innodb-flush-log-at-trx-commit=0",
                "--max-allowed-packet=8M",
                "--net-buffer-length=16K",
            ]
            .map(OsString::from),
        );
        let mut child = self
            .command(&options, envs)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.mariadbd.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // If `mariadbd` ends early, it prints the reason itself.
            let _ = stdin.write_all(&sql);
        }
        let status = child.wait()?;
        Ok(ExitCode::from(
            u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
        ))
    }
}

/// The state of a data directory.
enum Stage {
    /// The directory is new and needs its system tables.
    Bootstrap,
    /// The directory, or the one it was copied from, was bootstrapped and not started
    /// since. Contains the path of the bootstrapped project.
    Copied(PathBuf),
    /// The directory was started before.
    Again,
}

/// A data directory and its project.
struct Place {
    datadir: PathBuf,
    app: App,
}

impl Place {
    fn of(projects: &Path, datadir: &Path) -> Result<Place> {
        let name: String = datadir
            .to_string_lossy()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        Ok(Place {
            datadir: datadir.to_owned(),
            app: App::at(
                &projects.join(name.trim_start_matches('-')),
                Clock::system(),
                Entropy::system(),
            )?,
        })
    }

    fn stage(&self, bootstrap: bool) -> Result<Stage> {
        let marker = self.datadir.join(MARKER);
        if let Ok(path) = std::fs::read_to_string(&marker) {
            return Ok(Stage::Copied(path.into()));
        }
        // The runner makes an empty `mysql` before it bootstraps.
        let used = ["ibdata1", "ib_logfile0"]
            .iter()
            .any(|name| self.datadir.join(name).exists());
        match (bootstrap, used, self.app.state.has_project()) {
            (true, false, _) => Ok(Stage::Bootstrap),
            (_, _, true) => Ok(Stage::Again),
            _ => bail!(
                "{} was not bootstrapped here, so it has no project",
                self.datadir.display()
            ),
        }
    }

    /// Creates a project, empty or as a copy of a stopped one.
    async fn begin(&mut self, from: Option<&Path>) -> Result<()> {
        retire(&self.app.state).await?;
        files::remove_tree(self.app.state.root())?;
        self.app.state.create()?;
        let now = self.app.now()?;
        let mut project = Project::new(now);
        project.settings.server.memory = Some(SERVER_MEMORY.to_owned());
        project.save(&self.app.state)?;
        if let Some(from) = from {
            let from = StateDir::find(Some(from))?;
            xylem_server::project::create_from_template(
                &from.server_data(),
                &self.app.state.server_data(),
                now,
                &self.app.entropy,
            )?;
        }
        Ok(())
    }

    async fn ensure_server(&self, home: &Home) -> Result<(ServerRecord, Control)> {
        let home = Home::at(home.root()).without_template();
        let mut project = Project::load(&self.app.state)?;
        let running = server::ensure(
            &self.app,
            &home,
            &mut project,
            ServerPorts::default(),
            &Progress::new(false),
        )
        .await?;
        Ok((running.record, running.control))
    }
}

/// Verifies a project and kills its page server, since the project is no longer needed.
pub async fn retire(state: &StateDir) -> Result<()> {
    let Some(record) = state.server_record() else {
        return Ok(());
    };
    let root = state.root();
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    if record.process.is_alive()
        && let Some(projects) = root.parent()
    {
        verify::project(projects, &name, state).await?;
    }
    record.process.kill().await
}

/// Whether the key length limit of this page size is too small for MariaDB's grant tables.
fn has_short_keys(page_size: &str) -> bool {
    ["4", "8"].iter().any(|size| {
        let rest = page_size.strip_prefix(size);
        matches!(rest, Some("k" | "K" | "096" | "192"))
    })
}

/// Removes everything that a compute on another machine would not have. Creates the
/// directory if it does not exist.
fn empty(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.symlink_metadata()?.is_dir() {
            empty(&path)?;
            // A directory that is not empty stays.
            let _ = std::fs::remove_dir(&path);
        } else if !is_binary_log(&path) && !is_of_other_engines(&path) {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether a file belongs to a binary or relay log. Such files are not part of a branch.
/// Users keep them outside the data directory, but the suites cannot.
fn is_binary_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("-bin.") || name.ends_with("-bin")
}

/// Whether a file belongs to Aria or MyISAM. A project refuses tables of other engines,
/// but the suites use them next to InnoDB tables.
fn is_of_other_engines(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    name.starts_with("aria_log") || ["MAI", "MAD", "MYI", "MYD"].contains(&&*extension)
}
