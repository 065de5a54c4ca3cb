//! Makes visible what ingest has read, a batch at a time.

use super::layers::{Frozen, Layers};
use super::shared::{Progress, Shared};
use crate::layer::batch::{Batch, Stretch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xylem_types::{Lsn, SpaceId};
use xylem_wal::Position;

impl Shared {
    /// Makes the mtrs of `redo` and a batch visible. Whole mtrs end at the LSN of
    /// `now`.
    pub(crate) fn publish(
        &self,
        redo: Stretch<'_>,
        batch: &Batch,
        spaces: &[SpaceId],
        now: Progress,
    ) {
        let resources = &self.resources;
        let lsn = now.resume.lsn;
        let is_empty = redo.len() == 0 && batch.len() == 0;
        let mut progress = self.progress.lock();
        let changing = self.generations.begin(spaces);
        if !is_empty {
            let mut open = Arc::clone(&self.layers.read().open);
            if !open.reaches(lsn) || !open.insert(redo, batch, resources.chunk_bytes()) {
                self.freeze_locked(&progress);
                open = Arc::clone(&self.layers.read().open);
                open.insert(redo, batch, resources.chunk_bytes());
            }
        }
        // Where history begins is ingest's to say once; then it moves on.
        if let (None, Some(oldest)) = (progress.oldest, now.oldest) {
            self.oldest.store(oldest.0, Ordering::Release);
        }
        // It never goes back: after a start, operations may be in layers whose
        // LSN no entry names that is read again.
        let newest = now.newest.max(progress.newest);
        let now = Progress { newest, ..now };
        self.newest.store(newest.0, Ordering::Release);
        *progress = now;
        let operations = now.resume.operations.0;
        if lsn > self.applied() {
            self.applied.store(lsn.0, Ordering::Release);
            self.applied_tx.send_replace(lsn);
        }
        // After the LSN: a thread that sees this reads all redo before it.
        self.operations.store(operations, Ordering::Release);
        self.generations.end(changing);
        if !is_empty {
            let limit = resources.open_limit();
            let open = Arc::clone(&self.layers.read().open);
            if open.record_bytes() >= limit || open.memory() >= resources.open_memory_limit() {
                self.freeze_locked(&progress);
            }
        }
        drop(progress);
    }

    /// The end of the last whole mtr, or where the newest side-file operation
    /// after it counts from.
    pub(crate) fn newest(&self) -> Lsn {
        self.applied().max(Lsn(self.newest.load(Ordering::Acquire)))
    }

    /// The place in the WAL before which all redo that is whole, and all
    /// side-file operations, can be read.
    pub(super) fn ingested_operations(&self) -> Position {
        Position(self.operations.load(Ordering::Acquire))
    }

    /// The end of the visible history: that of the last whole mtr, and the place
    /// in the WAL before which all side-file operations are visible.
    pub(crate) fn visible(&self) -> (Lsn, Position) {
        let progress = self.progress.lock();
        (self.applied(), progress.resume.operations)
    }

    /// The place from which on the WAL has bytes that are not in whole mtrs yet,
    /// and the LSN at which the first such mtr begins, or would; no LSN where no
    /// epoch has begun.
    pub(crate) fn unfinished(&self) -> (Position, Option<Lsn>) {
        let resume = self.progress.lock().resume;
        (resume.position, resume.begun.then_some(resume.lsn))
    }

    /// Everything before `position` was read and, where whole, is visible.
    pub(crate) fn publish_position(&self, position: Position) {
        self.position_tx.send_if_modified(|p| {
            let moved = *p < position;
            *p = position;
            moved
        });
    }

    /// Everything before this place was read from the WAL.
    pub(crate) fn ingested_position(&self) -> Position {
        *self.position_tx.borrow()
    }

    /// Closes the open layer; the flush thread writes it.
    pub(crate) fn freeze(&self) {
        let progress = self.progress.lock();
        self.freeze_locked(&progress);
    }

    fn freeze_locked(&self, progress: &Progress) {
        {
            let mut layers = self.layers.write();
            if layers.open.is_empty() {
                return;
            }
            let end = progress.newest;
            let mut next = Layers::clone(&layers);
            next.frozen.push(Frozen {
                layer: Arc::clone(&layers.open),
                end,
                resume: progress.resume,
                oldest: progress.oldest,
            });
            next.open = Arc::new(self.resources.memory_layer(end));
            *layers = Arc::new(next);
        }
        let _guard = self.flush_lock.lock();
        self.flush_signal.notify_all();
    }

    /// Freezes the open layer when it has been open for long, so that the WAL
    /// behind it can go.
    pub(crate) fn flush_when_old(&self) {
        let open = Arc::clone(&self.layers.read().open);
        if !open.is_empty() && open.age() >= self.resources.config.flush_after {
            self.freeze();
        }
    }

    /// Queues the pages whose chains the last batch made long.
    pub(crate) fn note_long(&self) {
        for page in self.layers().open.take_long() {
            self.resources.long_pages.push(self.id, page);
        }
    }
}
