//! A branch's layers as one read sees them, and the walk through them.

use crate::api::ReadError;
use crate::catalog::{Node, SpaceInfo, chunk_apply, decode_path_owner};
use crate::chain::{Chain, Kind, Want};
use crate::filter;
use crate::key::{Key, path_key, side_key, space_key};
use crate::layer_list::LayerList;
use crate::layer_read::{LayerError, Source};
use crate::manifest::Resume;
use crate::materialise::Materialise;
use crate::mem::MemLayer;
use std::cell::Cell;
use std::sync::Arc;
use xylem_types::{Lsn, PageId, SpaceId};

/// A layer that waits to be flushed.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) layer: Arc<MemLayer>,
    /// The branch's applied LSN when it was frozen.
    pub(crate) end: Lsn,
    /// Where ingest goes on behind it.
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
}

/// All layers at one moment.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) open: Arc<MemLayer>,
    /// Oldest first.
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) files: Arc<LayerList>,
}

/// The layers of a branch and of those it comes from, at one moment.
pub(crate) struct Snapshot {
    /// The branch's own first, then its ancestor's, and so on.
    levels: Vec<(Arc<Layers>, Lsn)>,
}

/// One branch's part of what a read sees.
pub(crate) struct Level<'a> {
    /// Newest first, with the LSN at which each ends.
    pub(crate) mems: Vec<(&'a MemLayer, Lsn)>,
    pub(crate) files: &'a LayerList,
    /// Versions after this LSN are not the reader's: it left the branch here.
    pub(crate) cap: Lsn,
}

/// Some layers, and what it takes to read them.
pub(crate) struct View<'a> {
    /// The branch's own first, then its ancestor's, and so on.
    pub(crate) levels: Vec<Level<'a>>,
    pub(crate) source: Source<'a>,
    /// Layer files that building pages has looked into.
    pub(crate) visited: Cell<u64>,
}

/// How far a read may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It may read files and wait for locks.
    Files,
    /// Neither.
    Memory,
}

/// A page or part of it as known to the caller.
pub(crate) struct Base<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) bytes: &'a [u8],
}

/// What [`View::page`] found.
pub(crate) enum Built {
    /// The base stands up to the wanted LSN.
    Unchanged,
    /// The page, and the runs of records applied for it.
    Page(Vec<u8>, usize),
    /// Memory alone does not tell.
    NotInMemory,
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
    /// A branch's own layers.
    pub(crate) fn new(own: Arc<Layers>) -> Snapshot {
        Snapshot {
            levels: vec![(own, Lsn::MAX)],
        }
    }

    /// Adds the layers of the next ancestor, of which versions up to `cap`
    /// are shared.
    pub(crate) fn push(&mut self, layers: Arc<Layers>, cap: Lsn) {
        // Who left an ancestor before it left its own sees no more of that.
        let cap = self.levels.last().map_or(cap, |(_, above)| cap.min(*above));
        self.levels.push((layers, cap));
    }

    /// All of them.
    pub(crate) fn view<'a>(&'a self, source: Source<'a>) -> View<'a> {
        View {
            levels: self.levels.iter().map(|(l, cap)| l.level(*cap)).collect(),
            source,
            visited: Cell::new(0),
        }
    }

    /// What a flush of `frozen` sees: nothing newer.
    pub(crate) fn view_of_flush<'a>(&'a self, frozen: &'a Frozen, source: Source<'a>) -> View<'a> {
        let mut view = self.view(source);
        if let Some(own) = view.levels.first_mut() {
            own.mems = vec![(&*frozen.layer, frozen.end)];
        }
        view
    }

    /// What the branch's ancestors have; none without any.
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

    /// What is known of a tablespace, and since when.
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

    /// A page as of `at`, on top of `base` if that is given.
    pub(crate) fn page(
        &self,
        engine: &dyn Materialise,
        page: PageId,
        info: &SpaceInfo,
        at: Lsn,
        base: Option<Base<'_>>,
        reach: Reach,
    ) -> Result<Built, ReadError> {
        let base = base.filter(|b| b.lsn >= info.floor && b.lsn <= at);
        let want = Want {
            at,
            above: base.as_ref().map(|b| b.lsn),
            floor: info.floor,
        };
        let key = Key::Page(page);
        let mut chain = Chain::default();
        if !self.walk(&key, &want, reach, &mut chain)? {
            return Ok(Built::NotInMemory);
        }
        self.visited.set(self.visited.get() + chain.visited);
        if chain.is_empty() && base.is_some() {
            return Ok(Built::Unchanged);
        }
        let bad = |message: String| ReadError::Corrupt {
            page,
            lsn: at,
            message,
        };
        let size = engine.page_bytes(info.flags).map_err(bad)?;
        let mut out = match &base {
            Some(b) if !chain.is_self_contained() => b.bytes.to_vec(),
            _ => vec![0; size],
        };
        let mut applied = 0;
        let mut pending: Option<Lsn> = None;
        let mut records: Vec<u8> = Vec::new();
        let apply = |out: &mut Vec<u8>, lsn: Lsn, records: &[u8]| {
            engine
                .apply(out, page, info.flags, lsn, records)
                .map_err(|e| ReadError::Corrupt {
                    page,
                    lsn,
                    message: e,
                })
        };
        for (lsn, kind, bytes) in chain.forward() {
            if kind == Kind::Image {
                if bytes.len() != size {
                    return Err(bad(format!(
                        "an image of {} bytes in a tablespace of {size}",
                        bytes.len()
                    )));
                }
                out.clear();
                out.extend_from_slice(bytes);
                continue;
            }
            // An mtr may have several runs for a page; they are applied as one.
            if let Some(before) = pending.filter(|p| *p != lsn) {
                apply(&mut out, before, &records)?;
                applied += 1;
                records.clear();
            }
            records.extend_from_slice(bytes);
            pending = Some(lsn);
        }
        if let Some(lsn) = pending {
            apply(&mut out, lsn, &records)?;
            applied += 1;
            engine.seal(&mut out, info.flags).map_err(bad)?;
        }
        if out.len() != size {
            return Err(bad(format!(
                "a base of {} bytes in a tablespace of {size}",
                out.len()
            )));
        }
        Ok(Built::Page(out, applied))
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
