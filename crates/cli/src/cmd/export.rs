//! `xylem export`: a branch, at a moment, as a stock data directory.

use crate::app::{App, LOCK_LIMIT};
use crate::compute::account;
use crate::control::Control;
use crate::datadir::fetch::{self, Space, Written};
use crate::datadir::log_tables;
use crate::datadir::meter::Meter;
use crate::datadir::restore;
use crate::datadir::stock::{LOG_BYTES, Stock};
use crate::datadir::stopped::LOG;
use crate::datadir::target::{Target, cannot_write};
use crate::home::Home;
use crate::moment::Moment;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::project::Project;
use crate::server::{self, WantedPorts};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use xylem_proto::control::Tablespace;
use xylem_proto::control::base_item::Item;
use xylem_redo::SpaceFlags;
use xylem_types::{BranchName, Lsn, SpaceId};

/// The file that says what settings the directory needs.
const SETTINGS: &str = "xylem-export.cnf";
/// Between two looks at how far it is.
const TICK: Duration = Duration::from_millis(200);

/// `xylem export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// The data directory to write; must not be there, or be empty
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// The branch as of then: an LSN, a time, or '5 minutes ago' [default: now]
    #[arg(long, value_name = "LSN|TIME", value_parser = Moment::parse)]
    pub at: Option<Moment>,
}

fn branch(text: &str) -> Result<BranchName, String> {
    BranchName::parse(text).map_err(|e| e.to_string())
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    branch: String,
    lsn: u64,
    dir: PathBuf,
    page_size: usize,
    undo_tablespaces: usize,
    tablespaces: usize,
    pages: u64,
    page_bytes: u64,
    side_files: usize,
    user: String,
    password_file: PathBuf,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// When there is no such branch or moment, or the directory cannot be written.
pub async fn run(app: &App, args: &ExportArgs) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    // What is dropped half done removes what it has written.
    tokio::select! {
        done = export(app, args) => done,
        _ = interrupt.recv() => bail!("interrupted: nothing was exported"),
        _ = terminate.recv() => bail!("ended from outside: nothing was exported"),
    }
}

async fn export(app: &App, args: &ExportArgs) -> Result<()> {
    let began = Instant::now();
    app.state.require_project()?;
    let progress = app.progress();
    let home = Home::find()?;
    home.check()?;
    // Before anything is started for it.
    let target = Target::begin(&args.target)?;
    let control = connect(app, &home, &progress).await?;
    // It keeps the history there while it is fetched; one that is cut short is
    // removed by the server when nobody has used it for a while.
    let lease = control.create_lease(&args.branch, args.at).await?;
    let lsn = lease.branch_point_lsn;
    let mut found = Found::new(target);
    progress.say(format!("fetching branch {} at LSN {lsn}", args.branch));
    let fetched = async {
        control
            .everything(&lease.name, lsn, |item| found.take(item))
            .await?;
        pages(&control, &lease.name, lsn, &mut found, &progress).await
    };
    let written = fetched.await;
    let released = control.remove_branch(&lease.name).await;
    let written = written?;
    released?;
    log_tables::empty(found.target.path())?;
    found.write_log(Lsn(lsn))?;
    progress.say("starting stock MariaDB on it".to_owned());
    found.settle(&home, &app.state.export_log()).await?;
    found.write_settings(&args.branch, lsn)?;
    progress.say("making it durable".to_owned());
    let report = Report {
        branch: args.branch.to_string(),
        lsn,
        page_size: found.page_size()?,
        undo_tablespaces: found.undo_tablespaces(),
        tablespaces: found.spaces.len(),
        pages: written.pages,
        page_bytes: written.bytes,
        side_files: found.side_files,
        user: found.user.unwrap_or_else(account::root),
        password_file: app.state.password_file(),
        dir: found.target.finish()?,
        seconds: began.elapsed().as_secs_f64(),
    };
    drop(progress);
    tell(app, &report)
}

/// The server, started if need be.
async fn connect(app: &App, home: &Home, progress: &Progress) -> Result<Control> {
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let mut project = Project::load(&app.state)?;
    let running = server::ensure(
        &app.state,
        home,
        &mut project,
        WantedPorts::default(),
        progress,
    )
    .await?;
    Ok(running.control)
}

/// What the branch has, as far as it is written.
struct Found {
    target: Target,
    spaces: Vec<Tablespace>,
    side_files: usize,
    /// The one whose pieces come.
    side_file: Option<(String, File)>,
    user: Option<String>,
}

impl Found {
    fn new(target: Target) -> Found {
        Found {
            target,
            spaces: Vec::new(),
            side_files: 0,
            side_file: None,
            user: None,
        }
    }

    fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Directory(dir) => {
                self.side_files += 1;
                self.target.directory(&dir.path, dir.mode & 0o777 | 0o700)
            }
            // Only Xylem's own client has a use for it.
            Item::File(file) if file.path == account::USER_FILE => {
                self.user = Some(String::from_utf8_lossy(&file.data).trim().to_owned());
                Ok(())
            }
            // As above: a stock server has no branches.
            Item::File(file) if file.path == account::BINLOG_OWNER_FILE => Ok(()),
            // A branch that was imported may have them.
            Item::File(file) if log_tables::is_rows(&file.path) => Ok(()),
            Item::File(file) => {
                if file.offset == 0 {
                    self.side_files += 1;
                    let mode = file.mode & 0o777 | 0o600;
                    let out = self.target.create(&file.path, mode)?;
                    self.side_file = Some((file.path.clone(), out));
                }
                // The pieces of a large one follow one another.
                match &mut self.side_file {
                    Some((path, out)) if *path == file.path => out
                        .write_all_at(&file.data, file.offset)
                        .map_err(|e| cannot_write(Path::new(&file.path), e)),
                    _ => bail!(
                        "the server sent a piece of {} without its beginning",
                        file.path
                    ),
                }
            }
            Item::Tablespace(space) => {
                let out = self.target.create(&space.path, 0o660)?;
                let bytes = file_bytes(&space)?;
                out.set_len(bytes)
                    .map_err(|e| cannot_write(Path::new(&space.path), e))?;
                self.spaces.push(Tablespace {
                    pages: Vec::new(),
                    ..space
                });
                Ok(())
            }
            // A compute's; this directory gets one of its own.
            Item::RedoLog(_) => Ok(()),
        }
    }

    fn page_size(&self) -> Result<usize> {
        let system = self.spaces.iter().find(|s| s.space_id == 0);
        let system = system.context("the branch has no system tablespace")?;
        Ok(flags(system)?.logical_page_size())
    }

    fn undo_tablespaces(&self) -> usize {
        let is_undo = |path: &str| path.starts_with("undo") && !path.contains('/');
        self.spaces.iter().filter(|s| is_undo(&s.path)).count()
    }

    /// Last of all: InnoDB does not start without it.
    fn write_log(&mut self, lsn: Lsn) -> Result<()> {
        let names = self
            .spaces
            .iter()
            .filter(|s| s.path.ends_with(".ibd"))
            .map(|s| (SpaceId(s.space_id), s.path.as_str()));
        let head = xylem_redo::log_file_naming(lsn, names, LOG_BYTES)
            .context("the log is too small for the names of all tablespaces")?;
        let mut out = self.target.create(LOG, 0o660)?;
        out.write_all(&head)
            .and_then(|()| out.set_len(LOG_BYTES))
            .map_err(|e| cannot_write(Path::new(LOG), e))
    }

    /// Has stock MariaDB roll DDL back that was under way, take its own tables
    /// back into Aria, and stop cleanly. That also proves that it starts.
    async fn settle(&self, home: &Home, keep_log: &Path) -> Result<()> {
        let data = self.target.path();
        let sql = restore::sql(home, data)?;
        let work = tempfile::Builder::new()
            .prefix("xylem-export-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let stock = Stock {
            home,
            data,
            work: work.path(),
            keep_log,
            page_size: self.page_size()?,
            undo_tablespaces: self.undo_tablespaces(),
            force_recovery: 0,
            fast_shutdown: 1,
            // What was being committed at the moment of the export: no binary
            // log is exported that could tell what becomes of it.
            roll_back_prepared: true,
        };
        stock
            .run("starting stock MariaDB on the exported directory", &sql)
            .await?;
        Ok(())
    }

    fn write_settings(&mut self, branch: &BranchName, lsn: u64) -> Result<()> {
        let text = format!(
            "# Branch {branch} of a Xylem project at LSN {lsn}, for MariaDB 10.11.\n\
             # The server must be started with these settings, from its own option file:\n\
             # it does not read this one. If it runs as another user, such as mysql, the\n\
             # directory must be that user's: chown -R mysql: DIR\n\
             [mariadbd]\n\
             innodb_page_size = {}\n\
             innodb_data_file_path = ibdata1:12M:autoextend\n\
             innodb_undo_tablespaces = {}\n",
            self.page_size()?,
            self.undo_tablespaces()
        );
        let mut out = self.target.create(SETTINGS, 0o644)?;
        out.write_all(text.as_bytes())
            .map_err(|e| cannot_write(Path::new(SETTINGS), e))
    }
}

/// Pages of InnoDB's logical size that a new file has
/// (`FIL_IBD_FILE_INITIAL_SIZE` in `fil0fil.h`).
const FILE_PAGES_MIN: u64 = 4;

/// How large the file of a tablespace is. Of `ROW_FORMAT=COMPRESSED` the pages
/// are smaller than InnoDB's, and a few of them need less than the least size
/// that InnoDB gives a file and takes (`fil_node_t::read_page0()`).
fn file_bytes(space: &Tablespace) -> Result<u64> {
    let least = FILE_PAGES_MIN * flags(space)?.logical_page_size() as u64;
    Ok(space.size.max(least))
}

fn flags(space: &Tablespace) -> Result<SpaceFlags> {
    SpaceFlags::new(space.flags).with_context(|| space.path.clone())
}

/// Fetches the pages of all tablespaces.
async fn pages(
    control: &Control,
    branch: &str,
    lsn: u64,
    found: &mut Found,
    progress: &Progress,
) -> Result<Written> {
    let mut spaces = Vec::new();
    let mut total = 0;
    for space in &found.spaces {
        let flags = flags(space)?;
        total += space.size;
        spaces.push(Space {
            id: space.space_id,
            flags,
            pages: u32::try_from(space.size / flags.physical_page_size() as u64)?,
            path: found.target.path().join(&space.path),
        });
    }
    let meter = Meter::new(total);
    let from = control.pages(branch, lsn).await?;
    let fetching = {
        let meter = Arc::clone(&meter);
        async move { fetch::fetch(&from, spaces, &meter).await }
    };
    tokio::pin!(fetching);
    loop {
        progress.say(format!("exporting: {}", meter.text()));
        tokio::select! {
            done = &mut fetching => return done,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

fn tell(app: &App, report: &Report) -> Result<()> {
    if app.json {
        return output::json(report);
    }
    output::text_line(&format!(
        "branch {} at LSN {} is in {} now ({} tablespaces, {} pages, {}, in {:.1} s).\n\n\
         \x20 settings  that MariaDB must have, in {}\n\
         \x20 accounts  as on the branch; the password of `{}` is in {}",
        report.branch,
        report.lsn,
        report.dir.display(),
        report.tablespaces,
        report.pages,
        bytes(report.page_bytes),
        report.seconds,
        report.dir.join(SETTINGS).display(),
        report.user,
        report.password_file.display(),
    ))
}
