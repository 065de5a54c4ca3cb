//! How far long work has come: counted where it is done, shown elsewhere.

use crate::output;
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at it.
const TICK: Duration = Duration::from_millis(200);

/// Counts bytes; tells the work to stop.
#[derive(Debug)]
pub struct Meter {
    done: AtomicU64,
    total: u64,
    stopped: AtomicBool,
    began: Instant,
}

impl Meter {
    /// For work on `total` bytes.
    pub fn new(total: u64) -> Arc<Meter> {
        Arc::new(Meter {
            done: AtomicU64::new(0),
            total,
            stopped: AtomicBool::new(false),
            began: Instant::now(),
        })
    }

    /// `bytes` more are done.
    ///
    /// # Errors
    /// When the work shall stop.
    pub fn add(&self, bytes: u64) -> io::Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        Ok(())
    }

    /// How far it is.
    pub fn text(&self) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        format!(
            "{} of {}, {}/s",
            output::bytes(done.min(self.total)),
            output::bytes(self.total),
            output::bytes((done as f64 / seconds) as u64)
        )
    }
}

/// Stops its work when dropped: on the thread that does it nothing else would.
struct Stop(Arc<Meter>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

/// Does `work` on a thread of its own and shows how far it is.
///
/// # Errors
/// Those of `work`.
pub async fn watched<T: Send + 'static>(
    progress: &Progress,
    doing: &str,
    meter: &Arc<Meter>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = Stop(Arc::clone(meter));
    let mut working = tokio::task::spawn_blocking(work);
    loop {
        progress.say(format!("{doing}: {}", meter.text()));
        tokio::select! {
            done = &mut working => {
                drop(stop);
                return done.context("the work ended early")?;
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
