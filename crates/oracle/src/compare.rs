//! Compares replayed pages with InnoDB's.

use crate::files::DataFile;
use crate::replay::Replay;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;
use xylem_redo::{PageCheck, SpaceFlags, seal, verify};
use xylem_types::PageId;

/// `FSP_HEADER_OFFSET`: the tablespace header on page 0.
const FSP_HEADER: usize = 38;
/// `XDES_ARR_OFFSET`: the extent descriptors on pages 0, n, 2n, ….
const XDES: usize = FSP_HEADER + 112;
/// `XDES_BITMAP` in a descriptor: 2 bits for each page.
const XDES_BITMAP: usize = 24;
/// The number of differences that a report describes; others are only counted.
const KEPT: usize = 20;

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// Tablespaces compared.
    pub spaces: u64,
    /// Allocated pages compared, all bytes and checksums.
    pub pages: u64,
    /// The number of `pages` that are all zeros.
    pub zero: u64,
    /// The other `pages`, by type.
    pub types: BTreeMap<u16, u64>,
    /// Pages that InnoDB compressed when it wrote them (`PAGE_COMPRESSED=1`). They
    /// are not compared; without data files, the replayed page's checksum is
    /// checked.
    pub compressed: u64,
    /// Differences found.
    pub different: u64,
    /// Descriptions of the first differences.
    pub examples: Vec<String>,
}

impl Report {
    fn note(&mut self, what: String) {
        self.different += 1;
        if self.examples.len() < KEPT {
            self.examples.push(what);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tablespaces, {} pages", self.spaces, self.pages)?;
        write!(
            f,
            " ({} all zeros), {} different",
            self.zero, self.different
        )?;
        if self.compressed > 0 {
            write!(f, ", {} page_compressed not compared", self.compressed)?;
        }
        write!(f, "; by type:")?;
        for (t, n) in &self.types {
            write!(f, " {}={n}", type_name(*t))?;
        }
        for e in &self.examples {
            write!(f, "\n  {e}")?;
        }
        Ok(())
    }
}

/// Compares the pages of `replay` with the recovered files.
///
/// # Errors
/// When a file cannot be read.
pub fn compare(recovered: &BTreeMap<u32, DataFile>, replay: &Replay<'_>) -> Result<Report> {
    let mut report = Report::default();
    for (&space, file) in recovered {
        if replay.has_base() && file.flags.is_page_compressed() {
            continue;
        }
        report.spaces += 1;
        compare_space(&mut report, space, file, replay)?;
    }
    for (id, s) in &replay.spaces {
        if !s.deleted && s.flags.is_some() && !recovered.contains_key(id) {
            report.note(format!(
                "tablespace {id} {:?} is in the redo log and not in the files",
                s.name
            ));
        }
    }
    Ok(report)
}

fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4)
        .and_then(|s| s.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2)
        .and_then(|s| s.try_into().ok())
        .map_or(0, u16::from_be_bytes)
}

/// `FSP_EXTENT_SIZE`: pages in an extent, by `innodb_page_size`.
fn extent_pages(flags: SpaceFlags) -> u32 {
    match flags.logical_page_size() {
        4096 => 256,
        8192 => 128,
        _ => 64,
    }
}

fn compare_space(
    report: &mut Report,
    space: u32,
    file: &DataFile,
    replay: &Replay<'_>,
) -> Result<()> {
    let flags = file.flags;
    let size = flags.physical_page_size();
    let extent = extent_pages(flags);
    let header = file.page(0)?;
    // FSP_FREE_LIMIT: descriptors from there on are not initialised.
    let limit = be32(&header, FSP_HEADER + 12).min(be32(&header, FSP_HEADER + 8));
    let skip = if space == 0 {
        doublewrite(file, extent)?
    } else {
        Vec::new()
    };
    let mut xdes = header;
    for no in 0..limit {
        if no > 0 && no.is_multiple_of(size as u32) {
            xdes = file.page(no)?;
        }
        let nth = (no % size as u32 / extent) as usize;
        let entry = XDES + nth * (XDES_BITMAP + (extent as usize * 2).div_ceil(8));
        let bit = (no % extent) as usize * 2;
        let byte = xdes
            .get(entry + XDES_BITMAP + bit / 8)
            .copied()
            .unwrap_or(0);
        let state = be32(&xdes, entry + 20);
        let free = state == 0 || byte >> (bit % 8) & 1 != 0;
        if free || skip.iter().any(|r| r.contains(&no)) {
            continue;
        }
        compare_page(report, PageId::new(space, no), file, replay)?;
    }
    Ok(())
}

/// The pages of the doublewrite buffer, which redo does not describe.
fn doublewrite(file: &DataFile, extent: u32) -> Result<Vec<std::ops::Range<u32>>> {
    let trx_sys = file.page(5)?;
    let at = trx_sys.len() - 200;
    if be32(&trx_sys, at + 10) != 536_853_855 {
        return Ok(Vec::new());
    }
    let blocks = [be32(&trx_sys, at + 14), be32(&trx_sys, at + 18)];
    Ok(blocks.iter().map(|&b| b..b + extent).collect())
}

fn compare_page(
    report: &mut Report,
    id: PageId,
    file: &DataFile,
    replay: &Replay<'_>,
) -> Result<()> {
    let flags = file.flags;
    let theirs = file.page(id.page.0)?;
    let mut ours = replay.page(id.space.0, id.page.0, theirs.len())?;
    if ours.len() != theirs.len() {
        report.note(format!(
            "page {id}: {} bytes, InnoDB has {}",
            ours.len(),
            theirs.len()
        ));
        return Ok(());
    }
    if verify(&theirs, id, flags) == Err(PageCheck::PageCompressed) {
        report.compressed += 1;
        seal(&mut ours, flags);
        if !replay.has_base()
            && let Err(e) = verify(&ours, id, flags)
        {
            report.note(format!("page {id}: the replayed page is not valid: {e}"));
        }
        return Ok(());
    }
    report.pages += 1;
    if theirs.iter().all(|&b| b == 0) {
        report.zero += 1;
    } else {
        *report.types.entry(be16(&theirs, 24)).or_default() += 1;
    }
    if let Err(e) = verify(&theirs, id, flags) {
        report.note(format!(
            "page {id}: verify() refuses InnoDB's own page: {e}"
        ));
        return Ok(());
    }
    // At shutdown InnoDB writes the flush LSN and the checksum into the system
    // tablespace's first page, without redo.
    if id == PageId::new(0, 0) {
        let flush = theirs.get(26..34).unwrap_or_default();
        if let Some(to) = ours.get_mut(26..34) {
            to.copy_from_slice(flush);
        }
    }
    seal(&mut ours, flags);
    if ours == theirs {
        return Ok(());
    }
    let at: Vec<usize> = (0..ours.len())
        .filter(|&i| ours.get(i) != theirs.get(i))
        .take(16)
        .collect();
    let first = at.first().copied().unwrap_or(0);
    let window = |p: &[u8]| {
        p.get(first..(first + 16).min(p.len()))
            .unwrap_or_default()
            .to_vec()
    };
    report.note(format!(
        "page {id} of {} ({}): first differences at {at:?}; ours {:02x?} InnoDB {:02x?}; LSN ours {} InnoDB {}",
        file.path.display(),
        type_name(be16(&theirs, 24)),
        window(&ours),
        window(&theirs),
        u64::from(be32(&ours, 16)) << 32 | u64::from(be32(&ours, 20)),
        u64::from(be32(&theirs, 16)) << 32 | u64::from(be32(&theirs, 20)),
    ));
    Ok(())
}

/// `FIL_PAGE_TYPE` as text.
fn type_name(t: u16) -> String {
    let name = match t {
        17855 => "INDEX",
        17854 => "RTREE",
        2 => "UNDO_LOG",
        3 => "INODE",
        4 => "IBUF_FREE_LIST",
        0 => "ALLOCATED",
        5 => "IBUF_BITMAP",
        6 => "SYS",
        7 => "TRX_SYS",
        8 => "FSP_HDR",
        9 => "XDES",
        10 => "BLOB",
        11 => "ZBLOB",
        12 => "ZBLOB2",
        13 => "UNKNOWN",
        18 => "INSTANT",
        _ => return t.to_string(),
    };
    name.to_owned()
}
