//! Watching over a project in the foreground: says when a process dies, and
//! starts computes again that ended because of their page server.

use super::revive::Revive;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState, Phase};
use crate::failure::Failure;
use crate::log_file;
use crate::process::{Process, reap_children};
use crate::progress::Progress;
use crate::role::{Role, RoleRecord};
use crate::state::ServerRecord;
use anyhow::Result;
use std::collections::HashMap;
use std::time::Duration;

/// Watches until nothing runs any more: other commands may start processes again.
///
/// # Errors
/// When the server died.
pub(super) async fn watch(app: &App) -> Result<()> {
    let mut watch = Watch {
        app,
        progress: Progress::new(false),
        server: app.state.server_record().map(|r| r.process),
        roles: Role::ALL.map(|role| {
            let record = RoleRecord::load(&app.state, role).filter(|record| !record.stopped);
            (role, record.map(|record| record.process))
        }),
        seen: HashMap::new(),
        revive: Revive::new(&app.clock),
    };
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // While this command runs, what it started are its children.
        reap_children();
        let record = app.state.server_record();
        let alive = watch.look_at_server(record.as_ref());
        let computes = watch.look_at_computes();
        let roles = watch.look_at_roles();
        watch.revive.start_due(app, alive, &watch.progress).await;
        // For a client, a gateway or the API starts the rest again.
        if alive || computes > 0 || roles {
            continue;
        }
        if record.is_none_or(|r| r.stopped) {
            return Ok(());
        }
        return Err(Failure::new(
            "nothing runs any more",
            format!(
                "see {} and `{}`",
                app.state.server_log().display(),
                app.command("doctor")
            ),
        ));
    }
}

struct Watch<'a> {
    app: &'a App,
    progress: Progress,
    /// The server, while it is known to run.
    server: Option<Process>,
    /// The gateway and the API, while they are known to run.
    roles: [(Role, Option<Process>); 2],
    /// The pids of computes that are known to run.
    seen: HashMap<ComputeName, u32>,
    revive: Revive,
}

impl Watch<'_> {
    /// Whether the server runs.
    fn look_at_server(&mut self, record: Option<&ServerRecord>) -> bool {
        let Some(record) = record else { return false };
        let pid = record.process.pid;
        let alive = record.process.is_alive();
        match self.server {
            Some(_) if !alive => {
                let how = if record.stopped {
                    "was stopped"
                } else {
                    "died"
                };
                let up = self.app.command("up");
                self.progress.note(&format!(
                    "the server (pid {pid}) {how}; start it with `{up}`"
                ));
                if !record.stopped {
                    let log = self.app.state.server_log();
                    self.progress
                        .note(&log_file::last_errors(&log, record.log_from));
                }
                self.server = None;
            }
            None if alive => {
                self.progress
                    .note(&format!("the server runs again (pid {pid})"));
                self.server = Some(record.process);
            }
            _ => {}
        }
        alive
    }

    /// Whether the gateway or the API runs.
    fn look_at_roles(&mut self) -> bool {
        let mut runs = false;
        for (role, known) in &mut self.roles {
            let Some(record) = RoleRecord::load(&self.app.state, *role) else {
                continue;
            };
            if record.process.is_alive() {
                *known = Some(record.process);
                runs = true;
                continue;
            }
            if known.take() != Some(record.process) {
                continue;
            }
            let (who, pid) = (role.described(), record.process.pid);
            let up = self.app.command("up");
            let how = if record.stopped {
                "was stopped"
            } else {
                "died"
            };
            self.progress
                .note(&format!("{who} (pid {pid}) {how}; start it with `{up}`"));
            if !record.stopped {
                let log = self.app.state.role_log(*role);
                self.progress
                    .note(&log_file::last_errors(&log, record.log_from));
            }
        }
        runs
    }

    /// How many computes run.
    fn look_at_computes(&mut self) -> usize {
        let mut running = 0;
        for (name, record) in record::list(&self.app.state) {
            let pid = record.process.pid;
            if record.process.is_alive() {
                running += 1;
                self.seen.insert(name, pid);
            } else if self.seen.get(&name) == Some(&pid) {
                self.seen.remove(&name);
                self.ended(&name, &record);
            }
        }
        running
    }

    fn ended(&mut self, name: &ComputeName, record: &ComputeRecord) {
        if record.phase == Phase::Asleep {
            self.progress
                .note(&format!("{} sleeps until a client comes", name.described()));
            return;
        }
        let how = if record.phase == Phase::Stopped {
            "was stopped"
        } else {
            "died"
        };
        let next = if self.revive.died(self.app, name, record) {
            "it is started again when the server answers".to_owned()
        } else {
            let start = self.app.command(&format!("compute start {name}"));
            format!("start it with `{start}`")
        };
        self.progress.note(&format!(
            "{} (pid {}) {how}; {next}",
            name.described(),
            record.process.pid,
        ));
        if record.state() == ComputeState::Crashed {
            let log = self.app.state.compute(name).log();
            self.progress
                .note(&log_file::last_errors(&log, record.log_from));
        }
    }
}
