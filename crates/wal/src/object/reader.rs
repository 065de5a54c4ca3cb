//! Reads durable entries, with the objects that come next on their way.

use super::format::{Block, Name, number_and_index, position};
use super::objects::{Fault, Object};
use super::shared::{Health, Shared};
use crate::failure::Failure;
use crate::{Entry, Position, WalError, WalReader};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use tokio::task::AbortHandle;

/// A place in the WAL, and what was fetched from there on.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The place after the last entry given.
    position: Position,
    /// The object of that place.
    block: Option<Arc<Block>>,
    /// The generation of the object before, which is the next one's too unless
    /// a claim stands between.
    generation: Option<u32>,
    ahead: BTreeMap<Name, Coming>,
}

/// An object on its way here.
struct Coming {
    object: Receiver<Result<Option<Object>, Fault>>,
    task: AbortHandle,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    /// A reader at `position`, which must be between two entries.
    pub fn open(shared: Arc<Shared>, position: Position) -> Result<Reader, WalError> {
        let durable = shared.durable_now();
        let mut reader = Reader {
            shared,
            position,
            block: None,
            generation: None,
            ahead: BTreeMap::new(),
        };
        if position > durable || reader.is_trimmed() {
            return Err(WalError::NoSuchPosition(position));
        }
        if position < durable {
            let (number, index) = number_and_index(position);
            if reader.block(number)?.count() <= index {
                return Err(WalError::NoSuchPosition(position));
            }
        }
        Ok(reader)
    }

    fn is_trimmed(&self) -> bool {
        self.position < position(self.shared.first(), 0)
    }

    /// The object `number`, which is durable.
    fn block(&mut self, number: u64) -> Result<Arc<Block>, WalError> {
        if let Some(block) = &self.block
            && block.header.name.number == number
        {
            return Ok(Arc::clone(block));
        }
        let cached = self.shared.cache.lock().get(number);
        let block = match cached {
            Some(block) => block,
            None => self.fetch(number)?,
        };
        self.generation = Some(block.header.name.generation);
        self.block = Some(Arc::clone(&block));
        self.ahead.retain(|name, _| name.number > number);
        self.look_ahead(&block);
        Ok(block)
    }

    fn fetch(&mut self, number: u64) -> Result<Arc<Block>, WalError> {
        let mut known = self.known_generation(number);
        // Generations do not go back along the line: a lower one is void, and the
        // line's own object was trimmed.
        let least = self.generation;
        loop {
            let generation = match known.take() {
                Some(generation) => generation,
                None => self.locate(number)?,
            };
            let name = Name { number, generation };
            if least.is_some_and(|least| generation < least) {
                return Err(self.missing(name));
            }
            let coming = match self.ahead.remove(&name) {
                Some(coming) => coming,
                None => self.send_for(name),
            };
            match self.receive(&coming)? {
                Some(Object::Entries(block)) => return Ok(Arc::new(block)),
                // The next owner's first object has the same number.
                Some(Object::Claim(_)) => known = generation.checked_add(1),
                // Only a guess was wrong, if it was one.
                None if Some(generation) == self.generation => self.generation = None,
                None => return Err(self.missing(name)),
            }
        }
    }

    /// The generation of object `number`, where it is known or can be guessed.
    fn known_generation(&self, number: u64) -> Option<u32> {
        if number >= self.shared.start.load(Ordering::SeqCst) {
            return u32::try_from(self.shared.generation.load(Ordering::SeqCst)).ok();
        }
        let first = self.shared.generation_of_first(number);
        self.generation.or(first)
    }

    fn locate(&self, number: u64) -> Result<u32, WalError> {
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = sync_channel(1);
        let task = self.shared.config.runtime.spawn(async move {
            let _ = sender.send(shared.objects.locate(number).await);
        });
        let row = self.wait(&receiver, &task.abort_handle())?;
        let row = row.ok_or_else(|| {
            self.missing(Name {
                number,
                generation: 0,
            })
        });
        Ok(row?.name.generation)
    }

    fn send_for(&self, name: Name) -> Coming {
        let shared = Arc::clone(&self.shared);
        let (sender, object) = sync_channel(1);
        let task = self.shared.config.runtime.spawn(async move {
            // The reader may have gone.
            let _ = sender.send(shared.objects.get(name).await);
        });
        Coming {
            object,
            task: task.abort_handle(),
        }
    }

    fn receive(&self, coming: &Coming) -> Result<Option<Object>, WalError> {
        self.wait(&coming.object, &coming.task)
    }

    /// Waits for an answer, as long as is allowed.
    fn wait<T>(
        &self,
        answer: &Receiver<Result<T, Fault>>,
        task: &AbortHandle,
    ) -> Result<T, WalError> {
        use std::sync::mpsc::RecvTimeoutError;
        match answer.recv_timeout(self.shared.config.patience) {
            Ok(answer) => answer.map_err(|fault| fault.error()),
            Err(RecvTimeoutError::Disconnected) => Err(WalError::Closed),
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                let silent = || {
                    let context = format!("read {}", self.shared.objects.remote.place(""));
                    Failure::new(context, io::Error::from(io::ErrorKind::TimedOut))
                };
                let trouble = self.shared.objects.remote.trouble();
                Err(trouble.unwrap_or_else(silent).error())
            }
        }
    }

    /// Why an object is not there.
    fn missing(&self, name: Name) -> WalError {
        let looked = match self.is_trimmed() {
            true => Ok(()),
            false => self.look_for_trimming(name.number),
        };
        if self.is_trimmed() {
            return WalError::NoSuchPosition(self.position);
        }
        if let Err(error) = looked {
            return error;
        }
        if let Health::Failed(fault @ Fault::Superseded { .. }) = &self.shared.state.lock().health {
            return fault.error();
        }
        let place = self.shared.objects.remote.place(&name.to_string());
        WalError::Corrupt(format!(
            "{place}: object {} of the WAL is missing",
            name.number
        ))
    }

    /// Finds out whether object `gone` was trimmed by another owner: a newer one,
    /// or the one before, whose removal went on while this one opened the WAL.
    fn look_for_trimming(&self, gone: u64) -> Result<(), WalError> {
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = sync_channel(1);
        let task = self.shared.config.runtime.spawn(async move {
            let _ = sender.send(shared.look_for_trimming(gone).await);
        });
        self.wait(&receiver, &task.abort_handle())
    }

    /// Fetches the durable objects after `block` ahead of need.
    fn look_ahead(&mut self, block: &Block) {
        let config = &self.shared.config;
        let each = block.header.total().max(1);
        let count = (config.read_ahead_bytes / each).clamp(1, config.read_ahead_objects as u64);
        let durable = self.shared.durable_now();
        let end = number_and_index(durable).0;
        let number = block.header.name.number;
        for number in (number + 1..end).take(count as usize) {
            if self.shared.cache.lock().get(number).is_some() {
                continue;
            }
            if let Some(generation) = self.known_generation(number) {
                let name = Name { number, generation };
                if !self.ahead.contains_key(&name) {
                    let coming = self.send_for(name);
                    self.ahead.insert(name, coming);
                }
            }
        }
    }
}

impl WalReader for Reader {
    fn next(&mut self) -> Result<Option<Entry>, WalError> {
        if self.is_trimmed() {
            return Err(WalError::NoSuchPosition(self.position));
        }
        if self.position >= self.shared.durable_now() {
            self.block = None;
            self.ahead.clear();
            return Ok(None);
        }
        let (number, index) = number_and_index(self.position);
        let block = self.block(number)?;
        let corrupt = |why: &str| {
            let fault = self.shared.objects.corrupt(block.header.name, 0, why);
            fault.error()
        };
        let (header, record) = match block.entry(index) {
            Some(entry) => entry.map_err(|why| corrupt(&why))?,
            None => return Err(WalError::NoSuchPosition(self.position)),
        };
        self.position = block.after(index);
        Ok(Some(Entry {
            next: self.position,
            epoch: header.epoch,
            time_us: header.time_us,
            stepped: header.stepped,
            record,
        }))
    }
}
