//! A log that is made when its first epoch is.

use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};
use xylem_wal::{BoxFuture, Durable, Entry, Log, LogError, LogReader, Position};

type Make = Box<dyn Fn() -> Result<Arc<dyn Log>, LogError> + Send + Sync>;

/// Empty, until an epoch is sealed; from then on the log that is made then.
pub(super) struct LateLog {
    shared: Arc<Shared>,
    /// Held while the log is made or closed.
    stage: tokio::sync::Mutex<Stage>,
    durable: watch::Receiver<Durable>,
}

struct Shared {
    make: Make,
    log: OnceLock<Arc<dyn Log>>,
}

enum Stage {
    /// No log yet; the sender will tell of the one that comes.
    Empty(watch::Sender<Durable>),
    Made,
    Closed,
}

impl LateLog {
    /// A log that `make` makes, blocking.
    pub(super) fn new(
        make: impl Fn() -> Result<Arc<dyn Log>, LogError> + Send + Sync + 'static,
    ) -> LateLog {
        let (sender, durable) = watch::channel(Durable::default());
        LateLog {
            shared: Arc::new(Shared {
                make: Box::new(make),
                log: OnceLock::new(),
            }),
            stage: tokio::sync::Mutex::new(Stage::Empty(sender)),
            durable,
        }
    }

    fn log(&self) -> Option<&Arc<dyn Log>> {
        self.shared.log.get()
    }

    /// The log, made now if it was not.
    async fn made(&self) -> Result<&Arc<dyn Log>, LogError> {
        if let Some(log) = self.log() {
            return Ok(log);
        }
        let mut stage = self.stage.lock().await;
        if matches!(*stage, Stage::Closed) {
            return Err(LogError::Closed);
        }
        if self.log().is_none() {
            let shared = Arc::clone(&self.shared);
            let made = tokio::task::spawn_blocking(move || (shared.make)());
            let log = made.await.map_err(|_| LogError::Closed)??;
            let durable = log.durable();
            if self.shared.log.set(log).is_ok()
                && let Stage::Empty(sender) = std::mem::replace(&mut *stage, Stage::Made)
            {
                tokio::spawn(forward(durable, sender));
            }
        }
        self.log().ok_or(LogError::Closed)
    }

    /// Waits until those who watch this log see `reached`, so that no one asks
    /// it for less than its maker was told.
    async fn seen(&self, reached: Durable) -> Result<Durable, LogError> {
        let mut durable = self.durable.clone();
        match durable
            .wait_for(|now| now.position() >= reached.position())
            .await
        {
            Ok(_) => Ok(reached),
            Err(_) => Err(LogError::Closed),
        }
    }
}

/// What a log says that no epoch was ever sealed in.
fn refused(epoch: Epoch) -> LogError {
    match epoch {
        Epoch(0) => LogError::NotBegun { epoch },
        given => LogError::Fenced {
            given,
            current: Epoch(0),
        },
    }
}

/// Tells on until the log ends; then the sender is dropped, which says so.
async fn forward(mut from: watch::Receiver<Durable>, to: watch::Sender<Durable>) {
    loop {
        let now = *from.borrow_and_update();
        to.send_replace(now);
        if from.changed().await.is_err() {
            return;
        }
    }
}

impl Log for LateLog {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, LogError>> {
        Box::pin(async {
            let sealed = self.made().await?.seal().await?;
            self.seen(sealed).await
        })
    }

    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, LogError>> {
        Box::pin(async move {
            let log = self.log().ok_or_else(|| refused(epoch))?;
            let begun = log.begin(epoch, start).await?;
            self.seen(begun).await
        })
    }

    fn append(&self, epoch: Epoch, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LogError>> {
        match self.log() {
            Some(log) => log.append(epoch, frames),
            None => Box::pin(async move { Err(refused(epoch)) }),
        }
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), LogError> {
        match self.log() {
            Some(log) => log.accepted(epoch),
            None if epoch == Epoch(0) => Ok(Default::default()),
            None => Err(refused(epoch)),
        }
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        // Who asks late hears it without a detour.
        self.log()
            .map_or_else(|| self.durable.clone(), |log| log.durable())
    }

    fn read_from(&self, position: Position) -> Result<Box<dyn LogReader>, LogError> {
        match self.log() {
            Some(log) => log.read_from(position),
            None if position == Position::default() => Ok(Box::new(LateReader {
                shared: Arc::clone(&self.shared),
                reader: None,
            })),
            None => Err(LogError::NoSuchPosition(position)),
        }
    }

    fn trim(&self, before: Position) -> Result<(), LogError> {
        self.log().map_or(Ok(()), |log| log.trim(before))
    }

    fn first(&self) -> Position {
        self.log().map_or(Position::default(), |log| log.first())
    }

    fn stored_bytes(&self) -> u64 {
        self.log().map_or(0, |log| log.stored_bytes())
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            // Drops the sender of a log that was never made: it has ended.
            *self.stage.lock().await = Stage::Closed;
            match self.log() {
                Some(log) => log.close().await,
                None => Ok(()),
            }
        })
    }
}

/// Reads a log from its beginning, once there is one.
struct LateReader {
    shared: Arc<Shared>,
    reader: Option<Box<dyn LogReader>>,
}

impl LogReader for LateReader {
    fn next(&mut self) -> Result<Option<Entry>, LogError> {
        if self.reader.is_none() {
            let Some(log) = self.shared.log.get() else {
                return Ok(None);
            };
            self.reader = Some(log.read_from(Position::default())?);
        }
        match &mut self.reader {
            Some(reader) => reader.next(),
            None => Ok(None),
        }
    }
}
