//! Builds a page from its newest image and the records after it.

use super::view::View;
use crate::api::Reach;
use crate::error::ReadError;
use crate::layer::catalog::SpaceInfo;
use crate::layer::chain::{Chain, Kind, Want};
use crate::layer::key::Key;
use crate::materialise::Materialise;
use xylem_types::{Lsn, PageId};

/// A page that the caller has, as of an LSN.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) bytes: &'a [u8],
}

/// The page to build.
pub(crate) struct Wanted<'a> {
    pub(crate) page: PageId,
    /// Its tablespace as of `at`.
    pub(crate) info: &'a SpaceInfo,
    pub(crate) at: Lsn,
    /// To build on, if it is not newer than `at`.
    pub(crate) base: Option<Base<'a>>,
    pub(crate) reach: Reach,
}

/// The outcome of [`View::page`].
pub(crate) enum Built {
    /// The base stands up to the wanted LSN.
    Unchanged,
    /// The page, the runs of records applied for it, and the LSN since which it is
    /// so, or a later one.
    Page(Vec<u8>, usize, Lsn),
    /// Memory alone does not tell.
    NotInMemory,
}

impl View<'_> {
    /// Builds a page from the versions that the view has of it.
    pub(crate) fn page(
        &self,
        engine: &dyn Materialise,
        wanted: &Wanted<'_>,
    ) -> Result<Built, ReadError> {
        let Wanted { info, at, .. } = *wanted;
        let base = wanted.base.filter(|b| b.lsn >= info.floor && b.lsn <= at);
        let want = Want {
            at,
            above: base.map(|b| b.lsn),
            floor: info.floor,
        };
        let mut chain = Chain::default();
        if !self.walk(&Key::Page(wanted.page), &want, wanted.reach, &mut chain)? {
            return Ok(Built::NotInMemory);
        }
        self.visited.set(self.visited.get() + chain.visited);
        match base {
            Some(_) if chain.is_empty() => Ok(Built::Unchanged),
            _ => apply_chain(engine, wanted, base, &chain),
        }
    }
}

/// Applies the records of `chain` to `base`, or to the image that the chain
/// begins with.
fn apply_chain(
    engine: &dyn Materialise,
    wanted: &Wanted<'_>,
    base: Option<Base<'_>>,
    chain: &Chain,
) -> Result<Built, ReadError> {
    let Wanted { page, info, .. } = *wanted;
    let corrupt = |lsn: Lsn, message: String| ReadError::Corrupt { page, lsn, message };
    let bad = |message: String| corrupt(wanted.at, message);
    let size = engine.page_bytes(info.flags).map_err(bad)?;
    let check = |bytes: &[u8], lsn: Lsn| {
        let checked = engine.check_image(bytes, lsn);
        checked.map_err(|e| corrupt(lsn, e))
    };
    let mut out = match &base {
        Some(b) if !chain.is_self_contained() => {
            check(b.bytes, b.lsn)?;
            b.bytes.to_vec()
        }
        _ => vec![0; size],
    };
    let apply = |out: &mut Vec<u8>, lsn: Lsn, records: &[u8]| {
        let applied = engine.apply(out, page, info.flags, lsn, records);
        applied.map_err(|e| corrupt(lsn, e))
    };
    let mut applied = 0;
    let mut pending: Option<Lsn> = None;
    let mut records: Vec<u8> = Vec::new();
    for (lsn, kind, bytes) in chain.forward() {
        if kind == Kind::Image {
            if bytes.len() != size {
                return Err(bad(format!(
                    "an image of {} bytes in a tablespace of {size}",
                    bytes.len()
                )));
            }
            check(bytes, lsn)?;
            out.clear();
            out.extend_from_slice(bytes);
            continue;
        }
        // An mtr may have several runs for a page; they are applied as one.
        if let Some(before) = pending.filter(|p| *p != lsn) {
            apply(&mut out, before, &records)?;
            applied += 1;
            records.clear();
        }
        records.extend_from_slice(bytes);
        pending = Some(lsn);
    }
    if let Some(lsn) = pending {
        apply(&mut out, lsn, &records)?;
        applied += 1;
        engine.seal(&mut out, info.flags).map_err(bad)?;
    }
    if out.len() != size {
        return Err(bad(format!(
            "a base of {} bytes in a tablespace of {size}",
            out.len()
        )));
    }
    let since = chain.newest().unwrap_or(info.floor).max(info.floor);
    Ok(Built::Page(out, applied, since))
}
