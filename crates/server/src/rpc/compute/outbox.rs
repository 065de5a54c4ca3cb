//! The answers of a connection on their way to the compute. Several threads make
//! answers; whoever finds nobody writing writes, for all.

use super::connection::refuse;
use crate::branch::live::OpenBranch;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use xylem_channel::{Channel, Wait};
use xylem_wire::{Fault, PAGE_HEAD_BYTES, fault, page_head};

/// Limit of requests of a connection that are under way. Further ones wait in the
/// system's buffers, which slows a compute that asks too fast.
const UNDER_WAY_MAX: usize = 256;
/// The largest number of answers in one call of the system.
const AT_ONCE: usize = 32;

/// The time between two looks at a peer from which nothing is read.
const LOOK: Duration = Duration::from_secs(1);

/// An answer.
pub(super) enum Answer {
    /// A page, which is not copied.
    Page([u8; PAGE_HEAD_BYTES], Arc<[u8]>),
    /// Any other message.
    Message(Vec<u8>),
}

impl Answer {
    /// The answer to request `id`.
    pub fn page(id: u64, page: xylem_pages::Page) -> Answer {
        Answer::Page(page_head(id, page.lsn.0, page.bytes.len()), page.bytes)
    }

    /// The failure of request `id`.
    pub fn failure(id: u64, status: &Status) -> Answer {
        let (code, message) = (status.code() as u32, status.message());
        Answer::Message(fault(id, &Fault { code, message }))
    }

    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Answer::Page(head, page) => [head, page],
            Answer::Message(bytes) => [bytes, &[]],
        }
    }

    fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// The answers of one connection.
pub(super) struct Outbox {
    channel: Arc<Channel>,
    branch: Arc<OpenBranch>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Answer>,
    /// Bytes of the first answer that were sent.
    sent: usize,
    writing: bool,
    /// Requests without an answer yet.
    under_way: usize,
    /// Nothing more can be sent.
    broken: bool,
    /// No further requests may be read.
    ended: bool,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(channel: Arc<Channel>, branch: Arc<OpenBranch>) -> Outbox {
        Outbox {
            channel,
            branch,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Counts request `id`, which another thread will answer.
    pub fn begin(self: &Arc<Self>, id: u64) -> UnderWay {
        self.state.lock().under_way += 1;
        UnderWay {
            outbox: Arc::clone(self),
            id,
            answered: false,
        }
    }

    /// Sends answers from the connection's own thread, and waits for room. Returns false
    /// once the connection is broken.
    pub fn send(&self, answers: &mut Vec<Answer>) -> bool {
        if answers.is_empty() {
            return true;
        }
        let mut state = self.state.lock();
        state.waiting.extend(answers.drain(..));
        while state.writing && state.waiting.len() > AT_ONCE {
            self.changed.wait(&mut state);
        }
        if !state.writing {
            state.writing = true;
            drop(state);
            self.write(Wait::Yes);
            state = self.state.lock();
        }
        !state.broken
    }

    /// Sends the answer to a request that was under way, without waiting for room: a
    /// thread of its own waits if there is none.
    fn finish(self: &Arc<Self>, answer: Answer) {
        let mut state = self.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
        if state.broken {
            return;
        }
        state.waiting.push_back(answer);
        if std::mem::replace(&mut state.writing, true) {
            return;
        }
        drop(state);
        if self.write(Wait::No) {
            return;
        }
        let this = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("xylem-answers".to_owned())
            .stack_size(128 << 10)
            .spawn(move || this.write(Wait::Yes));
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start a thread for a slow compute: its connection is closed");
            self.break_off();
        }
    }

    /// Waits until few enough requests are under way. Returns false once no further ones
    /// may be read.
    pub fn wait_for_room(&self) -> bool {
        let mut state = self.state.lock();
        while !state.broken
            && !state.ended
            && state.under_way + state.waiting.len() >= UNDER_WAY_MAX
        {
            let waited = self.changed.wait_for(&mut state, LOOK);
            // Nobody reads from the socket meanwhile, and perhaps nobody writes.
            if waited.timed_out() && is_hung_up(&self.channel) {
                return false;
            }
        }
        !state.broken && !state.ended
    }

    /// Lets the connection's thread read no further requests.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.channel.end(Shutdown::Read);
        self.changed.notify_all();
    }

    /// Says why the connection ends, unless an answer is being written, and ends it.
    pub fn refuse(&self, status: &Status) {
        let mut state = self.state.lock();
        // Within an answer, the message would pass for a part of a page.
        if !state.writing && !state.broken {
            state.broken = true;
            refuse(&self.channel, status);
        }
        drop(state);
        self.break_off();
    }

    /// Writes what waits, as the only writer. Returns false if there is no room, and the
    /// caller stays the writer.
    fn write(&self, wait: Wait) -> bool {
        let mut batch = VecDeque::new();
        let mut sent = 0;
        loop {
            {
                let mut state = self.state.lock();
                if batch.is_empty() {
                    sent = std::mem::take(&mut state.sent);
                    let count = state.waiting.len().min(AT_ONCE);
                    batch.extend(state.waiting.drain(..count));
                }
                if batch.is_empty() || state.broken {
                    state.writing = false;
                    drop(state);
                    self.changed.notify_all();
                    return true;
                }
            }
            match self.write_some(&batch, sent, wait) {
                Ok(count) => sent = remove(&mut batch, sent + count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && wait == Wait::No => {
                    let mut state = self.state.lock();
                    state.sent = sent;
                    while let Some(answer) = batch.pop_back() {
                        state.waiting.push_front(answer);
                    }
                    return false;
                }
                Err(e) => {
                    if e.kind() == ErrorKind::WouldBlock {
                        let branch = self.branch.name();
                        tracing::warn!(
                            branch,
                            "ended a connection: its compute took no answer for the stall timeout"
                        );
                    }
                    self.break_off();
                }
            }
        }
    }

    fn write_some(
        &self,
        batch: &VecDeque<Answer>,
        mut skip: usize,
        wait: Wait,
    ) -> std::io::Result<usize> {
        let mut parts = Vec::with_capacity(2 * batch.len());
        for part in batch.iter().flat_map(Answer::parts) {
            let skipped = skip.min(part.len());
            skip -= skipped;
            if skipped < part.len() {
                parts.push(IoSlice::new(&part[skipped..]));
            }
        }
        self.channel.send(&parts, wait)
    }

    /// Ends the connection: nothing more is written.
    pub fn break_off(&self) {
        let mut state = self.state.lock();
        state.broken = true;
        state.waiting.clear();
        drop(state);
        self.channel.end(Shutdown::Both);
        self.changed.notify_all();
    }
}

/// A request that is under way. Dropped without an answer, it makes room for another.
pub(super) struct UnderWay {
    outbox: Arc<Outbox>,
    id: u64,
    answered: bool,
}

impl UnderWay {
    /// Sends the answer.
    pub fn finish(mut self, answer: Answer) {
        self.answered = true;
        self.outbox.finish(answer);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if std::thread::panicking() {
            // The compute waits for an answer.
            let status = Status::internal("the read failed in the server; see its log");
            return self.outbox.finish(Answer::failure(self.id, &status));
        }
        let mut state = self.outbox.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.outbox.changed.notify_all();
    }
}

/// Whether the peer has ended the connection, or is gone.
fn is_hung_up(channel: &Channel) -> bool {
    let mut look = [PollFd::new(channel.socket(), PollFlags::RDHUP)];
    poll(&mut look, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// Removes the answers that are whole among the first `sent` bytes. Returns how many
/// bytes of the next one were sent.
fn remove(batch: &mut VecDeque<Answer>, mut sent: usize) -> usize {
    while let Some(first) = batch.front() {
        if sent < first.len() {
            return sent;
        }
        sent -= first.len();
        batch.pop_front();
    }
    0
}
