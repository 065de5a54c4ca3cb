//! ImportBranch: a stream of items fills a new branch.
//!
//! A separate thread checks and writes the items. Its queue is bounded, so a caller that
//! sends faster than layers are written has to wait.

use super::branches::on_its_own;
use super::{convert, status};
use crate::access::Bearer;
use crate::branch::lifecycle::adopt;
use crate::node::{Node, Phase};
use crate::project::InnodbParams;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use xylem_pages::{LoadError, Loaded, Loader, Store, StoreError, Tablespace};
use xylem_proto::control::{
    ImportEnd, ImportItem, ImportPage, ImportResponse, ImportStart, ImportTablespace,
    import_item::Item,
};
use xylem_redo::{SpaceFlags, page_lsn, verify};
use xylem_tokens::Right;
use xylem_types::{BranchId, BranchName, Lsn, PageId, PageNo, SpaceId};

/// The length of the writing thread's queue, in items.
const ITEMS_AHEAD: usize = 8;
/// `FSP_SIZE` and `FSP_SPACE_FLAGS` on a tablespace's first page.
const SIZE_AT: usize = 38 + 8;
const FLAGS_AT: usize = 38 + 16;

/// Runs one import. `on` becomes the name of the branch.
pub(super) async fn import(
    node: &Arc<Node>,
    bearer: &Bearer,
    on: &mut String,
    mut items: Streaming<ImportItem>,
) -> Result<ImportResponse, Status> {
    let opened = node
        .opened()
        .ok_or_else(|| Status::unavailable("the server is starting; retry"))?;
    bearer.manages()?;
    let start = match next(node, &mut items).await?.and_then(|item| item.item) {
        Some(Item::Start(start)) => start,
        _ => return Err(Status::invalid_argument("the first item is not a start")),
    };
    let name = BranchName::parse(&start.branch)
        .map_err(|error| Status::invalid_argument(format!("start.branch: {error}")))?;
    name.as_str().clone_into(on);
    bearer.may(Right::Admin, &name)?;
    let Ok(permit) = Arc::clone(&node.import_pool).try_acquire_owned() else {
        return Err(Status::resource_exhausted(
            "the server already runs the maximum number of imports; retry when one is done",
        ));
    };
    let innodb = InnodbParams {
        page_size: start.page_size,
        undo_tablespaces: start.undo_tablespaces,
        ..InnodbParams::default()
    };
    adopt::check(node, &name, &innodb).map_err(|e| status::of_manage(&e))?;
    let id = BranchId(
        node.config
            .random()
            .map_err(|e| Status::unavailable(e.to_string()))?,
    );
    tracing::info!(branch = %name, branch_id = %id, lsn = start.lsn, "an import begins");
    let (to, from) = mpsc::channel(ITEMS_AHEAD);
    let store = Arc::clone(&opened.store);
    let (named, lsn) = (name.clone(), Lsn(start.lsn));
    // A task of its own up to the branch: a caller that disconnects before the end item leaves
    // nothing behind, and one that disconnects after it does not interrupt the rest.
    let storing = on_its_own(node, |node, early| async move {
        let _permit = permit;
        let writing = tokio::task::spawn_blocking(move || fill(&store, id, &start, from));
        let loaded = match writing.await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(why)) => return Ok(Err(why)),
            Err(error) => {
                let why = Status::internal(format!("the import failed: {error}"));
                return Ok(Err(Some(why)));
            }
        };
        adopt::adopt(&node, &named, id, innodb, early).await?;
        tracing::info!(
            branch = %named, branch_id = %id, %lsn, tablespaces = loaded.tablespaces, pages = loaded.pages,
            layer_bytes = loaded.layer_bytes, "imported"
        );
        Ok(Ok(loaded))
    });
    let (stored, fed) = tokio::join!(storing, feed(node, &mut items, to));
    // An error of the writer takes precedence: after one, the caller often disconnects.
    let loaded = match (stored?, fed) {
        (Ok(loaded), _) => loaded,
        (Err(Some(status)), _) | (Err(None), Err(status)) => {
            tracing::warn!(branch = %name, branch_id = %id, error = status.message(), "an import failed");
            return Err(status);
        }
        (Err(None), Ok(())) => return Err(Status::invalid_argument("the import has no end item")),
    };
    Ok(ImportResponse {
        id: id.to_string(),
        lsn: lsn.0,
        layers: loaded.layers,
        layer_bytes: loaded.layer_bytes,
    })
}

/// Passes items on until the end item, or until the writer has ended.
async fn feed(
    node: &Node,
    items: &mut Streaming<ImportItem>,
    to: mpsc::Sender<Item>,
) -> Result<(), Status> {
    while let Some(item) = next(node, items).await? {
        if node.phase() == Phase::Stopping {
            return Err(status::stopping());
        }
        let item = item
            .item
            .ok_or_else(|| Status::invalid_argument("an item of an unknown kind"))?;
        let end = matches!(item, Item::End(_));
        if to.send(item).await.is_err() || end {
            break;
        }
    }
    Ok(())
}

/// The next item. Fails when none comes within `stall_timeout`.
async fn next(
    node: &Node,
    items: &mut Streaming<ImportItem>,
) -> Result<Option<ImportItem>, Status> {
    let patience = node.config.stall_timeout;
    match tokio::time::timeout(patience, items.message()).await {
        Ok(item) => item,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the import received no item for {} s",
            patience.as_secs_f64()
        ))),
    }
}

/// Writes items until the end item. `Err(None)`: the items stopped before that.
fn fill(
    store: &Arc<Store>,
    id: BranchId,
    start: &ImportStart,
    mut items: mpsc::Receiver<Item>,
) -> Result<Loaded, Option<Status>> {
    let lsn = Lsn(start.lsn);
    let mut filler = Filler {
        loader: Loader::begin(store, id, lsn).map_err(|e| of_load(&e))?,
        lsn,
        page_size: start.page_size,
        space: None,
    };
    let why = loop {
        match items.blocking_recv() {
            Some(Item::End(end)) => match compare(&end, &filler.loader.so_far()) {
                Ok(()) => return Ok(filler.loader.finish().map_err(|e| of_load(&e))?),
                Err(status) => break Some(status),
            },
            Some(item) => match filler.take(item) {
                Ok(()) => {}
                Err(status) => break Some(status),
            },
            None => break None,
        }
    };
    filler.loader.abandon();
    Err(why)
}

fn compare(end: &ImportEnd, loaded: &Loaded) -> Result<(), Status> {
    let sent = (end.tablespaces, end.pages, end.side_files);
    let came = (loaded.tablespaces, loaded.pages, loaded.side_files);
    if sent == came {
        return Ok(());
    }
    Err(Status::data_loss(format!(
        "tablespaces, pages and side files sent: {sent:?}, received: {came:?}"
    )))
}

struct Filler {
    loader: Loader,
    lsn: Lsn,
    page_size: u32,
    /// Id, flags and size of the tablespace whose pages are being received.
    space: Option<(u32, SpaceFlags, u32)>,
}

impl Filler {
    fn take(&mut self, item: Item) -> Result<(), Status> {
        match item {
            Item::Tablespace(space) => self.tablespace(space),
            Item::Pages(pages) => pages.pages.iter().try_for_each(|page| self.page(page)),
            Item::Directory(dir) => {
                let path = path(dir.path)?;
                self.loader
                    .directory(&path, dir.mode & 0o777)
                    .map_err(|e| of_load(&e))
            }
            Item::File(file) => {
                let path = path(file.path)?;
                self.loader
                    .file(&path, file.mode & 0o777, file.size)
                    .map_err(|e| of_load(&e))
            }
            Item::Data(data) => self.loader.data(&data).map_err(|e| of_load(&e)),
            Item::Start(_) | Item::End(_) => {
                Err(Status::invalid_argument("an item in the wrong place"))
            }
        }
    }

    fn tablespace(&mut self, space: ImportTablespace) -> Result<(), Status> {
        let path = path(space.path)?;
        let refuse = |why: String| {
            Err(Status::invalid_argument(format!(
                "tablespace {path}: {why}"
            )))
        };
        let flags = match SpaceFlags::new(space.flags) {
            Ok(flags) => flags,
            Err(error) => return refuse(error.to_string()),
        };
        if flags.logical_page_size() as u64 != u64::from(self.page_size) {
            return refuse(format!(
                "its page size is {}, that of the import {}",
                flags.logical_page_size(),
                self.page_size
            ));
        }
        self.space = Some((space.space_id, flags, space.pages));
        let space = Tablespace {
            space: SpaceId(space.space_id),
            path,
            flags: space.flags,
            pages: space.pages,
            page_bytes: flags.physical_page_size() as u32,
        };
        self.loader.tablespace(space).map_err(|e| of_load(&e))
    }

    fn page(&mut self, page: &ImportPage) -> Result<(), Status> {
        let no = page.page_no;
        let Some((space, flags, pages)) = self.space else {
            return Err(Status::invalid_argument(format!(
                "page {no} comes without a tablespace before it"
            )));
        };
        let id = PageId::new(space, no);
        let refuse = |why: String| Err(Status::invalid_argument(format!("page {id}: {why}")));
        if let Err(error) = verify(&page.data, id, flags) {
            return refuse(error.to_string());
        }
        if let Some(lsn) = page_lsn(&page.data).filter(|lsn| *lsn > self.lsn) {
            return refuse(format!(
                "its LSN is {lsn}, the import is as of LSN {}",
                self.lsn
            ));
        }
        let field = |at: usize| {
            let bytes = page.data.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_be_bytes)
        };
        if no == 0 && (field(SIZE_AT), field(FLAGS_AT)) != (Some(pages), Some(flags.raw())) {
            return refuse("its size or flags are not those of its tablespace".to_owned());
        }
        self.loader
            .page(PageNo(no), &page.data)
            .map_err(|e| of_load(&e))
    }
}

fn path(path: String) -> Result<String, Status> {
    convert::relative(path).map_err(Status::invalid_argument)
}

fn of_load(error: &LoadError) -> Status {
    let message = error.to_string();
    match error {
        LoadError::Refused(_) => Status::invalid_argument(message),
        LoadError::Store(StoreError::Io { source, .. }) => status::of_io(source, message),
        LoadError::Store(_) => Status::data_loss(message),
    }
}
