//! Instructions that mariadbd executes for a point_select, counted by callgrind. Unlike
//! seconds they do not depend on what else the machine does.
//!
//! mariadbd runs under valgrind by way of a script in its place, in a copy of the
//! installation that consists of symbolic links otherwise.

use crate::Args;
use crate::report::{Figure, Report, Who};
use crate::system::{System, Systems, select};
use anyhow::{Context, Result, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use xylem_e2e::{Project, free_ports, wait_until};
use xylem_oracle::server::{Install, PREFIX_VAR};

const POOL: &str = "128MiB";
const ROWS: u32 = 10_000;
/// Queries before counting, so that all pages are in the pool and all caches are filled.
const WARM_UP: u32 = 1_000;
const QUERIES: u32 = 5_000;
/// Options without which mariadbd does not start under valgrind: it knows neither
/// io_uring nor mappings of terabytes.
const OPTIONS: &str = "--innodb-use-native-aio=0 --innodb-buffer-pool-size-max=128M";

/// Counts on all systems; says so and does nothing where valgrind is missing.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !there("valgrind") || !there("callgrind_control") {
        report.note("instructions: skipped, because valgrind is not installed; hint: apt-get install valgrind");
        return Ok(());
    }
    let dir = tempfile::Builder::new()
        .prefix("xylem-callgrind-")
        .tempdir()?;
    let callgrind = Callgrind {
        dir: dir.path().to_owned(),
    };
    let mut systems = Systems(callgrind.systems(args.against())?);
    let counts = systems.turns(1, |system| callgrind.point_select(system))?;
    report.figure(
        Figure::new("instructions", "point_select in mariadbd", "instructions")
            .sides(select(&counts, |count| *count)),
    );
    Ok(())
}

/// Runs mariadbd under callgrind.
struct Callgrind {
    /// Wrapped installations, and what callgrind writes.
    dir: PathBuf,
}

impl Callgrind {
    /// Starts all systems.
    fn systems(&self, against: Option<&Path>) -> Result<Vec<System>> {
        let prefix = std::env::var_os(PREFIX_VAR).context("no stock MariaDB")?;
        let wrapped = self.wrap_mariadb(Path::new(&prefix), "stock")?;
        let mut systems = vec![System::stock(Install::at(wrapped)?, POOL, &[])?];
        let home = std::env::var_os("XYLEM_HOME").context("XYLEM_HOME is not set")?;
        systems.push(self.xylem(Who::Xylem, Path::new(&home))?);
        if let Some(home) = against {
            systems.push(self.xylem(Who::Before, home)?);
        }
        Ok(systems)
    }

    fn xylem(&self, who: Who, home: &Path) -> Result<System> {
        let name = who.name();
        let wrapped = self.dir.join(format!("{name}-home"));
        fs::create_dir(&wrapped)?;
        link_all(home, &wrapped, &["mariadb"])?;
        let mariadb = self.wrap_mariadb(&home.join("mariadb"), name)?;
        symlink(mariadb, wrapped.join("mariadb"))?;
        let project = Project::of(&wrapped)?;
        let ports: Vec<String> = free_ports(3)?.iter().map(u16::to_string).collect();
        // As root, since another account may not reach what the script runs.
        let mut up = vec!["up", "--detach", "--buffer-pool", POOL];
        up.extend(["--grpc-port", &ports[0], "--http-port", &ports[1]]);
        up.extend(["--mysql-port", &ports[2]]);
        if rustix::process::geteuid().is_root() {
            up.extend(["--user", "root"]);
        }
        project.xylem(&up)?;
        Ok(System::of(who, project))
    }

    /// An installation of MariaDB whose mariadbd runs under callgrind.
    fn wrap_mariadb(&self, prefix: &Path, name: &str) -> Result<PathBuf> {
        let prefix = fs::canonicalize(prefix)
            .with_context(|| format!("no MariaDB at {}", prefix.display()))?;
        let wrapped = self.dir.join(format!("{name}-mariadb"));
        let sbin = wrapped.join("usr/sbin");
        fs::create_dir_all(&sbin)?;
        link_all(&prefix.join("usr"), &wrapped.join("usr"), &["sbin"])?;
        let script = sbin.join("mariadbd");
        let real = prefix.join("usr/sbin/mariadbd");
        fs::write(&script, self.script(&real))?;
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        Ok(wrapped)
    }

    fn script(&self, mariadbd: &Path) -> String {
        let (real, dir) = (mariadbd.display(), self.dir.display());
        format!(
            "#!/bin/sh\n\
             # A database is created at full speed.\n\
             case \" $* \" in *' --bootstrap '*) exec '{real}' \"$@\" ;; esac\n\
             exec valgrind --tool=callgrind --instr-atstart=no '--vgdb-prefix={dir}/vgdb' \
             '--callgrind-out-file={dir}/out.%p' '{real}' \"$@\" {OPTIONS}\n"
        )
    }

    fn point_select(&self, system: &mut System) -> Result<f64> {
        let pid = system.mariadbd()?;
        let mut connection = system.connect()?;
        for sql in [
            "CREATE DATABASE i".to_owned(),
            "CREATE TABLE i.t (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL)".to_owned(),
            format!("INSERT INTO i.t SELECT seq, seq, MD5(seq), MD5(seq + 1) FROM i.seq_1_to_{ROWS}"),
        ] {
            connection.query_drop(sql)?;
        }
        self.control(&["--instr=on"], pid)?;
        select_rows(&mut connection, WARM_UP)?;
        self.control(&["--zero"], pid)?;
        select_rows(&mut connection, QUERIES)?;
        self.control(&["--dump"], pid)?;
        // Nothing more is to be counted, and stopping takes less time so.
        self.control(&["--instr=off"], pid)?;
        let file = self.dir.join(format!("out.{pid}.1"));
        let mut total = None;
        wait_until("callgrind's dump", Duration::from_secs(30), || {
            total = fs::read_to_string(&file).ok().as_deref().and_then(total_in);
            Ok(total.is_some())
        })?;
        let total = total.context("no total")?;
        Ok(total as f64 / f64::from(QUERIES))
    }

    fn control(&self, command: &[&str], pid: u32) -> Result<()> {
        let out = Command::new("callgrind_control")
            .arg(format!("--vgdb-prefix={}/vgdb", self.dir.display()))
            .args(command)
            .arg(pid.to_string())
            .output()
            .context("cannot run callgrind_control")?;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(
            out.status.success() && said.contains("OK."),
            "callgrind_control {command:?} failed: {said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }
}

/// The same queries as sysbench's oltp_point_select.
fn select_rows(connection: &mut Conn, queries: u32) -> Result<()> {
    let statement = connection.prep("SELECT c FROM i.t WHERE id = ?")?;
    for n in 0..queries {
        let id = n.wrapping_mul(7919) % ROWS + 1;
        let row: Option<String> = connection.exec_first(&statement, (id,))?;
        row.with_context(|| format!("no row {id}"))?;
    }
    Ok(())
}

/// Links to everything in a directory except for some names.
fn link_all(from: &Path, to: &Path, except: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if !except.iter().any(|except| name == *except) {
            symlink(fs::canonicalize(entry.path())?, to.join(name))?;
        }
    }
    Ok(())
}

/// The number of instructions in a dump of callgrind, which ends with it.
pub fn total_in(dump: &str) -> Option<u64> {
    let total = dump
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals:"))?;
    total.trim().parse().ok()
}
