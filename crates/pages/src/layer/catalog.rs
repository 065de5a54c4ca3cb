//! The stored descriptions of tablespaces and side files.

use crate::layer::codec::{Dec, put_bytes, put_varint};
use xylem_types::{Lsn, SpaceId};

/// Bytes of a side file under one key.
pub(crate) const CHUNK: u64 = 64 << 10;
/// A side file is not longer than this.
pub(crate) const FILE_MAX: u64 = 4 << 30;

/// A tablespace's description as of some LSN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpaceInfo {
    /// It was not dropped.
    pub(crate) exists: bool,
    /// Its file.
    pub(crate) path: String,
    /// FSP_SPACE_FLAGS; 0 until page 0 says otherwise.
    pub(crate) flags: u32,
    /// FSP_SIZE; 0 until page 0 was written.
    pub(crate) pages: u32,
    /// Versions of its pages before this are void: it was created or
    /// truncated here.
    pub(crate) floor: Lsn,
}

impl SpaceInfo {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.exists)];
        put_bytes(&mut out, self.path.as_bytes());
        put_varint(&mut out, u64::from(self.flags));
        put_varint(&mut out, u64::from(self.pages));
        put_varint(&mut out, self.floor.0);
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<SpaceInfo> {
        let mut d = Dec(raw);
        let info = SpaceInfo {
            exists: d.u8()? != 0,
            path: d.string()?,
            flags: u32::try_from(d.varint()?).ok()?,
            pages: u32::try_from(d.varint()?).ok()?,
            floor: Lsn(d.varint()?),
        };
        d.is_empty().then_some(info)
    }
}

/// Which tablespace has a path, if any.
pub(crate) fn encode_path_owner(space: Option<SpaceId>) -> Vec<u8> {
    match space {
        None => vec![0],
        Some(s) => {
            let mut out = vec![1];
            out.extend_from_slice(&s.0.to_le_bytes());
            out
        }
    }
}

/// Reads what [`encode_path_owner`] wrote.
pub(crate) fn decode_path_owner(raw: &[u8]) -> Option<Option<SpaceId>> {
    let mut d = Dec(raw);
    match d.u8()? {
        0 => Some(None),
        1 => Some(Some(SpaceId(d.u32()?))),
        _ => None,
    }
}

/// The kind of a side-file path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// Nothing is there.
    #[default]
    Gone,
    File,
    Dir,
}

/// A side file's or directory's description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    /// Bytes of a file.
    pub(crate) size: u64,
}

impl Node {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![match self.kind {
            NodeKind::Gone => 0,
            NodeKind::File => 1,
            NodeKind::Dir => 2,
        }];
        put_varint(&mut out, u64::from(self.mode));
        put_varint(&mut out, self.size);
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<Node> {
        let mut d = Dec(raw);
        let kind = match d.u8()? {
            0 => NodeKind::Gone,
            1 => NodeKind::File,
            2 => NodeKind::Dir,
            _ => return None,
        };
        let node = Node {
            kind,
            mode: u32::try_from(d.varint()?).ok()?,
            size: d.varint()?,
        };
        (d.is_empty() && node.size <= FILE_MAX).then_some(node)
    }

    /// Chunks that hold its bytes.
    pub(crate) fn chunks(&self) -> u32 {
        match self.kind {
            NodeKind::File => self.size.div_ceil(CHUNK) as u32,
            _ => 0,
        }
    }
}

/// A change to a chunk: bytes from `offset` on.
pub(crate) fn chunk_write(offset: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    put_varint(&mut out, u64::from(offset));
    out.extend_from_slice(data);
    out
}

/// A change to a chunk: it ends after `len` bytes.
pub(crate) fn chunk_cut(len: u32) -> Vec<u8> {
    let mut out = vec![1];
    put_varint(&mut out, u64::from(len));
    out
}

/// Applies a change to a chunk.
pub(crate) fn chunk_apply(chunk: &mut Vec<u8>, change: &[u8]) -> Option<()> {
    let mut d = Dec(change);
    let op = d.u8()?;
    let at = usize::try_from(d.varint()?)
        .ok()
        .filter(|at| *at as u64 <= CHUNK)?;
    match op {
        0 => {
            let end = at
                .checked_add(d.0.len())
                .filter(|end| *end as u64 <= CHUNK)?;
            if chunk.len() < end {
                chunk.resize(end, 0);
            }
            chunk.get_mut(at..end)?.copy_from_slice(d.0);
            Some(())
        }
        1 => {
            chunk.truncate(at);
            Some(())
        }
        _ => None,
    }
}

/// The undo tablespaces of the newest generation, which redo does not name:
/// `undo001`, `undo002`, … in the order in which one mtr makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UndoState {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) lsn: Lsn,
}

impl UndoState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(self.first));
        put_varint(&mut out, u64::from(self.count));
        put_varint(&mut out, self.lsn.0);
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<UndoState> {
        let mut d = Dec(raw);
        Some(UndoState {
            first: u32::try_from(d.varint()?).ok()?,
            count: u32::try_from(d.varint()?).ok()?,
            lsn: Lsn(d.varint()?),
        })
    }
}
