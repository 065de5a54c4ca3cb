//! BaseBackup and GetTablespace: what a compute's data directory needs.
//!
//! A tablespace is sent as its size and the pages that InnoDB reads past its
//! buffer pool; all others come by GetPage.

use super::call::Caller;
use super::{Answers, status};
use crate::branch::OpenBranch;
use crate::node::Node;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xylem_pages::{ReadAt, SideFile, Tablespace};
use xylem_proto::control::{self as wire, BaseItem, base_item::Item};
use xylem_types::{Lsn, PageId, SpaceId};

/// Items made ahead of the caller's taking them.
const ITEMS_AHEAD: usize = 16;
/// The page of the system tablespace that InnoDB's doublewrite start-up reads
/// past the buffer pool (`FSP_TRX_SYS_PAGE_NO`, `buf_dblwr_t`).
const TRX_SYS_PAGE: u32 = 5;

/// All items as of `at`, made on a thread of their own.
pub(super) fn base_backup(node: &Node, caller: Caller, at: ReadAt, all: bool) -> Answers<BaseItem> {
    let (sender, receiver) = mpsc::channel(ITEMS_AHEAD);
    let log_bytes = node.config.compute_log_size.0;
    let pool = Arc::clone(&node.page_pool);
    tokio::spawn(async move {
        let Ok(permit) = pool.acquire_owned().await else {
            return;
        };
        // Ends with the items, or when the caller goes away.
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if let Err(status) = send_all(&caller, at, all, log_bytes, &sender) {
                let _ = sender.blocking_send(Err(status));
            }
        });
    });
    Box::pin(ReceiverStream::new(receiver))
}

type Sender = mpsc::Sender<Result<BaseItem, Status>>;

fn send_all(
    caller: &Caller,
    at: ReadAt,
    all: bool,
    log_bytes: u64,
    to: &Sender,
) -> Result<(), Status> {
    let branch = &caller.branch;
    let ReadAt::Lsn(lsn) = at else {
        return Err(Status::internal("a base backup is of one LSN"));
    };
    if lsn <= Lsn::FIRST {
        return Ok(());
    }
    let send = |item| to.blocking_send(Ok(BaseItem { item: Some(item) })).is_ok();
    let mut taken = true;
    branch
        .pages
        .side_files(at, &mut |file| {
            taken = send(side_file(file));
            if taken {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
        .map_err(|error| status::of_read(&error, &branch.name()))?;
    if !taken {
        return Ok(());
    }
    let tablespaces = branch
        .pages
        .tablespaces(at)
        .map_err(|error| status::of_read(&error, &branch.name()))?;
    for space in tablespaces
        .into_iter()
        .filter(|space| all || is_first(space))
    {
        if !send(Item::Tablespace(tablespace(branch, space, at)?)) {
            return Ok(());
        }
    }
    // The log begins with the checkpoint that stands just before `lsn`.
    let start = Lsn(lsn.0.saturating_sub(xylem_redo::CHECKPOINT_MTR_LEN as u64));
    let data = xylem_redo::log_file(start, log_bytes);
    // Not after another compute has taken the branch over.
    caller.check_epoch()?;
    send(Item::Log(wire::LogFile {
        data: Bytes::from(data),
        size: log_bytes,
    }));
    Ok(())
}

/// How a tablespace is asked for.
pub(super) enum Which {
    /// By its file.
    Path(String),
    /// By its id.
    Id(SpaceId),
}

/// One tablespace.
pub(super) fn one(
    branch: &OpenBranch,
    which: &Which,
    at: ReadAt,
) -> Result<wire::Tablespace, Status> {
    let found = match which {
        Which::Path(path) => branch.pages.tablespace_by_path(path, at),
        Which::Id(id) => branch.pages.tablespace_by_id(*id, at),
    };
    match found.map_err(|error| status::of_read(&error, &branch.name()))? {
        Some(space) => tablespace(branch, space, at),
        None => Err(Status::not_found(match which {
            Which::Path(path) => format!("branch {}: there is no tablespace {path}", branch.name()),
            Which::Id(id) => format!("branch {}: there is no tablespace {id}", branch.name()),
        })),
    }
}

fn tablespace(
    branch: &OpenBranch,
    space: Tablespace,
    at: ReadAt,
) -> Result<wire::Tablespace, Status> {
    let numbers: &[u32] = if space.space == SpaceId(0) {
        &[0, TRX_SYS_PAGE]
    } else {
        &[0]
    };
    let mut pages = Vec::with_capacity(numbers.len());
    for &number in numbers.iter().filter(|&&number| number < space.pages) {
        let page = branch
            .pages
            .get_page(PageId::new(space.space.0, number), at)
            .map_err(|error| status::of_read(&error, &branch.name()))?;
        pages.push(wire::FilePage {
            offset: u64::from(number) * u64::from(space.page_bytes),
            data: Bytes::from_owner(page.bytes),
        });
    }
    Ok(wire::Tablespace {
        space_id: space.space.0,
        size: u64::from(space.pages) * u64::from(space.page_bytes),
        path: space.path,
        pages,
        flags: space.flags,
    })
}

/// Whether InnoDB opens it before anything asks for it: the system tablespace
/// and the undo tablespaces (`undo001`, …).
fn is_first(space: &Tablespace) -> bool {
    let undo = space.path.strip_prefix("undo");
    space.space == SpaceId(0)
        || undo.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn side_file(file: SideFile) -> Item {
    match file.data {
        None => Item::Directory(wire::Directory {
            path: file.path,
            mode: file.mode,
        }),
        Some(data) => Item::File(wire::SideFile {
            path: file.path,
            mode: file.mode,
            data: Bytes::from_owner(data),
        }),
    }
}
