//! Acknowledgements of redo. Whoever finishes the sync of a commit writes its
//! acknowledgement: the connection's own thread as a rule. A task writes those of a WAL
//! that syncs elsewhere, and those that have to wait for permission.

use super::super::feed::Pending;
use super::super::permission::Permission;
use super::super::status;
use super::connection::AtLast;
use crate::branch::live::OpenBranch;
use parking_lot::Mutex;
use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xylem_channel::{Channel, Wait};
use xylem_types::{Epoch, FrameSeq};
use xylem_wal::{Durable, WalError};
use xylem_wire::{Ack, Standing, ack};

/// The pause before another attempt when the system had no room for an acknowledgement.
const FULL: Duration = Duration::from_millis(5);

/// What became of the acknowledgements that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Every accepted frame is acknowledged.
    All,
    /// Everything durable is acknowledged, and more is accepted.
    Durable,
    /// There is no permission to acknowledge.
    NotPermitted,
    /// The system has no room for an acknowledgement.
    Full,
}

/// The acknowledgements of one connection.
pub(super) struct Acks {
    branch: Arc<OpenBranch>,
    channel: Arc<Channel>,
    permission: Permission,
    epoch: Epoch,
    durable: watch::Receiver<Durable>,
    pending: Arc<Pending>,
    state: Mutex<State>,
    /// Wakes the task: an acknowledgement is due.
    due: Notify,
    /// How long the compute may leave acknowledgements untaken.
    stall: Duration,
    /// Why the connection ends.
    why: OnceLock<Status>,
    /// Cancelled when the connection has to end.
    over: CancellationToken,
}

#[derive(Default)]
struct State {
    /// The last frame that was handed to the WAL.
    accepted: FrameSeq,
    /// The last frame that was acknowledged.
    told: FrameSeq,
    /// The rest of an acknowledgement that was sent in part.
    rest: Vec<u8>,
    /// Nothing more may be sent.
    finished: bool,
}

impl Acks {
    /// Acknowledgements on `channel` for the compute that writes `epoch`. The connection
    /// ends when `over` is cancelled, and `over` when it has to end.
    pub fn new(
        (branch, epoch): (&Arc<OpenBranch>, Epoch),
        channel: &Arc<Channel>,
        permission: Permission,
        (pending, stall): (Arc<Pending>, Duration),
        over: CancellationToken,
    ) -> Acks {
        let durable = branch.wal.durable();
        let told = durable.borrow().seq();
        Acks {
            branch: Arc::clone(branch),
            channel: Arc::clone(channel),
            permission,
            epoch,
            durable,
            pending,
            state: Mutex::new(State {
                accepted: told,
                told,
                ..State::default()
            }),
            due: Notify::new(),
            stall,
            why: OnceLock::new(),
            over,
        }
    }

    /// What is durable, for the welcome. Read after permission was given.
    ///
    /// # Errors
    /// When a newer epoch has begun.
    pub fn standing(&self) -> Result<Standing, Status> {
        let durable = self.durable()?;
        Ok(Standing {
            epoch: durable.epoch().0,
            ack: self.ack(&durable),
        })
    }

    fn durable(&self) -> Result<Durable, Status> {
        let durable = *self.durable.borrow();
        if durable.epoch() != self.epoch {
            let branch = self.branch.name();
            return Err(status::wrong_epoch(self.epoch, durable.epoch(), &branch));
        }
        Ok(durable)
    }

    fn ack(&self, durable: &Durable) -> Ack {
        Ack {
            durable_seq: durable.seq().0,
            durable_lsn: durable.lsn().0,
            applied_lsn: self.branch.pages.applied().0,
        }
    }

    /// Notes that the WAL has accepted the frames up to `seq`, and acknowledges what is
    /// durable. What is not is acknowledged by [`Acks::run`].
    ///
    /// # Errors
    /// When the connection has to end.
    pub fn accepted(&self, seq: FrameSeq) -> Result<(), Status> {
        {
            let mut state = self.state.lock();
            state.accepted = state.accepted.max(seq);
        }
        if self.tell()? != Told::All {
            self.due.notify_one();
        }
        Ok(())
    }

    /// Acknowledges what is durable.
    fn tell(&self) -> Result<Told, Status> {
        if !self.permission.now()? {
            return Ok(Told::NotPermitted);
        }
        let mut state = self.state.lock();
        // Read after permission was given, and under the lock, so that the last
        // acknowledgement says the most.
        let durable = self.durable()?;
        if state.finished {
            return Ok(Told::All);
        }
        if !self.send_rest(&mut state)? {
            return Ok(Told::Full);
        }
        if durable.seq() > state.told {
            state.rest = ack(&self.ack(&durable));
            state.told = durable.seq();
            self.pending
                .end(durable.seq(), &self.branch, Instant::now());
            if !self.send_rest(&mut state)? {
                return Ok(Told::Full);
            }
        }
        Ok(match state.told >= state.accepted {
            true => Told::All,
            false => Told::Durable,
        })
    }

    /// Sends the rest of the last acknowledgement. Returns whether all of it was sent.
    fn send_rest(&self, state: &mut State) -> Result<bool, Status> {
        while !state.rest.is_empty() {
            match self.channel.send(&[IoSlice::new(&state.rest)], Wait::No) {
                Ok(count) => drop(state.rest.drain(..count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(Status::cancelled(format!("the compute is gone: {e}"))),
            }
        }
        Ok(true)
    }

    /// Acknowledges what the connection's thread does not, until the connection ends.
    pub async fn run(self: Arc<Self>) {
        let this = Arc::clone(&self);
        let _end = AtLast(move || this.end(status::ended(&this.branch)));
        let why = tokio::select! {
            biased;
            why = self.permission.ended() => why,
            why = self.rest_of_acks() => why,
            () = self.over.cancelled() => status::ended(&self.branch),
        };
        self.end(why);
    }

    async fn rest_of_acks(&self) -> Status {
        let mut permission = self.permission.clone();
        let mut durable = self.durable.clone();
        loop {
            self.due.notified().await;
            let mut full_since = None;
            loop {
                durable.borrow_and_update();
                if let Err(why) = permission.wait().await {
                    return why;
                }
                match self.tell() {
                    Ok(Told::All) => break,
                    // The permission was withdrawn since: waits for it again. The WAL
                    // may have nothing more to say.
                    Ok(Told::NotPermitted) => {}
                    Ok(Told::Durable) => {
                        full_since = None;
                        if durable.changed().await.is_err() {
                            let error = self.branch.wal.failed().unwrap_or(WalError::Closed);
                            return status::of_wal(&error, &self.branch.name());
                        }
                    }
                    Ok(Told::Full) => {
                        if full_since.get_or_insert_with(Instant::now).elapsed() >= self.stall {
                            return self.stalled();
                        }
                        tokio::time::sleep(FULL).await;
                    }
                    Err(why) => return why,
                }
            }
        }
    }

    fn stalled(&self) -> Status {
        let stall = self.stall.as_secs_f64();
        tracing::warn!(
            branch = self.branch.name(),
            "ended a connection: its compute took no acknowledgement for {stall} s"
        );
        Status::aborted(format!(
            "the connection was ended: no acknowledgement was taken for {stall} s; open another"
        ))
    }

    /// Ends all acknowledgements. Returns whether the last one was sent whole.
    pub fn finish(&self) -> bool {
        let mut state = self.state.lock();
        state.finished = true;
        state.rest.is_empty()
    }

    /// Ends the connection. The first reason counts.
    fn end(&self, why: Status) {
        let _ = self.why.set(why);
        self.over.cancel();
        self.channel.end(Shutdown::Read);
    }

    /// Completes when the connection has to end.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Why the connection ends, if it does.
    pub fn why(&self) -> Option<&Status> {
        self.why.get()
    }
}
