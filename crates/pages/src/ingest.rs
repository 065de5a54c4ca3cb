//! Follows a branch's WAL and brings what it says into the open layer.
//!
//! Mtrs are gathered into a batch and become visible together, each whole.
//! Redo that is not understood stops the branch's ingest; reads of what came
//! before go on.

mod pieces;
mod retry;
mod side;
mod stage;
mod state;
mod tablespaces;

use crate::branch::samples::Times;
use crate::branch::shared::Shared;
use crate::layer::batch::{Mtrs, Stretch};
use crate::manifest::record::Resume;
use crate::store::Store;
use pieces::{End, Piece, Pieces};
use retry::{RETRY, Step, Stop, retry};
use state::Ingest;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use tokio::sync::watch;
use xylem_types::{FileOp, Frame, FrameBody, Lsn};
use xylem_wal::{Durable, Position, Record, WalError, WalReader};

/// Bytes of records that become visible together, at most about.
const BATCH_BYTES: usize = 64 << 10;
/// Versions likewise: keeps the writer's hold on the open layer short.
const BATCH_VERSIONS: usize = 2048;
/// Full pieces one after the other from which on another thread reads the next ones.
const MUCH: u32 = 4;
/// Pieces that wait while another one is taken in.
const PIECES_AHEAD: usize = 2;

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
    match ingest.follow(Pieces::new(reader, resume), durable, &runtime) {
        Ok(()) => tracing::info!(branch_id = %shared.id, "the WAL was closed, ingest ends"),
        Err(Stop::Shutdown) => {}
        Err(Stop::Failed(why)) => shared.fail(why),
    }
}

impl Ingest {
    fn follow(
        &mut self,
        mut pieces: Pieces,
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
        let mut piece = Piece::default();
        let mut full = 0u32;
        loop {
            // Without a flusher, redo that is taken in only fills memory.
            if self.shared.stopped() || self.shared.has_no_flusher() {
                return Err(Stop::Shutdown);
            }
            // Before reading, so that what comes after wakes us.
            durable.borrow_and_update();
            pieces.read(&mut piece);
            self.take(&piece)?;
            // A thread is worth its start only when there is much to read.
            full = if matches!(piece.end, End::Full) {
                full + 1
            } else {
                0
            };
            if full >= MUCH {
                self.read_ahead(&mut pieces, &mut piece)?;
            }
            if !matches!(piece.end, End::Wal(WalError::Io { .. })) {
                complained = false;
            }
            match std::mem::take(&mut piece.end) {
                End::Full => {}
                End::Other(record) => self.other(record)?,
                End::Reached => {
                    self.publish()?;
                    if closed {
                        return Ok(());
                    }
                    pieces.shrink(&mut piece);
                    closed = runtime.block_on(async {
                        tokio::select! {
                            moved = durable.changed() => moved.is_err(),
                            _ = stop.changed() => false,
                        }
                    });
                }
                End::Bad(why) => {
                    self.publish()?;
                    return Err(Stop::Failed(why));
                }
                End::Wal(e @ WalError::Io { .. }) => {
                    if !complained {
                        tracing::error!(branch_id = %self.shared.id, error = %e, "reading the WAL fails; trying again");
                        complained = true;
                    }
                    self.publish()?;
                    runtime.block_on(async {
                        let _ = tokio::time::timeout(RETRY, stop.changed()).await;
                    });
                }
                End::Wal(WalError::Closed) => {
                    self.publish()?;
                    return Ok(());
                }
                End::Wal(e) => {
                    self.publish()?;
                    return Err(Stop::Failed(format!("WAL: {e}")));
                }
            }
        }
    }

    /// Takes in pieces that another thread reads meanwhile, until one is not full.
    fn read_ahead(&mut self, pieces: &mut Pieces, piece: &mut Piece) -> Step<()> {
        let resources = Arc::clone(&self.shared.resources);
        let Some(_turn) = resources.read_ahead() else {
            return Ok(());
        };
        let (full, pieces_read) = sync_channel::<Piece>(PIECES_AHEAD);
        let (used, empty) = sync_channel::<Piece>(PIECES_AHEAD);
        std::thread::scope(|scope| {
            let read = move || {
                loop {
                    let mut next = empty.try_recv().unwrap_or_default();
                    pieces.read(&mut next);
                    let ends = !matches!(next.end, End::Full);
                    if full.send(next).is_err() || ends {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("pages-ahead".to_owned());
            // Without another thread this one goes on by itself.
            if thread.spawn_scoped(scope, read).is_err() {
                return Ok(());
            }
            // Dropped at a return, which ends the other thread.
            for next in pieces_read {
                if self.shared.stopped() || self.shared.has_no_flusher() {
                    return Err(Stop::Shutdown);
                }
                self.take(&next)?;
                // One that finds no room is let go.
                let _ = used.try_send(std::mem::replace(piece, next));
            }
            Ok(())
        })
    }

    /// Takes in the entries of a piece and their redo, and makes them visible.
    fn take(&mut self, piece: &Piece) -> Step<()> {
        let mtrs = &piece.mtrs;
        // Mtrs that are visible, and that are staged.
        let (mut visible, mut staged) = (0, 0);
        for (n, entry) in piece.entries.iter().enumerate() {
            let before = self.done;
            // The first entry of a WAL follows on something that stands elsewhere.
            let stepped = entry.stepped || before == Position::default();
            self.stage.times.entry(entry.time_us, stepped);
            self.note_time();
            if self.stage.times.begins() && self.unsampled.is_none() {
                self.unsampled = Some(before);
            }
            if let Some(end) = entry.redo_end {
                self.pending.push_back((end, before));
            }
            while staged < entry.mtrs {
                if let Err(stop) = self.mtr(mtrs, staged) {
                    self.publish_with(Stretch::new(mtrs, visible, staged))?;
                    return Err(stop);
                }
                staged += 1;
                let (bytes, versions) = mtrs.size(visible, staged);
                let batch = &self.stage.batch;
                if bytes + batch.bytes() >= BATCH_BYTES || versions + batch.len() >= BATCH_VERSIONS
                {
                    self.publish_with(Stretch::new(mtrs, visible, staged))?;
                    visible = staged;
                }
            }
            let is_last = n + 1 == piece.entries.len();
            if !(is_last && matches!(piece.end, End::Other(_) | End::Bad(_))) {
                self.done = entry.next;
            }
        }
        if visible < staged {
            self.publish_with(Stretch::new(mtrs, visible, staged))?;
        }
        self.next = piece.entries.last().map_or(self.done, |e| e.next);
        Ok(())
    }

    /// Stages an mtr, whole or not at all.
    fn mtr(&mut self, mtrs: &Mtrs, n: usize) -> Step<()> {
        let (start, bytes) = mtrs.mtr(n);
        let stage = &mut self.stage;
        if mtrs.ends.get(n).is_some_and(|e| e.has_events) {
            let mark = stage.batch.mark();
            if let Err(stop) = stage.events(&self.shared, start, bytes) {
                stage.batch.roll_back(mark);
                return Err(stop);
            }
        }
        let size = bytes.len() as u64;
        stage.mtr(Lsn(start.0.saturating_add(size)), size);
        self.any_mtr = true;
        Ok(())
    }

    /// Takes in the entry with which a piece has ended, which is no redo.
    fn other(&mut self, record: Record) -> Step<()> {
        let (before, next) = (self.done, self.next);
        match record {
            Record::Seal => {}
            Record::Begin { start } => self.begin(start)?,
            Record::Frame(Frame {
                start,
                body: FrameBody::File(op),
                ..
            }) => {
                if before >= self.operations_from {
                    self.file_operation(start, &op, before, next)?;
                }
            }
            // Redo comes as mtrs.
            Record::Frame(_) => {}
        }
        self.done = next;
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
        self.pending.clear();
        self.stage.lsn = start;
        if !self.any_mtr {
            self.oldest = Some(start);
        }
        self.begun = true;
        Ok(())
    }
}
