//! Writes frozen layers to files: first what they hold, then images of the
//! pages that changed so much in them that a reader should not have to apply
//! it all, then the manifest.
//!
//! A flush costs what was written, not what exists: it looks nothing up but
//! the pages it makes images of, each of which has more redo in the layer than
//! an image takes. Chains that grow long over many flushes are the merges'
//! business. So a layer that cannot be read does not keep a flush from its end
//! either: it makes fewer images then.

use super::fault::Fault;
use super::image::is_long;
use super::publish::{PAUSE_MAX, PAUSE_MIN, publish};
use crate::api::Reach;
use crate::branch::build::{Built, Wanted};
use crate::branch::layers::Frozen;
use crate::branch::shared::Shared;
use crate::branch::view::View;
use crate::error::ReadError;
use crate::layer::catalog::SpaceInfo;
use crate::layer::chain::Kind;
use crate::layer::format::{LayerKind, LayerMeta, Summary};
use crate::layer::key::{CATALOG, Key, page_from_u64, page_to_u64};
use crate::layer::memory::Versions;
use crate::layer::read::LayerFile;
use crate::layer::write::LayerWriter;
use crate::manifest::record::Edit;
use crate::place::Put;
use std::sync::Arc;
use xylem_types::{Lsn, SpaceId};

/// Keys whose versions are gathered together.
const GATHER: usize = 32;
/// Keys between two looks at whether to stop.
const STOP_CHECK: usize = 256;

/// The thread that flushes one branch.
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
                    // The WAL goes only once nothing can bring the manifest
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
                    shared.health.flush.failed(shared.now_us(), &why);
                    if !complained {
                        tracing::error!(branch_id = %shared.id, error = %why, "flush failed; trying again");
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

/// Lets the WAL go behind what layers durably hold.
fn trim(shared: &Shared, frozen: &Frozen) {
    shared.forks.flushed(frozen.resume.operations);
    if !shared.resources.config.trim_wal {
        return;
    }
    if let Err(e) = shared.wal.trim(frozen.resume.position) {
        shared.stats.trim_failures.add(1);
        tracing::warn!(branch_id = %shared.id, error = %e, "the WAL was not trimmed");
    }
}

fn flush(shared: &Shared, frozen: &Frozen) -> Result<(Vec<Arc<LayerFile>>, Put), Fault> {
    let mut written: Vec<LayerMeta> = Vec::new();
    let mut begun: Vec<String> = Vec::new();
    if let Err(e) = write_all(shared, frozen, &mut written, &mut begun) {
        for name in begun {
            // The next start removes a file that stays.
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
        Arc::new(LayerFile::new(
            m,
            shared.id,
            shared.resources.next_id(),
            files,
        ))
    };
    Ok((written.into_iter().map(make).collect(), put))
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
    let name = shared.resources.layer_name(number)?;
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
                tracing::error!(branch_id = %shared.id, %error, "a flush makes no more images: a layer cannot be read");
                break;
            }
            // That keeps one page from its image: its deltas are all there.
            Err(error) => {
                tracing::error!(branch_id = %shared.id, %error, "no image could be made");
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
    let engine = &*shared.resources.engine;
    let wanted = Wanted {
        page: *page,
        info: &info,
        at: frozen.end,
        base: None,
        reach: Reach::Files,
    };
    match view.page(engine, &wanted)? {
        Built::Page(bytes, applied, _) => {
            shared.stats.records_applied.add(applied as u64);
            Ok(Some((lsn, bytes)))
        }
        _ => Ok(None),
    }
}
