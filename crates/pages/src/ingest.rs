//! Follows a branch's WAL and brings what it says into the open layer.
//!
//! Mtrs are gathered into a batch and become visible together, each whole.
//! Redo that is not understood stops the branch's ingest; reads of what came
//! before go on.

mod retry;
mod side;
mod stage;
mod state;
mod tablespaces;

use crate::branch::samples::Times;
use crate::branch::shared::Shared;
use crate::manifest::record::Resume;
use crate::store::Store;
use retry::{RETRY, Step, Stop, retry};
use state::Ingest;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use xylem_redo::MtrReader;
use xylem_types::{FileOp, Frame, FrameBody, Lsn};
use xylem_wal::{Durable, Entry, Position, Record, WalError, WalReader};

/// Bytes of records that become visible together, at most about.
const BATCH_BYTES: usize = 64 << 10;
/// Versions likewise: keeps the writer's hold on the open layer short.
const BATCH_VERSIONS: usize = 2048;

/// The thread that ingests one branch, from `resume` on.
pub(crate) fn run(
    store: Arc<Store>,
    shared: &Arc<Shared>,
    resume: Resume,
    reader: Box<dyn WalReader>,
) {
    let durable = shared.wal.durable();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(r) => r,
        Err(e) => return shared.fail(format!("no runtime for the ingest thread: {e}")),
    };
    let (mut started, mut stop) = (store.started(), shared.stop_watch());
    runtime.block_on(async {
        tokio::select! {
            () = async {
                let _ = started.wait_for(|started| *started).await;
                shared.is_begun.store(true, Ordering::Release);
                // Entries that are read again may depend on theirs.
                shared.ancestors_ready().await;
            } => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    match shared.ancestors_behind() {
        Some(_) if shared.stopped() => return,
        Some(e) => return shared.fail(e.to_string()),
        None => {}
    }
    let mut ingest = Ingest::new(store, Arc::clone(shared), resume);
    match ingest.follow(reader, durable, &runtime) {
        Ok(()) => tracing::info!(branch_id = %shared.id, "the WAL was closed, ingest ends"),
        Err(Stop::Shutdown) => {}
        Err(Stop::Failed(why)) => shared.fail(why),
    }
}

impl Ingest {
    fn follow(
        &mut self,
        mut wal: Box<dyn WalReader>,
        mut durable: watch::Receiver<Durable>,
        runtime: &tokio::runtime::Runtime,
    ) -> Step<()> {
        let shared = Arc::clone(&self.shared);
        let newest = retry(&shared, || shared.sample(Lsn::MAX))?;
        self.stage.times = Times::after(newest.map(|(_, sample)| sample));
        self.note_time();
        let mut stop = self.shared.stop_watch();
        let mut closed = false;
        let mut complained = false;
        loop {
            // Without a flusher, redo that is taken in only fills memory.
            if self.shared.stopped() || self.shared.has_no_flusher() {
                return Err(Stop::Shutdown);
            }
            // Before reading, so that what comes after wakes us.
            durable.borrow_and_update();
            match wal.next() {
                Ok(Some(entry)) => {
                    complained = false;
                    self.entry(entry)?;
                }
                Ok(None) => {
                    self.publish()?;
                    if closed {
                        return Ok(());
                    }
                    closed = runtime.block_on(async {
                        tokio::select! {
                            moved = durable.changed() => moved.is_err(),
                            _ = stop.changed() => false,
                        }
                    });
                }
                Err(e @ WalError::Io { .. }) => {
                    if !complained {
                        tracing::error!(branch_id = %self.shared.id, error = %e, "reading the WAL fails; trying again");
                        complained = true;
                    }
                    self.publish()?;
                    runtime.block_on(async {
                        let _ = tokio::time::timeout(RETRY, stop.changed()).await;
                    });
                }
                Err(WalError::Closed) => {
                    self.publish()?;
                    return Ok(());
                }
                Err(e) => {
                    self.publish()?;
                    return Err(Stop::Failed(format!("WAL: {e}")));
                }
            }
        }
    }

    fn entry(&mut self, entry: Entry) -> Step<()> {
        let before = self.done;
        // The first entry of a WAL follows on something that stands elsewhere.
        let stepped = entry.stepped || before == Position::default();
        self.stage.times.entry(entry.time_us, stepped);
        self.note_time();
        if self.stage.times.begins() && self.unsampled.is_none() {
            self.unsampled = Some(before);
        }
        match entry.record {
            Record::Seal => {}
            Record::Begin { start } => self.begin(start)?,
            Record::Frame(Frame {
                start,
                body: FrameBody::Redo(bytes),
                ..
            }) => {
                self.redo(start, &bytes, before)?;
            }
            Record::Frame(Frame {
                start,
                body: FrameBody::File(op),
                ..
            }) => {
                if before >= self.operations_from {
                    self.file_operation(start, &op, before, entry.next)?;
                }
            }
        }
        self.done = entry.next;
        Ok(())
    }

    /// Brings in the side-file operation between `before` and `next`.
    fn file_operation(
        &mut self,
        start: Lsn,
        op: &FileOp,
        before: Position,
        next: Position,
    ) -> Step<()> {
        if !self.begun {
            return Err(Stop::Failed(format!(
                "a side-file operation at LSN {start} stands before the WAL's first epoch"
            )));
        }
        self.publish()?;
        let shared = Arc::clone(&self.shared);
        let _gate = shared.forks.hold();
        let stage = &mut self.stage;
        let newest = shared.newest();
        let due = stage.times.is_due();
        stage.side_lsn = shared.forks.operation_lsn(stage.lsn, before, due);
        self.side(op)?;
        // A second sample of one LSN would make the first untrue.
        if self.stage.side_lsn > newest {
            self.stage.sample(self.stage.side_lsn);
        }
        self.shared.stats.file_ops.add(1);
        self.done = next;
        self.publish()
    }

    /// An epoch begins: bytes of a torn mtr before it are void.
    fn begin(&mut self, start: Lsn) -> Step<()> {
        self.publish()?;
        let applied = self.stage.lsn;
        if self.any_mtr && start != applied {
            let what = if start < applied {
                "which is ingested"
            } else {
                "where ingest stands: redo is missing"
            };
            return Err(Stop::Failed(format!(
                "redo at LSN {start}: an epoch begins there, but whole mtrs end at LSN {applied}, {what}"
            )));
        }
        self.reader = Some(MtrReader::new(start));
        self.pending.clear();
        self.resumed = None;
        self.stage.lsn = start;
        if !self.any_mtr {
            self.oldest = Some(start);
        }
        self.begun = true;
        Ok(())
    }

    fn redo(&mut self, start: Lsn, bytes: &[u8], before: Position) -> Step<()> {
        let Some(reader) = &mut self.reader else {
            return Err(Stop::Failed(format!(
                "redo at LSN {start} stands before the WAL's first epoch"
            )));
        };
        let expected = reader.pushed_lsn();
        let end = Lsn(start.0.saturating_add(bytes.len() as u64));
        let mut bytes = bytes;
        if start != expected {
            // After a restart the first entries may begin before what is left.
            let known = self
                .resumed
                .is_some_and(|r| start < r.lsn && expected == r.lsn);
            if !known {
                return Err(Stop::Failed(format!(
                    "redo at LSN {start} does not follow: LSN {expected} is next"
                )));
            }
            let skip = expected.bytes_since(start).min(bytes.len() as u64) as usize;
            bytes = bytes.get(skip..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
        }
        reader.push(bytes);
        self.pending.push_back((end, before));
        loop {
            let Some(reader) = &mut self.reader else {
                return Ok(());
            };
            match reader.next() {
                Ok(None) => return Ok(()),
                Ok(Some(mtr)) => {
                    let mark = self.stage.batch.mark();
                    let (lsn, times) = (self.stage.lsn, self.stage.times);
                    if let Err(stop) = self.stage.mtr(&self.shared, &mtr) {
                        // None of it may be seen.
                        self.stage.batch.roll_back(mark);
                        (self.stage.lsn, self.stage.times) = (lsn, times);
                        self.publish()?;
                        return Err(stop);
                    }
                    self.any_mtr = true;
                }
                Err(e) => {
                    self.publish()?;
                    return Err(Stop::Failed(e.to_string()));
                }
            }
            let batch = &self.stage.batch;
            if batch.bytes() >= BATCH_BYTES || batch.len() >= BATCH_VERSIONS {
                self.publish()?;
            }
        }
    }
}
