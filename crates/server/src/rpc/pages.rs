//! Page reads: GetPage, GetPages, and the PageStream that computes use.

use super::call::Caller;
use super::{Answers, convert, stall, status};
use crate::metrics::{ReadResult, StreamKind};
use crate::node::Node;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};
use xylem_pages::{Page, Reach, ReadAt};
use xylem_proto::pageserver::{
    GetPageRequest, GetPagesRequest, GetPagesResponse, PageStreamRequest, PageStreamResponse,
};
use xylem_types::{Lsn, PageId};

/// Limit of pages in one GetPages.
const PAGES_MAX: usize = 256;
/// Limit of concurrent reads of one GetPages.
const PAGES_AT_ONCE: usize = 16;
/// Limit of concurrent requests of one PageStream. Further requests wait in the
/// connection's window, which slows a caller that asks too fast.
const STREAM_IN_FLIGHT: usize = 512;

/// Reads one page, and counts the read.
pub(super) async fn get_page(
    node: &Node,
    caller: &Caller,
    request: &GetPageRequest,
) -> Result<Page, Status> {
    let started = node.config.clock.instant();
    let outcome = match from_memory(caller, request) {
        Some(outcome) => outcome,
        None => read(node, caller, request).await,
    };
    counted(node, caller, started, outcome)
}

/// Reads one page and counts the read, if memory alone has the answer.
pub(super) fn get_page_now(
    node: &Node,
    caller: &Caller,
    request: &GetPageRequest,
) -> Option<Result<Page, Status>> {
    let started = node.config.clock.instant();
    let outcome = from_memory(caller, request)?;
    Some(counted(node, caller, started, outcome))
}

fn counted(
    node: &Node,
    caller: &Caller,
    started: std::time::Instant,
    outcome: Result<(Page, ReadResult), Status>,
) -> Result<Page, Status> {
    let (result, bytes) = match &outcome {
        Ok((page, result)) => (*result, page.bytes.len()),
        Err(status) => (failure(status), 0),
    };
    let label = caller.branch.label();
    label
        .metrics
        .read(result, bytes, node.config.clock.since(started));
    match outcome {
        Ok((page, _)) => Ok(page),
        // The branch's files were removed during the read.
        Err(_) if caller.branch.is_removed() => Err(status::removed(&label.name)),
        Err(status) => Err(status),
    }
}

/// Reads several pages; the answers are in the order of the requests.
pub(super) async fn get_pages(
    node: &Node,
    caller: &Caller,
    request: GetPagesRequest,
) -> Result<GetPagesResponse, Status> {
    let asked = request.pages.len();
    if asked > PAGES_MAX {
        return Err(Status::invalid_argument(format!(
            "pages: {asked} were requested, the limit is {PAGES_MAX}"
        )));
    }
    let pages = futures::stream::iter(request.pages)
        .map(|request| async move { get_page(node, caller, &request).await.map(convert::page) })
        .buffered(PAGES_AT_ONCE)
        .try_collect()
        .await?;
    Ok(GetPagesResponse { pages })
}

/// Answers requests as their pages become ready. All work runs where the answers are
/// polled: a cached page costs no task switch, and the server reads no requests from a
/// caller that does not take its answers.
pub(super) fn page_stream(
    node: Arc<Node>,
    caller: Caller,
    requests: Streaming<PageStreamRequest>,
) -> Answers<PageStreamResponse> {
    let ticket = node.stream(StreamKind::pages, &caller.branch);
    let branch = Arc::clone(&caller.branch);
    let answers = requests
        .map_ok(move |request| {
            let (node, caller) = (Arc::clone(&node), caller.clone());
            async move { Ok(answer(&node, &caller, request).await) }
        })
        .try_buffer_unordered(STREAM_IN_FLIGHT);
    stall::guarded(Box::pin(answers), ticket, branch)
}

async fn answer(node: &Node, caller: &Caller, request: PageStreamRequest) -> PageStreamResponse {
    let outcome = match &request.get {
        Some(get) => get_page(node, caller, get).await,
        None => Err(Status::invalid_argument("get: it is missing")),
    };
    match outcome {
        Ok(got) => PageStreamResponse {
            id: request.id,
            status: 0,
            message: String::new(),
            got: Some(convert::page(got)),
        },
        Err(status) => PageStreamResponse {
            id: request.id,
            status: status.code() as u32,
            message: status.message().to_owned(),
            got: None,
        },
    }
}

fn failure(status: &Status) -> ReadResult {
    match status.code() {
        Code::NotFound => ReadResult::not_found,
        Code::DeadlineExceeded => ReadResult::timeout,
        Code::FailedPrecondition | Code::OutOfRange | Code::InvalidArgument => ReadResult::refused,
        _ => ReadResult::failed,
    }
}

/// The page, if it needs neither a file nor a wait.
fn from_memory(
    caller: &Caller,
    request: &GetPageRequest,
) -> Option<Result<(Page, ReadResult), Status>> {
    if let Err(status) = caller.check_epoch() {
        return Some(Err(status));
    }
    if request.lsn != 0 || must_wait(caller, request) {
        return None;
    }
    let id = convert::page_id(request);
    let pages = &caller.branch.pages;
    let page = pages.get_page(id, ReadAt::Newest, Reach::Memory).ok()?;
    // A compute that was fenced meanwhile must not see the pages of its successor.
    Some(caller.check_epoch().map(|()| (page, ReadResult::cached)))
}

async fn read(
    node: &Node,
    caller: &Caller,
    request: &GetPageRequest,
) -> Result<(Page, ReadResult), Status> {
    if must_wait(caller, request) {
        wait_applied(node, caller, request).await?;
    }
    let id = convert::page_id(request);
    let at = match request.lsn {
        0 => ReadAt::Newest,
        lsn => ReadAt::Lsn(Lsn(lsn)),
    };
    let in_memory = match at {
        ReadAt::Newest => caller.branch.pages.get_page(id, at, Reach::Memory).ok(),
        ReadAt::Lsn(_) => None,
    };
    let page = match in_memory {
        Some(page) => page,
        None => read_blocking(node, caller, id, at).await?,
    };
    // A compute that was fenced while it waited must not see the pages of its successor.
    caller.check_epoch()?;
    Ok((page, ReadResult::read))
}

/// The LSN that the request needs.
fn wanted(request: &GetPageRequest) -> Lsn {
    Lsn(match request.lsn {
        0 => request.min_lsn,
        lsn => lsn,
    })
}

/// Whether the restart of the server could hide from the request what was acknowledged
/// before it. A caller that gives an LSN knows what it must see.
fn is_behind(caller: &Caller, request: &GetPageRequest) -> bool {
    request.lsn == 0 && request.min_lsn == 0 && !caller.branch.is_caught_up()
}

/// Whether the branch has not applied yet what the request needs.
fn must_wait(caller: &Caller, request: &GetPageRequest) -> bool {
    let pages = &caller.branch.pages;
    // The LSN may be after the last mini-transaction, as reported ends of a branch are.
    pages.newest() < wanted(request) || is_behind(caller, request) || !pages.is_readable()
}

/// Waits until the branch has applied what the request needs.
async fn wait_applied(
    node: &Node,
    caller: &Caller,
    request: &GetPageRequest,
) -> Result<(), Status> {
    let branch = &caller.branch;
    let patience = match request.timeout_ms {
        0 => node.config.page_wait_timeout,
        ms => Duration::from_millis(u64::from(ms)),
    };
    let until = Instant::now() + patience;
    let waited = async {
        if is_behind(caller, request) {
            branch.caught_up(until).await?;
        }
        branch.pages.wait_applied(wanted(request), until).await
    };
    waited
        .await
        .map_err(|error| status::of_read(&error, &branch.name()))
}

async fn read_blocking(
    node: &Node,
    caller: &Caller,
    id: PageId,
    at: ReadAt,
) -> Result<Page, Status> {
    let branch = Arc::clone(&caller.branch);
    blocking(node, move || {
        branch
            .pages
            .get_page(id, at, Reach::Files)
            .map_err(|error| status::of_read(&error, &branch.name()))
    })
    .await
}

/// Runs `work` on one of the threads that read pages.
pub(super) async fn blocking<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    pooled(&node.page_pool, work).await
}

/// Runs `work` on a thread that may block, once `pool` has a permit for it.
pub(super) async fn pooled<T: Send + 'static>(
    pool: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let run = |permit| {
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
    };
    let ended = match Arc::clone(pool).try_acquire_owned() {
        Ok(permit) => run(permit).await,
        Err(TryAcquireError::Closed) => return Err(status::stopping()),
        // A stream whose caller takes no answers is not polled, and a permit given to a
        // future that is not polled would be lost to all others. A task of its own
        // therefore waits for the permit.
        Err(TryAcquireError::NoPermits) => {
            let pool = Arc::clone(pool);
            let waiting = tokio::spawn(async move {
                match pool.acquire_owned().await {
                    Ok(permit) => run(permit).await,
                    Err(_) => Ok(Err(status::stopping())),
                }
            });
            AbortOnDropHandle::new(waiting).await.and_then(|done| done)
        }
    };
    ended.map_err(|error| Status::internal(format!("the read failed: {error}")))?
}
