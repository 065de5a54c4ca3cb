//! The systems that are compared: stock MariaDB and builds of Xylem. Parts drive all of
//! them through the same functions.

use crate::alike;
use crate::metrics::Metrics;
use crate::proc::{Sample, Usage};
use crate::report::Who;
use crate::stats;
use anyhow::{Context, Result};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xylem_e2e::Project;
use xylem_e2e::sysbench::Login;
use xylem_oracle::server::{Install, Server};

/// How long background work may take to end.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);
/// How long nothing may begin before background work counts as ended. The server looks
/// for due merges every 10 s.
const QUIET: Duration = Duration::from_secs(12);
/// How often a waiting benchmark looks.
const LOOK: Duration = Duration::from_secs(1);

/// A running system.
pub struct System {
    /// The side of the comparison.
    pub who: Who,
    kind: Kind,
}

enum Kind {
    Stock {
        install: Install,
        dir: TempDir,
        /// Further options of mariadbd.
        options: Vec<String>,
        /// `None` while it is stopped.
        server: Option<Server>,
    },
    Xylem(Project),
}

/// Counters of a system's processes and of what it sends.
#[derive(Debug)]
pub struct Counters {
    compute: Sample,
    server: Option<Sample>,
    /// Bytes of redo that InnoDB has written.
    redo: u64,
    /// Redo, side-file operations and pages between compute and server, in bytes.
    network: u64,
}

/// The growth of the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Of mariadbd.
    pub compute: Usage,
    /// Of the page server.
    pub server: Usage,
    /// Bytes of redo.
    pub redo: u64,
    /// Bytes between compute and server.
    pub network: u64,
}

impl Counters {
    /// The growth since an earlier moment.
    pub fn since(&self, earlier: &Counters) -> Cost {
        let server = match (&self.server, &earlier.server) {
            (Some(now), Some(earlier)) => now.since(earlier),
            _ => Usage::default(),
        };
        Cost {
            compute: self.compute.since(&earlier.compute),
            server,
            redo: self.redo.saturating_sub(earlier.redo),
            network: self.network.saturating_sub(earlier.network),
        }
    }
}

impl System {
    /// Creates and starts stock MariaDB of the given installation with an empty database and
    /// further options.
    pub fn stock(install: Install, pool: &str, options: &[&str]) -> Result<System> {
        let dir = tempfile::tempdir()?;
        let install = install.in_own_session();
        install.create_database(&dir.path().join("data"), &[])?;
        let mut system = System {
            who: Who::Stock,
            kind: Kind::Stock {
                install,
                dir,
                options: options.iter().map(|&option| option.to_owned()).collect(),
                server: None,
            },
        };
        system.start(pool)?;
        Ok(system)
    }

    /// Creates and starts a project of the build of Xylem in `home`, or of the one under
    /// test.
    pub fn xylem(home: Option<&Path>, pool: &str) -> Result<System> {
        let (who, project) = match home {
            Some(home) => (Who::Before, Project::of(home)?),
            None => (Who::Xylem, Project::new()?),
        };
        project.up_in_place(pool)?;
        Ok(System::of(who, project))
    }

    /// A project that runs.
    pub fn of(who: Who, project: Project) -> System {
        let kind = Kind::Xylem(project);
        System { who, kind }
    }

    /// The project, if this is Xylem.
    pub fn project(&self) -> Option<&Project> {
        match &self.kind {
            Kind::Xylem(project) => Some(project),
            Kind::Stock { .. } => None,
        }
    }

    /// Starts what does not run, with this buffer pool.
    pub fn start(&mut self, pool: &str) -> Result<()> {
        match &mut self.kind {
            Kind::Stock {
                install,
                dir,
                options: further,
                server,
            } => {
                let mut options = vec![
                    format!("--innodb-buffer-pool-size={}", pool.trim_end_matches("iB")),
                    "--performance-schema=OFF".to_owned(),
                    "--innodb-buffer-pool-dump-at-shutdown=ON".to_owned(),
                    // Tables would otherwise be of latin1, which sorts in less time.
                    "--character-set-server=utf8mb4".to_owned(),
                ];
                options.extend_from_slice(further);
                let data = dir.path().join("data");
                *server = Some(install.start(&data, dir.path(), &options)?);
            }
            Kind::Xylem(project) => {
                project.xylem(&["up", "--detach", "--buffer-pool", pool])?;
            }
        }
        Ok(())
    }

    /// Stops mariadbd cleanly. Xylem's server continues.
    pub fn stop(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Stock { server, .. } => server.take().context("it does not run")?.stop(),
            Kind::Xylem(project) => project.xylem(&["compute", "stop", "main"]).map(|_| ()),
        }
    }

    /// Ends mariadbd so that its next start is an ordinary one: stock MariaDB stops
    /// cleanly; Xylem's compute is killed and its directory removed.
    pub fn end(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Stock { .. } => self.stop(),
            Kind::Xylem(project) => project.lose_compute(),
        }
    }

    /// Starts mariadbd again after [`System::end`].
    pub fn start_compute(&mut self, pool: &str) -> Result<()> {
        match &mut self.kind {
            Kind::Stock { .. } => self.start(pool),
            Kind::Xylem(project) => project.xylem(&["compute", "start", "main"]).map(|_| ()),
        }
    }

    /// SIGKILLs what keeps the data: stock MariaDB, or Xylem's server.
    pub fn kill(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Stock { server, .. } => server.take().context("it does not run")?.kill(),
            Kind::Xylem(project) => project.kill_server(),
        }
    }

    /// The login of root.
    pub fn login(&self) -> Result<Login> {
        match &self.kind {
            Kind::Stock { dir, .. } => Ok(Login {
                socket: dir.path().join("s"),
                user: "root".into(),
                password: String::new(),
            }),
            Kind::Xylem(project) => project.login(),
        }
    }

    /// A connection to mariadbd.
    pub fn connect(&self) -> Result<Conn> {
        connect(&self.login()?)
    }

    /// Runs SQL through a command line client, as a user does.
    pub fn sql(&self, sql: &str) -> Result<String> {
        match &self.kind {
            Kind::Stock { server, .. } => {
                let server = server.as_ref().context("it does not run")?;
                server.query(sql)
            }
            Kind::Xylem(project) => project.sql(sql),
        }
    }

    /// The directory from which `LOAD DATA INFILE` can read.
    pub fn files(&self) -> PathBuf {
        match &self.kind {
            Kind::Stock { dir, .. } => dir.path().to_owned(),
            Kind::Xylem(project) => project.dir().join("computes/main/files"),
        }
    }

    /// Copies a file to [`System::files`].
    pub fn give_file(&self, from: &Path) -> Result<()> {
        let to = self.files().join(from.file_name().context("no file name")?);
        fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(fs::set_permissions(&to, PermissionsExt::from_mode(0o644))?)
    }

    /// Bytes of the tablespaces whose names match a pattern of `LIKE`, as files.
    pub fn data_bytes(&self, like: &str) -> Result<u64> {
        let bytes: Option<Option<u64>> = self.connect()?.query_first(format!(
            "SELECT CAST(SUM(file_size) AS UNSIGNED) \
             FROM information_schema.innodb_sys_tablespaces WHERE name LIKE '{like}'"
        ))?;
        let bytes = bytes.flatten();
        bytes.with_context(|| format!("no tablespace like {like}"))
    }

    /// The process of mariadbd.
    pub fn mariadbd(&self) -> Result<u32> {
        match &self.kind {
            Kind::Stock { dir, .. } => {
                let pid = fs::read_to_string(dir.path().join("pid"))?;
                Ok(pid.trim().parse()?)
            }
            Kind::Xylem(project) => pid_in(&project.compute()?["pid"]),
        }
    }

    /// The counters of this moment.
    pub fn counters(&self) -> Result<Counters> {
        let written = status(&mut self.connect()?, "Innodb_os_log_written")?;
        let compute = Sample::of(self.mariadbd()?)?;
        let (server, network) = match &self.kind {
            Kind::Stock { .. } => (None, 0),
            Kind::Xylem(project) => {
                let metrics = metrics_of(project)?;
                let bytes = metrics.sum("xylem_wal_received_bytes_total")?
                    + metrics.sum("xylem_page_read_bytes_total")?;
                let pid = pid_in(&project.json(&["status"])?["server"]["pid"])?;
                (Some(Sample::of(pid)?), bytes as u64)
            }
        };
        Ok(Counters {
            compute,
            server,
            redo: written,
            network,
        })
    }

    /// Waits until the system has no more background work: purge in InnoDB; ingest,
    /// flushes and merges in Xylem's server. Returns what still goes on after three
    /// minutes.
    pub fn settle(&self) -> Result<Option<String>> {
        let started = Instant::now();
        let mut quiet_since = Instant::now();
        let mut before = String::new();
        let mut connection = self.connect()?;
        loop {
            let (busy, marks) = self.background(&mut connection)?;
            if busy.is_some() || marks != before {
                quiet_since = Instant::now();
                before = marks;
            }
            let enough = match self.kind {
                Kind::Stock { .. } => 2 * LOOK,
                Kind::Xylem(_) => QUIET,
            };
            if busy.is_none() && quiet_since.elapsed() >= enough {
                return Ok(None);
            }
            if started.elapsed() > SETTLE_LIMIT {
                let busy = busy.unwrap_or_else(|| "background work".to_owned());
                return Ok(Some(format!(
                    "{}: {busy} was still going on after {} s and was not waited for",
                    self.who.name(),
                    SETTLE_LIMIT.as_secs()
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What goes on in the background, and counters that change with it.
    fn background(&self, connection: &mut Conn) -> Result<(Option<String>, String)> {
        let undone = status(connection, "Innodb_history_list_length")?;
        let mut marks = format!("{undone}");
        let Kind::Xylem(project) = &self.kind else {
            return Ok((None, marks));
        };
        let metrics = metrics_of(project)?;
        for done in ["xylem_layer_flushes_total", "xylem_layer_merges_total"] {
            marks.push_str(&format!(" {}", metrics.sum(done)?));
        }
        let waiting = [
            ("ingest", "xylem_ingest_lag_bytes"),
            ("flushing", "xylem_frozen_layers"),
            ("merging", "xylem_merge_debt_bytes"),
        ];
        for (what, name) in waiting {
            let value = metrics.sum(name)?;
            if value > 0.0 {
                return Ok((Some(format!("{what} ({name} {value})")), marks));
            }
        }
        Ok((None, marks))
    }
}

/// The metrics of a project's server.
pub fn metrics_of(project: &Project) -> Result<Metrics> {
    Ok(Metrics::parse(&project.http_get("/metrics")?))
}

/// A connection with a login.
pub fn connect(login: &Login) -> Result<Conn> {
    let options = OptsBuilder::new()
        .socket(Some(login.socket.to_string_lossy()))
        .user(Some(&login.user))
        .pass(Some(&login.password))
        .prefer_socket(true);
    Ok(Conn::new(options)?)
}

/// A global status variable.
pub fn status(connection: &mut Conn, name: &str) -> Result<u64> {
    let row: Option<(String, u64)> =
        connection.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
    Ok(row.with_context(|| format!("no status {name}"))?.1)
}

/// A process number in a document of `xylem`.
pub fn pid_in(value: &serde_json::Value) -> Result<u32> {
    let pid = value.as_u64().with_context(|| format!("no pid: {value}"))?;
    Ok(u32::try_from(pid)?)
}

/// All systems of a comparison.
pub struct Systems(pub Vec<System>);

impl Systems {
    /// Starts all of them, each with an empty database.
    pub fn start(against: Option<&Path>, pool: &str) -> Result<Systems> {
        let mut all = vec![
            System::stock(Install::from_env()?, pool, &[])?,
            System::xylem(None, pool)?,
        ];
        if let Some(home) = against {
            all.push(System::xylem(Some(home), pool)?);
        }
        alike::check(&all)?;
        Ok(Systems(all))
    }

    /// Does the same with each.
    pub fn each(&mut self, mut work: impl FnMut(&mut System) -> Result<()>) -> Result<()> {
        self.0.iter_mut().try_for_each(|system| {
            let who = system.who.name();
            work(system).with_context(|| format!("on {who}"))
        })
    }

    /// Waits for the background work of all; returns what could not be waited for.
    pub fn settle(&self) -> Result<Vec<String>> {
        let left = self.0.iter().map(System::settle);
        Ok(left
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Measures all in several turns, in an alternating order. Returns what was measured
    /// of each, turn by turn.
    pub fn turns<T>(
        &mut self,
        turns: u32,
        mut measure: impl FnMut(&mut System) -> Result<T>,
    ) -> Result<Vec<(Who, Vec<T>)>> {
        let mut all: Vec<(Who, Vec<T>)> = self.0.iter().map(|s| (s.who, Vec::new())).collect();
        for turn in 0..turns {
            for at in stats::order(turn, all.len()) {
                let system = &mut self.0[at];
                let who = system.who.name();
                all[at]
                    .1
                    .push(measure(system).with_context(|| format!("on {who}"))?);
            }
        }
        Ok(all)
    }
}

/// One value of each measurement.
pub fn select<T>(all: &[(Who, Vec<T>)], value: impl Fn(&T) -> f64) -> Vec<(Who, Vec<f64>)> {
    all.iter()
        .map(|(who, measured)| (*who, measured.iter().map(&value).collect()))
        .collect()
}
