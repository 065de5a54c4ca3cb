//! The directory of a WAL that is only read: changes that opening the WAL makes
//! stay in memory, so that the server that uses it does not notice.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_ambient::Entropy;
use xylem_wal::disk::{Disk, DiskFile};

/// Changes are kept in pieces of this size.
const PIECE: u64 = 64 << 10;

/// The directory as it was, with changes on top.
pub(super) struct Overlay {
    dir: PathBuf,
    /// Files that were made, renamed or removed since, by name.
    changed: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
    entropy: Entropy,
}

impl Overlay {
    pub(super) fn new(dir: &Path, entropy: &Entropy) -> Overlay {
        Overlay {
            dir: dir.to_owned(),
            changed: Mutex::default(),
            entropy: entropy.clone(),
        }
    }

    fn get(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut changed = self.changed.lock();
        if let Some(file) = changed.get(name) {
            return file.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(OverlayFile::over(File::open(self.dir.join(name))?)?);
        changed.insert(name.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }
}

impl Disk for Overlay {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }

    fn salt(&self) -> io::Result<u64> {
        Ok(self.entropy.next()? as u64)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let changed = self.changed.lock();
        let mut out: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().into_string();
            out.extend(name.ok().filter(|n| !changed.contains_key(n)));
        }
        let made = changed.iter().filter(|(_, file)| file.is_some());
        out.extend(made.map(|(name, _)| name.clone()));
        Ok(out)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.get(name)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(OverlayFile::default());
        let made = Some(Arc::clone(&file));
        self.changed.lock().insert(name.to_owned(), made);
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.get(from)?;
        let mut changed = self.changed.lock();
        changed.insert(from.to_owned(), None);
        changed.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.changed.lock().insert(name.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file as it was, with what was written on top.
#[derive(Default)]
struct OverlayFile {
    base: Option<File>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    len: u64,
    /// By number; one without bytes is all zeros.
    pieces: HashMap<u64, Option<Box<[u8]>>>,
}

impl OverlayFile {
    fn over(base: File) -> io::Result<OverlayFile> {
        let len = base.metadata()?.len();
        let inner = Inner {
            len,
            ..Inner::default()
        };
        Ok(OverlayFile {
            base: Some(base),
            inner: Mutex::new(inner),
        })
    }

    /// The content of the file from `at` on; zeros behind its end.
    fn read_base(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let Some(base) = &self.base else {
            return Ok(());
        };
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match base.read_at(rest, at + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(())
    }

    fn write(&self, inner: &mut Inner, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut at, mut bytes) = (at, bytes);
        inner.len = inner.len.max(at + bytes.len() as u64);
        while !bytes.is_empty() {
            let (number, offset) = (at / PIECE, (at % PIECE) as usize);
            let count = bytes.len().min(PIECE as usize - offset);
            let (now, rest) = bytes.split_at(count);
            let whole = count as u64 == PIECE;
            if whole && now.iter().all(|b| *b == 0) {
                inner.pieces.insert(number, None);
            } else {
                let mut piece = vec![0; PIECE as usize];
                match inner.pieces.get(&number) {
                    Some(Some(known)) => piece.copy_from_slice(known),
                    Some(None) => {}
                    None => self.read_base(number * PIECE, &mut piece)?,
                }
                if let Some(place) = piece.get_mut(offset..offset + count) {
                    place.copy_from_slice(now);
                }
                inner.pieces.insert(number, Some(piece.into()));
            }
            at += count as u64;
            bytes = rest;
        }
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.inner.lock().len)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.len = inner.len.max(bytes);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.inner.lock();
        if offset + buffer.len() as u64 > inner.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = (at % PIECE) as usize;
            let count = (buffer.len() - done).min(PIECE as usize - within);
            let Some(out) = buffer.get_mut(done..done + count) else {
                break;
            };
            match inner.pieces.get(&(at / PIECE)) {
                Some(Some(piece)) => {
                    let from = piece.get(within..within + count);
                    out.copy_from_slice(from.unwrap_or_default());
                }
                Some(None) => out.fill(0),
                None => self.read_base(at, out)?,
            }
            done += count;
        }
        Ok(())
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let mut at = offset;
        for part in parts.iter() {
            self.write(&mut inner, part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
