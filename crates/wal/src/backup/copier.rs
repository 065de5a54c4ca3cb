//! The task that copies newly durable entries, in objects that are sent in
//! order, a few at a time. An object that overtakes an earlier one counts once
//! the earlier one has arrived too. Each object records which ones had arrived
//! when it was sent, so that after a crash a gap can be told from a loss.

use super::config::BackupConfig;
use super::format::{Digest, Generation, HEADER_BYTES, Header, Kind, name};
use super::line::{self, Fault, Line, Range};
use crate::entry::EntryHeader;
use crate::failure::Failure;
use crate::local::{Reader, Source};
use crate::remote::{Made, Remote};
use crate::{Position, WalError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often to check whether a full object has accumulated.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Objects removed with one request.
const REMOVED_AT_ONCE: usize = 1000;

/// State that callers and the task share.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Everything before it is in the store; not known before the store has
    /// been looked at.
    pub position: Option<Position>,
    /// The time of the first entry behind that, if it was read.
    pub oldest_us: Option<u64>,
    /// When the copier first saw, or had to assume, entries behind that: also
    /// when the backup began, or ended.
    pub behind_us: Option<u64>,
    pub stored_bytes: u64,
    /// A caller waits for entries up to here to be in the store.
    pub reach: Position,
    /// Everything before this is needed no more.
    pub trim: Position,
    /// Why it does not go on at this moment.
    pub trouble: Option<Failure>,
    /// The damage that was found in this backup's objects in the store.
    pub damage: Option<String>,
    /// How the task has ended.
    pub ended: Option<Result<(), Fault>>,
}

/// The state of one backup that its callers and its task share.
pub(crate) struct Shared {
    pub remote: Remote,
    pub config: BackupConfig,
    pub generation: Generation,
    pub state: Mutex<State>,
    /// Wakes the task.
    pub work: Notify,
    /// Wakes everyone else.
    pub changed: Notify,
    pub closing: watch::Sender<bool>,
}

pub(crate) struct Copier {
    shared: Arc<Shared>,
    source: Source,
    writer: u128,
    /// Whether the generation's start is in the store.
    begun: bool,
    /// The position where the generation begins, and the generation before it
    /// in the line.
    start: Position,
    follows: Option<Generation>,
    /// Where the next object begins.
    next: Position,
    /// The time of the entry there, if it was read.
    next_us: Option<u64>,
    reader: Option<Reader>,
    /// Objects on their way, the oldest first.
    underway: VecDeque<Put>,
    /// Their outcomes, in the same order.
    arriving: FuturesOrdered<Arriving>,
    /// The end of the first object of the line, if that is known.
    lowest_end: Option<Position>,
    trimmed: Position,
}

/// An object on its way to the store.
struct Put {
    start: Position,
    end: Position,
    /// The time of its first entry.
    first_us: u64,
    bytes: u64,
}

/// A request that ends with the copier.
struct Arriving(JoinHandle<Result<(), Fault>>);

impl Future for Arriving {
    type Output = Result<(), Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|made| {
            made.unwrap_or_else(|e| {
                let context = "send an object of a WAL's backup".to_owned();
                Err(Fault::Failed(Failure::new(context, io::Error::other(e))))
            })
        })
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The entries that were read for one object.
struct Gathered {
    body: Vec<u8>,
    end: Position,
    digest: Digest,
    /// The time of its first entry.
    first_us: u64,
    /// The time of the next entry, if there is one.
    next_us: Option<u64>,
}

/// Copies until it is told to end, or a newer server has taken over.
pub(crate) async fn run(ending: Ending, source: Source, writer: u128) {
    let shared = Arc::clone(&ending.0);
    let mut copier = Copier {
        shared: Arc::clone(&shared),
        source,
        writer,
        begun: false,
        start: Position(0),
        follows: None,
        next: Position(0),
        next_us: None,
        reader: None,
        underway: VecDeque::new(),
        arriving: FuturesOrdered::new(),
        lowest_end: None,
        trimmed: Position(0),
    };
    let outcome = tokio::select! {
        outcome = copier.work() => outcome,
        late = too_late(&shared) => Err(late),
    };
    if let Err(fault) = &outcome {
        tracing::error!(
            backup = %shared.remote.place(""),
            error = %fault.error(),
            "the backup of the WAL has ended"
        );
    }
    let mut state = shared.state.lock();
    if outcome.is_err() {
        // Entries that come from now on are not copied.
        state.behind_us.get_or_insert(shared.config.clock.now_us());
    }
    state.ended = Some(outcome);
}

/// Ends the backup, however the task ends, and if it never ran.
pub(crate) struct Ending(pub Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let stopped = || {
            let context = format!("the backup in {}", self.0.remote.place(""));
            let source = io::Error::new(io::ErrorKind::Interrupted, "it was stopped");
            Err(Fault::Failed(Failure::new(context, source)))
        };
        self.0.state.lock().ended.get_or_insert_with(stopped);
        self.0.changed.notify_waiters();
    }
}

/// Waits until closing has taken as long as it may.
async fn too_late(shared: &Shared) -> Fault {
    let mut closing = shared.closing.subscribe();
    // The sender is in `shared`.
    let _ = closing.wait_for(|closing| *closing).await;
    tokio::time::sleep(shared.config.drain).await;
    let silent = || {
        Failure::new(
            format!("finish the backup in {}", shared.remote.place("")),
            io::Error::from(io::ErrorKind::TimedOut),
        )
    };
    Fault::Failed(trouble(shared).unwrap_or_else(silent))
}

/// Why the backup does not go on at this moment.
pub(crate) fn trouble(shared: &Shared) -> Option<Failure> {
    let own = shared.state.lock().trouble.clone();
    own.or_else(|| shared.remote.trouble())
}

impl Copier {
    async fn work(&mut self) -> Result<(), Fault> {
        let mut durable = self.source.durable();
        // A WAL that was never written has nothing in the store.
        while durable.borrow_and_update().position() == Position(0) {
            if *self.shared.closing.borrow() {
                return Ok(());
            }
            self.idle(&mut durable).await;
        }
        self.find_place().await?;
        // The latest time at which the first entry that was not sent can have
        // become durable.
        let mut since = None;
        let mut wal_ended = false;
        loop {
            if self.shared.state.lock().trim > self.trimmed {
                // Trimming removes objects that a list does not show to be
                // needed, and a list does not show objects that are under way.
                while let Some(arrived) = self.arriving.next().await {
                    self.arrived(arrived)?;
                }
                self.trim().await?;
            }
            let end = durable.borrow_and_update().position();
            let closing = *self.shared.closing.borrow();
            if self.next >= end && self.underway.is_empty() {
                since = None;
                self.publish();
                if closing {
                    return Ok(());
                }
                self.idle(&mut durable).await;
                continue;
            }
            let mut soon = None;
            if self.next < end {
                let now = Instant::now();
                let seen = *since.get_or_insert(now);
                if self.next_us.is_none() {
                    let seen_us = self.shared.config.clock.now_us();
                    self.shared.state.lock().behind_us.get_or_insert(seen_us);
                    self.next_us = self.next_time().await?;
                    self.publish();
                }
                // Half of the interval is for waiting, half for the object to
                // arrive.
                let due = seen + self.shared.config.interval / 2;
                let hurry = closing
                    || self.shared.state.lock().reach > self.next
                    || end.0.saturating_sub(self.next.0) >= self.shared.config.object_bytes;
                if self.underway.len() < self.shared.config.puts_max {
                    if hurry || due <= now {
                        // The wait of later entries begins now.
                        since = None;
                        self.copy().await?;
                        self.publish();
                        continue;
                    }
                    soon = Some(due.min(now + LOOK_EVERY));
                }
            } else {
                since = None;
            }
            tokio::select! {
                Some(arrived) = self.arriving.next() => {
                    self.arrived(arrived)?;
                    self.publish();
                }
                () = tokio::time::sleep_until(soon.unwrap_or_else(Instant::now)), if soon.is_some() => {}
                () = self.shared.work.notified() => {}
                // A WAL that has ended makes nothing more durable.
                moved = durable.changed(), if soon.is_none() && !wal_ended => {
                    wal_ended = moved.is_err();
                }
            }
        }
    }

    /// Everything before it is in the store.
    fn position(&self) -> Position {
        self.underway.front().map_or(self.next, |put| put.start)
    }

    /// Notes what has become of the object that was sent first.
    fn arrived(&mut self, arrived: Result<(), Fault>) -> Result<(), Fault> {
        arrived?;
        if let Some(put) = self.underway.pop_front() {
            self.lowest_end.get_or_insert(put.end);
            self.shared.state.lock().stored_bytes += put.bytes;
        }
        Ok(())
    }

    /// Waits for something to do.
    async fn idle(&self, durable: &mut watch::Receiver<crate::Durable>) {
        tokio::select! {
            moved = durable.changed() => {
                // A WAL that has ended makes nothing more durable.
                if moved.is_err() {
                    self.shared.work.notified().await;
                }
            }
            () = self.shared.work.notified() => {}
        }
    }

    fn publish(&self) {
        let oldest = self.underway.front().map(|put| put.first_us);
        {
            let mut state = self.shared.state.lock();
            state.position = Some(self.position());
            state.oldest_us = oldest.or(self.next_us);
            if self.underway.is_empty() && self.next >= self.source.durable().borrow().position() {
                state.behind_us = None;
            }
            state.trouble = None;
        }
        self.shared.changed.notify_waiters();
    }

    /// Finds out how much of the WAL is in the store already.
    async fn find_place(&mut self) -> Result<(), Fault> {
        loop {
            match self.look().await {
                Ok(()) => return Ok(()),
                Err(Fault::Failed(failure)) => pause(&self.shared, failure).await,
                Err(other) => return Err(other),
            }
        }
    }

    async fn look(&mut self) -> Result<(), Fault> {
        let line = match line::find(&self.shared.remote).await {
            Err(Fault::Corrupt(why)) => {
                self.check_newest().await?;
                tracing::error!(
                    backup = %self.shared.remote.place(""),
                    "the copy of the WAL in the store is damaged, and the whole WAL is copied anew: {why}"
                );
                None
            }
            found => found?,
        };
        self.start = self.source.first();
        self.follows = None;
        if let Some(line) = line {
            // Equal is refused too: another server has used our number.
            if line.newest >= self.shared.generation {
                return Err(self.superseded(line.newest));
            }
            self.measure(&line);
            for range in line.ranges.iter().rev() {
                if range.position < self.start {
                    break;
                }
                if self.is_ours(range).await? {
                    self.start = range.end;
                    self.follows = Some(line.newest);
                    break;
                }
            }
        }
        self.next = self.start;
        self.publish();
        Ok(())
    }

    /// Checks that no newer server has begun, without reading headers.
    async fn check_newest(&self) -> Result<(), Fault> {
        let listed = line::listed(&self.shared.remote).await?;
        match listed.map(|(newest, _)| newest) {
            Some(newest) if newest >= self.shared.generation => Err(self.superseded(newest)),
            _ => Ok(()),
        }
    }

    /// Whether a range holds what the WAL holds there.
    async fn is_ours(&self, range: &Range) -> Result<bool, Fault> {
        if range.end != range.object_end || range.end > self.source.durable().borrow().position() {
            return Ok(false);
        }
        let kind = Kind::Range(range.position);
        let header = match line::header(&self.shared.remote, range.generation, kind).await {
            // It is replaced by a good one.
            Ok(None) | Err(Fault::Corrupt(_)) => return Ok(false),
            Ok(Some(header)) => header,
            Err(fault) => return Err(fault),
        };
        let (source, position, end) = (self.source.clone(), range.position, range.end);
        let digest = blocking(move || {
            let mut reader = match source.reader(position) {
                Ok(reader) => reader,
                Err(WalError::NoSuchPosition(_)) => return Ok(None),
                Err(e) => return Err(e),
            };
            let mut digest = Digest::default();
            while reader.position() < end {
                if !reader.pass(|entry, _| {
                    digest.add(entry);
                    true
                })? {
                    break;
                }
            }
            Ok((reader.position() == end).then_some(digest))
        });
        let digest = digest.await.map_err(|e| self.unreadable(e))?;
        Ok(digest == Some(Digest(header.digest)))
    }

    /// The time of the first entry that is not copied.
    async fn next_time(&mut self) -> Result<Option<u64>, Fault> {
        let Some(mut reader) = self.reader().await? else {
            return Ok(None);
        };
        let peeked = blocking(move || {
            let entry = reader.peek();
            entry.map(|entry| (reader, entry))
        });
        match peeked.await {
            Ok((reader, entry)) => {
                self.reader = Some(reader);
                Ok(entry.map(|entry| entry.time_us))
            }
            Err(e) => self.lost(e).await.map(|()| None),
        }
    }

    /// A reader at the first entry that is not copied; `None` when that is
    /// another one now.
    async fn reader(&mut self) -> Result<Option<Reader>, Fault> {
        if let Some(reader) = self.reader.take() {
            return Ok(Some(reader));
        }
        let (source, position) = (self.source.clone(), self.next);
        match blocking(move || source.reader(position)).await {
            Ok(reader) => Ok(Some(reader)),
            Err(e) => self.lost(e).await.map(|()| None),
        }
    }

    /// Handles a WAL that cannot be read where the backup stands.
    async fn lost(&mut self, error: WalError) -> Result<(), Fault> {
        match error {
            WalError::NoSuchPosition(_) if self.source.first() > self.next => {
                // The WAL was trimmed: the skipped entries are no longer
                // needed.
                tracing::info!(
                    backup = %self.shared.remote.place(""),
                    from = self.next.0,
                    to = self.source.first().0,
                    "the WAL was trimmed ahead of its backup"
                );
                (self.next, self.next_us) = (self.source.first(), None);
                if !self.begun {
                    (self.start, self.follows) = (self.next, None);
                }
                Ok(())
            }
            other => match self.unreadable(other) {
                Fault::Failed(failure) => {
                    pause(&self.shared, failure).await;
                    Ok(())
                }
                fault => Err(fault),
            },
        }
    }

    fn unreadable(&self, error: WalError) -> Fault {
        match error {
            // It may pass: the page store can still trim the damaged part.
            WalError::Corrupt(why) => Fault::Failed(Failure::new(
                "read the WAL".to_owned(),
                io::Error::new(io::ErrorKind::InvalidData, why),
            )),
            WalError::Io { context, source } => Fault::Failed(Failure::new(context, source)),
            other => Fault::Failed(Failure::new(
                format!("read the WAL at position {}", self.next.0),
                io::Error::other(other.to_string()),
            )),
        }
    }

    /// Sends one object's worth.
    async fn copy(&mut self) -> Result<(), Fault> {
        let Some(reader) = self.reader().await? else {
            return Ok(());
        };
        let (salt, limit) = (self.writer as u64, self.shared.config.object_bytes);
        let (reader, gathered) = match blocking(move || gather(reader, salt, limit)).await {
            Ok(gathered) => gathered,
            Err(e) => return self.lost(e).await,
        };
        if gathered.end == self.next {
            return Ok(());
        }
        self.begin().await?;
        let kind = Kind::Range(self.next);
        let header = Header {
            bytes: gathered.end.0 - self.next.0,
            digest: gathered.digest.0,
            ..self.header(kind, self.next)
        };
        let mut object = header.encode().to_vec();
        object.extend(&gathered.body);
        let object = Bytes::from(object);
        self.underway.push_back(Put {
            start: self.next,
            end: gathered.end,
            first_us: gathered.first_us,
            bytes: object.len() as u64,
        });
        let making = make(Arc::clone(&self.shared), kind, object);
        self.arriving.push_back(Arriving(tokio::spawn(making)));
        self.next = gathered.end;
        self.next_us = gathered.next_us;
        self.reader = Some(reader);
        Ok(())
    }

    /// Begins the generation, if it has not begun.
    async fn begin(&mut self) -> Result<(), Fault> {
        if !self.begun {
            let header = Header {
                follows: self.follows,
                ..self.header(Kind::Start, self.start)
            };
            let object = Bytes::copy_from_slice(&header.encode());
            make(Arc::clone(&self.shared), Kind::Start, object).await?;
            self.begun = true;
        }
        Ok(())
    }

    fn header(&self, kind: Kind, position: Position) -> Header {
        Header {
            generation: self.shared.generation,
            kind,
            writer: self.writer,
            position,
            first: self.source.first().max(self.trimmed),
            follows: None,
            bytes: 0,
            digest: 0,
            whole: self.position().min(position),
        }
    }

    fn superseded(&self, generation: Generation) -> Fault {
        superseded(&self.shared, generation)
    }

    fn measure(&mut self, line: &Line) {
        let bytes = |r: &Range| r.object_end.0 - r.position.0 + HEADER_BYTES as u64;
        self.shared.state.lock().stored_bytes = line.ranges.iter().map(bytes).sum();
        self.lowest_end = line.ranges.first().map(|r| r.object_end);
    }

    /// Removes objects that are no longer needed, if a caller has trimmed
    /// since.
    async fn trim(&mut self) -> Result<(), Fault> {
        let to = self.shared.state.lock().trim;
        if to <= self.trimmed {
            return Ok(());
        }
        self.trimmed = to;
        if self.lowest_end.is_none_or(|end| end > to) {
            return Ok(());
        }
        self.begin().await?;
        // The mark tells a line that was trimmed from one that has lost its
        // beginning.
        let mark = self.header(Kind::Trimmed(to), to);
        let object = Bytes::copy_from_slice(&mark.encode());
        make(Arc::clone(&self.shared), Kind::Trimmed(to), object).await?;
        match self.remove().await {
            // Done with the next trim.
            Err(Fault::Failed(failure)) => {
                tracing::warn!(
                    backup = %self.shared.remote.place(""),
                    error = %failure.source,
                    "trimmed objects could not be removed, the next trim tries again: {}",
                    failure.context
                );
                Ok(())
            }
            // This copy would not be restored; the next server makes a new one.
            Err(Fault::Corrupt(why)) => {
                tracing::error!(
                    backup = %self.shared.remote.place(""),
                    "the copy of the WAL in the store is damaged; a restart of the server makes a new one: {why}"
                );
                self.shared.state.lock().damage = Some(why);
                Ok(())
            }
            Ok(()) => {
                self.shared.state.lock().damage = None;
                Ok(())
            }
            other => other,
        }
    }

    async fn remove(&mut self) -> Result<(), Fault> {
        let remote = &self.shared.remote;
        let Some(line) = line::find(remote).await? else {
            return Ok(());
        };
        if line.newest > self.shared.generation {
            return Err(self.superseded(line.newest));
        }
        let mut names = Vec::new();
        for generation in line::generations(remote).await? {
            if generation > self.shared.generation {
                continue;
            }
            let folder = line::folder(remote, generation).await?;
            let is_needed = |range: &Range| {
                let in_line =
                    |r: &&Range| r.generation == generation && r.position == range.position;
                line.ranges
                    .iter()
                    .find(in_line)
                    .is_some_and(|r| r.end > line.first)
            };
            let gone = folder.ranges.iter().filter(|r| !is_needed(r));
            names.extend(gone.map(Range::name));
            let newest_mark = folder.trimmed.iter().max().copied();
            let in_chain = line.chain.contains(&generation);
            for mark in folder.trimmed {
                if !in_chain || Some(mark) != newest_mark {
                    names.push(name(generation, Kind::Trimmed(mark)));
                }
            }
            if !in_chain {
                names.push(name(generation, Kind::Start));
            }
        }
        for some in names.chunks(REMOVED_AT_ONCE) {
            remote.remove(some).await?;
        }
        let left = Line {
            ranges: line
                .ranges
                .iter()
                .filter(|r| r.end > line.first)
                .copied()
                .collect(),
            ..line
        };
        self.measure(&left);
        Ok(())
    }
}

/// Waits a while after a failure that an operator, or a trim, may mend. This
/// pause is constant: requests that may succeed sooner are retried below, by
/// the client of the store.
async fn pause(shared: &Shared, failure: Failure) {
    tracing::error!(
        backup = %shared.remote.place(""),
        error = %failure.source,
        "the backup of the WAL is held up and tries again: {}",
        failure.context
    );
    shared.state.lock().trouble = Some(failure);
    tokio::time::sleep(shared.config.retry.longest_wait).await;
}

/// Makes an object of our generation, however long it takes.
async fn make(shared: Arc<Shared>, kind: Kind, object: Bytes) -> Result<(), Fault> {
    let name = name(shared.generation, kind);
    loop {
        match shared.remote.make(&name, &object).await {
            Ok(Made::Ours) => return Ok(()),
            Ok(Made::Taken(_)) => return Err(superseded(&shared, shared.generation)),
            Err(failure) => pause(&shared, failure).await,
        }
    }
}

fn superseded(shared: &Shared, generation: Generation) -> Fault {
    Fault::Superseded {
        wal: shared.remote.place(""),
        generation,
    }
}

/// Reads up to `limit` bytes of entries (or one entry).
fn gather(mut reader: Reader, salt: u64, limit: u64) -> Result<(Reader, Gathered), WalError> {
    let mut body = Vec::new();
    let mut digest = Digest::default();
    let mut first_us = None;
    while reader.pass(|entry, payload| {
        if !body.is_empty() && body.len() as u64 + entry.total() > limit {
            return false;
        }
        let plain = EntryHeader {
            behind: 0,
            ..*entry
        };
        body.extend(plain.encode(salt));
        body.extend(payload);
        digest.add(entry);
        first_us.get_or_insert(entry.time_us);
        true
    })? {}
    let end = reader.position();
    let next_us = reader.peek()?.map(|entry| entry.time_us);
    let gathered = Gathered {
        body,
        end,
        digest,
        first_us: first_us.unwrap_or_default(),
        next_us,
    };
    Ok((reader, gathered))
}

/// Runs what reads files where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WalError> + Send + 'static,
) -> Result<T, WalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(WalError::Io {
            context: "read the WAL for its backup".to_owned(),
            source: io::Error::other(e),
        }),
    }
}
