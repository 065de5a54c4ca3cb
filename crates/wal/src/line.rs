//! The rules of epochs and numbering (guarantees 3 and 4 of [`crate::Wal`]):
//! which epoch may write, and which frame must come next. They are the same for
//! every backend.

use crate::WalError;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};

/// Where a WAL's line of frames stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The newest epoch; 0 when none was ever sealed.
    pub epoch: Epoch,
    /// Whether that epoch has begun.
    pub begun: bool,
    /// Its last frame.
    pub seq: FrameSeq,
    /// The end of the redo so far.
    pub lsn: Lsn,
}

/// How [`Line::frame`] takes a frame that it does not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is the next one.
    Next,
    /// It is here already.
    Resend,
}

impl Line {
    /// Makes a new epoch; `None` when epoch numbers are used up.
    pub fn seal(&mut self) -> Option<Epoch> {
        let epoch = Epoch(self.epoch.0.checked_add(1)?);
        *self = Line {
            epoch,
            begun: false,
            seq: FrameSeq(0),
            lsn: self.lsn,
        };
        Some(epoch)
    }

    /// Begins `epoch` at `start`. A second begin at the same LSN, with no frame
    /// written since, is a resend.
    pub fn begin(&mut self, epoch: Epoch, start: Lsn) -> Result<Taken, WalError> {
        self.owns(epoch)?;
        if epoch == Epoch(0) {
            return Err(WalError::NotBegun { epoch });
        }
        if !self.begun {
            *self = Line {
                epoch,
                begun: true,
                seq: FrameSeq(0),
                lsn: start,
            };
            return Ok(Taken::Next);
        }
        if self.seq == FrameSeq(0) && self.lsn == start {
            return Ok(Taken::Resend);
        }
        Err(self.out_of_order(FrameSeq(0), start))
    }

    /// Takes a frame, or refuses it and leaves the line unchanged.
    pub fn frame(&mut self, epoch: Epoch, frame: &Frame) -> Result<Taken, WalError> {
        self.owns(epoch)?;
        if !self.begun {
            return Err(WalError::NotBegun { epoch });
        }
        if frame.seq <= self.seq {
            return Ok(Taken::Resend);
        }
        // A frame whose end saturates would make the line stand still.
        let ends = frame.end() < Lsn::MAX;
        if !ends || Some(frame.seq.0) != self.seq.0.checked_add(1) || frame.start != self.lsn {
            return Err(self.out_of_order(frame.seq, frame.start));
        }
        self.seq = frame.seq;
        self.lsn = frame.end();
        Ok(Taken::Next)
    }

    /// Refuses every epoch but the newest.
    pub fn owns(&self, epoch: Epoch) -> Result<(), WalError> {
        if epoch == self.epoch {
            Ok(())
        } else {
            Err(WalError::Fenced {
                given: epoch,
                current: self.epoch,
            })
        }
    }

    fn out_of_order(&self, seq: FrameSeq, start: Lsn) -> WalError {
        WalError::OutOfOrder {
            seq,
            start,
            expected_seq: FrameSeq(self.seq.0.saturating_add(1)),
            expected_start: self.lsn,
        }
    }
}
