//! Splits a mini-transaction by page, for storage.

use crate::mtr::lsn_at;
use crate::{FileEvent, Op, Record, RecordFault, RecordKind, Records, RedoError, SpaceFlags};
use xylem_types::{Lsn, PageId, PageNo, SpaceId};

/// `FSP_HEADER_OFFSET + FSP_SIZE`: the tablespace's size in pages, on page 0.
const FSP_SIZE: usize = 38 + 8;
/// `FSP_HEADER_OFFSET + FSP_SPACE_FLAGS`, on page 0.
const FSP_SPACE_FLAGS: usize = 38 + 16;

/// A part of a mini-transaction, in the order of the redo. [`MtrItem::SpaceSize`]
/// and [`MtrItem::SpaceFlags`] come immediately before the run on page 0 that
/// they are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtrItem<'a> {
    /// A run: consecutive records of one page. A mini-transaction may have
    /// several runs of one page; apply their concatenation.
    Page {
        /// The page.
        page: PageId,
        /// Where the run begins in the mini-transaction, in bytes.
        at: u32,
        /// The encoded records; the first one names the page.
        records: &'a [u8],
        /// Whether the first record is INIT_PAGE or FREE_PAGE, so that the page
        /// does not depend on its earlier contents. Such a record always begins
        /// a run.
        starts_fresh: bool,
    },
    /// A record about a file. Padding is left out.
    File(FileEvent<'a>),
    /// A write to page 0 sets the size of the tablespace.
    SpaceSize {
        /// The tablespace.
        space: SpaceId,
        /// The size in pages.
        pages: u32,
    },
    /// A write to page 0 sets the flags of the tablespace, or an INIT_PAGE of
    /// page 0 that no such write follows sets them to 0.
    SpaceFlags {
        /// The tablespace.
        space: SpaceId,
        /// The flags.
        flags: SpaceFlags,
    },
    /// An undo tablespace was truncated. All its pages are free, whatever their
    /// number, until this or a later mini-transaction initialises them.
    Trim {
        /// The tablespace.
        space: SpaceId,
        /// The size in pages after the truncation.
        pages: u32,
    },
}

/// Iterates over the [`MtrItem`]s of a mini-transaction without allocating. It
/// decodes and checks each record, and ends after the first error.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    all: &'a [u8],
    start: Lsn,
    records: Records<'a>,
    /// A record that was read ahead and belongs to the next item.
    ahead: Option<Record<'a>>,
    size: Option<(SpaceId, u32)>,
    flags: Option<(SpaceId, SpaceFlags)>,
    run: Option<MtrItem<'a>>,
}

impl<'a> Items<'a> {
    pub(crate) fn new(bytes: &'a [u8], start: Lsn) -> Items<'a> {
        Items {
            all: bytes,
            start,
            records: Records::of_mtr(bytes, start),
            ahead: None,
            size: None,
            flags: None,
            run: None,
        }
    }

    /// Notes the size and the flags that a write to page 0 contains. InnoDB
    /// always writes each of these fields whole (`mtr_t::FORCED` in
    /// `fsp0fsp.cc`), because its own recovery reads them the same way
    /// (`recv_sys_t::parse_page0()`).
    fn note_header(&mut self, r: &Record<'a>) -> Result<(), RedoError> {
        let Op::Write { offset, data } = r.op else {
            return Ok(());
        };
        let field = |at: usize| crate::bytes::be32(data, at.checked_sub(offset as usize)?);
        if let Some(pages) = field(FSP_SIZE) {
            self.size = Some((r.page.space, pages));
        }
        if let Some(raw) = field(FSP_SPACE_FLAGS) {
            let flags = SpaceFlags::new(raw).map_err(|bad| RedoError::Record {
                lsn: lsn_at(
                    self.start,
                    self.records.position().saturating_sub(r.bytes.len()),
                ),
                kind: RecordKind::Write,
                page: Some(r.page),
                fault: RecordFault::Flags(bad),
            })?;
            self.flags = Some((r.page.space, flags));
        }
        Ok(())
    }

    /// Reads the run that begins with `first`.
    fn read_run(&mut self, first: Record<'a>) -> Result<MtrItem<'a>, RedoError> {
        let end = self.records.position();
        let from = end.saturating_sub(first.bytes.len());
        let mut to = end;
        let page = first.page;
        let starts_fresh = matches!(first.op, Op::InitPage | Op::FreePage);
        if page.page == PageNo(0) {
            self.note_header(&first)?;
        }
        while let Some(r) = self.records.next() {
            let r = r?;
            if begins_item(&r, page) {
                self.ahead = Some(r);
                break;
            }
            if page.page == PageNo(0) {
                self.note_header(&r)?;
            }
            to = self.records.position();
        }
        if page.page == PageNo(0) && first.op == Op::InitPage && self.flags.is_none() {
            // InnoDB does not write flags of 0, because INIT_PAGE sets them to 0.
            self.flags = SpaceFlags::new(0).ok().map(|flags| (page.space, flags));
        }
        let records = self.all.get(from..to).unwrap_or_default();
        Ok(MtrItem::Page {
            page,
            at: place(from),
            records,
            starts_fresh,
        })
    }

    fn step(&mut self) -> Result<Option<MtrItem<'a>>, RedoError> {
        loop {
            if let Some((space, flags)) = self.flags.take() {
                return Ok(Some(MtrItem::SpaceFlags { space, flags }));
            }
            if let Some((space, pages)) = self.size.take() {
                return Ok(Some(MtrItem::SpaceSize { space, pages }));
            }
            if let Some(run) = self.run.take() {
                return Ok(Some(run));
            }
            let r = match self.ahead.take() {
                Some(r) => r,
                None => match self.records.next() {
                    Some(r) => r?,
                    None => return Ok(None),
                },
            };
            match r.op {
                Op::File(FileEvent::Padding) => {}
                Op::File(event) => return Ok(Some(MtrItem::File(event))),
                Op::TrimPages => {
                    return Ok(Some(MtrItem::Trim {
                        space: r.page.space,
                        pages: r.page.page.0,
                    }));
                }
                _ => {
                    let run = self.read_run(r)?;
                    self.run = Some(run);
                }
            }
        }
    }
}

/// A mini-transaction is at most [`crate::MTR_SIZE_MAX`] long.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Whether a record ends a run of `page`. TRIM_PAGES, INIT_PAGE and FREE_PAGE always
/// begin a new item.
fn begins_item(r: &Record<'_>, page: PageId) -> bool {
    r.names_page && (r.page != page || matches!(r.op, Op::InitPage | Op::FreePage | Op::TrimPages))
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<MtrItem<'a>, RedoError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            let none = Items::new(&[], self.start);
            *self = none;
        }
        step.transpose()
    }
}
