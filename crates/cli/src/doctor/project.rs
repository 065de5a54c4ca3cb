//! The project's files and processes.

use super::Check;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState};
use crate::files;
use crate::keys;
use crate::log_file;
use crate::output::bytes;
use crate::ports;
use crate::project::Project;
use crate::report::seen::Seen;
use crate::role::{Role, RoleRecord, RoleState};
use crate::state::StateDir;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Ingest this far behind the WAL makes reads wait.
const LAG_WARN_BYTES: u64 = 64 << 20;

/// The most lines of a log file that are shown.
const LINES_MAX: usize = 5;

pub(super) fn check(state: &StateDir, seen: &Seen, checks: &mut Vec<Check>) {
    settings(state, checks);
    password(state, checks);
    private(state, checks);
    server(state, seen, checks);
    for of in Role::ALL {
        role(state, of, checks);
    }
    lag(seen, checks);
    let computes = record::list(state);
    if computes.is_empty() {
        checks.push(Check::warn(
            "compute",
            "none has been started yet",
            "`xylem up` starts the compute of branch main",
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
            "repair project.toml, or restore it from a backup",
        )),
        Ok(project) => {
            checks.push(if project.half_made {
                Check::warn(
                    "project",
                    "it is incomplete: its first start was interrupted",
                    "`xylem up` creates it anew",
                )
            } else {
                Check::ok("project", state.root().display().to_string())
            });
            if project.settings.compute.user.as_deref() == Some("root") {
                checks.push(Check::warn(
                    "user",
                    "mariadbd runs as the system's root: everybody with the FILE privilege writes files as root where secure_file_priv allows it",
                    "run mariadbd as a system account from the next start on: `xylem up --unset user`",
                ));
            }
            if !project.settings.bind().is_loopback() {
                let found = format!(
                    "computes listen on {}, reachable from other machines",
                    project.settings.bind()
                );
                checks.push(Check::warn(
                    "bind",
                    found,
                    "protect them with a firewall, or listen locally only: `xylem up --bind 127.0.0.1`",
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
            None if name == "token" => checks.push(Check::warn(
                name,
                format!("{} is missing", path.display()),
                "restart the server, which makes it anew",
            )),
            None => checks.push(Check::fail(
                name,
                format!("{} is missing", path.display()),
                "write root's password into it; `xylem sql` needs it",
            )),
            Some(mode) if mode & 0o077 != 0 => {
                checks.push(Check::fail(
                    name,
                    format!("other users may read {} (mode {mode:o})", path.display()),
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
        state.role_file(Role::Gateway),
        state.role_log(Role::Gateway),
        state.role_file(Role::Api),
        state.role_log(Role::Api),
        state.audit_log(),
        keys::dir(state),
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
            dir.old_data(),
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
        Check::ok(
            "private",
            "other users may read neither log files nor settings",
        )
    } else {
        Check::warn(
            "private",
            format!("other users may read {}", open.join(", ")),
            format!("`chmod o-rwx {}`", open.join(" ")),
        )
    });
}

fn server(state: &StateDir, seen: &Seen, checks: &mut Vec<Check>) {
    let log = state.server_log();
    let Some(record) = &seen.record else {
        checks.push(Check::warn(
            "server",
            "it has not been started yet",
            "start it with `xylem up`",
        ));
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
                    "restart the server: `xylem down`, then `xylem up`",
                ));
            }
        }
        (None, Some(trouble)) => checks.push(Check::fail(
            "server",
            format!(
                "process {} runs but does not answer: {trouble:#}",
                record.process.pid
            ),
            format!(
                "see {}; restart the server with `xylem down` and `xylem up`",
                log.display()
            ),
        )),
        (None, None) if record.stopped => checks.push(Check::ok("server", "stopped")),
        (None, None) => checks.push(Check::fail(
            "server",
            format!(
                "it died (pid {})\n{}",
                record.process.pid,
                log_file::last_errors(&log, record.log_from)
            ),
            "`xylem up` starts it again",
        )),
    }
    if alive {
        log_errors("server.log", &log, record.log_from, checks);
    } else {
        for address in [&record.grpc, &record.http] {
            if let Ok(address) = address.parse::<SocketAddr>() {
                port("port", address.ip(), &address.port().to_string(), checks);
            }
        }
    }
}

fn role(state: &StateDir, role: Role, checks: &mut Vec<Check>) {
    let Ok(project) = Project::load(state) else {
        return;
    };
    let (wanted, name) = (role.is_wanted(&project), role.name());
    let Some(record) = RoleRecord::load(state, role) else {
        checks.push(if wanted {
            Check::warn(
                name,
                "it has not been started yet",
                "start it with `xylem up`",
            )
        } else {
            Check::ok(name, "off")
        });
        return;
    };
    let (pid, log) = (record.process.pid, state.role_log(role));
    match record.state() {
        RoleState::Running => {
            checks.push(if record.answers(role) {
                Check::ok(name, format!("running, pid {pid}, {}", record.listen))
            } else {
                Check::fail(
                    name,
                    format!("process {pid} runs but does not answer on {}", record.listen),
                    format!(
                        "see {}; restart it with `xylem up --{name} off` and `xylem up --{name} on`",
                        log.display()
                    ),
                )
            });
            log_errors(role.log_name(), &log, record.log_from, checks);
            return;
        }
        RoleState::Stopped => checks.push(Check::ok(name, "stopped")),
        RoleState::Crashed => checks.push(Check::fail(
            name,
            format!(
                "it died (pid {pid})\n{}",
                log_file::last_errors(&log, record.log_from)
            ),
            "`xylem up` starts it again",
        )),
    }
    if wanted {
        let listen = record.listen;
        port("port", listen.ip(), &listen.port().to_string(), checks);
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
        "free the port, or the next start takes another one",
    ));
}

fn lag(seen: &Seen, checks: &mut Vec<Check>) {
    for branch in &seen.branches {
        let found = format!(
            "branch {}: {} behind its WAL (LSN {})",
            branch.name,
            bytes(branch.lag_bytes),
            branch.last_lsn
        );
        checks.push(if branch.lag_bytes > LAG_WARN_BYTES {
            Check::warn("lag", found, "if the lag does not shrink, check the disk's speed, and server.log for a stopped ingest")
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
        ComputeState::Asleep => Check::ok("compute", format!("{name}: asleep")),
        ComputeState::Crashed => Check::fail(
            "compute",
            format!(
                "{name}: it died (pid {pid})\n{}",
                log_file::last_errors(&dir.log(), record.log_from)
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
                        "{name}: process {pid} runs but does not answer on {}",
                        record.socket.display()
                    ),
                    format!(
                        "see {}; `xylem compute kill {name}`, then start it again",
                        dir.log().display()
                    ),
                ));
            }
            log_errors("error log", &dir.log(), record.log_from, checks);
        }
        ComputeState::Starting => {}
        ComputeState::Stopped | ComputeState::Asleep | ComputeState::Crashed => {
            for stale in [&record.socket, &dir.pid_file()] {
                if stale.exists() {
                    checks.push(Check::warn(
                        "leftover",
                        format!("{} belongs to a process that has ended", stale.display()),
                        "no action is needed: the next start replaces it",
                    ));
                }
            }
            port("port", record.bind, &record.port.to_string(), checks);
        }
    }
}

fn log_errors(name: &'static str, log: &Path, from: u64, checks: &mut Vec<Check>) {
    let text = log_file::read(log, from);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| log_file::is_error_line(line))
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
