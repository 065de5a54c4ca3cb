//! The task that writes: it gathers queued entries into objects, makes several
//! objects at a time, and publishes how far the WAL is durable, in the order of
//! their numbers. No other code makes entries durable.

use super::claim::claim;
use super::end::{End, Sure, find};
use super::format::{Block, ENTRIES_MAX, Header, Name, WriterId, position};
use super::objects::{Fault, Object};
use super::pace::{Go, Pace};
use super::shared::{Closing, Health, Owner, Shared};
use crate::entry::payload;
use crate::failure::Failure;
use crate::queue::Queued;
use crate::stamp::Stamps;
use crate::{Durable, Position};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Objects that are sent and not acknowledged, at most: those on their way, and
/// those that wait for one before them. The next owner's search for the end of
/// the line lists as many.
pub(super) const UNACKNOWLEDGED_MAX: usize = 256;

/// The writer's next step.
enum Step {
    Claim,
    Send(Vec<Queued>),
    /// Until something changes, or that moment.
    Wait(Option<Instant>),
    End,
}

/// An object on its way, or that waits for those before it.
struct Flying {
    block: Arc<Block>,
    /// How far the WAL is durable once this object is.
    durable: Durable,
    /// The last begin in it.
    begun: Option<Position>,
    /// Bytes of its entries.
    bytes: u64,
    arrived: bool,
    sent: Instant,
    /// Asks for a second put of the same bytes, once.
    again: Option<oneshot::Sender<()>>,
}

struct Writer {
    shared: Arc<Shared>,
    id: WriterId,
    /// Where the line ends with what is on its way.
    end: End,
    stamps: Stamps,
    flying: VecDeque<Flying>,
    /// Bytes of the entries that are on their way.
    flying_bytes: u64,
    puts: JoinSet<Result<Landed, Fault>>,
    pace: Pace,
}

/// The outcome of making an object: its number, and the object that had its
/// name, if any.
struct Landed {
    number: u64,
    there: Option<Object>,
    took: Duration,
}

/// Writes until the WAL ends or fails.
pub(crate) async fn run(
    shared: Arc<Shared>,
    sender: watch::Sender<Durable>,
    id: WriterId,
    end: End,
) {
    // This ends the WAL also when the task is dropped.
    let ending = Ending {
        shared: Arc::clone(&shared),
        sender: Some(sender),
    };
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        id,
        end,
        stamps: Stamps::new(shared.config.clock.clone()),
        flying: VecDeque::new(),
        flying_bytes: 0,
        puts: JoinSet::new(),
        pace: Pace::new(shared.config.puts_max, shared.config.puts_per_second),
    };
    let outcome = tokio::select! {
        outcome = writer.work(&ending) => outcome,
        late = too_late(&shared) => Err(late),
    };
    if let Err(fault) = outcome {
        tracing::error!(
            wal = %shared.objects.remote.place(""),
            error = %fault.error(),
            "the WAL has ended and accepts nothing until it is opened again"
        );
        shared.state.lock().health = Health::Failed(fault);
    }
}

/// Makes an object, with a second put of it if that is asked for. The first
/// answer counts: whichever put made the object, it has our bytes. The other
/// put may still be carried out later, like one whose answer was lost.
async fn make(
    shared: &Shared,
    name: Name,
    block: &Block,
    again: oneshot::Receiver<()>,
) -> Result<Option<Object>, Fault> {
    let first = shared.objects.make(name, block.bytes());
    let second = async {
        match again.await {
            Ok(()) => shared.objects.make(name, block.bytes()).await,
            // The writer has ended.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        done = first => done,
        done = second => done,
    }
}

/// Waits until closing has taken as long as it may.
async fn too_late(shared: &Shared) -> Fault {
    let mut closing = shared.closing.subscribe();
    // The sender is in `shared`.
    let _ = closing.wait_for(|c| *c != Closing::No).await;
    tokio::time::sleep(shared.config.drain).await;
    let silent = || {
        Failure::new(
            format!("close {}", shared.objects.remote.place("")),
            io::Error::from(io::ErrorKind::TimedOut),
        )
    };
    Fault::Failed(shared.objects.remote.trouble().unwrap_or_else(silent))
}

/// Ends the WAL, however the writer ends.
struct Ending {
    shared: Arc<Shared>,
    sender: Option<watch::Sender<Durable>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            if matches!(state.health, Health::Running) {
                state.health = Health::Closed;
            }
            state.queue.clear();
            // Callers that wait find the sender gone.
            state.marks.clear();
        }
        // Dropping the sender tells the receivers of `durable`.
        self.sender = None;
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_waiters();
    }
}

impl Writer {
    async fn work(&mut self, ending: &Ending) -> Result<(), Fault> {
        loop {
            match self.step() {
                Step::Claim => self.claim(ending).await?,
                Step::Send(entries) => self.send(entries)?,
                Step::End => return Ok(()),
                Step::Wait(until) => {
                    let until = until.into_iter().chain(self.hedge()).min();
                    let shared = Arc::clone(&self.shared);
                    let lingered = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        Some(landed) = self.puts.join_next() => self.landed(landed, ending)?,
                        () = shared.work.notified() => {}
                        () = lingered => {}
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let closing = *shared.closing.borrow();
        let mut state = shared.state.lock();
        if closing == Closing::Abandon {
            return Step::End;
        }
        if state.owner == Owner::Wanted {
            return Step::Claim;
        }
        if state.queue.entries.is_empty() {
            return if closing == Closing::Drain && self.flying.is_empty() {
                Step::End
            } else {
                Step::Wait(None)
            };
        }
        let full = state.queue.bytes - self.flying_bytes >= config.object_bytes;
        let full = full || closing != Closing::No;
        let now = Instant::now();
        let due = state.since.map(|since| since + config.linger);
        if let Some(due) = due.filter(|due| *due > now && !full) {
            return Step::Wait(Some(due));
        }
        match self.go(now, full) {
            Go::Now => {}
            Go::At(moment) => return Step::Wait(Some(moment)),
            Go::Arrival => return Step::Wait(None),
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.queue.entries.front() {
            bytes += next.bytes();
            if entries.len() == ENTRIES_MAX || (bytes > config.object_bytes && !entries.is_empty())
            {
                break;
            }
            entries.extend(state.queue.entries.pop_front());
        }
        // The wait of the remaining entries begins now.
        state.since = (!state.queue.entries.is_empty()).then(Instant::now);
        Step::Send(entries)
    }

    /// When the next object may be sent.
    fn go(&mut self, now: Instant, full: bool) -> Go {
        let config = &self.shared.config;
        let most = match config.adaptive {
            true => UNACKNOWLEDGED_MAX,
            false => config.puts_max.min(UNACKNOWLEDGED_MAX),
        };
        if self.flying.len() >= most {
            return Go::Arrival;
        }
        match config.adaptive {
            true => self.pace.next(now, self.puts.len(), full),
            false => Go::Now,
        }
    }

    /// Asks for a second put of the object that all later ones wait for, when
    /// it takes far longer than is usual. Otherwise says when that will be so.
    /// Never more than this one: a store that is late with everything has
    /// enough to do.
    fn hedge(&mut self) -> Option<Instant> {
        let first = self.flying.front_mut()?;
        let late = self.pace.late(first.block.header.total())?;
        first.again.as_ref().filter(|_| self.shared.config.hedge)?;
        let due = first.sent + late;
        if due > Instant::now() {
            return Some(due);
        }
        // A put that has just ended needs no second one.
        let _ = first.again.take()?.send(());
        None
    }

    /// Takes the line over, for callers that wait for it.
    async fn claim(&mut self, ending: &Ending) -> Result<(), Fault> {
        let end = find(&self.shared.objects, Sure::Nearly).await?;
        self.end = claim(&self.shared.objects, self.id, end).await?;
        // Another owner may have written and trimmed meanwhile.
        self.shared.find_beginning(&self.end).await?;
        let end = &self.end;
        {
            // The line was empty when it was opened, so nothing was accepted.
            let mut state = self.shared.state.lock();
            state.queue.line = end.line;
            state.known = end.known;
            state.begun = end.durable().position;
        }
        self.shared.own(end);
        self.shared.tell(ending.sender.as_ref(), end.durable());
        self.shared.state.lock().owner = Owner::Yes;
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// Puts entries on their way as one object.
    fn send(&mut self, entries: Vec<Queued>) -> Result<(), Fault> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let number = self.end.next;
        let name = Name::new(number, self.end.generation)
            .map_err(|e| Fault::Corrupt(format!("{}: {e}", self.place())))?;
        let durable = Durable {
            epoch: last.epoch,
            seq: last.seq,
            lsn: last.lsn_after,
            position: position(number + 1, 0),
        };
        let stamp = self.stamps.next(&mut self.end.time_us);
        let header = Header {
            name,
            claim: false,
            writer: self.id,
            known: self
                .flying
                .front()
                .map_or(number, |f| f.block.header.name.number),
            first: self.shared.first(),
            bytes_before: self.end.bytes,
            generation_before: self.end.generation_before,
            count: 0,
            body_bytes: 0,
        };
        let block = Arc::new(Block::encode(header, stamp, &entries));
        let begin = entries.iter().rposition(|e| e.kind == payload::BEGIN);
        self.end.next += 1;
        self.end.generation_before = self.end.generation;
        self.end.bytes += block.header.total();
        self.flying_bytes += block.header.body_bytes;
        let sent = Instant::now();
        let (again, asked) = oneshot::channel();
        self.flying.push_back(Flying {
            sent,
            again: Some(again),
            durable,
            begun: begin.map(|index| block.after(index)),
            bytes: block.header.body_bytes,
            arrived: false,
            block: Arc::clone(&block),
        });
        self.shared
            .cache
            .lock()
            .insert(Arc::clone(&block), self.shared.config.cache_bytes);
        let shared = Arc::clone(&self.shared);
        self.pace.sent(sent);
        self.puts.spawn(async move {
            let there = make(&shared, name, &block, asked).await?;
            let took = sent.elapsed();
            Ok(Landed {
                number,
                there,
                took,
            })
        });
        Ok(())
    }

    /// Handles the outcome of making an object.
    fn landed(
        &mut self,
        landed: Result<Result<Landed, Fault>, tokio::task::JoinError>,
        ending: &Ending,
    ) -> Result<(), Fault> {
        let landed = landed.map_err(|e| {
            let context = format!("make an object of {}", self.place());
            Fault::Failed(Failure::new(context, io::Error::other(e)))
        })??;
        match landed.there {
            None => {}
            Some(Object::Claim(claim)) => {
                return Err(Fault::Superseded {
                    wal: self.place(),
                    generation: claim.name.generation.saturating_add(1),
                });
            }
            Some(Object::Entries(block)) => {
                let why = "another writer's, in a generation that is ours";
                return Err(self.shared.objects.corrupt(block.header.name, 0, why));
            }
        }
        for flying in &mut self.flying {
            if flying.block.header.name.number == landed.number {
                flying.arrived = true;
                let bytes = flying.block.header.total();
                self.pace.arrived(Instant::now(), landed.took, bytes);
            }
        }
        while self.flying.front().is_some_and(|f| f.arrived)
            && let Some(flying) = self.flying.pop_front()
        {
            self.publish(&flying, ending);
        }
        Ok(())
    }

    /// Publishes that an object and all before it are durable.
    fn publish(&mut self, flying: &Flying, ending: &Ending) {
        self.flying_bytes -= flying.bytes;
        let header = &flying.block.header;
        let written = header.bytes_before + header.total();
        self.shared.written.store(written, Ordering::Relaxed);
        // Room is made before the news goes out, because a caller that hears it
        // may append at once.
        self.shared.state.lock().queue.written(flying.bytes);
        // This is not done under the lock: a caller may hold the watch's value
        // and ask for something that needs the lock.
        self.shared.tell(ending.sender.as_ref(), flying.durable);
        // This comes after the news: a caller that waits for it may look at the
        // watch.
        {
            let mut state = self.shared.state.lock();
            let from = state.durable;
            state.durable += flying.block.count() as u64;
            state.known = flying.block.header.known;
            if let Some(begun) = flying.begun {
                state.begun = begun;
            }
            while state.marks.front().is_some_and(|m| m.nth < state.durable)
                && let Some(mark) = state.marks.pop_front()
            {
                // A caller that no longer waits need not be told.
                let index = mark.nth.saturating_sub(from) as usize;
                let _ = mark.told.send(flying.block.after(index));
            }
        }
        self.shared.changed.notify_waiters();
    }

    fn place(&self) -> String {
        self.shared.objects.remote.place("")
    }
}
