//! Makes a data directory from replayed pages and a new redo log, like the one
//! that a compute starts from.

use crate::files::DataFile;
use crate::replay::Replay;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xylem_redo::{log_file, seal};
use xylem_types::Lsn;

/// Writes the file of every tablespace in `replay`, with zeros in place of missing
/// pages. `files` gives the paths of tablespaces that the redo log need not name:
/// the system tablespace and undo tablespaces.
///
/// # Errors
/// When writing fails.
pub fn write_pages(
    data: &Path,
    files: &BTreeMap<u32, DataFile>,
    replay: &Replay<'_>,
) -> Result<()> {
    for (&id, space) in &replay.spaces {
        let (Some(flags), false) = (space.flags, space.deleted) else {
            continue;
        };
        let path = match (&space.name, files.get(&id)) {
            (Some(name), _) => data.join(name),
            (None, Some(file)) => file.path.clone(),
            (None, None) => bail!("the redo log does not name the file of tablespace {id}"),
        };
        let size = flags.physical_page_size();
        let pages = space
            .size
            .with_context(|| format!("the redo log lacks the size of tablespace {id}"))?;
        let out = File::create(&path).with_context(|| path.display().to_string())?;
        out.set_len(u64::from(pages) * size as u64)?;
        for no in 0..pages {
            let mut page = replay.page(id, no, size)?;
            if page.iter().any(|&b| b != 0) {
                seal(&mut page, flags);
                out.write_all_at(&page, u64::from(no) * size as u64)?;
            }
        }
    }
    Ok(())
}

/// Replaces the redo log with one that starts at `lsn`.
///
/// # Errors
/// When writing fails.
pub fn write_log(path: &Path, lsn: Lsn, size: u64) -> Result<()> {
    let file = File::create(path)?;
    file.write_all_at(&log_file(lsn, size), 0)?;
    file.set_len(size)?;
    Ok(())
}
