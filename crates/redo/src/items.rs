//! A mini-transaction split by page, for storage.

use crate::mtr::lsn_at;
use crate::{FileEvent, Op, Record, RecordFault, RecordKind, Records, RedoError, SpaceFlags};
use xylem_types::{Lsn, PageId, PageNo, SpaceId};

/// `FSP_HEADER_OFFSET + FSP_SIZE`: the tablespace's size in pages, on page 0.
const FSP_SIZE: usize = 38 + 8;
/// `FSP_HEADER_OFFSET + FSP_SPACE_FLAGS`, on page 0.
const FSP_SPACE_FLAGS: usize = 38 + 16;

/// A part of a mini-transaction, in the order of the log. What a run on page 0
/// says about its tablespace comes just before that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtrItem<'a> {
    /// Records of one page that stand together in the log. A page may have
    /// several in one mini-transaction: apply their concatenation.
    Page {
        /// The page.
        page: PageId,
        /// The records' bytes; the first names the page.
        records: &'a [u8],
        /// The first record is INIT_PAGE or FREE_PAGE: the page after it does
        /// not depend on the page before it. No other run holds one of these.
        starts_fresh: bool,
    },
    /// A record about a file. Padding is left out.
    File(FileEvent<'a>),
    /// A write to page 0 says how many pages the tablespace has.
    SpaceSize {
        /// The tablespace.
        space: SpaceId,
        /// Its size in pages.
        pages: u32,
    },
    /// A write to page 0 says the tablespace's flags, or an INIT_PAGE of
    /// page 0 without such a write after it sets them to 0.
    SpaceFlags {
        /// The tablespace.
        space: SpaceId,
        /// Its flags.
        flags: SpaceFlags,
    },
    /// An undo tablespace was truncated. Every page of it that this or a later
    /// mini-transaction does not initialise is free, whatever its number.
    Trim {
        /// The tablespace.
        space: SpaceId,
        /// Its size in pages afterwards.
        pages: u32,
    },
}

/// Iterates over the [`MtrItem`]s of a mini-transaction. Each record is
/// decoded and checked; after an error it yields nothing more. Allocates
/// nothing.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    all: &'a [u8],
    start: Lsn,
    records: Records<'a>,
    /// A record read that belongs to the next item.
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

    /// Notes what a write to page 0 says about the tablespace. InnoDB always
    /// writes these fields whole (`mtr_t::FORCED` in `fsp0fsp.cc`), because
    /// its own recovery looks for just that (`recv_sys_t::parse_page0()`).
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

    /// Reads on from `first` to the end of its run.
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
            // A trim or a fresh start in the middle begins an item of its own.
            let cut = r.names_page
                && (r.page != page || matches!(r.op, Op::InitPage | Op::FreePage | Op::TrimPages));
            if cut {
                self.ahead = Some(r);
                break;
            }
            if page.page == PageNo(0) {
                self.note_header(&r)?;
            }
            to = self.records.position();
        }
        if page.page == PageNo(0) && first.op == Op::InitPage && self.flags.is_none() {
            // Flags that are 0 are not written: INIT_PAGE made them so.
            self.flags = SpaceFlags::new(0).ok().map(|flags| (page.space, flags));
        }
        let records = self.all.get(from..to).unwrap_or_default();
        Ok(MtrItem::Page {
            page,
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
