//! Rounds of kills under load: a process is killed, everything is started again, and the
//! data is compared with what was acknowledged.

pub mod ddl;
pub mod rows;

use crate::{Project, wait_until};
use anyhow::{Context, Result, ensure};
use mysql::{Conn, OptsBuilder};
use std::time::Duration;

/// The processes that a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The compute.
    Compute {
        /// Also delete the compute's directory.
        delete: bool,
    },
    /// The server; the compute continues.
    Server,
    /// Server and compute.
    Both {
        /// Also delete the compute's directory.
        delete: bool,
    },
}

impl Victim {
    /// A random victim.
    pub fn choose(random: &mut Random) -> Victim {
        let delete = random.below(2) == 0;
        match random.below(5) {
            0 | 1 => Victim::Compute { delete },
            2 => Victim::Server,
            _ => Victim::Both { delete },
        }
    }

    /// Whether the kill breaks the clients' connections.
    pub fn ends_connections(self) -> bool {
        self != Victim::Server
    }

    /// Kills the victim.
    ///
    /// # Errors
    /// A process cannot be killed.
    pub fn strike(self, project: &Project) -> Result<()> {
        match self {
            Victim::Server => project.kill_server(),
            Victim::Compute { delete } => lose(project, delete),
            Victim::Both { delete } => {
                project.kill_server()?;
                lose(project, delete)
            }
        }
    }
}

fn lose(project: &Project, delete: bool) -> Result<()> {
    if delete {
        project.lose_compute()
    } else {
        project.xylem(&["compute", "kill", "main"]).map(|_| ())
    }
}

/// Repeatable randomness (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A random number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Connects to `main` as root.
///
/// # Errors
/// The compute cannot be reached.
pub fn connect(project: &Project) -> Result<Conn> {
    connect_to(project, "main")
}

/// Connects to a compute as root.
///
/// # Errors
/// The compute cannot be reached.
pub fn connect_to(project: &Project, compute: &str) -> Result<Conn> {
    let login = project.login_to(compute)?;
    let options = OptsBuilder::new()
        .socket(Some(login.socket.display().to_string()))
        .user(Some(login.user))
        .pass(Some(login.password));
    Conn::new(options).context("cannot connect")
}

/// Lets the load run for a while.
pub fn let_run(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "the moment of a kill is random")]
    std::thread::sleep(time);
}

/// Starts the killed processes, and waits until the compute answers.
///
/// # Errors
/// The compute does not answer in time.
pub fn revive(project: &Project) -> Result<Conn> {
    project.start()?;
    wait_until("the compute to answer", Duration::from_secs(30), || {
        Ok(connect(project).is_ok())
    })?;
    connect(project)
}

/// Runs `CHECK TABLE … EXTENDED` on some databases.
///
/// # Errors
/// The check has findings.
pub fn check(project: &Project, databases: &[&str]) -> Result<()> {
    for database in databases {
        let bad = project.check(database)?;
        ensure!(bad.is_empty(), "CHECK TABLE in {database}: {bad:?}");
    }
    Ok(())
}
