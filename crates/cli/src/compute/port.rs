//! The port of a compute.

use super::name::ComputeName;
use super::record::{self, ComputeRecord};
use crate::files;
use crate::ports::{Choice, Wanted};
use crate::project::{self, Project};
use crate::state::StateDir;
use anyhow::Result;

/// The flags that set the port of branch main's compute.
const MAIN_FLAG: &str = "--mysql-port (`up`) or --port (`compute start`)";

/// Chooses the port of the compute `name`: the `explicit` one, else the one of
/// last time, which `before` knows, else the next free one that is not in `taken`. It is
/// noted in the compute's directory, where starts at the same time see it.
///
/// # Errors
/// When the explicit port is taken, or none is free.
pub(super) fn choose(
    state: &StateDir,
    project: &Project,
    name: &ComputeName,
    before: Option<&ComputeRecord>,
    explicit: Option<u16>,
    taken: &[u16],
) -> Result<Choice> {
    let main = name.is_main();
    let ports = &project.ports;
    let kept = if main {
        ports.mysql_port
    } else {
        // A compute whose branch was called main once has main's port.
        let port = before.map(|r| r.port);
        port.filter(|port| ports.mysql_port != Some(*port))
    };
    let first = ports.mysql_port.unwrap_or(project::MYSQL_PORT);
    let preferred = match kept {
        Some(port) => port,
        None if main => project::MYSQL_PORT,
        None => first.saturating_add(1),
    };
    let what = name.described();
    let _alone = state.lock_ports()?;
    let mut choice = Wanted {
        what: &what,
        flag: if main { MAIN_FLAG } else { "--port" },
        address: project.settings.bind(),
        explicit,
        preferred,
    }
    .choose(&avoid(state, project, name, taken))?;
    // Branches other than main have no port of their own to miss.
    if kept.is_none() && !main {
        choice.instead_of = None;
    }
    let file = state.compute(name).port_file();
    files::write_atomic(&file, choice.port.to_string().as_bytes(), files::SECRET)?;
    Ok(choice)
}

/// The ports of other computes, even of stopped ones, which would move about
/// otherwise, those of the server and of the gateway, and `taken`.
fn avoid(state: &StateDir, project: &Project, name: &ComputeName, taken: &[u16]) -> Vec<u16> {
    let mut avoid = Vec::new();
    for other in record::names(state).iter().filter(|other| *other != name) {
        let dir = state.compute(other);
        avoid.extend(ComputeRecord::load(&dir).map(|record| record.port));
        let chosen = std::fs::read_to_string(dir.port_file());
        avoid.extend(chosen.ok().and_then(|port| port.parse::<u16>().ok()));
    }
    let server = project.ports.server;
    avoid.extend([server.grpc_port, server.http_port].into_iter().flatten());
    avoid.extend(project.ports.gateway_port);
    avoid.extend(taken);
    if !name.is_main() {
        avoid.extend(project.ports.mysql_port);
    }
    avoid
}
