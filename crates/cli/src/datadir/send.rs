//! A plan as the items of an import, pages checked on the way.

use super::meter::Meter;
use super::pages::{self, BadPage};
use super::plan::Plan;
use super::survey::SideFile;
use super::tablespace::Tablespace;
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use std::io::Read;
use tokio::sync::mpsc;
use xylem_proto::control::import_item::Item;
use xylem_proto::control::{
    ImportDirectory, ImportEnd, ImportFile, ImportItem, ImportPage, ImportPages, ImportStart,
    ImportTablespace,
};
use xylem_types::{BranchName, Lsn};

/// Bytes of pages, or of a side file, in one item.
const BATCH_BYTES: usize = 512 << 10;

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Tablespaces.
    pub tablespaces: u64,
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Bytes of them.
    pub page_bytes: u64,
    /// Side files and directories.
    pub side_files: u64,
}

/// Pages of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// The tablespace's file.
    pub name: String,
    /// Its bad pages.
    pub pages: Vec<BadPage>,
}

/// Sends all of `plan`, and an end if no page was bad and `unchanged` says that
/// the files are still what they were. Blocking.
///
/// # Errors
/// When a file cannot be read, or nobody takes the items any more.
pub fn send(
    plan: &Plan,
    branch: &BranchName,
    meter: &Meter,
    to: &mpsc::Sender<ImportItem>,
    unchanged: impl FnOnce() -> Result<()>,
) -> Result<(Sent, Vec<BadFile>, Vec<String>)> {
    let give = |item: Item| {
        let gone = to.blocking_send(ImportItem { item: Some(item) }).is_err();
        if gone {
            bail!("the server takes no more");
        }
        Ok(())
    };
    let mut sent = Sent::default();
    let mut bad = Vec::new();
    let mut notes = Vec::new();
    let system = plan.spaces.first().context("there is nothing to send")?;
    give(Item::Start(ImportStart {
        branch: branch.to_string(),
        lsn: plan.end.0,
        page_size: u32::try_from(system.flags.logical_page_size())?,
        undo_tablespaces: u32::try_from(plan.undo_tablespaces())?,
    }))?;
    for space in &plan.spaces {
        let found = send_space(space, plan.end, meter, bad.is_empty(), &give)?;
        sent.tablespaces += 1;
        sent.pages += found.pages;
        sent.page_bytes += found.pages * space.page_bytes() as u64;
        if !found.bad_and_free.is_empty() {
            notes.push(free_note(&space.name, &found.bad_and_free));
        }
        if !found.bad.is_empty() {
            bad.push(BadFile {
                name: space.name.clone(),
                pages: found.bad,
            });
        }
    }
    if !bad.is_empty() {
        return Ok((sent, bad, notes));
    }
    for file in &plan.side {
        send_file(file, &give)?;
        sent.side_files += 1;
    }
    unchanged()?;
    give(Item::End(ImportEnd {
        tablespaces: sent.tablespaces,
        pages: sent.pages,
        side_files: sent.side_files,
    }))?;
    Ok((sent, bad, notes))
}

/// What is said of damaged pages that belong to nothing.
pub fn free_note(name: &str, pages: &[u32]) -> String {
    format!(
        "{name}: {} damaged pages belong to nothing and are left out (the first is page {})",
        pages.len(),
        pages.first().copied().unwrap_or(0)
    )
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
