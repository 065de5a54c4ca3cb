//! Starts computes again that ended because their page server was gone, or
//! because of a fault that a start may heal.

use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::log_file;
use crate::progress::Progress;
use crate::session::Prepared;
use anyhow::Result;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use xylem_ambient::Clock;

/// The first pause before an attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The storage engine writes this to the error log before it ends by itself, with
/// nothing lost. A compute whose branch another one has taken over writes something
/// else, and must stay down.
const ENDED_BY_ITSELF: &str = "This server stops; every acknowledged commit is on the page server";

/// Whether the compute with the error log `log` ended by itself in such a way.
pub fn is_wanted(log: &str) -> bool {
    log.lines()
        .any(|line| line.contains("[FATAL]") && line.contains(ENDED_BY_ITSELF))
}

/// The computes to start again.
#[derive(Debug)]
pub struct Revive {
    clock: Clock,
    due: HashMap<ComputeName, Attempt>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    pause: Duration,
}

impl Revive {
    /// None yet.
    pub fn new(clock: &Clock) -> Revive {
        Revive {
            clock: clock.clone(),
            due: HashMap::new(),
        }
    }

    /// Notes that the compute `name` died; true when it will be started again.
    pub fn died(&mut self, app: &App, name: &ComputeName, record: &ComputeRecord) -> bool {
        let log = log_file::read(&app.state.compute(name).log(), record.log_from);
        let wanted = record.state() == ComputeState::Crashed && is_wanted(&log);
        if wanted {
            self.due.entry(name.clone()).or_insert(Attempt {
                at: self.clock.instant() + FIRST_PAUSE,
                pause: FIRST_PAUSE,
            });
        }
        wanted
    }

    /// Starts the computes that are due if the server runs. A compute that does not
    /// start is tried again after ever longer pauses.
    pub async fn start_due(&mut self, app: &App, server_alive: bool, progress: &Progress) {
        let now = self.clock.instant();
        let due: Vec<ComputeName> = self
            .due
            .iter()
            .filter(|(_, attempt)| server_alive && attempt.at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            match again(app, &name).await {
                Ok(started) => {
                    self.due.remove(&name);
                    if let Some(pid) = started {
                        progress.note(&format!("{} runs again (pid {pid})", name.described()));
                    }
                }
                Err(error) => {
                    if let Some(attempt) = self.due.get_mut(&name) {
                        attempt.pause = (attempt.pause * 2).min(LONGEST_PAUSE);
                        attempt.at = self.clock.instant() + attempt.pause;
                        progress.note(&format!(
                            "{} does not start: {error:#}; trying again in {} s",
                            name.described(),
                            attempt.pause.as_secs()
                        ));
                    }
                }
            }
        }
    }
}

/// Starts the compute `name`, unless another command has started or stopped it
/// meanwhile; its pid.
async fn again(app: &App, name: &ComputeName) -> Result<Option<u32>> {
    let progress = Progress::new(false);
    let prepared = Prepared::load(app).await?;
    let still = ComputeRecord::load(&app.state.compute(name))
        .is_some_and(|record| record.state() == ComputeState::Crashed);
    if !still {
        return Ok(None);
    }
    let mut session = prepared.start(app, &progress).await?;
    let started = session.compute(app, name, None, &progress).await?;
    Ok(Some(started.record.process.pid))
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn only_what_ended_by_itself_is_started_again() {
        let line = "2026-11-22 14:05:00 5 [ERROR] [FATAL] InnoDB: reading a page failed: gone. \
                    This server stops; every acknowledged commit is on the page server. Start it";
        assert!(is_wanted(&format!("one\n{line}\ntwo")));
        let taken = "[ERROR] [FATAL] InnoDB: branch 'main' was taken over by a newer server (x). \
                     This server stops; what it had not acknowledged is not in the branch.";
        assert!(!is_wanted(taken));
        assert!(!is_wanted("mysqld got signal 6"));
    }
}
