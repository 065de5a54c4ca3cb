//! A branch's layers as one read sees them, and the walk through them.

use super::layers::{Frozen, Layers};
use crate::api::Reach;
use crate::error::ReadError;
use crate::layer::catalog::{Node, SpaceInfo, chunk_apply, decode_path_owner};
use crate::layer::chain::{Chain, Kind, Want};
use crate::layer::filter;
use crate::layer::key::{Key, path_key, side_key, space_key};
use crate::layer::list::LayerList;
use crate::layer::memory::MemLayer;
use crate::layer::read::{LayerError, Source};
use std::cell::Cell;
use std::sync::Arc;
use xylem_types::{Lsn, SpaceId};

/// The layers of a branch and of its ancestors, at one moment.
pub(crate) struct Snapshot {
    /// The branch's own first, then its parent's, and so on.
    levels: Vec<(Arc<Layers>, Lsn)>,
}

/// One branch's part of what a read sees.
pub(crate) struct Level<'a> {
    /// Newest first, with the LSN at which each ends.
    pub(crate) mems: Vec<(&'a MemLayer, Lsn)>,
    pub(crate) files: &'a LayerList,
    /// The branch point: versions after this LSN are not the reader's.
    pub(crate) cap: Lsn,
}

/// Some layers, and what it takes to read them.
pub(crate) struct View<'a> {
    /// The branch's own first, then its parent's, and so on.
    pub(crate) levels: Vec<Level<'a>>,
    pub(crate) source: Source<'a>,
    /// Layer files that building pages has looked into.
    pub(crate) visited: Cell<u64>,
}

impl Layers {
    fn level(&self, cap: Lsn) -> Level<'_> {
        let open = std::iter::once((&*self.open, Lsn::MAX));
        let frozen = self.frozen.iter().rev().map(|f| (&*f.layer, f.end));
        Level {
            mems: open.chain(frozen).collect(),
            files: &self.files,
            cap,
        }
    }
}

impl Snapshot {
    /// Begins with a branch's own layers.
    pub(crate) fn new(own: Arc<Layers>) -> Snapshot {
        Snapshot {
            levels: vec![(own, Lsn::MAX)],
        }
    }

    /// Adds the layers of the next ancestor, which shares versions up to `cap`.
    pub(super) fn push(&mut self, layers: Arc<Layers>, cap: Lsn) {
        // A branch point below another's caps what lies beneath it, too.
        let cap = self.levels.last().map_or(cap, |(_, above)| cap.min(*above));
        self.levels.push((layers, cap));
    }

    /// The view of all these layers.
    pub(crate) fn view<'a>(&'a self, source: Source<'a>) -> View<'a> {
        View {
            levels: self.levels.iter().map(|(l, cap)| l.level(*cap)).collect(),
            source,
            visited: Cell::new(0),
        }
    }

    /// The view of a flush of `frozen`: nothing newer.
    pub(crate) fn view_of_flush<'a>(&'a self, frozen: &'a Frozen, source: Source<'a>) -> View<'a> {
        let mut view = self.view(source);
        if let Some(own) = view.levels.first_mut() {
            own.mems = vec![(&*frozen.layer, frozen.end)];
        }
        view
    }

    /// The layers of the branch's ancestors; none without a parent.
    pub(crate) fn ancestors<'a>(&'a self, source: Source<'a>) -> Option<View<'a>> {
        let mut view = self.view(source);
        view.levels.remove(0);
        (!view.levels.is_empty()).then_some(view)
    }
}

impl Level<'_> {
    /// Gathers this branch's wanted versions of `key`, newest first. `false`:
    /// memory alone does not tell.
    fn walk(
        &self,
        source: &Source<'_>,
        key: &Key,
        want: &Want,
        reach: Reach,
        out: &mut Chain,
    ) -> Result<bool, ReadError> {
        if want.above.is_some_and(|above| self.cap <= above) || self.cap < want.floor {
            out.finish();
        }
        if out.done() {
            return Ok(true);
        }
        let want = &Want {
            at: want.at.min(self.cap),
            ..*want
        };
        for (mem, end) in &self.mems {
            if want.above.is_some_and(|above| *end <= above) {
                out.finish();
            }
            if out.done() {
                return Ok(true);
            }
            if mem.start() > want.at {
                continue;
            }
            if mem.collect(key, want, reach == Reach::Files, out).is_none() {
                return Ok(false);
            }
        }
        if out.done() {
            return Ok(true);
        }
        let bytes = key.encode();
        let hash = filter::hash(&bytes);
        for row in self.files.rows().iter().rev() {
            if want.above.is_some_and(|above| row.end <= above) || row.end < want.floor {
                out.finish();
                break;
            }
            if row.start > want.at {
                continue;
            }
            if let Some(file) = row.find(&bytes).filter(|f| f.meta.start <= want.at) {
                if reach == Reach::Memory {
                    return Ok(false);
                }
                file.collect(source, &bytes, hash, want, out)
                    .map_err(|e| read_error(e, key, want.at))?;
                if out.done() {
                    break;
                }
            }
        }
        Ok(true)
    }
}

pub(crate) fn read_error(e: LayerError, key: &Key, at: Lsn) -> ReadError {
    match e {
        LayerError::Corrupt(..) => ReadError::Corrupt {
            page: key.page(),
            lsn: at,
            message: e.to_string(),
        },
        LayerError::Io(name, source) => ReadError::Io {
            context: format!("read layer {name}"),
            source,
        },
    }
}

impl View<'_> {
    /// Gathers the wanted versions of `key`. `false`: memory alone does not
    /// tell.
    pub(crate) fn walk(
        &self,
        key: &Key,
        want: &Want,
        reach: Reach,
        out: &mut Chain,
    ) -> Result<bool, ReadError> {
        for level in &self.levels {
            if !level.walk(&self.source, key, want, reach, out)? {
                return Ok(false);
            }
            if out.done() {
                break;
            }
        }
        Ok(true)
    }

    /// The newest value up to `at` of a key that has only images.
    pub(crate) fn image(&self, key: &Key, at: Lsn) -> Result<Option<(Lsn, Vec<u8>)>, ReadError> {
        let mut chain = Chain::default();
        self.walk(key, &Want::at(at), Reach::Files, &mut chain)?;
        Ok(chain.image().map(|(lsn, bytes)| (lsn, bytes.to_vec())))
    }

    /// A tablespace's description, and the LSN of its last change.
    pub(crate) fn space(
        &self,
        space: SpaceId,
        at: Lsn,
    ) -> Result<Option<(Lsn, SpaceInfo)>, ReadError> {
        let key = space_key(space);
        let Some((lsn, raw)) = self.image(&key, at)? else {
            return Ok(None);
        };
        let info = SpaceInfo::decode(&raw).ok_or_else(|| malformed(&key, at, "tablespace"))?;
        Ok(Some((lsn, info)))
    }

    /// Which tablespace has a path.
    pub(crate) fn path_owner(&self, path: &str, at: Lsn) -> Result<Option<SpaceId>, ReadError> {
        let key = path_key(path);
        let Some((_, raw)) = self.image(&key, at)? else {
            return Ok(None);
        };
        decode_path_owner(&raw).ok_or_else(|| malformed(&key, at, "path"))
    }

    /// A side file's description.
    pub(crate) fn node(&self, path: &str, at: Lsn) -> Result<Node, ReadError> {
        let key = side_key(path, 0);
        let Some((_, raw)) = self.image(&key, at)? else {
            return Ok(Node::default());
        };
        Node::decode(&raw).ok_or_else(|| malformed(&key, at, "side file"))
    }

    /// A chunk of a side file; `lsn` is that of its newest version.
    pub(crate) fn chunk(&self, key: &Key, at: Lsn) -> Result<Option<(Lsn, Vec<u8>)>, ReadError> {
        let mut chain = Chain::default();
        self.walk(key, &Want::at(at), Reach::Files, &mut chain)?;
        let Some(newest) = chain.newest() else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        for (_, kind, change) in chain.forward() {
            match kind {
                Kind::Image => bytes = change.to_vec(),
                _ => chunk_apply(&mut bytes, change)
                    .ok_or_else(|| malformed(key, at, "side-file change"))?,
            }
        }
        Ok(Some((newest, bytes)))
    }

    /// The next keys after `after` and before `end` that any layer has, in
    /// order; empty at the end. Not for pages.
    pub(crate) fn keys(
        &self,
        after: &[u8],
        end: &[u8],
        at: Lsn,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        const LIMIT: usize = 256;
        let tag = after.first().copied().unwrap_or(0);
        let mut all: Vec<Vec<u8>> = Vec::new();
        // Past this a source that was cut short may have keys not gathered.
        let mut bound: Option<Vec<u8>> = None;
        let mut add = |keys: Vec<Vec<u8>>| {
            if keys.len() >= LIMIT
                && let Some(last) = keys.last()
                && bound.as_ref().is_none_or(|b| last < b)
            {
                bound = Some(last.clone());
            }
            all.extend(keys);
        };
        for level in &self.levels {
            let at = at.min(level.cap);
            for (mem, _) in level.mems.iter().filter(|(mem, _)| mem.start() <= at) {
                add(mem.other_keys(after, end, LIMIT));
            }
            for row in level.files.rows().iter().rev() {
                let spans_tag = (tag..=end.first().copied().unwrap_or(u8::MAX).min(7))
                    .any(|t| row.tags & (1 << t.min(7)) != 0);
                if row.start > at || !spans_tag {
                    continue;
                }
                let mut keys = Vec::new();
                for file in row.within(after, end).filter(|f| f.meta.start <= at) {
                    let left = LIMIT.saturating_sub(keys.len());
                    if left == 0 {
                        break;
                    }
                    let found = file.keys(&self.source, after, end, left);
                    keys.extend(found.map_err(|e| read_error(e, &Key::Other(after.to_vec()), at))?);
                }
                add(keys);
            }
        }
        all.sort_unstable();
        all.dedup();
        if let Some(bound) = bound {
            all.truncate(all.partition_point(|k| *k <= bound));
        }
        Ok(all)
    }
}

fn malformed(key: &Key, at: Lsn, what: &str) -> ReadError {
    let name = match key {
        Key::Other(bytes) => {
            String::from_utf8_lossy(bytes.get(1..).unwrap_or_default()).into_owned()
        }
        Key::Page(page) => page.to_string(),
    };
    ReadError::Corrupt {
        page: key.page(),
        lsn: at,
        message: format!("{what} {name:?} is malformed"),
    }
}
