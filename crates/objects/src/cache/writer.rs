//! Writing an object: to local disk, then to the store; straight to the store
//! when the disk has no room.

use super::disk::Disk;
use super::shared::Shared;
use super::stats::add;
use crate::Upload;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Disk that is reserved ahead of what is written, and what is copied at a time.
const STEP: u64 = 1 << 20;

/// An object being written, front to back. One that is dropped unfinished was
/// never there.
pub struct CacheWriter {
    shared: Arc<Shared>,
    name: String,
    len: u64,
    place: Place,
}

/// Where what is written goes.
enum Place {
    Disk(Temp),
    Store(Box<Upload>),
    /// Nowhere: something failed.
    Nowhere,
}

/// A file that becomes an object, or goes.
struct Temp {
    shared: Arc<Shared>,
    name: String,
    file: File,
    reserved: u64,
    adopted: bool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.adopted {
            self.shared.removed(&self.name);
            self.shared.release(self.reserved);
        }
    }
}

impl Temp {
    fn create(shared: &Arc<Shared>, object: &str) -> io::Result<Temp> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = Disk::new_name(object, NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = shared.disk.create(&name, 0)?;
        Ok(Temp {
            shared: Arc::clone(shared),
            name,
            file,
            reserved: 0,
            adopted: false,
        })
    }

    /// Takes room for a file of `len` bytes.
    fn reserve(&mut self, len: u64) -> bool {
        let more = self.shared.cost_of(len).saturating_sub(self.reserved);
        if more == 0 {
            return true;
        }
        // Reserve ahead, if no other entry has to go for it.
        let bytes = match self.shared.reserve_free(more.max(STEP)) {
            true => more.max(STEP),
            false if self.shared.reserve(more) => more,
            false => return false,
        };
        self.reserved += bytes;
        true
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let write = || self.shared.disk.write(&self.name, &self.file, bytes, at);
        match write() {
            // The disk is full of others' files; what is cached gives way.
            Err(e)
                if e.kind() == io::ErrorKind::StorageFull
                    && self.shared.evict(self.shared.cost_of(bytes.len() as u64)) =>
            {
                write()
            }
            other => other,
        }
    }

    /// Makes the file the object's, of `size` bytes.
    fn adopt(mut self, object: &str, size: u64) -> io::Result<()> {
        let cost = self.shared.cost_of(size);
        self.shared.release(self.reserved - cost);
        self.reserved = cost;
        self.adopted = self.shared.keep_whole(object, size, Some(&self.name))?;
        Ok(())
    }
}

impl CacheWriter {
    pub(super) fn new(shared: Arc<Shared>, name: &str) -> CacheWriter {
        let place = match Temp::create(&shared, name) {
            Ok(temp) => Place::Disk(temp),
            Err(error) => {
                let path = shared.disk.path(name);
                shared
                    .counters
                    .disk_failed("creating a file", &path, &error);
                add(&shared.counters.streamed, 1);
                Place::Store(Box::new(shared.bucket.begin(name)))
            }
        };
        CacheWriter {
            shared,
            name: name.to_owned(),
            len: 0,
            place,
        }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// When there is no room on local disk and the store does not answer or
    /// refuses; what is written after that fails too.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len() as u64;
        if let Place::Disk(temp) = &mut self.place
            && !self.shared.keeps(temp, bytes, self.len)
        {
            self.leave_disk()?;
        }
        if let Place::Store(upload) = &mut self.place {
            upload.write(bytes).inspect_err(|_| {
                self.place = Place::Nowhere;
            })?;
        }
        if matches!(self.place, Place::Nowhere) {
            return Err(failed_before(&self.name));
        }
        self.len = end;
        Ok(())
    }

    /// Continues without local disk: uploads the bytes so far, then those that
    /// follow.
    fn leave_disk(&mut self) -> io::Result<()> {
        let Place::Disk(temp) = std::mem::replace(&mut self.place, Place::Nowhere) else {
            return Ok(());
        };
        add(&self.shared.counters.streamed, 1);
        let mut upload = self.shared.bucket.begin(&self.name);
        let mut buffer = vec![0; STEP.min(self.len) as usize];
        let mut at = 0;
        while at < self.len {
            let n = buffer.len().min((self.len - at) as usize);
            let Some(part) = buffer.get_mut(..n) else {
                break;
            };
            temp.file.read_exact_at(part, at)?;
            upload.write(part)?;
            at += n as u64;
        }
        self.place = Place::Store(Box::new(upload));
        Ok(())
    }

    /// Uploads it. From then on it is in the store, durable, and here, if
    /// there was room.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when the name is taken; when the store
    /// does not answer or refuses.
    pub fn finish(self) -> io::Result<()> {
        match self.place {
            Place::Disk(temp) => {
                self.shared
                    .bucket
                    .upload(&self.name, &temp.file, self.len)?;
                if let Err(error) = temp.adopt(&self.name, self.len) {
                    // It is where it must be; here it would only be faster.
                    let path = self.shared.disk.path(&self.name);
                    self.shared
                        .counters
                        .disk_failed("renaming a file", &path, &error);
                }
                Ok(())
            }
            Place::Store(upload) => upload.finish(),
            Place::Nowhere => Err(failed_before(&self.name)),
        }
    }
}

fn failed_before(name: &str) -> io::Error {
    io::Error::other(format!("write {name}: an earlier write failed"))
}

impl Shared {
    /// Writes to local disk. False when there is no room, or the disk fails.
    fn keeps(&self, temp: &mut Temp, bytes: &[u8], at: u64) -> bool {
        if !temp.reserve(at + bytes.len() as u64) {
            return false;
        }
        match temp.write(bytes, at) {
            Ok(()) => true,
            Err(error) => {
                let path = self.disk.path(&temp.name);
                self.counters.disk_failed("writing a file", &path, &error);
                false
            }
        }
    }
}
