//! `xylem import`: a stock data directory, or a prepared backup, as a branch.

use crate::app::{App, LOCK_LIMIT};
use crate::control::Control;
use crate::datadir::SYSTEM_DATABASES;
use crate::datadir::convert::{self, Copy};
use crate::datadir::meter::{Meter, watched};
use crate::datadir::pages;
use crate::datadir::plan::Plan;
use crate::datadir::refusal::{self, Refusal};
use crate::datadir::send::{self, BadFile, Sent};
use crate::datadir::survey::{self, Survey};
use crate::datadir::walk::Entry;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::output::{self, bytes};
use crate::proc::Process;
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::server::{self, WantedPorts};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use xylem_proto::control::ImportResponse;
use xylem_types::BranchName;

/// Items on their way to the server.
const ITEMS_AHEAD: usize = 8;
/// What a scratch directory's name begins with; its maker's process follows.
const SCRATCH: &str = "import-";

/// `xylem import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A data directory of MariaDB 10.11 that was stopped cleanly, or a backup
    /// that mariadb-backup has prepared; it is only read
    pub datadir: PathBuf,
    /// The branch it becomes; there must be none of that name
    #[arg(long, value_name = "B", value_parser = branch, default_value = "main")]
    pub branch: BranchName,
    /// Only look whether it can be imported, and check every page
    #[arg(long)]
    pub check: bool,
    /// Leave out files that are not known, rather than refuse
    #[arg(long)]
    pub leave_out_unknown: bool,
    /// Where the copy of the system tablespace goes [default: the state directory]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Where the layers of a new project go; cannot be changed later
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// Port of a new project's gRPC [default: 8080, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub grpc_port: Option<u16>,
    /// Port of a new project's HTTP [default: 8081, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
}

impl ImportArgs {
    fn ports(&self) -> WantedPorts {
        WantedPorts {
            grpc: self.grpc_port,
            http: self.http_port,
        }
    }
}

fn branch(text: &str) -> Result<BranchName, String> {
    BranchName::parse(text).map_err(|e| e.to_string())
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    datadir: PathBuf,
    branch: String,
    /// The branch's id, once it is there.
    id: Option<String>,
    lsn: Option<u64>,
    page_size: Option<usize>,
    undo_tablespaces: Option<usize>,
    tablespaces: Option<u64>,
    pages: Option<u64>,
    page_bytes: Option<u64>,
    side_files: Option<u64>,
    layers: Option<u64>,
    layer_bytes: Option<u64>,
    user: Option<&'static str>,
    password_file: Option<PathBuf>,
    seconds: f64,
    notes: Vec<String>,
    refused: Vec<Refusal>,
}

/// Runs the command.
///
/// # Errors
/// When the directory is refused, or something fails.
pub async fn run(app: App, args: &ImportArgs) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut new = NewProject::default();
    let mut app = app;
    let done = tokio::select! {
        done = import(&mut app, args, &mut new) => done,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted: nothing was imported")),
        _ = terminate.recv() => Err(anyhow::anyhow!("ended from outside: nothing was imported")),
    };
    if done.is_err() {
        new.undo(&app).await;
    }
    done
}

/// What was made for the import's sake, and goes when it fails.
#[derive(Default)]
struct NewProject {
    made: bool,
}

impl NewProject {
    async fn undo(&self, app: &App) {
        if !self.made {
            return;
        }
        let undone = async {
            super::down::stop_all(&app.state).await?;
            files::remove_tree(&app.state.server_data())?;
            std::fs::remove_file(app.state.project_file())?;
            anyhow::Ok(())
        };
        if let Err(error) = undone.await {
            eprintln!("the project that was begun could not be removed: {error:#}");
        }
    }
}

async fn import(app: &mut App, args: &ImportArgs, new: &mut NewProject) -> Result<()> {
    let began = Instant::now();
    let progress = app.progress();
    let datadir = std::fs::canonicalize(&args.datadir).map_err(|e| {
        Failure::new(
            format!("{}: {e}", args.datadir.display()),
            "name the data directory of a stopped MariaDB",
        )
    })?;
    if !datadir.is_dir() {
        return Err(Failure::new(
            format!("{} is not a directory", datadir.display()),
            "name the data directory of a stopped MariaDB",
        ));
    }
    progress.say(format!("looking at {}", datadir.display()));
    let survey = {
        let (dir, leave_out) = (datadir.clone(), args.leave_out_unknown);
        tokio::task::spawn_blocking(move || survey::survey(&dir, leave_out))
            .await
            .context("looking at the directory ended early")??
    };
    let mut report = Report {
        datadir: datadir.clone(),
        branch: args.branch.to_string(),
        page_size: survey.system.as_ref().map(|_| survey.page_size()),
        undo_tablespaces: Some(survey.undo.len()),
        notes: survey.notes.clone(),
        refused: survey.refusals.clone(),
        ..Report::default()
    };
    if args.check {
        check(&progress, survey, &mut report).await?;
        report.seconds = began.elapsed().as_secs_f64();
        drop(progress);
        return finish(app, &report, true);
    }
    if !report.refused.is_empty() {
        report.seconds = began.elapsed().as_secs_f64();
        drop(progress);
        return finish(app, &report, false);
    }

    let home = Home::find()?;
    home.check()?;
    let fresh = check_branch(app, args, &survey, &progress).await?;
    app.state.create()?;
    let work = Scratch::make(args.scratch.as_deref().unwrap_or(app.state.root()))?;
    let password = app.state.make_password()?;
    let plan = match prepare(app, &home, survey, &work, &password, &progress).await? {
        Prepared::Bad(bad) => {
            report.refused = refusals(&bad);
            report.seconds = began.elapsed().as_secs_f64();
            drop(progress);
            return finish(app, &report, false);
        }
        Prepared::Ready(plan, entries, notes) => {
            report.notes.extend(notes);
            (plan, entries)
        }
    };
    let control = connect(app, args, &home, &plan.0, new, fresh, &progress).await?;
    let (sent, bad, answer) = load(plan.0, plan.1, &args.branch, &control, &progress).await?;
    report.notes.extend(sent.1);
    let sent = sent.0;
    report.tablespaces = Some(sent.tablespaces);
    report.pages = Some(sent.pages);
    report.page_bytes = Some(sent.page_bytes);
    report.side_files = Some(sent.side_files);
    report.refused = refusals(&bad);
    if let Some(answer) = answer {
        report.id = Some(answer.id);
        report.lsn = Some(answer.lsn);
        report.layers = Some(answer.layers);
        report.layer_bytes = Some(answer.layer_bytes);
        report.user = Some(convert::USER);
        report.password_file = Some(app.state.password_file());
    }
    report.seconds = began.elapsed().as_secs_f64();
    drop(progress);
    if bad.is_empty() {
        // From here on it is there, whatever happens to what is told of it.
        new.made = false;
    }
    finish(app, &report, false)
}

/// Checks every page of the directory.
async fn check(progress: &Progress, survey: Survey, report: &mut Report) -> Result<()> {
    // Without the log's end all LSNs are fine.
    let end = survey
        .stopped
        .as_ref()
        .map_or(xylem_types::Lsn::MAX, |s| s.end);
    let spaces: Vec<_> = (survey.system.into_iter())
        .chain(survey.undo)
        .chain(survey.tables)
        .collect();
    let total = spaces.iter().map(|s| s.bytes()).sum();
    let meter = Meter::new(total);
    let counted = Arc::clone(&meter);
    let (sent, bad, notes) = watched(progress, "checking pages", &meter, move || {
        let mut sent = Sent::default();
        let (mut bad, mut notes) = (Vec::new(), Vec::new());
        for space in &spaces {
            let found = pages::scan::<anyhow::Error>(
                space,
                end,
                |_, _| Ok(()),
                |bytes| Ok(counted.add(bytes)?),
            )
            .with_context(|| format!("cannot read {}", space.name))?;
            sent.tablespaces += 1;
            sent.pages += found.pages;
            sent.page_bytes += found.pages * space.page_bytes() as u64;
            if !found.bad_and_free.is_empty() {
                notes.push(send::free_note(&space.name, &found.bad_and_free));
            }
            if !found.bad.is_empty() {
                bad.push(BadFile {
                    name: space.name.clone(),
                    pages: found.bad,
                });
            }
        }
        Ok((sent, bad, notes))
    })
    .await?;
    report.tablespaces = Some(sent.tablespaces);
    report.pages = Some(sent.pages);
    report.page_bytes = Some(sent.page_bytes);
    report.lsn = survey.stopped.map(|s| s.end.0);
    report.notes.extend(notes);
    report.refused.extend(refusals(&bad));
    Ok(())
}

/// Bad pages as reasons to refuse; those that stand together and have the same
/// fault, as one.
fn refusals(bad: &[BadFile]) -> Vec<Refusal> {
    const TO_DO: &str = "restore the file from a backup, or dump the table as far as it can be read and drop it, on its server";
    let mut out = Vec::new();
    for file in bad {
        let mut runs: Vec<(u32, u32, &str)> = Vec::new();
        for page in &file.pages {
            // What differs from page to page stands behind a comma.
            let kind = page.problem.split(" is 0x").next().unwrap_or_default();
            match runs.last_mut() {
                Some((_, last, before)) if *last + 1 == page.page && before.starts_with(kind) => {
                    *last = page.page;
                }
                _ => runs.push((page.page, page.page, &page.problem)),
            }
        }
        for (first, last, problem) in runs {
            let subject = if first == last {
                format!("{} page {first}", file.name)
            } else {
                format!("{} pages {first} to {last}", file.name)
            };
            out.push(Refusal::new(subject, problem, TO_DO));
        }
    }
    out
}

/// Says how it went; refused is an error.
fn finish(app: &App, report: &Report, only_checked: bool) -> Result<()> {
    if app.json {
        output::json(report)?;
    }
    if !report.refused.is_empty() {
        let count = report.refused.len();
        let things = if count == 1 { "reason" } else { "reasons" };
        let what = format!(
            "{} cannot be imported, for {count} {things}:\n{}",
            report.datadir.display(),
            refusal::text(&report.refused)
        );
        return Err(Failure::new(what, ""));
    }
    if app.json {
        return Ok(());
    }
    let mut lines = Vec::new();
    let count = |n: Option<u64>| n.unwrap_or_default();
    let size = format!(
        "{} tablespaces, {} pages, {}, in {:.1} s",
        count(report.tablespaces),
        count(report.pages),
        bytes(count(report.page_bytes)),
        report.seconds
    );
    if only_checked {
        lines.push(format!(
            "{} can be imported: every page is in order ({size}).",
            report.datadir.display()
        ));
    } else {
        let start = if report.branch == "main" {
            app.command("up")
        } else {
            app.command(&format!("compute start {}", report.branch))
        };
        lines.push(format!(
            "{} is branch {} now ({size}).\n\n\
             \x20 LSN       {}\n\
             \x20 accounts  as they were; xylem's own client uses `{}`\n\
             \x20 password  of that, in {}\n\
             \x20 start     {start}",
            report.datadir.display(),
            report.branch,
            count(report.lsn),
            convert::USER,
            app.state.password_file().display(),
        ));
    }
    if !report.notes.is_empty() {
        lines.push(String::new());
        lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    }
    output::text_line(&lines.join("\n"))
}

/// Refuses what the server would refuse in the end, before the work is done.
/// True when there is nothing in the project yet.
async fn check_branch(
    app: &App,
    args: &ImportArgs,
    survey: &Survey,
    progress: &Progress,
) -> Result<bool> {
    if !app.state.has_project() {
        return Ok(true);
    }
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let mut project = Project::load(&app.state)?;
    if args.object_store.is_some() && args.object_store != project.object_store {
        return Err(Failure::new(
            "this project keeps its layers elsewhere, which cannot be changed",
            "leave --object-store out, or make another project with --dir",
        ));
    }
    let home = Home::find()?;
    let running = server::ensure(&app.state, &home, &mut project, args.ports(), progress).await?;
    let branches = running.control.branches(false).await?;
    let used = |b: &xylem_proto::control::Branch| b.epoch > 0 || b.applied_lsn > 12_288;
    if branches
        .iter()
        .any(|b| b.name == args.branch.as_str() && used(b))
    {
        return Err(Failure::new(
            format!("there is a branch {} already", args.branch),
            "name another with --branch",
        ));
    }
    // An earlier import may have been killed, and left an empty project.
    let fresh = !branches.iter().any(used);
    let have = project.page_size.unwrap_or(project::PAGE_SIZE);
    if survey.page_size() as u64 != u64::from(have) && !fresh {
        return Err(Failure::new(
            format!(
                "the directory's pages have {} bytes (innodb_page_size), those of this project {have}",
                survey.page_size()
            ),
            "import it as a project of its own, with --dir",
        ));
    }
    Ok(fresh)
}

enum Prepared {
    /// What to send, what must not have changed meanwhile, and what people
    /// should know.
    Ready(Plan, Vec<Entry>, Vec<String>),
    /// The pages that stand in the way.
    Bad(Vec<BadFile>),
}

/// Copies what MariaDB must convert, and has it converted.
async fn prepare(
    app: &App,
    home: &Home,
    survey: Survey,
    work: &Scratch,
    password: &str,
    progress: &Progress,
) -> Result<Prepared> {
    let accounts = if app.state.has_project() {
        Project::load(&app.state)?.accounts_wanted()
    } else {
        Project::new().accounts_wanted()
    };
    // On a damaged copy MariaDB would end in its own way.
    let survey = Arc::new(survey);
    let mut whole = survey.buffered || survey.stopped.as_ref().is_some_and(|s| s.backup);
    if let Some(bad) = damaged(&survey, whole, progress).await? {
        return Ok(Prepared::Bad(bad));
    }
    let mut notes = Vec::new();
    let keep_log = app.state.import_log();
    loop {
        let dir = work.path().join(if whole { "whole" } else { "part" });
        files::make_private_dir(&dir)?;
        let copy = Copy {
            home,
            survey: &survey,
            work: &dir,
            keep_log: &keep_log,
            whole,
        };
        copy.check_room()?;
        let meter = Meter::new(copy.bytes());
        {
            let (home, survey) = (home.clone(), Arc::clone(&survey));
            let (dir, counted) = (dir.clone(), Arc::clone(&meter));
            let keep_log = keep_log.clone();
            watched(progress, "copying", &meter, move || {
                let copy = Copy {
                    home: &home,
                    survey: &survey,
                    work: &dir,
                    keep_log: &keep_log,
                    whole,
                };
                copy.make(|bytes| counted.add(bytes))
            })
            .await?;
        }
        progress.say("converting MariaDB's own tables".to_owned());
        match copy.convert(password, accounts).await {
            Ok(()) => {
                // Of a first try, with less.
                let _ = std::fs::remove_file(&keep_log);
                let before = copy.accounts_before();
                if !before.is_empty() {
                    notes.push(format!(
                        "there was an account {0} already (from {1}): {0} has another password now",
                        convert::USER,
                        before.join(", ")
                    ));
                }
                let logs = copy.long_logs();
                if !logs.is_empty() {
                    notes.push(format!("emptied: mysql.{}", logs.join(", mysql.")));
                }
                let data = copy.data();
                let entries = survey.entries.clone();
                let Ok(survey) = Arc::try_unwrap(survey) else {
                    bail!("the survey is still in use");
                };
                let plan = tokio::task::spawn_blocking(move || Plan::new(survey, &data, whole))
                    .await
                    .context("looking at the copy ended early")??;
                return Ok(Prepared::Ready(plan, entries, notes));
            }
            Err(error) if whole => return Err(error),
            // Something looks at other tables after all: then with all of them.
            Err(_) => {
                whole = true;
                files::remove_tree(&dir)?;
            }
        }
    }
}

/// Checks the pages of what MariaDB is started on; when one is bad, of all.
async fn damaged(
    survey: &Arc<Survey>,
    whole: bool,
    progress: &Progress,
) -> Result<Option<Vec<BadFile>>> {
    let end = survey
        .stopped
        .as_ref()
        .map_or(xylem_types::Lsn::MAX, |s| s.end);
    let first = move |name: &str| match name.split_once('/') {
        Some((database, _)) => whole || SYSTEM_DATABASES.contains(&database),
        None => true,
    };
    let total = |all: bool| {
        let wanted = survey.spaces().filter(|s| all || first(&s.name));
        wanted.map(|s| s.bytes()).sum::<u64>()
    };
    let mut bad: BTreeMap<String, BadFile> = BTreeMap::new();
    for all in [false, true] {
        let meter = Meter::new(total(all));
        let (survey, counted) = (Arc::clone(survey), Arc::clone(&meter));
        let found = watched(progress, "checking pages", &meter, move || {
            let mut bad = Vec::new();
            for space in survey.spaces().filter(|s| all || first(&s.name)) {
                let found = pages::scan::<anyhow::Error>(
                    space,
                    end,
                    |_, _| Ok(()),
                    |bytes| Ok(counted.add(bytes)?),
                )
                .with_context(|| format!("cannot read {}", space.name))?;
                if !found.bad.is_empty() {
                    bad.push(BadFile {
                        name: space.name.clone(),
                        pages: found.bad,
                    });
                }
            }
            Ok(bad)
        })
        .await?;
        bad.extend(found.into_iter().map(|b| (b.name.clone(), b)));
        if bad.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some(bad.into_values().collect()))
}

/// The server, with a project made for the import if there is none.
async fn connect(
    app: &App,
    args: &ImportArgs,
    home: &Home,
    plan: &Plan,
    new: &mut NewProject,
    fresh: bool,
    progress: &Progress,
) -> Result<Control> {
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let page_size = plan
        .spaces
        .first()
        .map_or(0, |s| s.flags.logical_page_size());
    let page_size = u32::try_from(page_size)?;
    let mut project = if app.state.has_project() {
        Project::load(&app.state)?
    } else {
        new.made = true;
        let mut project = Project::new();
        project.object_store.clone_from(&args.object_store);
        project
    };
    if new.made {
        project.save(&app.state)?;
    }
    // A template's branch main is not empty.
    let bare = home.clone().without_template();
    let running = server::ensure(&app.state, &bare, &mut project, args.ports(), progress).await?;
    if fresh {
        project.page_size = Some(page_size).filter(|size| *size != project::PAGE_SIZE);
    }
    if args.branch == BranchName::main() {
        // The account that the import has made.
        project.accounts = project.accounts_wanted();
    }
    project.save(&app.state)?;
    Ok(running.control)
}

type Loaded = ((Sent, Vec<String>), Vec<BadFile>, Option<ImportResponse>);

/// Sends the plan to the server.
async fn load(
    plan: Plan,
    entries: Vec<Entry>,
    branch: &BranchName,
    control: &Control,
    progress: &Progress,
) -> Result<Loaded> {
    let (to, items) = mpsc::channel(ITEMS_AHEAD);
    let meter = Meter::new(plan.bytes());
    let counted = Arc::clone(&meter);
    let name = branch.clone();
    let sending = watched(progress, "importing", &meter, move || {
        send::send(&plan, &name, &counted, &to, || {
            match entries.iter().find(|e| e.has_changed()) {
                None => Ok(()),
                Some(entry) => Err(Failure::new(
                    format!("{} changed while it was read", entry.path.display()),
                    "stop the server that writes it, and import again",
                )),
            }
        })
    });
    let (sent, answer) = tokio::join!(sending, control.import_branch(branch, items));
    match (sent, answer) {
        // What was wrong with the directory matters more than that the server
        // did not get an end.
        (Ok((sent, bad, notes)), _) if !bad.is_empty() => Ok(((sent, notes), bad, None)),
        (Ok((sent, bad, notes)), Ok(answer)) => Ok(((sent, notes), bad, Some(answer))),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error),
        (Err(sending), Err(answer)) => {
            // Whoever ended first is the reason.
            if sending.to_string().contains("takes no more") {
                Err(answer)
            } else {
                Err(sending)
            }
        }
    }
}

/// A private directory that goes when it is dropped, or at the next import
/// when this process could not.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make(parent: &Path) -> Result<Scratch> {
        for entry in std::fs::read_dir(parent)
            .with_context(|| format!("cannot read {}", parent.display()))?
            .flatten()
        {
            let name = entry.file_name();
            let process = name.to_str().and_then(|n| n.strip_prefix(SCRATCH));
            let process = process.and_then(|p| {
                let (pid, start_time) = p.split_once('-')?;
                Some(Process {
                    pid: pid.parse().ok()?,
                    start_time: start_time.parse().ok()?,
                })
            });
            if process.is_some_and(|p| !p.is_alive()) {
                files::remove_tree(&entry.path())?;
            }
        }
        let me = Process::find(std::process::id()).context("cannot find this process")?;
        let path = parent.join(format!("{SCRATCH}{}-{}", me.pid, me.start_time));
        files::make_private_dir(&path)?;
        Ok(Scratch { path })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next import.
        let _ = files::remove_tree(&self.path);
    }
}
