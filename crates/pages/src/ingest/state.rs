//! Where ingest of a branch stands.

use super::retry::{Step, Stop};
use super::stage::Stage;
use crate::branch::shared::{Progress, Shared};
use crate::layer::batch::Stretch;
use crate::layer::memory::memory_bound;
use crate::manifest::record::Resume;
use crate::store::Store;
use std::collections::VecDeque;
use std::sync::Arc;
use xylem_types::Lsn;
use xylem_wal::Position;

/// State of the ingest thread.
pub(super) struct Ingest {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<Store>,
    pub(super) stage: Stage,
    /// Redo entries whose bytes are not all in whole mtrs: the LSN each ends
    /// at, the place before it.
    pub(super) pending: VecDeque<(Lsn, Position)>,
    /// Everything before it is handled.
    pub(super) done: Position,
    /// The place after the last entry of the piece that was taken in last.
    pub(super) next: Position,
    pub(super) operations_from: Position,
    /// Where the entry stands with which the WAL's times began anew; ingest
    /// goes on there after a restart until a sample tells of it.
    pub(super) unsampled: Option<Position>,
    pub(super) begun: bool,
    pub(super) oldest: Option<Lsn>,
    pub(super) any_mtr: bool,
}

impl Ingest {
    pub(super) fn new(store: Arc<Store>, shared: Arc<Shared>, resume: Resume) -> Ingest {
        let oldest = shared.own_oldest();
        // A fork goes on at its branch point.
        let forked = shared.parent.is_some();
        Ingest {
            shared,
            store,
            stage: Stage::at(resume.lsn),
            pending: VecDeque::new(),
            done: resume.position,
            next: resume.position,
            operations_from: resume.operations,
            unsampled: None,
            begun: resume.begun,
            oldest,
            any_mtr: forked || oldest.is_some_and(|o| resume.lsn > o),
        }
    }

    /// Tells others how much time has passed.
    pub(super) fn note_time(&self) {
        if let Some(passed) = self.stage.times.steady_us() {
            let clock = &self.shared.resources.config.clock;
            self.shared.measured.set(passed, clock.steady_us());
        }
    }

    /// Makes what is staged visible.
    pub(super) fn publish(&mut self) -> Step<()> {
        self.publish_with(Stretch::default())
    }

    /// Makes what is staged visible, and the runs of `redo`, which are the mtrs since
    /// the last time.
    pub(super) fn publish_with(&mut self, redo: Stretch<'_>) -> Step<()> {
        let store = Arc::clone(&self.store);
        let batch = &self.stage.batch;
        let is_empty = redo.len() == 0 && batch.len() == 0;
        let need = memory_bound(&redo, batch);
        let mut waits = 0u32;
        while !is_empty && !store.has_room(&self.shared, need) {
            if waits == 0 {
                self.shared.stats.ingest_waits.add(1);
            }
            store.wait_for_room(&self.shared, waits);
            waits = waits.saturating_add(1);
            // Without a flusher, whose reason is known, no room will be made.
            if self.shared.stopped() || self.shared.has_no_flusher() {
                return Err(Stop::Shutdown);
            }
        }
        let lsn = self.stage.lsn;
        while self.pending.front().is_some_and(|(end, _)| *end <= lsn) {
            self.pending.pop_front();
        }
        if !self.stage.times.begins() {
            self.unsampled = None;
        }
        let position = self
            .pending
            .front()
            .map_or(self.done, |(_, before)| *before);
        let position = self.unsampled.map_or(position, |at| at.min(position));
        let operations = self.done.max(self.operations_from);
        let resume = Resume {
            position,
            lsn,
            operations,
            begun: self.begun,
        };
        let now = Progress {
            resume,
            oldest: self.oldest,
            newest: lsn.max(self.stage.side_lsn),
        };
        // Before those who wait for the LSN can look at the counters.
        self.stage.count(&self.shared);
        self.shared
            .publish(redo, &self.stage.batch, &self.stage.touched, now);
        self.shared.publish_position(self.done);
        self.shared.note_long();
        self.stage.clear();
        Ok(())
    }
}
