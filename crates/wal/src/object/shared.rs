//! State that the callers, the writer, the trimmer and the readers of one WAL
//! share.

use super::config::ObjectWalConfig;
use super::end::End;
use super::first::{First, Line, check_owner, find_first, removed_up_to};
use super::format::{Block, Name, number_and_index};
use super::objects::{Fault, Objects};
use crate::memory::{Memory, Part};
use crate::queue::{Queue, Queued};
use crate::{Durable, Position, WalError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

/// Whether the WAL accepts entries.
#[derive(Clone, Debug)]
pub(crate) enum Health {
    /// It does.
    Running,
    /// It has failed until it is opened again.
    Failed(Fault),
    /// It has ended.
    Closed,
}

impl Health {
    /// The error of a WAL that does not go on.
    pub fn check(&self) -> Result<(), WalError> {
        match self {
            Health::Running => Ok(()),
            Health::Failed(fault) => Err(fault.error()),
            Health::Closed => Err(WalError::Closed),
        }
    }
}

/// Whether the WAL is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    No,
    /// After what is queued.
    Drain,
    /// At once.
    Abandon,
}

/// Whether the line is ours to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Not yet, and no caller needs it: the line has no entry.
    No,
    /// A caller waits for it.
    Wanted,
    Yes,
}

/// A caller that waits for a seal or begin.
#[derive(Debug)]
pub(crate) struct Mark {
    /// The entry's number among all accepted ones.
    pub nth: u64,
    /// Receives the place after it.
    pub told: oneshot::Sender<Position>,
}

/// State that changes with every append and every object.
#[derive(Debug)]
pub(crate) struct State {
    pub queue: Queue,
    /// When the first of the queue's entries came.
    pub since: Option<Instant>,
    /// How many entries were accepted, and how many of them are durable.
    pub accepted: u64,
    pub durable: u64,
    pub marks: VecDeque<Mark>,
    /// The place after the newest begin.
    pub begun: Position,
    pub owner: Owner,
    /// Objects from this number on may not be trimmed.
    pub known: u64,
    pub health: Health,
    /// The writer has ended.
    pub ended: bool,
}

impl State {
    /// Adds an entry that the line has taken.
    pub fn push(&mut self, queued: Queued) {
        self.queue.push(queued);
        self.accepted += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Counts what was accepted since the queue held `before` entries.
    pub fn count(&mut self, before: usize) {
        let more = self.queue.entries.len() - before;
        self.accepted += more as u64;
        if more > 0 {
            self.since.get_or_insert_with(Instant::now);
        }
    }
}

/// The newest objects, so that readers near the end need not fetch them.
#[derive(Debug)]
pub(crate) struct Cache {
    blocks: BTreeMap<u64, Arc<Block>>,
    bytes: u64,
    part: Part,
}

impl Cache {
    fn new(memory: &Memory) -> Cache {
        Cache {
            blocks: BTreeMap::new(),
            bytes: 0,
            part: memory.part(),
        }
    }

    pub fn insert(&mut self, block: Arc<Block>, limit: u64) {
        self.bytes += block.header.total();
        self.blocks.insert(block.header.name.number, block);
        self.part.set(self.bytes);
        // The newest object stays however full the budget is, because it is
        // read next.
        while (self.bytes > limit || !self.part.has_room(0) && self.blocks.len() > 1)
            && let Some((_, oldest)) = self.blocks.pop_first()
        {
            self.bytes -= oldest.header.total();
            self.part.set(self.bytes);
        }
    }

    /// Drops objects before `number`, which are not read any more.
    pub fn forget_before(&mut self, number: u64) {
        let kept = self.blocks.split_off(&number);
        let gone = std::mem::replace(&mut self.blocks, kept);
        self.bytes -= gone.values().map(|b| b.header.total()).sum::<u64>();
        self.part.set(self.bytes);
    }

    pub fn get(&self, number: u64) -> Option<Arc<Block>> {
        self.blocks.get(&number).cloned()
    }
}

/// The shared state of one WAL.
pub(crate) struct Shared {
    pub objects: Objects,
    pub config: ObjectWalConfig,
    pub state: Mutex<State>,
    /// Wakes the writer.
    pub work: Notify,
    /// Wakes everyone else: more is durable, the queue has room, or the WAL is
    /// fenced, claimed, failed or closed.
    pub changed: Notify,
    /// Wakes the trimmer.
    pub trim: Notify,
    /// Appends take turns.
    pub turn: tokio::sync::Mutex<()>,
    pub closing: watch::Sender<Closing>,
    pub durable: watch::Receiver<Durable>,
    /// The position of `durable`, never behind the one that callers have seen.
    position: AtomicU64,
    pub cache: Mutex<Cache>,
    /// The number of the first object that can be read.
    pub first: AtomicU64,
    /// The beginning of the line when it became ours, if it had one, or where the owner
    /// before has removed objects since; and the end of what that one may have trimmed.
    inherited: Mutex<Option<(Name, u64)>>,
    /// Bytes of all objects of the line that are durable, trimmed ones too.
    pub written: AtomicU64,
    /// Bytes of those that were trimmed and removed.
    removed: AtomicU64,
    /// The generation that is ours, and its first number; 0 before it is.
    pub generation: AtomicU64,
    pub start: AtomicU64,
}

impl Shared {
    pub fn new(
        objects: Objects,
        config: ObjectWalConfig,
        end: &End,
        owner: Owner,
        durable: watch::Receiver<Durable>,
    ) -> Shared {
        let position = end.durable().position;
        let state = State {
            queue: Queue::new(end.line, 0, &config.memory),
            since: None,
            accepted: 0,
            durable: 0,
            marks: VecDeque::new(),
            begun: position,
            owner,
            known: end.known,
            health: Health::Running,
            ended: false,
        };
        let cache = Mutex::new(Cache::new(&config.memory));
        let shared = Shared {
            objects,
            config,
            state: Mutex::new(state),
            work: Notify::new(),
            changed: Notify::new(),
            trim: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            closing: watch::channel(Closing::No).0,
            durable,
            position: AtomicU64::new(position.0),
            cache,
            first: AtomicU64::new(end.first),
            inherited: Mutex::new(None),
            written: AtomicU64::new(end.bytes),
            removed: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            start: AtomicU64::new(u64::MAX),
        };
        if owner == Owner::Yes {
            shared.own(end);
        }
        shared
    }

    /// From `end` on the line is ours.
    pub fn own(&self, end: &End) {
        self.generation
            .store(u64::from(end.generation), Ordering::SeqCst);
        self.start.store(end.next, Ordering::SeqCst);
    }

    /// Finds where the line that ends at `end`, and is ours, begins.
    pub async fn find_beginning(&self, end: &End) -> Result<(), Fault> {
        self.written.store(end.bytes, Ordering::Relaxed);
        let Some(last) = end.next.checked_sub(1) else {
            return Ok(());
        };
        let line = Line {
            from: end.first,
            known: end.known,
            last,
            generation: u64::from(end.generation),
        };
        let first = find_first(&self.objects, &line).await?;
        self.begin_at(&first, end.known);
        Ok(())
    }

    /// Finds out why object `gone` is missing, and where the line begins if that is
    /// another place than it was.
    ///
    /// # Errors
    /// [`Fault::Superseded`] if a newer owner may have removed it.
    pub async fn look_for_trimming(&self, gone: u64) -> Result<(), Fault> {
        let generation = self.generation.load(Ordering::SeqCst);
        check_owner(&self.objects, generation).await?;
        let inherited = *self.inherited.lock();
        let Some((first, known)) = inherited.filter(|(_, known)| gone < *known) else {
            return Ok(());
        };
        // Once we have trimmed the line ourselves, its first object says nothing.
        if self.first() > first.number {
            return Ok(());
        }
        let line = Line {
            from: first.number,
            known,
            last: number_and_index(self.durable_now()).0.saturating_sub(1),
            generation,
        };
        let Some(now) = removed_up_to(&self.objects, gone, first, &line).await? else {
            return Ok(());
        };
        // What we trim meanwhile is not the work of the owner before.
        let (old, new) = (first.number, now.name.number);
        let same = self
            .first
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        if same.is_ok() {
            self.begin_at(&now, known);
        }
        Ok(())
    }

    /// The generation of object `number`, if the line that became ours began there.
    pub fn generation_of_first(&self, number: u64) -> Option<u32> {
        let inherited = *self.inherited.lock();
        let (first, _) = inherited.filter(|(first, _)| first.number == number)?;
        Some(first.generation)
    }

    /// The line begins there; the owner before has trimmed nothing from `known` on.
    fn begin_at(&self, first: &First, known: u64) {
        *self.inherited.lock() = Some((first.name, known));
        self.first.fetch_max(first.name.number, Ordering::SeqCst);
        self.removed_before(first.bytes_before);
        self.cache.lock().forget_before(first.name.number);
    }

    /// All objects before so many bytes of the line were removed.
    pub fn removed_before(&self, bytes: u64) {
        self.removed.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Bytes of the objects that are there.
    pub fn stored(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        written.saturating_sub(self.removed.load(Ordering::Relaxed))
    }

    /// Refuses when the WAL does not go on.
    pub fn check_open(&self, state: &State) -> Result<(), WalError> {
        state.health.check()?;
        if *self.closing.borrow() == Closing::No {
            Ok(())
        } else {
            Err(WalError::Closed)
        }
    }

    /// Tells the writer to end. [`Closing::Abandon`] wins over
    /// [`Closing::Drain`].
    pub fn stop(&self, how: Closing) {
        self.closing.send_modify(|closing| {
            if *closing != Closing::Abandon {
                *closing = how;
            }
        });
        self.work.notify_one();
        self.changed.notify_waiters();
    }

    /// Publishes how far the WAL is durable.
    pub fn tell(&self, sender: Option<&watch::Sender<Durable>>, durable: Durable) {
        self.position.store(durable.position.0, Ordering::SeqCst);
        if let Some(sender) = sender {
            sender.send_replace(durable);
        }
    }

    /// The place after the last durable entry.
    pub fn durable_now(&self) -> Position {
        Position(self.position.load(Ordering::SeqCst))
    }

    /// The first number that is not trimmed.
    pub fn first(&self) -> u64 {
        self.first.load(Ordering::SeqCst)
    }
}
