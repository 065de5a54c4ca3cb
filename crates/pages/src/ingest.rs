//! Follows a branch's log and brings what it says into the open layer.
//!
//! Mtrs are gathered into a batch and become visible together, each whole.
//! What cannot be understood stops the branch's ingest; reads of what came
//! before go on.

use crate::api::ReadError;
use crate::branch::{Progress, Shared};
use crate::catalog::{SpaceInfo, UndoState, encode_path_owner};
use crate::chain::Kind;
use crate::key::{path_key, space_key, state_key};
use crate::manifest::Resume;
use crate::mem::Batch;
use crate::side;
use crate::time::{Times, sample, time_key};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use xylem_redo::{FileEvent, Mtr, MtrItem, MtrReader};
use xylem_types::{FileOp, Frame, FrameBody, Lsn, SpaceId};
use xylem_wal::{Durable, Entry, Position, Record, WalError, WalReader};

/// Bytes of records that become visible together, at most about.
const BATCH_BYTES: usize = 64 << 10;
/// Versions likewise: keeps the writer's hold on the open layer short.
const BATCH_VERSIONS: usize = 2048;
/// Tablespaces that ingest remembers.
const SPACES_MAX: usize = 4096;
const RETRY: Duration = Duration::from_millis(500);

/// Why ingest ends.
pub(crate) enum Stop {
    /// The branch is shut down.
    Shutdown,
    /// It cannot go on.
    Failed(String),
}

type Step<T> = Result<T, Stop>;

/// A path without a leading `./`.
pub(crate) fn relative(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

/// The thread.
pub(crate) fn run(shared: &Arc<Shared>, resume: Resume, reader: Box<dyn WalReader>) {
    let durable = shared.log.durable();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(r) => r,
        Err(e) => return shared.fail(format!("no runtime for the ingest thread: {e}")),
    };
    let (mut started, mut stop) = (shared.store.started(), shared.stop_watch());
    runtime.block_on(async {
        tokio::select! {
            () = async {
                let _ = started.wait_for(|started| *started).await;
                shared.is_begun.store(true, Ordering::Release);
                // What is read again may depend on what they have.
                shared.ancestors_ready().await;
            } => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    match shared.ancestor_behind() {
        Some(_) if shared.stopped() => return,
        Some(e) => return shared.fail(e.to_string()),
        None => {}
    }
    let mut ingest = Ingest::new(Arc::clone(shared), resume);
    match ingest.follow(reader, durable, &runtime) {
        Ok(()) => tracing::info!(branch = %shared.id, "the log was closed, ingest ends"),
        Err(Stop::Shutdown) => {}
        Err(Stop::Failed(why)) => shared.fail(why),
    }
}

/// State of the ingest thread.
pub(crate) struct Ingest {
    pub(crate) shared: Arc<Shared>,
    reader: Option<MtrReader>,
    pub(crate) stage: Stage,
    /// Redo entries whose bytes are not all in whole mtrs: the LSN each ends
    /// at, the place before it.
    pending: VecDeque<(Lsn, Position)>,
    /// Everything before it is handled.
    done: Position,
    /// From where the last start resumed, until an epoch begins.
    resumed: Option<Resume>,
    operations_from: Position,
    /// Where the entry stands with which the log's times began anew; ingest
    /// goes on there after a restart until a sample tells of it.
    unsampled: Option<Position>,
    begun: bool,
    oldest: Option<Lsn>,
    any_mtr: bool,
}

/// What is on its way to being visible.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) batch: Batch,
    /// End of the last whole mtr in it or before it.
    pub(crate) lsn: Lsn,
    /// The LSN that the side-file operation on its way counts from.
    pub(crate) side_lsn: Lsn,
    times: Times,
    /// Tablespaces as of here; at least all that the batch changes.
    spaces: HashMap<SpaceId, Option<SpaceInfo>>,
    touched: Vec<SpaceId>,
    /// Owners of paths that the batch changes.
    paths: BTreeMap<String, Option<SpaceId>>,
    undo: Option<UndoState>,
    mtrs: u64,
    redo_bytes: u64,
    clock_steps: u64,
}

impl Ingest {
    fn new(shared: Arc<Shared>, resume: Resume) -> Ingest {
        let oldest = shared.own_oldest();
        // A branch goes on where it left another.
        let forked = shared.parent.is_some();
        Ingest {
            shared,
            reader: resume.begun.then(|| MtrReader::new(resume.lsn)),
            stage: Stage {
                lsn: resume.lsn,
                ..Stage::default()
            },
            pending: VecDeque::new(),
            done: resume.position,
            resumed: Some(resume),
            operations_from: resume.operations,
            unsampled: None,
            begun: resume.begun,
            oldest,
            any_mtr: forked || oldest.is_some_and(|o| resume.lsn > o),
        }
    }

    fn follow(
        &mut self,
        mut log: Box<dyn WalReader>,
        mut durable: watch::Receiver<Durable>,
        runtime: &tokio::runtime::Runtime,
    ) -> Step<()> {
        let shared = Arc::clone(&self.shared);
        let newest = Ingest::retry(&shared, || sample(&shared, Lsn::MAX))?;
        self.stage.times = Times::after(newest.map(|(_, sample)| sample));
        self.note_time();
        let mut stop = self.shared.stop_watch();
        let mut closed = false;
        let mut complained = false;
        loop {
            // What a branch takes in that can flush nothing only fills memory.
            if self.shared.stopped() || self.shared.has_no_flusher() {
                return Err(Stop::Shutdown);
            }
            // Before reading, so that what comes after wakes us.
            durable.borrow_and_update();
            match log.next() {
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
                        tracing::error!(branch = %self.shared.id, error = %e, "reading the log fails; trying again");
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
                    return Err(Stop::Failed(format!("log: {e}")));
                }
            }
        }
    }

    /// Tells others how much time has passed.
    fn note_time(&self) {
        if let Some(passed) = self.stage.times.steady_us() {
            let clock = &self.shared.store.config.clock;
            self.shared.measured.set(passed, clock.steady_us());
        }
    }

    fn entry(&mut self, entry: Entry) -> Step<()> {
        let before = self.done;
        // What a log begins with follows what stands elsewhere.
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
                    if !self.begun {
                        return Err(Stop::Failed(format!(
                            "a side-file operation at LSN {start} stands before the log's first epoch"
                        )));
                    }
                    self.publish()?;
                    let shared = Arc::clone(&self.shared);
                    let _gate = shared.forks.hold();
                    let stage = &mut self.stage;
                    let newest = shared.newest();
                    stage.side_lsn =
                        shared
                            .forks
                            .operation_lsn(stage.lsn, before, stage.times.is_due());
                    side::ingest(self, &op)?;
                    // A second sample of one LSN would make the first untrue.
                    if self.stage.side_lsn > newest {
                        self.stage.sample(self.stage.side_lsn);
                    }
                    self.shared.stats.file_ops.add(1);
                    self.done = entry.next;
                    self.publish()?;
                }
            }
        }
        self.done = entry.next;
        Ok(())
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
                "redo at LSN {start} stands before the log's first epoch"
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

    /// Makes what is staged visible.
    pub(crate) fn publish(&mut self) -> Step<()> {
        let store = &self.shared.store;
        let need = self.stage.batch.memory_bound();
        let mut waits = 0u32;
        while !self.stage.batch.is_empty() && !store.has_room(&self.shared, need) {
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
            .publish(&self.stage.batch, &self.stage.touched, lsn, now);
        self.shared.publish_position(self.done);
        self.shared.note_long();
        self.stage.clear();
        Ok(())
    }

    /// Repeats a read that failed for the disk's sake.
    pub(crate) fn retry<T>(
        shared: &Shared,
        mut read: impl FnMut() -> Result<T, ReadError>,
    ) -> Step<T> {
        let mut complained = false;
        loop {
            match read() {
                Ok(v) => return Ok(v),
                Err(e @ ReadError::Io { .. }) => {
                    if !complained {
                        tracing::error!(branch = %shared.id, error = %e, "ingest cannot read a layer; trying again");
                        complained = true;
                    }
                    if shared.stopped() {
                        return Err(Stop::Shutdown);
                    }
                    shared.flush_pause(RETRY);
                }
                Err(e) => return Err(Stop::Failed(e.to_string())),
            }
        }
    }
}

impl Stage {
    fn count(&mut self, shared: &Shared) {
        shared.stats.mtrs.add(self.mtrs);
        shared.stats.redo_bytes.add(self.redo_bytes);
        shared.stats.clock_steps.add(self.clock_steps);
        (self.mtrs, self.redo_bytes, self.clock_steps) = (0, 0, 0);
    }

    /// For the next batch.
    fn clear(&mut self) {
        self.batch.clear();
        self.touched.clear();
        self.paths.clear();
        if self.spaces.len() > SPACES_MAX {
            self.spaces.clear();
        }
    }

    fn mtr(&mut self, shared: &Shared, mtr: &Mtr<'_>) -> Step<()> {
        let lsn = mtr.end_lsn();
        for item in mtr.items() {
            match item.map_err(|e| Stop::Failed(e.to_string()))? {
                MtrItem::Page {
                    page,
                    records,
                    starts_fresh,
                } => {
                    self.batch.page(page, lsn, starts_fresh, records);
                }
                MtrItem::SpaceSize { space, pages } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    if info.pages != pages {
                        info.pages = pages;
                        self.set_space(space, info, lsn);
                    }
                }
                MtrItem::SpaceFlags { space, flags } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    if info.flags != flags.raw() {
                        info.flags = flags.raw();
                        self.set_space(space, info, lsn);
                    }
                }
                MtrItem::Trim { space, pages } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    info.floor = lsn;
                    info.pages = pages;
                    self.set_space(space, info, lsn);
                }
                MtrItem::File(event) => self.file_event(shared, event, lsn)?,
            }
        }
        self.sample(lsn);
        self.lsn = lsn;
        self.mtrs += 1;
        self.redo_bytes += mtr.size() as u64;
        Ok(())
    }

    /// Notes from time to time when the branch was where.
    fn sample(&mut self, lsn: Lsn) {
        let begins = self.times.begins() && !self.times.is_first();
        if let Some(sample) = self.times.sample(lsn) {
            self.clock_steps += u64::from(begins);
            self.batch
                .other(time_key(), lsn, Kind::Image, &sample.encode());
        }
    }

    fn space(&mut self, shared: &Shared, space: SpaceId) -> Step<Option<SpaceInfo>> {
        if let Some(info) = self.spaces.get(&space) {
            return Ok(info.clone());
        }
        let info = Ingest::retry(shared, || {
            let layers = shared.snapshot();
            Ok(layers
                .view(shared.source())
                .space(space, Lsn::MAX)?
                .map(|(_, info)| info))
        })?;
        self.spaces.insert(space, info.clone());
        Ok(info)
    }

    fn set_space(&mut self, space: SpaceId, info: SpaceInfo, lsn: Lsn) {
        self.batch
            .other(space_key(space), lsn, Kind::Image, &info.encode());
        self.spaces.insert(space, Some(info));
        if !self.touched.contains(&space) {
            self.touched.push(space);
        }
    }

    fn path_owner(&mut self, shared: &Shared, path: &str) -> Step<Option<SpaceId>> {
        if let Some(owner) = self.paths.get(path) {
            return Ok(*owner);
        }
        Ingest::retry(shared, || {
            let layers = shared.snapshot();
            layers.view(shared.source()).path_owner(path, Lsn::MAX)
        })
    }

    fn set_path(&mut self, path: &str, owner: Option<SpaceId>, lsn: Lsn) {
        self.batch
            .other(path_key(path), lsn, Kind::Image, &encode_path_owner(owner));
        self.paths.insert(path.to_owned(), owner);
    }

    /// `space` no longer has `path`, unless another took it meanwhile.
    fn leave_path(&mut self, shared: &Shared, path: &str, space: SpaceId, lsn: Lsn) -> Step<()> {
        if self.path_owner(shared, path)? == Some(space) {
            self.set_path(path, None, lsn);
        }
        Ok(())
    }

    /// `space` is created as `path`. InnoDB logs that before it makes the file,
    /// and makes none where one is; when it cannot, it logs a deletion, unless it
    /// ends before (or is older than that). So another tablespace that still has
    /// the path never came to be, or lost its dictionary entry in a crash.
    fn void_path(&mut self, shared: &Shared, path: &str, space: SpaceId, lsn: Lsn) -> Step<()> {
        let other = self.path_owner(shared, path)?.filter(|o| *o != space);
        let Some(other) = other else { return Ok(()) };
        let info = self.space(shared, other)?;
        if let Some(mut info) = info.filter(|i| i.exists && i.path == path) {
            info.exists = false;
            self.set_space(other, info, lsn);
        }
        Ok(())
    }

    /// A tablespace that redo writes the first page of. One that no FILE_
    /// record named is the system tablespace or an undo tablespace:
    /// `fil_name_parse()` refuses records for those, so none is ever written.
    fn space_or_new(&mut self, shared: &Shared, space: SpaceId, lsn: Lsn) -> Step<SpaceInfo> {
        if let Some(info) = self.space(shared, space)?.filter(|i| i.exists) {
            return Ok(info);
        }
        let path = match space.0 {
            0 => "ibdata1".to_owned(),
            _ => self.undo_name(shared, space, lsn)?,
        };
        let info = SpaceInfo {
            exists: true,
            path,
            floor: lsn,
            ..SpaceInfo::default()
        };
        self.set_path(&info.path, Some(space), lsn);
        self.set_space(space, info.clone(), lsn);
        Ok(info)
    }

    /// Undo tablespaces are made `undo001`, `undo002`, … with ascending ids in
    /// one mtr (`srv_undo_tablespaces_init()`). When their number is changed,
    /// all are dropped without a record and made anew with higher ids
    /// (`srv_undo_tablespaces_reinit()`).
    fn undo_name(&mut self, shared: &Shared, space: SpaceId, lsn: Lsn) -> Step<String> {
        let known = match self.undo {
            Some(u) => u,
            None => Ingest::retry(shared, || {
                let layers = shared.snapshot();
                let found = layers
                    .view(shared.source())
                    .image(&state_key("undo"), Lsn::MAX)?;
                Ok(found
                    .and_then(|(_, raw)| UndoState::decode(&raw))
                    .unwrap_or_default())
            })?,
        };
        let next = known.first.saturating_add(known.count);
        let first_ever = known.first == 1 && space.0 == next;
        let mut now = known;
        if known.count > 0 && space.0 == next && (known.lsn == lsn || first_ever) {
            now.count += 1;
            now.lsn = lsn;
        } else {
            for old in known.first..next {
                if let Some(mut info) = self.space(shared, SpaceId(old))?.filter(|i| i.exists) {
                    info.exists = false;
                    self.leave_path(shared, &info.path, SpaceId(old), lsn)?;
                    self.set_space(SpaceId(old), info, lsn);
                }
            }
            now = UndoState {
                first: space.0,
                count: 1,
                lsn,
            };
        }
        self.undo = Some(now);
        self.batch
            .other(state_key("undo"), lsn, Kind::Image, &now.encode());
        Ok(format!("undo{:03}", now.count))
    }

    fn file_event(&mut self, shared: &Shared, event: FileEvent<'_>, lsn: Lsn) -> Step<()> {
        let text = |name: &[u8]| match std::str::from_utf8(name) {
            Ok(s) if !s.is_empty() && !s.contains('\0') && s.len() <= FileOp::PATH_MAX => {
                Ok(relative(s).to_owned())
            }
            _ => Err(Stop::Failed(format!(
                "redo at LSN {lsn}: FILE record with the name {:?}",
                String::from_utf8_lossy(name)
            ))),
        };
        match event {
            FileEvent::Create { space, name } => {
                let path = text(name)?;
                let old = self.space(shared, space)?.filter(|i| i.exists);
                if let Some(old) = old {
                    self.leave_path(shared, &old.path, space, lsn)?;
                }
                self.void_path(shared, &path, space, lsn)?;
                self.set_path(&path, Some(space), lsn);
                let info = SpaceInfo {
                    exists: true,
                    path,
                    floor: lsn,
                    ..SpaceInfo::default()
                };
                self.set_space(space, info, lsn);
            }
            FileEvent::Delete { space, name } => {
                let path = text(name)?;
                self.leave_path(shared, &path, space, lsn)?;
                if let Some(mut info) = self.space(shared, space)?.filter(|i| i.exists) {
                    self.leave_path(shared, &info.path, space, lsn)?;
                    info.exists = false;
                    self.set_space(space, info, lsn);
                }
            }
            FileEvent::Rename { space, new, .. } => self.move_to(shared, space, text(new)?, lsn)?,
            FileEvent::Modify { space, name } => self.move_to(shared, space, text(name)?, lsn)?,
            FileEvent::Checkpoint { .. } | FileEvent::Padding => {}
        }
        Ok(())
    }

    /// The tablespace has this path from now on.
    fn move_to(&mut self, shared: &Shared, space: SpaceId, path: String, lsn: Lsn) -> Step<()> {
        let known = self.space(shared, space)?.filter(|i| i.exists);
        let mut info = match known {
            Some(info) if info.path == path => return Ok(()),
            Some(info) => info,
            None => SpaceInfo {
                exists: true,
                ..SpaceInfo::default()
            },
        };
        if !info.path.is_empty() {
            self.leave_path(shared, &info.path.clone(), space, lsn)?;
        }
        self.set_path(&path, Some(space), lsn);
        info.path = path;
        self.set_space(space, info, lsn);
        Ok(())
    }
}
