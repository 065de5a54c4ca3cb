//! Running mariadbd: a data directory from a base backup, the process, and the
//! checks before anybody connects.

use super::base::Materialise;
use super::record::{ComputeRecord, Phase};
use super::starter::{Start, Starter};
use super::{bootstrap, decoy, mycnf, reader, ready};
use crate::failure::Failure;
use crate::files;
use crate::log_file;
use crate::ports;
use crate::process::Process;
use crate::project::Accounts;
use crate::spawn::{Detached, Inherits, put_aside};
use crate::state::ComputeDir;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xylem_datadir::own::{self, OWN_USER};

/// mariadbd's error for a port that is taken.
const PORT_TAKEN: &str = "Can't start server: Bind on TCP/IP port";

/// mariadbd found its port taken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("port {0} was taken while the compute started")]
pub(super) struct PortTaken(u16);

/// The work on accounts that a start has to do.
struct Login {
    /// The account for people.
    user: String,
    password: String,
    /// From where that account must be able to log in from now on, if that is not
    /// so already.
    settle: Option<Accounts>,
}

impl Starter<'_> {
    /// Starts mariadbd on the data directory, which is fresh, and waits until it is ready.
    ///
    /// # Errors
    /// [`PortTaken`], and when mariadbd ends or would not be as it must be.
    pub(super) async fn run(&mut self, start: &Start<'_>) -> Result<ComputeRecord> {
        let dir = &start.dir;
        let materialised = self.materialise(start).await;
        if materialised.is_err() {
            // It may be what fills the disk.
            let _ = files::remove_tree(&dir.old_data());
        }
        let log_bytes = materialised?;
        let socket = self.write_options(start, log_bytes, false)?;
        let _ = std::fs::remove_file(&socket);
        let login = self.login(start)?;
        let mut args = vec![mycnf::defaults_file(&dir.my_cnf())];
        args.extend(self.init_file(start, &login)?);
        args.extend(self.project.mariadbd_args_of(start.name.is_main()));
        let client = mycnf::render_client(OWN_USER, &socket, start.port, &login.password)?;
        files::write_atomic(&dir.client_cnf(), client.as_bytes(), files::SECRET)?;

        let mut record = self.spawn(start, args, socket)?;
        record.user = login.user;
        record.save(dir)?;
        let old = dir.old_data();
        let removed = tokio::task::spawn_blocking(move || files::remove_tree(&old));
        let ready = wait(start, &record).await;
        // Otherwise the next start removes it.
        let _ = removed.await;
        ready?;
        decoy::put(&dir.data())?;
        if start.at_lsn.is_some()
            && let Err(error) = reader::check(self.home, dir)
        {
            record.process.kill().await?;
            return Err(error);
        }
        if let Some(accounts) = login.settle {
            self.check_login(dir, record.log_from)?;
            // The branch of a read-only compute is used once, except after a crash.
            if start.at_lsn.is_none() {
                let id = &start.attached.branch_id;
                self.project.update(&self.app.state, |project| {
                    project.accounts_of.insert(id.clone(), accounts);
                })?;
            }
        }
        // Unless it was ended on purpose in this very moment.
        if ComputeRecord::load(dir).is_none_or(|now| now.phase != Phase::Stopped) {
            record.is_up();
            record.save(dir)?;
        }
        Ok(record)
    }

    /// Fills the data directory, which is fresh; the size of its redo log.
    async fn materialise(&self, start: &Start<'_>) -> Result<Option<u64>> {
        let what = start.name.described();
        self.progress.say(format!("fetching files for {what}"));
        let (host, data) = (start.host, start.dir.data());
        let base = Materialise::new(&data, host.user.as_ref());
        let mut base = base.reuse(&start.dir.old_data());
        let lsn = start.attached.start_lsn;
        self.control
            .base_backup(&start.branch, lsn, |item| base.take(item))
            .await?;
        let log_bytes = base.finish()?;
        // Last, so that the account cannot put links there meanwhile which would be
        // followed.
        host.give(&data)?;
        Ok(log_bytes)
    }

    fn login(&self, start: &Start<'_>) -> Result<Login> {
        let wanted = self.project.accounts_wanted();
        let settled = self.project.accounts_on(&start.attached.branch_id) == wanted;
        Ok(Login {
            user: own::client_user(&start.dir.data()),
            password: self.app.state.make_password(&self.app.entropy)?,
            settle: Some(wanted).filter(|_| !self.project.without_accounts && !settled),
        })
    }

    /// Writes the SQL that mariadbd runs before anybody can connect; the argument
    /// that names the file, if there is something to run.
    fn init_file(&self, start: &Start<'_>, login: &Login) -> Result<Option<OsString>> {
        let mut init = String::new();
        if !self.project.without_accounts {
            init.push_str(&bootstrap::own_account_sql(&login.password));
        }
        if let Some(accounts) = login.settle {
            let sql = bootstrap::accounts_sql(&login.user, &login.password, accounts);
            init.push_str(&sql);
        }
        if start.at_lsn.is_some() {
            init.push_str(reader::INIT_SQL);
        }
        let before = ComputeRecord::load(&start.dir);
        for statement in before.iter().flat_map(|before| &before.globals) {
            init.push_str(&bootstrap::if_possible(statement));
        }
        if init.is_empty() {
            return Ok(None);
        }
        init.insert_str(0, bootstrap::NOT_IN_BINARY_LOG);
        let file = start.dir.init_sql();
        start.host.write_for(&file, init.as_bytes())?;
        let mut arg = OsString::from("--init-file=");
        arg.push(file);
        Ok(Some(arg))
    }

    fn spawn(
        &self,
        start: &Start<'_>,
        args: Vec<OsString>,
        socket: PathBuf,
    ) -> Result<ComputeRecord> {
        let dir = &start.dir;
        self.progress
            .say(format!("starting {}", start.name.described()));
        put_aside(&dir.log());
        let log_from = files::length_of(&dir.log());
        let process = Detached {
            program: &start.host.home.mariadbd(),
            args,
            envs: self.environment(start),
            inherits: Inherits::Harmless,
            user: start.host.user.as_ref(),
            log: &dir.log(),
            cwd: &dir.data(),
        }
        .spawn()?;
        Ok(self.record(start, process, socket, log_from))
    }

    fn record(
        &self,
        start: &Start<'_>,
        process: Process,
        socket: PathBuf,
        log_from: u64,
    ) -> ComputeRecord {
        let bind = self.project.settings.bind();
        // For the next start, in case this one fails.
        let before = ComputeRecord::load(&start.dir);
        let (wake_at, globals) =
            before.map_or_else(Default::default, |before| (before.wake_at, before.globals));
        ComputeRecord {
            branch: start.name.branch().to_string(),
            branch_id: start.attached.branch_id.clone(),
            process,
            phase: Phase::Starting,
            bind,
            host: ports::reachable(bind).to_string(),
            port: start.port,
            socket,
            user: own::root(),
            read_only: start.at_lsn.is_some(),
            at_lsn: start.at_lsn,
            moment_of: start.moment_of.map(str::to_owned),
            epoch: start.attached.epoch,
            start_lsn: start.attached.start_lsn,
            log_from,
            wake_at,
            globals,
        }
    }

    /// Tries to log in, since mariadbd only logs errors in the init file.
    fn check_login(&self, dir: &ComputeDir, log_from: u64) -> Result<()> {
        let output = Command::new(self.home.client())
            .arg(mycnf::defaults_file(&dir.client_cnf()))
            .args(["--execute=DO 0"])
            .env("LD_LIBRARY_PATH", self.home.library_path())
            .stdin(Stdio::null())
            .output()
            .context("cannot run MariaDB's client")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!(
            "xylem's own client cannot log in with the password that was just set: {}",
            said.trim()
        );
        Err(log_file::died(&what, &dir.log(), log_from))
    }
}

/// Waits until the compute is ready.
async fn wait(start: &Start<'_>, record: &ComputeRecord) -> Result<()> {
    let dir = &start.dir;
    let log = dir.log();
    let ready = ready::wait(record.process, &record.socket, &log, record.log_from).await;
    let _ = std::fs::remove_file(dir.init_sql());
    let Err(error) = ready else { return Ok(()) };
    if ComputeRecord::load(dir).is_some_and(|now| now.phase == Phase::Stopped) {
        return Err(Failure::new(
            format!(
                "another command ended {} while it started",
                start.name.described()
            ),
            format!("start it again: `xylem compute start {}`", start.name),
        ));
    }
    if lost_port(&log, record.log_from) {
        return Err(error.context(PortTaken(start.port)));
    }
    Err(error)
}

fn lost_port(log: &Path, log_from: u64) -> bool {
    log_file::read(log, log_from).contains(PORT_TAKEN)
}
