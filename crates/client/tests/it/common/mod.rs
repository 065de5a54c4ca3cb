//! A scripted page server, and a proxy that can cut its connections.
#![allow(missing_docs)]
// This code replaces a server; any failure in it fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

pub mod replay;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use xylem_client::client::{Client, PageWanted};
use xylem_client::config::Config;
use xylem_client::pages::Target;
use xylem_proto::control as ctl;
use xylem_proto::control::control_server::{Control, ControlServer};
use xylem_proto::pageserver::page_server_server::{PageServer, PageServerServer};
use xylem_proto::pageserver::*;

pub const PAGE: usize = 16384;

/// The contents of a page in these tests, different for each page.
pub fn page(space: u32, no: u32, size: usize) -> Vec<u8> {
    let seed = space.wrapping_mul(31).wrapping_add(no) as usize;
    (0..size).map(|at| ((at / 7 + seed) % 251) as u8).collect()
}

#[derive(Default)]
pub struct Script {
    // Pages.
    pub page_size: usize,
    /// The size of the groups in which answers are sent, each in reverse order.
    pub reverse: usize,
    /// The statuses and messages of the next page answers.
    pub page_statuses: Vec<(u32, String)>,
    /// The number of requests after which the stream ends with an error.
    pub drop_pages_after: Option<usize>,
    pub silent: bool,
    pub page_requests: Vec<PageStreamRequest>,
    // Redo.
    pub frames: Vec<WalFrame>,
    pub first_seq: u64,
    pub first_lsn: u64,
    /// The numbers of received frames after which streams end; each stream takes
    /// one from the front.
    pub drop_wal_after: Vec<usize>,
    /// Whether those frames become durable without an acknowledgement.
    pub hold_acks: bool,
    pub wal_status: Option<Status>,
    /// The frame that is refused as damaged, and the number of refusals.
    pub damaged: (u64, usize),
    pub streams: usize,
    pub resent: usize,
    pub problems: Vec<String>,
    // All calls.
    pub status: Option<Status>,
    pub epoch: u64,
    pub tablespaces: HashMap<u32, ctl::Tablespace>,
    /// The errors of the next requests for a tablespace.
    pub tablespace_statuses: Vec<Status>,
    pub tablespace_requests: Vec<ctl::GetTablespaceRequest>,
    pub metadata: Vec<(String, String)>,
}

impl Script {
    pub fn durable_seq(&self) -> u64 {
        self.first_seq + self.frames.len() as u64
    }

    pub fn durable_lsn(&self) -> u64 {
        self.frames
            .iter()
            .fold(self.first_lsn, |lsn, frame| lsn + redo_len(frame))
    }

    pub fn ack(&self) -> WalAck {
        let lsn = self.durable_lsn();
        WalAck {
            durable_seq: self.durable_seq(),
            durable_lsn: lsn,
            applied_lsn: lsn,
        }
    }

    pub fn redo(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in &self.frames {
            if let Some(wal_frame::Body::Redo(bytes)) = &frame.body {
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// Whether to refuse the frame as damaged.
    fn refuses(&mut self, frame: &WalFrame) -> bool {
        let (seq, times) = &mut self.damaged;
        let refused = frame.seq == *seq && *times > 0;
        if refused {
            *times -= 1;
        }
        refused
    }

    fn accept(&mut self, frame: WalFrame) {
        let last = self.durable_seq();
        if let Some(wal_frame::Body::Redo(bytes)) = &frame.body
            && frame.payload_crc32c != Some(crc32c::crc32c(bytes))
        {
            self.problems
                .push(format!("frame {} has a wrong checksum", frame.seq));
        }
        if frame.seq <= last {
            let at = (frame.seq - self.first_seq - 1) as usize;
            self.resent += 1;
            if self.frames.get(at) != Some(&frame) {
                self.problems
                    .push(format!("frame {} changed between sendings", frame.seq));
            }
        } else if frame.seq != last + 1 {
            self.problems
                .push(format!("frame {} after {last}", frame.seq));
        } else if frame.start_lsn != self.durable_lsn() {
            self.problems.push(format!(
                "frame {} starts at {} instead of {}",
                frame.seq,
                frame.start_lsn,
                self.durable_lsn()
            ));
        } else {
            self.frames.push(frame);
        }
    }
}

fn redo_len(frame: &WalFrame) -> u64 {
    match &frame.body {
        Some(wal_frame::Body::Redo(bytes)) => bytes.len() as u64,
        _ => 0,
    }
}

#[derive(Clone)]
pub struct Fake {
    pub script: Arc<Mutex<Script>>,
}

impl Fake {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let mut script = self.script.lock().unwrap();
        for key in ["xylem-branch", "xylem-epoch", "xylem-token"] {
            if let Some(value) = request.metadata().get(key) {
                let value = value.to_str().unwrap().to_owned();
                script.metadata.push((key.to_owned(), value));
            }
        }
        script.status.clone().map_or(Ok(()), Err)
    }

    fn answer(script: &mut Script, request: &PageStreamRequest) -> PageStreamResponse {
        let get = request.get.unwrap_or_default();
        if !script.page_statuses.is_empty() {
            let (status, message) = script.page_statuses.remove(0);
            if status != 0 {
                return PageStreamResponse {
                    id: request.id,
                    status,
                    message,
                    got: None,
                };
            }
        }
        PageStreamResponse {
            id: request.id,
            got: Some(GetPageResponse {
                page: page(get.space_id, get.page_no, script.page_size).into(),
                lsn: get.min_lsn,
            }),
            ..Default::default()
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl PageServer for Fake {
    async fn get_page(
        &self,
        _: Request<GetPageRequest>,
    ) -> Result<Response<GetPageResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_pages(
        &self,
        _: Request<GetPagesRequest>,
    ) -> Result<Response<GetPagesResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    type PageStreamStream = Answers<PageStreamResponse>;

    async fn page_stream(
        &self,
        request: Request<Streaming<PageStreamRequest>>,
    ) -> Result<Response<Self::PageStreamStream>, Status> {
        self.check(&request)?;
        let mut requests = request.into_inner();
        let script = self.script.clone();
        let (send, receive) = tokio::sync::mpsc::channel(4096);
        tokio::spawn(async move {
            let mut seen = 0;
            let mut group: Vec<PageStreamResponse> = Vec::new();
            loop {
                let next = tokio::time::timeout(Duration::from_millis(20), requests.next());
                let request = match next.await {
                    Ok(Some(Ok(request))) => request,
                    Ok(_) => return,
                    Err(_) => {
                        // No more requests for now, so an incomplete group is sent.
                        for answer in group.drain(..) {
                            let _ = send.send(Ok(answer)).await;
                        }
                        continue;
                    }
                };
                seen += 1;
                let mut ready = Vec::new();
                let drop_now = {
                    let mut script = script.lock().unwrap();
                    script.page_requests.push(request);
                    let drop_now = script.drop_pages_after.is_some_and(|n| seen > n);
                    if drop_now {
                        script.drop_pages_after = None;
                    }
                    if script.silent {
                        continue;
                    }
                    group.push(Fake::answer(&mut script, &request));
                    if group.len() >= script.reverse.max(1) {
                        ready.append(&mut group);
                    }
                    drop_now
                };
                if drop_now {
                    let _ = send.send(Err(Status::unavailable("stopping"))).await;
                    return;
                }
                for answer in ready.into_iter().rev() {
                    if send.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type StreamWALStream = Answers<WalAck>;

    async fn stream_wal(
        &self,
        request: Request<Streaming<WalFrame>>,
    ) -> Result<Response<Self::StreamWALStream>, Status> {
        self.check(&request)?;
        let mut frames = request.into_inner();
        let script = self.script.clone();
        let (send, receive) = tokio::sync::mpsc::channel(4096);
        let (first, limit) = {
            let mut script = script.lock().unwrap();
            if let Some(status) = script.wal_status.clone() {
                return Err(status);
            }
            script.streams += 1;
            let limit =
                (!script.drop_wal_after.is_empty()).then(|| script.drop_wal_after.remove(0));
            (script.ack(), limit)
        };
        let _ = send.send(Ok(first)).await;
        tokio::spawn(async move {
            loop {
                let next = tokio::time::timeout(Duration::from_millis(20), frames.next()).await;
                let mut refused = false;
                let ack = {
                    let mut script = script.lock().unwrap();
                    match next {
                        Ok(Some(Ok(frame))) => {
                            refused = script.refuses(&frame);
                            if !refused {
                                script.accept(frame);
                            }
                        }
                        Ok(_) => return,
                        Err(_) => {}
                    }
                    (!script.hold_acks).then(|| script.ack())
                };
                if refused {
                    let _ = send.send(Err(Status::data_loss("frame was damaged"))).await;
                    return;
                }
                let status = script.lock().unwrap().wal_status.clone();
                if let Some(status) = status {
                    let _ = send.send(Err(status)).await;
                    return;
                }
                if let Some(limit) = limit {
                    let total = {
                        let script = script.lock().unwrap();
                        script.frames.len() + script.resent
                    };
                    if total >= limit {
                        // The frame is durable, but the acknowledgement is lost.
                        return;
                    }
                }
                if let Some(ack) = ack
                    && send.send(Ok(ack)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.check(&request)?;
        let script = self.script.lock().unwrap();
        let lsn = script.durable_lsn();
        Ok(Response::new(PingResponse {
            version: "fake".to_owned(),
            durable_lsn: lsn,
            applied_lsn: lsn,
            epoch: script.epoch,
        }))
    }
}

#[tonic::async_trait]
impl Control for Fake {
    async fn list_branches(
        &self,
        _: Request<ctl::ListBranchesRequest>,
    ) -> Result<Response<ctl::ListBranchesResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn attach(
        &self,
        _: Request<ctl::AttachRequest>,
    ) -> Result<Response<ctl::AttachResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    type BaseBackupStream = Answers<ctl::BaseItem>;

    async fn base_backup(
        &self,
        _: Request<ctl::BaseBackupRequest>,
    ) -> Result<Response<Self::BaseBackupStream>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_tablespace(
        &self,
        request: Request<ctl::GetTablespaceRequest>,
    ) -> Result<Response<ctl::Tablespace>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        script.tablespace_requests.push(request.clone());
        if !script.tablespace_statuses.is_empty() {
            return Err(script.tablespace_statuses.remove(0));
        }
        let id = request.space_id;
        match script.tablespaces.get(&id) {
            Some(space) => Ok(Response::new(space.clone())),
            None => Err(Status::not_found(format!("no tablespace {id}"))),
        }
    }

    async fn status(
        &self,
        _: Request<ctl::StatusRequest>,
    ) -> Result<Response<ctl::StatusResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn reopen_branch(
        &self,
        _: Request<ctl::ReopenBranchRequest>,
    ) -> Result<Response<ctl::Branch>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn create_branch(
        &self,
        _: Request<ctl::CreateBranchRequest>,
    ) -> Result<Response<ctl::Branch>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn remove_branch(
        &self,
        _: Request<ctl::RemoveBranchRequest>,
    ) -> Result<Response<ctl::RemoveBranchResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn rename_branch(
        &self,
        _: Request<ctl::RenameBranchRequest>,
    ) -> Result<Response<ctl::Branch>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn restore_branch(
        &self,
        _: Request<ctl::RestoreBranchRequest>,
    ) -> Result<Response<ctl::RestoreBranchResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn create_lease(
        &self,
        _: Request<ctl::CreateLeaseRequest>,
    ) -> Result<Response<ctl::Branch>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn resolve_time(
        &self,
        _: Request<ctl::ResolveTimeRequest>,
    ) -> Result<Response<ctl::ResolveTimeResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn import_branch(
        &self,
        _: Request<tonic::Streaming<ctl::ImportItem>>,
    ) -> Result<Response<ctl::ImportResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }
}

/// The fake server and the proxy in front of it.
pub struct Server {
    _runtime: tokio::runtime::Runtime,
    pub script: Arc<Mutex<Script>>,
    pub addr: SocketAddr,
    cut: tokio::sync::watch::Sender<u64>,
    open: Arc<std::sync::atomic::AtomicBool>,
}

pub const START: u64 = 12288;

impl Server {
    pub fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let script = Arc::new(Mutex::new(Script {
            page_size: PAGE,
            first_lsn: START,
            epoch: 1,
            ..Default::default()
        }));
        let fake = Fake {
            script: script.clone(),
        };
        let (cut, _) = tokio::sync::watch::channel(0);
        let open = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let addr = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let back = listener.local_addr().unwrap();
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(
                        PageServerServer::new(fake.clone()).max_decoding_message_size(16 << 20),
                    )
                    .add_service(ControlServer::new(fake))
                    .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
            );
            let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = front.local_addr().unwrap();
            let (cut, open) = (cut.clone(), open.clone());
            tokio::spawn(async move {
                while let Ok((mut client, _)) = front.accept().await {
                    if !open.load(std::sync::atomic::Ordering::SeqCst) {
                        continue;
                    }
                    let mut cut = cut.subscribe();
                    tokio::spawn(async move {
                        let _ = client.set_nodelay(true);
                        let Ok(mut server) = TcpStream::connect(back).await else {
                            return;
                        };
                        let _ = server.set_nodelay(true);
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = cut.changed() => {}
                        }
                    });
                }
            });
            addr
        });
        Server {
            _runtime: runtime,
            script,
            addr,
            cut,
            open,
        }
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new("127.0.0.1", self.addr.port());
        config.epoch = 1;
        config.start_lsn = START;
        config
    }

    pub fn client(&self) -> Client {
        Client::start(self.config()).unwrap()
    }

    pub fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// Sets whether the proxy accepts new connections.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, std::sync::atomic::Ordering::SeqCst);
    }
}

/// A request for a page into `buf`, which must outlive the call.
pub fn wanted(space_id: u32, page_no: u32, buf: &mut [u8]) -> PageWanted {
    // SAFETY: every test waits for the page before it frees the buffer.
    let target = unsafe { Target::new(buf.as_mut_ptr(), buf.len()) };
    PageWanted {
        space_id,
        page_no,
        min_lsn: START + 77,
        target,
    }
}

/// Waits until `condition` holds, for five seconds at most.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < until, "not within five seconds: {what}");
        std::thread::yield_now();
    }
}

/// The shared library that cargo built beside this test.
pub fn library() -> std::path::PathBuf {
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    deps.join("libxylem_client.so")
}
