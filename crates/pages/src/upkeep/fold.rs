//! Folds a key's versions that the horizon has passed.
//!
//! Up to the horizon only some LSNs can still be read: the horizon itself, and
//! the branch points of forks. They cut a key's versions into
//! segments; of each segment only what the key is at its end matters. Small
//! changes stay as they are, since they take less than an image; more than 1 KiB
//! of them becomes an image, which takes the place of the one before. Versions after the horizon are
//! all kept.
//!
//! Folding is only for merges that read a branch's oldest layers: there,
//! nothing is older but what an ancestor has.

use crate::api::Reach;
use crate::branch::build::{Built, Wanted, apply_versions};
use crate::branch::shared::Shared;
use crate::error::ReadError;
use crate::layer::catalog::{Node, NodeKind, SpaceInfo, chunk_apply};
use crate::layer::chain::Kind;
use crate::layer::key::{Key, TAG_PATH, TAG_SIDE, TAG_SPACE, page_of, side_of, space_of};
use std::collections::HashMap;
use std::sync::Arc;
use xylem_types::{Lsn, PageId, SpaceId};

/// Bytes of changes that are kept as they are before they become an image: few
/// beside a page, packed, since every page may have as many.
const RAW_MAX: usize = 1 << 10;

/// The LSNs up to the horizon that can still be read.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Ascending; the last is the horizon.
    points: Vec<Lsn>,
}

impl Kept {
    /// Everything from `horizon` on, and `points` before it.
    pub(crate) fn new(horizon: Lsn, mut points: Vec<Lsn>) -> Kept {
        points.retain(|p| *p < horizon);
        points.push(horizon);
        Kept { points }
    }

    /// The segment of a version, and the LSN at its end; none after the
    /// horizon.
    fn segment(&self, lsn: Lsn) -> Option<(usize, Lsn)> {
        let n = self.points.partition_point(|p| *p < lsn);
        self.points.get(n).map(|end| (n, *end))
    }
}

/// Why a key could not be folded.
pub(crate) enum Stuck {
    /// Layers could not be read.
    Read(ReadError),
    /// Its records cannot be applied: its versions must stay as they are.
    Unfoldable(String),
}

impl From<ReadError> for Stuck {
    fn from(e: ReadError) -> Stuck {
        Stuck::Read(e)
    }
}

/// A version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version<'b> {
    pub(crate) lsn: Lsn,
    pub(crate) kind: Kind,
    pub(crate) bytes: &'b [u8],
}

/// A version on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    lsn: Lsn,
    kind: Kind,
    bytes: Vec<u8>,
}

impl Made {
    /// As it is written.
    pub(crate) fn as_version(&self) -> Version<'_> {
        Version {
            lsn: self.lsn,
            kind: self.kind,
            bytes: &self.bytes,
        }
    }
}

/// A key's value before the versions at hand.
enum Base {
    /// Nothing, or all zeros.
    Nothing,
    /// The value that the ancestors have.
    Ancestors,
    /// This.
    Value(Vec<u8>),
}

/// Folds one key after the other.
pub(crate) struct Fold<'a> {
    shared: &'a Shared,
    kept: Kept,
    /// Tablespaces as of the ends of segments.
    spaces: HashMap<(SpaceId, Lsn), Option<Arc<SpaceInfo>>>,

    key: Vec<u8>,
    page: Option<PageId>,
    segment: Option<(usize, Lsn)>,
    /// The page's tablespace, as of the end of the segment.
    info: Option<Arc<SpaceInfo>>,
    base: Base,
    /// Written after `base`, in earlier segments.
    carried: Vec<Made>,
    carried_bytes: usize,
    /// Versions of this segment that are not written.
    tail: Vec<Made>,
    tail_bytes: usize,
    /// `base` was made in this segment, of versions up to here, and is not
    /// written.
    unwritten: Option<Lsn>,
    /// The LSN of the newest version that was not void.
    last: Option<Lsn>,
    /// Something of the key was written.
    written: bool,
}

impl<'a> Fold<'a> {
    pub(crate) fn new(shared: &'a Shared, kept: Kept) -> Fold<'a> {
        Fold {
            shared,
            kept,
            spaces: HashMap::new(),
            key: Vec::new(),
            page: None,
            segment: None,
            info: None,
            base: Base::Nothing,
            carried: Vec::new(),
            carried_bytes: 0,
            tail: Vec::new(),
            tail_bytes: 0,
            unwritten: None,
            last: None,
            written: false,
        }
    }

    /// Begins the next key.
    pub(crate) fn begin(&mut self, key: &[u8]) {
        let page = page_of(key);
        if page.map(|p| p.space) != self.page.map(|p| p.space) {
            self.spaces.clear();
        }
        self.page = page;
        self.key.clear();
        self.key.extend_from_slice(key);
        self.segment = None;
        self.last = None;
        self.written = false;
        self.restart(match self.shared.parent {
            Some(_) => Base::Ancestors,
            None => Base::Nothing,
        });
    }

    fn restart(&mut self, base: Base) {
        self.base = base;
        self.carried.clear();
        self.carried_bytes = 0;
        self.tail.clear();
        self.tail_bytes = 0;
        self.unwritten = None;
    }

    /// Takes the key's next version. What is to be written goes to `out`, with
    /// the point that it is kept for; none after the horizon.
    pub(crate) fn version(
        &mut self,
        version: &Version<'_>,
        out: &mut Vec<(Made, Option<Lsn>)>,
    ) -> Result<(), Stuck> {
        let Version { lsn, kind, bytes } = *version;
        let version = Made {
            lsn,
            kind,
            bytes: bytes.to_vec(),
        };
        let segment = self.kept.segment(lsn);
        if segment != self.segment {
            self.end_segment(out)?;
            self.segment = segment;
            if let Some((_, end)) = segment {
                self.begin_segment(end)?;
            }
        }
        if segment.is_none() {
            self.written = true;
            out.push((version, None));
            return Ok(());
        }
        if self.is_void(lsn) {
            return Ok(());
        }
        if kind.ends_walk() {
            self.restart(Base::Nothing);
        } else if self.last != Some(lsn) {
            // Not between the runs that one mtr has for a page.
            self.collapse_if_large()?;
        }
        self.last = Some(lsn);
        self.tail_bytes += version.bytes.len();
        self.tail.push(version);
        Ok(())
    }

    /// Whether the key's versions up to the horizon are folded, for certain:
    /// those that come after it are only passed on.
    pub(crate) fn is_past_horizon(&self) -> bool {
        self.segment.is_none()
    }

    /// The key has no more versions.
    pub(crate) fn end(&mut self, out: &mut Vec<(Made, Option<Lsn>)>) -> Result<(), Stuck> {
        self.end_segment(out)?;
        self.segment = None;
        Ok(())
    }

    fn begin_segment(&mut self, end: Lsn) -> Result<(), Stuck> {
        let Some(page) = self.page else {
            return Ok(());
        };
        let info = match self.spaces.get(&(page.space, end)) {
            Some(info) => info.clone(),
            None => {
                // All layers as they are now, and not for longer than this: to
                // hold them holds memory of those flushed meanwhile.
                let layers = self.shared.snapshot();
                let view = layers.view(self.shared.source());
                let found = view.space(page.space, end)?;
                let info = found.map(|(_, info)| Arc::new(info)).filter(|i| i.exists);
                self.spaces.insert((page.space, end), info.clone());
                info
            }
        };
        // Versions before the tablespace was made, or cut, are void; so are all
        // of one that is gone.
        let before = info.as_ref().map_or(Lsn::MAX, |i| i.floor);
        let shared_until = self.shared.parent.as_ref().map(|p| p.branch_point.lsn);
        if self.last.or(shared_until).is_none_or(|lsn| lsn < before) {
            self.restart(Base::Nothing);
        }
        self.info = info;
        Ok(())
    }

    /// Whether no read at the segment's end sees the page's version at `lsn`.
    fn is_void(&self, lsn: Lsn) -> bool {
        self.page.is_some() && self.info.as_ref().is_none_or(|info| lsn < info.floor)
    }

    fn end_segment(&mut self, out: &mut Vec<(Made, Option<Lsn>)>) -> Result<(), Stuck> {
        self.collapse_if_large()?;
        let point = self.segment.map(|(_, end)| end);
        if let (Some(lsn), Base::Value(bytes)) = (self.unwritten.take(), &self.base)
            && (self.written || self.matters(bytes))
        {
            self.written = true;
            let bytes = bytes.clone();
            let kind = Kind::Image;
            out.push((Made { lsn, kind, bytes }, point));
        }
        for version in std::mem::take(&mut self.tail) {
            let nothing = version.kind == Kind::Image && !self.matters(&version.bytes);
            if self.written || !nothing {
                self.written = true;
                out.push((version.clone(), point));
            }
            self.carried.push(version);
        }
        self.carried_bytes += std::mem::take(&mut self.tail_bytes);
        Ok(())
    }

    /// Whether absence would not say the same as this value.
    fn matters(&self, value: &[u8]) -> bool {
        self.shared.parent.is_some() || exists(&self.key, value)
    }

    /// Makes one value of all that is known, when it is worth it.
    fn collapse_if_large(&mut self) -> Result<(), Stuck> {
        let Some(lsn) = self.tail.last().map(|v| v.lsn) else {
            return Ok(());
        };
        if self.carried_bytes + self.tail_bytes <= RAW_MAX {
            return Ok(());
        }
        let value = match (self.page, self.tail.as_slice()) {
            (_, [only]) if only.kind == Kind::Image => only.bytes.clone(),
            (Some(page), _) => self.build_page(page)?,
            (None, _) => self.build_other()?,
        };
        self.restart(Base::Value(value));
        self.unwritten = Some(lsn);
        Ok(())
    }

    fn build_page(&self, page: PageId) -> Result<Vec<u8>, Stuck> {
        let engine = &*self.shared.resources.engine;
        let stuck = Stuck::Unfoldable;
        let info = self
            .info
            .as_ref()
            .ok_or_else(|| stuck("its tablespace is not known".into()))?;
        let size = engine.page_bytes(info.flags).map_err(stuck)?;
        let mut value = match &self.base {
            Base::Nothing => vec![0; size],
            Base::Value(bytes) => bytes.clone(),
            Base::Ancestors => self.ancestors_page(page, info)?.unwrap_or(vec![0; size]),
        };
        let versions = self.carried.iter().chain(&self.tail);
        let versions = versions.map(|v| (v.lsn, v.kind, v.bytes.as_slice()));
        apply_versions(engine, (page, info.flags), size, &mut value, versions)
            .map_err(|(_, message)| stuck(message))?;
        engine.seal(&mut value, info.flags).map_err(stuck)?;
        Ok(value)
    }

    fn ancestors_page(&self, page: PageId, info: &SpaceInfo) -> Result<Option<Vec<u8>>, Stuck> {
        let Some(parent) = &self.shared.parent else {
            return Ok(None);
        };
        let layers = self.shared.snapshot();
        let Some(view) = layers.ancestors(self.shared.source()) else {
            return Ok(None);
        };
        let engine = &*self.shared.resources.engine;
        let wanted = Wanted {
            page,
            info,
            at: parent.branch_point.lsn,
            base: None,
            reach: Reach::Files,
        };
        match view.page(engine, &wanted)? {
            Built::Page(bytes, ..) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    fn build_other(&self) -> Result<Vec<u8>, Stuck> {
        let mut value = match &self.base {
            Base::Nothing => Vec::new(),
            Base::Value(bytes) => bytes.clone(),
            Base::Ancestors => {
                let layers = self.shared.snapshot();
                let view = layers.ancestors(self.shared.source());
                let at = self.shared.parent.as_ref();
                let at = at.map_or(Lsn::ZERO, |p| p.branch_point.lsn);
                let found = match view {
                    Some(view) => view.chunk(&Key::Other(self.key.clone()), at)?,
                    None => None,
                };
                found.map(|(_, bytes)| bytes).unwrap_or_default()
            }
        };
        for v in self.carried.iter().chain(&self.tail) {
            match v.kind {
                Kind::Image => value.clone_from(&v.bytes),
                _ => chunk_apply(&mut value, &v.bytes).ok_or_else(|| {
                    Stuck::Unfoldable("a change of a side file is malformed".into())
                })?,
            }
        }
        Ok(value)
    }
}

/// Whether the value of a key other than a page says that there is something.
fn exists(key: &[u8], value: &[u8]) -> bool {
    match key.first().copied() {
        Some(TAG_SPACE) => {
            space_of(key).is_some() && SpaceInfo::decode(value).is_none_or(|i| i.exists)
        }
        Some(TAG_PATH) => value != [0],
        Some(TAG_SIDE) => match side_of(key) {
            Some((_, 0)) => Node::decode(value).is_none_or(|n| n.kind != NodeKind::Gone),
            _ => !value.is_empty(),
        },
        _ => true,
    }
}
