//! Writes frozen layers to files: first what they hold, then images of the
//! pages that changed so much in them that a reader should not have to apply
//! it all, then the manifest.
//!
//! A flush costs what was written, not what exists: it looks nothing up but
//! the pages it makes images of, each of which has more redo in the layer than
//! an image takes. Chains that grow long over many flushes are the merges'
//! business. So a layer that cannot be read does not keep a flush from its end
//! either: it makes fewer images then.

use crate::api::{ReadError, StoreError};
use crate::branch::Shared;
use crate::catalog::SpaceInfo;
use crate::chain::Kind;
use crate::files::Put;
use crate::key::{Key, page_from_u64, page_to_u64};
use crate::layer::{LayerKind, LayerMeta, Summary};
use crate::layer_read::LayerFile;
use crate::layer_write::LayerWriter;
use crate::manifest::{Edit, Manifest};
use crate::map::{Built, Frozen, Reach, View};
use crate::mem::Versions;
use crate::read::CATALOG;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use xylem_types::{Lsn, SpaceId};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Keys whose versions are gathered together.
const GATHER: usize = 32;
/// Keys between two looks at whether to stop.
const STOP_CHECK: usize = 256;

pub(crate) enum Fault {
    Stopped,
    /// Nothing is lost, and trying again makes no sense now.
    Stuck(String),
    /// Worth trying again: the disk may be full.
    Again(String),
    /// Not worth it.
    Dead(String),
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Fault {
        match e.kind() {
            // It would be refused each time.
            std::io::ErrorKind::InvalidInput => Fault::Dead(e.to_string()),
            _ => Fault::Again(e.to_string()),
        }
    }
}

/// The thread.
pub(crate) fn run(shared: &Shared) {
    flush_all(shared);
    shared.flusher_ends();
}

fn flush_all(shared: &Shared) {
    while let Some(frozen) = shared.next_frozen() {
        let mut pause = PAUSE_MIN;
        let mut complained = false;
        loop {
            match flush(shared, &frozen) {
                Ok((files, put)) => {
                    let bytes = files.iter().map(|f| f.meta.bytes).sum();
                    shared.stats.flushed_bytes.add(bytes);
                    shared.health.flush.succeeded();
                    shared.flushed(files);
                    // The log goes only once nothing can bring the manifest
                    // before this one back.
                    if put == Put::Done {
                        trim(shared, &frozen);
                    }
                    break;
                }
                Err(Fault::Stopped) => return,
                Err(Fault::Dead(why) | Fault::Stuck(why)) => {
                    shared.fail(format!("flush of layers: {why}"));
                    return;
                }
                Err(Fault::Again(why)) => {
                    shared.stats.flush_failures.add(1);
                    shared.flush_failed(&why);
                    if !complained {
                        tracing::error!(branch = %shared.id, error = %why, "flush failed; trying again");
                        complained = true;
                    }
                    shared.flush_pause(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                    if shared.stopped() {
                        return;
                    }
                }
            }
        }
    }
}

/// Lets the log go behind what layers durably hold.
fn trim(shared: &Shared, frozen: &Frozen) {
    shared.forks.flushed(frozen.resume.operations);
    if !shared.store.config.trim_log {
        return;
    }
    if let Err(e) = shared.log.trim(frozen.resume.position) {
        shared.stats.trim_failures.add(1);
        tracing::warn!(branch = %shared.id, error = %e, "the log was not trimmed");
    }
}

fn flush(shared: &Shared, frozen: &Frozen) -> Result<(Vec<Arc<LayerFile>>, Put), Fault> {
    let mut written: Vec<LayerMeta> = Vec::new();
    let mut begun: Vec<String> = Vec::new();
    if let Err(e) = write_all(shared, frozen, &mut written, &mut begun) {
        for name in begun {
            // What stays is removed at the next start.
            let _ = shared.files.remove(&name);
        }
        return Err(e);
    }
    let put = publish(shared, |m| Edit {
        add: written.clone(),
        resume: frozen.resume,
        oldest: m.oldest.max(frozen.oldest),
        merging: m.merging.clone(),
        ..Edit::default()
    })?;
    let make = |m: LayerMeta| {
        let files = Arc::clone(&shared.files);
        Arc::new(LayerFile::new(m, shared.id, shared.store.next_id(), files))
    };
    Ok((written.into_iter().map(make).collect(), put))
}

/// Publishes a manifest, however long that takes: whether an attempt that
/// failed has reached the store is not known, so nothing else may be published
/// in its place, and the files it names must stay.
///
/// The branch's own flush and merges wait for it, and nobody else: what others
/// ask of the manifest they ask with [`Mutex::try_lock_for`], and merges of a
/// branch that waits here take no turn of another's. When the branch stops
/// meanwhile, they publish nothing either.
///
/// [`Mutex::try_lock_for`]: parking_lot::Mutex::try_lock_for
pub(crate) fn publish(shared: &Shared, edit: impl FnOnce(&Manifest) -> Edit) -> Result<Put, Fault> {
    let mut pause = PAUSE_MIN;
    let mut complained = false;
    let mut manifest = shared.manifest.lock();
    if shared.stopped() && shared.publish_fails.load(Ordering::Acquire) {
        // Another's attempt ended with the stop, and may have reached the store.
        return Err(Fault::Stopped);
    }
    let edit = edit(&manifest);
    loop {
        match manifest.publish(&*shared.files, edit.clone()) {
            Ok(put) => {
                shared.publish_fails.store(false, Ordering::Release);
                if put == Put::NotSynced {
                    // It exists, so its layers must stay; the next one syncs both.
                    tracing::warn!(branch = %shared.id, "it is not certain that the manifest is durable");
                }
                return Ok(put);
            }
            Err(e @ StoreError::Io { .. }) => {
                shared.stats.flush_failures.add(1);
                // From here on those who share memory and upkeep with the
                // branch know that it may take long.
                shared.publish_fails.store(true, Ordering::Release);
                if !complained {
                    tracing::error!(branch = %shared.id, error = %e, "the manifest was not written; trying again");
                    complained = true;
                }
                shared.flush_pause(pause);
                pause = (pause * 2).min(PAUSE_MAX);
                if shared.stopped() {
                    return Err(Fault::Stopped);
                }
            }
            Err(e) => return Err(Fault::Dead(e.to_string())),
        }
    }
}

fn write_all(
    shared: &Shared,
    frozen: &Frozen,
    written: &mut Vec<LayerMeta>,
    begun: &mut Vec<String>,
) -> Result<(), Fault> {
    let (meta, images) = write_delta(shared, frozen, begun)?;
    let run = meta.run;
    written.push(meta);
    if !images.is_empty() {
        written.extend(write_images(shared, frozen, &images, run, begun)?);
    }
    Ok(())
}

fn create(
    shared: &Shared,
    frozen: &Frozen,
    kind: LayerKind,
    begun: &mut Vec<String>,
) -> Result<LayerWriter, Fault> {
    let number = shared.manifest.lock().allocate();
    let name = Shared::layer_name(number);
    begun.push(name.clone());
    Ok(LayerWriter::create(
        &*shared.files,
        shared.id,
        number,
        name,
        kind,
        frozen.end,
    )?)
}

/// Keys that get an image. Pages as numbers: there may be many.
#[derive(Default)]
struct Long {
    pages: Vec<u64>,
    others: Vec<Vec<u8>>,
}

impl Long {
    fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.others.is_empty()
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        let pages = self.pages.iter().map(|p| Key::Page(page_from_u64(*p)));
        pages.chain(self.others.iter().cloned().map(Key::Other))
    }
}

/// How much a key's versions in the layer are, since the last that needs
/// nothing before it, and whether the last of all is an image.
fn tally(versions: &Versions) -> (Summary, bool) {
    let mut own = Summary::default();
    let mut ends_in_image = false;
    for (kind, len) in versions.sizes() {
        if kind.ends_walk() {
            own = Summary::default();
        }
        ends_in_image = kind == Kind::Image;
        if kind != Kind::Image {
            own.bytes = own.bytes.saturating_add(len);
            own.versions = own.versions.saturating_add(1);
        }
    }
    own.layers = 1;
    (own, ends_in_image)
}

fn write_delta(
    shared: &Shared,
    frozen: &Frozen,
    begun: &mut Vec<String>,
) -> Result<(LayerMeta, Long), Fault> {
    let mut out = create(shared, frozen, LayerKind::Delta, begun)?;
    let mut gathered: Vec<Versions> = (0..GATHER).map(|_| Versions::default()).collect();
    let mut images = Long::default();
    let pages = frozen.layer.page_keys();
    let others = all_other_keys(frozen);
    let mut keys = pages
        .iter()
        .map(|p| Key::Page(page_from_u64(*p)))
        .chain(others.into_iter().map(Key::Other));
    loop {
        let group: Vec<Key> = keys.by_ref().take(GATHER).collect();
        if group.is_empty() {
            break;
        }
        if shared.stopped() {
            return Err(Fault::Stopped);
        }
        frozen.layer.gather(&group, &mut gathered);
        for (key, versions) in group.into_iter().zip(&gathered) {
            let (own, ends_in_image) = tally(versions);
            out.begin_key(&key.encode(), own)?;
            frozen.layer.each(versions, |lsn, kind, bytes| {
                out.version(lsn, kind, bytes, None)
            })?;
            if is_long(shared, own) && !ends_in_image {
                match key {
                    Key::Page(page) => images.pages.push(page_to_u64(page)),
                    Key::Other(bytes) => images.others.push(bytes),
                }
            }
        }
    }
    let run = out.number();
    Ok((out.finish(run)?, images))
}

/// Whether a chain should end in an image.
pub(crate) fn is_long(shared: &Shared, chain: Summary) -> bool {
    let config = &shared.store.config;
    u64::from(chain.bytes) > config.image_after_bytes || chain.versions > config.image_after_mtrs
}

fn all_other_keys(frozen: &Frozen) -> Vec<Vec<u8>> {
    frozen.layer.other_keys(&CATALOG.0, &CATALOG.1, usize::MAX)
}

/// Writes the image layer of a flush; `None` when nothing was left to write.
fn write_images(
    shared: &Shared,
    frozen: &Frozen,
    keys: &Long,
    run: u64,
    begun: &mut Vec<String>,
) -> Result<Option<LayerMeta>, Fault> {
    let snapshot = shared.snapshot();
    let view = snapshot.view_of_flush(frozen, shared.source());
    let mut out = create(shared, frozen, LayerKind::Image, begun)?;
    let mut spaces = Spaces::default();
    for (n, key) in keys.keys().enumerate() {
        if n % STOP_CHECK == 0 && shared.stopped() {
            return Err(Fault::Stopped);
        }
        match image_of(shared, frozen, &view, &key, &mut spaces) {
            Ok(Some((lsn, bytes))) => {
                out.begin_key(&key.encode(), Summary::default())?;
                out.version(lsn, Kind::Image, &bytes, None)?;
                if matches!(key, Key::Page(_)) {
                    shared.stats.images_written.add(1);
                }
            }
            Ok(None) => {}
            Err(error @ ReadError::Io { .. }) => {
                tracing::error!(branch = %shared.id, %error, "a flush makes no more images: a layer cannot be read");
                break;
            }
            // That keeps one page from its image: its deltas are all there.
            Err(error) => {
                tracing::error!(branch = %shared.id, %error, "no image could be made");
            }
        }
    }
    if out.keys() == 0 {
        let name = begun.pop();
        drop(out);
        if let Some(name) = name {
            shared.files.remove(&name)?;
        }
        return Ok(None);
    }
    Ok(Some(out.finish(run)?))
}

/// The tablespace that was looked up last.
#[derive(Default)]
struct Spaces(Option<(SpaceId, Option<SpaceInfo>)>);

/// The value as of the end of the layer, with the LSN of its last change; none
/// when there is nothing to make an image of.
fn image_of(
    shared: &Shared,
    frozen: &Frozen,
    view: &View<'_>,
    key: &Key,
    spaces: &mut Spaces,
) -> Result<Option<(Lsn, Vec<u8>)>, ReadError> {
    let Key::Page(page) = key else {
        return view.chunk(key, frozen.end);
    };
    let info = match &spaces.0 {
        Some((id, info)) if *id == page.space => info.clone(),
        _ => {
            let info = view.space(page.space, frozen.end)?.map(|(_, info)| info);
            spaces.0 = Some((page.space, info.clone()));
            info
        }
    };
    let Some(info) = info.filter(|i| i.exists && page.page.0 < i.pages) else {
        return Ok(None);
    };
    let newest = frozen.layer.newest(key);
    let Some(lsn) = newest.filter(|lsn| *lsn >= info.floor) else {
        return Ok(None);
    };
    let engine = &*shared.store.engine;
    match view.page(engine, *page, &info, frozen.end, None, Reach::Files)? {
        Built::Page(bytes, applied) => {
            shared.stats.records_applied.add(applied as u64);
            Ok(Some((lsn, bytes)))
        }
        _ => Ok(None),
    }
}
