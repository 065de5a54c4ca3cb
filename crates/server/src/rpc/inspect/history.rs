//! PageHistory: the versions of a page, with descriptions of their records.

use super::{Names, time};
use crate::branch::live::OpenBranch;
use crate::rpc::status;
use tonic::Status;
use xylem_pages::inspect::{BuiltPage, HistoryOptions, PageVersion, VersionKind, Whence};
use xylem_pages::{ReadAt, Tablespace};
use xylem_proto::inspect::{Page, PageHistoryRequest, PageHistoryResponse, Record, Version};
use xylem_redo::{PageHead, Records, SpaceFlags};
use xylem_types::{Lsn, PageId, SpaceId};

/// The default and the maximum of versions in one answer.
const LIMIT: (u32, u32) = (100, 1000);
/// The maximum of versions in an answer that includes pages.
const PAGES_MAX: u32 = 100;
/// The maximum of records in one answer.
const RECORDS_MAX: usize = 20_000;

pub(super) fn page_history(
    branch: &OpenBranch,
    names: &Names,
    request: &PageHistoryRequest,
) -> Result<PageHistoryResponse, Status> {
    let refused = |error| status::of_read(&error, &branch.name());
    let lsn = |lsn: u64| (lsn != 0).then_some(Lsn(lsn));
    let space = match request.table.as_str() {
        "" => SpaceId(request.space_id),
        table => tablespace(branch, table, lsn(request.lsn))?.space,
    };
    let page = PageId {
        space,
        page: xylem_types::PageNo(request.page_no),
    };
    let most = match request.build && request.data {
        true => PAGES_MAX,
        false => LIMIT.1,
    };
    let wanted = match request.limit {
        0 => LIMIT.0,
        limit => limit,
    };
    let options = HistoryOptions {
        at: lsn(request.lsn),
        from: lsn(request.from_lsn),
        versions_max: wanted.min(most) as usize,
        build: request.build,
    };
    let history = branch.pages.page_history(page, &options);
    let history = history.map_err(refused)?;
    let flags = history.tablespace.as_ref().map(|t| t.flags);
    let telling = Telling {
        page,
        flags: flags.and_then(|raw| SpaceFlags::new(raw).ok()),
        names,
        data: request.data,
    };
    let mut room = RECORDS_MAX;
    let mut before = None;
    let mut versions = Vec::with_capacity(history.versions.len());
    for v in history.versions {
        // Versions with the same LSN share one lookup.
        let when = match before.take() {
            Some((lsn, when)) if lsn == v.lsn => when,
            _ => time(branch.pages.time_at(v.lsn).ok().flatten()),
        };
        before = Some((v.lsn, when.clone()));
        versions.push(telling.version(v, when, &mut room));
    }
    let space = history.tablespace;
    let of_space = |f: fn(&Tablespace) -> u32| space.as_ref().map(f).unwrap_or_default();
    Ok(PageHistoryResponse {
        space_id: page.space.0,
        page_no: page.page.0,
        pages: of_space(|t| t.pages),
        page_bytes: of_space(|t| t.page_bytes),
        flags: of_space(|t| t.flags),
        path: space.map(|t| t.path).unwrap_or_default(),
        lsn: history.at.0,
        versions,
        next_lsn: history.next.unwrap_or_default().0,
    })
}

/// The tablespace of a table `db/table` or of a file.
fn tablespace(branch: &OpenBranch, table: &str, at: Option<Lsn>) -> Result<Tablespace, Status> {
    let at = at.map_or_else(|| branch.newest(), ReadAt::Lsn);
    let encoded = file_name(table);
    let tried = [
        table.to_owned(),
        format!("{table}.ibd"),
        format!("{encoded}.ibd"),
    ];
    for path in &tried {
        let found = branch.pages.tablespace_by_path(path, at);
        let found = found.map_err(|error| status::of_read(&error, &branch.name()))?;
        if let Some(space) = found {
            return Ok(space);
        }
    }
    Err(Status::not_found(format!(
        "branch {}: there is no table {table:?}: write db/table, db/table#P#partition, a file such as undo001, or a tablespace's number",
        branch.name()
    )))
}

/// Encodes a table name as MariaDB does for its file: a character that is not a letter,
/// a digit or an underscore becomes `@` and four hexadecimal digits.
/// Source: `tablename_to_filename()` in `sql/sql_table.cc`. Letters outside ASCII stay
/// as they are, although MariaDB has codes for some of them.
fn file_name(table: &str) -> String {
    let mut out = String::new();
    for c in table.chars() {
        match c {
            // `/` separates database and table; `#` precedes a partition.
            '/' | '#' | '_' => out.push(c),
            c if c.is_ascii_alphanumeric() || !c.is_ascii() => out.push(c),
            c => out.push_str(&format!("@{:04x}", u32::from(c))),
        }
    }
    out
}

/// Converts the versions of a page.
struct Telling<'a> {
    page: PageId,
    /// The flags of the page's tablespace, if known.
    flags: Option<SpaceFlags>,
    names: &'a Names,
    /// Include the bytes of versions and pages.
    data: bool,
}

impl Telling<'_> {
    fn version(&self, v: PageVersion, when: String, room: &mut usize) -> Version {
        let (place, layer_number, layer_name) = match v.whence {
            Whence::Open => ("open layer", 0, String::new()),
            Whence::Frozen => ("frozen layer", 0, String::new()),
            Whence::Layer(number, name) => ("layer", number, name),
        };
        let mut out = Version {
            lsn: v.lsn.0,
            time: when,
            kind: v.kind.as_str().to_owned(),
            bytes: v.bytes.len() as u64,
            place: place.to_owned(),
            layer_number,
            layer_name,
            branch: self.names.get(v.branch),
            branch_id: v.branch.to_string(),
            void: v.void,
            ..Version::default()
        };
        match v.kind {
            VersionKind::Image => {
                let checked = self
                    .flags
                    .map(|flags| xylem_redo::verify(&v.bytes, self.page, flags));
                let fault = checked.and_then(Result::err).map(|e| e.to_string());
                out.image = Some(head(&v.bytes, fault));
            }
            VersionKind::Delta | VersionKind::Fresh => records(&v.bytes, v.lsn, room, &mut out),
        }
        out.page = v.built.map(|built| match built {
            Ok(BuiltPage { bytes, fault }) => Page {
                data: match self.data {
                    true => bytes::Bytes::from_owner(bytes.clone()),
                    false => bytes::Bytes::new(),
                },
                ..head(&bytes, fault)
            },
            Err(error) => Page {
                error,
                ..Page::default()
            },
        });
        if self.data {
            out.data = v.bytes.into();
        }
        out
    }
}

fn records(run: &[u8], lsn: Lsn, room: &mut usize, out: &mut Version) {
    for record in Records::of_run(run, lsn) {
        if *room == 0 {
            out.records_cut = true;
            return;
        }
        *room -= 1;
        match record {
            Ok(r) => {
                let (offset, length) = r.op.range().unwrap_or_default();
                out.records.push(Record {
                    kind: r.kind.to_string(),
                    bytes: r.bytes.len() as u32,
                    offset,
                    length,
                    text: r.op.to_string(),
                });
            }
            Err(e) => {
                out.records_fault = e.to_string();
                return;
            }
        }
    }
}

/// The fields of the page header.
fn head(page: &[u8], fault: Option<String>) -> Page {
    let head = PageHead::of(page);
    Page {
        fault: fault.unwrap_or_default(),
        zeros: page.iter().all(|b| *b == 0),
        page_lsn: head.map_or(0, |h| h.lsn.0),
        r#type: head.map_or(0, |h| h.kind.into()),
        type_name: head.map_or_else(String::new, |h| h.kind_name().to_owned()),
        ..Page::default()
    }
}
