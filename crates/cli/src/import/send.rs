//! Sends what is loaded to the server, and checks its pages on the way.

use super::convert::Loadable;
use super::tally::Tally;
use crate::control::Control;
use crate::failure::Failure;
use crate::meter::{Meter, watched};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use std::io::Read;
use std::sync::Arc;
use tokio::sync::mpsc;
use xylem_ambient::Clock;
use xylem_datadir::pages;
use xylem_datadir::plan::Plan;
use xylem_datadir::survey::SideFile;
use xylem_datadir::tablespace::Tablespace;
use xylem_datadir::walk::Entry;
use xylem_proto::control::import_item::Item;
use xylem_proto::control::{
    ImportDirectory, ImportEnd, ImportFile, ImportItem, ImportPage, ImportPages, ImportResponse,
    ImportStart, ImportTablespace,
};
use xylem_types::{BranchName, Lsn};

/// Bytes of pages, or of a side file, in one item.
const BATCH_BYTES: usize = 512 << 10;

/// Items on their way to the server.
const ITEMS_AHEAD: usize = 8;

/// The error when the server takes no more items: why is in its answer.
const NO_MORE: &str = "the server takes no more";

/// Loads the branch `branch` through `control`. The server's answer is missing if
/// pages are bad: then the branch is not created.
///
/// # Errors
/// When a file cannot be read or has changed, or the server fails.
pub async fn load(
    loadable: Loadable,
    branch: &BranchName,
    control: &Control,
    clock: &Clock,
    progress: &Progress,
) -> Result<(Tally, Option<ImportResponse>)> {
    let (to, items) = mpsc::channel(ITEMS_AHEAD);
    let Loadable { plan, entries, .. } = loadable;
    let meter = Meter::new(plan.bytes(), clock);
    let counted = Arc::clone(&meter);
    let name = branch.clone();
    let sending = watched(progress, "importing", &meter, move || {
        send(&plan, &name, &counted, &to, || unchanged(&entries))
    });
    match tokio::join!(sending, control.import_branch(branch, items)) {
        // What is wrong with the directory matters more than that the server did
        // not get an end.
        (Ok(tally), _) if !tally.bad.is_empty() => Ok((tally, None)),
        (Ok(tally), Ok(answer)) => Ok((tally, Some(answer))),
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
        // The side that ended first is the reason.
        (Err(sending), Err(answer)) if sending.to_string().contains(NO_MORE) => Err(answer),
        (Err(sending), Err(_)) => Err(sending),
    }
}

fn unchanged(entries: &[Entry]) -> Result<()> {
    match entries.iter().find(|e| e.has_changed()) {
        None => Ok(()),
        Some(entry) => Err(Failure::new(
            format!("{} changed while it was read", entry.path.display()),
            "stop the server that writes it, and import again",
        )),
    }
}

/// Sends all of `plan`, and an end if no page was bad and `unchanged` finds the
/// files as they were. Blocking.
fn send(
    plan: &Plan,
    branch: &BranchName,
    meter: &Meter,
    to: &mpsc::Sender<ImportItem>,
    unchanged: impl FnOnce() -> Result<()>,
) -> Result<Tally> {
    let give = |item: Item| {
        let gone = to.blocking_send(ImportItem { item: Some(item) }).is_err();
        if gone {
            bail!(NO_MORE);
        }
        Ok(())
    };
    let mut tally = Tally::default();
    let system = plan.spaces.first().context("there is nothing to send")?;
    give(Item::Start(ImportStart {
        branch: branch.to_string(),
        lsn: plan.end.0,
        page_size: u32::try_from(system.flags.logical_page_size())?,
        undo_tablespaces: u32::try_from(plan.undo_tablespaces())?,
    }))?;
    for space in &plan.spaces {
        let found = send_space(space, plan.end, meter, tally.bad.is_empty(), &give)?;
        tally.add(space, found);
    }
    if !tally.bad.is_empty() {
        return Ok(tally);
    }
    for file in &plan.side {
        send_file(file, &give)?;
        tally.side_files += 1;
    }
    unchanged()?;
    give(Item::End(ImportEnd {
        tablespaces: tally.tablespaces,
        pages: tally.pages,
        side_files: tally.side_files,
    }))?;
    Ok(tally)
}

fn send_space(
    space: &Tablespace,
    end: Lsn,
    meter: &Meter,
    wanted: bool,
    give: &impl Fn(Item) -> Result<()>,
) -> Result<pages::Found> {
    if wanted {
        give(Item::Tablespace(ImportTablespace {
            space_id: space.id,
            path: space.name.clone(),
            flags: space.flags.raw(),
            pages: space.pages,
        }))?;
    }
    let mut batch: Vec<ImportPage> = Vec::new();
    // One piece of memory for the pages of an item.
    let mut buffer = BytesMut::with_capacity(BATCH_BYTES);
    let size = space.page_bytes();
    let found = pages::scan::<anyhow::Error>(
        space,
        end,
        |no, page| {
            if !wanted {
                return Ok(());
            }
            if buffer.len() + size > BATCH_BYTES.max(size) {
                flush(&mut batch, &mut buffer, size, give)?;
            }
            buffer.extend_from_slice(page);
            batch.push(ImportPage {
                page_no: no,
                data: Bytes::new(),
            });
            Ok(())
        },
        |bytes| Ok(meter.add(bytes)?),
    )
    .with_context(|| format!("cannot read {}", space.name))?;
    flush(&mut batch, &mut buffer, size, give)?;
    Ok(found)
}

/// Gives the pages of `batch`, whose bytes stand one after the other in
/// `buffer`.
fn flush(
    batch: &mut Vec<ImportPage>,
    buffer: &mut BytesMut,
    size: usize,
    give: &impl Fn(Item) -> Result<()>,
) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut bytes = std::mem::replace(buffer, BytesMut::with_capacity(BATCH_BYTES)).freeze();
    for page in batch.iter_mut() {
        page.data = bytes.split_to(size);
    }
    give(Item::Pages(ImportPages {
        pages: std::mem::take(batch),
    }))
}

fn send_file(file: &SideFile, give: &impl Fn(Item) -> Result<()>) -> Result<()> {
    let Some(size) = file.size else {
        return give(Item::Directory(ImportDirectory {
            path: file.path.clone(),
            mode: file.mode,
        }));
    };
    give(Item::File(ImportFile {
        path: file.path.clone(),
        mode: file.mode,
        size,
    }))?;
    let failed = || format!("cannot read {}", file.source.display());
    let mut from = std::fs::File::open(&file.source).with_context(failed)?;
    let mut left = size;
    while left > 0 {
        let part = usize::try_from(left)
            .unwrap_or(BATCH_BYTES)
            .min(BATCH_BYTES);
        let mut data = vec![0; part];
        from.read_exact(&mut data).with_context(failed)?;
        left -= part as u64;
        give(Item::Data(Bytes::from(data)))?;
    }
    Ok(())
}
