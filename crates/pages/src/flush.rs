//! Writes frozen layers to files: first what they hold, then images of the
//! pages whose chains have grown long, then the manifest.
//!
//! How long a chain is stands beside its newest part in the delta layers; a
//! bounded cache saves most look-ups of it. Nothing is kept for each page.

use crate::api::{ReadError, StoreError};
use crate::branch::Shared;
use crate::catalog::SpaceInfo;
use crate::chain::Kind;
use crate::files::Put;
use crate::key::{Key, page_from_u64, page_to_u64};
use crate::layer::{LayerKind, LayerMeta, Summary};
use crate::layer_read::{LayerError, LayerFile};
use crate::layer_write::LayerWriter;
use crate::manifest::{Edit, Manifest};
use crate::map::{Built, Frozen, Reach, View};
use crate::mem::Versions;
use crate::read::CATALOG;
use std::sync::Arc;
use std::time::Duration;
use xylem_types::{Lsn, SpaceId};

/// A chain may lie in so many layers before it gets an image.
const LAYERS_MAX: u32 = 8;
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
    let summaries = match write_all(shared, frozen, &mut written, &mut begun) {
        Ok(summaries) => summaries,
        Err(e) => {
            for name in begun {
                // What stays is removed at the next start.
                let _ = shared.files.remove(&name);
            }
            return Err(e);
        }
    };
    let put = publish(shared, |m| Edit {
        add: written.clone(),
        resume: frozen.resume,
        oldest: m.oldest.max(frozen.oldest),
        merging: m.merging.clone(),
        ..Edit::default()
    })?;
    for (key, s) in summaries {
        shared
            .store
            .caches
            .summaries
            .insert((shared.cache_id, key), s);
    }
    let make = |m: LayerMeta| {
        let files = Arc::clone(&shared.files);
        Arc::new(LayerFile::new(m, shared.id, shared.store.next_id(), files))
    };
    Ok((written.into_iter().map(make).collect(), put))
}

/// Publishes a manifest, however long that takes: whether an attempt that
/// failed has reached the store is not known, so nothing else may be published
/// in its place, and the files it names must stay.
pub(crate) fn publish(shared: &Shared, edit: impl FnOnce(&Manifest) -> Edit) -> Result<Put, Fault> {
    let mut pause = PAUSE_MIN;
    let mut complained = false;
    let mut manifest = shared.manifest.lock();
    let edit = edit(&manifest);
    loop {
        match manifest.publish(&*shared.files, edit.clone()) {
            Ok(put) => {
                if put == Put::NotSynced {
                    // It exists, so its layers must stay; the next one syncs both.
                    tracing::warn!(branch = %shared.id, "it is not certain that the manifest is durable");
                }
                return Ok(put);
            }
            Err(e @ StoreError::Io { .. }) => {
                shared.stats.flush_failures.add(1);
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

/// How many summaries to remember: more than the cache holds help nobody.
fn remembered(shared: &Shared) -> usize {
    (shared.store.caches.summaries.capacity() / 160) as usize
}

/// What the cache says of the key is out of date.
fn forget(shared: &Shared, key: Vec<u8>) {
    shared
        .store
        .caches
        .summaries
        .remove(&(shared.cache_id, key));
}

/// An image layer and the keys to remember of it.
type Imaged = (LayerMeta, Vec<Vec<u8>>);

/// Summaries to remember once the flush is done.
type Summaries = Vec<(Vec<u8>, Summary)>;

fn write_all(
    shared: &Shared,
    frozen: &Frozen,
    written: &mut Vec<LayerMeta>,
    begun: &mut Vec<String>,
) -> Result<Summaries, Fault> {
    let snapshot = shared.snapshot();
    let view = snapshot.view_of_flush(frozen, shared.source());
    let (meta, images, mut summaries) = write_delta(shared, frozen, &view, begun)?;
    let run = meta.run;
    written.push(meta);
    if !images.is_empty()
        && let Some((meta, imaged)) = write_images(shared, frozen, &view, &images, run, begun)?
    {
        written.push(meta);
        summaries.extend(imaged.into_iter().map(|k| (k, Summary::default())));
    }
    Ok(summaries)
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

/// A key of the layer and its versions, as the flush needs them.
struct Tally {
    own: Summary,
    self_contained: bool,
    ends_in_image: bool,
}

fn tally(versions: &Versions) -> Tally {
    let mut t = Tally {
        own: Summary::default(),
        self_contained: false,
        ends_in_image: false,
    };
    for (kind, len) in versions.sizes() {
        if kind.ends_walk() {
            t.own = Summary::default();
            t.self_contained = true;
        }
        t.ends_in_image = kind == Kind::Image;
        if kind != Kind::Image {
            t.own.bytes = t.own.bytes.saturating_add(len);
            t.own.versions = t.own.versions.saturating_add(1);
        }
    }
    t.own.layers = 1;
    t
}

fn write_delta(
    shared: &Shared,
    frozen: &Frozen,
    view: &View<'_>,
    begun: &mut Vec<String>,
) -> Result<(LayerMeta, Long, Summaries), Fault> {
    let config = &shared.store.config;
    let mut out = create(shared, frozen, LayerKind::Delta, begun)?;
    let mut gathered: Vec<Versions> = (0..GATHER).map(|_| Versions::default()).collect();
    let mut images = Long::default();
    let mut summaries: Summaries = Vec::new();
    let remember = remembered(shared);
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
            let t = tally(versions);
            let encoded = key.encode();
            let mut summary = t.own;
            if !t.self_contained {
                let before = summary_before(shared, view, &encoded)?;
                summary.bytes = summary.bytes.saturating_add(before.bytes);
                summary.versions = summary.versions.saturating_add(before.versions);
                summary.layers = summary.layers.saturating_add(before.layers);
            }
            out.begin_key(&encoded, summary)?;
            frozen.layer.each(versions, |lsn, kind, bytes| {
                out.version(lsn, kind, bytes, true)
            })?;
            let long = u64::from(summary.bytes) > config.image_after_bytes
                || summary.versions > config.image_after_mtrs
                || summary.layers > LAYERS_MAX;
            if long && !t.ends_in_image {
                match key {
                    Key::Page(page) => images.pages.push(page_to_u64(page)),
                    Key::Other(bytes) => images.others.push(bytes),
                }
            } else if summaries.len() < remember {
                summaries.push((encoded, summary));
            } else {
                forget(shared, encoded);
            }
        }
    }
    let run = out.number();
    Ok((out.finish(run)?, images, summaries))
}

fn all_other_keys(frozen: &Frozen) -> Vec<Vec<u8>> {
    frozen.layer.other_keys(&CATALOG.0, &CATALOG.1, usize::MAX)
}

fn summary_before(shared: &Shared, view: &View<'_>, key: &[u8]) -> Result<Summary, Fault> {
    let cache_key = (shared.cache_id, key.to_vec());
    if let Some(s) = shared.store.caches.summaries.get(&cache_key) {
        return Ok(s);
    }
    match view.summary(key) {
        Ok(s) => Ok(s),
        Err(LayerError::Io(name, e)) => Err(Fault::Again(format!("read layer {name}: {e}"))),
        // A page that cannot be read must not keep the others from disk.
        Err(e @ LayerError::Corrupt(..)) => {
            tracing::error!(branch = %shared.id, error = %e, "a layer is corrupt");
            Ok(Summary::default())
        }
    }
}

/// Writes the image layer of a flush; `None` when nothing was left to write.
fn write_images(
    shared: &Shared,
    frozen: &Frozen,
    view: &View<'_>,
    keys: &Long,
    run: u64,
    begun: &mut Vec<String>,
) -> Result<Option<Imaged>, Fault> {
    let mut out = create(shared, frozen, LayerKind::Image, begun)?;
    let mut done = Vec::new();
    let mut space: Option<(SpaceId, Option<SpaceInfo>)> = None;
    for (n, key) in keys.keys().enumerate() {
        if n % STOP_CHECK == 0 && shared.stopped() {
            return Err(Fault::Stopped);
        }
        let image = match &key {
            Key::Page(page) => {
                let known = match &space {
                    Some((id, info)) if *id == page.space => info.clone(),
                    _ => {
                        let info = soft(shared, view.space(page.space, frozen.end))?.flatten();
                        let info = info.map(|(_, info)| info);
                        space = Some((page.space, info.clone()));
                        info
                    }
                };
                let Some(info) = known.filter(|i| i.exists && page.page.0 < i.pages) else {
                    continue;
                };
                page_image(shared, frozen, view, &key, &info)?
            }
            Key::Other(_) => soft(shared, view.chunk(&key, frozen.end))?.flatten(),
        };
        let Some((lsn, bytes)) = image else { continue };
        let encoded = key.encode();
        out.begin_key(&encoded, Summary::default())?;
        out.version(lsn, Kind::Image, &bytes, true)?;
        if matches!(key, Key::Page(_)) {
            shared.stats.images_written.add(1);
        }
        if done.len() < remembered(shared) {
            done.push(encoded);
        } else {
            forget(shared, encoded);
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
    Ok(Some((out.finish(run)?, done)))
}

/// The page as of the end of the layer, with the LSN of its last change.
fn page_image(
    shared: &Shared,
    frozen: &Frozen,
    view: &View<'_>,
    key: &Key,
    info: &SpaceInfo,
) -> Result<Option<(Lsn, Vec<u8>)>, Fault> {
    let page = key.page();
    let Some(lsn) = frozen.layer.newest(key).filter(|lsn| *lsn >= info.floor) else {
        return Ok(None);
    };
    let engine = &*shared.store.engine;
    let built = view.page(engine, page, info, frozen.end, None, Reach::Files);
    match soft(shared, built)? {
        Some(Built::Page(bytes, applied)) => {
            shared.stats.records_applied.add(applied as u64);
            Ok(Some((lsn, bytes)))
        }
        _ => Ok(None),
    }
}

/// A corrupt block or record keeps a page from its image, not the flush from
/// its end: the deltas are all there.
fn soft<T>(shared: &Shared, r: Result<T, ReadError>) -> Result<Option<T>, Fault> {
    match r {
        Ok(v) => Ok(Some(v)),
        Err(e @ ReadError::Io { .. }) => Err(Fault::Again(e.to_string())),
        Err(e) => {
            tracing::error!(branch = %shared.id, error = %e, "no image could be made");
            Ok(None)
        }
    }
}
