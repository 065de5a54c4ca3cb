//! `xylem inspect page`: the history of a page.

use super::{RecordLine, hexdump};
use crate::app::App;
use crate::args::inspect::PageArgs;
use crate::args::parse::PagePlace;
use crate::control::Control;
use crate::session;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use xylem_proto::inspect::{Page, PageHistoryRequest, PageHistoryResponse, Version};

/// Versions that are asked for at once.
const PART: u32 = 200;

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub struct PageReport {
    /// The branch.
    pub branch: String,
    /// The page, as `space:page`.
    pub page: String,
    /// Its tablespace's id.
    pub space: u32,
    /// Its number.
    pub page_no: u32,
    /// As of this LSN.
    pub lsn: u64,
    /// Its tablespace's file then; none when there was none.
    pub path: Option<String>,
    /// Pages of that.
    pub pages: Option<u32>,
    /// Bytes of each.
    pub page_bytes: Option<u32>,
    /// FSP_SPACE_FLAGS.
    pub flags: Option<u32>,
    /// Newest first.
    pub versions: Vec<VersionReport>,
    /// There are more.
    pub cut: bool,
    /// The page as of `lsn`, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built: Option<PageRow>,
}

/// A version.
#[derive(Debug, Serialize)]
pub struct VersionReport {
    /// The end of the mini-transaction that made it.
    pub lsn: u64,
    /// When that was durable, about.
    pub time: Option<String>,
    /// `delta`, `fresh` or `image`.
    pub kind: String,
    /// Its bytes.
    pub bytes: u64,
    /// `open layer`, `frozen layer` or `layer`.
    pub place: String,
    /// The layer's number.
    pub layer: Option<u64>,
    /// The layer's file.
    pub layer_file: Option<String>,
    /// The branch in which it lies.
    pub branch: String,
    /// That branch's id.
    pub branch_id: String,
    /// Its tablespace was created or truncated since: it is not visible.
    pub void: bool,
    /// The effect, in words.
    pub records: Vec<RecordLine>,
    /// There are more of them.
    pub records_cut: bool,
    /// Why the rest of them cannot be read.
    pub records_fault: Option<String>,
    /// The image.
    pub image: Option<PageRow>,
    /// The page as of this version, if it was asked for.
    pub page: Option<PageRow>,
}

/// A page's own description.
#[derive(Debug, Serialize)]
pub struct PageRow {
    /// Why it cannot be had.
    pub error: Option<String>,
    /// It is all zeros: not in use.
    pub zeros: bool,
    /// The LSN it carries.
    pub page_lsn: u64,
    /// FIL_PAGE_TYPE.
    #[serde(rename = "type")]
    pub kind: u32,
    /// Its name.
    pub type_name: String,
    /// The fault that InnoDB would find; none: its checksum is good.
    pub fault: Option<String>,
    /// Its bytes in hexadecimal, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    #[serde(skip)]
    data: Vec<u8>,
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<Page> for PageRow {
    fn from(p: Page) -> PageRow {
        let digits = p.data.iter().map(|b| format!("{b:02x}"));
        PageRow {
            error: some(p.error),
            zeros: p.zeros,
            page_lsn: p.page_lsn,
            kind: p.r#type,
            type_name: p.type_name,
            fault: some(p.fault),
            hex: some(digits.collect()),
            data: p.data.to_vec(),
        }
    }
}

impl From<Version> for VersionReport {
    fn from(v: Version) -> VersionReport {
        let records = v.records.into_iter().map(|r| RecordLine {
            page: None,
            kind: r.kind,
            bytes: r.bytes.into(),
            offset: Some(r.offset).filter(|_| r.length != 0),
            length: Some(r.length).filter(|length| *length != 0),
            text: r.text,
        });
        VersionReport {
            lsn: v.lsn,
            time: some(v.time),
            kind: v.kind,
            bytes: v.bytes,
            place: v.place,
            layer: Some(v.layer_number).filter(|n| *n != 0),
            layer_file: some(v.layer_name),
            branch: v.branch,
            branch_id: v.branch_id,
            void: v.void,
            records: records.collect(),
            records_cut: v.records_cut,
            records_fault: some(v.records_fault),
            image: v.image.map(PageRow::from),
            page: v.page.map(PageRow::from),
        }
    }
}

fn request(args: &PageArgs) -> PageHistoryRequest {
    let (space_id, table, page_no) = match &args.page {
        PagePlace::Id(page) => (page.space.0, String::new(), page.page.0),
        PagePlace::Named(name, page) => (0, name.clone(), *page),
    };
    PageHistoryRequest {
        space_id,
        table,
        page_no,
        lsn: args.at.unwrap_or_default().0,
        build: args.build,
        ..PageHistoryRequest::default()
    }
}

/// Asks the server.
///
/// # Errors
/// When it cannot be asked, or there is no such branch or table.
pub async fn report(app: &App, args: &PageArgs) -> Result<PageReport> {
    let control = session::connect(app, &app.progress()).await?;
    let mut out = history(&control, args).await?;
    if args.hex {
        let newest = PageHistoryRequest {
            lsn: out.lsn,
            limit: 1,
            build: true,
            data: true,
            ..request(args)
        };
        let answer = control.page_history(&args.branch, newest).await?;
        let page = answer.versions.into_iter().find_map(|v| v.page);
        out.built = page.map(PageRow::from);
    }
    Ok(out)
}

async fn history(control: &Control, args: &PageArgs) -> Result<PageReport> {
    let mut wanted = request(args);
    let mut left = match args.limit {
        0 => u32::MAX,
        limit => limit,
    };
    let mut report: Option<PageReport> = None;
    loop {
        wanted.limit = left.min(PART);
        let mut answer = control.page_history(&args.branch, wanted.clone()).await?;
        // The further parts are of the same moment.
        wanted.lsn = answer.lsn;
        wanted.from_lsn = answer.next_lsn;
        let versions = std::mem::take(&mut answer.versions);
        left = left.saturating_sub(versions.len() as u32);
        let out = report.get_or_insert_with(|| begin(args, answer));
        out.versions
            .extend(versions.into_iter().map(VersionReport::from));
        out.cut = wanted.from_lsn != 0;
        if !out.cut || left == 0 {
            break;
        }
    }
    report.ok_or_else(|| anyhow::anyhow!("the server gave no answer"))
}

fn begin(args: &PageArgs, r: PageHistoryResponse) -> PageReport {
    let there = !r.path.is_empty();
    PageReport {
        branch: args.branch.to_string(),
        page: format!("{}:{}", r.space_id, r.page_no),
        space: r.space_id,
        page_no: r.page_no,
        lsn: r.lsn,
        path: some(r.path),
        pages: there.then_some(r.pages),
        page_bytes: there.then_some(r.page_bytes),
        flags: there.then_some(r.flags),
        versions: Vec::new(),
        cut: false,
        built: None,
    }
}

fn page_text(p: &PageRow) -> String {
    if let Some(error) = &p.error {
        return format!("cannot be read: {error}");
    }
    if p.zeros {
        return "all zeros".to_owned();
    }
    let checksum = match &p.fault {
        None => "checksum good".to_owned(),
        Some(fault) => format!("BAD: {fault}"),
    };
    format!(
        "LSN {}, {} ({}), {checksum}",
        p.page_lsn, p.type_name, p.kind
    )
}

/// The report for people.
pub fn text(r: &PageReport) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "page {} of branch {} at LSN {}",
        r.page, r.branch, r.lsn
    );
    match (&r.path, r.pages, r.page_bytes, r.flags) {
        (Some(path), Some(pages), Some(bytes), Some(flags)) => {
            let _ = writeln!(
                out,
                ", in {path} ({pages} pages of {bytes} bytes, flags {flags:#x})"
            );
            if r.page_no >= pages {
                let _ = writeln!(out, "the page is beyond the tablespace's end");
            }
        }
        _ => out.push_str(", where its tablespace does not exist\n"),
    }
    if r.versions.is_empty() {
        out.push_str("the page has no versions\n");
    }
    for v in &r.versions {
        let _ = write!(out, "\nLSN {}", v.lsn);
        if let Some(time) = &v.time {
            let _ = write!(out, "  {time}");
        }
        let place = match (v.layer, &v.layer_file) {
            (Some(number), Some(file)) => format!("layer {number} ({file})"),
            _ => v.place.clone(),
        };
        let _ = write!(out, "  {}, {} bytes, {place}", v.kind, v.bytes);
        if v.branch != r.branch {
            let _ = write!(out, " of branch {}", v.branch);
        }
        out.push('\n');
        if v.void {
            out.push_str("    void: the tablespace was created or truncated after this version\n");
        }
        if let Some(image) = &v.image {
            let _ = writeln!(out, "    image: {}", page_text(image));
        }
        for record in &v.records {
            let _ = writeln!(out, "    {}", record.line());
        }
        if v.records_cut {
            out.push_str("    and more\n");
        }
        if let Some(fault) = &v.records_fault {
            let _ = writeln!(out, "    the rest cannot be read: {fault}");
        }
        if let Some(page) = &v.page {
            let _ = writeln!(out, "    page: {}", page_text(page));
        }
    }
    if r.cut {
        let _ = writeln!(out, "\nthere are older versions: --limit 0 shows all");
    }
    if let Some(built) = &r.built {
        let _ = write!(out, "\n{}\n{}", page_text(built), hexdump(&built.data));
    }
    out.trim_end().to_owned()
}
