//! BaseBackup and GetTablespace: what a compute's data directory needs.
//!
//! A tablespace is sent as its size and the pages that InnoDB reads past its buffer
//! pool. The compute reads all other pages by GetPage.

use super::call::Caller;
use super::pages::blocking;
use super::{Answers, status};
use crate::branch::binlog::{self, LogEnd};
use crate::branch::live::OpenBranch;
use crate::node::Node;
use bytes::Bytes;
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use tonic::Status;
use xylem_pages::{Reach, ReadAt, SideCursor, SidePiece, Tablespace, Wanted};
use xylem_proto::control::{self as wire, BaseItem, base_item::Item};
use xylem_types::{BinlogFile, Lsn, PageId, SpaceId};

/// Bytes of side files in one step, and in one item.
const SIDE_BYTES: usize = 1 << 20;
/// Tablespaces in one step.
const SPACES: usize = 64;
/// The page of the system tablespace that InnoDB's doublewrite start-up reads
/// past the buffer pool (`FSP_TRX_SYS_PAGE_NO`, `buf_dblwr_t`).
const TRX_SYS_PAGE: u32 = 5;

/// All items as of `at`, made in steps as the caller takes them. No resource is held
/// between two steps, so a caller that takes no items does not block other reads.
pub(super) fn base_backup(
    node: Arc<Node>,
    caller: Caller,
    at: ReadAt,
    all: bool,
) -> Answers<BaseItem> {
    let backup = Backup {
        node,
        caller,
        at,
        all,
        step: Step::Owner,
    };
    let steps = futures::stream::unfold(Some(backup), |backup| async {
        let mut backup = backup?;
        match backup.next().await {
            Ok(Some(items)) => Some((Ok(items), Some(backup))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    Box::pin(steps.flat_map(|items| {
        let items = match items {
            Ok(items) => items
                .into_iter()
                .map(|item| Ok(BaseItem { item: Some(item) }))
                .collect(),
            Err(status) => vec![Err(status)],
        };
        futures::stream::iter(items)
    }))
}

/// A base backup in progress.
struct Backup {
    node: Arc<Node>,
    caller: Caller,
    at: ReadAt,
    all: bool,
    step: Step,
}

/// The next step.
enum Step {
    /// Finds out whose binary log it is.
    Owner,
    Side(SideCursor, Log),
    /// Lists the tablespaces.
    List,
    Tablespaces(VecDeque<Tablespace>),
    Log,
    Done,
}

/// The binary log in a backup.
#[derive(Clone, Copy, Debug)]
enum Log {
    /// It belongs to the branch.
    Own,
    /// Another branch wrote it, from which this one was made: it is no part of this one's
    /// log, which is empty until it has a compute with a binary log. It ends here.
    Foreign(Option<LogEnd>),
}

impl Log {
    fn wanted(self, path: &str) -> Wanted {
        match (self, BinlogFile::at(path)) {
            // The compute fetches the content of what it reads.
            // A file of which nothing belongs to the branch comes all the same, as an empty one:
            // the plugin removes what is there.
            (Log::Foreign(Some(end)), Some(BinlogFile::Events(number))) => {
                Wanted::Head(end.size_of(number, u64::MAX).unwrap_or(0))
            }
            (_, Some(BinlogFile::Events(_))) => Wanted::Head(u64::MAX),
            // MariaDB creates it anew. The plugin reads and removes the other files.
            (Log::Foreign(_), Some(BinlogFile::Index | BinlogFile::PurgeIndex)) => Wanted::Nothing,
            (Log::Foreign(_), Some(BinlogFile::State)) | (Log::Own, _) | (_, None) => Wanted::Whole,
        }
    }
}

impl Backup {
    /// The items of the next step; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<Item>>, Status> {
        let ReadAt::Lsn(lsn) = self.at else {
            return Err(Status::internal("a base backup needs an LSN"));
        };
        if lsn <= Lsn::FIRST {
            return Ok(None);
        }
        let (branch, at, all) = (Arc::clone(&self.caller.branch), self.at, self.all);
        let read_failed = {
            let branch = Arc::clone(&branch);
            move |error| status::of_read(&error, &branch.name())
        };
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Owner => {
                let end = branch.meta.log_end;
                let own = blocking(&self.node, move || {
                    binlog::is_own(&branch, at).map_err(read_failed)
                });
                let log = match own.await? {
                    true => Log::Own,
                    false => Log::Foreign(end),
                };
                self.step = Step::Side(SideCursor::start(), log);
                Ok(Some(Vec::new()))
            }
            Step::Side(from, log) => {
                let part = blocking(&self.node, move || {
                    let wanted = |path: &str| log.wanted(path);
                    let part = branch.pages.side_part(at, from, SIDE_BYTES, &wanted);
                    part.map_err(read_failed)
                })
                .await?;
                self.step = part.next.map_or(Step::List, |next| Step::Side(next, log));
                Ok(Some(part.pieces.into_iter().map(side_piece).collect()))
            }
            Step::List => {
                let spaces = blocking(&self.node, move || {
                    branch.pages.tablespaces(at).map_err(read_failed)
                })
                .await?;
                let wanted = spaces.into_iter().filter(|space| all || is_first(space));
                self.step = Step::Tablespaces(wanted.collect());
                Ok(Some(Vec::new()))
            }
            Step::Tablespaces(mut spaces) => {
                let rest = spaces.split_off(spaces.len().min(SPACES));
                let items = blocking(&self.node, move || {
                    spaces
                        .into_iter()
                        .map(|space| Ok(Item::Tablespace(tablespace(&branch, space, at)?)))
                        .collect()
                })
                .await?;
                self.step = match rest.is_empty() {
                    true => Step::Log,
                    false => Step::Tablespaces(rest),
                };
                Ok(Some(items))
            }
            Step::Log => {
                // Another compute may have taken the branch over meanwhile.
                self.caller.check_epoch()?;
                Ok(Some(vec![wal(
                    lsn,
                    self.node.config.compute_redo_log_size.0,
                )]))
            }
            Step::Done => Ok(None),
        }
    }
}

/// The first bytes of the redo log of a compute that starts at `lsn`.
fn wal(lsn: Lsn, size: u64) -> Item {
    // The redo log begins with the checkpoint just before `lsn`.
    let start = Lsn(lsn.0.saturating_sub(xylem_redo::CHECKPOINT_MTR_LEN as u64));
    Item::RedoLog(wire::RedoLogFile {
        data: Bytes::from(xylem_redo::log_file(start, size)),
        size,
    })
}

/// The key of a tablespace in a request.
pub(super) enum Which {
    /// The path of the file.
    Path(String),
    /// The tablespace id.
    Id(SpaceId),
}

/// Reads one tablespace; without `pages`, only its metadata.
pub(super) fn one(
    branch: &OpenBranch,
    which: &Which,
    at: ReadAt,
    pages: bool,
) -> Result<wire::Tablespace, Status> {
    let found = match which {
        Which::Path(path) => branch.pages.tablespace_by_path(path, at),
        Which::Id(id) => branch.pages.tablespace_by_id(*id, at),
    };
    match found.map_err(|error| status::of_read(&error, &branch.name()))? {
        Some(space) if pages => tablespace(branch, space, at),
        Some(space) => Ok(with_pages(space, Vec::new())),
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
            .get_page(PageId::new(space.space.0, number), at, Reach::Files)
            .map_err(|error| status::of_read(&error, &branch.name()))?;
        pages.push(wire::FilePage {
            offset: u64::from(number) * u64::from(space.page_bytes),
            data: Bytes::from_owner(page.bytes),
        });
    }
    Ok(with_pages(space, pages))
}

fn with_pages(space: Tablespace, pages: Vec<wire::FilePage>) -> wire::Tablespace {
    wire::Tablespace {
        space_id: space.space.0,
        size: u64::from(space.pages) * u64::from(space.page_bytes),
        path: space.path,
        pages,
        flags: space.flags,
    }
}

/// Whether InnoDB opens the tablespace at start-up: the system tablespace and the undo
/// tablespaces (`undo001`, …).
fn is_first(space: &Tablespace) -> bool {
    let undo = space.path.strip_prefix("undo");
    space.space == SpaceId(0)
        || undo.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn side_piece(piece: SidePiece) -> Item {
    match piece.bytes {
        None => Item::Directory(wire::Directory {
            path: piece.path,
            mode: piece.mode,
        }),
        Some(bytes) => Item::File(wire::SideFile {
            path: piece.path,
            mode: piece.mode,
            data: Bytes::from(bytes.data),
            offset: bytes.offset,
            size: bytes.size,
        }),
    }
}
