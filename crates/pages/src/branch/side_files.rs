//! Reads side files and directories as of an LSN, a bounded part at a time.

use super::shared::Shared;
use super::view::View;
use crate::api::{ReadAt, SideFile};
use crate::error::ReadError;
use crate::layer::catalog::{CHUNK, Node, NodeKind};
use crate::layer::key::{TAG_SIDE, side_key, side_of};
use std::ops::ControlFlow;
use xylem_types::Lsn;

/// The place where the next part begins.
#[derive(Clone, Debug)]
pub struct SideCursor {
    /// All keys up to this one are done.
    after: Vec<u8>,
    /// A file of which only the first chunks are done.
    within: Option<(String, u32)>,
}

impl SideCursor {
    /// Before the first file.
    pub fn start() -> SideCursor {
        SideCursor {
            after: vec![TAG_SIDE],
            within: None,
        }
    }
}

/// A directory, or bytes of a side file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidePiece {
    /// Relative to the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// `None` for a directory.
    pub bytes: Option<FileBytes>,
}

/// Bytes of a side file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBytes {
    /// Bytes of the whole file.
    pub size: u64,
    /// Where `data` begins in the file. A file's first piece has offset 0 and
    /// its pieces follow one another without gaps.
    pub offset: u64,
    /// Empty for an empty file only.
    pub data: Vec<u8>,
}

/// Bytes of a file of which only the head is wanted.
pub const HEAD_BYTES: usize = 64;

/// The part of a side file that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Its name, mode and content.
    Whole,
    /// Its name, mode, size and the first [`HEAD_BYTES`] of its content, as if it had at most
    /// so many bytes.
    Head(u64),
    /// Not even its name.
    Nothing,
}

/// The result of one step of reading side files.
#[derive(Debug)]
pub struct SidePart {
    /// A directory comes before what is in it.
    pub pieces: Vec<SidePiece>,
    /// Where to go on; `None` at the end.
    pub next: Option<SideCursor>,
}

impl Shared {
    /// The LSN at which side files are read.
    fn side_lsn(&self, at: ReadAt) -> Result<Lsn, ReadError> {
        Ok(match (self.resolve(at)?, at) {
            (_, ReadAt::Newest) => self.newest(),
            (lsn, ReadAt::Lsn(_)) => lsn,
        })
    }

    /// Directories and side files from `from` on, until about `bytes_max`
    /// bytes of content and paths are gathered. `wanted` says by path how much
    /// of a file is read. Holds nothing between two calls. Blocking.
    ///
    /// An operation counts from the end of the last whole mtr that stands
    /// before it in the WAL: were the redo after that void, the operation
    /// would still have happened.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn side_part(
        &self,
        at: ReadAt,
        from: SideCursor,
        bytes_max: usize,
        wanted: &dyn Fn(&str) -> Wanted,
    ) -> Result<SidePart, ReadError> {
        let lsn = self.side_lsn(at)?;
        let layers = self.snapshot_at(lsn)?;
        let mut part = Part {
            view: layers.view(self.source()),
            lsn,
            room: bytes_max.max(1),
            wanted,
            pieces: Vec::new(),
        };
        let next = part.fill(from)?;
        Ok(SidePart {
            pieces: part.pieces,
            next,
        })
    }

    /// Bytes of the side file `path` from `offset` on: `length`, or as many as there are.
    /// `None` if there is no such file. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn side_file(
        &self,
        at: ReadAt,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let lsn = self.side_lsn(at)?;
        let within = (offset % CHUNK) as usize;
        let layers = self.snapshot_at(lsn)?;
        let part = Part {
            view: layers.view(self.source()),
            lsn,
            room: length.saturating_add(within).max(1),
            wanted: &|_| Wanted::Whole,
            pieces: Vec::new(),
        };
        let node = part.view.node(path, lsn)?;
        if node.kind != NodeKind::File {
            return Ok(None);
        }
        if offset >= node.size || length == 0 {
            return Ok(Some(Vec::new()));
        }
        let mut data = part.bytes(path, &node, (offset / CHUNK) as u32)?.data;
        data.drain(..within.min(data.len()));
        data.truncate(length);
        Ok(Some(data))
    }

    /// The size of the side file `path` in bytes. `None` if there is no such file. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn side_file_size(&self, at: ReadAt, path: &str) -> Result<Option<u64>, ReadError> {
        let lsn = self.side_lsn(at)?;
        let layers = self.snapshot_at(lsn)?;
        let node = layers.view(self.source()).node(path, lsn)?;
        Ok((node.kind == NodeKind::File).then_some(node.size))
    }

    /// Calls `each` with every directory and whole side file, a directory
    /// before what is in it, until it breaks. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn side_files(
        &self,
        at: ReadAt,
        each: &mut dyn FnMut(SideFile) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        const PART_BYTES: usize = 1 << 20;
        // One moment for all parts.
        let at = match at {
            ReadAt::Newest => ReadAt::Lsn(self.newest()),
            at => at,
        };
        let mut next = Some(SideCursor::start());
        let mut partial: Option<(SidePiece, Vec<u8>)> = None;
        while let Some(from) = next {
            let part = self.side_part(at, from, PART_BYTES, &|_| Wanted::Whole)?;
            for piece in part.pieces {
                let data = match &piece.bytes {
                    None => None,
                    Some(bytes) => {
                        let (_, mut data) = partial
                            .take()
                            .unwrap_or_else(|| (piece.clone(), Vec::new()));
                        data.extend_from_slice(&bytes.data);
                        if (data.len() as u64) < bytes.size {
                            partial = Some((piece, data));
                            continue;
                        }
                        Some(data.into())
                    }
                };
                let file = SideFile {
                    path: piece.path,
                    mode: piece.mode,
                    data,
                };
                if each(file).is_break() {
                    return Ok(());
                }
            }
            next = part.next;
        }
        Ok(())
    }
}

/// A part while it is gathered.
struct Part<'a> {
    view: View<'a>,
    lsn: Lsn,
    /// Bytes that still fit.
    room: usize,
    wanted: &'a dyn Fn(&str) -> Wanted,
    pieces: Vec<SidePiece>,
}

impl Part<'_> {
    fn fill(&mut self, from: SideCursor) -> Result<Option<SideCursor>, ReadError> {
        let SideCursor { mut after, within } = from;
        if let Some((path, chunk)) = within
            && let Some(within) = self.file(&path, chunk)?
        {
            let within = Some(within);
            return Ok(Some(SideCursor { after, within }));
        }
        loop {
            let keys = self.view.keys(&after, &[TAG_SIDE + 1], self.lsn)?;
            if keys.is_empty() {
                return Ok(None);
            }
            for key in keys {
                if self.room == 0 {
                    let within = None;
                    return Ok(Some(SideCursor { after, within }));
                }
                let within = match side_of(&key) {
                    Some((path, 0)) => self.file(path, 0)?,
                    _ => None,
                };
                after = key;
                if within.is_some() {
                    return Ok(Some(SideCursor { after, within }));
                }
            }
        }
    }

    /// Adds a directory, or a file's bytes from `chunk` on; returns where the
    /// file goes on when it does not fit.
    fn file(&mut self, path: &str, chunk: u32) -> Result<Option<(String, u32)>, ReadError> {
        let mut node = self.view.node(path, self.lsn)?;
        let wanted = match node.kind {
            NodeKind::File => (self.wanted)(path),
            NodeKind::Dir => Wanted::Whole,
            NodeKind::Gone => Wanted::Nothing,
        };
        let bytes = match (node.kind, wanted) {
            (_, Wanted::Nothing) => return Ok(None),
            (NodeKind::File, Wanted::Head(most)) => {
                node.size = node.size.min(most);
                let room = std::mem::replace(&mut self.room, HEAD_BYTES);
                let mut bytes = self.bytes(path, &node, 0)?;
                self.room = room;
                bytes.data.truncate(HEAD_BYTES);
                Some(bytes)
            }
            (NodeKind::File, _) => Some(self.bytes(path, &node, chunk)?),
            (NodeKind::Dir | NodeKind::Gone, _) => None,
        };
        let data_len = bytes.as_ref().map_or(0, |bytes| bytes.data.len());
        self.room = self.room.saturating_sub(path.len() + data_len);
        let done = matches!(wanted, Wanted::Head(_))
            || bytes
                .as_ref()
                .is_none_or(|bytes| bytes.offset + data_len as u64 >= bytes.size);
        self.pieces.push(SidePiece {
            path: path.to_owned(),
            mode: node.mode,
            bytes,
        });
        let chunks = data_len.div_ceil(CHUNK as usize) as u32;
        Ok((!done).then(|| (path.to_owned(), chunk + chunks)))
    }

    /// At least one chunk, if the file has one there.
    fn bytes(&self, path: &str, node: &Node, from: u32) -> Result<FileBytes, ReadError> {
        let mut data = Vec::new();
        for chunk in from..node.chunks() {
            let start = u64::from(chunk) * CHUNK;
            let len = (node.size - start).min(CHUNK) as usize;
            let found = self.view.chunk(&side_key(path, chunk + 1), self.lsn)?;
            let mut bytes = found.map(|(_, b)| b).unwrap_or_default();
            bytes.resize(len, 0);
            data.extend_from_slice(&bytes);
            if data.len() >= self.room {
                break;
            }
        }
        Ok(FileBytes {
            size: node.size,
            offset: u64::from(from) * CHUNK,
            data,
        })
    }
}
