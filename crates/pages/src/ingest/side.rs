//! Side-file operations, resolved into versions of the files they touch.
//!
//! A file's description and its bytes, in chunks, are keys of their own, so
//! that a small write into a large file stores only itself and reading one
//! file reads nothing of another.

use super::retry::{Step, Stop, retry};
use super::state::Ingest;
use crate::layer::catalog::{CHUNK, FILE_MAX, Node, NodeKind, chunk_cut, chunk_write};
use crate::layer::chain::Kind;
use crate::layer::key::{TAG_SIDE, relative, side_key, side_of};
use xylem_types::{FileOp, Lsn};

/// Bytes that a rename copies before they are made visible.
const PIECE: usize = 4 << 20;

impl Ingest {
    /// Brings in one operation. What makes no sense (a write to a directory, a
    /// rename of nothing) did not succeed at the compute either: it is left out.
    pub(super) fn side(&mut self, op: &FileOp) -> Step<()> {
        if let Some(path) = too_long(op) {
            self.left_out("no file has so long a path", path);
            return Ok(());
        }
        match op {
            FileOp::Create { path, mode } => {
                let path = checked(path)?;
                let old = self.node(path)?;
                self.clear_chunks(path, 0, old.chunks());
                self.put_node(
                    path,
                    Node {
                        kind: NodeKind::File,
                        mode: *mode,
                        size: 0,
                    },
                );
            }
            FileOp::Write { path, offset, data } => {
                self.write_file(checked(path)?, *offset, data)?
            }
            FileOp::Truncate { path, size } => self.truncate_file(checked(path)?, *size)?,
            FileOp::Rename { from, to } => self.rename_path(checked(from)?, checked(to)?)?,
            FileOp::Unlink { path } | FileOp::Rmdir { path } => {
                let path = checked(path)?;
                let old = self.node(path)?;
                if old.kind != NodeKind::Gone {
                    self.clear_chunks(path, 0, old.chunks());
                    self.put_node(path, Node::default());
                }
            }
            FileOp::Mkdir { path, mode } => {
                self.put_node(
                    checked(path)?,
                    Node {
                        kind: NodeKind::Dir,
                        mode: *mode,
                        size: 0,
                    },
                );
            }
        }
        Ok(())
    }

    fn node(&self, path: &str) -> Step<Node> {
        let shared = &*self.shared;
        retry(shared, || {
            shared.snapshot().view(shared.source()).node(path, Lsn::MAX)
        })
    }

    fn put_node(&mut self, path: &str, node: Node) {
        let lsn = self.stage.side_lsn;
        self.stage
            .batch
            .other(side_key(path, 0), lsn, Kind::Image, &node.encode());
    }

    fn clear_chunks(&mut self, path: &str, from: u32, to: u32) {
        let lsn = self.stage.side_lsn;
        for chunk in from..to {
            self.stage
                .batch
                .other(side_key(path, chunk + 1), lsn, Kind::Image, &[]);
        }
    }

    fn left_out(&self, what: &str, path: &str) {
        tracing::warn!(branch_id = %self.shared.id, lsn = %self.stage.side_lsn, path, "side-file operation left out: {what}");
    }

    fn write_file(&mut self, path: &str, offset: u64, data: &[u8]) -> Step<()> {
        let mut old = self.node(path)?;
        match old.kind {
            NodeKind::Dir => {
                self.left_out("a write to a directory", path);
                return Ok(());
            }
            NodeKind::Gone => {
                old = Node {
                    kind: NodeKind::File,
                    mode: 0o660,
                    size: 0,
                }
            }
            NodeKind::File => {}
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > FILE_MAX {
            return Err(Stop::Failed(format!(
                "side file {path:?} grows beyond {FILE_MAX} bytes"
            )));
        }
        let lsn = self.stage.side_lsn;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = at % CHUNK;
            let (piece, tail) = rest.split_at(rest.len().min((CHUNK - within) as usize));
            let key = side_key(path, (at / CHUNK) as u32 + 1);
            if piece.len() as u64 == CHUNK {
                self.stage.batch.other(key, lsn, Kind::Image, piece);
            } else {
                self.stage
                    .batch
                    .other(key, lsn, Kind::Delta, &chunk_write(within as u32, piece));
            }
            at += piece.len() as u64;
            rest = tail;
        }
        self.put_node(
            path,
            Node {
                size: old.size.max(end),
                ..old
            },
        );
        Ok(())
    }

    fn truncate_file(&mut self, path: &str, size: u64) -> Step<()> {
        let old = self.node(path)?;
        if old.kind != NodeKind::File || size > FILE_MAX {
            self.left_out("a truncation of what is no file, or too large", path);
            return Ok(());
        }
        if size < old.size {
            let (full, within) = ((size / CHUNK) as u32, size % CHUNK);
            let lsn = self.stage.side_lsn;
            if within > 0 {
                let key = side_key(path, full + 1);
                self.stage
                    .batch
                    .other(key, lsn, Kind::Delta, &chunk_cut(within as u32));
            }
            self.clear_chunks(path, full + u32::from(within > 0), old.chunks());
        }
        self.put_node(path, Node { size, ..old });
        Ok(())
    }

    fn rename_path(&mut self, from: &str, to: &str) -> Step<()> {
        let old = self.node(from)?;
        match old.kind {
            _ if from == to => {}
            NodeKind::Gone => self.left_out("a rename of nothing", from),
            NodeKind::File => self.rename_file(from, to, old)?,
            NodeKind::Dir => {
                self.put_node(to, old);
                for child in self.children(from)? {
                    let target = format!("{to}{}", child.get(from.len()..).unwrap_or_default());
                    if target.len() > FileOp::PATH_MAX {
                        self.left_out("no file has so long a path", &child);
                        continue;
                    }
                    let node = self.node(&child)?;
                    match node.kind {
                        NodeKind::Gone => {}
                        NodeKind::File => self.rename_file(&child, &target, node)?,
                        NodeKind::Dir => {
                            self.put_node(&target, node);
                            self.put_node(&child, Node::default());
                        }
                    }
                }
                self.put_node(from, Node::default());
            }
        }
        Ok(())
    }

    fn rename_file(&mut self, from: &str, to: &str, old: Node) -> Step<()> {
        let replaced = self.node(to)?;
        let lsn = self.stage.side_lsn;
        for chunk in 0..old.chunks() {
            let key = side_key(from, chunk + 1);
            let shared = &*self.shared;
            let found = retry(shared, || {
                shared
                    .snapshot()
                    .view(shared.source())
                    .chunk(&key, Lsn::MAX)
            })?;
            let bytes = found.map(|(_, b)| b).unwrap_or_default();
            self.stage
                .batch
                .other(side_key(to, chunk + 1), lsn, Kind::Image, &bytes);
            // A very large file is not held in memory whole.
            if self.stage.batch.bytes() >= PIECE {
                self.publish()?;
            }
        }
        self.clear_chunks(to, old.chunks(), replaced.chunks());
        // Both together: after a crash between, the copy would be made again.
        self.put_node(to, old);
        self.put_node(from, Node::default());
        self.clear_chunks(from, 0, old.chunks());
        Ok(())
    }

    /// Paths below the directory `dir`.
    fn children(&self, dir: &str) -> Step<Vec<String>> {
        let shared = &*self.shared;
        let prefix = |end: u8| {
            let mut key = vec![TAG_SIDE];
            key.extend_from_slice(dir.as_bytes());
            key.push(end);
            key
        };
        // '0' comes right after '/'.
        let (mut after, end) = (prefix(b'/'), prefix(b'0'));
        let mut out = Vec::new();
        loop {
            let keys = retry(shared, || {
                shared
                    .snapshot()
                    .view(shared.source())
                    .keys(&after, &end, Lsn::MAX)
            })?;
            let Some(last) = keys.last() else {
                return Ok(out);
            };
            after.clone_from(last);
            out.extend(
                keys.iter()
                    .filter_map(|k| side_of(k))
                    .filter(|(_, c)| *c == 0)
                    .map(|(p, _)| p.to_owned()),
            );
        }
    }
}

/// The beginning of a path that no file has, and that no index block takes.
fn too_long(op: &FileOp) -> Option<&str> {
    let paths = match op {
        FileOp::Rename { from, to } => [from, to],
        FileOp::Create { path, .. }
        | FileOp::Write { path, .. }
        | FileOp::Truncate { path, .. }
        | FileOp::Unlink { path }
        | FileOp::Mkdir { path, .. }
        | FileOp::Rmdir { path } => [path, path],
    };
    let long = paths.into_iter().find(|p| p.len() > FileOp::PATH_MAX)?;
    Some(long.get(..64).unwrap_or_default())
}

fn checked(path: &str) -> Step<&str> {
    let path = relative(path);
    if path.is_empty() || path.contains('\0') {
        return Err(Stop::Failed(format!(
            "a side-file operation has the path {path:?}"
        )));
    }
    Ok(path)
}
