//! Hands the frames of one compute to the WAL, at the pace that ingest and merges allow.

use super::status;
use crate::branch::live::OpenBranch;
use crate::branch::pace::{self, Pace};
use crate::node::Node;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Code, Status};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq};
use xylem_wal::{CheckedFrame, Writer};

/// The largest number of frames in a group. A group contains only frames that have
/// already arrived.
pub(super) const GROUP_FRAMES: usize = 256;
/// The largest payload of a group, in bytes.
pub(super) const GROUP_BYTES: usize = 1 << 20;
/// The merge debt at which writers are slowed, in flushed layers.
const MERGE_LAYERS_SOFT: u64 = 4;
/// Limit of groups whose time to durability is measured at once.
const MEASURED_MAX: usize = 1024;

/// When groups were handed to the WAL, by the number of their last frame.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<VecDeque<(FrameSeq, Instant)>>);

impl Pending {
    fn begin(&self, seq: FrameSeq, now: Instant) {
        let mut pending = self.0.lock();
        if pending.len() < MEASURED_MAX {
            pending.push_back((seq, now));
        }
    }

    /// Measures the groups up to frame `seq`, which are acknowledged now.
    pub fn end(&self, seq: FrameSeq, branch: &OpenBranch, now: Instant) {
        let mut pending = self.0.lock();
        if pending.front().is_none_or(|(first, _)| *first > seq) {
            return;
        }
        let label = branch.label();
        while let Some(&(_, since)) = pending.front().filter(|(of, _)| *of <= seq) {
            label
                .metrics
                .wal_durable_seconds
                .observe((now - since).as_secs_f64());
            pending.pop_front();
        }
    }
}

/// The frames of one compute on their way to the WAL.
pub(super) struct Feed {
    branch: Arc<OpenBranch>,
    epoch: Epoch,
    lag_soft: u64,
    merge_soft: u64,
    pending: Arc<Pending>,
    begun: Instant,
    pace: Pace,
}

impl Feed {
    /// The frames of the compute that writes `epoch`.
    pub fn new(node: &Node, branch: Arc<OpenBranch>, epoch: Epoch, pending: Arc<Pending>) -> Feed {
        Feed {
            branch,
            epoch,
            lag_soft: node.config.ingest_lag_soft.0,
            merge_soft: MERGE_LAYERS_SOFT * node.config.open_layer_size.0,
            pending,
            begun: Instant::now(),
            pace: Pace::default(),
        }
    }

    /// Appends a group. Returns its payload, in bytes.
    pub async fn append(&self, group: Vec<CheckedFrame>, writer: Writer) -> Result<u64, Status> {
        let bytes = group
            .iter()
            .map(|frame| payload(frame.frame()) as u64)
            .sum();
        let label = self.branch.label();
        let metrics = &label.metrics;
        metrics.wal_appends.inc();
        metrics.wal_frames.inc_by(group.len() as u64);
        metrics.wal_received.inc_by(bytes);
        if let Some(last) = group.last() {
            self.pending.begin(last.frame().seq, Instant::now());
        }
        self.branch
            .framing
            .append(self.epoch, group, writer)
            .await
            .map_err(|error| status::of_append(&error, &self.branch.name()))
            .inspect_err(|status| self.note_refused(status))?;
        Ok(bytes)
    }

    /// Counts and logs a frame that is damaged or whose redo is invalid.
    pub fn note_refused(&self, status: &Status) {
        if status.code() == Code::DataLoss {
            self.branch.label().metrics.wal_refused.inc();
            let (branch, epoch) = (self.branch.name(), self.epoch);
            tracing::error!(branch, %epoch, why = status.message(), "frame rejected");
        }
    }

    /// Delays the writer in proportion to debt, after a group of `bytes`.
    pub async fn throttle(&mut self, bytes: u64) {
        let (applied, pressure) = self.look();
        let mut wait = self
            .pace
            .after(self.begun.elapsed(), bytes, applied, pressure);
        while let Some(time) = wait {
            self.branch
                .label()
                .metrics
                .wal_throttled_seconds
                .inc_by(time.as_secs_f64());
            tokio::time::sleep(time).await;
            let (applied, pressure) = self.look();
            wait = self.pace.rest(self.begun.elapsed(), applied, pressure);
        }
    }

    /// The applied LSN, and the debt relative to its limit.
    fn look(&self) -> (u64, f64) {
        let applied = self.branch.pages.applied();
        let lag = self.branch.durable().lsn().bytes_since(applied);
        let merges = self.branch.pages.merge_debt();
        let pressure = pace::pressure(lag, self.lag_soft, merges, self.merge_soft);
        (applied.0, pressure)
    }
}

/// Bytes of a frame's redo or file content.
pub(super) fn payload(frame: &Frame) -> usize {
    match &frame.body {
        FrameBody::Redo(bytes) => bytes.len(),
        FrameBody::File(xylem_types::FileOp::Write { data, .. }) => data.len(),
        FrameBody::File(_) => 0,
    }
}
