//! Values of arguments, from text.

use crate::compute::name::ComputeName;
use xylem_types::{BranchName, Lsn, PageId};

/// A branch's name.
pub(super) fn branch(text: &str) -> Result<BranchName, String> {
    BranchName::parse(text).map_err(|e| e.to_string())
}

/// A compute's name: a branch's, or that of a read-only compute.
pub(super) fn compute(text: &str) -> Result<ComputeName, String> {
    ComputeName::parse(text)
}

/// An LSN in decimal digits.
pub(super) fn lsn(text: &str) -> Result<Lsn, String> {
    let number = text.parse().map(Lsn);
    number.map_err(|_| format!("{text:?} is not an LSN, which is a decimal number"))
}

/// A page, by its tablespace's number or by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagePlace {
    /// By number.
    Id(PageId),
    /// By a table or file, and the page's number.
    Named(String, u32),
}

/// Reads `5:3` or `db/table:3`.
pub(crate) fn place(text: &str) -> Result<PagePlace, String> {
    let wrong = || format!("{text:?} is not a page: write SPACE:PAGE, such as 5:3 or db/table:3");
    let (space, page) = text.rsplit_once(':').ok_or_else(wrong)?;
    let page: u32 = page.parse().map_err(|_| wrong())?;
    if space.is_empty() {
        return Err(wrong());
    }
    Ok(match space.parse() {
        Ok(space) => PagePlace::Id(PageId::new(space, page)),
        Err(_) => PagePlace::Named(space.to_owned(), page),
    })
}

/// A page by its numbers only.
pub(super) fn page_id(text: &str) -> Result<PageId, String> {
    match place(text)? {
        PagePlace::Id(page) => Ok(page),
        PagePlace::Named(..) => Err("files know tablespaces by number only".to_owned()),
    }
}
