//! Counts of a directory's content, and the damage found in its pages.

use xylem_datadir::pages::{BadPage, Found};
use xylem_datadir::refusal::Refusal;
use xylem_datadir::tablespace::Tablespace;

/// The hint for damaged pages.
const DAMAGED: &str = "restore the file from a backup, or dump what can be read of the table and drop it, on its server";

/// Counts of what was read.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tablespaces.
    pub tablespaces: u64,
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Bytes of them.
    pub page_bytes: u64,
    /// Side files and directories.
    pub side_files: u64,
    /// Files with bad pages.
    pub bad: Vec<BadFile>,
    /// Notes for people.
    pub notes: Vec<String>,
}

/// The bad pages of a tablespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// The tablespace's file.
    pub name: String,
    /// Its bad pages.
    pub pages: Vec<BadPage>,
}

impl Tally {
    /// Adds what was found in `space`.
    pub fn add(&mut self, space: &Tablespace, found: Found) {
        self.tablespaces += 1;
        self.pages += found.pages;
        self.page_bytes += found.pages * space.page_bytes() as u64;
        if let Some(first) = found.bad_and_free.first() {
            self.notes.push(format!(
                "{}: {} damaged pages belong to nothing and are left out (the first is page {first})",
                space.name,
                found.bad_and_free.len(),
            ));
        }
        if !found.bad.is_empty() {
            self.bad.push(BadFile {
                name: space.name.clone(),
                pages: found.bad,
            });
        }
    }
}

/// Bad pages as refusals. Adjacent pages with the same fault make one.
pub fn refusals(bad: &[BadFile]) -> Vec<Refusal> {
    let mut out = Vec::new();
    for file in bad {
        let mut runs: Vec<(u32, u32, &str)> = Vec::new();
        for page in &file.pages {
            // The rest differs from page to page.
            let kind = page.problem.split(" is 0x").next().unwrap_or_default();
            match runs.last_mut() {
                Some((_, last, before)) if *last + 1 == page.page && before.starts_with(kind) => {
                    *last = page.page;
                }
                _ => runs.push((page.page, page.page, &page.problem)),
            }
        }
        for (first, last, problem) in runs {
            let subject = if first == last {
                format!("{} page {first}", file.name)
            } else {
                format!("{} pages {first} to {last}", file.name)
            };
            out.push(Refusal::new(subject, problem, DAMAGED));
        }
    }
    out
}
