//! The gRPC services and the compute protocol: they convert requests and answers, and
//! keep no state.

mod backup;
mod branches;
mod call;
pub(crate) mod compute;
mod control;
mod convert;
mod feed;
mod import;
mod inspect;
mod pages;
mod permission;
mod stall;
mod status;
#[cfg(test)]
mod tests;
mod wal;

use crate::node::Node;
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use xylem_proto::pageserver::page_server_server::PageServer;
use xylem_proto::pageserver::{
    GetPageRequest, GetPageResponse, GetPagesRequest, GetPagesResponse, PageStreamRequest,
    PageStreamResponse, PingRequest, PingResponse, WalAck, WalFrame,
};

pub(crate) use call::Authenticate;
pub(crate) use control::ControlService;
pub(crate) use inspect::InspectService;

/// The largest message in either direction. It has room for a frame of redo, and for the
/// maximum number of pages of the largest size in one answer.
pub(crate) const MESSAGE_BYTES_MAX: usize = 20 << 20;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Service `pageserver.PageServer`.
pub(crate) struct PageService {
    node: Arc<Node>,
}

impl PageService {
    pub(crate) fn new(node: Arc<Node>) -> PageService {
        PageService { node }
    }
}

#[tonic::async_trait]
impl PageServer for PageService {
    async fn get_page(
        &self,
        request: Request<GetPageRequest>,
    ) -> Result<Response<GetPageResponse>, Status> {
        let caller = call::caller(&self.node, &request)?;
        pages::get_page(&self.node, &caller, request.get_ref())
            .await
            .map(|page| Response::new(convert::page(page)))
    }

    async fn get_pages(
        &self,
        request: Request<GetPagesRequest>,
    ) -> Result<Response<GetPagesResponse>, Status> {
        let caller = call::caller(&self.node, &request)?;
        pages::get_pages(&self.node, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    type PageStreamStream = Answers<PageStreamResponse>;

    async fn page_stream(
        &self,
        request: Request<Streaming<PageStreamRequest>>,
    ) -> Result<Response<Self::PageStreamStream>, Status> {
        let caller = call::caller(&self.node, &request)?;
        caller.check_epoch()?;
        Ok(Response::new(pages::page_stream(
            Arc::clone(&self.node),
            caller,
            request.into_inner(),
        )))
    }

    type StreamWALStream = Answers<WalAck>;

    async fn stream_wal(
        &self,
        request: Request<Streaming<WalFrame>>,
    ) -> Result<Response<Self::StreamWALStream>, Status> {
        let caller = call::caller(&self.node, &request)?;
        wal::stream_wal(&self.node, caller, request.into_inner()).map(Response::new)
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let caller = call::caller(&self.node, &request)?;
        let durable = caller.branch.durable();
        Ok(Response::new(PingResponse {
            version: crate::VERSION.to_owned(),
            durable_lsn: caller.branch.last_lsn().0,
            applied_lsn: caller.branch.pages.applied().0,
            epoch: durable.epoch().0,
        }))
    }
}
