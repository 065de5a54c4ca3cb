//! The task that copies: what became durable since, in order, one object after
//! the other, so that a crash leaves no gap.

use super::BackupConfig;
use super::format::{Digest, Generation, HEADER_BYTES, Header, Kind, name};
use super::line::{self, Fault, Line, Range};
use crate::entry::EntryHeader;
use crate::failure::Failure;
use crate::local::{Reader, Source};
use crate::remote::{Made, Remote};
use crate::{LogError, Position};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How often to look whether so much has come that it need not wait.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Objects removed with one request.
const REMOVED_AT_ONCE: usize = 1000;

/// What callers and the task tell each other.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Everything before it is in the store; not known before the store has
    /// been looked at.
    pub position: Option<Position>,
    /// The time of the first entry behind that.
    pub oldest_us: Option<u64>,
    pub stored_bytes: u64,
    /// Somebody waits for this to be in the store.
    pub reach: Position,
    /// Everything before this is needed no more.
    pub trim: Position,
    /// Why it does not go on at this moment.
    pub trouble: Option<Failure>,
    /// How the task has ended.
    pub ended: Option<Result<(), Fault>>,
}

/// One backup's common ground.
pub(crate) struct Shared {
    pub remote: Remote,
    pub config: BackupConfig,
    pub generation: Generation,
    pub state: Mutex<State>,
    /// The task's call.
    pub work: Notify,
    /// Everyone else's call.
    pub changed: Notify,
    pub closing: watch::Sender<bool>,
}

pub(crate) struct Copier {
    shared: Arc<Shared>,
    source: Source,
    writer: u128,
    /// Whether the generation's start is in the store.
    begun: bool,
    /// Where the generation begins, and which one's line goes before.
    start: Position,
    follows: Option<Generation>,
    /// Everything before it is in the store.
    position: Position,
    reader: Option<Reader>,
    /// The end of the first object of the line, if that is known.
    lowest_end: Option<Position>,
    trimmed: Position,
}

/// What was read for one object.
struct Gathered {
    body: Vec<u8>,
    end: Position,
    digest: Digest,
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
        position: Position(0),
        reader: None,
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
            "the backup of the log has ended"
        );
    }
    shared.state.lock().ended = Some(outcome);
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
        // A log that nobody writes has nothing in the store.
        while durable.borrow_and_update().position() == Position(0) {
            if *self.shared.closing.borrow() {
                return Ok(());
            }
            self.idle(&mut durable).await;
        }
        self.find_place().await?;
        // When the first entry that is not copied became durable, at the
        // latest, and its time.
        let mut since = None;
        let mut oldest = None;
        loop {
            self.trim().await?;
            let end = durable.borrow_and_update().position();
            let closing = *self.shared.closing.borrow();
            if self.position >= end {
                (since, oldest) = (None, None);
                self.publish(None);
                if closing {
                    return Ok(());
                }
                self.idle(&mut durable).await;
                continue;
            }
            let seen = *since.get_or_insert_with(Instant::now);
            if oldest.is_none() {
                oldest = self.next_time().await?;
                self.publish(oldest);
            }
            // Half of the interval to wait, half to be sure that it is there.
            let due = seen + self.shared.config.interval / 2;
            let hurry = closing
                || self.shared.state.lock().reach > self.position
                || end.0.saturating_sub(self.position.0) >= self.shared.config.object_bytes;
            if !hurry && due > Instant::now() {
                let soon = due.min(Instant::now() + LOOK_EVERY);
                tokio::select! {
                    () = tokio::time::sleep_until(soon) => {}
                    () = self.shared.work.notified() => {}
                }
                continue;
            }
            // What comes after this moment is what waits from then on.
            since = Some(Instant::now());
            oldest = self.copy().await?;
            self.publish(oldest);
        }
    }

    /// Waits for something to do.
    async fn idle(&self, durable: &mut watch::Receiver<crate::Durable>) {
        tokio::select! {
            moved = durable.changed() => {
                // A log that has ended makes nothing more durable.
                if moved.is_err() {
                    self.shared.work.notified().await;
                }
            }
            () = self.shared.work.notified() => {}
        }
    }

    fn publish(&self, oldest_us: Option<u64>) {
        {
            let mut state = self.shared.state.lock();
            state.position = Some(self.position);
            state.oldest_us = oldest_us;
            state.trouble = None;
        }
        self.shared.changed.notify_waiters();
    }

    /// After a failure that may pass.
    async fn pause(&self, failure: Failure) {
        tracing::error!(
            backup = %self.shared.remote.place(""),
            error = %failure.source,
            "the backup of the log does not go on, trying again: {}",
            failure.context
        );
        self.shared.state.lock().trouble = Some(failure);
        tokio::time::sleep(self.shared.config.retry.longest_wait).await;
    }

    /// Finds out how much of the log is in the store already.
    async fn find_place(&mut self) -> Result<(), Fault> {
        loop {
            match self.look().await {
                Ok(()) => return Ok(()),
                Err(Fault::Failed(failure)) => self.pause(failure).await,
                Err(other) => return Err(other),
            }
        }
    }

    async fn look(&mut self) -> Result<(), Fault> {
        let line = line::find(&self.shared.remote).await?;
        self.start = self.source.first();
        self.follows = None;
        if let Some(line) = line {
            // Also our own number: somebody has used it.
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
        self.position = self.start;
        self.publish(None);
        Ok(())
    }

    /// Whether a range holds what the log holds there.
    async fn is_ours(&self, range: &Range) -> Result<bool, Fault> {
        if range.end != range.object_end || range.end > self.source.durable().borrow().position() {
            return Ok(false);
        }
        let kind = Kind::Range(range.position);
        let Some(header) = line::header(&self.shared.remote, range.generation, kind).await? else {
            return Ok(false);
        };
        let (source, position, end) = (self.source.clone(), range.position, range.end);
        let digest = blocking(move || {
            let mut reader = match source.reader(position) {
                Ok(reader) => reader,
                Err(LogError::NoSuchPosition(_)) => return Ok(None),
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
        let (source, position) = (self.source.clone(), self.position);
        match blocking(move || source.reader(position)).await {
            Ok(reader) => Ok(Some(reader)),
            Err(e) => self.lost(e).await.map(|()| None),
        }
    }

    /// What to do when the log cannot be read where the backup stands.
    async fn lost(&mut self, error: LogError) -> Result<(), Fault> {
        match error {
            LogError::NoSuchPosition(_) if self.source.first() > self.position => {
                // The log was trimmed: nobody needs that any more.
                tracing::info!(
                    backup = %self.shared.remote.place(""),
                    from = self.position.0,
                    to = self.source.first().0,
                    "the log was trimmed ahead of its backup"
                );
                self.position = self.source.first();
                if !self.begun {
                    (self.start, self.follows) = (self.position, None);
                }
                Ok(())
            }
            other => match self.unreadable(other) {
                Fault::Failed(failure) => {
                    self.pause(failure).await;
                    Ok(())
                }
                fault => Err(fault),
            },
        }
    }

    fn unreadable(&self, error: LogError) -> Fault {
        match error {
            LogError::Corrupt(why) => Fault::Corrupt(why),
            LogError::Io { context, source } => Fault::Failed(Failure::new(context, source)),
            other => Fault::Failed(Failure::new(
                format!("read the log at position {}", self.position.0),
                io::Error::other(other.to_string()),
            )),
        }
    }

    /// Copies one object's worth. Returns the time of the first entry that is
    /// left, if one is.
    async fn copy(&mut self) -> Result<Option<u64>, Fault> {
        let Some(reader) = self.reader().await? else {
            return Ok(None);
        };
        let (salt, limit) = (self.writer as u64, self.shared.config.object_bytes);
        let (reader, gathered) = match blocking(move || gather(reader, salt, limit)).await {
            Ok(gathered) => gathered,
            Err(e) => return self.lost(e).await.map(|()| None),
        };
        if gathered.end == self.position {
            return Ok(None);
        }
        self.begin().await?;
        let header = Header {
            bytes: gathered.end.0 - self.position.0,
            digest: gathered.digest.0,
            ..self.header(Kind::Range(self.position), self.position)
        };
        let mut object = header.encode().to_vec();
        object.extend(&gathered.body);
        let bytes = object.len() as u64;
        self.make(Kind::Range(self.position), object.into()).await?;
        self.lowest_end.get_or_insert(gathered.end);
        self.position = gathered.end;
        self.reader = Some(reader);
        self.shared.state.lock().stored_bytes += bytes;
        Ok(gathered.next_us)
    }

    /// Begins the generation, if it has not begun.
    async fn begin(&mut self) -> Result<(), Fault> {
        if !self.begun {
            let header = Header {
                follows: self.follows,
                ..self.header(Kind::Start, self.start)
            };
            let object = Bytes::copy_from_slice(&header.encode());
            self.make(Kind::Start, object).await?;
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
        }
    }

    /// Makes an object of our generation, however long it takes.
    async fn make(&self, kind: Kind, object: Bytes) -> Result<(), Fault> {
        let name = name(self.shared.generation, kind);
        loop {
            match self.shared.remote.make(&name, &object).await {
                Ok(Made::Ours) => return Ok(()),
                Ok(Made::Taken(_)) => return Err(self.superseded(self.shared.generation)),
                Err(failure) => self.pause(failure).await,
            }
        }
    }

    fn superseded(&self, generation: Generation) -> Fault {
        Fault::Superseded {
            log: self.shared.remote.place(""),
            generation,
        }
    }

    fn measure(&mut self, line: &Line) {
        let bytes = |r: &Range| r.object_end.0 - r.position.0 + HEADER_BYTES as u64;
        self.shared.state.lock().stored_bytes = line.ranges.iter().map(bytes).sum();
        self.lowest_end = line.ranges.first().map(|r| r.object_end);
    }

    /// Removes what is needed no more, if somebody has said so since.
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
        // A line with something missing at its beginning is to be told from
        // one that was trimmed.
        let mark = self.header(Kind::Trimmed(to), to);
        let object = Bytes::copy_from_slice(&mark.encode());
        self.make(Kind::Trimmed(to), object).await?;
        match self.remove().await {
            // Done with the next trim.
            Err(Fault::Failed(failure)) => {
                tracing::warn!(
                    backup = %self.shared.remote.place(""),
                    error = %failure.source,
                    "what was trimmed cannot be removed: {}",
                    failure.context
                );
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

/// Reads up to `limit` bytes of entries (or one entry).
fn gather(mut reader: Reader, salt: u64, limit: u64) -> Result<(Reader, Gathered), LogError> {
    let mut body = Vec::new();
    let mut digest = Digest::default();
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
        true
    })? {}
    let end = reader.position();
    let next_us = reader.peek()?.map(|entry| entry.time_us);
    let gathered = Gathered {
        body,
        end,
        digest,
        next_us,
    };
    Ok((reader, gathered))
}

/// Runs what reads files where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(LogError::Io {
            context: "read the log for its backup".to_owned(),
            source: io::Error::other(e),
        }),
    }
}
