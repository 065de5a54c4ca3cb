//! Reads all pages of a project before it is removed.
//!
//! Building a page applies every record since its last image. A debug build of InnoDB
//! logs the checksums of changed pages with each mini-transaction. For every test, this
//! compares the page server's application of redo with InnoDB's pages in memory.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use xylem_cli::state::StateDir;
use xylem_proto::control::base_item::Item;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::{BaseBackupRequest, ListBranchesRequest, Tablespace};
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_proto::pageserver::{GetPageRequest, GetPagesRequest};

/// The number of moments of a project's history that are read.
const MOMENTS: u64 = 4;
/// How long it may take to connect to the page server.
const PATIENCE: Duration = Duration::from_secs(10);
/// The LSN at which a database's redo begins.
const FIRST_LSN: u64 = 12_288;
/// Pages per request.
const PAGES_AT_ONCE: usize = 64;
/// The largest answer: `PAGES_AT_ONCE` pages of 64 KiB, or large side files.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// The file in the projects' directory with a line for each verified project and for each
/// unreadable page.
pub const REPORT: &str = "verified";

/// The totals of a run.
#[derive(Debug, Default)]
pub struct Total {
    /// Verified projects.
    pub projects: u64,
    /// Verified page versions.
    pub pages: u64,
    /// Lines of the report about faults.
    pub faults: Vec<String>,
}

impl Total {
    /// Sums up the report.
    pub fn read(projects: &Path) -> Total {
        let mut total = Total::default();
        let text = std::fs::read_to_string(projects.join(REPORT)).unwrap_or_default();
        for line in text.lines() {
            match line
                .strip_prefix("pages ")
                .and_then(|n| n.parse::<u64>().ok())
            {
                Some(pages) => {
                    total.projects += 1;
                    total.pages += pages;
                }
                None => total.faults.push(line.to_owned()),
            }
        }
        total
    }
}

/// Sends the token of the project's owner.
#[derive(Clone)]
struct Owner(MetadataValue<Ascii>);

impl Interceptor for Owner {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(xylem_proto::TOKEN_KEY, self.0.clone());
        Ok(request)
    }
}

type Owned = InterceptedService<Channel, Owner>;

/// Reads all pages of a project at several moments and reports on it.
///
/// # Errors
/// The report cannot be written.
pub async fn project(projects: &Path, name: &str, state: &StateDir) -> Result<()> {
    let mut lines = String::new();
    let pages = match all(state, &mut lines).await {
        Ok(pages) => pages,
        Err(error) => {
            writeln!(lines, "{name}: {error:#}")?;
            0
        }
    };
    writeln!(lines, "pages {pages}")?;
    let report = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(projects.join(REPORT));
    report
        .and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()))
        .context("cannot write what was verified")
}

async fn all(state: &StateDir, faults: &mut String) -> Result<u64> {
    let server = state.server_record().context("there is no page server")?;
    let owner = Owner(state.token()?.context("there is no token")?.parse()?);
    let connected = server.way()?.connect(PATIENCE, |endpoint| endpoint).await;
    let channel = connected.context("the page server is gone")?;
    let mut control = ControlClient::with_interceptor(channel.clone(), owner.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut pages = PageServerClient::with_interceptor(channel, owner)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let branches = control
        .list_branches(ListBranchesRequest::default())
        .await?;
    let end = branches.get_ref().branches.first();
    let end = end.context("there is no branch")?.last_lsn;
    let mut read = 0;
    for moment in 1..=MOMENTS {
        let lsn = FIRST_LSN + end.saturating_sub(FIRST_LSN) / MOMENTS * moment;
        for space in tablespaces(&mut control, lsn).await? {
            read += tablespace(&mut pages, &space, lsn, faults).await?;
        }
    }
    Ok(read)
}

async fn tablespaces(control: &mut ControlClient<Owned>, lsn: u64) -> Result<Vec<Tablespace>> {
    let request = BaseBackupRequest {
        lsn,
        all_tablespaces: true,
    };
    let mut items = control.base_backup(request).await?.into_inner();
    let mut spaces = Vec::new();
    while let Some(item) = items.message().await? {
        if let Some(Item::Tablespace(space)) = item.item {
            spaces.push(space);
        }
    }
    Ok(spaces)
}

async fn tablespace(
    client: &mut PageServerClient<Owned>,
    space: &Tablespace,
    lsn: u64,
    faults: &mut String,
) -> Result<u64> {
    let Some(first) = space.pages.first() else {
        return Ok(0);
    };
    let count = space.size / first.data.len().max(1) as u64;
    let requests: Vec<GetPageRequest> = (0..u32::try_from(count)?)
        .map(|page_no| GetPageRequest {
            space_id: space.space_id,
            page_no,
            lsn,
            ..GetPageRequest::default()
        })
        .collect();
    for batch in requests.chunks(PAGES_AT_ONCE) {
        let pages = batch.to_vec();
        if client.get_pages(GetPagesRequest { pages }).await.is_ok() {
            continue;
        }
        // Find the failing pages of the batch.
        for request in batch {
            if let Err(status) = client.get_page(*request).await {
                writeln!(
                    faults,
                    "{} page {} at LSN {lsn}: {}",
                    space.path,
                    request.page_no,
                    status.message()
                )?;
            }
        }
    }
    Ok(count)
}
