//! The progress of long work: counted where the work is done, shown elsewhere.

use crate::output;
use crate::progress::Progress;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use xylem_ambient::Clock;

/// How often the progress is shown anew.
const TICK: Duration = Duration::from_millis(200);

/// Counts bytes, and tells the work to stop.
#[derive(Debug)]
pub struct Meter {
    done: AtomicU64,
    total: u64,
    stopped: AtomicBool,
    timer: Timer,
}

impl Meter {
    /// For work on `total` bytes that begins now.
    pub fn new(total: u64, clock: &Clock) -> Arc<Meter> {
        Arc::new(Meter {
            done: AtomicU64::new(0),
            total,
            stopped: AtomicBool::new(false),
            timer: Timer::start(clock),
        })
    }

    /// Counts `bytes` more.
    ///
    /// # Errors
    /// When the work must stop.
    pub fn add(&self, bytes: u64) -> io::Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        Ok(())
    }

    fn text(&self) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = self.timer.elapsed().as_secs_f64().max(0.001);
        format!(
            "{} of {}, {}/s",
            output::bytes(done.min(self.total)),
            output::bytes(self.total),
            output::bytes((done as f64 / seconds) as u64)
        )
    }

    /// Waits for `work` and shows its progress as `doing`.
    pub async fn show<T>(
        &self,
        progress: &Progress,
        doing: &str,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        loop {
            progress.say(format!("{doing}: {}", self.text()));
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }
}

/// Stops its work when dropped, since a thread does not end with its caller.
struct Stop(Arc<Meter>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

/// Does `work` on a thread of its own and shows its progress as `doing`.
///
/// # Errors
/// Those of `work`.
pub async fn watched<T: Send + 'static>(
    progress: &Progress,
    doing: &str,
    meter: &Arc<Meter>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let _stop = Stop(Arc::clone(meter));
    let working = tokio::task::spawn_blocking(work);
    let done = meter.show(progress, doing, working).await;
    done.context("the work ended early")?
}
