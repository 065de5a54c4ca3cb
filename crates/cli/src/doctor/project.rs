//! The project's files and processes.

use super::Check;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState};
use crate::files;
use crate::output::bytes;
use crate::ports;
use crate::project::Project;
use crate::report::Seen;
use crate::state::StateDir;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Ingest this far behind the log makes reads wait.
const LAG_WARN_BYTES: u64 = 64 << 20;

/// Most log lines that are shown.
const LINES_MAX: usize = 5;

pub(super) fn check(state: &StateDir, seen: &Seen, checks: &mut Vec<Check>) {
    settings(state, checks);
    password(state, checks);
    private(state, checks);
    server(state, seen, checks);
    lag(seen, checks);
    let computes = record::list(state);
    if computes.is_empty() {
        checks.push(Check::warn(
            "compute",
            "none was ever started here",
            "`xylem up` starts the one of branch main",
        ));
    }
    for (name, record) in &computes {
        compute(state, name, record, checks);
    }
}

fn settings(state: &StateDir, checks: &mut Vec<Check>) {
    match Project::load(state) {
        Err(error) => checks.push(Check::fail(
            "project",
            format!("{error:#}"),
            "mend project.toml, or take it from a backup",
        )),
        Ok(project) => {
            checks.push(if project.half_made {
                Check::warn(
                    "project",
                    "it was only half made",
                    "`xylem up` makes it anew",
                )
            } else {
                Check::ok("project", state.root().display().to_string())
            });
            if project.user.as_deref() == Some("root") {
                checks.push(Check::warn(
                    "user",
                    "mariadbd runs as the system's root: whoever has the FILE privilege writes as root where secure_file_priv allows it",
                    "`up --unset user` has it run as a system account from the next start on",
                ));
            }
            if !project.bind.is_loopback() {
                let found = format!(
                    "computes listen on {}, reachable from other machines",
                    project.bind
                );
                checks.push(Check::warn(
                    "bind",
                    found,
                    "see that a firewall lets in only who should; `up --bind 127.0.0.1` undoes it",
                ));
            }
        }
    }
}

fn password(state: &StateDir, checks: &mut Vec<Check>) {
    let secrets = [
        ("password", state.password_file()),
        ("token", state.token_file()),
    ];
    for (name, path) in secrets {
        let chmod = format!("`chmod 600 {}`", path.display());
        match files::mode_of(&path) {
            None if name == "token" => {}
            None => checks.push(Check::fail(
                name,
                format!("{} is not there", path.display()),
                "put root's password into it; `xylem sql` needs it",
            )),
            Some(mode) if mode & 0o077 != 0 => {
                checks.push(Check::fail(
                    name,
                    format!("others may read {} (mode {mode:o})", path.display()),
                    chmod,
                ));
            }
            Some(mode) => checks.push(Check::ok(
                name,
                format!("{} (mode {mode:o})", path.display()),
            )),
        }
    }
}

/// Files that tell of a project: statements, addresses, passwords.
fn private(state: &StateDir, checks: &mut Vec<Check>) {
    let mut files = vec![
        state.project_file(),
        state.server_file(),
        state.server_log(),
        state.server_data(),
        state.custom_cnf(),
    ];
    for (name, _) in record::list(state) {
        let dir = state.compute(&name);
        files.extend([
            dir.record_file(),
            dir.my_cnf(),
            dir.custom_cnf(),
            dir.client_cnf(),
            dir.init_sql(),
            dir.log(),
            dir.data(),
            dir.tmp(),
            dir.run(),
            dir.sql_files(),
        ]);
    }
    let open: Vec<String> = files
        .iter()
        .filter(|path| files::mode_of(path).is_some_and(|mode| mode & 0o007 != 0))
        .map(|path| path.display().to_string())
        .collect();
    checks.push(if open.is_empty() {
        Check::ok("private", "others may read neither logs nor settings")
    } else {
        Check::warn(
            "private",
            format!("others may read {}", open.join(", ")),
            format!("`chmod o-rwx {}`", open.join(" ")),
        )
    });
}

fn server(state: &StateDir, seen: &Seen, checks: &mut Vec<Check>) {
    let log = state.server_log();
    let Some(record) = &seen.record else {
        checks.push(Check::warn("server", "it was never started", "`xylem up`"));
        return;
    };
    let alive = record.process.is_alive();
    match (&seen.status, &seen.trouble) {
        (Some(status), _) => {
            checks.push(Check::ok(
                "server",
                format!(
                    "{}, pid {}, {}",
                    status.state, record.process.pid, record.grpc
                ),
            ));
            if status.version != env!("CARGO_PKG_VERSION") {
                checks.push(Check::warn(
                    "version",
                    format!(
                        "the server is {}, this program {}",
                        status.version,
                        env!("CARGO_PKG_VERSION")
                    ),
                    "`xylem down`, then `xylem up`",
                ));
            }
        }
        (None, Some(trouble)) => checks.push(Check::fail(
            "server",
            format!(
                "process {} runs and does not answer: {trouble:#}",
                record.process.pid
            ),
            format!(
                "see {}; `xylem down` and `xylem up` start it again",
                log.display()
            ),
        )),
        (None, None) if record.stopped => checks.push(Check::ok("server", "stopped")),
        (None, None) => checks.push(Check::fail(
            "server",
            format!(
                "it died (pid {})\n{}",
                record.process.pid,
                files::last_errors(&log, record.log_from)
            ),
            "`xylem up` starts it again",
        )),
    }
    if alive {
        log_errors("server log", &log, record.log_from, checks);
    } else {
        for address in [&record.grpc, &record.http] {
            port(
                "port",
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                address.rsplit(':').next().unwrap_or(""),
                checks,
            );
        }
    }
}

/// A port that is kept for something which does not run.
fn port(name: &'static str, address: IpAddr, port: &str, checks: &mut Vec<Check>) {
    let Ok(port) = port.parse::<u16>() else {
        return;
    };
    if ports::is_free(address, port) {
        return;
    }
    let by = ports::owner(port).unwrap_or_else(|| "another program".to_owned());
    checks.push(Check::warn(
        name,
        format!("port {port} is taken by {by}"),
        "the next start takes another port, unless you free this one",
    ));
}

fn lag(seen: &Seen, checks: &mut Vec<Check>) {
    for branch in &seen.branches {
        let found = format!(
            "branch {}: {} behind its log (LSN {})",
            branch.name,
            bytes(branch.lag_bytes),
            branch.last_lsn
        );
        checks.push(if branch.lag_bytes > LAG_WARN_BYTES {
            Check::warn("lag", found, "if it does not shrink: is the disk slow, or does server.log say that ingest stopped?")
        } else {
            Check::ok("lag", found)
        });
    }
}

fn compute(state: &StateDir, name: &ComputeName, record: &ComputeRecord, checks: &mut Vec<Check>) {
    let dir = state.compute(name);
    let now = record.state();
    let pid = record.process.pid;
    let again = format!("`xylem compute start {name}` starts it again");
    checks.push(match now {
        ComputeState::Running => Check::ok(
            "compute",
            format!(
                "{name}: running, pid {pid}, {}:{}",
                record.host, record.port
            ),
        ),
        ComputeState::Starting => Check::warn(
            "compute",
            format!("{name}: pid {pid} does not accept connections yet"),
            format!(
                "wait, watch {}, or `xylem compute kill {name}`",
                dir.log().display()
            ),
        ),
        ComputeState::Stopped => Check::ok("compute", format!("{name}: stopped")),
        ComputeState::Crashed => Check::fail(
            "compute",
            format!(
                "{name}: it died (pid {pid})\n{}",
                files::last_errors(&dir.log(), record.log_from)
            ),
            again,
        ),
    });
    match now {
        ComputeState::Running => {
            if !crate::compute::ready::probe(&record.socket) {
                checks.push(Check::fail(
                    "socket",
                    format!(
                        "{name}: process {pid} runs and does not greet on {}",
                        record.socket.display()
                    ),
                    format!(
                        "see {}; `xylem compute kill {name}`, then start it again",
                        dir.log().display()
                    ),
                ));
            }
            log_errors("compute log", &dir.log(), record.log_from, checks);
        }
        ComputeState::Starting => {}
        ComputeState::Stopped | ComputeState::Crashed => {
            for stale in [&record.socket, &dir.pid_file()] {
                if stale.exists() {
                    checks.push(Check::warn(
                        "leftover",
                        format!("{} is of a process that is gone", stale.display()),
                        "harmless: the next start replaces it",
                    ));
                }
            }
            port("port", record.bind, &record.port.to_string(), checks);
        }
    }
}

fn log_errors(name: &'static str, log: &Path, from: u64, checks: &mut Vec<Check>) {
    let text = files::read_log(log, from);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| files::is_error_line(line))
        .collect();
    if errors.is_empty() {
        checks.push(Check::ok(
            name,
            format!("no errors since the start ({})", log.display()),
        ));
        return;
    }
    let shown = &errors[errors.len().saturating_sub(LINES_MAX)..];
    checks.push(Check::warn(
        name,
        format!(
            "{} errors since the start, the last:\n{}",
            errors.len(),
            shown.join("\n")
        ),
        format!("see {}", log.display()),
    ));
}
