//! Fills a new branch from outside: pages, tablespaces and side files as of
//! one LSN, in the order of their keys, straight into image layers.
//!
//! The branch looks afterwards as if ingest had made it: a reader cannot tell. Its manifest names no layer before [`Loader::finish`]; a load that ends
//! before leaves nothing.

use crate::api::Tablespace;
use crate::branch::samples::{Sample, time_key};
use crate::error::StoreError;
use crate::layer::catalog::{
    CHUNK, FILE_MAX, Node, NodeKind, SpaceInfo, UndoState, encode_path_owner,
};
use crate::layer::chain::Kind;
use crate::layer::format::{LayerKind, LayerMeta, Summary};
use crate::layer::key::{Key, page_key, path_key, side_key, space_key, state_key};
use crate::layer::write::LayerWriter;
use crate::manifest::record::{Edit, Resume};
use crate::manifest::version::Manifest;
use crate::place::{Files, Put, branch_folder};
use crate::store::Store;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use xylem_types::{BranchId, Lsn, PageNo, SpaceId};
use xylem_wal::Position;

/// A layer of pages is ended when it has this many bytes.
const LAYER_BYTES: u64 = 256 << 20;

/// A load was refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The input makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The amounts that a load has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Tablespaces.
    pub tablespaces: u64,
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Side files and directories.
    pub side_files: u64,
    /// Layer files.
    pub layers: u64,
    /// Bytes of them.
    pub layer_bytes: u64,
}

/// A branch being filled. First tablespaces by ascending id, each followed by
/// its pages by ascending number; then directories and side files by path (as
/// bytes, with a NUL behind: a directory before what is in it). Blocking.
///
/// It ends with [`Loader::finish`] or [`Loader::abandon`].
pub struct Loader {
    store: Arc<Store>,
    id: BranchId,
    lsn: Lsn,
    files: Arc<dyn Files>,
    layer_bytes: u64,
    manifest: Manifest,
    /// All layers are one run.
    run: u64,
    /// The layer of pages being written.
    pages: Option<LayerWriter>,
    /// The layer of all else, once that has begun.
    catalog: Option<LayerWriter>,
    done: Vec<LayerMeta>,
    spaces: Vec<(SpaceId, SpaceInfo)>,
    paths: BTreeMap<String, SpaceId>,
    /// The tablespace whose pages come: its page size, and the next page.
    space: Option<(Tablespace, u64)>,
    side: Option<Side>,
    counts: Loaded,
}

/// The newest side file or directory.
struct Side {
    path: String,
    /// Bytes that are still to come.
    left: u64,
    chunk: u32,
    buffer: Vec<u8>,
}

impl Loader {
    /// Begins to fill the branch `id`, of which nothing may be there, as of
    /// `lsn`: no page is newer.
    ///
    /// # Errors
    /// When something is there, or as the place says.
    pub fn begin(store: &Arc<Store>, id: BranchId, lsn: Lsn) -> Result<Loader, LoadError> {
        Loader::begin_with(store, id, lsn, LAYER_BYTES)
    }

    /// As [`Loader::begin`], with layers of about `layer_bytes`, for tests.
    ///
    /// # Errors
    /// As for [`Loader::begin`].
    pub fn begin_with(
        store: &Arc<Store>,
        id: BranchId,
        lsn: Lsn,
        layer_bytes: u64,
    ) -> Result<Loader, LoadError> {
        if lsn <= Lsn::FIRST {
            return Err(LoadError::Refused(format!(
                "LSN {lsn}: a database that has anything in it stands behind LSN {}",
                Lsn::FIRST
            )));
        }
        let context = |what: &str| format!("branch {id}: {what}");
        let files = store
            .place()
            .folder(&branch_folder(id))
            .map_err(io(context("open its folder")))?;
        let there = files.list().map_err(io(context("list its files")))?;
        if let Some((name, _)) = there.first() {
            return Err(LoadError::Refused(format!(
                "branch {id} cannot be filled: it has the file {name} already"
            )));
        }
        let writer = store.resources.random()?;
        let manifest = match Manifest::open(&*files, id, writer) {
            Ok(manifest) => manifest,
            Err(error) => {
                remove(store, id);
                return Err(error.into());
            }
        };
        Ok(Loader {
            store: Arc::clone(store),
            id,
            lsn,
            manifest,
            run: 0,
            files,
            layer_bytes,
            pages: None,
            catalog: None,
            done: Vec::new(),
            spaces: Vec::new(),
            paths: BTreeMap::new(),
            space: None,
            side: None,
            counts: Loaded::default(),
        })
    }

    /// The LSN that everything is loaded at.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The amounts so far; layers are counted at the end.
    pub fn so_far(&self) -> Loaded {
        self.counts
    }

    /// A tablespace; its pages come next.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when its id is not above that of the one before,
    /// its path is taken, or its flags do not say how large a page is.
    pub fn tablespace(&mut self, space: Tablespace) -> Result<(), LoadError> {
        let id = space.space;
        let refuse = |why: String| {
            let path = &space.path;
            Err(LoadError::Refused(format!(
                "tablespace {id} ({path}): {why}"
            )))
        };
        if self.catalog.is_some() {
            return refuse("it comes after the first side file".into());
        }
        if let Some((before, _)) = self.spaces.last()
            && *before >= id
        {
            return refuse(format!("it comes after tablespace {before}"));
        }
        if space.path.is_empty() || space.path.contains('\0') {
            return refuse("it has no file name".into());
        }
        if let Some(other) = self.paths.get(&space.path) {
            return refuse(format!("that is the file of tablespace {other}"));
        }
        if (id == SpaceId(0)) != (space.path == "ibdata1") {
            return refuse("ibdata1 is the file of tablespace 0, and of no other".into());
        }
        match self.store.resources.engine.page_bytes(space.flags) {
            Ok(bytes) if bytes as u64 == u64::from(space.page_bytes) => {}
            Ok(bytes) => {
                return refuse(format!(
                    "its flags say pages of {bytes} bytes, not {}",
                    space.page_bytes
                ));
            }
            Err(why) => return refuse(why),
        }
        let info = SpaceInfo {
            exists: true,
            path: space.path.clone(),
            flags: space.flags,
            pages: space.pages,
            floor: self.lsn,
        };
        self.paths.insert(space.path.clone(), id);
        self.spaces.push((id, info));
        self.space = Some((space, 0));
        self.counts.tablespaces += 1;
        Ok(())
    }

    /// A page of the newest tablespace, as its file has it, valid. One of all
    /// zeros may be left out.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when it does not follow, is not within the
    /// tablespace, or has another size.
    pub fn page(&mut self, page: PageNo, bytes: &[u8]) -> Result<(), LoadError> {
        let Some((space, next)) = &mut self.space else {
            return Err(LoadError::Refused(format!(
                "page {page} comes without a tablespace before it"
            )));
        };
        let id = xylem_types::PageId {
            space: space.space,
            page,
        };
        let wrong = if u64::from(page.0) < *next {
            Some(format!("it comes after page {}", *next - 1))
        } else if page.0 >= space.pages {
            Some(format!(
                "its tablespace {} has {} pages",
                space.path, space.pages
            ))
        } else if bytes.len() as u64 != u64::from(space.page_bytes) {
            Some(format!(
                "it has {} bytes, its tablespace {} has pages of {}",
                bytes.len(),
                space.path,
                space.page_bytes
            ))
        } else {
            None
        };
        if let Some(why) = wrong {
            return Err(LoadError::Refused(format!("page {id}: {why}")));
        }
        *next = u64::from(page.0) + 1;
        if bytes.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let lsn = self.lsn;
        let out = match &mut self.pages {
            Some(out) => out,
            None => {
                let out = self.create()?;
                self.pages.insert(out)
            }
        };
        write(out, &page_key(id), lsn, bytes).map_err(self.failed())?;
        self.counts.pages += 1;
        if self
            .pages
            .as_ref()
            .is_some_and(|p| p.len() >= self.layer_bytes)
        {
            self.end_pages()?;
        }
        Ok(())
    }

    /// A directory.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when its path does not follow.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), LoadError> {
        self.node(path, NodeKind::Dir, mode, 0)
    }

    /// A side file of `size` bytes, which come by [`Loader::data`].
    ///
    /// # Errors
    /// [`LoadError::Refused`] when its path does not follow, or it is too large.
    pub fn file(&mut self, path: &str, mode: u32, size: u64) -> Result<(), LoadError> {
        if size > FILE_MAX {
            return Err(LoadError::Refused(format!(
                "side file {path:?} has {size} bytes, more than {FILE_MAX}"
            )));
        }
        self.node(path, NodeKind::File, mode, size)
    }

    /// The next bytes of the newest side file.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when they are more than it was said to have.
    pub fn data(&mut self, mut bytes: &[u8]) -> Result<(), LoadError> {
        let lsn = self.lsn;
        let failed = self.failed();
        let (Some(side), Some(out)) = (&mut self.side, &mut self.catalog) else {
            return Err(LoadError::Refused(
                "bytes come without a side file before them".into(),
            ));
        };
        if bytes.len() as u64 > side.left {
            return Err(LoadError::Refused(format!(
                "side file {:?} is longer than was said",
                side.path
            )));
        }
        side.left -= bytes.len() as u64;
        while !bytes.is_empty() {
            let room = (CHUNK as usize).saturating_sub(side.buffer.len());
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            side.buffer.extend_from_slice(piece);
            bytes = rest;
            if side.buffer.len() as u64 == CHUNK || side.left == 0 && bytes.is_empty() {
                side.chunk += 1;
                let key = side_key(&side.path, side.chunk).encode();
                write(out, &key, lsn, &side.buffer).map_err(&failed)?;
                side.buffer.clear();
            }
        }
        Ok(())
    }

    /// Makes all of it the branch. Durable on return.
    ///
    /// # Errors
    /// [`LoadError::Refused`] when a side file is not complete, there is no
    /// system tablespace, or the undo tablespaces are not `undo001`, `undo002`,
    /// … with ids in that order; else as the place says.
    pub fn finish(mut self) -> Result<Loaded, LoadError> {
        let published = self.publish();
        if published.is_err() {
            self.abandon();
        }
        published
    }

    /// Gives up: what was written is removed, best effort. Blocking. A loader
    /// that is dropped leaves it to the next start.
    pub fn abandon(mut self) {
        self.pages = None;
        self.catalog = None;
        remove(&self.store, self.id);
    }

    fn publish(&mut self) -> Result<Loaded, LoadError> {
        self.end_side()?;
        self.begin_catalog()?;
        let undo = self.undo()?;
        let lsn = self.lsn;
        let failed = self.failed();
        if let Some(mut out) = self.catalog.take() {
            // From now on it was there, whatever it was before elsewhere.
            if let Key::Other(key) = time_key() {
                let now = self.store.config().clock.now_us();
                let sample = Sample {
                    wall_us: now,
                    steady_us: now,
                    since: lsn,
                };
                write(&mut out, &key, lsn, &sample.encode()).map_err(&failed)?;
            }
            if let (Some(undo), Key::Other(key)) = (undo, state_key("undo")) {
                write(&mut out, &key, lsn, &undo.encode()).map_err(&failed)?;
            }
            self.done.push(out.finish(self.run).map_err(&failed)?);
        }
        self.counts.layers = self.done.len() as u64;
        self.counts.layer_bytes = self.done.iter().map(|l| l.bytes).sum();
        let resume = Resume {
            position: Position::default(),
            lsn,
            operations: Position::default(),
            begun: true,
        };
        let edit = Edit {
            add: std::mem::take(&mut self.done),
            resume,
            oldest: Some(lsn),
            ..Edit::default()
        };
        if self.manifest.publish(&*self.files, edit)? == Put::NotSynced {
            return Err(failed(io::Error::other(
                "whether its manifest is durable is not certain",
            )));
        }
        Ok(self.counts)
    }

    fn node(&mut self, path: &str, kind: NodeKind, mode: u32, size: u64) -> Result<(), LoadError> {
        self.end_side()?;
        if path.is_empty() || path.contains('\0') {
            return Err(LoadError::Refused(format!("a side file is named {path:?}")));
        }
        if let Some(before) = &self.side
            && ordered(&before.path) >= ordered(path)
        {
            return Err(LoadError::Refused(format!(
                "side file {path:?} comes after {:?}",
                before.path
            )));
        }
        if let Some(owner) = self.paths.get(path) {
            return Err(LoadError::Refused(format!(
                "side file {path:?} is the file of tablespace {owner}"
            )));
        }
        self.begin_catalog()?;
        let lsn = self.lsn;
        let failed = self.failed();
        if let Some(out) = &mut self.catalog {
            let node = Node { kind, mode, size };
            write(out, &side_key(path, 0).encode(), lsn, &node.encode()).map_err(failed)?;
        }
        self.side = Some(Side {
            path: path.to_owned(),
            left: size,
            chunk: 0,
            buffer: Vec::new(),
        });
        self.counts.side_files += 1;
        Ok(())
    }

    fn end_side(&self) -> Result<(), LoadError> {
        match &self.side {
            Some(side) if side.left > 0 => Err(LoadError::Refused(format!(
                "{} bytes of side file {:?} are missing",
                side.left, side.path
            ))),
            _ => Ok(()),
        }
    }

    /// Ends the pages; writes what is known of tablespaces.
    fn begin_catalog(&mut self) -> Result<(), LoadError> {
        if self.catalog.is_some() {
            return Ok(());
        }
        if self.spaces.first().map(|(id, _)| *id) != Some(SpaceId(0)) {
            return Err(LoadError::Refused(
                "there is no system tablespace among what was loaded".into(),
            ));
        }
        self.end_pages()?;
        let mut out = self.create()?;
        let failed = self.failed();
        for (id, info) in &self.spaces {
            write(&mut out, &space_key(*id).encode(), self.lsn, &info.encode()).map_err(&failed)?;
        }
        for (path, id) in &self.paths {
            let owner = encode_path_owner(Some(*id));
            write(&mut out, &path_key(path).encode(), self.lsn, &owner).map_err(&failed)?;
        }
        self.space = None;
        self.catalog = Some(out);
        Ok(())
    }

    fn end_pages(&mut self) -> Result<(), LoadError> {
        if let Some(out) = self.pages.take() {
            let meta = out.finish(self.run).map_err(self.failed())?;
            self.done.push(meta);
        }
        Ok(())
    }

    /// The state from which ingest names undo tablespaces made later.
    fn undo(&self) -> Result<Option<UndoState>, LoadError> {
        let ids: Vec<(&str, u32)> = self
            .paths
            .iter()
            .filter(|(path, _)| is_undo(path))
            .map(|(path, id)| (path.as_str(), id.0))
            .collect();
        let Some((_, first)) = ids.first().copied() else {
            return Ok(None);
        };
        for (nth, (path, id)) in (0u32..).zip(&ids) {
            if *path != format!("undo{:03}", nth + 1) || *id != first.saturating_add(nth) {
                return Err(LoadError::Refused(format!(
                    "undo tablespace {id} is {path}: they must be undo001, undo002, … with ids that follow each other"
                )));
            }
        }
        Ok(Some(UndoState {
            first,
            count: ids.len() as u32,
            lsn: self.lsn,
        }))
    }

    fn create(&mut self) -> Result<LayerWriter, LoadError> {
        let number = self.manifest.allocate();
        if self.run == 0 {
            self.run = number;
        }
        let name = self.store.resources.layer_name(number);
        let name = name.map_err(self.failed())?;
        let out = LayerWriter::create(
            &*self.files,
            self.id,
            number,
            name,
            LayerKind::Image,
            self.lsn,
        );
        out.map(LayerWriter::dense).map_err(self.failed())
    }

    /// Adds to an error the branch that was written.
    fn failed(&self) -> impl Fn(io::Error) -> LoadError + use<> {
        let id = self.id;
        move |source| {
            LoadError::Store(StoreError::Io {
                context: format!("branch {id}: write its layers"),
                source,
            })
        }
    }
}

/// Removes the branch, best effort: files that stay are swept when no catalogue
/// names it.
fn remove(store: &Store, id: BranchId) {
    if let Err(error) = store.remove_branch(id) {
        tracing::warn!(branch_id = %id, %error, "what a load had written was not removed");
    }
}

fn write(out: &mut LayerWriter, key: &[u8], lsn: Lsn, bytes: &[u8]) -> io::Result<()> {
    out.begin_key(key, Summary::default())?;
    out.version(lsn, Kind::Image, bytes, None)
}

/// In the order of keys a path ends with a NUL.
fn ordered(path: &str) -> impl Ord + use<> {
    let mut bytes = path.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Whether it is the name of an undo tablespace's file.
fn is_undo(path: &str) -> bool {
    path.strip_prefix("undo")
        .is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()))
}

fn io(context: String) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Store(StoreError::Io { context, source })
}
