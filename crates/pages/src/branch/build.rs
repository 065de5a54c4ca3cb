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
    let mut out = match &base {
        Some(b) if !chain.is_self_contained() => {
            let checked = engine.check_image(b.bytes, b.lsn);
            checked.map_err(|message| corrupt(b.lsn, message))?;
            b.bytes.to_vec()
        }
        _ => vec![0; size],
    };
    let versions = chain.forward();
    let applied = apply_versions(engine, (page, info.flags), size, &mut out, versions)
        .map_err(|(lsn, message)| corrupt(lsn, message))?;
    if applied > 0 {
        engine.seal(&mut out, info.flags).map_err(bad)?;
    }
    // Also without a version that was applied to it.
    check_size("a base", out.len(), size).map_err(bad)?;
    let since = chain.newest().unwrap_or(info.floor).max(info.floor);
    Ok(Built::Page(out, applied, since))
}

/// Says what is wrong with a value of `len` bytes where pages have `size`.
fn check_size(what: &str, len: usize, size: usize) -> Result<(), String> {
    match len == size {
        true => Ok(()),
        false => Err(format!("{what} of {len} bytes in a tablespace of {size}")),
    }
}

/// Applies the versions of a page, oldest first, to what the page was before. `size` is
/// that of its tablespace's pages. Returns the number of mtrs applied; the page is to be
/// sealed after them.
///
/// # Errors
/// The LSN of the version that cannot be applied, and why.
pub(crate) fn apply_versions<'v>(
    engine: &dyn Materialise,
    (page, flags): (PageId, u32),
    size: usize,
    value: &mut Vec<u8>,
    versions: impl Iterator<Item = (Lsn, Kind, &'v [u8])>,
) -> Result<usize, (Lsn, String)> {
    let mut applied = 0;
    let mut records: Vec<u8> = Vec::new();
    let mut versions = versions.peekable();
    while let Some((lsn, kind, bytes)) = versions.next() {
        let bad = |message| (lsn, message);
        if kind == Kind::Image {
            check_size("an image", bytes.len(), size).map_err(bad)?;
            engine.check_image(bytes, lsn).map_err(bad)?;
            value.clear();
            value.extend_from_slice(bytes);
            continue;
        }
        records.extend_from_slice(bytes);
        // An mtr may have several runs for a page; they are applied as one.
        let same_mtr = |next: &(Lsn, Kind, &[u8])| next.0 == lsn && next.1 != Kind::Image;
        if versions.peek().is_some_and(same_mtr) {
            continue;
        }
        check_size("a base", value.len(), size).map_err(bad)?;
        engine
            .apply(value, page, flags, lsn, &records)
            .map_err(bad)?;
        records.clear();
        applied += 1;
    }
    Ok(applied)
}
